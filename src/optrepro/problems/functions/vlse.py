"""The 47 optimization functions of the Virtual Library of Simulation Experiments (VLSE).

Use: ``f = vlse.get("ackley", dim=2)``, then ``f(x)`` for `x` of shape (..., 2), and `f.lower`, `f.upper`, `f.optimum`.

Each function maps (..., d) to (...), in float32 or float64 and on any device. Its gradient is finite everywhere in the
closed box: at a kink, the subgradient of the kinked term is 0. The line above a function registers its title, group,
dimensions, box (lower, upper), minimum and minimizers; values that depend on the dimension are given as functions of
it.

Source: S. Surjanovic and D. Bingham, Virtual Library of Simulation Experiments: Test Functions and Datasets,
https://www.sfu.ca/~ssurjano. Where the library leaves a choice, perm0db has beta = 10, permdb beta = 0.5, shekel
m = 10, and Hartmann 4-D its rescaled form. Minima and minimizers were refined by Newton's method: minima have full
double precision, so that regrets are meaningful on a log scale, and minimizers have at least seven decimals.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from itertools import permutations, product
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

pi = math.pi

LOCAL = "many local minima"
BOWL = "bowl"
PLATE = "plate"
VALLEY = "valley"
STEEP = "steep"
OTHER = "other"
GROUPS = (LOCAL, BOWL, PLATE, VALLEY, STEEP, OTHER)

ANY = range(1, sys.maxsize)
ORIGIN = [(0,)]
ONES = [(1,)]

SAMPLE_SIZE = 2**16  # chosen: dense in two dimensions, and at most a second for the slowest function


@dataclass(frozen=True, eq=False)
class Function:
    """A test function in a given dimension.

    Attributes:
        name, title: id in code, config and results, and display name.
        group: one of `GROUPS`.
        dim: dimension d of the domain.
        lower, upper: the box, (d,), float64 on the CPU.
        optimum: the smallest value in the box.
        minimizers: known points of the smallest value, (k, d), float64; some functions have more.
        smooth: False for the four functions with kinks along whole curves.
    """

    name: str
    title: str
    group: str
    dim: int
    lower: Tensor
    upper: Tensor
    optimum: float
    minimizers: Tensor
    smooth: bool
    formula: Callable[[Tensor], Tensor] = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return values at `x`, (..., dim) -> (...). Raises: ValueError for another last dimension or dtype."""
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"{self.name}: x has shape {tuple(x.shape)}; the last dimension must be {self.dim}.")
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{self.name}: x has dtype {x.dtype}; allowed are torch.float32 and torch.float64.")
        return self.formula(x)

    @property
    def largest(self) -> float:
        """Estimate of the largest value in the box, from a fixed sample; computed on first use."""
        return _largest(self.name, self.dim)


def get(name: str, dim: int | None = None) -> Function:
    """Return the function `name` in dimension `dim`.

    Args:
        name: one of `names()`, or one of the extras bohachevsky2, bohachevsky3, shekel5 and shekel7.
        dim: dimension; None is the function's only dimension, or 2 if it has several (4 for powell).

    Raises: ValueError for an unknown name or a dimension that the function does not have.
    """
    if name not in _REGISTRY:
        nearest = ", ".join(get_close_matches(name, _REGISTRY, cutoff=0.4)) or "none"
        raise ValueError(f"name = {name!r} is not a function of VLSE; nearest: {nearest}. vlse.names() lists all.")
    entry = _REGISTRY[name]
    if dim is None:
        dim = max(entry.dims[0], 2) if len(entry.dims) > 1 else entry.dims[0]
    if not isinstance(dim, int) or dim not in entry.dims:
        allowed = ", ".join(map(str, entry.dims[:3])) + (", ..." if len(entry.dims) > 3 else "")
        raise ValueError(f"dim = {dim!r} is not a dimension of {name}; allowed: {allowed}.")
    lower, upper = (_float64(bound).expand(dim).clone() for bound in _at(entry.box, dim))
    return Function(
        name=name,
        title=entry.title,
        group=entry.group,
        dim=dim,
        lower=lower,
        upper=upper,
        optimum=float(_at(entry.optimum, dim)),
        minimizers=_float64(_at(entry.minimizers, dim)).expand(-1, dim).clone(),
        smooth=entry.smooth,
        formula=entry.formula,
    )


def names(group: str | None = None) -> tuple[str, ...]:
    """Return the ids of the 47 functions, or those in `group`. Raises: ValueError for an unknown group."""
    if group is not None and group not in GROUPS:
        raise ValueError(f"group = {group!r} is not a group of VLSE; allowed: {', '.join(GROUPS)}.")
    return tuple(name for name, entry in _REGISTRY.items() if not entry.extra and group in (None, entry.group))


def sample_starts(f: Function, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` points uniformly from the box of `f`, (n, dim), float64, on the generator's device."""
    if n < 1:
        raise ValueError(f"n = {n} is not allowed; it must be at least 1.")
    unit = torch.rand(n, f.dim, generator=generator, dtype=torch.float64, device=generator.device)
    return torch.lerp(f.lower.to(unit), f.upper.to(unit), unit)


@cache
def _largest(name: str, dim: int) -> float:
    """Return the largest value over scrambled Sobol points, and over corners and midpoints of the box near them."""
    f = get(name, dim)
    sobol = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    unit = sobol.draw(SAMPLE_SIZE, dtype=torch.float64)
    unit = torch.cat([unit, unit.round(), (2 * unit).round() / 2])
    with torch.no_grad():
        return f(torch.lerp(f.lower, f.upper, unit)).max().item()


# --- Registration ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A registered function; `box`, `optimum` and `minimizers` may be functions of the dimension."""

    formula: Callable[[Tensor], Tensor]
    title: str
    group: str
    dims: range
    box: Any
    optimum: Any
    minimizers: Any
    smooth: bool
    extra: bool


_REGISTRY: dict[str, _Entry] = {}


def _register(
    title: str,
    group: str,
    dims: int | range,
    box: Any,
    optimum: Any,
    minimizers: Any,
    *,
    kink: bool = False,
    extra: bool = False,
) -> Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]:
    """Register a formula under its own name.

    `dims` is one dimension or the range of allowed ones; `box` is (lower, upper), each a number or one per coordinate;
    `minimizers` is a list of points, where a point with one entry has it in every coordinate.
    """

    def register(formula: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        allowed = range(dims, dims + 1) if isinstance(dims, int) else dims
        _REGISTRY[formula.__name__] = _Entry(formula, title, group, allowed, box, optimum, minimizers, not kink, extra)
        return formula

    return register


def _at(value: Any, dim: int) -> Any:
    return value(dim) if callable(value) else value


def _float64(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


# --- Building blocks ------------------------------------------------------------------------------------------------


@cache
def _table(values: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # autograd could not use a cached tensor made in inference mode
        return torch.tensor(values, dtype=dtype, device=device)


def _constant(values: Sequence[Any], like: Tensor) -> Tensor:
    """Return a cached table of numbers with the dtype and device of `like`."""
    return _table(values, like.dtype, like.device)


def _one_to(d: int, like: Tensor) -> Tensor:
    """Return the numbers 1, ..., d of the coordinates."""
    return _constant(range(1, d + 1), like)


def _norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm, (..., d) -> (...), with subgradient 0 at 0."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm


def _sqrt_abs(x: Tensor) -> Tensor:
    """Return sqrt(abs(x)) elementwise, with subgradient 0 at 0, because clamping passes no gradient below its limit."""
    return x.abs().clamp_min(torch.finfo(x.dtype).tiny).sqrt()


def _squared_distances(x: Tensor, points: Sequence[Any]) -> Tensor:
    """Return the squared distances to m points, (..., d) -> (..., m)."""
    return ((x.unsqueeze(-2) - _constant(points, x)) ** 2).sum(-1)


def _powers(x: Tensor, degree: int) -> Tensor:
    """Return the powers x_j^i in row i = 1, ..., degree, (..., d) -> (..., degree, d)."""
    powers = [x]
    while len(powers) < degree:  # repeated products are several times faster than pow
        powers.append(powers[-1] * x)
    return torch.stack(powers, dim=-2)


def _signs(*point: float) -> list[tuple[float, ...]]:
    """Return the mirror images of a point in the coordinate axes."""
    return list(product(*((value, -value) if value else (value,) for value in point)))


# --- Many local minima ----------------------------------------------------------------------------------------------


@_register("Ackley", LOCAL, ANY, (-32.768, 32.768), 0, ORIGIN)
def ackley(x: Tensor) -> Tensor:
    """Ackley: a nearly flat outer region around a deep hole at the origin."""
    rms = _norm(x) / math.sqrt(x.shape[-1])
    return 20 + math.e - 20 * torch.exp(-0.2 * rms) - torch.exp(torch.cos(2 * pi * x).mean(-1))


@_register("Bukin N.6", LOCAL, 2, ((-15, -3), (-5, 3)), 0, [(-10, 1)], kink=True)
def bukin6(x: Tensor) -> Tensor:
    """Bukin N.6: a kinked ridge along the parabola x2 = x1^2 / 100."""
    x1, x2 = x.unbind(-1)
    return 100 * _sqrt_abs(x2 - 0.01 * x1**2) + 0.01 * (x1 + 10).abs()


@_register("Cross-in-Tray", LOCAL, 2, (-10, 10), -2.062611870822738, _signs(1.3494066172, 1.3494066172), kink=True)
def cross_in_tray(x: Tensor) -> Tensor:
    """Cross-in-Tray: four minima separated by a kinked cross along the axes."""
    wide = x.double()  # exp(100) overflows float32
    waves = wide.sin().prod(-1) * torch.exp((100 - _norm(wide) / pi).abs())
    return (-0.0001 * (waves.abs() + 1) ** 0.1).to(x.dtype)


@_register("Drop-Wave", LOCAL, 2, (-5.12, 5.12), -1, ORIGIN)
def drop_wave(x: Tensor) -> Tensor:
    """Drop-Wave: rings of ripples around the origin."""
    r = _norm(x)
    return -(1 + torch.cos(12 * r)) / (0.5 * r**2 + 2)


@_register("Eggholder", LOCAL, 2, (-512, 512), -959.640662720851, [(512, 404.2318051138)], kink=True)
def eggholder(x: Tensor) -> Tensor:
    """Eggholder: steep ripples with the minimum on the border of the box."""
    x1, x2 = x[..., 0], x[..., 1] + 47
    return -x2 * torch.sin(_sqrt_abs(x2 + x1 / 2)) - x1 * torch.sin(_sqrt_abs(x1 - x2))


@_register("Gramacy and Lee (2012)", LOCAL, 1, (0.5, 2.5), -0.8690111349894998, [(0.5485634445,)])
def gramacy_lee(x: Tensor) -> Tensor:
    """Gramacy and Lee (2012): a damped sine on a quartic, in one dimension."""
    x1 = x[..., 0]
    return torch.sin(10 * pi * x1) / (2 * x1) + (x1 - 1) ** 4


@_register("Griewank", LOCAL, ANY, (-600, 600), 0, ORIGIN)
def griewank(x: Tensor) -> Tensor:
    """Griewank: a wide bowl with regular shallow ripples."""
    return (x**2).sum(-1) / 4000 - torch.cos(x / _one_to(x.shape[-1], x).sqrt()).prod(-1) + 1


@_register("Holder Table", LOCAL, 2, (-10, 10), -19.208502567886732, _signs(8.0550234757, 9.6645900192), kink=True)
def holder_table(x: Tensor) -> Tensor:
    """Holder Table: kinked ripples that deepen towards four corners."""
    x1, x2 = x.unbind(-1)
    return -(torch.sin(x1) * torch.cos(x2) * torch.exp((1 - _norm(x) / pi).abs())).abs()


LANGERMANN_C = (1, 2, 5, 2, 3)
LANGERMANN_A = ((3, 5), (5, 2), (2, 1), (1, 4), (7, 9))


@_register("Langermann", LOCAL, 2, (0, 10), -4.155809291847785, [(2.7934022086, 1.5972325013)])
def langermann(x: Tensor) -> Tensor:
    """Langermann with m = 5 and without a leading minus, as in VLSE, which has a table for two dimensions only."""
    r2 = _squared_distances(x, LANGERMANN_A)
    return (_constant(LANGERMANN_C, x) * torch.exp(-r2 / pi) * torch.cos(pi * r2)).sum(-1)


@_register("Levy", LOCAL, ANY, (-10, 10), 0, ONES)
def levy(x: Tensor) -> Tensor:
    """Levy: ripples that run along every axis."""
    w = 1 + (x - 1) / 4
    first, head, last = w[..., 0], w[..., :-1], w[..., -1]
    ripples = ((head - 1) ** 2 * (1 + 10 * torch.sin(pi * head + 1) ** 2)).sum(-1)
    return torch.sin(pi * first) ** 2 + ripples + (last - 1) ** 2 * (1 + torch.sin(2 * pi * last) ** 2)


@_register("Levy N.13", LOCAL, 2, (-10, 10), 0, ONES)
def levy13(x: Tensor) -> Tensor:
    """Levy N.13: a bowl with ripples along both axes."""
    x1, x2 = x.unbind(-1)
    ripples = (x1 - 1) ** 2 * (1 + torch.sin(3 * pi * x2) ** 2)
    return torch.sin(3 * pi * x1) ** 2 + ripples + (x2 - 1) ** 2 * (1 + torch.sin(2 * pi * x2) ** 2)


@_register("Rastrigin", LOCAL, ANY, (-5.12, 5.12), 0, ORIGIN)
def rastrigin(x: Tensor) -> Tensor:
    """Rastrigin: a bowl with a regular lattice of deep local minima."""
    return (x**2 + 10 * (1 - torch.cos(2 * pi * x))).sum(-1)


@_register("Schaffer N.2", LOCAL, 2, (-100, 100), 0, ORIGIN)
def schaffer2(x: Tensor) -> Tensor:
    """Schaffer N.2: hyperbolic ripples that fade away from the origin."""
    x1, x2 = (x**2).unbind(-1)
    return 0.5 + (torch.sin(x1 - x2) ** 2 - 0.5) / (1 + 0.001 * (x1 + x2)) ** 2


@_register("Schaffer N.4", LOCAL, 2, (-100, 100), 0.29257863203598056, _signs(1.2531318, 0) + _signs(0, 1.2531318))
def schaffer4(x: Tensor) -> Tensor:
    """Schaffer N.4: cosine squared; the absolute value in the formula has no effect, because the cosine is even."""
    x1, x2 = (x**2).unbind(-1)
    return 0.5 + (torch.cos(torch.sin(x1 - x2)) ** 2 - 0.5) / (1 + 0.001 * (x1 + x2)) ** 2


@_register("Schwefel", LOCAL, ANY, (-500, 500), lambda d: 1.2727566229e-5 * d, [(420.96874636,)])
def schwefel(x: Tensor) -> Tensor:
    """Schwefel: deep local minima; the best one is near a corner, far from the second best."""
    return 418.9829 * x.shape[-1] - (x * torch.sin(_sqrt_abs(x))).sum(-1)


SHUBERT_X = (-7.0835064077, -0.8003211005, 5.4828642067)
SHUBERT_Y = (-7.7083137355, -1.4251284283, 4.8580568789)
SHUBERT_MINIMIZERS = [*product(SHUBERT_X, SHUBERT_Y), *product(SHUBERT_Y, SHUBERT_X)]


@_register("Shubert", LOCAL, 2, (-10, 10), -186.73090883102384, SHUBERT_MINIMIZERS)
def shubert(x: Tensor) -> Tensor:
    """Shubert: 18 global minima among many local ones."""
    i = _one_to(5, x)
    return (i * torch.cos((i + 1) * x.unsqueeze(-1) + i)).sum(-1).prod(-1)


# --- Bowl-shaped ----------------------------------------------------------------------------------------------------


@_register("Bohachevsky 1", BOWL, 2, (-100, 100), 0, ORIGIN)
def bohachevsky1(x: Tensor) -> Tensor:
    """Bohachevsky, variant 1: cosines of both coordinates, added."""
    x1, x2 = x.unbind(-1)
    return x1**2 + 2 * x2**2 - 0.3 * torch.cos(3 * pi * x1) - 0.4 * torch.cos(4 * pi * x2) + 0.7


@_register("Bohachevsky 2", BOWL, 2, (-100, 100), 0, ORIGIN, extra=True)
def bohachevsky2(x: Tensor) -> Tensor:
    """Bohachevsky, variant 2: cosines of both coordinates, multiplied."""
    x1, x2 = x.unbind(-1)
    return x1**2 + 2 * x2**2 - 0.3 * torch.cos(3 * pi * x1) * torch.cos(4 * pi * x2) + 0.3


@_register("Bohachevsky 3", BOWL, 2, (-100, 100), 0, ORIGIN, extra=True)
def bohachevsky3(x: Tensor) -> Tensor:
    """Bohachevsky, variant 3: cosine of a sum."""
    x1, x2 = x.unbind(-1)
    return x1**2 + 2 * x2**2 - 0.3 * torch.cos(3 * pi * x1 + 4 * pi * x2) + 0.3


@_register("Perm 0,d,beta", BOWL, ANY, lambda d: (-d, d), 0, lambda d: [[1 / j for j in range(1, d + 1)]])
def perm0db(x: Tensor) -> Tensor:
    """Perm 0,d,beta with beta = 10; use float64 beyond d = 15, where d^(2d) leaves float32."""
    d = x.shape[-1]
    j = _one_to(d, x)
    return (((j + 10) * (_powers(x, d) - _powers(1 / j, d))).sum(-1) ** 2).sum(-1)


@_register("Rotated Hyper-Ellipsoid", BOWL, ANY, (-65.536, 65.536), 0, ORIGIN)
def rotated_hyper_ellipsoid(x: Tensor) -> Tensor:
    """Rotated Hyper-Ellipsoid: the double sum of squares."""
    return (x**2).cumsum(-1).sum(-1)


@_register("Sphere", BOWL, ANY, (-5.12, 5.12), 0, ORIGIN)
def sphere(x: Tensor) -> Tensor:
    """Sphere: the sum of squares."""
    return (x**2).sum(-1)


@_register("Sum of Different Powers", BOWL, ANY, (-1, 1), 0, ORIGIN)
def sum_of_powers(x: Tensor) -> Tensor:
    """Sum of Different Powers: coordinate i to the power i + 1."""
    return (x.abs() ** (_one_to(x.shape[-1], x) + 1)).sum(-1)


@_register("Sum Squares", BOWL, ANY, (-10, 10), 0, ORIGIN)
def sum_squares(x: Tensor) -> Tensor:
    """Sum Squares: coordinate i with curvature i."""
    return (_one_to(x.shape[-1], x) * x**2).sum(-1)


def _trid_optimum(d: int) -> float:
    return -d * (d + 4) * (d - 1) / 6


def _trid_minimizers(d: int) -> list[list[int]]:
    return [[i * (d + 1 - i) for i in range(1, d + 1)]]


@_register("Trid", BOWL, ANY, lambda d: (-(d**2), d**2), _trid_optimum, _trid_minimizers)
def trid(x: Tensor) -> Tensor:
    """Trid: a quadratic whose Hessian is tridiagonal."""
    return ((x - 1) ** 2).sum(-1) - (x[..., 1:] * x[..., :-1]).sum(-1)


# --- Plate-shaped ---------------------------------------------------------------------------------------------------


@_register("Booth", PLATE, 2, (-10, 10), 0, [(1, 3)])
def booth(x: Tensor) -> Tensor:
    """Booth: a quadratic of condition number 9."""
    x1, x2 = x.unbind(-1)
    return (x1 + 2 * x2 - 7) ** 2 + (2 * x1 + x2 - 5) ** 2


@_register("Matyas", PLATE, 2, (-10, 10), 0, ORIGIN)
def matyas(x: Tensor) -> Tensor:
    """Matyas: a quadratic, flat along the diagonal."""
    x1, x2 = x.unbind(-1)
    return 0.26 * (x1**2 + x2**2) - 0.48 * x1 * x2


@_register("McCormick", PLATE, 2, ((-1.5, -3), (4, 4)), -1.9132229549810367, [(-0.5471975512, -1.5471975512)])
def mccormick(x: Tensor) -> Tensor:
    """McCormick: a tilted valley with one sine."""
    x1, x2 = x.unbind(-1)
    return torch.sin(x1 + x2) + (x1 - x2) ** 2 - 1.5 * x1 + 2.5 * x2 + 1


POWER_SUM_B = (8, 18, 44, 114)


@_register("Power Sum", PLATE, 4, (0, 4), 0, sorted(set(permutations((1, 2, 2, 3)))))
def power_sum(x: Tensor) -> Tensor:
    """Power Sum with b = (8, 18, 44, 114): sums of powers that a permutation of (1, 2, 2, 3) matches."""
    return ((_powers(x, 4).sum(-1) - _constant(POWER_SUM_B, x)) ** 2).sum(-1)


@_register("Zakharov", PLATE, ANY, (-5, 10), 0, ORIGIN)
def zakharov(x: Tensor) -> Tensor:
    """Zakharov: a bowl with steep powers of one weighted sum."""
    weighted = (0.5 * _one_to(x.shape[-1], x) * x).sum(-1)
    return (x**2).sum(-1) + weighted**2 + weighted**4


# --- Valley-shaped --------------------------------------------------------------------------------------------------


@_register("Three-Hump Camel", VALLEY, 2, (-5, 5), 0, ORIGIN)
def three_hump_camel(x: Tensor) -> Tensor:
    """Three-Hump Camel: three minima in a row."""
    x1, x2 = x.unbind(-1)
    return 2 * x1**2 - 1.05 * x1**4 + x1**6 / 6 + x1 * x2 + x2**2


SIX_HUMP_MINIMIZERS = [(0.0898420131, -0.712656403), (-0.0898420131, 0.712656403)]


@_register("Six-Hump Camel", VALLEY, 2, ((-3, -2), (3, 2)), -1.0316284534898774, SIX_HUMP_MINIMIZERS)
def six_hump_camel(x: Tensor) -> Tensor:
    """Six-Hump Camel: six minima, two of them global."""
    x1, x2 = x.unbind(-1)
    return (4 - 2.1 * x1**2 + x1**4 / 3) * x1**2 + x1 * x2 + (4 * x2**2 - 4) * x2**2


@_register("Dixon-Price", VALLEY, ANY, (-10, 10), 0, lambda d: [[2 ** (2.0 ** (1 - i) - 1) for i in range(1, d + 1)]])
def dixon_price(x: Tensor) -> Tensor:
    """Dixon-Price: a chain of parabolic valleys of growing weight."""
    head, tail = x[..., :-1], x[..., 1:]
    i = _one_to(x.shape[-1], x)[1:]
    return (x[..., 0] - 1) ** 2 + (i * (2 * tail**2 - head) ** 2).sum(-1)


@_register("Rosenbrock", VALLEY, range(2, sys.maxsize), (-5, 10), 0, ONES)
def rosenbrock(x: Tensor) -> Tensor:
    """Rosenbrock: a narrow curved valley."""
    head, tail = x[..., :-1], x[..., 1:]
    return (100 * (tail - head**2) ** 2 + (1 - head) ** 2).sum(-1)


# --- Steep ridges and drops -----------------------------------------------------------------------------------------


FOXHOLES = tuple((x1, x2) for x2 in (-32, -16, 0, 16, 32) for x1 in (-32, -16, 0, 16, 32))


@_register("De Jong N.5", STEEP, 2, (-65.536, 65.536), 0.99800383779445, [(-31.9783348357, -31.9783348373)])
def dejong5(x: Tensor) -> Tensor:
    """De Jong N.5, Shekel's foxholes: 25 sharp drops in a plain."""
    distances = (((x.unsqueeze(-2) - _constant(FOXHOLES, x)) ** 2) ** 3).sum(-1)
    return 1 / (0.002 + (1 / (_one_to(25, x) + distances)).sum(-1))


@_register("Easom", STEEP, 2, (-100, 100), -1, [(pi,)])
def easom(x: Tensor) -> Tensor:
    """Easom: one hole in a plain; value and gradient underflow to 0 far from it."""
    return -torch.cos(x).prod(-1) * torch.exp(-((x - pi) ** 2).sum(-1))


@cache
def _michalewicz_minimum(i: int) -> tuple[float, float]:
    """Return the minimizer of coordinate i's term on [0, pi] and its value, by a fine grid and Brent's method."""

    def term(x: float) -> float:
        return float(-math.sin(x) * math.sin(i * x**2 / pi) ** 20)

    step = pi / (100 * i)  # the narrowest of the i dips is five steps wide
    start = min((k * step for k in range(1, 100 * i)), key=term)
    best = minimize_scalar(term, bounds=(start - step, start + step), method="bounded", options={"xatol": 1e-12})
    return float(best.x), float(best.fun)


def _michalewicz_optimum(d: int) -> float:
    return sum(_michalewicz_minimum(i)[1] for i in range(1, d + 1))


def _michalewicz_minimizers(d: int) -> list[list[float]]:
    return [[_michalewicz_minimum(i)[0] for i in range(1, d + 1)]]


@_register("Michalewicz", STEEP, ANY, (0, pi), _michalewicz_optimum, _michalewicz_minimizers)
def michalewicz(x: Tensor) -> Tensor:
    """Michalewicz with m = 10: steep valleys parallel to the axes."""
    return -(torch.sin(x) * torch.sin(_one_to(x.shape[-1], x) * x**2 / pi) ** 20).sum(-1)


# --- Other ----------------------------------------------------------------------------------------------------------


@_register("Beale", OTHER, 2, (-4.5, 4.5), 0, [(3, 0.5)])
def beale(x: Tensor) -> Tensor:
    """Beale: flat, with sharp peaks in the corners."""
    x1, x2 = x.unbind(-1)
    return (1.5 - x1 + x1 * x2) ** 2 + (2.25 - x1 + x1 * x2**2) ** 2 + (2.625 - x1 + x1 * x2**3) ** 2


@_register("Branin", OTHER, 2, ((-5, 0), (10, 15)), 0.39788735772973816, [(-pi, 12.275), (pi, 2.275), (3 * pi, 2.475)])
def branin(x: Tensor) -> Tensor:
    """Branin: three global minima."""
    x1, x2 = x.unbind(-1)
    return (x2 - 5.1 / (4 * pi**2) * x1**2 + 5 / pi * x1 - 6) ** 2 + 10 * (1 - 1 / (8 * pi)) * torch.cos(x1) + 10


@_register("Colville", OTHER, 4, (-10, 10), 0, ONES)
def colville(x: Tensor) -> Tensor:
    """Colville: two coupled Rosenbrock valleys."""
    x1, x2, x3, x4 = x.unbind(-1)
    valleys = 100 * (x1**2 - x2) ** 2 + (x1 - 1) ** 2 + (x3 - 1) ** 2 + 90 * (x3**2 - x4) ** 2
    return valleys + 10.1 * ((x2 - 1) ** 2 + (x4 - 1) ** 2) + 19.8 * (x2 - 1) * (x4 - 1)


@_register("Forrester et al. (2008)", OTHER, 1, (0, 1), -6.0207400557670825, [(0.7572487578,)])
def forrester(x: Tensor) -> Tensor:
    """Forrester et al. (2008): two minima in one dimension."""
    x1 = x[..., 0]
    return (6 * x1 - 2) ** 2 * torch.sin(12 * x1 - 4)


@_register("Goldstein-Price", OTHER, 2, (-2, 2), 3, [(0, -1)])
def goldstein_price(x: Tensor) -> Tensor:
    """Goldstein-Price: a product of two quartics, spanning six orders of magnitude."""
    x1, x2 = x.unbind(-1)
    s, t = x1 + x2, 2 * x1 - 3 * x2  # the published quadratics are polynomials in these two
    return (1 + (s + 1) ** 2 * (19 - 14 * s + 3 * s**2)) * (30 + t**2 * (18 - 16 * t + 3 * t**2))


HARTMANN_ALPHA = (1.0, 1.2, 3.0, 3.2)
HARTMANN3_A = ((3, 10, 30), (0.1, 10, 35), (3, 10, 30), (0.1, 10, 35))
HARTMANN3_P = (
    (0.3689, 0.1170, 0.2673),
    (0.4699, 0.4387, 0.7470),
    (0.1091, 0.8732, 0.5547),
    (0.0381, 0.5743, 0.8828),
)
HARTMANN6_A = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
HARTMANN6_P = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)
HARTMANN6_X = (
    0.201689511,
    0.1500106918,
    0.4768739742,
    0.2753324305,
    0.3116516166,
    0.6573005341,
)
HARTMANN4_X = (0.187395273, 0.1941515293, 0.5579177801, 0.2647796242)
HARTMANN4_A = tuple(row[:4] for row in HARTMANN6_A)
HARTMANN4_P = tuple(row[:4] for row in HARTMANN6_P)


def _hartmann(x: Tensor, a: Sequence[Any], p: Sequence[Any]) -> Tensor:
    """Weighted sum of four Gaussian bumps with widths `a` at the points `p`."""
    exponents = (_constant(a, x) * (x.unsqueeze(-2) - _constant(p, x)) ** 2).sum(-1)
    return (_constant(HARTMANN_ALPHA, x) * torch.exp(-exponents)).sum(-1)


@_register("Hartmann 3-D", OTHER, 3, (0, 1), -3.8627797873326624, [(0.1145888767, 0.5556488946, 0.8525469847)])
def hartmann3(x: Tensor) -> Tensor:
    """Hartmann 3-D: four local minima."""
    return -_hartmann(x, HARTMANN3_A, HARTMANN3_P)


@_register("Hartmann 4-D", OTHER, 4, (0, 1), -3.1344941412224, [HARTMANN4_X])
def hartmann4(x: Tensor) -> Tensor:
    """Hartmann 4-D in the rescaled form of Picheny et al. (2013)."""
    return (1.1 - _hartmann(x, HARTMANN4_A, HARTMANN4_P)) / 0.839


@_register("Hartmann 6-D", OTHER, 6, (0, 1), -3.322368011415515, [HARTMANN6_X])
def hartmann6(x: Tensor) -> Tensor:
    """Hartmann 6-D: six local minima."""
    return -_hartmann(x, HARTMANN6_A, HARTMANN6_P)


@_register("Perm d,beta", OTHER, ANY, lambda d: (-d, d), 0, lambda d: [list(range(1, d + 1))])
def permdb(x: Tensor) -> Tensor:
    """Perm d,beta with beta = 0.5; use float64 beyond d = 15, where d^(2d) leaves float32."""
    d = x.shape[-1]
    j = _one_to(d, x)
    return (((_powers(j, d) + 0.5) * (_powers(x / j, d) - 1)).sum(-1) ** 2).sum(-1)


@_register("Powell", OTHER, range(4, sys.maxsize, 4), (-4, 5), 0, ORIGIN)
def powell(x: Tensor) -> Tensor:
    """Powell: groups of four coordinates; the Hessian is singular at the minimum."""
    a, b, c, d = x.reshape(*x.shape[:-1], x.shape[-1] // 4, 4).unbind(-1)
    return ((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4).sum(-1)


SHEKEL_BETA = (0.1, 0.2, 0.2, 0.4, 0.4, 0.6, 0.3, 0.7, 0.5, 0.5)
SHEKEL_C = (
    (4, 4, 4, 4),
    (1, 1, 1, 1),
    (8, 8, 8, 8),
    (6, 6, 6, 6),
    (3, 7, 3, 7),
    (2, 9, 2, 9),
    (5, 3, 5, 3),
    (8, 1, 8, 1),
    (6, 2, 6, 2),
    (7, 3.6, 7, 3.6),
)


def _shekel(x: Tensor, m: int) -> Tensor:
    return -(1 / (_squared_distances(x, SHEKEL_C[:m]) + _constant(SHEKEL_BETA[:m], x))).sum(-1)


@_register("Shekel", OTHER, 4, (0, 10), -10.53644315348353, [(4.0007468683, 3.9995094801) * 2])
def shekel(x: Tensor) -> Tensor:
    """Shekel with m = 10 holes."""
    return _shekel(x, 10)


@_register("Shekel 5", OTHER, 4, (0, 10), -10.153199679058227, [(4.0000371528, 4.0001332766) * 2], extra=True)
def shekel5(x: Tensor) -> Tensor:
    """Shekel with m = 5 holes."""
    return _shekel(x, 5)


@_register("Shekel 7", OTHER, 4, (0, 10), -10.402915336777742, [(4.0005728193, 3.9996062096) * 2], extra=True)
def shekel7(x: Tensor) -> Tensor:
    """Shekel with m = 7 holes."""
    return _shekel(x, 7)


@_register("Styblinski-Tang", OTHER, ANY, (-5, 5), lambda d: -39.16616570377142 * d, [(-2.9035340278,)])
def styblinski_tang(x: Tensor) -> Tensor:
    """Styblinski-Tang: 2^d minima, one in every orthant."""
    return 0.5 * (x**4 - 16 * x**2 + 5 * x).sum(-1)


SMOOTH_43 = tuple(name for name in names() if _REGISTRY[name].smooth)
