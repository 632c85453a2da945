"""Fixed sets of functions and starts from the prior: training never sees them, and all studies share them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from optrepro.conventions import FLOOR
from optrepro.experiments.base.shared import shareable
from optrepro.problems.functions import synthetic
from optrepro.problems.functions.settings import PriorSettings
from optrepro.problems.functions.synthetic import Extrema, Functions, SyntheticPrior
from optrepro.seeds import derive_seed

Array = NDArray[np.float64]

SAMPLE = 1024  # points at which the search for a function's minimum starts


@dataclass(frozen=True)
class FixedSet:
    """n functions, one start on each, (n, d), and estimates of their extrema."""

    functions: Functions
    start: Tensor
    extrema: Extrema


@shareable
def fixed(settings: PriorSettings, seed: int, name: str, count: int, dim: int) -> FixedSet:
    """Return the set `name` ("validation", "test", ...); a larger set begins with the functions of a smaller one.

    Args:
        settings: settings of the prior.
        seed: root seed of the config.
        name: name of the set, part of its seed.
        count: number of functions.
        dim: dimension of the functions.
    """
    functions = SyntheticPrior(settings).sample(derive_seed(seed, "prior", name, dim), count, dim)
    generator = torch.Generator().manual_seed(derive_seed(seed, "prior", name, dim, "starts"))
    start = torch.rand(count, dim, generator=generator, dtype=torch.float64)
    return FixedSet(functions, start, synthetic.extrema(functions, SAMPLE))


def progress(regrets: Array) -> tuple[Array, Array]:
    """Return each run's normalized improvement (N,), and the decimal digits by which its regret shrank (N,).

    Both are 0 for a run from an optimal start, or from one whose value is not finite.

    Args:
        regrets: best value so far minus minimum, (budget, N). Negative regret shows that the run found less than an
            estimated minimum; its own best value then takes the place of the minimum.
    """
    lowest = np.minimum(regrets[-1], 0)
    first, final = regrets[0] - lowest, regrets[-1] - lowest
    share = np.divide(final, first, out=np.ones_like(final), where=(first > 0) & np.isfinite(first))
    return 1 - share, -np.log10(share.clip(FLOOR, 1))
