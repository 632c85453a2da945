"""Gradient statistics along training: the autocorrelation, its stationarity and its drift.

The tables are computed from the tidy results of `optrepro.experiments.training.diagnostics`. If the measured optimizer
of a workload is Adam, its statistics weight coordinates as in Adam's score ("preconditioned").
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from optrepro.analysis.results import StudyResults

LEVEL = 0.05  # false discovery rate of the tests of stationarity
SUMS = ("all", "preconditioned")
SERIES = {"kpss_square": "|g_n|^2", "kpss_lag1": "<g_n, g_(n-1)>"}
RESOLVED = 2.0  # noise-free R_0 is a denominator only if it is at least this many standard errors above 0
SHORT = 2  # blocks of a short window; the sampling error needs at least two
VALID = 0.9  # required share of pairs of short windows in which both R are above their sampling errors

Array = NDArray[np.float64]


def lag_one(study: StudyResults) -> pd.DataFrame:
    """The lag-1 coefficient of each tensor and of the sums, in windows that move by one block.

    Columns: workload, layer (a tensor's name, all, preconditioned), step (the last one of the window); coefficient,
    R_1 / R_0; signal, noise-free R_0 over R_0; noiseless, R_1 over noise-free R_0 (NaN if the denominator is less than
    two standard errors above 0, by blocks and runs); excess, the difference of R_1 and noise-free R_0 in standard
    errors (NaN like noiseless). R is averaged over the runs before ratios are computed.
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
    """KPSS tests within windows, for all tensors and runs of a workload: one row per workload, length and series.

    Columns: workload, length (steps of a window), series, tests (their number), rejected (share at a false discovery
    rate of 5 %, Benjamini and Hochberg over the tests of the row), uncorrected (share with p below 5 %), smallest (p).
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
                "rejected": (stats.false_discovery_control(p) <= LEVEL).mean(),
                "uncorrected": (p < LEVEL).mean(),
                "smallest": p.min(),
            }
        )
    return pd.DataFrame(rows)


def rejections(study: StudyResults) -> pd.DataFrame:
    """Share of the shortest windows in which stationarity is rejected, by workload, layer and series.

    As in `stationarity`, tests are corrected over all tensors and windows of a workload; those of sums separately.
    """
    tests = _tests(study)
    tests = tests[tests.length == tests.length.min()]
    family = tests.layer.where(tests.layer.isin(SUMS), "tensors")
    adjusted = tests.groupby(["workload", "series", family]).p.transform(stats.false_discovery_control)
    tests["rejected"] = adjusted <= LEVEL
    shares: pd.Series = tests.groupby(["workload", "layer", "series"], sort=False).rejected.mean()
    return shares.astype(float).reset_index()


def kpss_p(statistic: ArrayLike) -> Array:
    """P-values of KPSS statistics of level stationarity, from their limit distribution.

    The limit is the integral of a squared Brownian bridge, which has the Cramér-von Mises distribution; its series is
    by Anderson and Darling (1952). Tabulated p-values end at 0.01, too large to correct for many tests.
    """
    x = np.asarray(statistic, dtype=np.float64)[..., None]
    j = np.arange(10)
    z = (4 * j + 1) ** 2 / (16 * x)
    weights = special.gamma(j + 0.5) * np.sqrt(4 * j + 1) / (special.gamma(0.5) * special.gamma(j + 1))
    cumulative = (weights * np.exp(-2 * z) * special.kve(0.25, z)).sum(-1) / (np.pi * np.sqrt(x[..., 0]))
    tail: Array = np.clip(1 - cumulative, 0.0, 1.0)
    return tail


def drift(study: StudyResults) -> pd.DataFrame:
    """Change of the autocorrelation R between two windows, by their distance (steps between their starts).

    Columns: workload, part (``R``: all lags; ``memory``: without R_0, on which choices by `raw` do not depend), window
    (steps), distance; and over all pairs of windows at that distance, in all runs: change, the median of
    ||R^w - R^(w + d)|| / ||R^w||, with quartiles low and high; shape, the median sine of the angle between the two
    (a common factor does not change a comparison of scores); pairs, their number. Sampling errors of the windows,
    estimated from their blocks, are subtracted from squared norms; a negative difference of R counts as 0, and pairs
    with a norm of R that is not above 0 are left out.

    At distances where the study's windows would overlap, windows of two blocks are used. Values there are NaN if more
    than a tenth of the pairs are left out, because then the remaining norms are biased upwards.
    """
    blocks, length = int(study.facts.settings["blocks"]), block_length(study)
    tables = []
    for (workload, _), rows in _scored(study).groupby(["workload", "layer"], sort=False):
        lags = [_lags(run) for _, run in _runs(rows)]
        for part, first in (("R", 0), ("memory", 1)):
            runs = [run[:, first:] for run in lags]
            short, whole = _moves(runs, SHORT), _moves(runs, blocks)
            short = short[short.distance < blocks]
            short.loc[short.valid < VALID, ["change", "low", "high", "shape"]] = np.nan
            table = pd.concat([short.assign(window=SHORT), whole[whole.pairs > 0].assign(window=blocks)])
            tables.append(table.assign(workload=str(workload), part=part))
    table = pd.concat(tables, ignore_index=True)
    table[["distance", "window"]] *= length
    return table[["workload", "part", "window", "distance", "change", "low", "high", "shape", "pairs"]]


def half_distances(study: StudyResults) -> pd.DataFrame:
    """`half_distance` of each workload, measured in the study's windows: columns workload, part, distance."""
    drifts = drift(study)
    drifts = drifts[drifts.window == drifts.window.max()].groupby(["workload", "part"], sort=False)
    rows = [[workload, part, half_distance(rows)] for (workload, part), rows in drifts]
    return pd.DataFrame(rows, columns=["workload", "part", "distance"])


def half_distance(drifts: pd.DataFrame) -> float:
    """The smallest distance, in steps, at which the median change reaches one half.

    The change is interpolated between distances. The result is infinite if the change never reaches one half, and the
    first distance if the change is above one half there.
    """
    reached = np.flatnonzero(drifts.change.to_numpy() >= 0.5)
    if not len(reached):
        return float("inf")
    upto = drifts.iloc[: reached[0] + 1].tail(2)
    return float(np.interp(0.5, upto.change, upto.distance))


def complete_blocks(study: StudyResults, self_term: str) -> dict[str, list[Array]]:
    """R_0 ... R_lags of every block that has all lags, (blocks, lags + 1): for each workload, one array per run.

    Args:
        study: a study of the kind `diagnostics`.
        self_term: "R0" for R_0 as measured, "halves" for the noise-free R_0 from the halves of batches.
    """
    scored = _scored(study).groupby("workload", sort=False)
    return {
        str(workload): [_lags(run.assign(R0=run[self_term])) for _, run in _runs(rows)] for workload, rows in scored
    }


def block_length(study: StudyResults) -> int:
    """Number of steps of a block."""
    settings = study.facts.settings
    return int(settings["window"]) // int(settings["blocks"])


def _blocks(study: StudyResults) -> pd.DataFrame:
    """Columns R0, R1, ... and halves, with workload, layer, seed, and step as index."""
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
    """The rows of `_blocks` for the inner product that the score of each workload's optimizer uses."""
    table = _blocks(study)
    weighted = set(table[table.layer == "preconditioned"].workload)
    wanted = table.workload.map(lambda workload: "preconditioned" if workload in weighted else "all")
    return table[table.layer == wanted]


def _lags(run: pd.DataFrame) -> Array:
    """R_0 ... R_lags of the blocks of a run that have all lags, ascending in time: (blocks, lags + 1)."""
    names = sorted((name for name in run.columns if name.startswith("R")), key=lambda name: int(name[1:]))
    return run.sort_index()[names].dropna().to_numpy(dtype=np.float64)


def _moves(runs: list[Array], size: int) -> pd.DataFrame:
    """Summary of `_pairs` over all runs, by distance in blocks: the columns of `drift`, and valid.

    `valid` is the share of pairs in which both R are above their sampling errors.
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
            valid=("change", lambda changes: changes.notna().mean()),
        )
        .reset_index()
    )


def _pairs(lags: Array, size: int) -> Iterator[tuple[int, float, float]]:
    """Distance in blocks, change and shape (see `drift`) of all pairs of windows of `size` blocks without overlap.

    Change and shape are NaN if a squared norm is not above 0.
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
