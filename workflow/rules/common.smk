# The plan: settings, batches of runs and exhibits, read once from the config. The rules only look things up in it.
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from optrepro import catalogue, layout, provenance, runtable, warm
from optrepro.config import ConfigError, load
from optrepro.problems.data import archives
from optrepro.seeds import fingerprint
from optrepro.studies.base import data_of


def _overrides(path):
    """The settings that `--config` adds to the scale file, as overrides (`--config set="studies.vlse.starts=8"`)."""
    given = yaml.safe_load(Path(path).read_text())
    chosen = config.get("set", [])
    dotted = chosen.split() if isinstance(chosen, str) else list(chosen)
    others = [f"{k}={json.dumps(v)}" for k, v in config.items() if k != "set" and given.get(k) != v]
    return [*others, *dotted]


def _plan():
    path = workflow.configfiles[0] if workflow.configfiles else "config/laptop.yaml"
    overrides = _overrides(path)
    try:
        settings = load(path, overrides)
        entries = catalogue.load(Path("config"))
        batches = {s: {b.name: b for b in runtable.batches(settings, s)} for s in settings.studies}
    except (ConfigError, FileNotFoundError) as error:
        raise WorkflowError(str(error)) from None
    # Jobs read these variables. As an input or a parameter of the rules, any change of the config would rerun all jobs.
    os.environ["OPTREPRO_CONFIG"] = str(path)
    os.environ["OPTREPRO_OVERRIDES"] = json.dumps(overrides)
    return settings, entries, batches


SETTINGS, CATALOGUE, BATCHES = _plan()
SCALE = SETTINGS.scale
validate(
    json.loads(SETTINGS.model_dump_json(by_alias=True)),
    "../schemas/config.schema.json",
    set_default=False,
)


# Every step allocates and frees tensors of many megabytes. By default the C library returns such memory to the system
# each time, and zeroing new pages then takes longer than the arithmetic (measured: at least 5 times as long).
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))


envvars:
    "OPTREPRO_CONFIG",
    "OPTREPRO_OVERRIDES",


# Snakemake's own lock outlives a process that is killed, so the profiles turn it off; the system frees this one.
LOCK = FileLock(Path(".snakemake", "optrepro.lock"), timeout=0)


# The check runs before the first job. As a rule that all others depend on, its reruns would rerun the others.
onstart:
    try:
        LOCK.acquire()
    except Timeout:
        raise WorkflowError("Another workflow is running in this folder; wait for it or stop it first.") from None
    # Jobs on other machines and in other environments start by themselves.
    if warm.POSSIBLE and not CLUSTER and not workflow.deployment_settings.deployment_method:
        with suppress(OSError):
            warm.start(Path(".snakemake", "optrepro.sock"), MODULES)
    # The default limit of jobs per second, which no single machine reaches, sets a timer after each job that looks at all
    # jobs again every second until the end: after a hundred jobs that is an eighth of a core.
    if not CLUSTER:
        with suppress(AttributeError):  # a version that has no such scheduler needs no help
            workflow.scheduler.job_rate_limiter = None
    shell(f"optrepro check --out results/{SCALE}/config.json")


# What the commands of the jobs import, by command.
MODULES = {
    "work": ["optrepro.experiments.run", "torch._dynamo", *{study.runner for study in SETTINGS.studies.values()}],
    "table": [
        "optrepro.experiments.base.tidy",
        *{entry.function.rpartition(".")[0] for entry in CATALOGUE.tables.values()},
    ],
    "exhibit": ["optrepro.exhibits.render", *{entry.module for entry in CATALOGUE.exhibits.values()}],
}


# Where jobs run on other machines, each batch is a job. Only there Snakemake keeps `--jobs` apart from `--cores`.
CLUSTER = workflow.resource_settings.nodes is not None


onsuccess:
    built = [page for scale in (SCALE, layout.PUBLISHED) if (page := layout.site(scale) / "index.html").exists()]
    print(
        f"Done. Open {built[0]} in a browser: it shows everything." if built else "Done.",
        "What one may want next:",
        f"  optrepro status --config {os.environ['OPTREPRO_CONFIG']}    what each study took",
        f"  optrepro verify {SCALE}    whether results and figures are as they were written",
        "  snakemake gap-sgdm --cores all --config set=studies.gap-sgdm.steps=800    one exhibit with another setting",
        sep="\n",
        file=sys.stderr,
    )


LEARNING = [name for name, study in SETTINGS.studies.items() if study.trained_rows()]
# Studies, each with one whose trained weights it uses, which may be itself.
USED = [(name, batch.weights[0]) for name, own in BATCHES.items() for batch in own.values() if batch.weights]
AWAITED = {trained for user, trained in USED if user != trained}


wildcard_constraints:
    scale=f"{SCALE}|{layout.PUBLISHED}",
    study="|".join(SETTINGS.studies),
    exhibit="|".join(CATALOGUE.exhibits),


def exhibits(names, scale=SCALE):
    """Paths of the exhibits' figures."""
    return [f"{layout.exhibit(scale, name)}.svg" for name in names]


def batch_of(wildcards):
    return BATCHES[wildcards.study][wildcards.batch]


def _settings(batch):
    return [batch.settings, [run.id for run in batch.runs]]


def settings_of_batch(wildcards):
    """A hash of everything in the config that determines a batch of runs; other changes do not rerun it."""
    return fingerprint(_settings(batch_of(wildcards)))


def together(studies):
    """The studies in groups that the same tables read; one that trains weights, or measures times, is a group alone."""
    groups = {}
    for name in studies:
        readers = frozenset(table for table, entry in CATALOGUE.tables.items() if name in entry.studies)
        alone = name in LEARNING or SETTINGS.studies[name].timed or not readers
        groups.setdefault(name if alone else readers, []).append(name)
    return list(groups.values())


def settings_of_studies(studies):
    """A hash of everything in the config that determines the results and facts of some studies."""
    dumped = [SETTINGS.studies[name].model_dump(mode="json", by_alias=True) for name in studies]
    return fingerprint([dumped, [_settings(batch) for name in studies for batch in BATCHES[name].values()]])


def source_of_batch(wildcards):
    return provenance.source_hash(*runtable.source_modules(SETTINGS, batch_of(wildcards)))


def source_of_studies(studies):
    batches = [batch for name in studies for batch in BATCHES[name].values()]
    modules = {module for batch in batches for module in runtable.source_modules(SETTINGS, batch)}
    return provenance.source_hash("optrepro.experiments.collect", *modules)


def study_of(wildcards):
    return SETTINGS.studies[wildcards.study]


def trained_elsewhere(studies):
    """The results of the other studies whose trained weights some studies use."""
    used = {trained for user, trained in USED if user in studies}
    return [layout.tidy(SCALE, study) for study in sorted(used.difference(studies))]


def batches_of(studies):
    return [layout.metrics(SCALE, name, batch) for name in studies for batch in BATCHES[name]]


def needed(wildcards):
    """Metrics of the batches whose results or weights a batch reads."""
    batch = batch_of(wildcards)
    addresses = [(wildcards.study, name) for name in batch.needs] + ([batch.weights] if batch.weights else [])
    return [layout.metrics(SCALE, *address) for address in addresses]


def data_listing(studies):
    """Lists of files with checksums, one for each data set that some studies read and that is not embedded."""
    names = dict.fromkeys(data for study in studies for data in data_of(SETTINGS.studies[study], SETTINGS))
    return [f"results/data/{name}.sha256" for name in names if not archives.archive(name).embedded]


def asks_for_gpu(studies):
    return int(any(SETTINGS.studies[study].wants_gpu for study in studies))


def threads_of_studies(studies):
    """One thread for each batch, or all if a study measures times, so that no other job runs meanwhile."""
    cores = workflow.cores or 1
    timed = any(SETTINGS.studies[study].timed for study in studies)
    return cores if timed else min(cores, sum(len(BATCHES[study]) for study in studies))


def priority_of_studies(studies):
    """Studies of a single batch come first, so that the first figures do; then trainings that others wait for."""
    awaited = not AWAITED.isdisjoint(studies)
    timed = any(SETTINGS.studies[study].timed for study in studies)
    single = sum(len(BATCHES[study]) for study in studies) == 1 and not timed and not awaited
    return 2 if single else int(awaited)


def threads_of_batch(wildcards):
    """One thread, 4 beside a GPU, or all if the study measures times, so that no other job runs meanwhile."""
    study = study_of(wildcards)
    return workflow.cores if study.timed else 4 if study.wants_gpu else 1


def memory_of(wildcards):
    """Megabytes of main memory: about three times the most that a batch of the published results took (2,103 MiB).

    Beside a GPU it is more, because CUDA alone takes some gigabytes; that number is not measured.
    """
    return 16000 if study_of(wildcards).wants_gpu else 6000


def slurm_options_of(wildcards):
    """On a cluster, a study that measures times has its node to itself."""
    return "--exclusive" if study_of(wildcards).timed else ""


def tables_of(scale):
    return lambda wildcards: [layout.table(scale, t) for t in CATALOGUE.exhibits[wildcards.exhibit].tables]


def facts_of(scale):
    return lambda wildcards: [
        layout.tidy(scale, study).with_suffix(".json") for study in CATALOGUE.studies_of(wildcards.exhibit)
    ]


def further_results(studies):
    """The results of studies that the scale has, or that have been published."""

    def there(scale, study):
        return study in SETTINGS.studies if scale == SCALE else layout.tidy(scale, study).exists()

    def results(wildcards):
        return [layout.tidy(wildcards.scale, study) for study in studies if there(wildcards.scale, study)]

    return results


def curves_of(scale):
    """The tables whose curves readers of the site pick from."""
    shown = CATALOGUE.published() if scale == layout.PUBLISHED else CATALOGUE.exhibits
    entries = [CATALOGUE.exhibits[name].curves for name in shown]
    return list(dict.fromkeys(layout.table(scale, entry.table) for entry in entries if entry is not None))


def published_sidecars():
    """The hashes of the published figures' sidecars, by exhibit."""
    paths = {name: Path(f"{layout.exhibit(layout.PUBLISHED, name)}.json") for name in CATALOGUE.published()}
    return {name: provenance.file_hash(path) for name, path in paths.items() if path.exists()}


def exhibit_source(wildcards):
    entry = CATALOGUE.exhibits[wildcards.exhibit]
    return [
        provenance.source_hash(entry.module, "optrepro.exhibits.render"),
        entry.title,
        entry.caption,
    ]
