"""The synthetic prior: functions on the unit box with value, gradient and Hessian in closed form.

A function is z(u) or, warped, (exp(s z(u)) - 1) / s, where z is one of

- ``convex``: a quadratic with a random rotation, a log-uniform spectrum and a random minimizer;
- ``gp``: a sample of a Gaussian process with an RBF kernel, by random Fourier features;
- ``sum``: a quadratic plus a sample of smaller amplitude.

Row i of a table of uniform numbers decides function i of a batch, so a seed decides a batch, a longer batch begins with
the shorter one, and a million functions need no storage.

Source: arXiv 2602.15473 names the mixture of quadratics and of RBF samples by random Fourier features; the ranges are
settings (fidelity: ``studies.*.prior``), and the sum and the warp are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from optrepro.problems.functions.settings import Kind, PriorSettings

KINDS: tuple[Kind, ...] = ("convex", "gp", "sum")

COARSE = 256  # number of sampled points at which the search for the extrema starts
CANDIDATES = 8  # number of sampled points that are refined
REFINEMENTS = 12  # number of Newton steps of the refinement
IN_CACHE = 16  # number of functions that are sampled at a time


@dataclass(frozen=True)
class Extrema:
    """Estimates for n functions: `minimum` (n,) at `minimizer` (n, d), and `maximum` (n,)."""

    minimum: Tensor
    minimizer: Tensor
    maximum: Tensor


@dataclass(frozen=True)
class Functions:
    """A batch of n functions on the unit box [0, 1]^d; points have the shape (n, p, d).

    Attributes:
        kind: index in `KINDS`, (n,).
        quadratic, center: matrix (n, d, d) and minimizer (n, d) of (u - c)^T A (u - c); A = 0 without a quadratic.
        frequencies, phases, weights: (n, d, m), (n, m), (n, m) of sum_m w cos(u^T omega + phi); w = 0 without a sample.
        warp: s of (exp(s z) - 1) / s, (n,); 0 is no warp.
    """

    kind: Tensor
    quadratic: Tensor
    center: Tensor
    frequencies: Tensor
    phases: Tensor
    weights: Tensor
    warp: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def dim(self) -> int:
        """Dimension of the box."""
        return self.center.shape[-1]

    def __getitem__(self, rows: slice | Tensor) -> Functions:
        return Functions(**{name: value[rows] for name, value in vars(self).items()})

    def to(self, *where: torch.device | torch.dtype) -> Functions:
        """Return the functions on another device or in another precision."""
        moved = {name: value.to(*where) for name, value in vars(self).items() if name != "kind"}
        return Functions(kind=self.kind.to(moved["warp"].device), **moved)

    def value(self, u: Tensor) -> Tensor:
        """Return values at `u`, (n, p, d) -> (n, p)."""
        offset = u - self.center[:, None]
        convex = ((offset @ self.quadratic) * offset).sum(-1)
        z = convex + (self._angles(u).cos() @ self.weights[..., None]).squeeze(-1)
        return self._warped(z)

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, p) and gradients (n, p, d) at `u`, (n, p, d)."""
        z, slope, _ = self._unwarped(u)
        return self._warped(z), self._stretch(z)[..., None] * slope

    def hessian(self, u: Tensor) -> Tensor:
        """Return Hessians at `u`, (n, p, d) -> (n, p, d, d)."""
        return self.derivatives(u)[2]

    def derivatives(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values (n, p), gradients (n, p, d) and Hessians (n, p, d, d) at `u`, (n, p, d)."""
        z, slope, waves = self._unwarped(u)
        products = torch.einsum("npm,nim,njm->npij", waves * self.weights[:, None], *[self.frequencies] * 2)
        bend = 2 * self.quadratic[:, None] - products
        bend = bend + self.warp[:, None, None, None] * slope[..., :, None] * slope[..., None, :]
        stretch = self._stretch(z)[..., None]
        return self._warped(z), stretch * slope, stretch[..., None] * bend

    def _unwarped(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z (n, p), its gradients (n, p, d) and the cosines (n, p, m) at `u`, (n, p, d)."""
        offset = u - self.center[:, None]
        pulled = offset @ self.quadratic
        angles = self._angles(u)
        waves = angles.cos()
        z = (pulled * offset).sum(-1) + (waves @ self.weights[..., None]).squeeze(-1)
        return z, 2 * pulled - (angles.sin() * self.weights[:, None]) @ self.frequencies.mT, waves

    def rounding(self) -> Tensor:
        """Return an approximate bound of the rounding error of values near a minimum, (n,).

        The error comes from the angles of the Fourier features, which may be large. It is 0 for a quadratic alone,
        whose relative error is small and whose minimum is 0.
        """
        angles = 1 + 2 * math.pi + self.frequencies.abs().sum(1)
        return torch.finfo(angles.dtype).eps * (self.weights * angles).square().sum(-1).sqrt()

    def _angles(self, u: Tensor) -> Tensor:
        return torch.baddbmm(self.phases[:, None], u, self.frequencies)

    def _warped(self, z: Tensor) -> Tensor:
        s = self.warp[:, None]
        return torch.where(s > 0, torch.expm1(s * z) / s.clamp_min(1e-9), z)

    def _stretch(self, z: Tensor) -> Tensor:
        """Return the derivative of the warp."""
        return torch.exp(self.warp[:, None] * z)


class SyntheticPrior:
    """A distribution over functions on the unit box.

    Args:
        settings: ranges of the distribution.
    """

    def __init__(self, settings: PriorSettings):
        self.settings = settings

    def sample(self, seed: int, n: int, dim: int, device: torch.device | str = "cpu") -> Functions:
        """Return the first n functions of a seed in `dim` dimensions, float64.

        Numbers are drawn on the CPU, so the functions are the same on every device.
        """
        s, m = self.settings, self.settings.features
        widths = [1, 1, 1, dim, dim * dim, dim, 1, dim, m * dim, m, m]
        generator = torch.Generator().manual_seed(seed)
        # In float64 each number is one draw, so a longer table begins with the shorter one.
        table = torch.rand(n, sum(widths), generator=generator, dtype=torch.float64).to(device)
        columns = torch.split(table, widths, 1)
        kind, warp, amplitude, spectrum, rotation, center, scale, ard, waves, phases, weights = columns
        shares = table.new_tensor([s.shares.get(name, 0.0) for name in KINDS]).cumsum(0)
        kind = torch.searchsorted(shares, kind.contiguous(), right=True).clamp_max(len(KINDS) - 1)
        amplitude = torch.where(kind == _SUM, _log_uniform(amplitude, *s.amplitude), kind == _GP)
        lengths = _log_uniform(scale, *s.length_scale) * _log_uniform(ard - 0.5, 1, s.anisotropy)
        return Functions(
            kind=kind[:, 0],
            quadratic=_quadratics(spectrum, rotation.view(n, dim, dim), center, s.condition) * (kind != _GP)[..., None],
            center=center,
            frequencies=_normal(waves).view(n, dim, m) / lengths[..., None],
            phases=2 * math.pi * phases,
            weights=math.sqrt(2 / m) * amplitude * _normal(weights),
            warp=s.warp * warp[:, 0],
        )


def extrema(
    functions: Functions,
    points: int = COARSE,
    candidates: int = CANDIDATES,
    steps: int = REFINEMENTS,
    chunk: int = 128,
) -> Extrema:
    """Estimate the smallest and the largest value of each function in the box.

    The search evaluates a fixed quasi-random sample and takes projected Newton steps from its best points. In two
    dimensions the estimate is rarely beaten; in many dimensions it is the best of a few local minima.

    Args:
        functions: n functions.
        points: size of the sample; the same number of corners of the box is added for the largest value.
        candidates: number of sampled points to refine.
        steps: number of Newton steps.
        chunk: number of functions searched at a time, to save memory.
    """
    grid = _sobol(points, functions.dim)
    values = _sampled(functions, grid)
    minimum, minimizer = _lowest(functions, grid, values, candidates, steps, chunk)
    # Includes corners of the box, because a convex function is largest in one of them.
    corners = torch.unique(grid.round(), dim=0)
    maximum = torch.maximum(values.amax(1), _sampled(functions, corners).amax(1))
    return Extrema(minimum, minimizer, maximum.to(minimum))


def minima(
    functions: Functions,
    points: int = COARSE,
    candidates: int = CANDIDATES,
    steps: int = REFINEMENTS,
    chunk: int = 128,
) -> Tensor:
    """Return the same estimates of the smallest values as `extrema`, (n,), without looking for the largest."""
    grid = _sobol(points, functions.dim)
    return _lowest(functions, grid, _sampled(functions, grid), candidates, steps, chunk)[0]


def _sampled(functions: Functions, points: Tensor) -> Tensor:
    """Return the values at the same points (p, d) of each function, (n, p) float32.

    That is enough to find starting points, and twice as fast. A few functions at a time fit the cache.
    """
    single, u = functions.to(torch.float32), points.to(functions.center.device, torch.float32)
    parts = [single[i : i + IN_CACHE] for i in range(0, len(single), IN_CACHE)]
    return torch.cat([part.value(u.expand(len(part), -1, -1)) for part in parts])


def _lowest(
    functions: Functions, grid: Tensor, values: Tensor, candidates: int, steps: int, chunk: int
) -> tuple[Tensor, Tensor]:
    """Return the smallest value found from the best points of a sample, (n,), and where it is, (n, d)."""
    best = values.topk(min(candidates, len(grid)), largest=False).indices
    starts = grid.to(functions.center)[best]
    pieces = [slice(i, i + chunk) for i in range(0, len(functions), chunk)]
    refined = torch.cat([refine(functions[piece], starts[piece], steps) for piece in pieces])
    found = torch.cat([functions[piece].value(refined[piece]) for piece in pieces])
    minimum, lowest = found.min(1)
    return minimum, refined[torch.arange(len(refined)), lowest]


def refine(functions: Functions, u: Tensor, steps: int = REFINEMENTS) -> Tensor:
    """Move points (n, p, d) to local minima in the box, by projected Newton steps with the Hessian's absolute values.

    A coordinate stays at a bound if descent would leave the box. Each step takes the best of four lengths, if it lowers
    the value. Functions whose points have all arrived are left alone.
    """
    u, rows = u.clone(), torch.arange(len(u), device=u.device)
    for _ in range(steps):
        before = u[rows]
        after = u[rows] = _newton(functions, before)
        moving = (after != before).flatten(1).any(1)
        functions, rows = functions[moving], rows[moving]
        if not len(rows):
            break
    return u


def _newton(functions: Functions, u: Tensor) -> Tensor:
    value, gradient, hessian = functions.derivatives(u)
    held = ((u <= 0) & (gradient > 0)) | ((u >= 1) & (gradient < 0))
    free = (~held).to(u)
    hessian = hessian * free[..., None, :] * free[..., :, None] + torch.diag_embed(1 - free)
    eigenvalues, basis = torch.linalg.eigh(hessian)
    stiffness = eigenvalues.abs().clamp_min(1e-9 * eigenvalues.abs().amax(-1, keepdim=True) + 1e-300)
    direction = basis @ ((basis.mT @ (free * gradient)[..., None]) / stiffness[..., None])
    lengths = u.new_tensor([1.0, 0.3, 0.05, 0.005])
    tried = (u[..., None, :] - lengths[:, None] * direction.mT).clamp(0, 1)
    values = functions.value(tried.flatten(1, 2)).view(*u.shape[:2], -1)
    best = values.min(-1)
    moved = tried.gather(2, best.indices[..., None, None].expand(-1, -1, 1, u.shape[-1]))[:, :, 0]
    return torch.where((best.values < value)[..., None], moved, u)


def _sobol(points: int, dim: int) -> Tensor:
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    drawn: Tensor = engine.draw(points, dtype=torch.float64)
    return drawn


_CONVEX, _GP, _SUM = range(len(KINDS))


def _quadratics(spectrum: Tensor, rotation: Tensor, center: Tensor, condition: float) -> Tensor:
    """Return matrices (n, d, d) with log-uniform eigenvalues, scaled to mean 1 of the quadratic over the box."""
    basis: Tensor = torch.linalg.qr(_normal(rotation)).Q
    matrix = (basis * _log_uniform(spectrum, 1 / condition, 1)[:, None]) @ basis.mT
    offset = 0.5 - center
    mean = matrix.diagonal(dim1=1, dim2=2).sum(-1) / 12 + torch.einsum("ni,nij,nj->n", offset, matrix, offset)
    return matrix / mean[:, None, None]


def _log_uniform(uniform: Tensor, low: float, high: float) -> Tensor:
    powers: Tensor = torch.pow(high / low, uniform)
    return torch.mul(powers, low)


def _normal(uniform: Tensor) -> Tensor:
    """Turn uniform numbers into standard normal ones."""
    normal: Tensor = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    return normal
