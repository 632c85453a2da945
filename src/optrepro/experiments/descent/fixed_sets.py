"""The prior's fixed sets: functions and starts that training never sees, the same wherever a study names them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optrepro.conventions import FLOOR
from optrepro.problems.functions import synthetic
from optrepro.problems.functions.settings import PriorSettings
from optrepro.problems.functions.synthetic import Extrema, Functions, SyntheticPrior
from optrepro.seeds import derive_seed

Array = NDArray[np.float64]

SAMPLE = 1024  # points that the search for a function's smallest value starts from


@dataclass(frozen=True)
class FixedSet:
    """n functions, a start (n, d) on each, and what is known of their extrema."""

    functions: Functions
    start: Tensor
    extrema: Extrema


def fixed(settings: PriorSettings, seed: int, name: str, count: int, dim: int) -> FixedSet:
    """The set called `name` (validation, test, ...) in `dim` dimensions; a larger one begins with the smaller one.

    Args:
        settings: the prior.
        seed: root of the config's seeds.
        name: tells the sets apart.
        count: number of functions.
        dim: their dimension.
    """
    functions = SyntheticPrior(settings).sample(derive_seed(seed, "prior", name, dim), count, dim)
    generator = torch.Generator().manual_seed(derive_seed(seed, "prior", name, dim, "starts"))
    start = torch.rand(count, dim, generator=generator, dtype=torch.float64)
    return FixedSet(functions, start, synthetic.extrema(functions, SAMPLE))


def progress(regrets: Array) -> tuple[Array, Array]:
    """Normalized improvement, and the decimal digits by which the start's regret shrank, of each run: two of (N,).

    Args:
        regrets: best value so far less the minimum, (budget, N). Where a run beat an estimated minimum, what it found
            takes its place. A run from an optimal start, or one that met nothing finite, has made no progress.
    """
    lowest = np.minimum(regrets[-1], 0)
    first, final = regrets[0] - lowest, regrets[-1] - lowest
    share = np.divide(final, first, out=np.ones_like(final), where=(first > 0) & np.isfinite(first))
    return 1 - share, -np.log10(share.clip(FLOOR, 1))
