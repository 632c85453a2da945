"""Policies and tuned baselines on collections that others published: ranks with tests, data and performance profiles.

A problem is a function with its start. Its minimum is the lowest value that any run of the study found, references
included, or the known or estimated one if that is lower. A problem is solved to the tolerance tau when the regret is at
most tau times that of the start (More and Wild's test of convergence). Where minima are estimates, this favours no
optimizer but those that find them. Problems of which no run improves the start are left out and counted as skipped.

Problems are grouped by their number of variables. Baselines are tuned once, on the prior. Derivative-free references
run on fewer problems, for a shorter time, so they help to find minima and are not compared here.

Source: E. Dolan and J. More, Benchmarking optimization software with performance profiles, Math. Program. 91 (2002); J.
More and S. Wild, Benchmarking derivative-free optimization algorithms, SIAM J. Optim. 20 (2009). Tolerances, budgets
and groups are chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import columns, rankings
from optrepro.analysis.intervals import holm
from optrepro.analysis.pop import generalization
from optrepro.analysis.results import StudyResults
from optrepro.conventions import POP

BUDGETS = (50, 200, 500)  # evaluations of value and gradient; the first is the horizon that policies are trained for
TOLERANCES = {"solved": 1e-3, "solved_well": 1e-6}
EVERY = "all"  # the group of all problems
LARGEST = (2, 5, 10, 32)  # largest numbers of variables of the groups of CUTEst's problems, which have any number
FIRST_ORDER = ("policy", "first-order")
RANKS = [
    *("group", "budget", "problems", "skipped", "optimizer", "label", "family", "learning_rate", "on_edge"),
    *("rank", "friedman_p", "critical_difference", "rank_gradient", *TOLERANCES, "wins", "ties", "losses", "p"),
    "not_finite",
]
PROFILES = ["kind", "tolerance", "problems", "optimizer", "label", "x", "share"]


def ranks(study: StudyResults) -> pd.DataFrame:
    """One row per group of problems, budget and gradient-based optimizer; empty if no problem was run.

    Columns: group (number of variables, or ``all``), budget, problems, skipped, optimizer, label, family (the
    optimizer's group), learning_rate and on_edge (as `generalization.tuned`); rank (average by regret among policies
    and first-order baselines; NaN for others) with friedman_p and critical_difference (Nemenyi, 5 %); rank_gradient
    (the same, L-BFGS included); solved and solved_well (shares of problems, by `TOLERANCES`); wins, ties, losses and p
    (the policy against the optimizer by regret, Wilcoxon's test over problems, Holm-corrected over the optimizers); and
    not_finite (runs that met a value or gradient that is not finite by then).

    Budgets that no run reaches are left out.
    """
    digits, groups, failures = _digits(study), _groups(study), _failures(study)
    tables = []
    for (group, problems), budget in product(groups.items(), BUDGETS):
        if budget not in digits.index.unique("step"):
            continue
        values: Any = digits.xs(budget, level="step")
        values = values[values.index.isin(problems)]
        bad = failures[failures.index.isin(problems) & (failures.step <= budget)].groupby("optimizer").size()
        rows = _compared(study, values)
        rows = rows.assign(group=group, budget=budget, problems=len(values), skipped=len(problems) - len(values))
        tables.append(rows.assign(not_finite=rows.optimizer.map(bad).fillna(0).astype(int)))
    if not tables:
        return pd.DataFrame(columns=RANKS)
    tuned = generalization.tuned(study).set_index("optimizer")[["learning_rate", "on_edge"]]
    table: pd.DataFrame = pd.concat(tables, ignore_index=True).join(tuned, on="optimizer")[RANKS]
    return table


def profiles(study: StudyResults) -> pd.DataFrame:
    """Data and performance profiles of gradient-based optimizers over all problems; empty if none was run.

    Columns: kind, tolerance, problems, optimizer, label, x, share. With t the first recorded evaluation at which a run
    has solved its problem, a ``data`` profile is the share of problems with t <= x, and a ``performance`` profile that
    with t / (the smallest t of all optimizers) <= x. As each evaluation gives a gradient, x is not divided by the
    number of variables plus one, which is what a gradient costs in More and Wild's profiles.
    """
    digits = _digits(study)
    if digits.empty:
        return pd.DataFrame(columns=PROFILES)
    tables = []
    for tolerance in TOLERANCES.values():
        times = solving_times(digits, tolerance)
        ratios = times.div(times.min(axis=1), axis=0)
        for kind, values in (("data", times), ("performance", ratios)):
            tables.append(shares_below(values).assign(kind=kind, tolerance=tolerance, problems=len(times)))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(label=table.optimizer.map(study.facts.label))[PROFILES]


def solving_times(digits: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """The first recorded evaluation at which a problem is solved, problems by optimizers; infinite if there is none.

    Args:
        digits: digits gained, by step and problem, in columns of optimizers.
        tolerance: share of the start's regret.
    """
    solved = digits >= -np.log10(tolerance)
    steps = digits.index.get_level_values("step").to_numpy(dtype=float)[:, None]
    times = pd.DataFrame(np.where(solved, steps, np.inf), digits.index, digits.columns)
    return times.groupby(level="problem").min()


def shares_below(values: pd.DataFrame) -> pd.DataFrame:
    """Distribution functions of the columns (optimizers): optimizer, x (from 1, each finite value), share (at most x).

    A value that is infinite or missing is never below.
    """
    x = np.unique([1.0, *values.to_numpy()[np.isfinite(values.to_numpy())]])
    tables = [
        pd.DataFrame({"optimizer": key, "x": x, "share": [(own <= each).sum() / len(own) for each in x]})
        for key, own in values.items()
    ]
    return pd.concat(tables, ignore_index=True)


# --- Reading ---------------------------------------------------------------------------------------------------------


def _digits(study: StudyResults) -> pd.DataFrame:
    """Digits gained, by step and problem, in columns of gradient-based optimizers in the order of the config."""
    tables = [
        generalization.by_problem(study, name).digits.unstack("optimizer").rename(_problem(name), level="problem")
        for name in _present(study)
    ]
    if not tables:
        return pd.DataFrame(index=pd.MultiIndex.from_tuples([], names=["step", "problem"]))
    table = pd.concat(tables)
    return table[columns.in_order(study.facts.optimizers, table)]


def _groups(study: StudyResults) -> dict[str, list[str]]:
    """The problems of each group, of all first."""
    sources = {entry["source"] for entry in study.facts.settings["collections"].values()}
    runs = study.runs[study.runs.metric == "dimension"]
    problems = [_problem(name)(seed) for name, seed in zip(runs.workload, runs.seed, strict=True)]
    dimension = pd.Series(runs.value.astype(int).to_numpy(), problems).groupby(level=0).first()
    if "cutest" not in sources:
        groups = {str(d): dimension.index[dimension == d] for d in sorted(dimension.unique())}
    else:
        classes = zip((0, *LARGEST), LARGEST, strict=False)
        groups = {f"{low + 1}–{high}": dimension.index[dimension.between(low + 1, high)] for low, high in classes}
    return {EVERY: list(dimension.index)} | {name: list(found) for name, found in groups.items() if len(found)}


def _failures(study: StudyResults) -> pd.DataFrame:
    """Test runs that met a value that is not finite, by problem: optimizer, step (evaluations before it)."""
    runs = study.runs[(study.runs.metric == "diverged") & (study.runs.role == "test")]
    problems = [_problem(name)(seed) for name, seed in zip(runs.workload, runs.seed, strict=True)]
    return runs[["optimizer", "step"]].set_axis(problems)


def _present(study: StudyResults) -> list[str]:
    """The collections that were run."""
    return columns.in_order(study.facts.settings["collections"], study.runs[study.runs.role == "test"].workload)


def _problem(collection: str) -> Callable[[object], str]:
    """A function from the number of a problem in a collection to a name that tells it from those of others."""
    return lambda number: f"{collection}/{number}"


# --- Statistics ------------------------------------------------------------------------------------------------------


def _compared(study: StudyResults, digits: pd.DataFrame) -> pd.DataFrame:
    """The columns of `ranks` that depend on the digits at one budget, problems by optimizers."""
    keys = [str(key) for key in digits]
    families = {key: str(study.facts.optimizers[key]["group"]) for key in keys}
    fields = {"rank": [key for key in keys if families[key] in FIRST_ORDER], "rank_gradient": keys}
    summaries = {name: rankings.summary(-digits[own].dropna()).set_index("optimizer") for name, own in fields.items()}
    rows = []
    for key in keys:
        row: dict[str, Any] = {"optimizer": key, "label": study.facts.label(key), "family": families[key]}
        row |= {name: table["rank"].get(key, np.nan) for name, table in summaries.items()}
        row |= {name: summaries["rank"][name].iloc[0] for name in ("friedman_p", "critical_difference")}
        row |= {name: (digits[key] >= -np.log10(tolerance)).mean() for name, tolerance in TOLERANCES.items()}
        rows.append(row | _against(digits, key))
    table = pd.DataFrame(rows)
    return table.assign(p=holm(table.p.tolist()))


def _against(digits: pd.DataFrame, key: str) -> dict[str, float]:
    """The record of the policy against an optimizer, and Wilcoxon's p; zeros and NaN for the policy itself."""
    difference = (digits[POP] - digits[key]).dropna() if POP in digits and key != POP else pd.Series(dtype=float)
    p = rankings.wilcoxon(difference)[1] if len(difference) else np.nan
    return {**columns.record(difference), "p": p}
