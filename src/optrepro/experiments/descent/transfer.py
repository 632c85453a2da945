"""Tunes optimizers once, on the prior's validation functions, and runs them and learned optimizers on all collections.

The tuning score is the goal of the policy's training: normalized improvement plus a weight times the decimal digits by
which the regret of the start shrinks, averaged over the validation functions. Optimizers other than policies see every
function divided by the root mean square of its first gradient; otherwise no rate would suit functions of different
scale. Their learning rates are then lengths in the box. Policies normalize their inputs themselves.

Derivative-free references are not tuned. Their budget is at most the one that the others are tuned for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from optrepro.experiments.base import factory
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import COLUMNS, Rows, joined, metric_rows
from optrepro.experiments.descent import batched, benchmark, derivative_free, fixed_sets, singly
from optrepro.experiments.descent.batched import Descent, Evaluate, Suite
from optrepro.experiments.descent.benchmark import Boxes, recorded
from optrepro.experiments.descent.singly import Singly
from optrepro.metalearning.pop import environment
from optrepro.optimizers._pop_policy import Policy
from optrepro.optimizers.pop import POP
from optrepro.problems.functions import outside, shifted
from optrepro.problems.functions.settings import PACKAGES
from optrepro.problems.functions.vlse import Function
from optrepro.seeds import derive_seed
from optrepro.settings import ConfigError
from optrepro.studies.base import Batch, Role, Run, Scale
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.transfer import Collection, TransferStudy

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Made(Descent):
    """Runs; those of a policy come with the learning rates that it chose, (budget, N, D)."""

    rates: Tensor | None = None


class Contender(Protocol):
    """An optimizer, a policy or a derivative-free reference."""

    def run(self, suite: Suite, rates: Tensor, budget: int) -> Made:
        """Run on every problem of a suite; only tuned contenders use the learning rates `rates`, (N,)."""
        ...


def run(study: TransferStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune an optimizer, then run it on every collection. Returns tidy rows.

    - Tuning runs have ``tuning_score``, ``improvement`` and ``digits``: means over the validation functions at the
      last evaluation.
    - Test runs have ``regret``, the best value so far minus the minimum, after `step` evaluations; `seed` is the index
      of the function, or of the start if the workload is one function. It is negative for a run that found less than
      an estimated minimum. ``diverged`` marks runs with a value or gradient that is not finite.
    - A function is described by ``range`` (largest value minus minimum); one of the prior also by ``kind``; one of the
      benchmark also by ``dimension``, ``smooth`` and ``group[...]``; one of an outside collection by ``dimension``
      alone. An outside collection whose package is not installed leaves no rows.
    - On benchmark functions of two variables, ``x0`` and ``x1`` are the points evaluated from the first start, and
      ``best_evaluation`` is the number of the best one. ``rate_median``, ``rate_lower`` and ``rate_upper`` are median
      and quartiles of log10 of a policy's learning rates over starts and coordinates.
    """
    job = _Job(study, batch, context)
    names = list(study.collections)
    with context.checkpoint.listening():
        state: dict[str, Any] = context.checkpoint.load() or {"parts": [], "rate": float("nan")}
        for part in range(len(state["parts"]), 1 + len(names)):
            context.checkpoint.step(lambda: state)
            if part == 0:
                rows, state["rate"] = job.tune()
            else:
                rows = job.test(names[part - 1], state["rate"])
            state["parts"].append(rows.to_dict("list"))
            context.progress(part + 1, 1 + len(names), batch.name)
    table = pd.concat([pd.DataFrame(part) for part in state["parts"]], ignore_index=True)
    return table.reindex(columns=list(COLUMNS))  # a reference without an installed collection has no rows at all


def prepare(study: TransferStudy, batches: Sequence[Batch], scale: Scale) -> None:
    """Sample the functions that all contenders run on, and estimate the largest values of the benchmark's."""
    fixed_sets.fixed(study.prior, scale.seed, "validation", study.validation_functions, 2)
    for collection in study.collections.values():
        if collection.source == "prior":
            fixed_sets.fixed(study.prior, scale.seed, "test", collection.count, collection.dim)
        elif collection.source == "vlse":
            for function in study.functions:
                _ = benchmark.get(function, collection.dim).largest
        elif outside.installed(collection.source):
            singly.of(collection.source, collection.count, collection.dim)


def attempts(study: TransferStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield attempts to find every reference, every shifted collection, and every outside one that is installed."""
    for name, reference in study.references.items():
        yield f"references.{name}", partial(derivative_free.require, reference.method)
    for name, collection in study.collections.items():
        if collection.source in shifted.NAMES:
            yield f"collections.{name}", partial(shifted.get, collection.source, 0, 1, collection.dim)
        elif outside.installed(collection.source):
            yield f"collections.{name}", partial(singly.of, collection.source, 1, collection.dim)


def attempt_learned(row: OptimizerConfig) -> None:
    """Try to load the policy of a row, or check its class if a study still has to train it."""
    if row.trained is not None:
        require_pop(row)
    else:
        policy_of(row)


class _Job:
    """The runs of one contender on all problems of a study."""

    def __init__(self, study: TransferStudy, batch: Batch, context: Context):
        assert batch.optimizer is not None
        self.study, self.name, self.seed = study, batch.optimizer, context.seed
        self.runs = {(run.workload, run.role, run.learning_rate): run for run in batch.runs}
        self.tuned = self.name in study.optimizers and study.optimizers[self.name].group != "policy"
        self.contender: Contender
        if self.name in study.references:
            self.contender = _Search(study.references[self.name].method, context.seed)
        elif self.tuned:
            self.contender = _Optimizer(study.entry(self.name), context.seed)
        else:
            row = study.entry(self.name)
            assert row.trained is None or context.weights is not None
            self.contender = _Learned(policy_of(row, context.weights))

    def tune(self) -> tuple[pd.DataFrame, float]:
        """Return the rows of the tuning runs, and the learning rate with the highest score (the smallest of equals)."""
        if self.name in self.study.references:
            return pd.DataFrame(), float("nan")
        study = self.study
        problems = fixed_sets.fixed(study.prior, self.seed, "validation", study.validation_functions, 2)
        suite = _Sampled(problems.functions, problems.start, problems.extrema.minimum)
        rows, scores = [], []
        grid: tuple[float | None, ...] = study.grid(self.name) if self.tuned else (None,)
        for rate in grid:
            made = self.contender.run(suite, _equal(rate or np.nan, len(suite.start)), study.budget)
            facts = self._scores(_regrets(made, suite.optima))
            row = self.runs["prior-validation", "tune", rate]
            scores.append(facts["tuning_score"].mean())
            for metric, values in facts.items():
                rows.append(metric_rows(row, rate or np.nan, metric, values.mean(), step=study.budget))
        return joined(rows), float(grid[int(np.argmax(scores))] or np.nan)

    def test(self, name: str, rate: float) -> pd.DataFrame:
        """Return the rows of the test runs on a collection."""
        collection = self.study.collections[name]
        budget = min(collection.budget, self.study.budget) if self.name in self.study.references else collection.budget
        if collection.source == "vlse":
            return self._test_benchmark(name, collection, rate, budget)
        if outside.missing(collection.source):
            return pd.DataFrame()
        suite, facts = self._sampled(name, collection)
        if self.name in self.study.references:
            suite = suite[: self.study.reference_count]
        made = self.contender.run(suite, _equal(rate, len(suite.start)), budget)
        row = self.runs[name, "test", None]
        rows = [self._regret_rows(row, rate, _regrets(made, suite.optima)), _diverged_rows(row, rate, made, 0)]
        count = np.arange(len(suite.start))
        rows += [metric_rows(row, rate, metric, values[count], seed=count) for metric, values in facts.items()]
        return joined(rows)

    def _sampled(self, name: str, collection: Collection) -> tuple[_Sampled | Singly, dict[str, Array]]:
        """Return problems with one start each, and the facts about them."""
        if collection.source in PACKAGES:
            singles = singly.of(collection.source, collection.count, collection.dim)
            return singles, {"dimension": singles.valid.sum(-1).numpy()}
        if collection.source == "prior":
            found = fixed_sets.fixed(self.study.prior, self.seed, "test", collection.count, collection.dim)
            extrema = found.extrema
            facts = {"range": (extrema.maximum - extrema.minimum).numpy(), "kind": found.functions.kind.numpy()}
            return _Sampled(found.functions, found.start, extrema.minimum), facts
        seed = derive_seed(self.seed, "shifted", name)
        problems = shifted.get(collection.source, seed, collection.count, collection.dim)
        generator = torch.Generator().manual_seed(derive_seed(seed, "starts"))
        start = torch.rand(collection.count, collection.dim, generator=generator, dtype=torch.float64)
        return _Sampled(problems, start, problems.minimum), {"range": (problems.maximum - problems.minimum).numpy()}

    # --- The benchmark -----------------------------------------------------------------------------------------------

    def _test_benchmark(self, name: str, collection: Collection, rate: float, budget: int) -> pd.DataFrame:
        fs = [benchmark.get(f, collection.dim) for f in self.study.functions]
        count = collection.count
        if self.name in self.study.references:
            count = min(count, self.study.reference_starts)
        rows = self._benchmark_rows(name, fs, count, _equal(rate, len(fs)), budget)
        if not (self.tuned and collection.each):
            return rows
        rates, tuning = self._tune_each(f"{name}-each", fs, collection.each)
        return pd.concat([rows, tuning, self._benchmark_rows(f"{name}-each", fs, count, rates, self.study.budget)])

    def _boxes(self, name: str, fs: list[Function], role: Role, count: int, repeats: int = 1) -> Boxes:
        """Make a suite of each function from `count` starts, repeated `repeats` times."""
        seeds = [
            next(r.seed for r in self.runs.values() if (r.workload, r.role) == (f"{name}/{f.name}", role)) for f in fs
        ]
        starts = [benchmark.starts_of(f, count, seed) for f, seed in zip(fs, seeds, strict=True)]
        return Boxes(fs, [start.repeat(repeats, 1) for start in starts])

    def _tune_each(self, name: str, fs: list[Function], count: int) -> tuple[Tensor, pd.DataFrame]:
        """Tune on each function; return the learning rates (F,) and the rows of the tuning runs."""
        grid = torch.tensor(self.study.grid(self.name), dtype=torch.float64)
        suite = self._boxes(name, fs, "tune", count, repeats=len(grid))
        rates = grid[:, None].expand(len(fs), -1, count).flatten()
        made = self.contender.run(suite, rates, self.study.budget)
        scores = self._scores(_regrets(made, suite.optima))["tuning_score"].reshape(len(fs), len(grid), count).mean(-1)
        rows = [
            metric_rows(
                self.runs[f"{name}/{f.name}", "tune", rate], rate, "tuning_score", scores[i, j], step=self.study.budget
            )
            for i, f in enumerate(fs)
            for j, rate in enumerate(grid.tolist())
        ]
        return grid[torch.from_numpy(scores.argmax(-1))], joined(rows)

    def _benchmark_rows(self, name: str, fs: list[Function], count: int, rates: Tensor, budget: int) -> pd.DataFrame:
        suite = self._boxes(name, fs, "test", count)
        made = self.contender.run(suite, rates.repeat_interleave(count), budget)
        regrets = _regrets(made, suite.optima).clip(0)  # the minima are exact, so a negative regret is rounding
        rows = []
        for i, f in enumerate(fs):
            mine = slice(i * count, (i + 1) * count)
            row, rate = self.runs[f"{name}/{f.name}", "test", None], float(rates[i])
            rows += [self._regret_rows(row, rate, regrets[:, mine]), _diverged_rows(row, rate, made, mine.start, count)]
            facts = {"dimension": f.dim, "range": f.largest - f.optimum, "smooth": f.smooth, f"group[{f.group}]": 1}
            rows += [metric_rows(row, rate, metric, value) for metric, value in facts.items()]
            rows += self._picture_rows(row, rate, f, made, mine)
        return joined(rows)

    def _picture_rows(self, row: Run, rate: float, f: Function, made: Made, mine: slice) -> list[Rows]:
        """Make rows of the first start's path (2-D only) and of a policy's learning rates, up to the tuned budget."""
        rows = []
        if f.dim == 2:
            points = made.points[: self.study.budget, mine.start, :2]
            path = torch.lerp(f.lower, f.upper, points[points[:, 0].isfinite()]).numpy()
            steps = np.arange(1, len(path) + 1)
            rows += [metric_rows(row, rate, f"x{k}", path[:, k], step=steps) for k in (0, 1)]
            best = int(made.values[: self.study.budget, mine.start].argmin()) + 1
            rows.append(metric_rows(row, rate, "best_evaluation", best))
        if made.rates is not None:
            rates = made.rates[: self.study.budget, mine, : f.dim].flatten(1).log10().numpy()
            rates = rates[np.isfinite(rates).any(1)]  # leaves out steps at which no run has a finite rate
            steps = np.arange(1, len(rates) + 1)
            for metric, quantile in (("rate_lower", 0.25), ("rate_median", 0.5), ("rate_upper", 0.75)):
                rows.append(metric_rows(row, rate, metric, np.nanquantile(rates, quantile, axis=1), step=steps))
        return rows

    # --- Rows --------------------------------------------------------------------------------------------------------

    def _scores(self, regrets: Array) -> dict[str, Array]:
        """Return improvement, digits and tuning score of every run, (N,), from regrets (budget, N)."""
        improvement, digits = fixed_sets.progress(regrets)
        return {
            "tuning_score": improvement + self.study.log_regret * digits,
            "improvement": improvement,
            "digits": digits,
        }

    def _regret_rows(self, row: Run, rate: float, regrets: Array) -> Rows:
        steps = recorded(len(regrets))
        seeds = np.arange(regrets.shape[1])[:, None]
        return metric_rows(row, rate, "regret", regrets[steps - 1].T, seed=seeds, step=steps)


def _equal(rate: float, count: int) -> Tensor:
    return torch.full((count,), rate, dtype=torch.float64)


def _regrets(made: Made, optima: Tensor) -> Array:
    """Return best value so far minus minimum, (budget, N)."""
    regrets: Array = (made.values.cummin(0).values - optima).numpy()
    return regrets


def _diverged_rows(row: Run, rate: float, made: Made, first: int, count: int | None = None) -> Rows:
    mine = slice(first, None if count is None else first + count)
    seeds = made.diverged[mine].nonzero()[:, 0]
    evaluations = made.values[:, mine].isfinite().sum(0)[seeds]
    return metric_rows(row, rate, "diverged", np.ones(len(seeds)), seed=seeds.numpy(), step=evaluations.numpy())


# --- Contenders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Optimizer:
    """A torch optimizer, on functions divided by the root mean square of their first gradient."""

    config: OptimizerConfig
    seed: int

    def run(self, suite: Suite, rates: Tensor, budget: int) -> Made:
        scaled = _Scaled(suite)
        made = batched.descend(self.config, scaled, rates, budget, self.seed)
        return Made(made.values * scaled.scale, made.points, made.diverged)


@dataclass(frozen=True)
class _Learned:
    policy: Policy

    def run(self, suite: Suite, rates: Tensor, budget: int) -> Made:
        rollout = environment.roll_out(self.policy, suite.evaluate, suite.start, budget, suite.valid)
        finite = rollout.values.isfinite()
        return Made(rollout.values.where(finite, torch.inf), rollout.points, ~finite.all(0), rollout.rates)


@dataclass(frozen=True)
class _Search:
    """A derivative-free method, run on one problem after the other."""

    method: str
    seed: int

    def run(self, suite: Suite, rates: Tensor, budget: int) -> Made:
        count, width = suite.start.shape
        values = torch.empty(budget, count, dtype=torch.float64)
        points = torch.full((budget, count, width), torch.nan, dtype=torch.float64)
        for row, dim in enumerate(suite.valid.sum(-1).tolist()):
            visited: list[Array] = []
            evaluate = suite.one(row)

            def value(u: Array, evaluate: Evaluate = evaluate, visited: list[Array] = visited) -> float:
                visited.append(u)
                return float(evaluate(torch.from_numpy(u))[0])

            start = suite.start[row, :dim].numpy()
            made = derivative_free.search(self.method, value, start, budget, derive_seed(self.seed, row) % 2**32)
            values[:, row] = torch.from_numpy(made)
            points[:, row, :dim] = torch.from_numpy(np.stack(visited))
        return Made(values, points, torch.zeros(count, dtype=torch.bool))


def policy_of(row: OptimizerConfig, weights: Path | None = None) -> Policy:
    """Load the policy of a row: from `weights` if a study trains it, otherwise the one that the row names.

    Raises: ConfigError if the row's class is not POP; FileNotFoundError or ValueError for a bad policy.
    """
    require_pop(row)
    return POP.from_pretrained(row.settings.get("policy", "pop") if weights is None else weights)


def require_pop(row: OptimizerConfig) -> None:
    """Check that the class of a row of group policy is POP. Raises: ConfigError."""
    if not issubclass(factory.optimizer_class(row.class_), POP):
        raise ConfigError(
            f"class = {row.class_!r} is not allowed: a row of group policy must be optrepro.optimizers.POP"
        )


# --- Problems --------------------------------------------------------------------------------------------------------


class _Sampled:
    """Sampled functions with one start each, as a `batched.Suite`."""

    def __init__(self, problems: Any, start: Tensor, optima: Tensor):
        self.problems, self.start, self.optima = problems, start, optima
        self.valid = torch.ones_like(start, dtype=torch.bool)
        self.evaluate = environment.of(problems)

    def __getitem__(self, rows: slice) -> _Sampled:
        return _Sampled(self.problems[rows], self.start[rows], self.optima[rows])

    def one(self, row: int) -> Evaluate:
        """Return the function of one row alone."""
        evaluate = environment.of(self.problems[row : row + 1])

        def single(u: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = evaluate(u[None])
            return value[0], gradient[0]

        return single


class _Scaled:
    """A suite with each function divided by the root mean square of its gradient at the start."""

    def __init__(self, suite: Suite):
        self.suite, self.start, self.valid = suite, suite.start, suite.valid
        gradient = suite.evaluate(suite.start)[1]
        scale = (gradient.square().sum(-1) / suite.valid.sum(-1)).sqrt()
        self.scale = torch.where(scale.isfinite() & (scale > 0), scale, 1)
        self.optima = suite.optima / self.scale

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.suite.evaluate(u)
        return value / self.scale, gradient / self.scale[:, None]

    def one(self, row: int) -> Evaluate:
        evaluate, scale = self.suite.one(row), self.scale[row]

        def single(u: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = evaluate(u)
            return value / scale, gradient / scale

        return single
