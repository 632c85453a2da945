"""Image classification in which some rows see as many examples, or as many gradients, as validation-aware selection."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base.context import Context
from optrepro.experiments.training import tasks
from optrepro.experiments.training.classification import Training, attempts, prepare, train
from optrepro.problems.data.images import Split
from optrepro.studies.base import Batch
from optrepro.studies.validation import ValidationStudy

__all__ = ["Controlled", "attempts", "prepare", "run"]


def run(study: ValidationStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune on validation data, then train with the tuned rate. Returns tidy results, see `classification.train`.

    The validation metrics in the test runs of the rows in `joined` are of examples that they have been trained on.
    """
    return train(study, batch, context, *tasks.of(study, context), make=Controlled)


class Controlled(Training):
    """A training that has validation data among its training data, or two batches in each step, where the study says.

    The first of the two batches is the one that the other rows step with. A step with both together has the mean of
    their gradients, and batch norm normalizes them together.
    """

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        assert isinstance(self.study, ValidationStudy)
        row, role = self.runs[0].optimizer, self.runs[0].role
        self._is_doubled = row in self.study.doubled
        if row in self.study.joined and role == "test":
            self.dataset = replace(self.dataset, train=_joined(self.dataset.train, self.dataset.validation))

    def _batch(self, split: Split, stream: str) -> tuple[Tensor, Tensor]:
        images, labels = super()._batch(split, stream)
        if not self._is_doubled or split is not self.dataset.train:
            return images, labels
        further = super()._batch(split, f"second {stream}")
        return torch.cat([images, further[0]], dim=1), torch.cat([labels, further[1]], dim=1)


def _joined(first: Split, second: Split) -> Split:
    return replace(
        first,
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels]),
    )
