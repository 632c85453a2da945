"""The prior: samples, its fixed sets, and distances of its statistics from those of other collections."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from optrepro.analysis.results import StudyResults

Array = NDArray[np.float64]

FAMILIES = ("convex", "gp", "sum")  # in the order of the numbers that runs record as the kind
PRIOR, BENCHMARK = "prior", "vlse"
RESAMPLES = 1000  # chosen: enough permutations for two stable digits of the 95 % quantile
LEVEL = 0.95


def gallery(study: StudyResults) -> pd.DataFrame:
    """Sampled functions on a grid, convex ones first: function, family, kind, x0, x1, value.

    `function` is the index in the test set, `family` one of `FAMILIES`. `kind` is ``grid`` for a grid point, in rows
    along the second coordinate, or ``minimizer`` (value NaN).
    """
    shown = study.runs[study.runs.workload.str.startswith("gallery/")]
    tables = []
    for workload, own in shown.groupby("workload", sort=False):
        fact = own.drop_duplicates("metric").set_index("metric").value
        surface = own[own.metric == "surface"].sort_values(["seed", "step"])
        last = max(int(surface.step.max()), 1)
        grid = pd.DataFrame(
            {"kind": "grid", "x0": surface.step / last, "x1": surface.seed / last, "value": surface.value}
        )
        minimizer = pd.DataFrame({"kind": ["minimizer"], "x0": fact["x0"], "x1": fact["x1"], "value": np.nan})
        number, family = int(str(workload).partition("/")[2]), int(fact["kind"])
        tables.append(pd.concat([grid, minimizer]).assign(function=number, family=FAMILIES[family], order=family))
    table = pd.concat(tables).sort_values(["order", "function"], kind="stable", ignore_index=True)
    return table[["function", "family", "kind", "x0", "x1", "value"]]


def sets(study: StudyResults) -> pd.DataFrame:
    """The fixed sets: set, family, functions (their number), share, range (median of maximum - minimum)."""
    runs = study.runs[study.runs.workload.isin(["validation", "test"])]
    wide = runs.pivot(index=["workload", "seed"], columns="metric", values="value").reset_index()
    wide["range"] = wide.maximum - wide.minimum
    table = wide.groupby(["workload", "kind"]).range.agg(["size", "median"]).reset_index()
    table["share"] = table["size"] / table.groupby("workload")["size"].transform("sum")
    table["family"] = [FAMILIES[int(kind)] for kind in table.kind]
    names = {"workload": "set", "size": "functions", "median": "range"}
    return table.rename(columns=names)[["set", "family", "functions", "share", "range"]]


def match(study: StudyResults) -> pd.DataFrame:
    """Statistics of functions: collection, function (its index), statistic, value.

    Collections are the prior, the benchmark (``vlse``), and ``shift-...``; an undefined statistic has no row.
    """
    runs = study.runs[study.runs.workload.str.startswith("statistics/")]
    table = runs.assign(collection=runs.workload.str.removeprefix("statistics/"))
    table = table.rename(columns={"seed": "function", "metric": "statistic"})
    return table[["collection", "function", "statistic", "value"]].reset_index(drop=True)


def distances(study: StudyResults) -> pd.DataFrame:
    """Distances of each collection from the prior: one row per collection and statistic.

    Columns: collection, statistic, functions (number of those in the collection with a defined statistic), median and
    prior_median; ks (Kolmogorov-Smirnov distance, 0 to 1) and wasserstein (Wasserstein distance in units of the prior's
    interquartile range; NaN if that is 0); ks_chance and wasserstein_chance, the 95 % quantiles of the distances
    between two samples of these sizes from one distribution, by permutations.
    """
    values = {key: rows.value.to_numpy() for key, rows in match(study).groupby(["collection", "statistic"], sort=False)}
    rows = []
    for (collection, statistic), sample in values.items():
        if collection == PRIOR:
            continue
        prior = values[PRIOR, statistic]
        ks, wasserstein = distance(prior, sample)
        null = permuted_distances(prior, sample)
        lower, upper = np.quantile(prior, [0.25, 0.75])
        unit = upper - lower if upper > lower else np.nan
        rows.append(
            {
                "collection": collection,
                "statistic": statistic,
                "functions": len(sample),
                "median": np.median(sample),
                "prior_median": np.median(prior),
                "ks": ks,
                "ks_chance": np.quantile(null[0], LEVEL),
                "wasserstein": wasserstein / unit,
                "wasserstein_chance": np.quantile(null[1], LEVEL) / unit,
            }
        )
    return pd.DataFrame(rows)


def distance(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Kolmogorov-Smirnov and Wasserstein distances between two samples, equal to those of scipy.stats."""
    pooled, ofs = _pooled(first, second)
    ks, wasserstein = _distances(pooled, ofs[None])
    return float(ks[0]), float(wasserstein[0])


def permuted_distances(first: ArrayLike, second: ArrayLike, seed: int = 0) -> tuple[Array, Array]:
    """Both distances, (RESAMPLES,) each, after random permutations of the values between the samples."""
    pooled, ofs = _pooled(first, second)
    shuffled = np.random.default_rng(seed).permuted(np.tile(ofs, (RESAMPLES, 1)), axis=1)
    return _distances(pooled, shuffled)


def _pooled(first: ArrayLike, second: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """All values, ascending, (N,), and whether each belongs to the first sample, (N,)."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (first, second))
    pooled, ofs = np.concatenate([a, b]), np.arange(len(a) + len(b)) < len(a)
    order = np.argsort(pooled, kind="stable")
    return pooled[order], ofs[order]


def _distances(pooled: Array, ofs: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Largest difference and area between two empirical distribution functions, (B,) each.

    Args:
        pooled: all values, ascending, (N,).
        ofs: whether each value belongs to the first sample, for each of B assignments, (B, N).
    """
    gap = np.abs(np.cumsum(ofs, 1) / ofs.sum(1, keepdims=True) - np.cumsum(~ofs, 1) / (~ofs).sum(1, keepdims=True))
    ends = np.append(
        pooled[1:] > pooled[:-1], True
    )  # last of equal values, where the distribution functions have their steps
    return gap[:, ends].max(1), gap[:, :-1] @ np.diff(pooled)
