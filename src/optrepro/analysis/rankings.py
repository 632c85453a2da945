"""Rankings of optimizers over problems: average ranks, Friedman's test, and Wilcoxon's test with Holm's correction.

Every function takes a table of values without missing entries, problems by optimizers, where lower is better. Source:
J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006).
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from optrepro.analysis import columns
from optrepro.analysis.intervals import holm, sign_patterns, two_sided

ENUMERATED = 13  # largest number of pairs for which Wilcoxon's test enumerates all sign patterns


class Friedman(NamedTuple):
    """Friedman's chi-squared and the less conservative F of Iman and Davenport, each with its p-value."""

    chi_squared: float
    p: float
    f: float
    f_p: float


def average_ranks(values: pd.DataFrame) -> pd.Series:
    """Mean rank over the problems, 1 is best; equal values have the mean of their ranks."""
    return values.rank(axis=1).mean()


def friedman(values: pd.DataFrame) -> Friedman:
    """Friedman's test for k optimizers on N problems; all values are NaN if k < 3 or N < 2.

    The statistic is corrected for ties. F = (N - 1) chi2 / (N (k - 1) - chi2) has k - 1 and (k - 1)(N - 1) degrees of
    freedom.
    """
    n, k = values.shape
    if k < 3 or n < 2:
        return Friedman(np.nan, np.nan, np.nan, np.nan)
    chi_squared, p = stats.friedmanchisquare(*(values[column] for column in values))
    rest = n * (k - 1) - chi_squared
    f = (n - 1) * chi_squared / rest if rest > 0 else np.inf
    return Friedman(float(chi_squared), float(p), float(f), float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))))


def critical_difference(optimizers: int, problems: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks, q sqrt(k (k + 1) / (6 N)), for k optimizers on N problems.

    q is the quantile of the studentized range divided by sqrt(2).
    """
    q = _studentized_range(optimizers, alpha) / np.sqrt(2)
    return float(q * np.sqrt(optimizers * (optimizers + 1) / (6 * problems)))


@cache  # a quantile takes a second
def _studentized_range(optimizers: int, alpha: float) -> float:
    return float(stats.studentized_range.ppf(1 - alpha, optimizers, np.inf))


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """One row per optimizer: optimizer, rank (average), first (number of problems on which no other is better).

    The other columns are equal in all rows: problems, friedman, friedman_p, iman_davenport, iman_davenport_p, and
    critical_difference (Nemenyi, 5 %).
    """
    test = friedman(values)
    table = pd.DataFrame(
        {
            "optimizer": values.columns,
            "problems": len(values),
            "rank": average_ranks(values).to_numpy(),
            "first": values.eq(values.min(axis=1), axis=0).sum().to_numpy(),
        }
    )
    return table.assign(
        friedman=test.chi_squared,
        friedman_p=test.p,
        iman_davenport=test.f,
        iman_davenport_p=test.f_p,
        critical_difference=critical_difference(values.shape[1], len(values)) if len(values) else np.nan,
    )


def pairwise(values: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of optimizers: first, second, wins, ties, losses (of the first), statistic, p, p_holm.

    The test is `wilcoxon` on the differences over problems; p_holm is corrected for all pairs of the table.
    """
    rows = []
    for first, second in combinations(values.columns, 2):
        difference = values[first] - values[second]
        statistic, p = wilcoxon(difference)
        rows.append((first, second, *columns.record(-difference).values(), statistic, p))
    table = pd.DataFrame(rows, columns=["first", "second", "wins", "ties", "losses", "statistic", "p"])
    return table.assign(p_holm=holm(table.p.tolist()))


def wilcoxon(difference: pd.Series) -> tuple[float, float]:
    """Statistic and two-sided p-value of Wilcoxon's signed-rank test on paired differences (n,).

    The ranks of zero differences are split evenly between both signs (Demsar 2006). Up to 13 pairs have the exact
    distribution, ties or not, as in `scipy.stats.wilcoxon`; more have it without ties, and the normal one with ties.
    """
    d = difference.to_numpy(dtype=np.float64)
    if not d.any():
        return len(d) * (len(d) + 1) / 4, 1.0  # half of all ranks; scipy would divide by zero
    if len(d) > ENUMERATED:
        test = stats.wilcoxon(d, zero_method="zsplit", method="auto")
        return float(test.statistic), float(test.pvalue)
    ranks = stats.rankdata(np.abs(d))
    signed = np.where(d == 0, 0, ranks)
    total = ranks.sum()
    balance = float(np.sign(d) @ signed)  # ranks of positive differences minus those of negative ones
    return float(total - abs(balance)) / 2, two_sided(sign_patterns(len(d)) @ signed, balance)
