"""Statistics of functions on the unit box, to compare collections.

They do not change if values are multiplied by a positive factor or shifted, so that collections in different units can
be compared. Source: chosen; they measure properties that make functions hard for gradient descent.
"""

from __future__ import annotations

import math
from typing import Protocol, Self

import torch
from torch import Tensor

from optrepro.problems.functions.shifted import Formulas, sobol
from optrepro.problems.functions.vlse import Function

STARTS = 64  # number of local descents
STEPS = 100  # largest number of steps of a descent
REACH = 0.05  # longest step along a coordinate, so that a descent ends in the basin where it starts
SETTLED = 1e-6  # length of a Newton step below which a point is a minimum
SAME = 0.01  # ends of descents that are nearer than this in every coordinate count as one minimum
LEVEL = 1e-8  # largest difference of equally deep minima, as a share of the range of values
NEAR = 0.01  # distance at which gradients are compared
FAR = 0.1  # distance at which values are compared
ROUNDING = 1e-12  # smaller ratios are rounding
CHUNK = 16  # number of functions at a time; small, because converged ones wait for the others


class Problems(Protocol):
    """n functions on the unit box [0, 1]^d, with points of shape (n, p, d)."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> Self: ...
    @property
    def dim(self) -> int: ...  # noqa: D102
    def value(self, u: Tensor, /) -> Tensor: ...  # noqa: D102
    def value_and_gradient(self, u: Tensor, /) -> tuple[Tensor, Tensor]: ...  # noqa: D102
    def hessian(self, u: Tensor, /) -> Tensor: ...  # noqa: D102


def describe(problems: Problems | Function, seed: int, points: int) -> dict[str, Tensor]:
    """Return statistics of each function, (n,) float64; NaN where a statistic is not defined.

    - ``condition``: median over the points of log10 of the ratio of the Hessian's largest and smallest absolute
      eigenvalue.
    - ``minimum_condition``: the same at the lowest end of the descents.
    - ``nonconvexity``: share of negative eigenvalues of the Hessians.
    - ``gradient_spread``: log10 of the ratio of the 90 % and 10 % quantiles of the gradient's norm.
    - ``gradient_turn``: log10 of the median angle, divided by pi, between gradients at points at distance `NEAR`.
    - ``correlation``: correlation between values at points at distance `FAR`.
    - ``skewness``: (mean - median) / standard deviation of the values, in [-1, 1].
    - ``median_position``: log10 of (median - smallest) / (largest - smallest) of the values.
    - ``minima``: log10 of the number of local minima in which descents from `STARTS` points end.
    - ``funnel``: share of these descents that end in the lowest minimum found, or in one equally deep.

    Ratios of eigenvalues and of norms are at most 1e12. Gradients are those that an optimizer gets; Hessians and
    descents use the values, without any noise of the gradients.

    Args:
        problems: a batch of functions, or one function of the benchmark.
        seed: seed of the points.
        points: number of quasi-random points in the box, at least 2.

    Raises: ValueError for fewer than 2 points.
    """
    if points < 2:
        raise ValueError(f"points = {points} is not allowed; it must be at least 2")
    if isinstance(problems, Function):
        problems = boxed(problems)
    parts = [_describe(problems[i : i + CHUNK], seed, points) for i in range(0, len(problems), CHUNK)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def boxed(f: Function) -> Formulas:
    """Turn a function of the benchmark into a batch of one in box coordinates."""

    def formula(u: Tensor) -> Tensor:
        return f(torch.lerp(f.lower.to(u), f.upper.to(u), u))

    ends = (torch.tensor([value], dtype=torch.float64) for value in (f.optimum, f.largest))
    return Formulas(formula, {}, f.dim, *ends)


def descend(problems: Problems, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Descend locally in the box from points (n, p, d), by trust-region steps with the Hessian's absolute values.

    Returns the ends (n, p, d), their values (n, p), and the lengths (n, p) of their Newton steps, 0 at a minimum.
    """
    value, step = _newton(problems, u)
    radius = torch.full_like(value, REACH)
    for _ in range(STEPS):
        length = step.abs().amax(-1)
        if (length < SETTLED).all():
            break
        shortened = step * (radius / length.clamp_min(1e-300)).clamp_max(1)[..., None]
        tried = (u - shortened).clamp(0, 1)
        tried_value, tried_step = _newton(problems, tried)
        better = tried_value < value
        radius = torch.where(better, (2 * radius).clamp_max(REACH), torch.minimum(radius, length) / 4)
        u, step = (torch.where(better[..., None], *pair) for pair in ((tried, u), (tried_step, step)))
        value = torch.where(better, tried_value, value)
    return u, value, step.abs().amax(-1)


def _newton(problems: Problems, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return values (n, p) and steps |H|^-1 g (n, p, d); coordinates stay at a bound if descent would leave the box."""
    with torch.enable_grad():
        point = u.detach().requires_grad_()
        value = problems.value(point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
    free = (~(((u <= 0) & (gradient > 0)) | ((u >= 1) & (gradient < 0)))).to(u)
    hessian = _finite(problems.hessian(u)) * free[..., None, :] * free[..., :, None]
    typical = hessian.abs().amax((-2, -1))[..., None]
    eigenvalues, basis = torch.linalg.eigh(hessian + torch.diag_embed(typical * (1 - free)))
    stiffness = eigenvalues.abs().clamp_min(ROUNDING * typical).clamp_min(1e-300)
    step = (basis @ ((basis.mT @ (free * gradient)[..., None]) / stiffness[..., None])).squeeze(-1)
    return value.detach(), step


def _finite(hessian: Tensor) -> Tensor:
    """Set matrices to zero if an entry is not finite, as happens at kinks."""
    return torch.where(hessian.isfinite().all(-1).all(-1)[..., None, None], hessian, 0.0)


def _describe(problems: Problems, seed: int, points: int) -> dict[str, Tensor]:
    u = sobol(problems.dim, points, seed).expand(len(problems), -1, -1)
    values, gradients = problems.value_and_gradient(u)
    return {
        **_curvature(problems.hessian(u)),
        **_gradients(problems, u, gradients),
        **_values(problems, u, values),
        **_basins(problems, values, seed),
    }


def _curvature(hessian: Tensor) -> dict[str, Tensor]:
    eigenvalues = torch.linalg.eigvalsh(_finite(hessian))
    largest = eigenvalues.abs().amax(-1, keepdim=True)
    negative = (eigenvalues < -ROUNDING * largest).double().mean(-1)
    return {
        "condition": _condition(eigenvalues).nanmedian(1).values,
        "nonconvexity": negative.where(largest[..., 0] > 0, math.nan).nanmean(1),
    }


def _condition(eigenvalues: Tensor) -> Tensor:
    """Return log10 of the condition number; NaN in one dimension, or if all eigenvalues (..., d) are 0."""
    size = eigenvalues.abs()
    smallest, largest = size.aminmax(dim=-1)
    defined = (largest > 0) & (size.shape[-1] > 1)
    return _digits(smallest / largest).where(defined, math.nan)


def _gradients(problems: Problems, u: Tensor, gradients: Tensor) -> dict[str, Tensor]:
    norms = torch.linalg.vector_norm(gradients, dim=-1)
    lower, upper = norms.quantile(u.new_tensor([0.1, 0.9]), dim=1)
    _, neighbours = problems.value_and_gradient(_moved(u, NEAR))
    chord = torch.linalg.vector_norm(_unit(gradients) - _unit(neighbours), dim=-1)
    turn = (2 * torch.asin((chord / 2).clamp_max(1)) / math.pi).where(norms > 0, math.nan)
    if problems.dim == 1:
        turn = torch.full_like(turn, math.nan)  # in one dimension there are only two directions
    shrinkage = (lower / upper).nan_to_num(nan=0.0)  # 0 / 0 if almost all gradients underflow
    return {"gradient_spread": _digits(shrinkage), "gradient_turn": -_digits(turn.nanmedian(1).values)}


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1, eps=1e-300)


def _values(problems: Problems, u: Tensor, values: Tensor) -> dict[str, Tensor]:
    smallest, largest, median = values.amin(1), values.amax(1), values.median(1).values
    centered, others = (x - x.mean(1, keepdim=True) for x in (values, problems.value(_moved(u, FAR))))
    scale = centered.norm(dim=1) * others.norm(dim=1)
    return {
        "correlation": (centered * others).sum(1) / scale,
        "skewness": (values.mean(1) - median) / values.std(1, correction=0),
        "median_position": -_digits((median - smallest) / (largest - smallest)),
    }


def _basins(problems: Problems, values: Tensor, seed: int) -> dict[str, Tensor]:
    starts = sobol(problems.dim, STARTS, seed).expand(len(problems), -1, -1)
    ends, lowest, step = descend(problems, starts)
    order = lowest.argsort(1)
    ends, lowest, step = (
        ends.gather(1, order[..., None].expand_as(ends)),
        lowest.gather(1, order),
        step.gather(1, order),
    )
    eigenvalues = torch.linalg.eigvalsh(_finite(problems.hessian(ends)))
    settled = (step < SETTLED) & (eigenvalues.abs().amax(-1) > 0)  # a flat point is no minimum
    near = (ends[:, :, None] - ends[:, None]).abs().amax(-1) < SAME
    seen = (near & settled[:, None]).tril(-1).any(-1)  # the same minimum as a lower end
    minima = (settled & ~seen).sum(1).clamp_min(1)
    deep = lowest <= lowest[:, :1] + LEVEL * (values.amax(1, keepdim=True) - lowest[:, :1])
    return {
        "minimum_condition": _condition(eigenvalues[:, 0]),
        "minima": minima.double().log10(),
        "funnel": (settled & (deep | near[..., 0])).double().mean(1),
    }


def _moved(u: Tensor, distance: float) -> Tensor:
    """Move points by `distance` along each coordinate in turn, towards the middle of the box."""
    axis = torch.arange(u.shape[1]) % u.shape[2]
    along = torch.nn.functional.one_hot(axis, u.shape[2]).to(u)
    return u + distance * along * torch.where(u < 0.5, 1.0, -1.0)


def _digits(ratio: Tensor) -> Tensor:
    """Return -log10 of ratios in [0, 1], which count as at least `ROUNDING`."""
    return ratio.clamp_min(ROUNDING).reciprocal().log10()
