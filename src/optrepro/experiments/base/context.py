"""The context of a run: everything it needs besides its row of the run table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.progress import Progress, no_progress
from optrepro.studies.base import Study


def empty_results() -> pd.DataFrame:
    """Return a tidy table without rows."""
    return tidy.frame([])


@dataclass(frozen=True)
class Context:
    """Context of a batch of runs: seed, device, data, and results of earlier batches.

    Args:
        seed: root of every seed that is not in the run table.
        device: device of the tensors.
        dataset: name of the data set of the study or of the batch's workload, None without data.
        datasets: name of each workload's data set, for studies with several.
        studies: all studies of the config, for studies that refer to others.
        checkpoint: where a long batch saves its state.
        earlier: tidy results of the batches that this one needs.
        weights: file of the trained weights that this batch uses.
        policy: file to which a batch of meta-training writes its weights.
        progress: called with (done, total, label).
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

    @property
    def policy_so_far(self) -> Path | None:
        """File of the best weights so far of a meta-training in progress."""
        return self.policy and self.policy.with_name(f"{self.policy.stem}-so-far{self.policy.suffix}")
