"""The run table: a config expanded into one row per run, and the rows packed into jobs.

Ids are hashes of everything that determines a run, so no float ever stands in a path, and a run whose settings did
not change keeps its id. Seeds are hashes of (workload, repetition, role): optimizers share initial weights and data
order, and tuning never sees a test seed. Which runs a study has, its kind says: `optrepro.studies`.
"""

from __future__ import annotations

from optrepro.config import Config
from optrepro.source import is_installed
from optrepro.studies.base import Batch, Run


class MissingRunsError(RuntimeError):
    """Runs of the run table left no result, and the scale is strict."""


def batches(config: Config, study_id: str) -> list[Batch]:
    """The jobs of a study, in an order in which each one's needs come before it."""
    return list(config.studies[study_id].batches(study_id, config))


def table(config: Config) -> list[Run]:
    """Every run of every study."""
    return [run for study_id in config.studies for batch in batches(config, study_id) for run in batch.runs]


def source_modules(config: Config, batch: Batch) -> list[str]:
    """The modules whose code determines a batch: the runner, and those of optimizers that no distribution brings."""
    study = config.studies[batch.study]
    modules = {path.rpartition(".")[0] for path in study.optimizer_classes(batch.optimizer, config)}
    return [study.runner, *sorted(module for module in modules if not is_installed(module))]
