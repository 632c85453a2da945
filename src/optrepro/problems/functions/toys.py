"""Toy losses in the plane, which show the behaviour of an optimizer at a glance.

Use: ``toy = toys.get("valley")``, then ``toy(x)`` for `x` of shape (..., 2), with `toy.lower`, `toy.upper` and
`toy.minimizers`. Each loss is a plain function (..., 2) -> (...) of torch operations, which autograd can differentiate;
its minimum is 0. The line above a function registers its title, the box of starts, and its minimizers.

Source: chosen; arXiv 2512.06370v1 shows toy losses without their formulas.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.func import hessian, vmap

Formula = Callable[[Tensor], Tensor]
Point = tuple[float, float]


@dataclass(frozen=True)
class Toy:
    """A loss in the plane with minimum 0.

    Attributes:
        name, title: id in config and results, and display name.
        convex: whether the loss is convex.
        lower, upper: corners of the box of starts.
        minimizers: all points of the plane where the loss is 0.
    """

    name: str
    title: str
    convex: bool
    lower: Point
    upper: Point
    minimizers: tuple[Point, ...]
    formula: Formula = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the loss at `x`, (..., 2) -> (...). Raises: ValueError for another last dimension."""
        if x.ndim == 0 or x.shape[-1] != 2:
            raise ValueError(f"{self.name}: x has the shape {tuple(x.shape)}; the last dimension must be 2")
        return self.formula(x)

    def curvature(self) -> float:
        """Return the largest eigenvalue of the Hessian on a 33 x 33 grid over the start box and at the minimizers.

        Gradient descent is stable there at rates below 2 divided by it.
        """
        (left, low), (right, high) = self.lower, self.upper
        axes = torch.linspace(left, right, 33, dtype=torch.float64), torch.linspace(low, high, 33, dtype=torch.float64)
        points = torch.cat([torch.cartesian_prod(*axes), torch.tensor(self.minimizers, dtype=torch.float64)])
        hessians = vmap(hessian(self.formula))(points)
        return float(torch.linalg.eigvalsh(hessians)[:, -1].max())

    def starts(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw uniform points in the start box, (count, 2) float64."""
        lower, upper = torch.tensor(self.lower, dtype=torch.float64), torch.tensor(self.upper, dtype=torch.float64)
        return lower + (upper - lower) * torch.rand(count, 2, generator=generator, dtype=torch.float64)


_TOYS: dict[str, Toy] = {}


def names() -> list[str]:
    """Return the ids of all toy losses, in the order of the file."""
    return list(_TOYS)


def get(name: str) -> Toy:
    """Return a toy loss by its id. Raises: ValueError for an unknown id."""
    if name not in _TOYS:
        raise ValueError(f"toy = {name!r} is not one of {', '.join(_TOYS)}")
    return _TOYS[name]


def toy(
    title: str, convex: bool, lower: Point, upper: Point, minimizers: tuple[Point, ...]
) -> Callable[[Formula], Formula]:
    """Register a loss under the name of its function."""

    def register(formula: Formula) -> Formula:
        name = formula.__name__
        _TOYS[name] = Toy(name, title, convex, lower, upper, minimizers, formula)
        return formula

    return register


# (3, 2) is exact; the other three are roots to double precision, found by Newton's method.
_HIMMELBLAU_MINIMIZERS: tuple[Point, ...] = (
    (3.0, 2.0),
    (-2.805118086952745, 3.131312518250573),
    (-3.779310253377747, -3.283185991286170),
    (3.584428340330492, -1.848126526964404),
)


@toy("round bowl (condition 2)", True, (-2, -2), (2, 2), ((0, 0),))
def bowl(x: Tensor) -> Tensor:
    """A well-conditioned quadratic, with axes turned by 30 degrees."""
    return _quadratic(x, condition=2, degrees=30)


@toy("elliptic bowl (condition 25)", True, (-2, -2), (2, 2), ((0, 0),))
def ellipse(x: Tensor) -> Tensor:
    """An ill-conditioned quadratic, with axes turned by 30 degrees."""
    return _quadratic(x, condition=25, degrees=30)


@toy("curved valley", False, (-2, -1), (2, 3), ((1, 1),))
def valley(x: Tensor) -> Tensor:
    """Rosenbrock's valley with walls a tenth as steep: a curved floor that falls slowly towards (1, 1)."""
    head, tail = x.unbind(-1)
    return 10 * (tail - head**2) ** 2 + (1 - head) ** 2


@toy("saddle between two wells", False, (-0.1, -2), (0.1, 2), ((-1, 0), (1, 0)))
def saddle(x: Tensor) -> Tensor:
    """A double well; runs start on the ridge beside its saddle at the origin."""
    across, along = x.unbind(-1)
    return (across**2 - 1) ** 2 / 4 + 2 * along**2


@toy("four wells", False, (-5, -5), (5, 5), _HIMMELBLAU_MINIMIZERS)
def wells(x: Tensor) -> Tensor:
    """Himmelblau's function: four wells of depth 0 around a central hump."""
    first, second = x.unbind(-1)
    return (first**2 + second - 11) ** 2 + (first + second**2 - 7) ** 2


def _quadratic(x: Tensor, condition: float, degrees: float) -> Tensor:
    """Return (a^2 + condition b^2) / 2 for axes a, b that are turned by an angle."""
    angle = math.radians(degrees)
    head, tail = x.unbind(-1)
    flat = math.cos(angle) * head + math.sin(angle) * tail
    steep = math.cos(angle) * tail - math.sin(angle) * head
    return (flat**2 + condition * steep**2) / 2
