"""What a run is handed besides its row of the run table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.studies.base import Study

Progress = Callable[[int, int, str], None]


def no_progress(done: int, total: int, what: str) -> None:
    """Report nothing."""


def empty_results() -> pd.DataFrame:
    """A tidy table without rows."""
    return tidy.frame([])


@dataclass(frozen=True)
class Context:
    """Surroundings of a batch of runs; nothing in it changes a result except the seed and the device's rounding.

    Args:
        seed: root of every seed that is not in the run table.
        device: where tensors live.
        dataset: name of the data set of the study, or of the batch's own workload, where there is one.
        datasets: name of the data set of each workload, for studies with several.
        studies: the config's, for studies that refer to others.
        checkpoint: where a long batch saves its state.
        earlier: tidy results of the batches that this one needs.
        weights: file of the trained weights that this batch uses.
        policy: file of weights that a batch of meta-training is to write.
        progress: called with (done, total, what).
    """

    seed: int
    device: torch.device
    checkpoint: Checkpoint
    dataset: str | None = None
    earlier: pd.DataFrame = field(default_factory=empty_results)
    progress: Progress = no_progress
    weights: Path | None = None
    policy: Path | None = None
    datasets: Mapping[str, str] = field(default_factory=dict)
    studies: Mapping[str, Study] = field(default_factory=dict)
