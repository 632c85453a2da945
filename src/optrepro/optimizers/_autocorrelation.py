"""Building blocks of the continuous forms: products of sketches, filters on the interval, and bins of the momentum."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from optrepro.optimizers._kernels import Number

OUTLIER = 100.0  # A sketch longer than this multiple of the median norm is shortened to it.
POINTS = 128  # The score is evaluated at this many momenta, which lie closer together towards 1.
# At these momenta a rule with the candidates 0.5, 0.9 and 0.99 would pass from one candidate to the next.
EDGES = (0.766, 0.968)

# The autocorrelation.


def lagged_products(sketches: Tensor, columns: Tensor) -> Tensor:
    """Inner products of each of the last `every` sketches with itself and the `lags` before it, (every, lags + 1).

    Args:
        sketches: one sketch per row, the newest last, (lags + every, width).
        columns: for each of the last rows and each lag, the index of the earlier row, (every, lags + 1).
    """
    return (sketches[-len(columns) :] @ sketches.T).gather(1, columns)


def bounded(sketches: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Divide the sketches by their median norm, shorten outliers to `OUTLIER` units, and return the squared unit, ().

    Sketches that are not finite become 0.

    Args:
        sketches: one sketch per row.
        known: the mean square norm so far, (1,); NaN before the first estimate. Its root joins the median.
    """
    norms = torch.linalg.vector_norm(sketches, dim=1, dtype=torch.float64)
    lengths = torch.cat([norms, known.sqrt()])
    unit = torch.where((lengths > 0) & (lengths < math.inf), lengths, math.nan).nanmedian()
    scales = (1 / torch.maximum(norms / OUTLIER, unit)).nan_to_num_(0.0)
    return (sketches * scales.float()[:, None]).nan_to_num_(0.0, 0.0, 0.0), unit.nan_to_num(0.0).square()


def decayed(new: Tensor, old: Tensor, share: Number) -> Tensor:
    """The new value plus a share of the old one."""
    return new + share * old if isinstance(share, Tensor) else torch.add(new, old, alpha=share)


# The score.


@lru_cache(maxsize=16)
def filters(low: float, high: float, lags: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Momenta evenly spaced in log(1 - m), (points,), and the taps of their unit-norm filters, (points, lags).

    Both are in float64.
    """
    grid = 1 - torch.logspace(math.log10(1 - low), math.log10(1 - high), POINTS, dtype=torch.float64)
    grid[0], grid[-1] = low, high
    taps = normalize(grid[:, None] ** torch.arange(lags), dim=1)
    return grid.to(device), taps.to(device)


# The bins of `selection`.


def place_of(momentum: Tensor) -> Tensor:
    """The bin of a momentum, () in int64."""
    return (momentum > edges(momentum.device)).sum()


def counts_of(momentum: Tensor, steps: int | Tensor) -> Tensor:
    """The number of steps in each bin when all of them used this momentum."""
    return (torch.arange(len(EDGES) + 1, device=momentum.device) == place_of(momentum)) * steps


def edges(device: torch.device) -> Tensor:
    """The boundaries between the bins."""
    return torch.tensor(EDGES, dtype=torch.float64, device=device)
