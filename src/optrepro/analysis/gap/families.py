"""The static families on toy losses: convergence curves and final gaps."""

from __future__ import annotations

import pandas as pd
from scipy import stats

from optrepro.analysis.results import StudyResults

SCHEDULES = ("families", "families-decayed")  # panels of families at equal power, whose steps shrink or do not
_QUARTILES = {"gap_median": "median", "gap_lower": "lower", "gap_upper": "upper", "share_ahead": "ahead"}


def curves(study: StudyResults) -> pd.DataFrame:
    """The gap to the minimum along the runs: one row per panel, optimizer, power and step.

    Columns: kind of panel, toy, optimizer, power, step; median, lower, upper (quartiles of the gap over
    starts); ahead (share of the random members whose median is below that of frobenius); diverged_share (share of the
    runs); shown (whether the figure draws this power, see `shown_powers`).
    """
    runs = study.runs[study.runs.role == "test"]
    keys = ["workload", "optimizer", "learning_rate"]
    points = runs[runs.metric.isin(_QUARTILES)]
    table = points.pivot_table(index=[*keys, "step"], columns="metric", values="value", sort=False, observed=True)
    table = table.rename(columns=_QUARTILES).reset_index()
    diverged = runs[runs.metric == "diverged"].set_index(keys).value.rename("diverged_share")
    table = table.join(diverged, on=keys)
    shown = shown_powers(study)
    table["shown"] = [
        shown[w, o] == p for w, o, p in zip(table.workload, table.optimizer, table.learning_rate, strict=True)
    ]
    table[["kind", "toy"]] = table.workload.str.split("/", n=1, expand=True)
    names = ["kind", "toy", "optimizer", "power", "step", *_QUARTILES.values(), "diverged_share", "shown"]
    return table.rename(columns={"learning_rate": "power"})[names]


def members(study: StudyResults) -> pd.DataFrame:
    """The median gap of each random member along the runs: toy, member, step, median, at the power of the figure."""
    runs = study.runs[study.runs.metric == "member_median"]
    shown = shown_powers(study)
    keep = [shown[w, "random"] == p for w, p in zip(runs.workload, runs.learning_rate, strict=True)]
    table = runs[keep].assign(toy=runs.workload.str.partition("/")[2])
    return table.rename(columns={"seed": "member", "value": "median"})[["toy", "member", "step", "median"]]


def shown_powers(study: StudyResults) -> dict[tuple[str, str], float]:
    """The power that the figure draws, by (workload, optimizer).

    Each family has its own power, with the smallest final median gap on the tuning starts. Members share one power,
    that at which the best of the random members ends lowest there, which favours the optimal member least.
    """
    final = _final_medians(study)
    shown: dict[tuple[str, str], float] = {}
    for workload, medians in final.groupby("workload"):
        rates = medians.pivot(index="learning_rate", columns="optimizer", values="value")
        best = rates.idxmin().to_dict()
        of_random = best.get("random") if str(workload).startswith("members/") else None
        shown |= {(str(workload), str(key)): float(of_random or best[key]) for key in rates}
    return shown


def final_gaps(study: StudyResults, toy: str) -> pd.DataFrame:
    """Gap at the last step of each family on a toy, starts by families, with the power and the schedule it is tuned to.

    The identity, which is plain gradient descent, is not a family and is left out.
    """
    final = _final_medians(study)
    tuned = final[final.workload.isin([f"{kind}/{toy}" for kind in SCHEDULES]) & (final.optimizer != "identity")]
    best = tuned.loc[tuned.groupby("optimizer").value.idxmin(), ["workload", "optimizer", "learning_rate"]]
    gaps = study.runs[(study.runs.metric == "final_gap") & (study.runs.role == "test")].merge(best)
    return gaps.pivot_table(index="seed", columns="optimizer", values="value", observed=True)


def sign_test(gaps: pd.DataFrame, first: str, second: str) -> tuple[float, float]:
    """Share of starts at which `first` ends below `second`, and its two-sided p-value; ties are left out."""
    lower, higher = (gaps[first] < gaps[second]).sum(), (gaps[first] > gaps[second]).sum()
    if lower + higher == 0:
        return 0.5, 1.0
    return float(lower / (lower + higher)), float(stats.binomtest(int(lower), int(lower + higher)).pvalue)


def _final_medians(study: StudyResults) -> pd.DataFrame:
    """Median gap at the last step on the tuning starts, by workload, optimizer and power."""
    runs = study.runs[(study.runs.metric == "gap_median") & (study.runs.role == "tune")].sort_values("step")
    return runs.groupby(["workload", "optimizer", "learning_rate"]).value.last().reset_index()
