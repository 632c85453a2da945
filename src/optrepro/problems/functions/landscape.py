"""Statistics of functions on the unit box, for telling how far one collection lies from another.

None of them changes when the values are scaled by a positive factor or shifted, so that collections in different units
can be laid side by side. Source: chosen, after what makes functions hard for gradient descent.
"""

from __future__ import annotations

import math
from typing import Protocol, Self

import torch
from torch import Tensor

from optrepro.problems.functions.shifted import Formulas, sobol
from optrepro.problems.functions.vlse import Function

STARTS = 64  # of local descents
STEPS = 100  # of a descent, at most
REACH = 0.05  # longest step of a descent along a coordinate: it shall end in the basin that it began in
SETTLED = 1e-6  # a shorter Newton step ends a descent: in curved valleys, the next one may be longer again
SAME = 0.01  # ends of descents that are nearer than this in every coordinate are one minimum
LEVEL = 1e-8  # share of the range of values that ends in minima of equal depth may differ by
NEAR = 0.01  # distance at which gradients are compared
FAR = 0.1  # distance at which values are compared
ROUNDING = 1e-12  # ratios below it are rounding
CHUNK = 16  # functions at a time: those that have settled wait for the others


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
    """Statistics of each function, (n,) float64; NaN where one is not defined.

    - ``condition``: median over the points of log10 of the Hessian's largest over its smallest absolute eigenvalue.
    - ``minimum_condition``: the same at the lowest end of the descents.
    - ``nonconvexity``: share of the Hessians' eigenvalues that are negative.
    - ``gradient_spread``: log10 of the ratio of two quantiles, 90 % and 10 %, of the gradient's norm.
    - ``gradient_turn``: log10 of the median angle, over pi, between gradients at points that are `NEAR` each other.
    - ``correlation``: correlation between values at points that are `FAR` apart.
    - ``skewness``: (mean - median) / standard deviation of the values, in [-1, 1].
    - ``median_position``: log10 of (median - smallest) / (largest - smallest) of the values.
    - ``minima``: log10 of the number of local minima that descents from `STARTS` points end in.
    - ``funnel``: share of these descents that end in the basin of the lowest of their ends.

    Ratios of eigenvalues and of norms are at most 1e12. Gradients are those that an optimizer is handed; Hessians and
    descents are of the values alone.

    Args:
        problems: a batch of functions, or one function of the benchmark.
        seed: names the points.
        points: how many are drawn in the box, quasi-random.

    Raises: ValueError for less than 2 points.
    """
    if points < 2:
        raise ValueError(f"points = {points}: at least 2 are needed.")
    if isinstance(problems, Function):
        problems = boxed(problems)
    parts = [_describe(problems[i : i + CHUNK], seed, points) for i in range(0, len(problems), CHUNK)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def boxed(f: Function) -> Formulas:
    """A function of the benchmark in box coordinates, as a batch of one."""

    def formula(u: Tensor) -> Tensor:
        return f(torch.lerp(f.lower.to(u), f.upper.to(u), u))

    ends = (torch.tensor([value], dtype=torch.float64) for value in (f.optimum, f.largest))
    return Formulas(formula, {}, f.dim, *ends)


def descend(problems: Problems, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Local descents in the box from points (n, p, d): trust-region steps on the Hessian's absolute values.

    Returns where they end (n, p, d), the values there (n, p), and the length (n, p) of the Newton step that is left: 0
    at a minimum.
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
    """Values (n, p) and steps |H|^-1 g (n, p, d); a coordinate at a bound that the gradient pushes against is left."""
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
    """Zero for matrices with an entry that is not finite, as there are at kinks."""
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
    """Log10 of the condition number; NaN in one dimension, and where all eigenvalues (..., d) are 0."""
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
        turn = torch.full_like(turn, math.nan)  # there are but two directions
    shrinkage = (lower / upper).nan_to_num(nan=0.0)  # 0 / 0 where almost all gradients have underflown
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
    settled = (step < SETTLED) & (eigenvalues.abs().amax(-1) > 0)  # where all is flat there is no minimum
    near = (ends[:, :, None] - ends[:, None]).abs().amax(-1) < SAME
    seen = (near & settled[:, None]).tril(-1).any(-1)  # by an end that is lower
    minima = (settled & ~seen).sum(1).clamp_min(1)
    deep = lowest <= lowest[:, :1] + LEVEL * (values.amax(1, keepdim=True) - lowest[:, :1])
    return {
        "minimum_condition": _condition(eigenvalues[:, 0]),
        "minima": minima.double().log10(),
        "funnel": (settled & (deep | near[..., 0])).double().mean(1),
    }


def _moved(u: Tensor, distance: float) -> Tensor:
    """The points moved by `distance`, all in the box: along each coordinate in turn, towards the middle."""
    axis = torch.arange(u.shape[1]) % u.shape[2]
    along = torch.nn.functional.one_hot(axis, u.shape[2]).to(u)
    return u + distance * along * torch.where(u < 0.5, 1.0, -1.0)


def _digits(ratio: Tensor) -> Tensor:
    """-log10 of ratios in [0, 1]; those below `ROUNDING` count as that."""
    return ratio.clamp_min(ROUNDING).reciprocal().log10()
