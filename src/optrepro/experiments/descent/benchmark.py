"""Benchmark functions in box coordinates: an optimizer is tuned on each function, then run from other starts.

A box coordinate is u = (x - lower) / (upper - lower), so that every function is defined on [0, 1]^d and step lengths
are comparable. `batched` says how runs are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from optrepro.conventions import FLOOR
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Rows, joined, metric_rows
from optrepro.experiments.descent import batched
from optrepro.experiments.descent.batched import Descent, Evaluate
from optrepro.problems.functions import vlse
from optrepro.problems.functions.vlse import Function
from optrepro.studies.base import Batch, Role, Run, Scale
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.functions import FunctionsStudy

Array = NDArray[np.float64]

RECORDED = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70)  # recorded evaluations; then 10, 100, ... times the last six
PATH = 50  # first points of a path that are all kept; of the later ones every tenth is


@dataclass(frozen=True)
class Descents:
    """Runs of one optimizer on F functions, with R learning rates on each, from S starts.

    Attributes:
        values: value at each evaluation, (budget, F, R, S) float64; infinite if it was not finite or not made.
        paths: points evaluated from the first start, (budget, F, R, D), in box coordinates; NaN if not made.
        diverged: whether the run stopped at a value or gradient that is not finite, (F, R, S) bool.
    """

    values: Tensor
    paths: Tensor
    diverged: Tensor


def run(study: FunctionsStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune on the tuning starts, then run from the test starts with the tuned rate. Returns tidy rows.

    - Tuning runs, one per function and rate, have ``tuning_score``: the mean number of decimal digits by which they
      reduce the regret of the start, at most 12. The rate with the highest score is tuned, of equal ones the smallest.
    - Test runs have ``regret``: best value so far minus optimum, with `step` the number of evaluations and `seed` the
      index of the start; in two dimensions also ``x0`` and ``x1``, the points evaluated from the first start.
    - Both have a row ``diverged`` for each start whose run stopped at a value or gradient that is not finite, with
      `step` the last finite evaluation.
    - Test runs also describe the function for the analysis: ``dimension``, ``range`` (largest value minus optimum),
      ``smooth`` and ``group[...]``.
    """
    assert batch.optimizer is not None
    optimizer = study.entry(batch.optimizer)
    functions = [get(name, study.dimension) for name in study.functions]
    together = batched.row_wise(optimizer)
    # Single problems cannot fill a GPU; they run on the CPU, and are saved one by one because they take long.
    device = context.device if together else torch.device("cpu")
    chunks = [functions] if together else [[f] for f in functions]
    with context.checkpoint.listening():
        done: list[dict[Any, Any]] = (context.checkpoint.load() or {"done": []})["done"]
        for chunk in chunks[len(done) :]:
            context.checkpoint.step(lambda: {"done": done})
            done.append(_tune_and_test(study, batch, optimizer, chunk, device).to_dict("list"))
            context.progress(len(done), len(chunks), batch.name)
    return pd.concat([pd.DataFrame(part) for part in done], ignore_index=True)


def prepare(study: FunctionsStudy, batches: Sequence[Batch], scale: Scale) -> None:
    """Estimate the largest value of every function, to which all optimizers' results are related."""
    for name in study.functions:
        _ = get(name, study.dimension).largest


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
        optimizer: class and settings of the optimizer.
        functions: F functions.
        starts: starting points of each function, (S, dim), in box coordinates.
        rates: learning rates of each function, (F, R).
        budget: number of evaluations in a run.
        seed: seed of optimizers that draw random numbers.
    """
    return _descend(batched.descend, optimizer, functions, starts, rates, budget, seed)


def _descend(
    route: Callable[..., Descent],
    optimizer: OptimizerConfig,
    functions: Sequence[Function],
    starts: Sequence[Tensor],
    rates: Tensor,
    budget: int,
    seed: int,
) -> Descents:
    shape = (*rates.shape, len(starts[0]))
    repeated = [start.repeat(shape[1], 1) for start in starts]
    made = route(optimizer, Boxes(functions, repeated), rates[..., None].expand(shape).flatten(), budget, seed)
    first = made.points.view(budget, *shape, -1)[:, :, :, 0]
    return Descents(made.values.view(budget, *shape), first, made.diverged.view(shape))


class Boxes:
    """Functions on their unit boxes, as a `batched.Suite` with one row per start, function by function."""

    def __init__(self, functions: Sequence[Function], starts: Sequence[Tensor]):
        self.functions, self.rows = functions, len(starts[0])
        self.start = _padded(starts).flatten(0, 1).contiguous()
        like = self.start
        self.lower = _padded([f.lower[None] for f in functions]).to(like).flatten(0, 1).repeat_interleave(self.rows, 0)
        self.upper = _padded([f.upper[None] for f in functions]).to(like).flatten(0, 1).repeat_interleave(self.rows, 0)
        self.optima = like.new_tensor([f.optimum for f in functions]).repeat_interleave(self.rows)
        dims = torch.tensor([f.dim for f in functions], device=like.device).repeat_interleave(self.rows)
        self.valid = torch.arange(like.shape[-1], device=like.device) < dims[:, None]

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (N,) and gradients (N, D) at box coordinates `u`, (N, D)."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            slabs = torch.lerp(self.lower, self.upper, u).view(len(self.functions), self.rows, -1)
            values = torch.cat([f(slab[:, : f.dim]) for f, slab in zip(self.functions, slabs, strict=True)])
            (gradient,) = torch.autograd.grad(values.sum(), u)
        return values.detach(), gradient

    def one(self, row: int) -> Evaluate:
        """Return the function of one row alone, for points on the CPU."""
        f = self.functions[row // self.rows]

        def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                point = u.clone().requires_grad_()
                value = f(torch.lerp(f.lower, f.upper, point))
            (gradient,) = torch.autograd.grad(value, point)
            return value.detach(), gradient

        return evaluate


def get(name: str, dimension: int) -> Function:
    """Return the function in `dimension`, or in its own dimension if it is not defined in that one."""
    try:
        return vlse.get(name, dimension)
    except ValueError:
        return vlse.get(name)


def _padded(points: Sequence[Tensor]) -> Tensor:
    """Stack F tensors (S, d) with different d to one (F, S, D), D being the largest d, padded with zeros."""
    width = max(p.shape[-1] for p in points)
    return torch.stack([torch.nn.functional.pad(p, (0, width - p.shape[-1])) for p in points])


# --- Protocol and rows -----------------------------------------------------------------------------------------------


def _tune_and_test(
    study: FunctionsStudy, batch: Batch, optimizer: OptimizerConfig, functions: Sequence[Function], device: torch.device
) -> pd.DataFrame:
    runs = {(run.workload, run.role, run.learning_rate): run for run in batch.runs}
    grid = study.grid(str(batch.optimizer))

    def descents(role: Role, count: int, rates: Tensor) -> Descents:
        seeds = [next(run.seed for run in batch.runs if (run.workload, run.role) == (f.name, role)) for f in functions]
        starts = [starts_of(f, count, seed).to(device) for f, seed in zip(functions, seeds, strict=True)]
        return descend(optimizer, functions, starts, rates, study.budget, seed=seeds[0])

    tuning = descents("tune", study.tuning_starts, torch.tensor(grid, dtype=torch.float64).expand(len(functions), -1))
    scores = _digits_gained(_regrets(tuning, functions))
    chosen = [grid[best] for best in scores.argmax(-1)]  # argmax takes the first of equals
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
    return joined(rows)


def starts_of(f: Function, count: int, seed: int) -> Tensor:
    """Draw uniform starts in box coordinates, (count, dim), on the CPU; they depend only on `f` and `seed`."""
    points = vlse.sample_starts(f, count, torch.Generator().manual_seed(seed))
    return ((points - f.lower) / (f.upper - f.lower)).clamp(0, 1)


def _regrets(descents: Descents, functions: Sequence[Function]) -> Array:
    """Return best value so far minus optimum, (budget, F, R, S), clipped at zero because of rounding."""
    optima = torch.tensor([f.optimum for f in functions], dtype=torch.float64)
    best = descents.values.cpu().cummin(0).values
    regrets: Array = (best - optima[:, None, None]).clamp_min(0).numpy()
    return regrets


def _digits_gained(regrets: Array) -> Array:
    """Return the mean over starts of -log10(final regret / regret of the start), (F, R); an optimal start counts 0."""
    first, final = regrets[0], regrets[-1]
    share = np.divide(final, first, out=np.ones_like(final), where=(first > 0) & np.isfinite(first))
    digits: Array = -np.log10(np.clip(share, FLOOR, 1)).mean(-1)
    return digits


def _regret_rows(run: Run, rate: float, regrets: Array) -> Rows:
    """Make rows of the regrets (budget, S) at the recorded evaluations."""
    budget, starts = regrets.shape
    steps = recorded(budget)
    return metric_rows(run, rate, "regret", regrets[steps - 1].T, seed=np.arange(starts)[:, None], step=steps)


def recorded(budget: int) -> Array:
    """Return the numbers of evaluations at which regret is recorded: about even on a logarithmic axis, and the last."""
    steps = {*RECORDED, *(m * 10**k for m in RECORDED[-6:] for k in range(1, len(str(budget)))), budget}
    return np.array(sorted(step for step in steps if step <= budget))


def _diverged_rows(run: Run, rate: float, descents: Descents, i: int, j: int) -> Rows:
    starts = descents.diverged[i, j].nonzero()[:, 0].cpu()
    made = descents.values[:, i, j, :].isfinite().sum(0).cpu()
    return metric_rows(run, rate, "diverged", np.ones(len(starts)), seed=starts.numpy(), step=made[starts].numpy())


def _path_rows(run: Run, rate: float, f: Function, path: Tensor) -> list[Rows]:
    """Make rows of the points (budget, 2) of one run, in the function's own coordinates."""
    made = int(path[:, 0].isfinite().sum())
    kept = np.array([t for t in range(made) if t < PATH or t % 10 == 9])
    points = torch.lerp(f.lower, f.upper, path[kept, :2]).numpy()
    return [metric_rows(run, rate, f"x{axis}", points[:, axis], step=kept + 1) for axis in (0, 1)]
