"""Shifted collections: functions on the unit box whose statistics differ from the prior's, to test transfer.

Use: ``problems = shifted.get("plateaus", seed=0, n=128, dim=2)``, then `len(problems)`, `problems.dim`,
`problems.value(u)` and `problems.value_and_gradient(u)` for points (n, p, d), `problems.minimum`, `problems.maximum`.

All except ``noisy-gradients`` have an exact minimum 0 at a point c, which is uniform in the box. With y = R (u - c) for
a random rotation R:

- ``heavy-tailed``: values over many decades, exp(t mean (2 (u - c))^4) - 1, plus a landscape of Cauchy-like wells;
- ``ill-conditioned``: valleys of condition number 1e3 to 1e6, sum_i lambda_i (y_i + k_i y_{i-1}^2)^2, of which half are
  straight, k = 0;
- ``plateaus``: one half are narrow Gaussian wells in a plain, the other half are round terraces;
- ``ridges``: BBOB's sharp ridge y_1^2 + a |(y_2, ..., y_d)|, with a kink along a line;
- ``noisy-gradients``: functions like the prior's with noise on the gradient. The noise is a fixed function of the
  point, so that all optimizers get the same gradient at a point; its standard deviation is 0.1 to 1 of the gradient's
  root mean square over the box, and its correlation length is `NOISE_LENGTH`.

Row i of a table of uniform numbers decides function i, so a seed decides a collection, and a longer collection begins
with the shorter one. Source: chosen, except the ridge, which is f13 of N. Hansen et al., Real-Parameter Black-Box
Optimization Benchmarking 2009: Noiseless Functions Definitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from optrepro.problems.functions import synthetic
from optrepro.problems.functions.settings import PriorSettings
from optrepro.problems.functions.synthetic import Functions, SyntheticPrior

WELLS = 6  # number of additional wells in a heavy-tailed function and in a plain
TERRACES = 8
NOISE_LENGTH = 1e-5  # in units of the box; shorter than the steps of an optimizer that has not converged
NOISE_FEATURES = 8  # number of waves in the noise of one coordinate
# A copy of the prior's settings, so that the collection does not change when they do.
LIKE_THE_PRIOR = PriorSettings(
    shares={"convex": 0.25, "gp": 0.35, "sum": 0.4},
    features=128,
    length_scale=(0.04, 1.0),
    anisotropy=3.0,
    condition=1e4,
    amplitude=(0.05, 2.0),
    warp=2.0,
)
SAMPLE = 1024  # number of points, and of corners, from which the largest value is estimated


@dataclass(frozen=True)
class Formulas:
    """A batch of n functions of one formula on the unit box [0, 1]^d; points have the shape (n, p, d).

    Attributes:
        formula: maps points and the parameters, as keywords of shape (n, 1, ...), to values (n, p).
        parameters: parameters of the functions, each (n, ...).
        dim: dimension of the box.
        minimum, maximum: smallest and largest value in the box, (n,); the largest is an estimate.
    """

    formula: Callable[..., Tensor]
    parameters: Mapping[str, Tensor]
    dim: int
    minimum: Tensor
    maximum: Tensor

    def __len__(self) -> int:
        return len(self.minimum)

    def __getitem__(self, rows: slice | Tensor) -> Formulas:
        return self._each(lambda x: x[rows])

    def to(self, *where: torch.device | torch.dtype) -> Formulas:
        """Return the functions on another device or in another precision."""
        return self._each(lambda x: x.to(*where))

    def value(self, u: Tensor) -> Tensor:
        """Return values at `u`, (n, p, d) -> (n, p)."""
        values: Tensor = self.formula(u, **{name: x[:, None] for name, x in self.parameters.items()})
        return values

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, p) and gradients (n, p, d) at `u`, (n, p, d)."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            values = self.value(u)
            (gradient,) = torch.autograd.grad(values.sum(), u)
        return values.detach(), gradient

    def hessian(self, u: Tensor) -> Tensor:
        """Return Hessians at `u`, (n, p, d) -> (n, p, d, d)."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(u).sum(), u, create_graph=True)
            slopes = gradient.unbind(-1)
            rows = [torch.autograd.grad(slope.sum(), u, retain_graph=True)[0] for slope in slopes]
        return torch.stack(rows, -2)

    def _each(self, change: Callable[[Any], Any]) -> Formulas:
        parameters = {name: change(x) for name, x in self.parameters.items()}
        return replace(self, parameters=parameters, minimum=change(self.minimum), maximum=change(self.maximum))


@dataclass(frozen=True)
class NoisyGradients:
    """n functions whose gradients have noise, a fixed function of the point; the interface is that of `Formulas`.

    Attributes:
        functions: the functions without noise.
        minimum, maximum: estimates of the smallest and largest value in the box, (n,).
        level: standard deviation of the noise in each coordinate, (n,).
        frequencies, phases: m waves for each coordinate, (n, d, d m) and (n, d m).
    """

    functions: Functions
    minimum: Tensor
    maximum: Tensor
    level: Tensor
    frequencies: Tensor
    phases: Tensor

    def __len__(self) -> int:
        return len(self.functions)

    @property
    def dim(self) -> int:
        """Dimension of the box."""
        return self.functions.dim

    def __getitem__(self, rows: slice | Tensor) -> NoisyGradients:
        return NoisyGradients(**{name: value[rows] for name, value in vars(self).items()})

    def to(self, *where: torch.device | torch.dtype) -> NoisyGradients:
        """Return the functions on another device or in another precision."""
        return NoisyGradients(**{name: value.to(*where) for name, value in vars(self).items()})

    def value(self, u: Tensor) -> Tensor:
        """Return values at `u`, (n, p, d) -> (n, p), without noise."""
        return self.functions.value(u)

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, p) without noise and gradients (n, p, d) with noise at `u`, (n, p, d)."""
        values, gradient = self.functions.value_and_gradient(u)
        waves = torch.baddbmm(self.phases[:, None], u, self.frequencies).cos().view(*u.shape, -1)
        noise = math.sqrt(2 / waves.shape[-1]) * waves.sum(-1)
        return values, gradient + self.level[:, None, None] * noise

    def hessian(self, u: Tensor) -> Tensor:
        """Return Hessians of the values at `u`, (n, p, d) -> (n, p, d, d)."""
        return self.functions.hessian(u)


def get(name: str, seed: int, n: int, dim: int) -> Formulas | NoisyGradients:
    """Return the first n functions of a collection in `dim` dimensions, float64 on the CPU.

    Args:
        name: one of `NAMES`.
        seed: seed of the collection.
        n: number of functions.
        dim: dimension of the box.

    Raises: ValueError for an unknown name, less than 1 function, or less than 2 dimensions.
    """
    if name not in _COLLECTIONS:
        raise ValueError(f"name = {name!r} is not a shifted collection; allowed are {', '.join(NAMES)}")
    if n < 1 or dim < 2:
        raise ValueError(f"n = {n} and dim = {dim} are not allowed; n must be at least 1, and dim at least 2")
    return _COLLECTIONS[name](seed, n, dim)


def sobol(dim: int, points: int, seed: int = 0) -> Tensor:
    """Return scrambled quasi-random points in the unit box, (points, dim) float64."""
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    drawn: Tensor = engine.draw(points, dtype=torch.float64)
    return drawn


# --- Formulas ---------------------------------------------------------------------------------------------------------


def _heavy_tailed(u: Tensor, center: Tensor, tail: Tensor, height: Tensor, **wells: Tensor) -> Tensor:
    growth = torch.expm1(tail * (2 * (u - center)).pow(4).mean(-1))
    return growth + height * _landscape(u, center, lambda squared: 1 / (1 + squared), **wells)


def _ill_conditioned(u: Tensor, center: Tensor, rotation: Tensor, spectrum: Tensor, bend: Tensor) -> Tensor:
    y = _rotated(u - center, rotation)
    head, tail = y[..., :1], y[..., 1:] + bend * y[..., :-1] ** 2
    return (spectrum * torch.cat([head, tail], -1) ** 2).sum(-1)


def _plateaus(
    u: Tensor, center: Tensor, stepped: Tensor, radii: Tensor, softness: Tensor, rises: Tensor, **wells: Tensor
) -> Tensor:
    plain = _landscape(u, center, lambda squared: torch.exp(-squared / 2), **wells)
    # Terraces depend on squared radii, whose slope at the center is 0.
    squared = (u - center).square().mean(-1, keepdim=True)
    height = torch.sigmoid((squared - radii**2) / (2 * radii * softness))
    floor = torch.sigmoid(-radii / (2 * softness))
    terraces = (rises * (height - floor)).sum(-1)
    return torch.where(stepped > 0, terraces, plain)


def _ridges(u: Tensor, center: Tensor, rotation: Tensor, slope: Tensor) -> Tensor:
    y = _rotated(u - center, rotation)
    value: Tensor = y[..., 0] ** 2 + slope * torch.linalg.vector_norm(y[..., 1:], dim=-1)
    return value


def _landscape(
    u: Tensor,
    center: Tensor,
    bump: Callable[[Tensor], Tensor],
    stretch: Tensor,
    width: Tensor,
    decoys: Tensor,
    depths: Tensor,
    widths: Tensor,
) -> Tensor:
    """Return a plain at 1 with a well down to 0 at the center, and shallower decoys elsewhere.

    `bump` falls from 1 as the mean over coordinates of the squared distance grows from 0; distances are in units of the
    well's width divided by the coordinate's stretch.
    """
    well = 1 - bump((stretch * (u - center)).square().mean(-1) / width**2)
    others = 1 - depths * bump((stretch[..., None, :] * (u[..., None, :] - decoys)).square().mean(-1) / widths**2)
    return well * others.prod(-1)


def _rotated(offset: Tensor, rotation: Tensor) -> Tensor:
    return (rotation @ offset[..., None]).squeeze(-1)


# --- Collections ------------------------------------------------------------------------------------------------------


def _make_heavy_tailed(seed: int, n: int, dim: int) -> Formulas:
    center, tail, height, *wells = _table(seed, n, dim, 1, 1, *_well_widths(dim))
    parameters = {
        "center": center,
        "tail": _log_uniform(tail, 1, 5)[:, 0],
        "height": _log_uniform(height, 0.1, 10)[:, 0],
        **_wells(wells, 0.01, 0.1),
    }
    return _formulas(_heavy_tailed, parameters)


def _make_ill_conditioned(seed: int, n: int, dim: int) -> Formulas:
    center, rotation, condition, straight, bend = _table(seed, n, dim, dim * dim, 1, 1, dim - 1)
    flatness = torch.linspace(1, 0, dim, dtype=center.dtype)  # the flattest direction bends the others
    parameters = {
        "center": center,
        "rotation": _rotation(rotation),
        "spectrum": _log_uniform(condition, 1e3, 1e6) ** -flatness,
        "bend": (4 * bend - 2) * (straight < 0.5),
    }
    return _formulas(_ill_conditioned, parameters)


def _make_plateaus(seed: int, n: int, dim: int) -> Formulas:
    center, kind, radii, softness, rises, *wells = _table(seed, n, dim, 1, TERRACES, 1, TERRACES, *_well_widths(dim))
    parameters = {
        "center": center,
        "stepped": (kind[:, 0] < 0.5).double(),
        "radii": (torch.arange(TERRACES) + 0.2 + 0.8 * radii) / TERRACES,
        "softness": _log_uniform(softness, 0.002, 0.01),
        "rises": _log_uniform(rises, 0.1, 1),
        **_wells(wells, 0.03, 0.1),
    }
    return _formulas(_plateaus, parameters)


def _make_ridges(seed: int, n: int, dim: int) -> Formulas:
    center, rotation, slope = _table(seed, n, dim, dim * dim, 1)
    slope = _log_uniform(slope, 1, 100)[:, 0]
    return _formulas(_ridges, {"center": center, "rotation": _rotation(rotation), "slope": slope})


def _make_noisy_gradients(seed: int, n: int, dim: int) -> NoisyGradients:
    functions = SyntheticPrior(LIKE_THE_PRIOR).sample(seed, n, dim)
    waves = dim * NOISE_FEATURES
    share, frequencies, phases = _table(seed + 1, n, 1, dim * waves, waves)  # + 1, because the functions use the seed
    u = sobol(dim, SAMPLE // 4).expand(n, -1, -1)
    typical = functions.value_and_gradient(u)[1].square().mean((1, 2)).sqrt()
    return NoisyGradients(
        functions=functions,
        minimum=synthetic.extrema(functions).minimum,
        maximum=_largest(functions),
        level=_log_uniform(share[:, 0], 0.1, 1) * typical,
        frequencies=_normal(frequencies).view(n, dim, waves) / NOISE_LENGTH,
        phases=2 * math.pi * phases,
    )


_COLLECTIONS: dict[str, Callable[[int, int, int], Formulas | NoisyGradients]] = {
    "heavy-tailed": _make_heavy_tailed,
    "ill-conditioned": _make_ill_conditioned,
    "plateaus": _make_plateaus,
    "ridges": _make_ridges,
    "noisy-gradients": _make_noisy_gradients,
}
NAMES = tuple(_COLLECTIONS)


def _formulas(formula: Callable[..., Tensor], parameters: Mapping[str, Tensor]) -> Formulas:
    """Make a batch with minimum 0 and an estimate of its maximum."""
    n, dim = parameters["center"].shape
    unknown = torch.zeros(n, dtype=torch.float64)
    batch = Formulas(formula, parameters, dim, unknown, unknown)
    return replace(batch, maximum=_largest(batch))


def _largest(batch: Formulas | Functions) -> Tensor:
    """Return the largest value of each function over a sample and corners of the box, (n,)."""
    unit = sobol(batch.dim, SAMPLE)
    u = torch.cat([unit, unit.round()])[None]
    return torch.cat([batch[i : i + 1].value(u).amax(1) for i in range(len(batch))])  # one at a time, to save memory


def _wells(uniform: Sequence[Tensor], smallest: float, largest: float) -> dict[str, Tensor]:
    stretch, width, decoys, depths, widths = uniform
    return {
        "stretch": _log_uniform(stretch, 1, 3),
        "width": _log_uniform(width, smallest, largest)[:, 0],
        "decoys": decoys.view(len(decoys), WELLS, -1),
        "depths": 0.9 * depths,
        "widths": _log_uniform(widths, smallest, largest),
    }


def _well_widths(dim: int) -> tuple[int, ...]:
    """Return the numbers of columns of the table that `_wells` takes."""
    return dim, 1, WELLS * dim, WELLS, WELLS


def _table(seed: int, n: int, *widths: int) -> tuple[Tensor, ...]:
    """Draw uniform numbers (n, w) for each w of `widths`."""
    generator = torch.Generator().manual_seed(seed)
    # In float64 each number is one draw, so a longer table begins with the shorter one.
    table = torch.rand(n, sum(widths), generator=generator, dtype=torch.float64)
    return torch.split(table, list(widths), 1)


def _rotation(uniform: Tensor) -> Tensor:
    """Turn uniform numbers (n, d d) into uniformly distributed rotations and reflections (n, d, d)."""
    dim = math.isqrt(uniform.shape[1])
    basis: Tensor = torch.linalg.qr(_normal(uniform).view(-1, dim, dim)).Q
    return basis


def _log_uniform(uniform: Tensor, low: float, high: float) -> Tensor:
    drawn: Tensor = low * (high / low) ** uniform
    return drawn


def _normal(uniform: Tensor) -> Tensor:
    """Turn uniform numbers into standard normal ones."""
    drawn: Tensor = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    return drawn
