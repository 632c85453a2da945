"""What a score promises against what comes of it, and the training with scores from fewer and from more examples.

The promise of a step from w to w' is the first-order drop in loss <g, w - w'>, with the gradient g of the step's own
batch: for SGD without weight decay the learning rate times <g, b_m>, the raw score of the candidate m that is taken.
The drop that comes of it is that of the loss on a fixed part of the training data.

Source: arXiv 2512.06370 (the score as the instantaneous drop in loss); forks, horizons and probes are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base import factory, tidy
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Row
from optrepro.experiments.training import replicas, tasks
from optrepro.experiments.training.classification import Training
from optrepro.problems.data.images import Split
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.greedy import FORKS, GreedyStudy, score_row
from optrepro.studies.training import TrainingStudy


def run(study: GreedyStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Train the rows of a workload, and return what became of them as a tidy table.

    ``workload`` is the key of the workload. The row ``forks`` has, with ``step`` the step of a fork, for each candidate
    of momentum m and each horizon of h steps: ``promised[m]@h``, the sum of the promises of the h steps, and
    ``realized[m]@h``, the drop of the loss on the probes after them; neither if that is not finite. Every other row
    has, at the last step, the metrics of `classification.train` and ``probe_loss``, the loss on the probes; the row
    ``score-x`` is `scored` with the gradient of x batches in its score.

    Raises: ValueError for a forked row that has no candidates `momentum` to draw, or not `memory` among them, and for
    a scored row whose score is not the paper's.
    """
    name, workload = batch.name, study.workloads[batch.name]
    trained = context.studies[workload.study]
    assert isinstance(trained, TrainingStudy)
    dataset, build = tasks.of(trained, replace(context, dataset=context.datasets[name]))
    recipe = trained.model_copy(update={"steps": workload.steps or trained.steps, "evaluations": 1})
    numbers = {score_row(number): number for number in study.score_batches}
    groups = [list(runs) for _, runs in groupby(batch.runs, key=lambda run: run.optimizer)]
    with context.checkpoint.listening():
        saved = context.checkpoint.load() or {"group": 0, "rows": [], "training": None}
        rows = [Row(*row) for row in saved["rows"]]
        for number in range(saved["group"], len(groups)):
            runs, row = groups[number], groups[number][0].optimizer
            rates = [run.learning_rate for run in runs if run.learning_rate is not None]  # all runs have one
            common = (runs, rates, recipe)
            data = (None, dataset, build)
            if row == FORKS:
                training: Probed = Forked(study, *common, trained.entry(study.forked), *data)
            elif row in numbers:
                training = Scored(study, numbers[row], *common, _reading(trained.entry(study.scored)), *data)
            else:
                training = Finished(study, *common, trained.entry(row), *data)
            if saved["training"] is not None:
                training.load_state(saved.pop("training"))
                saved["training"] = None
            while not training.finished:
                training.advance()
                context.progress(number * training.steps + training.step, len(groups) * training.steps, name)
                context.checkpoint.step(
                    lambda: {"group": number, "rows": [*map(tuple, rows)], "training": training.state()}  # noqa: B023
                )
            training.finish()
            rows.extend(training.rows)
    return tidy.frame(rows)


def _reading(row: OptimizerConfig) -> OptimizerConfig:
    """The row with the paper's score of the gradients that its step is given, in place of the step's own."""
    score = row.settings.get("score")
    if score != "paper":
        raise ValueError(f"scored: score = {score!r} is not allowed; it must be 'paper'")
    return row.model_copy(update={"settings": {**row.settings, "score": "validation"}})


class Probed(Training):
    """A training whose loss can be measured on the probes, the first examples of the training data."""

    def __init__(self, study: GreedyStudy, *arguments: Any):
        super().__init__(*arguments)
        train, size = self.dataset.train, study.probe_examples
        self._probes = Split(train.images[:size], train.labels[:size])

    def probe_loss(self) -> Tensor:
        """Return the mean loss on the probes, (R,)."""
        return self.models.evaluate(self._probes)[0]


class Finished(Probed):
    """A training that also records the loss on the probes at its end."""

    def finish(self) -> None:
        """Record ``probe_loss``."""
        for r, loss in enumerate(self.probe_loss().tolist()):
            if self.alive[r]:
                self.record(r, "probe_loss", loss)


class Scored(Finished):
    """A training with the score of so many batches: part of the step's own batch, or this one and further ones."""

    def __init__(self, study: GreedyStudy, batches: float, *arguments: Any):
        super().__init__(study, *arguments)
        self._batches = batches

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, replicas.Gradients, list[dict[str, Any]]]:
        losses, gradients = self.models.gradients(images, labels)
        return losses, gradients, [{"validation_grads": g} for g in self._scored(images, labels)]

    def _scored(self, images: Tensor, labels: Tensor) -> replicas.Gradients:
        """Return the gradients that the score reads."""
        size = max(1, round(min(self._batches, 1) * labels.shape[1]))
        _, gradients = self.models.gradients(images[:, :size], labels[:, :size], probe=True)
        for i in range(1, int(self._batches)):
            _, others = self.models.gradients(*self._batch(self.dataset.train, f"order {i}"), probe=True)
            gradients = [list(torch._foreach_add(sums, more)) for sums, more in zip(gradients, others, strict=True)]
        count = max(1, int(self._batches))
        return [list(torch._foreach_div(sums, count)) for sums in gradients]


class Forked(Probed):
    """A training with one candidate, in which at some steps each candidate goes on by itself for a while."""

    def __init__(self, study: GreedyStudy, *arguments: Any):
        super().__init__(study, *arguments)
        self._forked: OptimizerConfig = arguments[3]
        momenta = self.optimizers[0].param_groups[0].get("momentum")
        if not isinstance(momenta, Sequence):
            raise ValueError(
                f"forked = {study.forked!r} is not allowed: it must draw one of several values of momentum"
            )
        if study.memory not in momenta:
            raise ValueError(f"memory = {study.memory} is not one of the candidates {list(momenta)}")
        self._candidates = [float(momentum) for momentum in momenta]
        self._horizons = study.horizons
        spacing = (self.steps - max(study.horizons)) / (study.points + 1)
        self._points = [round(spacing * (i + 1)) for i in range(study.points)]
        self.optimizers = self._taking(study.memory)

    def advance(self) -> None:
        """Take one step; at the points, let each candidate go on from here before."""
        if self.step in self._points:
            self._fork()
        super().advance()

    def _fork(self) -> None:
        saved, before = deepcopy(self.state()), self.probe_loss()
        own, found = self.optimizers, []
        for momentum in self._candidates:
            self.optimizers = self._taking(momentum)
            self.load_state(deepcopy(saved))
            promised = torch.zeros_like(before)
            for h in range(1, max(self._horizons) + 1):
                weights = [[p.clone() for p in parameters] for parameters in self.models.parameters]
                super().advance()
                promised += torch.stack([self._promise(r, weights[r]) for r in range(len(self.runs))])
                if h in self._horizons:
                    drops = before - self.probe_loss()
                    found.append((f"[{momentum:g}]@{h}", promised.tolist(), drops.tolist()))
        self.optimizers = own
        self.load_state(saved)
        for name, *values in found:
            for r, (promise, drop) in enumerate(zip(*values, strict=True)):
                if math.isfinite(drop) and math.isfinite(promise):
                    self.record(r, f"promised{name}", promise)
                    self.record(r, f"realized{name}", drop)

    def _promise(self, r: int, before: Sequence[Tensor]) -> Tensor:
        """Return <g, w - w'>, (), of the last step of run r, which began at the weights w = `before`."""
        return torch.stack(
            [
                (parameter.grad * (w - parameter)).sum()
                for parameter, w in zip(self.models.parameters[r], before, strict=True)
                if parameter.grad is not None
            ]
        ).sum()

    def _taking(self, momentum: float) -> list[torch.optim.Optimizer]:
        """Return optimizers that always take the candidate of this momentum."""
        shares = [float(candidate == momentum) for candidate in self._candidates]
        return [
            factory.make(self._forked, parameters, rate, seed=derive_seed(run.seed, "optimizer"), shares=shares)
            for parameters, rate, run in zip(self.models.parameters, self.rates, self.runs, strict=True)
        ]
