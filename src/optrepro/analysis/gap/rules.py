"""One rule for all learning rates: each rule beside the best fixed candidate and beside the two controls.

All differences are those of tuning runs on validation data, paired over their seeds, at one learning rate or in the
mean over those at which the best fixed candidate trains at all (see `comparison.rates`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import columns, comparison
from optrepro.analysis.intervals import mean_interval
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import Outcome, as_good, better
from optrepro.catalogue import Margin

FIXED, MEAN, RANDOM = "best fixed", "mean", "random"  # what a rule stands beside


def differences(*studies: StudyResults, points: float = 0.0, percent: float = 0.0) -> pd.DataFrame:
    """Every dynamic rule of the studies beside what it has to match or beat, with the margin of equivalence of a claim.

    Columns: study, criterion, optimizer, label, group; beside (one of FIXED, MEAN and RANDOM: the best fixed
    candidate at the rate, the mean of the buffers, random switching with the rule's own shares); learning_rate (NaN for
    the mean over the rates); reference (the other's label); margin, difference, _low, _high (positive: the rule is
    better); and outcome: "met", "open" or "missed". Beside FIXED a rule has to be as good, beside the others better.
    A study without a row that has a rule's shares has no rows of it beside RANDOM.
    """
    margin = Margin(points=points, percent=percent)
    return pd.DataFrame([row for study in studies for row in _rows(study, margin)])


def deciding(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `differences` that decide on a rule: each rate beside FIXED, the mean over them beside the others."""
    return table[(table.beside == FIXED) | table.learning_rate.isna()]


def _rows(study: StudyResults, margin: Margin) -> Iterator[dict[str, Any]]:
    """The rows of one study, by rule."""
    rates = comparison.rates(study)
    rates = rates[rates.trains & (rates.group == "dynamic")]
    scores, over = comparison.tuning_scores(study), comparison.over_rates(study)
    for rule, own in rates.groupby("optimizer", sort=False):
        controls = _controls(study.facts.optimizers, str(rule))
        for row in own.to_dict("records"):
            at_rate = scores.xs(row["learning_rate"], axis=1, level="learning_rate")
            lost = row["failed"] > 0 and study.facts.criterion == "loss"
            for beside, other in {FIXED: row["best"], **controls}.items():
                yield _row(study, str(rule), beside, other, at_rate, margin, rate=row["learning_rate"], lost=lost)
        for beside, other in controls.items():
            yield _row(study, str(rule), beside, other, over, margin)


def _controls(optimizers: Mapping[str, Mapping[str, Any]], rule: str) -> dict[str, str]:
    """The rows that are the controls of a rule, as far as the study has them."""
    found = {MEAN: "mean"} if "mean" in optimizers else {}
    for key, entry in optimizers.items():
        if entry.get("shares_of") == rule:
            found[RANDOM] = key
    return found


def _row(
    study: StudyResults,
    rule: str,
    beside: str,
    other: str,
    scores: Any,
    margin: Margin,
    rate: float = np.nan,
    lost: bool = False,
) -> dict[str, Any]:
    """One row; `scores` are seeds by optimizers, and a rule is `lost` if it has a diverged run and so no mean loss."""
    criterion = study.facts.criterion
    there = {rule, other} <= set(scores)  # of a control whose source diverged, there are no runs
    difference = mean_interval(comparison.paired_difference(scores, rule, other) if there and not lost else [])
    allowed = margin.of(criterion, scores[other].mean() if there else np.nan)
    outcome = as_good(difference, allowed) if beside == FIXED else better(difference, allowed)
    return {
        "study": study.facts.study,
        "criterion": criterion,
        **columns.names(study, rule),
        "beside": beside,
        "learning_rate": rate,
        "reference": study.facts.label(other),
        "margin": allowed,
        **dict(zip(("difference", "difference_low", "difference_high"), difference, strict=True)),
        "outcome": (Outcome.MISSED if lost else outcome).name.lower(),
    }
