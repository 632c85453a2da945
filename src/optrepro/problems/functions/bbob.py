"""COCO's BBOB: 24 noiseless functions with instances, of the package ``coco-experiment``, in the box [-5, 5]^d.

Problem i is function i mod 24 + 1, instance i div 24 + 1, so the first 24 are the first instance of every function. The
minimum is the exact one. The start is uniform in the box and depends on function, instance and dimension alone. COCO
has no gradients: they are central differences, whose evaluations are not counted.

Source: N. Hansen et al., COCO: a platform for comparing continuous optimizers in a black-box setting, Optimization
Methods and Software 36 (2021). The starts and the step of the differences are chosen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from optrepro.problems.functions.problem import Array, Problem
from optrepro.seeds import derive_seed

FUNCTIONS = 24
EDGE = 5.0  # the box is [-EDGE, EDGE]^d
STEP = 6e-6  # of the differences, in units of max(1, |x|): the cube root of the rounding unit balances both errors


def problems(count: int, dim: int) -> list[Problem]:
    """Return the first `count` problems in `dim` dimensions.

    Raises: ImportError if the package is not installed; ValueError for a dimension below 2.
    """
    if dim < 2:
        raise ValueError(f"dim = {dim} is not allowed: the functions of BBOB have at least 2 dimensions")
    return [_problem(i % FUNCTIONS + 1, i // FUNCTIONS + 1, dim) for i in range(count)]


def central_differences(value: Callable[[Array], float]) -> Callable[[Array], tuple[float, Array]]:
    """Return value and gradient of a function of a point (d,), the latter by 2 d more evaluations.

    The step of each coordinate is `STEP` max(1, |x|), so that the error is about `STEP`^2 of the value.
    """

    def evaluate(x: Array) -> tuple[float, Array]:
        step = STEP * np.maximum(1, np.abs(x))
        shifts = np.diag(step)
        rises = np.array([value(x + shift) - value(x - shift) for shift in shifts])
        return value(x), rises / (2 * step)

    return evaluate


def _problem(function: int, instance: int, dim: int) -> Problem:
    from cocoex import BareProblem

    bare = BareProblem("bbob", function, dim, instance)
    start = np.random.default_rng(derive_seed("bbob", function, instance, dim)).uniform(-EDGE, EDGE, dim)
    ends = np.full(dim, EDGE)
    return Problem(str(bare), start, -ends, ends, float(bare.best_value()), central_differences(bare))
