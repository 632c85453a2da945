"""Exhibit gap-every-rate: whether one rule matches the best fixed candidate at every learning rate of every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

# Each verdict has both a colour and a sign, so that it can be read without colours.
VERDICTS = {
    "above": ("#8CC3E8", "▲"),
    "within": ("#DDECF7", "●"),
    "best": ("#FFFFFF", "★"),
    "below": ("#F4B183", "▼"),
    "open": ("#EEEEEE", ""),
}
PARTS = {  # studies whose counts are added
    "three tasks": ("gap-lm", "gap-vit", "gap-cifar100"),
    "SGD and AdamW": ("gap-sgdm", "gap-adam"),
}
TABLED = {
    "inside": "inside the best fixed one's interval, or better",
    "told": "inside where random switching or the mean of the buffers is not",
    "held": "not below it in pairs",
}
COUNTS = {"inside": "rates", "told": "telling", "held": "rates"}  # columns with a count, and with its total
BARS = {
    "above": "above the best fixed candidate",
    "best": "is that candidate",
    "within": "no difference shown",
    "below": "below it",
}
WORDS = {
    "above": "above the best fixed candidate",
    "within": "within the interval",
    "below": "below",
    "best": "the best fixed candidate",
    "open": "not judged",
}


def figure(material: Material) -> Figure:
    """For each rule, at how many learning rates it is above, beside or below the best fixed candidate."""
    rates, held = material.tables["gap-every-rate"], material.tables["gap-held"]
    rows, parts = _rows(held), _parts(held)
    page = style.page(material, height=4.6 * len(rows) + 34)
    y = dict(zip(rows.rule, panels.row_positions(rows), strict=True))
    outcomes = {part: _outcomes(rates, studies) for part, studies in parts.items()}
    widths = [max(counts.sum(axis=1).max(), 1) for counts in outcomes.values()]
    sides = page.subplots(1, len(parts), sharey=True, width_ratios=widths, squeeze=False)[0]
    for axes, (part, counts) in zip(sides, outcomes.items(), strict=True):
        _bars(axes, counts, y)
        axes.set(title=f"{part[0].upper() + part[1:]}{_finding(counts, rows)}", xlabel="learning rates")
    panels.name_rows(sides[0], rows, list(rows.label))
    handles = [Patch(facecolor=VERDICTS[name][0], edgecolor=style.FAINT, label=words) for name, words in BARS.items()]
    page.legend(handles=handles, ncols=len(handles), loc="outside lower right", columnspacing=1.2)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per rule: numbers of learning rates at which it matches, by part and study, and the worst difference."""
    held = material.tables["gap-held"]
    rows, cells = _rows(held), held.set_index(["rule", "study"])
    readable: dict[str, Any] = {"optimizer": rows.label, "group": rows.group}
    for part in _parts(held):
        counts = _counts(held, part)
        for name, title in TABLED.items():
            readable[f"{part}: {title}"] = [_of(counts, rule, name) for rule in rows.rule]
    for study in material.tables["gap-every-rate"].study.unique():
        readable[study] = [
            _in_words(cells.loc[rule, study]) if (rule, study) in cells.index else "–" for rule in rows.rule
        ]
    return pd.DataFrame(readable)


def verdict_cell(axes: Axes, x: float, y: float, cell: Mapping[Any, Any]) -> None:
    """A unit cell at (x, y) with the verdict and the difference; grey if no fixed candidate trains.

    Args:
        axes: axes of the cell.
        x: left edge.
        y: upper edge.
        cell: a row of a table of `rates`, as gap-lm-rates. A difference that rounds to 0 is dim.
    """
    color, sign = VERDICTS[cell["verdict"]] if cell["trains"] else ("#F7F7F7", "")
    axes.add_patch(Rectangle((x, y + 0.04), 1, 0.92, facecolor=color, edgecolor="white", lw=0.8))
    amount = "" if cell["verdict"] == "best" else _amount(cell["difference"], cell["criterion"])
    dim = amount == "0" or not cell["trains"]
    words = f"{sign}\N{THIN SPACE}{amount}".strip()
    axes.text(x + 0.5, y + 0.5, words, ha="center", va="center", fontsize=7, color=style.MUTED if dim else style.INK)


def verdict_legend(figure: FigureBase) -> None:
    """The legend for the colours and signs of the cells."""
    handles = [
        Patch(facecolor=VERDICTS[name][0], edgecolor=style.FAINT, label=f"{VERDICTS[name][1]} {words}")
        for name, words in WORDS.items()
    ]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower right", columnspacing=1.0)


def _amount(difference: float, criterion: str) -> str:
    """The difference in points of accuracy or nats of loss; "div." if it is undefined because a run diverged."""
    if difference != difference:
        return "div."
    _, scale = panels.DIFFERENCES[criterion]
    text = f"{scale * difference:+.1f}" if criterion == "accuracy" else f"{difference:+.3f}"
    if not float(text):
        return "0"
    return text if criterion == "accuracy" else text.replace("+0.", "+.").replace("-0.", "-.")


def _rows(held: pd.DataFrame) -> pd.DataFrame:
    """One row per rule, sorted by group: rule, label, group."""
    order = {group: i for i, group in enumerate(style.GROUP_TITLES)}
    rows = held.drop_duplicates("rule")[["rule", "label", "group"]]
    return rows.sort_values("group", key=lambda group: group.map(order), kind="stable", ignore_index=True)


def _parts(held: pd.DataFrame) -> dict[str, list[str]]:
    """The studies with results, by part; parts without any are left out."""
    at_hand = {part: [study for study in studies if study in set(held.study)] for part, studies in PARTS.items()}
    return {part: studies for part, studies in at_hand.items() if studies}


def _counts(held: pd.DataFrame, part: str) -> pd.DataFrame:
    """Sums of the counts over the studies of a part, by rule."""
    return held[held.study.isin(PARTS[part])].groupby("rule", sort=False)[list({*COUNTS, *COUNTS.values()})].sum()


def _of(counts: pd.DataFrame, rule: str, name: str) -> str:
    """A count as text, "6 of 14"; a dash if the total is 0."""
    if rule not in counts.index or not counts[COUNTS[name]][rule]:
        return "–"
    return f"{counts[name][rule]} of {counts[COUNTS[name]][rule]}"


def _outcomes(rates: pd.DataFrame, studies: Sequence[str]) -> pd.DataFrame:
    """Numbers of learning rates of some studies by rule and verdict; those at which nothing is judged are left out."""
    judged = rates[rates.study.isin(studies) & rates.trains & rates.verdict.isin(BARS)]
    return pd.crosstab(judged.rule, judged.verdict).reindex(columns=list(BARS), fill_value=0)


def _finding(counts: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The dynamic rules that are least often below the best fixed candidate, among those with all learning rates."""
    totals = counts.sum(axis=1)
    rules = rows[(rows.group == "dynamic") & rows.rule.isin(totals[totals == totals.max()].index)].set_index("rule")
    if rules.empty:
        return ""
    below = counts.below[rules.index]
    names = "; ".join(panels.short(label) for label in rules.label[below == below.min()])
    return f":\n{names} below at {below.min()} of {totals.max()}"


def _bars(axes: Axes, counts: pd.DataFrame, y: Mapping[Any, float]) -> None:
    """One bar for each rule, of as many parts as there are verdicts, each with its number."""
    for rule, row in counts.iterrows():
        left = 0
        for verdict, count in row.items():
            axes.barh(
                y[rule], count, left=left, height=0.8, color=VERDICTS[str(verdict)][0], edgecolor=style.FAINT, lw=0.5
            )
            if count:
                axes.text(left + count / 2, y[rule], str(count), ha="center", va="center", fontsize=7)
            left += count
    axes.set_xlim(0, max(counts.sum(axis=1).max(), 1) if len(counts) else 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)


def _in_words(row: Any) -> str:
    """Number of rates held and worst mean difference in one study; a dash if no rate has a verdict."""
    if not row.rates:
        return "–"
    unit, scale = ("points", 100) if row.criterion == "accuracy" else ("nats", 1)
    digits = 2 if row.criterion == "accuracy" else 3
    worst = "a run diverged" if row.worst != row.worst else f"{scale * row.worst:+.{digits}f} {unit}"
    return f"{row.inside} of {row.rates}; worst {worst}" + (f"; outside at {row.outside}" if row.outside else "")
