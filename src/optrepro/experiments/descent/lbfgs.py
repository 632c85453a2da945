"""`torch.optim.LBFGS` with its line search, as a coroutine that waits for its evaluations.

Many runs can then share a call of the objective, and with few coordinates NumPy is ten times faster than tensors.
Points equal those of torch up to rounding.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Evaluation = tuple[Any, Array]  # a value, NumPy's float64, whose divisions by zero raise nothing; and a gradient
SUFFICIENT, CURVATURE = 1e-4, 0.9  # constants of the Wolfe conditions
SHORTEST = 1e-9  # length of a bracket, times the direction's largest entry, below which the line search ends


def search(
    x: Array,
    rate: float,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history_size: int = 100,
) -> Generator[Array, Evaluation, None]:
    """Yield the points at which to evaluate, without end; each is answered by value and gradient.

    After every `max_iter` iterations, a step of the optimizer, the point is projected into the unit box.

    Args:
        x: starting point, (d,).
        rate: factor on the first trial of each line search.
        max_iter, max_eval, tolerance_grad, tolerance_change, history_size: see `torch.optim.LBFGS`.
    """
    most = max_iter * 5 // 4 if max_eval is None else max_eval
    pairs: list[tuple[Array, Array, Any]] = []  # changes of the gradient and of the point, and 1 over their product
    shape: Any = np.float64(1)
    t: Any = np.float64(rate)
    d: Array | None = None
    before = np.zeros_like(x)
    while True:
        f, g = yield x
        made = 1
        for _ in range(max_iter if abs(g).max() > tolerance_grad else 0):
            if d is None:
                d, t = -g, min(np.float64(1), 1 / abs(g).sum()) * np.float64(rate)
            else:
                y, s = g - before, d * t
                if (ys := y @ s) > 1e-10:
                    pairs = [*pairs, (y, s, 1 / ys)][-history_size:]
                    shape = ys / (y @ y)
                d, t = _direction(g, pairs, shape), np.float64(rate)
            before, last = g, f
            slope = g @ d
            if slope > -tolerance_change:
                break
            f, g, t, used = yield from _strong_wolfe(x, t, d, f, g, slope, most - made)
            x = x + t * d
            made += used
            settled = abs(d * t).max() <= tolerance_change or abs(f - last) < tolerance_change
            if made >= most or settled or abs(g).max() <= tolerance_grad:
                break
        x = x.clip(0, 1)


def _direction(g: Array, pairs: list[tuple[Array, Array, Any]], shape: Any) -> Array:
    """Return minus the approximate inverse Hessian times the gradient, by the two loops over the pairs."""
    q: Array = -g
    weights: list[Any] = []
    for y, s, ro in reversed(pairs):
        weights.append(s @ q * ro)
        q = q - weights[-1] * y
    q = q * shape
    for (y, s, ro), weight in zip(pairs, reversed(weights), strict=True):
        q = q + s * (weight - y @ q * ro)
    return q


def _strong_wolfe(
    x: Array, t: Any, d: Array, f: Any, g: Array, slope: Any, most: int
) -> Generator[Array, Evaluation, tuple[Any, Array, Any, int]]:
    """Search along d from x, where value, gradient and slope are known, with at most `most` trials after the first.

    Returns value, gradient and length of the step, and the number of evaluations.
    """
    size, count = abs(d).max(), 0
    low = previous = (np.float64(0), f, g, slope)
    value, gradient = yield x + t * d
    new = (t, value, gradient, gradient @ d)
    high, done = new, False
    # Brackets an interval that holds a point of the Wolfe conditions. A trial is (length, value, gradient, slope).
    while count < most:
        t, value, gradient, incline = new
        if value > f + SUFFICIENT * t * slope or (count > 1 and value >= previous[1]):
            low, high = previous, new
            break
        if abs(incline) <= -CURVATURE * slope:
            low, done = new, True
            break
        if incline >= 0:
            low, high = previous, new
            break
        bounds = t + 0.01 * (t - previous[0]), t * 10
        following = _interpolate(previous, new, *bounds)
        previous = new
        value, gradient = yield x + following * d
        new = (following, value, gradient, gradient @ d)
        count += 1
    else:
        high = new
    bracket = [low, low if done else high]
    best = 0 if bracket[0][1] <= bracket[1][1] else 1
    stuck = False
    # Narrows the interval.
    while not done and count < most and not abs(bracket[1][0] - bracket[0][0]) * size < SHORTEST:
        least, largest = sorted((bracket[0][0], bracket[1][0]))
        t = _interpolate(bracket[0], bracket[1], least, largest)
        margin = 0.1 * (largest - least)
        if min(largest - t, t - least) < margin:
            if stuck or t >= largest or t <= least:
                t = largest - margin if abs(t - largest) < abs(t - least) else least + margin
                stuck = False
            else:
                stuck = True
        else:
            stuck = False
        value, gradient = yield x + t * d
        new = (t, value, gradient, gradient @ d)
        count += 1
        worst = 1 - best
        if value > f + SUFFICIENT * t * slope or value >= bracket[best][1]:
            bracket[worst] = new
            best = 0 if bracket[0][1] <= bracket[1][1] else 1
            continue
        if abs(new[3]) <= -CURVATURE * slope:
            done = True
        elif new[3] * (bracket[worst][0] - bracket[best][0]) >= 0:
            bracket[worst] = bracket[best]
        bracket[best] = new
    t, value, gradient, _ = bracket[best]
    return value, gradient, t, count + 1


def _interpolate(one: tuple[Any, ...], two: tuple[Any, ...], least: Any, largest: Any) -> Any:
    """Return the minimizer within bounds of the cubic through two trials, or the middle if it has none."""
    (x1, f1, _, g1), (x2, f2, _, g2) = (one, two) if one[0] <= two[0] else (two, one)
    d1 = g1 + g2 - 3 * (f1 - f2) / (x1 - x2)
    square = d1 * d1 - g1 * g2
    if not square >= 0:
        return (least + largest) / 2
    d2 = np.sqrt(square)
    return min(max(x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2)), least), largest)
