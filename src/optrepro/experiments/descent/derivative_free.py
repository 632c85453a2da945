"""Derivative-free references: searches of the unit box that see function values alone.

They say what a budget buys without gradients. Each is the well-kept implementation of its package at its default
settings, save for what a budget of some tens of evaluations asks for, which is said where it is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import differential_evolution
from scipy.stats import qmc

Array = NDArray[np.float64]
Evaluate = Callable[[Array], float]

STEP_SIZE = 0.3  # of CMA-ES at first: the package advises a quarter to a third of the box
GENERATIONS = 8  # of differential evolution in a budget; of 2 to 10 the best on the prior's functions, in 2-D and 6-D


def search(method: str, evaluate: Evaluate, start: ArrayLike, budget: int, seed: int) -> Array:
    """Values of exactly `budget` evaluations, in the order in which they were made, (budget,) float64.

    The first evaluation is at the start. A method that gives up early begins anew. Values that are not finite are
    infinite, for the method and in the result. No global random state is used.

    Args:
        method: a key of `METHODS`.
        evaluate: box coordinates (d,) float64 to a value; called in the box only.
        start: box coordinates (d,).
        budget: evaluations.
        seed: of all that is drawn.

    Raises: ValueError for an unknown method, a start that is not in the box, and a budget below 1.
    """
    start = np.asarray(start, dtype=np.float64)
    require(method)
    if start.ndim != 1 or start.size == 0 or not ((start >= 0) & (start <= 1)).all():
        raise ValueError(f"start = {start.tolist()} must be one point in the box, all coordinates in [0, 1].")
    if budget < 1:
        raise ValueError(f"budget = {budget} must be at least 1.")
    counted = _Counted(evaluate, start, budget)
    try:
        METHODS[method](counted, start, budget, np.random.default_rng(seed))
    except _BudgetUsed:
        return np.array(counted.values)
    raise AssertionError(f"{method} returned before its budget was used")


def require(method: str) -> None:
    """Refuse an unknown method. Raises: ValueError."""
    if method not in METHODS:
        raise ValueError(f"method = {method!r} is unknown; there are {sorted(METHODS)}")


class _BudgetUsed(Exception):
    """Leaves a method, wherever it is."""


class _Counted:
    """The function, as a method sees it."""

    def __init__(self, evaluate: Evaluate, start: Array, budget: int):
        self.evaluate, self.start, self.budget = evaluate, start, budget
        self.values: list[float] = []

    def __call__(self, point: ArrayLike) -> float:
        if len(self.values) == self.budget:
            raise _BudgetUsed
        # A method may scale a point to coordinates of its own and back, which costs the last bit.
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
    """Storn and Price, as in scipy: best1bin with dithered mutation, without the polish, which is a gradient method."""
    # Ten points for each coordinate are usual, but then 50 evaluations are two generations in 2-D, and less than one in
    # 6-D. Five are the fewest that scipy allows.
    size = max(5, min(10 * len(start), budget // GENERATIONS))
    sampler = qmc.LatinHypercube(len(start), rng=rng)
    population = sampler.random(size)
    population[0] = start
    box = [(0, 1)] * len(start)
    while True:
        differential_evolution(evaluate, box, init=population, maxiter=budget, polish=False, tol=0, rng=rng)
        population = sampler.random(size)


def _cma_es(evaluate: _Counted, start: Array, budget: int, rng: np.random.Generator) -> None:
    """Hansen's CMA-ES: the start is the first mean, that of a restart is uniform.

    The default population, 4 + 3 ln(d), is small enough: in two dimensions 50 evaluations are 8 generations. The
    package does not support one dimension: there, a second coordinate is added that changes nothing.
    """
    import cma  # takes a second, and loads matplotlib

    evaluate(start)
    options = {
        "bounds": [0, 1],
        "randn": lambda *shape: rng.standard_normal(shape),
        "seed": math.nan,  # leave the global random state alone
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
    """Optuna's tree-structured Parzen estimator; the start is the first of its ten trials at random."""
    import optuna  # only here: no other study needs to wait for it

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
