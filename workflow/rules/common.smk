# The plan, made once from config: settings, batches of runs, exhibits. Rules look things up here and decide nothing.
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
    """What `--config` says beyond the scale file, as overrides by dotted path (`--config set="studies.vlse.starts=8"`)."""
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
    # Jobs inherit these. As an input or a parameter of the rules, any change of the config would rerun everything.
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


# Tensors of many megabytes are made and dropped at every step. By default the C library gives such memory back to the
# system each time, and zeroing new pages then takes longer than the arithmetic (measured: 5 times and more).
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**32))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))


envvars:
    "OPTREPRO_CONFIG",
    "OPTREPRO_OVERRIDES",


# Before the first job: a rule could not come before the others and leave them alone when only it has to run again.
onstart:
    shell(f"optrepro check --out results/{SCALE}/config.json")


LEARNING = [name for name, study in SETTINGS.studies.items() if study.trained_rows()]
NEVER = "(?!)"  # what a wildcard may be where there is nothing for it


wildcard_constraints:
    scale=f"{SCALE}|{layout.PUBLISHED}",
    study="|".join(SETTINGS.studies),
    table="|".join(CATALOGUE.tables),
    exhibit="|".join(CATALOGUE.exhibits),


def exhibits(names, scale=SCALE):
    """The figures of exhibits."""
    return [f"{layout.exhibit(scale, name)}.svg" for name in names]


def batch_of(wildcards):
    return BATCHES[wildcards.study][wildcards.batch]


def settings_of(wildcards):
    """What determines a batch of runs: a change of anything else in the config leaves it alone."""
    batch = batch_of(wildcards)
    return fingerprint([batch.settings, [run.id for run in batch.runs]])


def source_of(wildcards):
    return provenance.source_hash(*runtable.source_modules(SETTINGS, batch_of(wildcards)))


def study_of(wildcards):
    return SETTINGS.studies[wildcards.study]


def needs(wildcards):
    """Metrics of the batches that a batch reads."""
    return [layout.metrics(SCALE, wildcards.study, name) for name in batch_of(wildcards).needs]


def weights(wildcards):
    """The trained weights that a batch uses."""
    batch = batch_of(wildcards)
    return [layout.policy(SCALE, *batch.weights)] if batch.weights else []


def data_listing(wildcards):
    """The lists of files and checksums of the data sets that a study reads and that are not embedded."""
    names = data_of(study_of(wildcards), SETTINGS)
    return [f"results/data/{name}.sha256" for name in names if not archives.archive(name).embedded]


def asks_for_gpu(wildcards):
    return int(study_of(wildcards).wants_gpu)


def threads_of(wildcards):
    """One; but all where times are measured, so that nothing else runs meanwhile."""
    return workflow.cores or 1 if study_of(wildcards).timed else 1


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
