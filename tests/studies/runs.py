"""How tests ask for runs, by what they are told apart."""

from collections.abc import Callable

from optrepro import runtable
from optrepro.config import Config
from optrepro.studies.base import Batch, Run

Tiny = Callable[..., Config]
NADAM = "studies.images.optimizers.nadam={label: NAdam, class: torch.optim.NAdam}"


def ids(settings: Config, optimizer: str, study: str = "images") -> list[str]:
    return [run.id for run in runtable.table(settings) if (run.study, run.optimizer) == (study, optimizer)]


def rows(settings: Config, **values: object) -> list[Run]:
    return [run for run in runtable.table(settings) if all(getattr(run, k) == v for k, v in values.items())]


def needs_of(batches: list[Batch], optimizer: str, role: str) -> set[str]:
    return {n for batch in batches if batch.optimizer == optimizer and batch.runs[0].role == role for n in batch.needs}


def names_of(batches: list[Batch], optimizer: str, role: str) -> set[str]:
    return {batch.name for batch in batches if batch.optimizer == optimizer and batch.runs[0].role == role}


def ids_by_row(settings: Config, study: str) -> dict[str, set[str]]:
    """Ids of the runs of each row of a study; rows of diagnostics have the workload before their name."""
    found: dict[str, set[str]] = {}
    for run in rows(settings, study=study):
        name = f"{run.workload}.{run.optimizer}" if study == "diagnostics" else run.optimizer
        found.setdefault(name, set()).add(run.id)
    return found
