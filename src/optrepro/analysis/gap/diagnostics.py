"""Gradient statistics along training: their autocorrelation, whether it is stationary, how fast it drifts; choices.

What the tidy results of `optrepro.experiments.training.diagnostics` hold is taken apart here into tables by workload.
Where a row of Adam was followed, the statistics of a workload are those that weigh coordinates as Adam's score does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special
from statsmodels.stats.multitest import multipletests

from optrepro.analysis.results import StudyResults

LEVEL = 0.05  # false discovery rate of the tests of stationarity
SUMS = ("all", "preconditioned")
SERIES = {"kpss_square": "|g_n|^2", "kpss_lag1": "<g_n, g_(n-1)>"}
RESOLVED = 2.0  # standard errors that R_0 without noise must lie above 0 for a coefficient over it
SHORT = 2  # blocks of a short window: with fewer there is no sampling error
GIVEN = 0.9  # share of the pairs of short windows whose R must be above its sampling error

Array = NDArray[np.float64]


def lag_one(study: StudyResults) -> pd.DataFrame:
    """The lag-1 coefficient in windows that slide by a block, of each tensor and of the sums.

    Columns: workload, layer (a tensor's name, all, preconditioned), step (last one of the window); coefficient,
    R_1 / R_0; signal, R_0 without mini-batch noise over R_0; noiseless, R_1 over R_0 without noise (NaN where that is
    less than two standard errors, of the blocks and runs, above 0); excess, R_1 less R_0 without noise in standard
    errors, where there is a noiseless one. Means over the runs are taken before the ratios.
    """
    blocks = int(study.facts.settings["blocks"])
    tables = []
    for (workload, layer), rows in _blocks(study).groupby(["workload", "layer"], sort=False):
        rows = rows.assign(excess=rows.R1 - rows.halves).sort_index()
        windows = rows.groupby("seed")[["R0", "R1", "halves", "excess"]].rolling(blocks)
        means = windows.mean().groupby("step").mean()
        variances = (windows.var() / blocks).groupby("step")
        errors = variances.sum().div(variances.size() ** 2, axis=0) ** 0.5
        resolved = means.halves > RESOLVED * errors.halves
        table = pd.DataFrame(
            {
                "workload": workload,
                "layer": layer,
                "coefficient": means.R1 / means.R0,
                "signal": means.halves / means.R0,
                "noiseless": (means.R1 / means.halves).where(resolved),
                "excess": (means.excess / errors.excess).where(resolved),
            }
        )
        tables.append(table.dropna(subset="coefficient").reset_index())
    return pd.concat(tables, ignore_index=True)


def stationarity(study: StudyResults) -> pd.DataFrame:
    """KPSS tests within windows, over all tensors of a workload and all its runs: one row per length and series.

    Columns: workload, length (steps of a window), series, tests, rejected (share at a false discovery rate of 5 %,
    Benjamini and Hochberg over the tests of the row), uncorrected (share below the level by itself), smallest (p).
    """
    tests = _tests(study)
    tests = tests[~tests.layer.isin(SUMS)]
    rows = []
    for (workload, length, series), group in tests.groupby(["workload", "length", "series"], sort=False):
        p = group.p.to_numpy()
        rows.append(
            {
                "workload": workload,
                "length": length,
                "series": series,
                "tests": len(p),
                "rejected": multipletests(p, LEVEL, "fdr_bh")[0].mean(),
                "uncorrected": (p < LEVEL).mean(),
                "smallest": p.min(),
            }
        )
    return pd.DataFrame(rows)


def rejections(study: StudyResults) -> pd.DataFrame:
    """Share of the shortest windows in which stationarity is rejected, by workload, layer and series.

    Corrected over all tensors and windows of a workload as in `stationarity`, the sums by themselves.
    """
    tests = _tests(study)
    tests = tests[tests.length == tests.length.min()]
    family = tests.layer.where(tests.layer.isin(SUMS), "tensors")
    tests["rejected"] = tests.groupby(["workload", "series", family]).p.transform(
        lambda p: multipletests(p, LEVEL, "fdr_bh")[0]
    )
    shares: pd.Series = tests.groupby(["workload", "layer", "series"], sort=False).rejected.mean()
    return shares.astype(float).reset_index()


def kpss_p(statistic: ArrayLike) -> Array:
    """P-values of KPSS statistics of level stationarity, from their limit law.

    The limit is the integral of a squared Brownian bridge, the law of Cramér and von Mises, whose series Anderson and
    Darling (1952) give. Tabulated p-values end at 0.01, where no correction for many tests can begin.
    """
    x = np.asarray(statistic, dtype=np.float64)[..., None]
    j = np.arange(10)
    z = (4 * j + 1) ** 2 / (16 * x)
    weights = special.gamma(j + 0.5) * np.sqrt(4 * j + 1) / (special.gamma(0.5) * special.gamma(j + 1))
    cumulative = (weights * np.exp(-2 * z) * special.kve(0.25, z)).sum(-1) / (np.pi * np.sqrt(x[..., 0]))
    tail: Array = np.clip(1 - cumulative, 0.0, 1.0)
    return tail


def drift(study: StudyResults) -> pd.DataFrame:
    """How far the autocorrelation moves with the distance of two windows, in steps between their starts.

    Columns: workload, part (``R``: all lags; ``memory``: without R_0, which no choice by `raw` depends on), window
    (steps), distance, and over all pairs of windows at that distance, in all runs: change, the median of
    ||R^w - R^(w + d)|| / ||R^w||, with its quartiles low and high; shape, the median of what a common factor cannot
    undo (the sine of the angle between both): a rule that compares scores does not see a factor; pairs, their number.
    Squared norms are free of the windows' sampling errors, which are estimated from their blocks; a negative rest
    counts as 0, and a pair with an R of norm 0 is left out.

    At distances at which the study's windows would overlap, windows of two blocks stand in. Values there are NaN if
    more than a tenth of the pairs had to be left out: the others are those that sampling errors made large.
    """
    blocks, length = int(study.facts.settings["blocks"]), block_length(study)
    tables = []
    for (workload, _), rows in _scored(study).groupby(["workload", "layer"], sort=False):
        lags = [_lags(run) for _, run in _runs(rows)]
        for part, first in (("R", 0), ("memory", 1)):
            runs = [run[:, first:] for run in lags]
            short, whole = _moves(runs, SHORT), _moves(runs, blocks)
            short = short[short.distance < blocks]
            short.loc[short.given < GIVEN, ["change", "low", "high", "shape"]] = np.nan
            table = pd.concat([short.assign(window=SHORT), whole[whole.pairs > 0].assign(window=blocks)])
            tables.append(table.assign(workload=str(workload), part=part))
    table = pd.concat(tables, ignore_index=True)
    table[["distance", "window"]] *= length
    return table[["workload", "part", "window", "distance", "change", "low", "high", "shape", "pairs"]]


def half_distances(study: StudyResults) -> pd.DataFrame:
    """`half_distance` of the drift of each workload, in the study's windows: columns workload, part, distance."""
    drifts = drift(study)
    drifts = drifts[drifts.window == drifts.window.max()].groupby(["workload", "part"], sort=False)
    rows = [[workload, part, half_distance(rows)] for (workload, part), rows in drifts]
    return pd.DataFrame(rows, columns=["workload", "part", "distance"])


def half_distance(drifts: pd.DataFrame) -> float:
    """The first distance, in steps, at which the median change reaches one half.

    Between two distances it is interpolated; infinite where the change stays below one half within the training, and
    the first distance where it already is above.
    """
    reached = np.flatnonzero(drifts.change.to_numpy() >= 0.5)
    if not len(reached):
        return float("inf")
    upto = drifts.iloc[: reached[0] + 1].tail(2)
    return float(np.interp(0.5, upto.change, upto.distance))


def complete_blocks(study: StudyResults, self_term: str) -> dict[str, list[Array]]:
    """R_0 ... R_lags of every block that has all lags, (blocks, lags + 1): a list of runs for each workload.

    Args:
        study: of the kind diagnostics.
        self_term: R_0 as measured ("R0"), or from the halves of the batches ("halves").
    """
    scored = _scored(study).groupby("workload", sort=False)
    return {
        str(workload): [_lags(run.assign(R0=run[self_term])) for _, run in _runs(rows)] for workload, rows in scored
    }


def block_length(study: StudyResults) -> int:
    """Steps of a block."""
    settings = study.facts.settings
    return int(settings["window"]) // int(settings["blocks"])


def _blocks(study: StudyResults) -> pd.DataFrame:
    """R0, R1 ... and halves by (workload, layer, seed, step): a column each."""
    runs = study.runs
    parts = runs.metric.str.extract(r"^(?:(?P<lag>R\[\d+\])|(?P<halves>halves))@(?P<layer>.+)$")
    kept = parts.layer.notna()
    names = parts.lag.str.replace(r"[\[\]]", "", regex=True).fillna(parts.halves)
    table = runs[kept].assign(layer=parts.layer, name=names)
    index = ["workload", "layer", "seed", "step"]
    order = table[["workload", "layer"]].drop_duplicates()
    wide = table.pivot_table(index=index, columns="name", values="value").reset_index()
    return order.merge(wide, on=["workload", "layer"]).set_index("step")  # workloads and tensors in their own order


def _runs(rows: pd.DataFrame) -> Iterator[tuple[object, pd.DataFrame]]:
    yield from rows.groupby("seed")


def _scored(study: StudyResults) -> pd.DataFrame:
    """The rows of `_blocks` that hold what the score of each workload's optimizer sees."""
    table = _blocks(study)
    weighted = set(table[table.layer == "preconditioned"].workload)
    wanted = table.workload.map(lambda workload: "preconditioned" if workload in weighted else "all")
    return table[table.layer == wanted]


def _lags(run: pd.DataFrame) -> Array:
    """R_0 ... R_lags of the blocks of a run that have all lags, in the order of time: (blocks, lags + 1)."""
    names = sorted((name for name in run.columns if name.startswith("R")), key=lambda name: int(name[1:]))
    return run.sort_index()[names].dropna().to_numpy(dtype=np.float64)


def _moves(runs: list[Array], size: int) -> pd.DataFrame:
    """`_pairs` of all runs in brief, a row for each distance in blocks: columns of `drift`, and given.

    Given is the share of the pairs whose R are both above their sampling errors.
    """
    pairs = [pair for run in runs for pair in _pairs(run, size)]
    table = pd.DataFrame(pairs, columns=["distance", "change", "shape"])
    return (
        table.groupby("distance")
        .agg(
            change=("change", "median"),
            low=("change", lambda changes: changes.quantile(0.25)),
            high=("change", lambda changes: changes.quantile(0.75)),
            shape=("shape", "median"),
            pairs=("change", "count"),
            given=("change", lambda changes: changes.notna().mean()),
        )
        .reset_index()
    )


def _pairs(lags: Array, size: int) -> Iterator[tuple[int, float, float]]:
    """Distance in blocks, change and shape (see `drift`) of all pairs of windows of `size` blocks without overlap.

    Change and shape are NaN where a squared norm is not above 0.
    """
    windows = np.lib.stride_tricks.sliding_window_view(lags, size, axis=0)
    means, errors = windows.mean(-1), windows.var(-1, ddof=1).sum(1) / size
    squares = (means**2).sum(1) - errors
    for w in range(len(means)):
        for v in range(w + size, len(means)):
            if min(squares[w], squares[v]) <= 0:
                yield v - w, np.nan, np.nan
                continue
            moved = max(((means[w] - means[v]) ** 2).sum() - errors[w] - errors[v], 0)
            cosine = np.clip(means[w] @ means[v] / (squares[w] * squares[v]) ** 0.5, -1, 1)
            yield v - w, (moved / squares[w]) ** 0.5, (1 - cosine**2) ** 0.5


def _tests(study: StudyResults) -> pd.DataFrame:
    """One row per test: workload, layer, series, length, step, seed, statistic, p."""
    runs = study.runs
    parts = runs.metric.str.extract(r"^(?P<series>kpss_\w+)\[(?P<length>\d+)\]@(?P<layer>.+)$")
    kept = parts.layer.notna()
    table = runs.loc[kept, ["workload", "seed", "step", "value"]].rename(columns={"value": "statistic"})
    table = table.join(parts[kept]).astype({"length": int})
    return table.assign(p=kpss_p(table.statistic))
