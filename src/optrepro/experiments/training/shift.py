"""Image classification in which the data or the batch size changes abruptly halfway through training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base.context import Context
from optrepro.experiments.training import tasks
from optrepro.experiments.training.classification import Training, prepare, train
from optrepro.problems.data.images import Dataset, Split
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.shift import ShiftStudy


def run(study: ShiftStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune on validation data, then train with the tuned rate, both through the shift. Returns tidy results.

    The metrics are those of `classification.train`. Test runs also have, at the last step: ``before`` and ``after``,
    the last test accuracy before the shift and of the run, and ``overall``, the mean over the curve. Tuning runs have
    the whole curve too, on validation data; the tuned rate is the best one at the end.
    """
    return train(study, batch, context, *tasks.of(study, context), Shifted)


__all__ = ["prepare", "run"]


class Shifted(Training):
    """A training whose data or batch size changes after half of the steps."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        assert isinstance(self.study, ShiftStudy)
        self.shift = self.study
        self.sources = self.dataset, shifted(self.dataset, self.shift)

    def advance(self) -> None:
        """Take one step; the evaluation at the half still uses the data from before the shift."""
        self.dataset = self.sources[self._has_shifted()]
        super().advance()

    def finish(self) -> None:
        """Record ``before``, ``after`` and ``overall`` of test runs, see `run`."""
        for r, run in enumerate(self.runs):
            curve = {row.step: row.value for row in self.rows if row.run == run.id and row.metric == "test_accuracy"}
            if self.alive[r] and curve:
                self.record(r, "before", curve[self.steps // 2])
                self.record(r, "after", curve[self.steps])
                self.record(r, "overall", sum(curve.values()) / len(curve))

    def _has_shifted(self) -> bool:
        return self.step >= self.steps // 2

    def _is_evaluated(self) -> bool:
        """Evaluate tuning runs along the curve too, because the best fixed candidate of each phase is chosen there."""
        points = self.study.evaluations
        return self.step * points // self.steps > (self.step - 1) * points // self.steps

    def _index(self, seed: int, examples: int, stream: str) -> Tensor:
        if self.shift.shift != "batch_size" or not self._has_shifted():
            return super()._index(seed, examples, stream)
        # The epochs start anew, in batches of the new size.
        step = self.step - self.steps // 2
        return self._part(seed, examples, f"{stream} after the shift", int(self.shift.shifted_to), step)


def shifted(dataset: Dataset, study: ShiftStudy) -> Dataset:
    """Return the data set after the shift.

    Shift "classes" adds 1 to every label, modulo the classes. "inputs" permutes the pixels of all images alike (as in
    permuted MNIST). "label_noise" replaces a share of the training labels, once, by random ones. "batch_size" changes
    no data.
    """
    if study.shift == "classes":
        return _mapped(dataset, lambda split: replace(split, labels=(split.labels + 1) % dataset.classes))
    if study.shift == "inputs":
        return _mapped(dataset, _permuted)
    if study.shift == "label_noise":
        return replace(dataset, train=_noisy(dataset.train, dataset.classes, study.shifted_to))
    return dataset


def _mapped(dataset: Dataset, change: Any) -> Dataset:
    return replace(
        dataset, train=change(dataset.train), validation=change(dataset.validation), test=change(dataset.test)
    )


def _permuted(split: Split) -> Split:
    pixels = split.images[0, 0].numel()
    order = torch.randperm(pixels, generator=_generator("inputs")).to(split.images.device)
    return replace(split, images=split.images.flatten(2)[..., order].view_as(split.images))


def _noisy(split: Split, classes: int, share: float) -> Split:
    generator = _generator("label noise")
    random = torch.randint(classes, split.labels.shape, generator=generator)
    replaced = torch.rand(split.labels.shape, generator=generator) < share
    device = split.labels.device
    return replace(split, labels=torch.where(replaced.to(device), random.to(device), split.labels))


def _generator(name: str) -> torch.Generator:
    """Return a generator whose seed is the same in all runs, so that they share the shift."""
    return torch.Generator().manual_seed(derive_seed("shift", name))
