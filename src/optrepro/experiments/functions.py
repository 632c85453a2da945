"""The benchmark functions in box coordinates: an optimizer is tuned for each function, then run from other starts.

A box coordinate is u = (x - lower) / (upper - lower), so that every function lives on [0, 1]^d and a step has the same
length everywhere. After each step the point is projected back into the box. An evaluation is one call for value and
gradient, always in the box; the first one is at the start, and those of a line search count.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from optrepro.config import FunctionsStudy, OptimizerConfig
from optrepro.experiments import instances
from optrepro.experiments.context import Context
from optrepro.optimizers.polyak import Polyak
from optrepro.problems import vlse
from optrepro.problems.vlse import Function
from optrepro.runtable import Batch, Role, Run, derive_seed

Array = NDArray[np.float64]

# Steps that treat each element (Polyak's: each row) as if it stood alone, so that one tensor can hold many problems.
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

FLOOR = 1e-12  # chosen: a smaller share of the start's regret is rounding, and earns a learning rate nothing
PATIENCE = 10  # chosen: calls with one and the same point, in a row, after which a run has settled
RECORDED = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70)  # evaluations, and ten, a hundred, ... times the last six
PATH = 50  # points of a path that are all kept; of the later ones every tenth


@dataclass(frozen=True)
class Descents:
    """Runs of one optimizer on F functions, with R learning rates on each, from S starts.

    Attributes:
        values: value at each evaluation, (budget, F, R, S) float64; infinite if it was not finite or never made.
        paths: points evaluated from the first start, (budget, F, R, D), box coordinates; NaN if never made.
        diverged: runs that met a value or gradient that is not finite, (F, R, S) bool; they stop there.
    """

    values: Tensor
    paths: Tensor
    diverged: Tensor


def run(study: FunctionsStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune on the tuning starts, then run from the test starts with the tuned rate: tidy rows.

    Tuning runs, one for each function and rate: ``tuning_score``, the mean number of decimal digits by which the runs
    shrink the regret of their start, at most 12; the rate of the highest score is taken, the smaller one among equals.
    Test runs: ``regret`` (best value so far less the optimum, `step` the number of evaluations, `seed` the index of the
    start), and in two dimensions ``x0`` and ``x1``, the points evaluated from the first start. Both: ``diverged``, a
    row for each start that met something not finite, at the last evaluation before it. The test runs also carry what
    the analysis must know of the function: ``dimension``, ``range`` (largest value less optimum), ``smooth`` and
    ``group[...]``.
    """
    assert batch.optimizer is not None
    optimizer = study.entry(batch.optimizer)
    functions = [_function(name, study.dimension) for name in study.functions]
    together = instances.optimizer_class(optimizer.class_) in ROW_WISE
    # One problem at a time is no work for a GPU, and takes long enough to be worth saving.
    device = context.device if together else torch.device("cpu")
    chunks = [functions] if together else [[f] for f in functions]
    with context.checkpoint.listening():
        done: list[dict[Any, Any]] = (context.checkpoint.load() or {"done": []})["done"]
        for chunk in chunks[len(done) :]:
            context.checkpoint.step(lambda: {"done": done})
            done.append(_tune_and_test(study, batch, optimizer, chunk, device).to_dict("list"))
            context.progress(len(done), len(chunks), batch.name)
    return pd.concat([pd.DataFrame(part) for part in done], ignore_index=True)


def descend(
    optimizer: OptimizerConfig,
    functions: Sequence[Function],
    starts: Sequence[Tensor],
    rates: Tensor,
    budget: int,
    seed: int = 0,
) -> Descents:
    """Run an optimizer on every function with each of its learning rates from each of its starts.

    Args:
        optimizer: class and settings; the class is stepped as it is.
        functions: F of them.
        starts: for each function (S, dim), box coordinates.
        rates: learning rates of each function, (F, R).
        budget: evaluations of value and gradient in a run.
        seed: of optimizers that draw.
    """
    together = instances.optimizer_class(optimizer.class_) in ROW_WISE
    return (_descend_together if together else _descend_apart)(optimizer, functions, starts, rates, budget, seed)


def _descend_together(
    optimizer: OptimizerConfig,
    functions: Sequence[Function],
    starts: Sequence[Tensor],
    rates: Tensor,
    budget: int,
    seed: int,
) -> Descents:
    """All problems in one tensor (F R S, D), of which the rows of each learning rate are a parameter of their own."""
    shape = (*rates.shape, len(starts[0]))
    u = _padded(starts)[:, None].expand(*shape, -1).flatten(0, 2).contiguous()
    box = _Boxes(functions, rows=shape[1] * shape[2], like=u)
    rate_of_row = rates[..., None].expand(shape).flatten()
    distinct = sorted(set(rate_of_row.tolist()))
    rows = [(rate_of_row == rate).nonzero()[:, 0].to(u.device) for rate in distinct]
    order = torch.cat(rows).argsort()
    parameters = [u[r].requires_grad_() for r in rows]
    optimizers = [
        instances.make(_informed(optimizer, box.optima[r]), [parameter], rate, seed=seed)
        for parameter, rate, r in zip(parameters, distinct, rows, strict=True)
    ]
    values = u.new_empty(budget, len(u))
    paths = u.new_empty(budget, *shape[:2], u.shape[-1])
    alive = torch.ones(len(u), dtype=torch.bool, device=u.device)
    for step in range(budget):
        value, gradient = box.evaluate(u)
        alive &= value.isfinite() & gradient.isfinite().all(-1)
        values[step] = torch.where(value.isfinite(), value, math.inf)
        paths[step] = u.view(*shape, -1)[:, :, 0]
        for parameter, stepper, r in zip(parameters, optimizers, rows, strict=True):
            parameter.grad = gradient[r]
            stepper.step(partial(value.index_select, 0, r))  # type: ignore[arg-type]
            with torch.no_grad():
                parameter.copy_(torch.where(alive[r, None], parameter.clamp(0, 1), u[r]))
        u = torch.cat([parameter.detach() for parameter in parameters])[order]
    return Descents(values.view(budget, *shape), paths, ~alive.view(shape))


def _descend_apart(
    optimizer: OptimizerConfig,
    functions: Sequence[Function],
    starts: Sequence[Tensor],
    rates: Tensor,
    budget: int,
    seed: int,
) -> Descents:
    """One problem after the other, whatever the optimizer does with its closure."""
    shape = (*rates.shape, len(starts[0]))
    values = torch.full((budget, *shape), math.inf, dtype=torch.float64)
    paths = torch.full((budget, *shape[:2], max(f.dim for f in functions)), math.nan, dtype=torch.float64)
    diverged = torch.zeros(shape, dtype=torch.bool)
    for i, f in enumerate(functions):
        for j, rate in enumerate(rates[i].tolist()):
            for k, start in enumerate(starts[i]):
                problem = _Problem(f, start, budget)
                problem.solve(optimizer, rate, derive_seed(seed, f.name, rate, k))
                made = len(problem.values)
                values[:made, i, j, k] = torch.tensor(problem.values, dtype=torch.float64)
                diverged[i, j, k] = problem.diverged
                if k == 0:
                    paths[:made, i, j, : f.dim] = torch.stack(problem.points)
    return Descents(values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf), paths, diverged)


class _Boxes:
    """The functions on their unit boxes, each with `rows` consecutive rows of one tensor (F rows, D)."""

    def __init__(self, functions: Sequence[Function], rows: int, like: Tensor):
        self.functions, self.rows = functions, rows
        self.lower = _padded([f.lower[None] for f in functions]).to(like).flatten(0, 1).repeat_interleave(rows, 0)
        self.upper = _padded([f.upper[None] for f in functions]).to(like).flatten(0, 1).repeat_interleave(rows, 0)
        self.optima = like.new_tensor([f.optimum for f in functions]).repeat_interleave(rows)

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (F rows,) and gradients (F rows, D) at the box coordinates `u`."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            slabs = torch.lerp(self.lower, self.upper, u).view(len(self.functions), self.rows, -1)
            values = torch.cat([f(slab[:, : f.dim]) for f, slab in zip(self.functions, slabs, strict=True)])
            (gradient,) = torch.autograd.grad(values.sum(), u)
        return values.detach(), gradient


class _Stop(Exception):
    """Leaves an optimizer in the middle of its step."""


class _Problem:
    """One run on one function from one start.

    Wherever the optimizer's point is, even within a line search, it gets value and gradient at the projection into the
    box: were the gradient the projection's too, it would vanish beyond a corner, and end the search there.
    """

    def __init__(self, f: Function, start: Tensor, budget: int):
        self.f, self.budget = f, budget
        self.u = start.cpu().clone().requires_grad_()
        self.values: list[float] = []
        self.points: list[Tensor] = []
        self.diverged = False
        self._last, self._repeats = self.u.detach().clone(), 0

    def solve(self, config: OptimizerConfig, rate: float, seed: int) -> None:
        """Step until the budget is used, the run diverges, or it stays where it is.

        Raises: ValueError if the optimizer takes a step without a call for value and gradient.
        """
        optimizer = instances.make(_informed(config, self.f.optimum), [self.u], rate, seed=seed)
        if hasattr(optimizer, "train"):  # schedule-free optimizers keep other points for evaluation than for steps
            optimizer.train()
        try:
            while True:
                made = len(self.values)
                optimizer.step(self._evaluate)  # type: ignore[arg-type]
                if len(self.values) == made:
                    raise ValueError(f"class = {config.class_!r}: its step(closure) does not call the closure")
                with torch.no_grad():
                    self.u.clamp_(0, 1)
        except _Stop:
            return

    def _evaluate(self) -> Tensor:
        # The point itself, not its projection: a line search may be far out, beyond one corner for long.
        self._repeats = self._repeats + 1 if torch.equal(self.u, self._last) else 1
        if len(self.values) == self.budget or self._repeats > PATIENCE:
            raise _Stop
        self._last = self.u.detach().clone()
        point = self.u.detach().clamp(0, 1).requires_grad_()
        with torch.enable_grad():
            value = self.f(torch.lerp(self.f.lower, self.f.upper, point))
        (self.u.grad,) = torch.autograd.grad(value, point)
        self.values.append(value.item())
        self.points.append(point.detach())
        if not (math.isfinite(self.values[-1]) and bool(self.u.grad.isfinite().all())):
            self.diverged = True
            raise _Stop
        return value.detach()


def _informed(config: OptimizerConfig, optimum: Tensor | float) -> OptimizerConfig:
    """The config with the optimum among its settings, if the class is an oracle that asks for it."""
    if "optimum" not in inspect.signature(instances.optimizer_class(config.class_)).parameters:
        return config
    return config.model_copy(update={"settings": {**config.settings, "optimum": optimum}})


def _function(name: str, dimension: int) -> Function:
    """The function in `dimension`, or in its own where it is not defined in that one."""
    try:
        return vlse.get(name, dimension)
    except ValueError:
        return vlse.get(name)


def _padded(points: Sequence[Tensor]) -> Tensor:
    """Tensors (S, d) of any d as one (F, S, D) with D the largest, zero beyond each function's dimension."""
    width = max(p.shape[-1] for p in points)
    return torch.stack([torch.nn.functional.pad(p, (0, width - p.shape[-1])) for p in points])


# --- The protocol, and its rows --------------------------------------------------------------------------------------


def _tune_and_test(
    study: FunctionsStudy, batch: Batch, optimizer: OptimizerConfig, functions: Sequence[Function], device: torch.device
) -> pd.DataFrame:
    runs = {(run.workload, run.role, run.learning_rate): run for run in batch.runs}
    grid = study.grid(str(batch.optimizer))

    def descents(role: Role, count: int, rates: Tensor) -> Descents:
        seeds = [next(run.seed for run in batch.runs if (run.workload, run.role) == (f.name, role)) for f in functions]
        starts = [_starts(f, count, seed).to(device) for f, seed in zip(functions, seeds, strict=True)]
        return descend(optimizer, functions, starts, rates, study.budget, seed=seeds[0])

    tuning = descents("tune", study.tuning_starts, torch.tensor(grid, dtype=torch.float64).expand(len(functions), -1))
    scores = _digits_gained(_regrets(tuning, functions))
    chosen = [grid[best] for best in scores.argmax(-1)]  # the first of equals
    test = descents("test", study.starts, torch.tensor(chosen, dtype=torch.float64)[:, None])
    regrets = _regrets(test, functions)
    rows = []
    for i, f in enumerate(functions):
        for j, rate in enumerate(grid):
            run = runs[f.name, "tune", rate]
            rows.append(metric_rows(run, rate, "tuning_score", scores[i, j], step=study.budget))
            rows.append(_diverged_rows(run, rate, tuning, i, j))
        run = runs[f.name, "test", None]
        rows.append(_regret_rows(run, chosen[i], regrets[:, i, 0]))
        rows.append(_diverged_rows(run, chosen[i], test, i, 0))
        if f.dim == 2:
            rows.extend(_path_rows(run, chosen[i], f, test.paths[:, i, 0].cpu()))
        facts = {"dimension": f.dim, "range": f.largest - f.optimum, "smooth": f.smooth, f"group[{f.group}]": 1}
        rows.extend(metric_rows(run, chosen[i], metric, value) for metric, value in facts.items())
    return pd.concat([part for part in rows if len(part)], ignore_index=True)


def _starts(f: Function, count: int, seed: int) -> Tensor:
    """Uniform starts in box coordinates, (count, dim): a function of `f` and `seed` alone, drawn on the CPU."""
    points = vlse.sample_starts(f, count, torch.Generator().manual_seed(seed))
    return ((points - f.lower) / (f.upper - f.lower)).clamp(0, 1)


def _regrets(descents: Descents, functions: Sequence[Function]) -> Array:
    """Best value so far less the optimum, (budget, F, R, S); rounding below zero is cut off."""
    optima = torch.tensor([f.optimum for f in functions], dtype=torch.float64)
    best = descents.values.cpu().cummin(0).values
    regrets: Array = (best - optima[:, None, None]).clamp_min(0).numpy()
    return regrets


def _digits_gained(regrets: Array) -> Array:
    """Mean of -log10(final regret / regret of the start) over the starts, (F, R); a start at the optimum gains none."""
    first, final = regrets[0], regrets[-1]
    share = np.divide(final, first, out=np.ones_like(final), where=(first > 0) & np.isfinite(first))
    digits: Array = -np.log10(np.clip(share, FLOOR, 1)).mean(-1)
    return digits


def metric_rows(run: Run, rate: float, metric: str, value: Any, seed: Any = 0, step: Any = 0) -> pd.DataFrame:
    """Tidy rows of one metric; `value`, `seed` and `step` are broadcast against each other."""
    value, seed, step = np.broadcast_arrays(np.atleast_1d(value), seed, step)
    return pd.DataFrame(
        {
            "run": run.id,
            "study": run.study,
            "workload": run.workload,
            "optimizer": run.optimizer,
            "role": run.role,
            "learning_rate": rate,
            "seed": seed.ravel(),
            "step": step.ravel(),
            "metric": metric,
            "value": _rounded(value.ravel().astype(np.float64)),
        }
    )


def _rounded(values: Array) -> Array:
    """Four significant digits, in binary: the zeros that follow them halve the files."""
    mantissa, exponent = np.frexp(values)
    rounded: Array = np.ldexp(np.round(mantissa * 2**13) / 2**13, exponent)
    return rounded


def _regret_rows(run: Run, rate: float, regrets: Array) -> pd.DataFrame:
    """Regrets (budget, S) at the recorded evaluations."""
    budget, starts = regrets.shape
    steps = _recorded(budget)
    return metric_rows(run, rate, "regret", regrets[steps - 1].T, seed=np.arange(starts)[:, None], step=steps)


def _recorded(budget: int) -> Array:
    """Numbers of evaluations after which the regret is kept: evenly spread on a logarithmic axis, and the last."""
    steps = {*RECORDED, *(m * 10**k for m in RECORDED[-6:] for k in range(1, len(str(budget)))), budget}
    return np.array(sorted(step for step in steps if step <= budget))


def _diverged_rows(run: Run, rate: float, descents: Descents, i: int, j: int) -> pd.DataFrame:
    starts = descents.diverged[i, j].nonzero()[:, 0].cpu()
    made = descents.values[:, i, j, :].isfinite().sum(0).cpu()
    return metric_rows(run, rate, "diverged", np.ones(len(starts)), seed=starts.numpy(), step=made[starts].numpy())


def _path_rows(run: Run, rate: float, f: Function, path: Tensor) -> list[pd.DataFrame]:
    """Points (budget, 2) of one run in the function's own coordinates."""
    made = int(path[:, 0].isfinite().sum())
    kept = np.array([t for t in range(made) if t < PATH or t % 10 == 9])
    points = torch.lerp(f.lower, f.upper, path[kept, :2]).numpy()
    return [metric_rows(run, rate, f"x{axis}", points[:, axis], step=kept + 1) for axis in (0, 1)]
