"""Confidence intervals and tests for comparisons over paired seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

EXACT = 2**14  # sign patterns that are enumerated; beyond 14 pairs as many are drawn


class Interval(NamedTuple):
    """A mean and the confidence interval around it."""

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of independent values (n,) with Student's t interval; for paired runs, `values` are the differences.

    Fewer than two values give a mean without an interval (NaN ends), none at all NaN throughout.

    Raises: ValueError for a level outside (0, 1) or a value that is not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level} is not in (0, 1)")
    sample = _finite(values)
    if len(sample) < 2:
        return Interval(float(sample[0]) if len(sample) else np.nan, np.nan, np.nan)
    mean = float(sample.mean())
    half = float(stats.t.ppf((1 + level) / 2, len(sample) - 1) * stats.sem(sample))
    return Interval(mean, mean - half, mean + half)


def sign_flip_test(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of "the paired differences (n,) are symmetric about 0", by flipping their signs.

    Exact up to 14 pairs, where all 2^n sign patterns are enumerated; beyond, `EXACT` patterns are drawn with `seed`.
    No pair gives NaN. The smallest p that n pairs can give is 2 / 2^n.

    Source: Fisher's randomization test for paired samples, as `scipy.stats.permutation_test` carries it out.
    Raises: ValueError for a difference that is not finite.
    """
    sample = _finite(differences)
    if len(sample) == 0:
        return np.nan
    if len(sample) == 1 or not sample.any():
        return 1.0  # every pattern is as extreme as the one observed
    test = stats.permutation_test(
        (sample,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=EXACT,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number by Holm's step-down method, in the given order; NaN stays NaN and counts not.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted = [float("nan")] * len(p_values)
    ascending = sorted((p, i) for i, p in enumerate(p_values) if p == p)
    largest = 0.0
    for rank, (p, i) in enumerate(ascending):
        largest = max(largest, min(1.0, p * (len(ascending) - rank)))
        adjusted[i] = largest
    return adjusted


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise ValueError(f"values = {sample.tolist()} are not all finite; count diverged runs before averaging")
    return sample
