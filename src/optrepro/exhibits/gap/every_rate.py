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
    "gap-sgdm": "images,\nSGD",
    "gap-adam": "images,\nAdamW",
}
PARTS = {  # studies that are counted together: those of the claims, and the older ones
    "three tasks": ("gap-lm", "gap-vit", "gap-cifar100"),
    "SGD and AdamW": ("gap-sgdm", "gap-adam"),
}
SUMS = 7.5  # width of their sums, in cells
HEAD = 1.005  # height of what heads them, in axes
DRAWN = {"inside": "inside", "told": "telling", "held": "paired"}
TABLED = {
    "inside": "inside the best fixed one's interval, or better",
    "told": "inside where random switching or the mean of the buffers is not",
    "held": "not below it in pairs",
}
COUNTS = {"inside": "rates", "told": "telling", "held": "rates"}  # what is counted, and of how many
WORDS = {
    "above": "above the best fixed candidate",
    "within": "within the interval",
    "below": "below",
    "best": "the best fixed candidate",
    "open": "not judged",
}


def figure(material: Material) -> Figure:
    """Rows are candidates, rules and controls, columns the learning rates of each study, cells the verdicts."""
    rates, held = material.tables["gap-every-rate"], material.tables["gap-held"]
    rows = _rows(held)
    page = style.page(material, height=4.6 * len(rows) + 42)
    y = dict(zip(rows.rule, panels.row_positions(rows), strict=True))
    grids = {str(study): sorted(own.learning_rate.unique()) for study, own in rates.groupby("study", sort=False)}
    columns = [column for part, studies in _parts(held).items() for column in (*studies, part)]
    widths = [len(grids[column]) if column in grids else SUMS for column in columns]
    sides = page.subplots(1, len(widths), sharey=True, width_ratios=widths, squeeze=False)[0]
    for axes, column in zip(sides, columns, strict=True):
        if column in grids:
            _cells(axes, rates[rates.study == column], grids[column], y)
            axes.set_title(TITLES[column], fontsize=7.5)
        else:
            _sums(axes, _counts(held, column), y)
    panels.name_rows(sides[0], rows, list(rows.label))
    page.align_xlabels(sides)
    verdict_legend(page)
    return page


def table(material: Material) -> pd.DataFrame:
    """A row per rule: at how many learning rates it matches, in each part and in each study, and its worst there."""
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
    """One row per rule, group by group: rule, label, group."""
    order = {group: i for i, group in enumerate(style.GROUP_TITLES)}
    rows = held.drop_duplicates("rule")[["rule", "label", "group"]]
    return rows.sort_values("group", key=lambda group: group.map(order), kind="stable", ignore_index=True)


def _parts(held: pd.DataFrame) -> dict[str, list[str]]:
    """The studies at hand of each part that has some."""
    at_hand = {part: [study for study in studies if study in set(held.study)] for part, studies in PARTS.items()}
    return {part: studies for part, studies in at_hand.items() if studies}


def _counts(held: pd.DataFrame, part: str) -> pd.DataFrame:
    """Sums over the studies of a part, by rule."""
    return held[held.study.isin(PARTS[part])].groupby("rule", sort=False)[list({*COUNTS, *COUNTS.values()})].sum()


def _of(counts: pd.DataFrame, rule: str, name: str) -> str:
    """A count as "6 of 14"; a dash where nothing could be counted."""
    if rule not in counts.index or not counts[COUNTS[name]][rule]:
        return "–"
    return f"{counts[name][rule]} of {counts[COUNTS[name]][rule]}"


def _cells(axes: Axes, rates: pd.DataFrame, grid: list[float], y: Mapping[Any, float]) -> None:
    """The verdicts of one study; the learning rates that tell are bold."""
    for cell in rates.to_dict("records"):
        verdict_cell(axes, grid.index(cell["learning_rate"]), y[cell["rule"]] - 0.5, cell, text=False)
    axes.set_xticks([i + 0.5 for i in range(len(grid))], [f"{rate:g}" for rate in grid], rotation=90)
    telling = set(rates[rates.trains & rates.tells].learning_rate)
    for rate, tick in zip(grid, axes.get_xticklabels(), strict=True):
        tick.set_fontweight("bold" if rate in telling else "normal")
    axes.set(xlim=(0, len(grid)), xlabel="rate")
    panels.bare(axes)


def _sums(axes: Axes, counts: pd.DataFrame, y: Mapping[Any, float]) -> None:
    """Beside the cells of a part: its counts; bold at every rate of every study."""
    for x, (name, title) in enumerate(DRAWN.items()):
        axes.text((x + 0.5) / len(DRAWN), HEAD, title, ha="center", va="bottom", fontsize=6, transform=axes.transAxes)
        for rule in counts.index:
            words = _of(counts, rule, name).replace(" of ", "/")
            whole = counts[name][rule] == counts[COUNTS[name]].max() > 0
            axes.text(
                (x + 0.5) / len(DRAWN),
                y[rule],
                words,
                ha="center",
                va="center",
                fontsize=6.5,
                fontweight="bold" if whole else "normal",
                transform=axes.get_yaxis_transform(),
            )
    axes.axis("off")


def _in_words(row: Any) -> str:
    """Learning rates held, and the worst mean difference, in one study; a dash where none could be judged."""
    if not row.rates:
        return "–"
    unit, scale = ("points", 100) if row.criterion == "accuracy" else ("nats", 1)
    digits = 2 if row.criterion == "accuracy" else 3
    worst = "a run diverged" if row.worst != row.worst else f"{scale * row.worst:+.{digits}f} {unit}"
    return f"{row.inside} of {row.rates}; worst {worst}" + (f"; outside at {row.outside}" if row.outside else "")
