"""Exhibit gap-every-rate: does one rule hold its own on every task, at every learning rate that trains at all?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch, Rectangle

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

# colour of a cell and its sign, so that neither is needed alone
VERDICTS = {
    "above": ("#8CC3E8", "▲"),
    "within": ("#DDECF7", "●"),
    "best": ("#FFFFFF", "★"),
    "below": ("#F4B183", "▼"),
    "open": ("#EEEEEE", ""),
}
TITLES = {
    "gap-lm": "language",
    "gap-vit": "vision",
    "gap-cifar100": "CIFAR-100",
    "gap-sgdm": "SGD",
    "gap-adam": "AdamW",
}
WORDS = {
    "above": "above the best fixed candidate",
    "within": "within the interval",
    "below": "below",
    "best": "the best fixed candidate",
    "open": "not judged",
}


def figure(material: Material) -> Figure:
    """Rows are candidates, rules and controls, columns the learning rates of each study, cells the verdicts."""
    rates = material.tables["gap-every-rate"]
    rows = _rows(material.tables["gap-held"])
    page = style.page(material, height=4.6 * len(rows) + 42)
    grids = {str(study): sorted(own.learning_rate.unique()) for study, own in rates.groupby("study", sort=False)}
    widths = [*(len(grid) for grid in grids.values()), 5]
    *sides, right = page.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)[0]
    y = dict(zip(rows.rule, panels.row_positions(rows), strict=True))
    for axes, (study, grid) in zip(sides, grids.items(), strict=True):
        for cell in rates[rates.study == study].to_dict("records"):
            verdict_cell(axes, grid.index(cell["learning_rate"]), y[cell["rule"]] - 0.5, cell, text=False)
        axes.set_xticks([i + 0.5 for i in range(len(grid))], [f"{rate:g}" for rate in grid], rotation=90)
        axes.set(xlim=(0, len(grid)), xlabel="rate")
        axes.set_title(TITLES.get(study, study), fontsize=7.5)
        panels.bare(axes)
    panels.name_rows(sides[0], rows, list(rows.label))
    _sums(right, rows, y)
    verdict_legend(page)
    return page


def table(material: Material) -> pd.DataFrame:
    """A row per rule: at how many learning rates it matches, in all studies and in each, and its worst there."""
    held = material.tables["gap-held"]
    rows, cells = _rows(held), held.set_index(["rule", "study"])
    readable: dict[str, Any] = {"optimizer": rows.label, "group": rows.group}
    readable["learning rates"] = rows.rates
    readable["inside the best fixed one's interval, or better"] = rows.inside
    readable["not below it in pairs"] = rows.held
    for study in material.tables["gap-every-rate"].study.unique():
        readable[study] = [
            _in_words(cells.loc[rule, study]) if (rule, study) in cells.index else "–" for rule in rows.rule
        ]
    return pd.DataFrame(readable)


def verdict_cell(axes: Axes, x: float, y: float, cell: Mapping[Any, Any], *, text: bool = True) -> None:
    """A unit cell at (x, y): colour and sign of the verdict, and the difference; grey where no fixed candidate trains.

    Args:
        axes: to draw in.
        x: left edge.
        y: upper edge.
        cell: a row of a table of `rates`, as gap-every-rate or gap-lm-rates.
        text: whether the difference is written beside the sign.
    """
    color, sign = VERDICTS[cell["verdict"]] if cell["trains"] else ("#F7F7F7", "")
    axes.add_patch(Rectangle((x, y + 0.04), 1, 0.92, facecolor=color, edgecolor="white", lw=0.8))
    words = sign
    if text and cell["verdict"] != "best":
        words = f"{sign} {_amount(cell['difference'], cell['criterion'])}".strip()
    ink = style.INK if cell["trains"] else "#A0A0A0"
    axes.text(x + 0.5, y + 0.5, words, ha="center", va="center", fontsize=5.6, color=ink)


def verdict_legend(figure: FigureBase) -> None:
    """What the colours and signs of the cells mean."""
    handles = [
        Patch(facecolor=VERDICTS[name][0], edgecolor=style.FAINT, label=f"{VERDICTS[name][1]} {words}")
        for name, words in WORDS.items()
    ]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower right", fontsize=6.5, columnspacing=1.0)


def _amount(difference: float, criterion: str) -> str:
    """Points of accuracy or nats of loss, short; "div." where a diverged run leaves no difference."""
    if difference != difference:
        return "div."
    _, scale = panels.DIFFERENCES[criterion]
    return f"{scale * difference:+.1f}" if criterion == "accuracy" else f"{difference:+.3f}".replace("0.", ".", 1)


def _rows(held: pd.DataFrame) -> pd.DataFrame:
    """One row per rule, group by group: rule, label, group, rates, inside, held, everywhere (inside at each)."""
    order = {group: i for i, group in enumerate(style.GROUP_TITLES)}
    rows = held.groupby("rule", sort=False).agg(
        label=("label", "first"),
        group=("group", "first"),
        rates=("rates", "sum"),
        inside=("inside", "sum"),
        held=("held", "sum"),
        studies=("study", "count"),
    )
    rows["everywhere"] = (rows.inside == rows.rates) & (rows.studies == held.study.nunique())
    return rows.reset_index().sort_values("group", key=lambda group: group.map(order), kind="stable", ignore_index=True)


def _sums(axes: Axes, rows: pd.DataFrame, y: Mapping[Any, float]) -> None:
    """To the right of the cells: the number of learning rates held; bold where it is all of them."""
    for row in rows.to_dict("records"):
        weight = "bold" if row["everywhere"] else "normal"
        for x, count in ((0.0, row["inside"]), (0.6, row["held"])):
            words = f"{count}/{row['rates']}"
            axes.text(x, y[row["rule"]], words, va="center", fontsize=6.5, fontweight=weight)
    axes.set_title("inside", loc="left", fontsize=7.5)
    axes.set_title("paired", loc="right", fontsize=7.5)
    axes.axis("off")


def _in_words(row: Any) -> str:
    """Learning rates held, and the worst mean difference, in one study."""
    unit, scale = ("points", 100) if row.criterion == "accuracy" else ("nats", 1)
    digits = 2 if row.criterion == "accuracy" else 3
    worst = "a run diverged" if row.worst != row.worst else f"{scale * row.worst:+.{digits}f} {unit}"
    return f"{row.inside} of {row.rates}; worst {worst}" + (f"; outside at {row.outside}" if row.outside else "")
