"""A single problem of a collection that others published, evaluated by NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A function of d variables in a box, with the start that belongs to it.

    Attributes:
        name: name in its collection.
        start, lower, upper: start and ends of the box, (d,), lower < upper in each coordinate.
        minimum: smallest value in the box, or an estimate of it.
        value_and_gradient: maps a point (d,) to its value and gradient (d,), which are not finite where the function
            is not defined.
    """

    name: str
    start: Array
    lower: Array
    upper: Array
    minimum: float
    value_and_gradient: Callable[[Array], tuple[float, Array]]
