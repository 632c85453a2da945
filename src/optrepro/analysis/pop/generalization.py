"""Training and generalization of the learned policy: new functions, longer budgets, more dimensions, other collections.

A collection is a set of problems, on which all optimizers have the same starts. In collections of the prior and shifted
ones, a problem is a function with one start. Its minimum is an estimate; if a run finds a lower value, that value
replaces it. In ``vlse`` a problem is a smooth benchmark function; its improvement, which is bounded, is the mean over
the starts, and its digits are the median. With r the final regret divided by that of the start, the scores of a run are

- improvement, 1 - r, in [0, 1];
- digits, -log10 r, at most 12;

higher is better. Optimal starts are skipped and counted. A run with a value that is not finite keeps the best value
before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import benchmark, columns, rankings
from optrepro.analysis.intervals import holm
from optrepro.analysis.results import StudyResults, once_per_study
from optrepro.conventions import POP

STANDARD = "standard"  # the policy that the ablations are compared with
MEASURES = ("improvement", "digits")
MOST_DIGITS = 12.0  # chosen: smaller regrets are rounding errors of the values
MULTIPLES = (1, 2, 4, 10)  # budgets that are compared, as multiples of the horizon
PRIOR, VLSE = "prior-test", "vlse"
KINDS = ("convex", "gp", "sum")
VALIDATION = "prior-validation"
RUN = ["run", "workload", "optimizer", "seed"]


# --- Tables ----------------------------------------------------------------------------------------------------------


@once_per_study
def tuned(study: StudyResults) -> pd.DataFrame:
    """Validation scores at the tuned learning rate of each optimizer, in the order of the config.

    Columns: optimizer, label, group, learning_rate (NaN if it is not tuned), on_edge (whether an end of the grid is
    better than all inner rates), score (the criterion of tuning), improvement, digits.
    """
    runs = study.runs[(study.runs.role == "tune") & (study.runs.workload == VALIDATION)]
    edges = benchmark.tuned(StudyResults(runs, study.facts)).on_edge
    rows = []
    for key in _keys(study, runs.optimizer.unique()):
        own = runs[runs.optimizer == key].pivot(index="learning_rate", columns="metric", values="value").sort_index()
        best = own.iloc[int(own.tuning_score.argmax())]  # the smallest rate, if several are best
        scores = {"score": best.tuning_score, **best[list(MEASURES)]}
        rows.append({**_names(study, key), "learning_rate": best.name, "on_edge": edges[VALIDATION, key], **scores})
    return pd.DataFrame(rows)


def training(study: StudyResults) -> pd.DataFrame:
    """Learning curves of policies: optimizer, label, seed, metric, functions (number used so far), value."""
    runs = study.runs[(study.runs.role == "tune") & (study.runs.workload == VALIDATION)]
    table = runs.rename(columns={"step": "functions"})[["optimizer", "seed", "metric", "functions", "value"]]
    table.insert(1, "label", table.optimizer.map({key: entry["label"] for key, entry in _entries(study).items()}))
    return table.sort_values(["optimizer", "seed", "metric", "functions"], ignore_index=True)


def curves(study: StudyResults) -> pd.DataFrame:
    """Scores during the runs, on the prior's test functions and on the benchmark's smooth functions.

    Columns: collection, optimizer, label, group, evaluations, functions; improvement and digits (means over the
    functions) with ``_low`` and ``_high`` (95 %).
    """
    rows = []
    for collection in _present(study, (PRIOR, VLSE)):
        scores = by_problem(study, collection)
        for key in _keys(study, scores.index.unique("optimizer")):
            for evaluations, own in scores.xs(key, level="optimizer").groupby("step"):
                head = {"collection": collection, **_names(study, key), "evaluations": evaluations}
                means = [columns.interval(measure, own[measure]) for measure in MEASURES]
                rows.append({**head, "functions": len(own), **means[0], **means[1]})
    return pd.DataFrame(rows)


def in_distribution(study: StudyResults) -> pd.DataFrame:
    """Scores on the prior's test functions at the trained horizon: the columns of `compare`, and means by kind.

    The means by kind are ``<kind>_improvement`` and ``<kind>_digits``, over ``<kind>_functions`` functions.
    """
    table = compare(study, [PRIOR], [_horizon(study)])
    final = by_problem(study, PRIOR).xs(_horizon(study), level="step").reset_index()
    kinds = _kinds(study)
    for index, kind in enumerate(KINDS):
        own = final[final.problem.map(kinds) == index].groupby("optimizer", observed=True)
        for measure in MEASURES:
            table[f"{kind}_{measure}"] = table.optimizer.map(own[measure].mean())
        table[f"{kind}_functions"] = table.optimizer.map(own.size())
    return table


@once_per_study
def budgets(study: StudyResults) -> pd.DataFrame:
    """Scores at multiples of the trained horizon, on the prior's test functions and the benchmark's: see `compare`.

    The derivative-free references are left out, because they stop at the horizon.
    """
    gradient_based = StudyResults(study.runs[study.runs.optimizer.isin(study.facts.optimizers)], study.facts)
    multiples = [_horizon(study) * multiple for multiple in MULTIPLES]
    table = compare(gradient_based, _present(study, (PRIOR, VLSE)), multiples)
    return table.assign(multiple=table.budget // _horizon(study))


@once_per_study
def dimensions(study: StudyResults, policy: str = POP) -> pd.DataFrame:
    """Scores at the trained horizon on functions of the prior by dimension: columns of `compare`, and dimension."""
    dimension = {name: entry["dim"] for name, entry in _collections(study).items() if entry["source"] == "prior"}
    ordered = sorted(_present(study, dimension), key=lambda name: dimension[name])
    table = compare(study, ordered, [_horizon(study)], policy)
    return table.assign(dimension=table.collection.map(dimension))


def shift(study: StudyResults) -> pd.DataFrame:
    """Scores at the trained horizon on the prior, the benchmark and the shifted collections: see `compare`."""
    shifted = [name for name, entry in _collections(study).items() if entry["source"] not in ("prior", "vlse")]
    return compare(study, _present(study, (PRIOR, VLSE, *shifted)), [_horizon(study)])


def compare(study: StudyResults, collections: Iterable[str], budgets: Sequence[int], policy: str = POP) -> pd.DataFrame:
    """Every optimizer and reference on collections at budgets, compared with the policy.

    Columns: collection, budget, optimizer, label, group, learning_rate; functions, skipped (optimal starts), diverged
    (runs with a value that is not finite after the previous budget); rank (by digits, average over the functions, among
    the optimizers; NaN for references, which may run on fewer functions); improvement and digits (means over the
    functions) with ``_low`` and ``_high`` (95 %). The remaining columns are on the difference of the policy and the
    optimizer, paired by function: improvement_difference and digits_difference with their intervals, wins, ties, losses
    (by digits), and improvement_p and digits_p, of Wilcoxon's test, Holm-corrected over the optimizers at one budget.

    A budget that a collection's runs do not reach is left out.
    """
    tables = []
    for collection in collections:
        scores = by_problem(study, collection)
        for before, budget in pairwise([-1, *budgets]):  # a run can diverge at once, with 0 finite evaluations
            if budget in scores.index.get_level_values("step"):
                table = _compare(study, scores.xs(budget, level="step"), policy)
                table.insert(0, "collection", collection)
                table.insert(1, "budget", budget)
                counts = _counts(study, collection, before, budget).reindex(table.optimizer, fill_value=0)
                tables.append(table.assign(skipped=counts.skipped.to_numpy(), diverged=counts.diverged.to_numpy()))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def ablation(study: StudyResults) -> pd.DataFrame:
    """Each policy on the prior's test functions and the benchmark's smooth functions, compared with the standard one.

    Columns: optimizer, label, group, seeds (of training), functions_seen, benchmark_functions; and with the prefixes
    ``prior_`` (means over the test functions, then over the seeds) and ``vlse_`` (means over the benchmark functions):
    improvement and digits, and the differences to the standard policy, improvement_difference and digits_difference,
    all with ``_low`` and ``_high`` (95 %, over the seeds or over the functions; NaN for a single seed).
    ``vlse_improvement_p`` and ``vlse_digits_p`` are of Wilcoxon's test over the functions, not corrected.
    """
    scores = {"prior": _trained_scores(study), "vlse": _last(by_problem(study, VLSE))}
    seen = study.runs[study.runs.workload == VALIDATION].groupby("optimizer", observed=True).step.max()
    rows = []
    for key in _keys(study, study.runs.optimizer.unique()):
        row: dict[str, Any] = {**_names(study, key), "functions_seen": seen.get(key, np.nan)}
        for (prefix, table), measure in product(scores.items(), MEASURES):
            values = table[measure].unstack("optimizer")
            own = values.get(key, pd.Series(dtype=float)).dropna()
            row["seeds" if prefix == "prior" else "benchmark_functions"] = len(own)
            row |= columns.interval(f"{prefix}_{measure}", own)
            row |= _difference(f"{prefix}_{measure}", values, key, STANDARD)
        rows.append(row)
    return pd.DataFrame(rows).drop(columns=["prior_improvement_p", "prior_digits_p"])


# --- Reading ---------------------------------------------------------------------------------------------------------


@once_per_study
def by_problem(study: StudyResults, collection: str) -> pd.DataFrame:
    """Improvement and digits by step, problem and optimizer; problems are seeds, or workloads of the benchmark."""
    runs = _regrets(study, collection)
    first = runs.value.where(runs.step == 1).groupby([runs[key] for key in RUN], observed=True).transform("max")
    shares = (runs.value / first).clip(0, 1)  # 0 / 0, for an optimal start, is NaN and left out
    digits = -np.log10(shares.clip(lower=10**-MOST_DIGITS))
    problem = runs.workload if collection == VLSE else runs.seed
    table = runs.assign(problem=problem, improvement=1 - shares, digits=digits)
    grouped = table.dropna(subset=list(MEASURES)).groupby(["step", "problem", "optimizer"], observed=True)
    scores: pd.DataFrame = grouped.agg({"improvement": "mean", "digits": "median"})
    return scores


@once_per_study
def _regrets(study: StudyResults, collection: str) -> pd.DataFrame:
    """The regrets in a collection; if a run found less than an estimated minimum, above the lowest value found."""
    workloads, every = _smooth(study) if collection == VLSE else [collection], _all_regrets(study)
    runs = every[every.workload.isin(workloads)]
    lowest = runs.groupby(["workload", "seed"], observed=True).value.transform("min")
    return runs.assign(value=runs.value - lowest.clip(upper=0))


@once_per_study
def _all_regrets(study: StudyResults) -> pd.DataFrame:
    """The regrets of all test runs."""
    return study.runs[(study.runs.role == "test") & (study.runs.metric == "regret")]


def _trained_scores(study: StudyResults) -> pd.DataFrame:
    """Means over the prior's test functions, as recorded in the training of policies, by seed and optimizer."""
    runs = study.runs[(study.runs.workload == PRIOR) & study.runs.metric.isin(MEASURES)]
    last = runs[runs.step == runs.step.max()]
    table = last.pivot_table(index=["seed", "optimizer"], columns="metric", values="value", observed=True)
    scores: pd.DataFrame = table.reindex(columns=list(MEASURES))
    return scores


def _last(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores after the last evaluation, by problem and optimizer."""
    steps = scores.index.get_level_values("step")
    last: pd.DataFrame = scores[steps == steps.max()].droplevel("step")
    return last


def _smooth(study: StudyResults) -> list[str]:
    """Workloads of the benchmark, except functions that have kinks along curves."""
    kinked = study.runs[(study.runs.metric == "smooth") & (study.runs.value == 0)].workload.unique()
    names = study.runs.workload[study.runs.workload.str.startswith(f"{VLSE}/")].unique()
    return [name for name in names if name not in set(kinked)]


def _kinds(study: StudyResults) -> pd.Series:
    """Kind of each test function of the prior, as an index in `KINDS`."""
    runs = study.runs[(study.runs.workload == PRIOR) & (study.runs.metric == "kind")]
    return runs.groupby("seed").value.first().astype(int)


def _counts(study: StudyResults, collection: str, after: int, until: int) -> pd.DataFrame:
    """By optimizer, skipped starts and runs that diverged after more than `after` and at most `until` evaluations."""
    runs = _regrets(study, collection)
    starts = runs[runs.step == 1]
    own = study.runs[(study.runs.role == "test") & (study.runs.metric == "diverged")]
    own = own[own.workload.isin(runs.workload.unique())]
    diverged = own[own.step.between(after, until, inclusive="right")]
    skipped = (starts.value == 0).groupby(starts.optimizer, observed=True).sum()
    counts = {"skipped": skipped, "diverged": diverged.groupby("optimizer", observed=True).size()}
    return pd.DataFrame(counts).fillna(0).astype(int)


def _present(study: StudyResults, collections: Iterable[str]) -> list[str]:
    """The collections that have test runs."""
    names = set(_all_regrets(study).workload.unique())
    names |= {str(name).split("/")[0] for name in names}
    return [collection for collection in collections if collection in names]


def _collections(study: StudyResults) -> dict[str, Any]:
    """Config entries of the collections, with source and dim."""
    return dict(study.facts.settings["collections"])


def _horizon(study: StudyResults) -> int:
    return int(study.facts.settings["budget"])


# --- Statistics ------------------------------------------------------------------------------------------------------


def _compare(study: StudyResults, scores: Any, policy: str) -> pd.DataFrame:
    """The columns of `compare` that depend on the scores at one budget, which are indexed by problem and optimizer."""
    wide = {measure: scores[measure].unstack("optimizer") for measure in MEASURES}
    digits = wide["digits"]
    ranked = digits[[key for key in digits if key in study.facts.optimizers]]
    ranks = rankings.average_ranks(-ranked.dropna())
    rates = tuned(study).set_index("optimizer").learning_rate
    rows = []
    for key in _keys(study, digits):
        row: dict[str, Any] = {**_names(study, key), "learning_rate": rates.get(key, np.nan)}
        row |= {"functions": digits[key].count(), "rank": ranks.get(key, np.nan), **_record(digits, policy, key)}
        for measure, values in wide.items():
            row |= columns.interval(measure, values[key].dropna())
            row |= _difference(measure, values, policy, key)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(**{f"{m}_p": holm(table[f"{m}_p"].tolist()) for m in MEASURES})


def _record(values: pd.DataFrame, policy: str, key: str) -> dict[str, int]:
    """Numbers of functions on which the policy is better than, equal to and worse than an optimizer."""
    if policy not in values or key == policy:
        return {"wins": 0, "ties": 0, "losses": 0}
    return columns.record((values[policy] - values[key]).dropna())


def _difference(name: str, values: pd.DataFrame, key: str, other: str) -> dict[str, float]:
    """Mean paired difference of two columns with its interval and Wilcoxon's p; NaN if one column is absent."""
    difference = pd.Series(dtype=float)
    if key != other and key in values and other in values:
        difference = (values[key] - values[other]).dropna()
    p = rankings.wilcoxon(difference)[1] if len(difference) else np.nan
    return {**columns.interval(f"{name}_difference", difference), f"{name}_p": p}


# --- The rows of the config ------------------------------------------------------------------------------------------


def _entries(study: StudyResults) -> dict[str, Any]:
    """Config entries of optimizers and derivative-free references, or of policies: label, and group if it is set."""
    settings = study.facts.settings
    references = {key: {"group": "derivative-free", **entry} for key, entry in settings.get("references", {}).items()}
    return {**settings.get("optimizers", {}), **references, **settings.get("policies", {})}


def _names(study: StudyResults, key: str) -> dict[str, str]:
    """Columns that name a row of the config: optimizer, label, group."""
    entry = _entries(study)[key]
    return {"optimizer": key, "label": str(entry["label"]), "group": str(entry.get("group", ""))}


def _keys(study: StudyResults, present: Iterable[Any]) -> list[str]:
    """The keys of the config, in its order, that have results."""
    return columns.in_order(_entries(study), present)
