"""Rules for the claims about Predicted Step Descent: mean objectives (areas), and progress beyond the horizon."""

from __future__ import annotations

from typing import Any

from optrepro.analysis.intervals import Interval, mean_interval
from optrepro.analysis.lto import panels
from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import FAILS, HOLDS, IN_PART, NBSP, Verdict, all_or_some, bracketed, interval_of, signed


def descends_fastest(study: StudyResults, *, optimizer: str, figure: str) -> Verdict:
    """Holds if the area is smaller than that of every other optimizer in every panel of the figure; in part in some.

    It is smaller if the 95 % interval of the paired difference is wholly below 0. Variants are not compared.
    """
    return all_or_some(*_fastest(study, optimizer, figure))


def descends_fastest_where_other_diverges(study: StudyResults, *, optimizer: str, figure: str, other: str) -> Verdict:
    """`descends_fastest`, with the further condition that the other optimizer fails in every panel.

    It fails if its mean objective ends above its start, or if most of its runs do.
    """
    ahead, evidence = _fastest(study, optimizer, figure)
    curves = panels.curves(study)
    own = curves[(curves.figure == figure) & (curves.optimizer == other)]
    if own.empty:
        raise KeyError(other)
    above, ends = [], []
    for _, rows in own.groupby("panel", sort=False):
        first, last = rows["mean"].iloc[0], rows["mean"].iloc[-1]
        diverged = rows.lost.iloc[-1] / rows.repetitions.iloc[-1]
        above.append(bool(last > first or diverged > 0.5))
        share = f", {100 * diverged:.0f}{NBSP}% of the runs diverged" if diverged else ""
        ends.append(f"{rows.dataset.iloc[0]} {first:.2f} to {last:.2f}{share}")
    text = f"{evidence}; {study.facts.label(other)}: {', '.join(ends)}"
    if not any(ahead):
        return Verdict(FAILS, text)
    return Verdict(HOLDS if all(ahead) and all(above) else IN_PART, text)


def descends_fastest_and_longer(study: StudyResults, *, optimizer: str, figure: str) -> Verdict:
    """`descends_fastest`, with the further condition that the objective falls in every panel beyond the horizon.

    It falls if the 95 % interval of the paired difference is wholly above 0. The claim fails if it falls in no panel.
    """
    ahead, evidence = _fastest(study, optimizer, figure)
    beyond = panels.progress(study)
    own = beyond[(beyond.figure == figure) & (beyond.optimizer == optimizer)] if len(beyond) else beyond
    if own.empty:
        raise KeyError("a run beyond the trained horizon")
    falls = [bool(low > 0) for low in own.progress_low]
    by = ", ".join(f"{row['dataset']} {signed(interval_of(row, 'progress'))}" for row in own.to_dict("records"))
    text = f"{evidence}; from iteration {own.trained.iloc[0]} to {own.end.iloc[0]} it falls by: {by}"
    if not any(falls):
        return Verdict(FAILS, text)
    return Verdict(HOLDS if all(ahead) and all(falls) else IN_PART, text)


def _fastest(study: StudyResults, optimizer: str, figure: str) -> tuple[list[bool], str]:
    """Whether the optimizer's area is smaller than every other's, by panel of a figure, and the evidence.

    Raises: KeyError if the figure or the optimizer has no results.
    """
    titles = {panel: title for panel, title in panels.panels(study).items() if panel.startswith(f"{figure}-")}
    if not titles:
        raise KeyError(figure)
    areas: Any = panels.areas(study)
    ahead, evidence = [], []
    for panel, title in titles.items():
        own = areas.loc[panel].dropna(axis=1, how="all")
        others = [key for key in own if key != optimizer and key not in panels.VARIANTS]
        differences = {key: mean_interval((own[optimizer] - own[key]).dropna()) for key in others}
        ahead.append(all(difference.high < 0 for difference in differences.values()))
        hardest = max(others, key=lambda key: differences[key].mean)
        percent = Interval(*(100 * x / own[hardest].mean() for x in differences[hardest]))
        evidence.append(f"{title}: {bracketed(percent, 1)}{NBSP}% to {study.facts.label(str(hardest))}")
    return ahead, f"area: {'; '.join(evidence)}"
