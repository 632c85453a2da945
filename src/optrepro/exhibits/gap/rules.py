"""Exhibit gap-rules: attempts at one rule that is as good as the best fixed momentum everywhere, and beats controls."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from optrepro.analysis.results import Facts
from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material
from optrepro.studies.base import counted

BESIDE = {  # what a rule stands beside, by the table's names
    "best fixed": "the best fixed candidate",
    "mean": "the mean of the buffers",
    "random": "random, its own shares",
}
FIXED, MEAN, RANDOM = BESIDE
ROW, LEGEND = 46.0, 6.0  # height of a row of panels, and of the legend below the last one, in mm
SPREAD = 0.62  # width that the rules take at one learning rate, of the distance of two
LINEAR = 1.0  # points; the axis is linear up to here and logarithmic beyond
TICKS = {
    5.0: (-3, -1, 0, 1, 3),
    np.inf: (-100, -10, -1, 0, 1, 10, 100),
}  # up to a largest difference, so that none touch
WORDS = {
    FIXED: {"met": "as good", "open": "open", "missed": "worse"},
    MEAN: {"met": "better", "open": "open", "missed": "not better"},
    RANDOM: {"met": "better", "open": "open", "missed": "not better"},
}
ATTEMPTS = {
    "regret": "regret",
    "window": "noise-window",
    "memory": "own-memory",
}  # beginnings of keys of what was tried


def figure(material: Material) -> Figure:
    """A row of panels for each workload: beside the best fixed candidate, and both controls; below, what was tried."""
    judged, tried = material.tables["gap-rules"], material.tables["gap-rules-tried"]
    studies = list(judged.groupby("study", sort=False))
    low = 4.4 * tried.optimizer.nunique() + 22
    heights = [*[ROW] * (len(studies) - 1), ROW + LEGEND, low]
    page = style.page(material, height=sum(heights))
    parts: Any = page.subfigures(len(heights), 1, height_ratios=heights)
    *rows, bottom = parts
    for row, (study, own) in zip(rows, studies, strict=True):
        row.suptitle(_name(material.facts[str(study)]), x=0.01, ha="left", fontsize=8.5)
        sides = row.subplots(1, len(BESIDE), sharey=True)
        for axes, beside in zip(sides, BESIDE, strict=True):
            _differences(axes, own[own.beside == beside], beside, list(judged.optimizer.unique()))
        sides[0].set_ylabel("points")
        _scale(sides[0], "y", own)
    rows[-1].legend(handles=_handles(judged), ncols=5, loc="outside lower center", columnspacing=1.2)
    _tried(bottom.subplots(), tried[tried.beside == FIXED], material.facts)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per workload, rule, what it stands beside, and learning rate, or the mean over these."""
    both = pd.concat([material.tables["gap-rules"], material.tables["gap-rules-tried"]], ignore_index=True)
    ends = 100 * both[["difference", "difference_low", "difference_high"]].to_numpy(dtype=float)
    return pd.DataFrame(
        {
            "workload": [_name(material.facts[study]) for study in both.study],
            "rule": both.label,
            "beside": [BESIDE[beside] for beside in both.beside],
            "that is": both.reference,
            "learning rate": ["mean over the rates" if np.isnan(rate) else f"{rate:g}" for rate in both.learning_rate],
            "difference (points)": [style.interval(mean, low, high, 2) for mean, low, high in ends],
            "margin (points)": [f"{100 * margin:.2f}" for margin in both.margin],
            "verdict": [WORDS[b][outcome] for b, outcome in zip(both.beside, both.outcome, strict=True)],
        }
    )


def _differences(axes: Axes, rows: pd.DataFrame, beside: str, rules: Sequence[str]) -> None:
    """Dots with intervals at each learning rate, and on the right the mean over them where there is one.

    The dots of a rule have the same place among the `rules` in every panel.
    """
    rates = sorted(rows.learning_rate.dropna().unique())
    places: dict[float, float] = {rate: float(i) for i, rate in enumerate(rates)}
    names = [f"{rate:g}" for rate in rates]
    if rows.learning_rate.isna().any():
        names.append("mean")
        axes.axvline(len(rates) - 0.5, color=style.MUTED, linewidth=0.6)
    for offset, key in zip(np.linspace(-SPREAD / 2, SPREAD / 2, len(rules)), rules, strict=True):
        own, look = rows[rows.optimizer == key], style.look(key)
        x = own.learning_rate.map(places).fillna(len(rates)) + offset
        axes.vlines(x, 100 * own.difference_low, 100 * own.difference_high, color=look.color, linewidth=1)
        axes.plot(x, 100 * own.difference, **{**look.point, "markersize": 3.4})
    _margin(axes, rows, "y")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set(title=_finding(rows, beside), xlabel="learning rate")
    style.grid(axes)


def _tried(axes: Axes, rows: pd.DataFrame, facts: Mapping[str, Facts]) -> None:
    """The difference to the best fixed candidate at each rate, a row for each setting of the attempts."""
    names = []
    for y, (key, own) in enumerate(rows.groupby("optimizer", sort=False)):
        color = style.look(_attempt(str(key))).color
        for row in own.to_dict("records"):
            face = color if row["outcome"] == "met" else "white"
            axes.plot(100 * row["difference"], y, "o", color=color, markerfacecolor=face, markersize=4)
        names.append(f"{own.label.iloc[0]}: {(own.outcome == 'met').sum()} of {len(own)}")
    _margin(axes, rows, "x")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    _scale(axes, "x", rows)
    axes.set_xlabel(f"points to {BESIDE[FIXED]}, a dot for each learning rate")
    workload = _name(facts[str(rows.study.iloc[0])])
    axes.set_title(textwrap.fill(f"Tried on {workload}. {_most(rows)}", 70))
    style.grid(axes, "x")


def _margin(axes: Axes, rows: pd.DataFrame, axis: str) -> None:
    margin = 100 * float(rows.margin.max())
    span, line = (axes.axhspan, axes.axhline) if axis == "y" else (axes.axvspan, axes.axvline)
    span(-margin, margin, color=style.FAINT, linewidth=0, zorder=0)
    line(0, color=style.MUTED, linewidth=0.8, zorder=0.5)


def _scale(axes: Axes, axis: str, rows: pd.DataFrame) -> None:
    """A scale that is linear near 0, for the drawn range of the rows."""
    drawn = 100 * rows[["difference", "difference_low", "difference_high"]].to_numpy(dtype=float)
    low, high = min(float(np.nanmin(drawn)), -LINEAR), max(float(np.nanmax(drawn)), LINEAR)
    limits = 1.4 * low, 1.4 * high
    getattr(axes, f"set_{axis}scale")("symlog", linthresh=LINEAR)
    getattr(axes, f"set_{axis}lim")(*limits)
    ticked: Any = getattr(axes, f"{axis}axis")
    ticks = next(ticks for most, ticks in TICKS.items() if max(-low, high) <= most)
    ticked.set_major_locator(FixedLocator([tick for tick in ticks if limits[0] <= tick <= limits[1]]))
    ticked.set_minor_locator(NullLocator())
    ticked.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _finding(rows: pd.DataFrame, beside: str) -> str:
    """Beside the best fixed candidate: who is as good at most rates; beside a control: who is ahead over the rates."""
    if beside == FIXED:
        return textwrap.fill(_most(rows), 31)
    means = rows[rows.learning_rate.isna()]
    ahead = [panels.short(label) for label in means.label[means.outcome == "met"]]
    name = {MEAN: "mean of buffers", RANDOM: "random"}[beside]
    found = "none" if not ahead else ", ".join(ahead) if len(ahead) < 3 else f"{len(ahead)} of {len(means)} rules"
    return textwrap.fill(f"Ahead of {name}: {found}", 28)


def _most(rows: pd.DataFrame) -> str:
    """Who is as good as the best fixed candidate at most learning rates, and at how many."""
    good = (rows.outcome == "met").groupby(rows.optimizer, sort=False).sum()
    labels = rows.drop_duplicates("optimizer").set_index("optimizer").label
    first = [panels.short(labels[key]) for key in good.index[good == good.max()]]
    names = "; ".join(first) if len(first) < 3 else f"{len(first)} of {len(good)} rules"
    rates = rows.learning_rate.nunique()
    if not good.max():
        return "No rule is shown to be as good at any learning rate"
    every = f"all of {counted(rates, 'rate')}" if good.max() == rates else f"{good.max()} of {counted(rates, 'rate')}"
    return f"As good at {every}: {names}"


def _attempt(key: str) -> str:
    """The attempt that a row of what was tried is a setting of."""
    return ATTEMPTS.get(key.partition("-")[0], key)


def _name(facts: Facts) -> str:
    """A workload by its data set, network and batch size."""
    data = (facts.dataset or facts.study).partition(" (")[0].partition(":")[0]
    return f"{data}, {facts.settings['network']}, batches of {facts.settings['batch_size']}"


def _handles(judged: pd.DataFrame) -> list[Line2D]:
    labels = judged.drop_duplicates("optimizer").set_index("optimizer").label
    return [Line2D([], [], **style.look(str(key)).point, label=panels.short(label)) for key, label in labels.items()]
