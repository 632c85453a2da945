"""Pretraining of the backbones that are fine-tuned where no model of a hub is used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from optrepro.experiments.base import data
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import replicas, tasks
from optrepro.experiments.training.classification import Training, train
from optrepro.experiments.training.replicas import Separate
from optrepro.problems.networks import lora
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch, Run
from optrepro.studies.pretraining import PretrainingStudy


def run(study: PretrainingStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Train one backbone, and write its weights to `context.policy`. Returns the rows of `classification.train`."""
    assert batch.optimizer is not None
    assert context.dataset is not None
    assert context.policy is not None
    backbone = study.backbones[batch.optimizer]
    dataset = data.load(backbone.task, context.dataset, context.seed, context.device)

    def build(runs: Sequence[Run]) -> Separate:
        seeds = [derive_seed(run.seed, "weights") for run in runs]
        copies = [tasks.transformer(backbone.architecture, dataset, seed).to(context.device) for seed in seeds]
        return replicas.Separate(copies, bfloat16=False)

    make = partial(Pretraining, context.policy)
    return train(study.recipe(batch.optimizer), batch, context, dataset, build, make)


class Pretraining(Training):
    """A training of one run that writes the final weights to a file."""

    def __init__(self, path: Path, *arguments: Any):
        super().__init__(*arguments)
        self.path = path

    def finish(self) -> None:
        """Write the weights. Raises: FloatingPointError if the training diverged."""
        if not all(self.alive):
            raise FloatingPointError(f"the pretraining of {self.runs[0].workload} diverged; lower its learning_rate")
        assert isinstance(self.models, Separate)
        lora.save(self.models.copies[0], self.path)
