"""Small networks as objectives: an optimizer is tuned once, on the objective of meta-training, then run on all panels.

The seed of a run decides a random subset of the images, a random projection of them, the initial weights and the
minibatches; all optimizers share the seeds. Iterations count steps, not the further evaluations of a line search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base import data, factory
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.shared import shareable
from optrepro.experiments.base.tidy import joined, metric_rows
from optrepro.experiments.descent import batched
from optrepro.metalearning.lto import rollouts
from optrepro.optimizers._learned import LearnedOptimizer, StepRule
from optrepro.problems.networks.perceptrons import Perceptrons
from optrepro.settings import ConfigError
from optrepro.studies.base import Batch, Run, Scale, datasets_of
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.objectives import ObjectivesStudy, Panel

DIVERGED = 2.0  # chosen: a run counts as diverged once its objective is above this multiple of its start


def run(study: ObjectivesStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune an optimizer, unless it is learned, and run it on every panel. Returns tidy rows.

    ``objective`` is the true objective after `step` iterations, infinite from the first value on that is not finite;
    `seed` is the repetition. ``diverged`` marks the first recorded iteration at which the objective is not finite or
    above twice its start. The tuned learning rate has the smallest mean area under the curves of its tuning runs; of
    equal ones the smallest wins.
    """
    job = _Job(study, batch, context)
    # Panels are sorted by data set, so that each is read once and only one is in memory.
    workloads = [*(["tuning"] if job.grid else []), *sorted(study.panels, key=context.datasets.__getitem__)]
    with context.checkpoint.listening():
        state: dict[str, Any] = context.checkpoint.load() or {"parts": [], "rate": math.nan}
        # Each part runs before a save, so that even the shortest time slice makes progress.
        for done, workload in enumerate(workloads[len(state["parts"]) :], start=len(state["parts"]) + 1):
            if workload == "tuning":
                rows, state["rate"] = job.tune()
            else:
                rows = job.test(workload, state["rate"])
            state["parts"].append(rows.to_dict("list"))
            context.progress(done, len(workloads), f"{batch.name} {workload}")
            context.checkpoint.step(lambda: state)
    return pd.concat([pd.DataFrame(part) for part in state["parts"]], ignore_index=True)


def prepare(study: ObjectivesStudy, batches: Sequence[Batch], scale: Scale) -> None:
    """Build the objectives of all panels, which all optimizers run on."""
    datasets = datasets_of(study, scale)
    for workload in sorted(study.workloads, key=datasets.__getitem__):
        for batch in batches:
            if runs := [run for run in batch.runs if run.workload == workload]:
                _objectives(study.workloads[workload], datasets[workload], study.examples, _seeds(runs), "cpu")


def attempt_learned(row: OptimizerConfig) -> None:
    """Try to make the learned optimizer of a row, unless a study still has to train its weights."""
    if not issubclass(factory.optimizer_class(row.class_), LearnedOptimizer):
        raise ConfigError(f"class = {row.class_!r} is not allowed: a row of group policy must be a LearnedOptimizer")
    if row.trained is None:
        factory.make(row, [torch.zeros(2)], 1.0)


class _Job:
    """One optimizer on all panels of a study."""

    def __init__(self, study: ObjectivesStudy, batch: Batch, context: Context):
        assert batch.optimizer is not None
        self.study, self.batch, self.context = study, batch, context
        self.optimizer = study.entry(batch.optimizer)
        learned = self.optimizer.group == "policy"
        self.grid = () if learned else study.grid(batch.optimizer)
        # Runs that are stepped one at a time cannot fill a GPU.
        self.device = context.device if learned or batched.row_wise(self.optimizer) else torch.device("cpu")
        self.rule = rule_of(self.optimizer, context) if learned else None

    def tune(self) -> tuple[pd.DataFrame, float]:
        """Return the rows of the tuning runs, and the learning rate with the smallest mean area."""
        runs = [run for rate in self.grid for run in self.batch.runs if (run.role, run.learning_rate) == ("tune", rate)]
        repetitions = len(runs) // len(self.grid)
        problems = self._objectives("tuning", runs).rows([*range(repetitions)] * len(self.grid))
        record = recorded(self.study.tuning.steps, self.study.evaluations)
        curves = descend(self.optimizer, problems, self.grid, record)
        areas = rollouts.area(curves, record).view(len(self.grid), repetitions).mean(1)
        rates = [rate for rate in self.grid for _ in range(repetitions)]
        return _rows(runs, rates, record, curves), self.grid[int(areas.argmin())]

    def test(self, workload: str, rate: float) -> pd.DataFrame:
        """Return the rows of the test runs on a panel."""
        runs = [run for run in self.batch.runs if (run.role, run.workload) == ("test", workload)]
        problems = self._objectives(workload, runs)
        record = recorded(self.study.panels[workload].steps, self.study.evaluations)
        if self.rule is None:
            curves = descend(self.optimizer, problems, [rate], record)
        else:
            curves = _finite(rollouts.roll_out(self.rule, problems, record))
        return _rows(runs, [rate] * len(runs), record, curves)

    def _objectives(self, workload: str, runs: Sequence[Run]) -> Perceptrons:
        panel, name = self.study.workloads[workload], self.context.datasets[workload]
        return _objectives(panel, name, self.study.examples, _seeds(runs), str(self.device))


def _seeds(runs: Sequence[Run]) -> tuple[int, ...]:
    """The seeds of runs, each once; tuning runs share theirs with those at other learning rates."""
    return tuple(dict.fromkeys(run.seed for run in runs))


@shareable
def _objectives(panel: Panel, dataset: str, examples: int, seeds: tuple[int, ...], device: str) -> Perceptrons:
    """Build the objectives of a panel, one for each seed."""
    images = data.whole(dataset, torch.device(device))
    return data.objectives(images.train, images.classes, panel, examples, seeds)


def rule_of(row: OptimizerConfig, context: Context) -> StepRule:
    """Return the rule of a row: from `context.weights` if a study trains it, otherwise the row's own or shipped file.

    Raises: ConfigError if the row's class is no learned optimizer; FileNotFoundError or ValueError for a bad file.
    """
    cls: Any = factory.optimizer_class(row.class_)
    if not issubclass(cls, LearnedOptimizer):
        raise ConfigError(f"class = {row.class_!r} is not allowed: a row of group policy must be a LearnedOptimizer")
    path = row.settings.get("policy") if context.weights is None else context.weights
    rule: Any = cls.from_pretrained() if path is None else cls.from_pretrained(path)
    return rule.to(context.device)  # type: ignore[no-any-return]


def recorded(steps: int, evaluations: int) -> list[int]:
    """Return the iterations at which the true objective is evaluated: evenly spaced from the start to the last."""
    return sorted({round(steps * i / (evaluations - 1)) for i in range(evaluations)})


# --- Runs ------------------------------------------------------------------------------------------------------------


def descend(optimizer: OptimizerConfig, problems: Perceptrons, rates: Sequence[float], record: Sequence[int]) -> Tensor:
    """Run an optimizer, and return the true objectives (len(record), R).

    A curve is infinite from its first value on that is not finite.

    Args:
        optimizer: class and settings of the optimizer.
        problems: R objectives, in consecutive groups of equal size, one per learning rate.
        rates: learning rate of each group.
        record: iterations to record, ascending; 0 is the start.
    """
    x, examples, curve, due = problems.start(), problems.minibatches(record[-1]), [], set(record)
    stepper: _Stepper = (_Together if batched.row_wise(optimizer) else _Apart)(optimizer, problems, x, rates)
    for iteration in range(record[-1] + 1):
        if iteration in due:
            curve.append(problems.objective(x))
        if iteration < record[-1]:
            batch = examples[iteration]
            stepper.step(*problems.evaluate(x, batch), batch)
    return _finite(torch.stack(curve))


class _Stepper(Protocol):
    """Steps R runs in place; their parameters are the rows of one tensor (R, P)."""

    def step(self, value: Tensor, gradient: Tensor, examples: Tensor) -> None:
        """Step all runs, given values (R,) and gradients (R, P) on minibatches with the indices (R, B)."""
        ...


class _Together:
    """Steps an optimizer that treats elements independently: one instance per learning rate."""

    def __init__(self, optimizer: OptimizerConfig, problems: Perceptrons, x: Tensor, rates: Sequence[float]):
        self.parts = [part.requires_grad_() for part in x.chunk(len(rates))]
        self.optimizers = [factory.make(optimizer, [p], rate) for p, rate in zip(self.parts, rates, strict=True)]

    def step(self, value: Tensor, gradient: Tensor, examples: Tensor) -> None:
        """See `_Stepper`."""
        count = len(self.parts)
        for part, optimizer, v, g in zip(
            self.parts, self.optimizers, value.chunk(count), gradient.chunk(count), strict=True
        ):
            part.grad = g
            optimizer.step(partial(_given, v))  # type: ignore[arg-type]


class _Apart:
    """Steps any optimizer: one instance per run. A run ends when its value or gradient is not finite."""

    def __init__(self, optimizer: OptimizerConfig, problems: Perceptrons, x: Tensor, rates: Sequence[float]):
        self.alone = [problems.rows([row]) for row in range(len(problems))]
        self.parts = [part.requires_grad_() for part in x.unbind()]
        repeated = [rate for rate in rates for _ in range(len(x) // len(rates))]
        self.optimizers = [factory.make(optimizer, [p], rate) for p, rate in zip(self.parts, repeated, strict=True)]

    def step(self, value: Tensor, gradient: Tensor, examples: Tensor) -> None:
        """See `_Stepper`."""
        finite = (value.isfinite() & gradient.isfinite().all(1)).tolist()
        for row, (part, optimizer) in enumerate(zip(self.parts, self.optimizers, strict=True)):
            if finite[row]:
                evaluate = partial(self.alone[row].evaluate, examples=examples[row : row + 1])
                optimizer.step(_closure(part, evaluate, value[row], gradient[row]))  # type: ignore[arg-type]
            else:
                part.detach().fill_(math.nan)


def _closure(
    part: Tensor, evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], value: Tensor, gradient: Tensor
) -> Callable[[], Tensor]:
    """Return the closure of one run: the first call returns the known value and gradient, later ones evaluate."""
    known = [(value, gradient)]

    def closure() -> Tensor:
        if known:
            here, part.grad = known.pop()
            return here
        values, gradients = evaluate(part.detach()[None])
        part.grad = gradients[0]
        return values[0]

    return closure


def _given(value: Tensor) -> Tensor:
    return value


def _finite(curves: Tensor) -> Tensor:
    """Make curves (points, R) infinite from their first value on that is not finite."""
    return curves.where(curves.isfinite().cumprod(0) == 1, math.inf)


# --- Rows ------------------------------------------------------------------------------------------------------------


def _rows(runs: Sequence[Run], rates: Sequence[float], record: Sequence[int], curves: Tensor) -> pd.DataFrame:
    """Make tidy rows of runs from their curves (len(record), R)."""
    rows, values = [], curves.double().cpu().numpy()
    for run, rate, curve in zip(runs, rates, values.T, strict=True):
        rows.append(metric_rows(run, rate, "objective", curve, seed=run.repetition, step=record))
        above = np.flatnonzero(~np.isfinite(curve) | (curve > DIVERGED * curve[0]))
        if len(above):
            rows.append(metric_rows(run, rate, "diverged", 1.0, seed=run.repetition, step=record[above[0]]))
    return joined(rows)
