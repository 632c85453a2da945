# The plan: settings, batches of runs and exhibits, read once from the config. The rules only look things up in it.
import json
import os
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import validate

from optrepro import catalogue, layout, provenance, runtable
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


# The check runs before the first job. As a rule that all others depend on, its reruns would rerun the others.
onstart:
    shell(f"optrepro check --out results/{SCALE}/config.json")


LEARNING = [name for name, study in SETTINGS.studies.items() if study.trained_rows()]
NEVER = "(?!)"  # a pattern that matches nothing, for wildcards without values


wildcard_constraints:
    scale=f"{SCALE}|{layout.PUBLISHED}",
    study="|".join(SETTINGS.studies),
    table="|".join(CATALOGUE.tables),
    exhibit="|".join(CATALOGUE.exhibits),


def exhibits(names, scale=SCALE):
    """Paths of the exhibits' figures."""
    return [f"{layout.exhibit(scale, name)}.svg" for name in names]


def batch_of(wildcards):
    return BATCHES[wildcards.study][wildcards.batch]


def settings_of(wildcards):
    """A hash of everything in the config that determines a batch of runs; other changes do not rerun it."""
    batch = batch_of(wildcards)
    return fingerprint([batch.settings, [run.id for run in batch.runs]])


def source_of(wildcards):
    return provenance.source_hash(*runtable.source_modules(SETTINGS, batch_of(wildcards)))


def study_of(wildcards):
    return SETTINGS.studies[wildcards.study]


def needs(wildcards):
    """Metrics of the batches whose results a batch reads."""
    return [layout.metrics(SCALE, wildcards.study, name) for name in batch_of(wildcards).needs]


def weights(wildcards):
    """The trained weights that a batch uses."""
    batch = batch_of(wildcards)
    return [layout.weights(SCALE, *batch.weights)] if batch.weights else []


def data_listing(wildcards):
    """Lists of files with checksums, one for each data set that a study reads and that is not embedded."""
    names = data_of(study_of(wildcards), SETTINGS)
    return [f"results/data/{name}.sha256" for name in names if not archives.archive(name).embedded]


def asks_for_gpu(wildcards):
    return int(study_of(wildcards).wants_gpu)


def threads_of(wildcards):
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


def exhibit_source(wildcards):
    entry = CATALOGUE.exhibits[wildcards.exhibit]
    return [
        provenance.source_hash(entry.module, "optrepro.exhibits.render"),
        entry.title,
        entry.caption,
    ]
