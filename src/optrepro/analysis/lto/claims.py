"""Rules for the claims about Predicted Step Descent: areas, final objectives, and progress beyond the horizon."""

from __future__ import annotations

from typing import Any

import pandas as pd

from optrepro.analysis.intervals import Interval, mean_interval
from optrepro.analysis.lto import panels
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import (
    FAILS,
    NBSP,
    Outcome,
    Verdict,
    better,
    bracketed,
    interval_of,
    judged,
    met,
    signed,
    together,
)
from optrepro.catalogue import Margin

STRICT = Margin()
MEASURES = {"area": panels.areas, "final objective": panels.finals}


def descends_fastest(study: StudyResults, *, optimizer: str, figure: str, margin: Margin = STRICT) -> Verdict:
    """Holds if area and final objective are lower than every other optimizer's in every panel; in part for some.

    Objectives are compared by the paired difference. Variants are not compared.
    """
    return judged(*_fastest(study, optimizer, figure, margin))


def descends_fastest_where_other_diverges(
    study: StudyResults, *, optimizer: str, figure: str, other: str, margin: Margin = STRICT
) -> Verdict:
    """`descends_fastest`, with the further condition that the other optimizer fails in every panel.

    It fails if its mean objective ends above its start, or if most of its runs do. What it does is no merit of the
    optimizer, so where that is ahead in no panel this condition does not count.
    """
    ahead, evidence = _fastest(study, optimizer, figure, margin)
    curves = panels.curves(study)
    own = curves[(curves.figure == figure) & (curves.optimizer == other)]
    if own.empty:
        raise KeyError(other)
    above, ends = [], []
    for _, rows in own.groupby("panel", sort=False):
        first, last = rows["mean"].iloc[0], rows["mean"].iloc[-1]
        diverged = rows.lost.iloc[-1] / rows.repetitions.iloc[-1]
        above.append(met(bool(last > first or diverged > 0.5)))
        share = f", {100 * diverged:.0f}{NBSP}% of the runs diverged" if diverged else ""
        ends.append(f"{rows.dataset.iloc[0]} {first:.2f} to {last:.2f}{share}")
    text = f"{evidence}; {study.facts.label(other)}: {', '.join(ends)}"
    return judged([*ahead, *above] if Outcome.MET in ahead else ahead, text)


def descends_fastest_and_longer(
    study: StudyResults, *, optimizer: str, figure: str, margin: Margin = STRICT
) -> Verdict:
    """`descends_fastest`, with the further condition that the objective falls in every panel beyond the horizon.

    It falls if the 95 % interval of the paired difference is wholly above 0. The claim fails if it falls in no panel.
    """
    ahead, evidence = _fastest(study, optimizer, figure, margin)
    beyond = panels.progress(study)
    own = beyond[(beyond.figure == figure) & (beyond.optimizer == optimizer)] if len(beyond) else beyond
    if own.empty:
        raise KeyError("a run beyond the trained horizon")
    falls = [better(interval_of(row, "progress"), 0.0) for row in own.to_dict("records")]
    by = ", ".join(f"{row['dataset']} {signed(interval_of(row, 'progress'))}" for row in own.to_dict("records"))
    text = f"{evidence}; from iteration {own.trained.iloc[0]} to {own.end.iloc[0]} it falls by: {by}"
    if set(falls) == {Outcome.MISSED}:
        return Verdict(FAILS, text)
    return judged([*ahead, *falls], text)


def _fastest(study: StudyResults, optimizer: str, figure: str, margin: Margin) -> tuple[list[Outcome], str]:
    """Whether the optimizer is lower than every other, by measure and panel of a figure, and the evidence.

    Raises: KeyError if the figure or the optimizer has no results.
    """
    titles = {panel: title for panel, title in panels.panels(study).items() if panel.startswith(f"{figure}-")}
    if not titles:
        raise KeyError(figure)
    outcomes, evidence = [], []
    for measure, of in MEASURES.items():
        objectives: Any = of(study)
        words = []
        for panel, title in titles.items():
            own = objectives.loc[panel].dropna(axis=1, how="all")
            others = [key for key in own if key != optimizer and key not in panels.VARIANTS]
            leads = {key: _lead(own[key], own[optimizer]) for key in others}
            outcomes.append(together(better(lead, margin.percent) for lead in leads.values()))
            hardest = min(others, key=lambda key: leads[key].mean)
            words.append(f"{title} {bracketed(leads[hardest], 1)} ({study.facts.label(str(hardest))})")
        evidence.append(f"{measure}, % below the best other: {', '.join(words)}")
    return outcomes, "; ".join(evidence)


def _lead(other: pd.Series, own: pd.Series) -> Interval:
    """How far an objective is below another, paired, in per cent of the other's mean."""
    return Interval(*(100 * x / other.mean() for x in mean_interval((other - own).dropna())))
