"""The run table: a config is expanded into one row per run, and the rows are grouped into jobs.

The id of a run is a hash of everything that determines it. Paths therefore contain no floats, and a run whose settings
do not change keeps its id. Seeds are hashes of (workload, repetition, role): optimizers share initial weights and data
order, and tuning never uses a test seed. The kind of a study, in `optrepro.studies`, decides which runs it has.
"""

from __future__ import annotations

from optrepro.config import Config
from optrepro.source import is_installed
from optrepro.studies.base import Batch, Run


class MissingRunsError(RuntimeError):
    """Some runs of the run table have no result, and the scale is strict."""


def batches(config: Config, study_id: str) -> list[Batch]:
    """The jobs of a study, each after the jobs that it needs."""
    return list(config.studies[study_id].batches(study_id, config))


def table(config: Config) -> list[Run]:
    """Every run of every study."""
    return [run for study_id in config.studies for batch in batches(config, study_id) for run in batch.runs]


def source_modules(config: Config, batch: Batch) -> list[str]:
    """The modules whose code determines a batch: the runner, and optimizers that are part of no installed package."""
    study = config.studies[batch.study]
    modules = {path.rpartition(".")[0] for path in study.optimizer_classes(batch.optimizer, config)}
    return [study.runner, *sorted(module for module in modules if not is_installed(module))]
