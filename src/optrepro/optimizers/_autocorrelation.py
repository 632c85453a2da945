"""What the continuous forms compute: products of sketches, filters on the interval, and bins of the momentum."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from optrepro.optimizers._kernels import Number

OUTLIER = 100.0  # times the median norm of the sketches: longer ones are cut to it
POINTS = 128  # momenta at which the score is evaluated, closer together towards 1
# Where the rule would pass from one to the next of the momenta 0.5, 0.9 and 0.99, were they its candidates.
EDGES = (0.766, 0.968)

# The autocorrelation.


def lagged_products(sketches: Tensor, columns: Tensor) -> Tensor:
    """Inner products of each of the last rows with itself and the `lags` ones before it, (every, lags + 1).

    Args:
        columns: (every, lags + 1), the numbers of these rows, see `Layout`.
    """
    return (sketches[-len(columns) :] @ sketches.T).gather(1, columns)


def bounded(sketches: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Sketches in units of their median norm, those beyond `OUTLIER` cut to it; and the square of that unit, ().

    What is not finite becomes 0. `known` is the mean square norm so far, (1,), NaN where there is none.
    """
    norms = torch.linalg.vector_norm(sketches, dim=1, dtype=torch.float64)
    lengths = torch.cat([norms, known.sqrt()])
    unit = torch.where((lengths > 0) & (lengths < math.inf), lengths, math.nan).nanmedian()
    scales = (1 / torch.maximum(norms / OUTLIER, unit)).nan_to_num_(0.0)
    return (sketches * scales.float()[:, None]).nan_to_num_(0.0, 0.0, 0.0), unit.nan_to_num(0.0).square()


def decayed(new: Tensor, old: Tensor, share: Number) -> Tensor:
    """The new and a share of the old."""
    return new + share * old if isinstance(share, Tensor) else torch.add(new, old, alpha=share)


# The score.


@lru_cache(maxsize=16)
def filters(low: float, high: float, lags: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Momenta on the interval, (points,), evenly in log(1 - m), and their filters' taps, (points, lags); in float64."""
    grid = 1 - torch.logspace(math.log10(1 - low), math.log10(1 - high), POINTS, dtype=torch.float64)
    grid[0], grid[-1] = low, high
    taps = normalize(grid[:, None] ** torch.arange(lags), dim=1)
    return grid.to(device), taps.to(device)


# The bins of `selection`.


def place_of(momentum: Tensor) -> Tensor:
    """The bin of a momentum, () in int64."""
    return (momentum > edges(momentum.device)).sum()


def counts_of(momentum: Tensor, steps: int | Tensor) -> Tensor:
    """The number of steps in each bin, where all had one momentum."""
    return (torch.arange(len(EDGES) + 1, device=momentum.device) == place_of(momentum)) * steps


def edges(device: torch.device) -> Tensor:
    """Where a bin ends and the next begins."""
    return torch.tensor(EDGES, dtype=torch.float64, device=device)
