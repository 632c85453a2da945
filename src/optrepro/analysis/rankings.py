"""Optimizers ranked over many problems: average ranks, Friedman's test, and all pairs by Wilcoxon's with Holm's.

Every function takes a table of values with one row per problem and one column per optimizer, lower is better, without
missing values. Source of the procedure: J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR
7 (2006).
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from optrepro.analysis.intervals import holm


class Friedman(NamedTuple):
    """Friedman's chi-squared with its p-value, and the less conservative F of Iman and Davenport with its own."""

    chi_squared: float
    p: float
    f: float
    f_p: float


def average_ranks(values: pd.DataFrame) -> pd.Series:
    """Mean over the problems of the rank within each, 1 is best; equal values share the mean of their ranks."""
    return values.rank(axis=1).mean()


def friedman(values: pd.DataFrame) -> Friedman:
    """Whether the ranks of N problems differ between k optimizers; NaN throughout for fewer than 3 or 2 of them.

    The statistic is corrected for ties. F = (N - 1) chi2 / (N (k - 1) - chi2), with k - 1 and (k - 1)(N - 1) degrees.
    """
    n, k = values.shape
    if k < 3 or n < 2:
        return Friedman(np.nan, np.nan, np.nan, np.nan)
    chi_squared, p = stats.friedmanchisquare(*(values[column] for column in values))
    rest = n * (k - 1) - chi_squared
    f = (n - 1) * chi_squared / rest if rest > 0 else np.inf
    return Friedman(float(chi_squared), float(p), float(f), float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))))


def critical_difference(optimizers: int, problems: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks: q sqrt(k (k + 1) / (6 N)), q a studentized range over sqrt(2)."""
    q = stats.studentized_range.ppf(1 - alpha, optimizers, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(optimizers * (optimizers + 1) / (6 * problems)))


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """One row per optimizer: optimizer, rank (average), first (problems on which no other is better).

    And, the same in every row: problems, friedman, friedman_p, iman_davenport, iman_davenport_p, and
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
    """Every pair of optimizers: first, second, wins, ties, losses (of the first), statistic, p, p_holm.

    Wilcoxon's signed-rank test on the differences over problems, as `wilcoxon` has it; p_holm is Holm's over all pairs
    of the table.
    """
    rows = []
    for first, second in combinations(values.columns, 2):
        difference = values[first] - values[second]
        statistic, p = wilcoxon(difference)
        wins, losses = int((difference < 0).sum()), int((difference > 0).sum())
        ties = len(difference) - wins - losses
        rows.append((first, second, wins, ties, losses, statistic, p))
    table = pd.DataFrame(rows, columns=["first", "second", "wins", "ties", "losses", "statistic", "p"])
    return table.assign(p_holm=holm(table.p.tolist()))


def wilcoxon(difference: pd.Series) -> tuple[float, float]:
    """Statistic and two-sided p-value of Wilcoxon's signed-rank test on paired differences (n,).

    The ranks of differences of zero are split evenly between both signs, as Demsar has it.
    """
    if not difference.any():
        return len(difference) * (len(difference) + 1) / 4, 1.0  # half of all ranks; scipy divides by a spread of zero
    test = stats.wilcoxon(difference, zero_method="zsplit", method="auto")
    return float(test.statistic), float(test.pvalue)
