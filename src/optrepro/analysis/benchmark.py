"""The benchmark functions: scores per function, ranks and tests over functions, performance profiles, trajectories.

x0 is the start, f_best the best value found, f* the minimum and f_max the largest value over the box:

- normalized improvement (f(x0) - f_best) / (f(x0) - f*), in [0, 1], higher is better;
- normalized regret (f_best - f*) / (f_max - f*), lower is better.

The improvement of an optimal start is undefined; such starts are skipped and counted. Both measures are summarized by
the median over the starts, because single starts differ by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from optrepro.analysis import columns, rankings
from optrepro.analysis.intervals import median_interval
from optrepro.analysis.results import StudyResults, once_per_study
from optrepro.conventions import FLOOR

TARGETS = (1e-2, 1e-5)  # chosen: normalized regrets at which a problem counts as solved, at low and high accuracy
SUBSETS = ("smooth", "all")  # "smooth" leaves out the functions that have kinks along whole curves
MEASURES = ("regret", "improvement")
KEYS = ["function", "optimizer"]
SCORES = [
    *("function", "group", "smooth", "dimension", "optimizer", "label", "learning_rate", "on_edge"),
    *("starts", "skipped", "diverged", "tuning_diverged"),
    *("improvement", "improvement_low", "improvement_high", "regret", "regret_low", "regret_high"),
]
RANKS = [
    *("subset", "functions", "measure", "optimizer", "label", "rank", "first", "average"),
    *("friedman", "friedman_p", "iman_davenport", "iman_davenport_p", "critical_difference"),
]


@once_per_study
def scores(study: StudyResults) -> pd.DataFrame:
    """One row per function and optimizer, both in the order of the config.

    Columns: function, group, smooth, dimension, optimizer, label; learning_rate (tuned; NaN if all rates have equal
    scores), on_edge (whether an end of the grid is better than all inner rates, so that the best rate may be outside);
    starts, skipped (optimal starts), diverged and tuning_diverged (counts of starts); improvement and regret
    (normalized, medians over the starts) with ``_low`` and ``_high`` (95 % by order statistics).
    """
    facts = functions(study)
    runs = regrets(study)
    first = runs[runs.step == runs.step.min()].regret
    final = runs[runs.step == runs.step.max()]
    table = pd.DataFrame({"starts": final.groupby(KEYS).size(), "skipped": (first == 0).groupby(KEYS).sum()})
    for column, role in (("diverged", "test"), ("tuning_diverged", "tune")):
        table[column] = _diverged(study, role).reindex(table.index, fill_value=0)
    improvement = (1 - final.regret / first)[first > 0]
    table = table.join([tuned(study), _medians("improvement", improvement), _medians("regret", final.normalized)])
    order = [key for key in product(facts.index, study.facts.optimizers) if key in table.index]
    table = table.loc[order].rename_axis(KEYS).reset_index().join(facts, on="function")
    return table.assign(label=table.optimizer.map(study.facts.label))[SCORES]


def ranks(study: StudyResults) -> pd.DataFrame:
    """One row per subset of the functions, measure and optimizer, in the order of the config.

    Columns: subset (``smooth`` or ``all``), functions (their number), measure, optimizer, label; rank (average over the
    functions), first (number of functions on which no other is better), average (mean over the functions of the median
    improvement, or of log10 of the median regret); and, equal for all optimizers of a subset and measure: friedman,
    friedman_p, iman_davenport, iman_davenport_p, and critical_difference (Nemenyi, 5 %).
    """
    tables = []
    for subset, measure, values in _comparisons(study):
        means = (values if measure == "regret" else -values).mean().to_numpy()
        labels = [study.facts.label(str(optimizer)) for optimizer in values]
        table = rankings.summary(values).rename(columns={"problems": "functions"})
        tables.append(table.assign(subset=subset, measure=measure, label=labels, average=means)[RANKS])
    return pd.concat(tables, ignore_index=True)


def tests(study: StudyResults) -> pd.DataFrame:
    """Every pair of optimizers: subset, measure, first, second, wins, ties, losses, statistic, p, p_holm.

    Wilcoxon's test over the functions, on medians of the improvement and on log10 of medians of the regret; Holm's
    correction over the pairs of one subset and measure.
    """
    return pd.concat(
        [
            rankings.pairwise(values).assign(subset=subset, measure=measure)
            for subset, measure, values in _comparisons(study)
        ],
        ignore_index=True,
    )[["subset", "measure", "first", "second", "wins", "ties", "losses", "statistic", "p", "p_holm"]]


def profile(study: StudyResults) -> pd.DataFrame:
    """Performance profile: subset, target, optimizer, evaluations, share.

    A problem is a function with a start. `share` is the share of problems whose normalized regret is at most `target`
    after `evaluations` evaluations; a problem without a result counts as unsolved.

    Source: J. More and S. Wild, Benchmarking derivative-free optimization algorithms, SIAM J. Optim. 20 (2009).
    """
    facts = functions(study)
    runs = regrets(study)
    starts = int(study.facts.settings["starts"])
    tables = []
    for subset, target in product(SUBSETS, TARGETS):
        names = list(facts.index[facts.smooth] if subset == "smooth" else facts.index)
        tables.append(solved(runs, names, target, starts).assign(subset=subset))
    return pd.concat(tables, ignore_index=True)[["subset", "target", "optimizer", "evaluations", "share"]]


def solved(runs: pd.DataFrame, names: Sequence[str], target: float, starts: int | pd.Series) -> pd.DataFrame:
    """Share of solved problems: target, optimizer, evaluations, share.

    Args:
        runs: the `regrets` of a study.
        names: functions.
        target: normalized regret at which a problem counts as solved.
        starts: number of starts on each function, of all optimizers or by optimizer.
    """
    runs = runs[runs.index.isin(names, level="function")].reset_index()
    counts = (runs.normalized <= target).groupby([runs.optimizer, runs.step]).sum()
    table = counts.rename("share").rename_axis(["optimizer", "evaluations"]).reset_index()
    own = starts if isinstance(starts, int) else table.optimizer.map(starts)
    return table.assign(share=table.share / (len(names) * own), target=target)


def trajectories(study: StudyResults) -> pd.DataFrame:
    """Points evaluated from the first test start of each function of two variables.

    Columns: function, optimizer, label, step (evaluations), x0, x1.
    """
    runs = study.runs[study.runs.metric.isin(["x0", "x1"])]
    keys = ["workload", "optimizer", "step"]
    table = runs.pivot(index=keys, columns="metric", values="value").reset_index()
    table = table.rename(columns={"workload": "function"}).rename_axis(columns=None)
    return table.assign(label=table.optimizer.map(study.facts.label))[
        ["function", "optimizer", "label", "step", "x0", "x1"]
    ]


def surfaces(study: StudyResults) -> pd.DataFrame:
    """Functions of two variables in the order of the config: function, smooth, kind, x0, x1, value.

    `kind` is ``grid`` for a grid point, row by row along the second coordinate, or ``minimizer`` (value NaN).
    """
    tables = []
    runs = study.runs.sort_values(["seed", "step"])
    for function in columns.in_order(study.facts.settings["functions"], runs.workload):
        own = runs[runs.workload == function]
        fact = {str(metric): rows.value.to_numpy() for metric, rows in own.groupby("metric")}
        values = fact["surface"]
        size = round(len(values) ** 0.5)
        axes = [np.linspace(fact[f"lower[{k}]"][0], fact[f"upper[{k}]"][0], size) for k in (0, 1)]
        x0, x1 = (grid.ravel() for grid in np.meshgrid(*axes))
        grid = pd.DataFrame({"kind": "grid", "x0": x0, "x1": x1, "value": values})
        points = {"kind": "minimizer", "x0": fact["minimizer[0]"], "x1": fact["minimizer[1]"], "value": np.nan}
        table = pd.concat([grid, pd.DataFrame(points)])
        tables.append(table.assign(function=function, smooth=bool(fact["smooth"][0])))
    return pd.concat(tables, ignore_index=True)[["function", "smooth", "kind", "x0", "x1", "value"]]


@once_per_study
def functions(study: StudyResults) -> pd.DataFrame:
    """By function, in the order of the config: group, smooth, dimension, range (largest value minus minimum)."""
    runs = study.runs[study.runs.step == 0]
    values = runs.pivot_table(index="workload", columns="metric", values="value", aggfunc="first")
    groups = runs[runs.metric.str.startswith("group[")].drop_duplicates("workload").set_index("workload").metric
    facts = pd.DataFrame(
        {
            "group": groups.str.slice(len("group["), -1),
            "smooth": values.smooth.astype(bool),
            "dimension": values.dimension.astype(int),
            "range": values["range"],
        }
    )
    return facts.loc[columns.in_order(study.facts.settings["functions"], facts.index)]


@once_per_study
def regrets(study: StudyResults) -> pd.DataFrame:
    """Test runs by function, optimizer and start: step (evaluations), regret, normalized (regret / range)."""
    runs = study.runs[(study.runs.role == "test") & (study.runs.metric == "regret")]
    table = runs.rename(columns={"workload": "function", "seed": "start", "value": "regret"})
    table["normalized"] = table.regret / table.function.map(functions(study)["range"])
    return table.set_index([*KEYS, "start"])[["step", "regret", "normalized"]]


def tuned(study: StudyResults) -> pd.DataFrame:
    """By function (workload) and optimizer: learning_rate and on_edge, as in `scores`."""
    runs = study.runs[(study.runs.role == "tune") & (study.runs.metric == "tuning_score")]
    rows = {}
    for key, tuning in runs.groupby(["workload", "optimizer"], sort=False)[["learning_rate", "value"]]:
        rates, score = tuning.to_numpy()[tuning.learning_rate.to_numpy().argsort()].T
        # without NaN, which no rate is chosen by
        inner, best = np.fmax.reduce(score[1:-1], initial=np.nan), np.fmax.reduce(score)
        flat = best == np.fmin.reduce(score)
        rate = np.nan if flat else rates[np.nanargmax(score)]
        rows[key] = {"learning_rate": rate, "on_edge": bool(not flat and not best <= inner)}
    index = pd.MultiIndex.from_tuples(list(rows), names=KEYS)
    return pd.DataFrame(list(rows.values()), index=index, columns=["learning_rate", "on_edge"])


def _medians(name: str, values: pd.Series) -> pd.DataFrame:
    """Median over the starts with its interval, by function and optimizer."""
    intervals = {key: median_interval(group) for key, group in values.groupby(KEYS)}
    return pd.DataFrame.from_dict(intervals, orient="index", columns=[name, f"{name}_low", f"{name}_high"])


def _diverged(study: StudyResults, role: str) -> pd.Series:
    runs = study.runs[(study.runs.metric == "diverged") & (study.runs.role == role)]
    return runs.rename(columns={"workload": "function"}).groupby(KEYS).size()


def _comparisons(study: StudyResults) -> list[tuple[str, str, pd.DataFrame]]:
    """Tables of functions by optimizers, lower is better, for each subset and measure.

    A function is left out if an optimizer has no result on it.
    """
    table = scores(study)
    table = table.assign(
        regret=np.log10(table.regret.clip(lower=FLOOR)), improvement=-table.improvement.clip(upper=1 - FLOOR)
    )
    comparisons = []
    for subset in SUBSETS:
        rows = table[table.smooth.astype(bool)] if subset == "smooth" else table
        for measure in MEASURES:
            values = rows.pivot(index="function", columns="optimizer", values=measure)
            values = values[[key for key in study.facts.optimizers if key in values]].dropna()
            comparisons.append((subset, measure, values))
    return comparisons
