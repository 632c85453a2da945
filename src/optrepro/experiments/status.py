"""What of a config is done, what failed, and how long the rest will take by the records of like runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from optrepro import layout
from optrepro.config import Config
from optrepro.experiments.jobs import Jobs
from optrepro.store import Store
from optrepro.studies.base import Batch


@dataclass
class Status:
    """The state of a study.

    Attributes:
        study: its name.
        batches: number of its batches.
        done: number of batches whose results are in the store.
        begun: number of batches that stopped early and will resume.
        failed: why the last attempts of batches failed, by name.
        spent: seconds that the finished batches took, whenever they ran.
        left: estimated seconds of the other batches on one core; None if no like run has been recorded.
    """

    study: str
    batches: int
    done: int = 0
    begun: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    spent: float = 0.0
    left: float | None = 0.0


def of(config: Config, studies: Iterable[str], store: Store | None = None) -> list[Status]:
    """The status of studies. Nothing runs and nothing is imported that runs."""
    found = Jobs(config, store)
    paces = _Paces(found)
    return [_of_study(found, study, paces) for study in studies]


def keys(configs: Iterable[Config], store: Store) -> set[str]:
    """The keys of all entries of a store that the configs ask for."""
    asked = set()
    for config in configs:
        found = Jobs(config, store)
        for study in config.studies:
            entries = [found.finished(batch) for batch in found.batches(study)]
            asked |= {entry.folder.name for entry in entries if entry is not None}
            if None not in entries:
                asked.add(found.key_of_study(study))
    return asked


def _of_study(found: Jobs, study: str, paces: _Paces) -> Status:
    status = Status(study, len(found.batches(study)))
    for batch in found.batches(study):
        if (entry := found.finished(batch)) is not None:
            status.done += 1
            status.spent += _seconds(entry.path(layout.RECORD))
            continue
        job = found.job(batch)
        if job is not None and layout.failure(job.key).exists():
            status.failed[batch.name] = layout.failure(job.key).read_text().strip()
        elif job is not None and layout.state(job.key).exists():
            status.begun += 1
        estimate = paces.seconds_of(batch)
        status.left = None if estimate is None or status.left is None else status.left + estimate
    return status


class _Paces:
    """Seconds per run of the batches that are done, of the same row, the same study or the same kind of study."""

    def __init__(self, found: Jobs):
        self.kinds = {name: study.kind for name, study in found.config.studies.items()}
        self.recorded: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for name in self.kinds:
            for batch in found.batches(name):
                if (entry := found.finished(batch)) is not None:
                    pace = _seconds(entry.path(layout.RECORD)) / max(1, len(batch.runs))
                    for like in self._likes(batch):
                        self.recorded[like].append(pace)

    def seconds_of(self, batch: Batch) -> float | None:
        """Estimated seconds of a batch, from the runs most like its own; None if there are none."""
        paces: Sequence[float] = next((self.recorded[like] for like in self._likes(batch) if like in self.recorded), ())
        return max(1, len(batch.runs)) * sum(paces) / len(paces) if paces else None

    def _likes(self, batch: Batch) -> list[tuple[str, ...]]:
        row = (batch.study, batch.optimizer or "")
        return [row, (batch.study,), ("kind", self.kinds[batch.study])]


def _seconds(record: Path) -> float:
    return float(json.loads(record.read_text())["wall_seconds"])
