"""Runs an optimizer on many problems in the unit box, in one tensor if its step allows that.

Problems are defined on [0, 1]^d, in box coordinates. After each step the point is projected back into the box. An
evaluation is one call for value and gradient; the first one is at the start, and those of a line search count.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from optrepro.experiments.base import factory
from optrepro.experiments.descent import lbfgs
from optrepro.optimizers.polyak import Polyak
from optrepro.seeds import derive_seed
from optrepro.studies.comparison import OptimizerConfig

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]

# Optimizers that treat each element (Polyak: each row) independently, so that one tensor can hold many problems.
ROW_WISE = frozenset(
    {
        torch.optim.SGD,
        torch.optim.RMSprop,
        torch.optim.Adam,
        torch.optim.AdamW,
        torch.optim.Adagrad,
        torch.optim.Rprop,
        torch.optim.Adadelta,
        torch.optim.Adamax,
        torch.optim.NAdam,
        torch.optim.RAdam,
        Polyak,
    }
)

# The same of other packages, which need not be installed, as long as no other settings are given.
OUTSIDE_ROW_WISE = frozenset(
    {
        "pytorch_optimizer.Lion",
        "pytorch_optimizer.AdEMAMix",
        "pytorch_optimizer.ADOPT",
        "pytorch_optimizer.Adan",
        "pytorch_optimizer.LaProp",
        "schedulefree.AdamWScheduleFree",
    }
)
KNOWN_SETTINGS = {"betas", "eps", "weight_decay", "weight_decouple", "alpha", "t_alpha_beta3"}

PATIENCE = 10  # chosen: number of consecutive evaluations of the same point after which a run stops


class Suite(Protocol):
    """N problems of at most D coordinates.

    Attributes:
        start: starting points, (N, D) float64, in box coordinates; zero beyond a problem's own dimension.
        valid: which coordinates exist, (N, D) bool.
        optima: smallest values, (N,), for optimizers that need them (Polyak).
    """

    start: Tensor
    valid: Tensor
    optima: Tensor

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (N,) and gradients (N, D) at points (N, D)."""
        ...

    def one(self, row: int) -> Evaluate:
        """Return problem number `row` as a function (d,) -> value (), gradient (d,)."""
        ...


@dataclass(frozen=True)
class Descent:
    """Runs on N problems.

    Attributes:
        values: value at each evaluation, (budget, N) float64; infinite if it was not finite or not made.
        points: point of each evaluation, (budget, N, D); NaN if it was not made.
        diverged: whether the run stopped at a value or gradient that is not finite, (N,) bool.
    """

    values: Tensor
    points: Tensor
    diverged: Tensor


def row_wise(optimizer: OptimizerConfig) -> bool:
    """Whether one instance of the optimizer can step many problems at once."""
    if optimizer.class_ in OUTSIDE_ROW_WISE:
        return set(optimizer.settings) <= KNOWN_SETTINGS
    return factory.optimizer_class(optimizer.class_) in ROW_WISE


def descend(optimizer: OptimizerConfig, suite: Suite, rates: Tensor, budget: int, seed: int = 0) -> Descent:
    """Run an optimizer on every problem of a suite.

    Args:
        optimizer: class and settings of the optimizer.
        suite: N problems.
        rates: learning rate of each problem, (N,).
        budget: number of evaluations in a run.
        seed: seed of optimizers that draw random numbers.
    """
    if row_wise(optimizer):
        return together(optimizer, suite, rates, budget, seed)
    if _searches_lines(optimizer):
        return lockstep(optimizer, suite, rates, budget, seed)
    try:
        return abreast(optimizer, suite, rates, budget, seed)
    except _ElsewhereError:
        return apart(optimizer, suite, rates, budget, seed)


def together(optimizer: OptimizerConfig, suite: Suite, rates: Tensor, budget: int, seed: int = 0) -> Descent:
    """Run all problems at once; the problems of each learning rate are the rows of one parameter."""
    u = suite.start.clone()
    distinct = sorted(set(rates.tolist()))
    rows = [(rates == rate).nonzero()[:, 0].to(u.device) for rate in distinct]
    order = torch.cat(rows).argsort()
    parameters = [u[r].requires_grad_() for r in rows]
    optimizers = [
        factory.make(_informed(optimizer, suite.optima[r]), [parameter], rate, seed=seed)
        for parameter, rate, r in zip(parameters, distinct, rows, strict=True)
    ]
    for stepper in optimizers:
        if hasattr(stepper, "train"):  # schedule-free optimizers only step in this mode
            stepper.train()
    values, points = u.new_empty(budget, len(u)), u.new_empty(budget, *u.shape)
    alive = torch.ones(len(u), dtype=torch.bool, device=u.device)
    for step in range(budget):
        value, gradient = suite.evaluate(u)
        alive &= value.isfinite() & gradient.isfinite().all(-1)
        values[step] = torch.where(value.isfinite(), value, math.inf)
        points[step] = u
        for parameter, stepper, r in zip(parameters, optimizers, rows, strict=True):
            parameter.grad = gradient[r]
            stepper.step(partial(value.index_select, 0, r))  # type: ignore[arg-type]
            with torch.no_grad():
                parameter.copy_(torch.where(alive[r, None], parameter.clamp(0, 1), u[r]))
        u = torch.cat([parameter.detach() for parameter in parameters])[order]
    return Descent(values, points, ~alive)


def apart(optimizer: OptimizerConfig, suite: Suite, rates: Tensor, budget: int, seed: int = 0) -> Descent:
    """Run one problem after the other; works for every optimizer that steps with a closure."""
    count, width = suite.start.shape
    values = torch.full((budget, count), math.inf, dtype=torch.float64)
    points = torch.full((budget, count, width), math.nan, dtype=torch.float64)
    diverged = torch.zeros(count, dtype=torch.bool)
    dims, optima = suite.valid.sum(-1).tolist(), suite.optima.tolist()
    for row, (rate, dim) in enumerate(zip(rates.tolist(), dims, strict=True)):
        run = _Run(suite.one(row), suite.start[row, :dim], budget)
        run.solve(_informed(optimizer, optima[row]), rate, derive_seed(seed, row))
        made = len(run.values)
        values[:made, row] = torch.tensor(run.values, dtype=torch.float64)
        points[:made, row, :dim] = torch.stack(run.points)
        diverged[row] = run.diverged
    return Descent(values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf), points, diverged)


def abreast(optimizer: OptimizerConfig, suite: Suite, rates: Tensor, budget: int, seed: int = 0) -> Descent:
    """Run each problem as `apart` does, up to rounding, with one evaluation of all problems at a time.

    Raises: _ElsewhereError for an optimizer that evaluates more than once in a step, or not where it stands.
    """
    dims, optima = suite.valid.sum(-1).tolist(), suite.optima.tolist()
    u = suite.start.clone()
    last = torch.full_like(u, math.nan)
    runs = []
    for row, (rate, dim) in enumerate(zip(rates.tolist(), dims, strict=True)):
        # detached, or the version counter of a row would be that of the rows that are unbound with it
        parameter = u[row, :dim].detach().requires_grad_()
        stepper = factory.make(_informed(optimizer, optima[row]), [parameter], rate, seed=derive_seed(seed, row))
        if hasattr(stepper, "train"):  # schedule-free optimizers only step in this mode
            stepper.train()
        runs.append(_Abreast(parameter, last[row, :dim], stepper))
    values = torch.full((budget, len(u)), math.inf, dtype=torch.float64)
    points = torch.full((budget, *u.shape), math.nan, dtype=torch.float64)
    diverged, alive = torch.zeros(len(u), dtype=torch.bool), torch.ones(len(u), dtype=torch.bool)
    repeats = torch.zeros(len(u), dtype=torch.int64)
    for step in range(budget):
        repeats = torch.where((u == last).all(1), repeats + 1, 1)
        alive &= repeats <= PATIENCE
        if not alive.any():
            break
        last.copy_(u)
        value, gradient = suite.evaluate(u)
        values[step, alive] = torch.where(value.isfinite(), value, math.inf)[alive]
        points[step, alive] = torch.where(suite.valid, u, math.nan)[alive]
        failed = alive & ~(value.isfinite() & (gradient.isfinite() | ~suite.valid).all(-1))
        diverged |= failed
        alive &= ~failed
        losses, slopes = value.unbind(), gradient.unbind()
        for row in alive.nonzero()[:, 0].tolist():
            runs[row].advance(losses[row], slopes[row], optimizer.class_)
        with torch.no_grad():
            u.clamp_(0, 1)
    return Descent(values, points, diverged)


def lockstep(optimizer: OptimizerConfig, suite: Suite, rates: Tensor, budget: int, seed: int = 0) -> Descent:
    """Run L-BFGS with a line search as `apart` does, up to rounding, with one evaluation of all problems at a time."""
    settings = {name: value for name, value in optimizer.settings.items() if name != "line_search_fn"}
    dims, u = suite.valid.sum(-1).tolist(), suite.start.numpy().copy()
    searches = [
        lbfgs.search(start[:dim].copy(), rate, **settings)
        for start, rate, dim in zip(u, rates.tolist(), dims, strict=True)
    ]
    values = torch.full((budget, len(u)), math.inf, dtype=torch.float64)
    points = torch.full((budget, *u.shape), math.nan, dtype=torch.float64)
    diverged, repeats, alive = np.zeros(len(u), dtype=bool), np.zeros(len(u), dtype=int), np.ones(len(u), dtype=bool)
    for row, search in enumerate(searches):
        u[row, : dims[row]] = next(search)
    last = u.copy()
    with np.errstate(all="ignore"):  # a point that is not finite ends its run as diverged
        for step in range(budget):
            # Compares the point itself: during a line search, its projection may stay in one corner.
            repeats = np.where((u == last).all(1), repeats + 1, 1)
            alive &= repeats <= PATIENCE
            if not alive.any():
                break
            last, point = u.copy(), torch.from_numpy(u.clip(0, 1))
            value, gradient = suite.evaluate(point)
            made = torch.from_numpy(alive)
            values[step, made] = torch.where(value.isfinite(), value, math.inf)[made]
            points[step, made] = torch.where(suite.valid, point, math.nan)[made]
            failed = alive & ~(value.isfinite() & (gradient.isfinite() | ~suite.valid).all(-1)).numpy()
            diverged |= failed
            alive &= ~failed
            found, slopes = value.numpy(), gradient.numpy()
            for row in alive.nonzero()[0].tolist():
                u[row, : dims[row]] = searches[row].send((found[row], slopes[row, : dims[row]]))
    return Descent(values, points, torch.from_numpy(diverged))


def _searches_lines(optimizer: OptimizerConfig) -> bool:
    torchs = factory.optimizer_class(optimizer.class_) is torch.optim.LBFGS
    return torchs and optimizer.settings.get("line_search_fn") == "strong_wolfe"


class _ElsewhereError(Exception):
    """An optimizer asks for an evaluation that has not been made."""


class _Abreast:
    """One of many runs whose evaluations are made together.

    Args:
        parameter: the point (d,), which shares its memory with those of the other runs.
        evaluated: where it was evaluated last, (d,), which whoever evaluates keeps up to date.
        stepper: its optimizer.
    """

    def __init__(self, parameter: Tensor, evaluated: Tensor, stepper: torch.optim.Optimizer):
        self.parameter, self.evaluated, self.stepper = parameter, evaluated, stepper
        self.place = parameter.detach()
        self.asked = False
        self.loss: Tensor

    def advance(self, loss: Tensor, slope: Tensor, path: str) -> None:
        """Step with the value () and the gradient (D,) at the point.

        Raises: _ElsewhereError, see `abreast`; ValueError if the optimizer steps without calling its closure.
        """
        self.loss, self.asked = loss, False
        self.parameter.grad = slope[: len(self.place)]
        self.stepper.step(self._closure)  # type: ignore[arg-type]
        if not self.asked:
            raise ValueError(f"class = {path!r} is not allowed: its step must call the closure")
        if self.parameter.data_ptr() != self.place.data_ptr():  # the optimizer has put another tensor in its place
            self.parameter.data = self.place.copy_(self.parameter.detach())

    def _closure(self) -> Tensor:
        if self.asked or not torch.equal(self.parameter, self.evaluated):
            raise _ElsewhereError
        self.asked = True
        return self.loss


class _Stop(Exception):
    """Ends a run in the middle of an optimizer's step."""


class _Run:
    """One run on one problem from one start.

    The optimizer gets value and gradient at the projection of its point into the box, also during a line search. The
    gradient is not that of the projection, which would vanish beyond a corner and end the search there.
    """

    def __init__(self, evaluate: Evaluate, start: Tensor, budget: int):
        self.evaluate, self.budget = evaluate, budget
        self.u = start.cpu().clone().requires_grad_()
        self.values: list[float] = []
        self.points: list[Tensor] = []
        self.diverged = False
        self._last, self._repeats = self.u.detach().clone(), 0

    def solve(self, config: OptimizerConfig, rate: float, seed: int) -> None:
        """Step until the budget is used, the run diverges, or its point no longer changes.

        Raises: ValueError if the optimizer steps without calling its closure.
        """
        optimizer = factory.make(config, [self.u], rate, seed=seed)
        if hasattr(optimizer, "train"):  # schedule-free optimizers only step in this mode
            optimizer.train()
        try:
            while True:
                made = len(self.values)
                optimizer.step(self._closure)  # type: ignore[arg-type]
                if len(self.values) == made:
                    raise ValueError(f"class = {config.class_!r} is not allowed: its step must call the closure")
                with torch.no_grad():
                    self.u.clamp_(0, 1)
        except _Stop:
            return

    def _closure(self) -> Tensor:
        # Compares the point itself: during a line search, its projection may stay in one corner.
        self._repeats = self._repeats + 1 if torch.equal(self.u, self._last) else 1
        if len(self.values) == self.budget or self._repeats > PATIENCE:
            raise _Stop
        self._last = self.u.detach().clone()
        point = self.u.detach().clamp(0, 1)
        value, self.u.grad = self.evaluate(point)
        self.values.append(value.item())
        self.points.append(point)
        if not (math.isfinite(self.values[-1]) and bool(self.u.grad.isfinite().all())):
            self.diverged = True
            raise _Stop
        return value


def _informed(config: OptimizerConfig, optimum: Tensor | float) -> OptimizerConfig:
    """Add the optimum to the settings if the class has that argument."""
    if "optimum" not in inspect.signature(factory.optimizer_class(config.class_)).parameters:
        return config
    return config.model_copy(update={"settings": {**config.settings, "optimum": optimum}})
