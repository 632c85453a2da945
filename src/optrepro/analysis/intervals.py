"""Confidence intervals and tests for comparisons over paired seeds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

EXACT = 14  # largest number of pairs whose 2^n sign patterns are enumerated
ROUNDING = 1e-12  # differences of a statistic, relative to its largest value, that count as ties


class Interval(NamedTuple):
    """A mean and the confidence interval around it."""

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of independent values (n,) with Student's t interval; for paired runs, `values` are the differences.

    A single value has no interval, so both ends are NaN; without values the mean is NaN too.

    Raises: ValueError for a level outside (0, 1) or a value that is not finite.
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level} is not in (0, 1)")
    sample = _finite(values)
    if len(sample) < 2:
        return Interval(float(sample[0]) if len(sample) else np.nan, np.nan, np.nan)
    mean = float(sample.mean())
    half = float(_students_quantile(level, len(sample) - 1) * sample.std(ddof=1) / np.sqrt(len(sample)))
    return Interval(mean, mean - half, mean + half)


def median_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Median and its distribution-free confidence interval between two order statistics.

    The ends are the k-th smallest and the k-th largest value, where k is the largest number with
    P(Binomial(n, 1/2) < k) below (1 - level) / 2. They are NaN if k is 0, as for fewer than 6 values at 95 %.

    Source: W. J. Conover, Practical Nonparametric Statistics, section 3.2.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    n = len(ordered)
    if n == 0:
        return np.nan, np.nan, np.nan
    rank = _rank_of_end(level, n)
    low, high = (ordered[rank - 1], ordered[n - rank]) if rank > 0 else (np.nan, np.nan)
    return float(np.median(ordered)), float(low), float(high)


@lru_cache  # as the next one, because scipy needs long for a quantile
def _students_quantile(level: float, freedom: int) -> float:
    """The quantile of Student's t that is the end of an interval of this level."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


@lru_cache
def _rank_of_end(level: float, n: int) -> int:
    """The rank of the value that is the end of `median_interval`, 0 if there is none."""
    return int(stats.binom.ppf((1 - level) / 2, n, 0.5))


def sign_flip_test(differences: ArrayLike, seed: int = 0) -> float:
    """Two-sided p-value of the hypothesis that paired differences (n,) are symmetric about 0, by flipping their signs.

    The test is exact for up to `EXACT` pairs, where all 2^n sign patterns are enumerated; for more pairs, 2^`EXACT`
    patterns are drawn with `seed`. Without pairs p is NaN. The smallest possible p for n pairs is 2 / 2^n.

    Source: Fisher's randomization test for paired samples; `scipy.stats.permutation_test` gives the same.
    Raises: ValueError for a difference that is not finite.
    """
    sample = _finite(differences)
    if len(sample) == 0:
        return np.nan
    if len(sample) <= EXACT:
        return two_sided(sign_patterns(len(sample)) @ sample, sample.sum())
    test = stats.permutation_test(
        (sample,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXACT,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


@lru_cache(maxsize=EXACT)
def sign_patterns(n: int) -> NDArray[np.float64]:
    """All patterns of n signs, (2^n, n)."""
    return np.where(np.arange(2**n)[:, None] >> np.arange(n) & 1, -1.0, 1.0)


def two_sided(null: NDArray[np.float64], observed: float) -> float:
    """Twice the smaller tail, at most 1, of a statistic with the equally likely values `null` under the hypothesis."""
    tie = ROUNDING * np.abs(null).max()
    return min(1.0, 2 * float(min((null <= observed + tie).mean(), (null >= observed - tie).mean())))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down method, in the given order; NaN stays NaN and is not counted as a test.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    adjusted = np.array(p_values, dtype=np.float64)
    order = np.argsort(adjusted)[: np.isfinite(adjusted).sum()]  # NaN is sorted to the end
    scaled = adjusted[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1)
    return [float(p) for p in adjusted]


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if not np.isfinite(sample).all():
        raise ValueError(f"values = {sample.tolist()} are not all finite; count diverged runs before averaging")
    return sample
