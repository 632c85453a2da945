"""Derivative-free references: searches of the unit box that use function values only.

They show what a budget achieves without gradients. Each method is an established implementation with its default
settings; comments mark the exceptions that budgets of a few dozen evaluations require.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Evaluate = Callable[[Array], float]

STEP_SIZE = 0.3  # initial step size of CMA-ES; the package recommends a quarter to a third of the box
GENERATIONS = 8  # of differential evolution per budget; best of 2 to 10 on the prior's functions in 2-D and 6-D


def search(method: str, evaluate: Evaluate, start: ArrayLike, budget: int, seed: int) -> Array:
    """Return the values of exactly `budget` evaluations in their order, (budget,) float64.

    The first evaluation is at the start. A method that stops early is restarted. Values that are not finite become
    infinite, for the method and in the result. No global random state is used.

    Args:
        method: a key of `METHODS`.
        evaluate: maps box coordinates (d,) float64 to a value; called only inside the box.
        start: starting point (d,) in box coordinates.
        budget: number of evaluations, at least 1.
        seed: seed of all random numbers.

    Raises: ValueError for an unknown method, a start outside the box, or a budget below 1.
    """
    start = np.asarray(start, dtype=np.float64)
    require(method)
    if start.ndim != 1 or start.size == 0 or not ((start >= 0) & (start <= 1)).all():
        raise ValueError(f"start = {start.tolist()} is not allowed; it must be one point with coordinates in [0, 1]")
    if budget < 1:
        raise ValueError(f"budget = {budget} is not allowed; it must be at least 1")
    counted = _Counted(evaluate, start, budget)
    try:
        METHODS[method](counted, start, budget, np.random.default_rng(seed))
    except _BudgetUsed:
        return np.array(counted.values)
    raise AssertionError(f"{method} returned before its budget was used")


def require(method: str) -> None:
    """Check that `METHODS` has the method. Raises: ValueError."""
    if method not in METHODS:
        raise ValueError(f"method = {method!r} is unknown; allowed are {sorted(METHODS)}")


class _BudgetUsed(Exception):
    """Ends a method when its budget is used."""


class _Counted:
    """The function that a method calls: it records values and ends the method when the budget is used."""

    def __init__(self, evaluate: Evaluate, start: Array, budget: int):
        self.evaluate, self.start, self.budget = evaluate, start, budget
        self.values: list[float] = []

    def __call__(self, point: ArrayLike) -> float:
        if len(self.values) == self.budget:
            raise _BudgetUsed
        # A method may convert a point to its own coordinates and back, which can change the last bit.
        inside = np.clip(np.asarray(point, dtype=np.float64), 0, 1) if self.values else self.start.copy()
        value = float(self.evaluate(inside))
        self.values.append(value if math.isfinite(value) else math.inf)
        return self.values[-1]


Method = Callable[[_Counted, Array, int, np.random.Generator], None]


def _random_search(evaluate: _Counted, start: Array, budget: int, rng: np.random.Generator) -> None:
    evaluate(start)
    while True:
        evaluate(rng.random(len(start)))


def _differential_evolution(evaluate: _Counted, start: Array, budget: int, rng: np.random.Generator) -> None:
    """Scipy's differential evolution (Storn and Price): best1bin, dithered, without polishing, which uses gradients."""
    from scipy.optimize import differential_evolution  # imported here because it takes a second
    from scipy.stats import qmc

    # With the usual ten points per coordinate, 50 evaluations would be two generations in 2-D and less than one in 6-D.
    # Scipy needs at least five points.
    size = max(5, min(10 * len(start), budget // GENERATIONS))
    sampler = qmc.LatinHypercube(len(start), rng=rng)
    population = sampler.random(size)
    population[0] = start
    box = [(0, 1)] * len(start)
    while True:
        differential_evolution(evaluate, box, init=population, maxiter=budget, polish=False, tol=0, rng=rng)
        population = sampler.random(size)


def _cma_es(evaluate: _Counted, start: Array, budget: int, rng: np.random.Generator) -> None:
    """Hansen's CMA-ES; the first mean is the start, that of a restart is uniform.

    The default population, 4 + 3 ln(d), is small enough: 50 evaluations in 2-D are 8 generations. The package does not
    support one dimension, so a 1-D problem gets a second coordinate without effect.
    """
    import cma  # imported here because it takes a second and loads matplotlib

    evaluate(start)
    options = {
        "bounds": [0, 1],
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": math.nan,  # leaves the global random state unchanged
        "verbose": -9,
    }
    dim = len(start)
    mean = start if dim > 1 else np.repeat(start, 2)
    while True:
        strategy = cma.CMAEvolutionStrategy(mean, STEP_SIZE, options)
        while not strategy.stop():
            points = strategy.ask()
            strategy.tell(points, [evaluate(point[:dim]) for point in points])
        mean = rng.random(len(mean))


def _tpe(evaluate: _Counted, start: Array, budget: int, rng: np.random.Generator) -> None:
    """Optuna's tree-structured Parzen estimator; the start is the first of its ten initial trials."""
    import optuna  # imported here because it is slow and only this method needs it

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=int(rng.integers(2**31))))
    unit: optuna.distributions.BaseDistribution = optuna.distributions.FloatDistribution(0, 1)
    box = {f"u{axis}": unit for axis in range(len(start))}
    study.enqueue_trial(dict(zip(box, start.tolist(), strict=True)))
    while True:
        trial = study.ask(box)
        study.tell(trial, evaluate([trial.params[axis] for axis in box]))


METHODS: Mapping[str, Method] = {
    "random-search": _random_search,
    "differential-evolution": _differential_evolution,
    "cma-es": _cma_es,
    "tpe": _tpe,
}
