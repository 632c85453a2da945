"""Policies and tuned baselines on the benchmark functions, at the trained budget.

There are two comparisons, which the column `tuned` distinguishes: in ``once``, the learning rates of the baselines are
tuned on the prior's validation functions, and in ``each``, every baseline is tuned for every function. Policies and
derivative-free references are not tuned and are the same in both. Normalized improvement and regret are those of
`optrepro.analysis.benchmark`. The regret of a function is the median over its starts; its improvement, which is
bounded, is the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from optrepro.analysis import benchmark, columns, rankings
from optrepro.analysis.benchmark import KEYS, SUBSETS, TARGETS
from optrepro.analysis.intervals import holm
from optrepro.analysis.results import StudyResults, once_per_study
from optrepro.conventions import ALPHA, FLOOR, POP

REFERENCE_GROUP = "derivative-free"
UNTUNED = ("policy", REFERENCE_GROUP)
FIELDS = {  # groups of optimizers that are ranked together
    "first_order": ("policy", "first-order"),
    "gradient": ("policy", "first-order", "quasi-newton"),
    "any": ("policy", "first-order", "quasi-newton", REFERENCE_GROUP),
}
NO_RECORD = dict.fromkeys(("wins", "ties", "losses", "p_regret", "p_improvement"), np.nan)  # of the policy itself
PAIRED = ["tuned", "optimizer", "function"]
COUNT = "diverged_in_tuning"
RESAMPLES = 10_000


def collection(study: StudyResults, prefix: str, budget: int | None = None) -> StudyResults:
    """The workloads ``<prefix>/<function>`` as a separate study, up to `budget` evaluations (None: all).

    Its workloads are the functions, and its optimizers are those with runs, including references, so that the functions
    of `optrepro.analysis.benchmark` can be used.
    """
    runs = study.runs[study.runs.workload.str.startswith(f"{prefix}/")]
    if budget is not None:
        runs = runs[runs.step <= budget]
    runs = runs.assign(workload=runs.workload.str.slice(len(prefix) + 1))
    present = set(runs.optimizer.unique())
    settings = study.facts.settings
    references = {key: {**row, "group": REFERENCE_GROUP} for key, row in settings.get("references", {}).items()}
    optimizers = {key: row for key, row in {**settings["optimizers"], **references}.items() if key in present}
    starts = runs[runs.metric == "regret"].seed.nunique()
    return StudyResults(runs, replace(study.facts, settings={**settings, "optimizers": optimizers, "starts": starts}))


@once_per_study
def scores(study: StudyResults) -> pd.DataFrame:
    """One row per way of tuning, function and optimizer; policies and references only for ``once``.

    Columns: tuned, and those of `benchmark.scores` without tuning_diverged (for ``once``, learning_rate is that tuned
    on the prior); family (the optimizer's group); mean_improvement (normalized, mean over the starts).
    """
    tables = []
    for name, part in _collections(study).items():
        table = benchmark.scores(part).drop(columns="tuning_diverged").assign(tuned=name)
        table["family"] = [part.facts.optimizers[key]["group"] for key in table.optimizer]
        tables.append(table.join(_mean_improvement(part), on=KEYS))
    table = pd.concat(tables, ignore_index=True)
    once = table.tuned == "once"
    validation = StudyResults(study.runs[study.runs.workload == "prior-validation"], study.facts)
    rates = benchmark.tuned(validation).reindex([("prior-validation", key) for key in table.optimizer[once]])
    table.loc[once, ["learning_rate", "on_edge"]] = rates.to_numpy()
    table["learning_rate"] = table.learning_rate.astype(float)
    table["on_edge"] = table.on_edge.eq(True)  # NaN, for rows that are not tuned, becomes False
    return table


def summary(study: StudyResults) -> pd.DataFrame:
    """One row per way of tuning, subset of the functions and optimizer.

    Columns: tuned, subset, functions, optimizer, label, family, learning_rate and on_edge (of the rate tuned once);
    improvement (mean over the functions) with its 95 % bootstrap interval ``_low`` and ``_high``; rank_first_order,
    rank_gradient and rank_any (average ranks by regret in the groups of `FIELDS`; NaN for other groups); wins, ties,
    losses (functions on which the policy's regret is smaller, equal, larger); start_wins, start_losses (functions on
    which the policy is significantly better or worse over paired starts, by Wilcoxon's test on log10 of the regret at
    5 %, Holm-corrected over the functions); p_regret and p_improvement (Wilcoxon's test against the policy over the
    functions, on log10 of the regret and on the improvement, Holm-corrected over all other optimizers); and
    diverged_in_tuning (runs).
    """
    table = scores(study).join(_paired(study), on=PAIRED)
    ways = product(table.tuned.unique(), SUBSETS)
    rows = [row for tuned, subset in ways for row in _summaries(table, tuned, subset)]
    return pd.DataFrame(rows).join(_diverged_in_tuning(study), on=["tuned", "optimizer"]).fillna({COUNT: 0})


def ranks(study: StudyResults) -> pd.DataFrame:
    """Average ranks by regret of gradient-based optimizers: tuned, subset, label, and columns of `rankings.summary`."""
    return _compare(study, rankings.summary).assign(label=lambda table: table.optimizer.map(_labels(study)))


def tests(study: StudyResults) -> pd.DataFrame:
    """Tests of every pair of optimizers in `ranks`: tuned, subset, and the columns of `rankings.pairwise`."""
    return _compare(study, rankings.pairwise)


def profile(study: StudyResults) -> pd.DataFrame:
    """Performance profiles by group of the smooth functions, with baselines tuned once.

    Columns: group, functions (their number), target, optimizer, label, evaluations, share (as `benchmark.profile`).
    """
    once = _collections(study)["once"]
    facts, runs = benchmark.functions(once), benchmark.regrets(once)
    starts = runs.reset_index().groupby("optimizer").start.nunique()  # references may have fewer
    order = {key: place for place, key in enumerate(runs.index.unique("optimizer"))}
    tables = []
    for (group, names), target in product(facts[facts.smooth].groupby("group", sort=False).groups.items(), TARGETS):
        shares = benchmark.solved(runs, list(names), target, starts)
        ordered = shares.iloc[np.argsort(shares.optimizer.map(order), kind="stable")]
        tables.append(ordered.assign(group=str(group), functions=len(names)))
    table = pd.concat(tables, ignore_index=True)
    table["label"] = table.optimizer.map(_labels(study))
    return table[["group", "functions", "target", "optimizer", "label", "evaluations", "share"]]


def trajectories(study: StudyResults) -> pd.DataFrame:
    """Evaluated points from the first start, with baselines tuned once: the columns of `benchmark.trajectories`, best.

    `best` says whether the point is the best one of its path; if that was not recorded, it is the last point.
    """
    once = _collections(study)["once"]
    paths = benchmark.trajectories(once)
    runs = once.runs[once.runs.metric == "best_evaluation"].rename(columns={"workload": "function"})
    best = runs.set_index(KEYS).value.rename("best")
    last = paths.groupby(KEYS).step.transform("max")
    return paths.assign(best=paths.join(best, on=KEYS).best.fillna(last) == paths.step)


def rates(study: StudyResults) -> pd.DataFrame:
    """Learning rates of the policies: function, group, optimizer, label, step; median, lower, upper (all log10).

    A learning rate is the length of a step in units of the box; median and quartiles are over starts and coordinates.
    """
    once = _collections(study)["once"]
    names = {f"rate_{name}": name for name in ("median", "lower", "upper")}
    runs = once.runs[once.runs.metric.isin(names)]
    table = runs.pivot(index=["workload", "optimizer", "step"], columns="metric", values="value").rename(columns=names)
    table = table.reindex(columns=list(names.values())).rename_axis(columns=None).reset_index()
    table = table.rename(columns={"workload": "function"}).join(benchmark.functions(once)[["group"]], on="function")
    table["label"] = table.optimizer.map(_labels(study))
    return table[["function", "group", "optimizer", "label", "step", "median", "lower", "upper"]]


def improvement_from_common_starts(study: StudyResults) -> pd.Series:
    """Mean improvement over the smooth functions, from the starts that all optimizers and references have in common."""
    once = _collections(study)["once"]
    regret = once.runs[once.runs.metric == "regret"]
    starts = set.intersection(*(set(own.seed) for _, own in regret.groupby("optimizer")))
    part = StudyResults(once.runs[once.runs.seed.isin(starts) | (once.runs.step == 0)], once.facts)
    by_function = _mean_improvement(part).unstack("optimizer")
    smooth = benchmark.functions(once).smooth.astype(bool)
    return by_function[smooth.reindex(by_function.index)].mean()


@once_per_study
def _collections(study: StudyResults) -> dict[str, StudyResults]:
    """The benchmark at the trained budget, for each way of tuning that was run."""
    once, each = (collection(study, prefix, study.facts.settings["budget"]) for prefix in ("vlse", "vlse-each"))
    described = once.runs[once.runs.step == 0]  # the facts about the functions, which both parts need
    return {"once": once} | ({"each": replace(each, runs=pd.concat([each.runs, described]))} if len(each.runs) else {})


def _labels(study: StudyResults) -> dict[str, str]:
    rows = {**study.facts.settings["optimizers"], **study.facts.settings.get("references", {})}
    return {key: str(row["label"]) for key, row in rows.items()}


def _mean_improvement(study: StudyResults) -> pd.Series:
    """Mean improvement over the starts, except optimal ones, by function and optimizer."""
    runs = benchmark.regrets(study)
    first, final = runs[runs.step == runs.step.min()].regret, runs[runs.step == runs.step.max()].regret
    improvement: pd.Series = (1 - final / first)[first > 0].groupby(KEYS).mean()
    return improvement.rename("mean_improvement")


def _final(study: StudyResults) -> dict[str, pd.Series]:
    """log10 of the final normalized regrets of each optimizer, by function and start."""
    runs = benchmark.regrets(study)
    final = np.log10(runs[runs.step == runs.step.max()].normalized.clip(lower=FLOOR))
    return {str(key): own.droplevel("optimizer") for key, own in final.groupby("optimizer")}


def _paired(study: StudyResults) -> pd.Series:
    """Whether the policy is significantly better (1) or worse (-1) over paired starts, or neither (0), by `PAIRED`.

    Wilcoxon's test with the normal approximation, on log10 of the regret, Holm-corrected over the functions.
    """
    parts = _collections(study)
    policy = _final(parts["once"]).get(POP)
    found = {}
    for tuned, part in parts.items() if policy is not None else ():
        for key, other in _final(part).items():
            difference = (other - policy).unstack("start").dropna(axis=1, how="all").dropna()
            if key != POP and len(difference):
                found[tuned, key] = _significant(difference)
    empty = pd.Series(dtype=float, index=pd.MultiIndex.from_tuples([], names=PAIRED))
    table = pd.concat(found, names=["tuned", "optimizer"]) if found else empty
    return table.rename("against")


def _significant(difference: pd.DataFrame) -> pd.Series:
    """The direction of the differences (functions, starts) of each function, 0 if it is not significant."""
    with np.errstate(invalid="ignore", divide="ignore"):  # for a function on which all starts tie
        test = stats.wilcoxon(difference.to_numpy(), axis=1, zero_method="zsplit", method="asymptotic")
    found = pd.Series(direction(difference), index=difference.index)
    return found.where(np.array(holm(test.pvalue.tolist())) < ALPHA, 0.0)


def _diverged_in_tuning(study: StudyResults) -> pd.Series:
    """Numbers of tuning runs that diverged, by tuned and optimizer."""
    runs = study.runs[(study.runs.metric == "diverged") & (study.runs.role == "tune")]
    tuned = runs.workload.str.startswith("vlse-each/").map({True: "each", False: "once"}).rename("tuned")
    return runs.groupby([tuned, "optimizer"]).size().rename(COUNT)


def direction(differences: ArrayLike) -> NDArray[np.float64]:
    """The sign of the sum of signed ranks of differences, (..., n) -> (...)."""
    d = np.asarray(differences, dtype=np.float64)
    signs: NDArray[np.float64] = np.sign((np.sign(d) * stats.rankdata(np.abs(d), axis=-1)).sum(axis=-1))
    return signs


def _view(table: pd.DataFrame, tuned: str) -> pd.DataFrame:
    """The scores for a way of tuning, and those of optimizers that are not tuned."""
    return table[(table.tuned == tuned) | table.family.isin(UNTUNED)]


def values_of(
    table: pd.DataFrame, tuned: str, subset: str, measure: str, optimizers: Collection[str] | None = None
) -> pd.DataFrame:
    """Functions by optimizers, lower is better: log10 of the median regret, or the negative mean improvement.

    A function is left out if an optimizer has no result on it.
    """
    values = _all_values(table, tuned, subset, measure)
    return values[[key for key in values if optimizers is None or key in set(optimizers)]].dropna()


def _all_values(table: pd.DataFrame, tuned: str, subset: str, measure: str) -> pd.DataFrame:
    """The table of `values_of` with all optimizers, NaN where one has no result."""
    rows = _view(table, tuned)
    rows = rows[rows.smooth.astype(bool)] if subset == "smooth" else rows
    column = "regret" if measure == "regret" else "mean_improvement"
    values = rows.pivot(index="function", columns="optimizer", values=column)[list(rows.optimizer.unique())]
    return values.clip(lower=FLOOR).apply(np.log10) if measure == "regret" else -values


def _field(table: pd.DataFrame, tuned: str, field: str) -> list[str]:
    rows = _view(table, tuned)
    return list(rows[rows.family.isin(FIELDS[field])].optimizer.unique())


def _compare(study: StudyResults, statistic: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """`statistic` of the regrets of gradient-based optimizers, for each way of tuning and subset."""
    table = scores(study)
    tables = []
    for tuned, subset in product(table.tuned.unique(), SUBSETS):
        values = values_of(table, tuned, subset, "regret", _field(table, tuned, "gradient"))
        tables.append(statistic(values).assign(tuned=tuned, subset=subset))
    return pd.concat(tables, ignore_index=True)


def _summaries(table: pd.DataFrame, tuned: str, subset: str) -> Iterator[dict[str, Any]]:
    rows = _view(table, tuned)
    rows = rows[rows.smooth.astype(bool)] if subset == "smooth" else rows
    average = {
        field: rankings.average_ranks(values_of(table, tuned, subset, "regret", _field(table, tuned, field)))
        for field in FIELDS
    }
    versus = _versus(table, tuned, subset, list(rows.optimizer.unique()))
    for key, own in rows.groupby("optimizer", sort=False):
        facts, low, high = own.iloc[0], *_bootstrap(own.mean_improvement.dropna())
        yield {
            "tuned": tuned,
            "subset": subset,
            "functions": len(own),
            **facts[["optimizer", "label", "family"]],
            "learning_rate": facts.learning_rate if facts.tuned == "once" else np.nan,
            "on_edge": bool(facts.on_edge) and facts.tuned == "once",
            "improvement": own.mean_improvement.mean(),
            "improvement_low": low,
            "improvement_high": high,
            **{f"rank_{field}": ranks.get(key, np.nan) for field, ranks in average.items()},
            **(NO_RECORD | versus.get(str(key), {})),
            "start_wins": int((own.against == 1).sum()),
            "start_losses": int((own.against == -1).sum()),
        }


def _versus(table: pd.DataFrame, tuned: str, subset: str, keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """By other optimizer: wins, ties and losses of the policy against it, and the corrected p-values."""
    others = [key for key in keys if key != POP]
    found: dict[str, dict[str, float]] = {key: {} for key in others}
    if POP not in keys:
        return found
    for measure in ("regret", "improvement"):
        values = _all_values(table, tuned, subset, measure)
        differences = {key: (values[key] - values[POP]).dropna() for key in others}
        corrected = holm([rankings.wilcoxon(d)[1] if len(d) else np.nan for d in differences.values()])
        for key, p in zip(others, corrected, strict=True):
            found[key][f"p_{measure}"] = p
            if measure == "regret":
                found[key] |= columns.record(differences[key])
    return found


def _bootstrap(values: pd.Series) -> tuple[float, float]:
    """95 % interval of the mean by the percentile bootstrap; NaN for fewer than two values."""
    if len(values) < 2:
        return np.nan, np.nan
    test = stats.bootstrap(
        (values.to_numpy(),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    return float(test.confidence_interval.low), float(test.confidence_interval.high)
