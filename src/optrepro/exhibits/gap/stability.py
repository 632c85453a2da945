"""Exhibit gap-stability: loss of alignment by perturbed statistics, with the bound 2 ||R - R'||."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from optrepro.exhibits import style
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material

FLOOR = 1e-5  # smaller losses are drawn at this value
FAMILIES = {
    "candidates": ("momenta 0.5, 0.9, 0.99", "#0072B2", "o"),
    "interval": ("100 momenta in [0, 0.99]", "#D55E00", "^"),
}
DASHES: dict[str, Any] = {"paper": "-", "debiased": (0, (4, 1.5))}
SOURCES = {
    "perturbations": ("size", "random directions", "perturbation, over $\\|R\\|$"),
    "windows": ("steps", "short windows", "length of window (steps)"),
}


def figure(material: Material) -> Figure:
    """One row per source of perturbed statistics: loss against bound for both scores, and changed choices."""
    page = style.page(material, height=156)
    panels: Any = page.subplots(2, 3)
    for row, (name, (by, words, label)) in zip(panels, SOURCES.items(), strict=True):
        points = material.tables[f"gap-{name}"]
        for axes, score in zip(row, DASHES, strict=False):
            _scatter(axes, points[points.score == score])
            _describe(axes, points[points.score == score])
            axes.set_title(f"{words.capitalize()}, {score}", pad=31)
        row[0].set_ylabel("loss of alignment, over $\\|R\\|$")
        _changes(row[2], points, by)
        row[2].set(title="Choice changed", xlabel=label, ylabel="of perturbed statistics (%)")
    families = [
        Line2D([], [], color=color, marker=marker, linestyle="none", markersize=4, label=words)
        for words, color, marker in FAMILIES.values()
    ]
    bound = Line2D([], [], color=style.INK, label="bound $2\\,\\|R - R'\\|$")
    scores = [Line2D([], [], color=style.MUTED, linestyle=d, label=score) for score, d in DASHES.items()]
    handles = [*families, bound, *scores]
    page.legend(handles=handles, ncols=len(handles), loc="outside lower center")
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per workload, score, family and size or window: changed choices, loss, bound, and their ratio."""
    rows = []
    for line in material.tables["gap-stability"].to_dict("records"):
        by, words, _ = SOURCES[line["source"]]
        rows.append(
            {
                "workload": workloads.title(line["workload"]),
                "score": line["score"],
                "family": FAMILIES[line["family"]][0],
                "R' from": f"{words}, {line['amount']:g}" + (" ‖R‖" if by == "size" else " steps"),
                "pairs": line["points"],
                "choice changed (%)": style.percent(line["changed"]),
                "median loss / ‖R‖": style.number(line["loss"], 2),
                "median bound / ‖R‖": style.number(line["bound"], 2),
                "median loss / bound": style.number(line["median"], 2),
                "largest loss / bound": style.number(line["largest"], 2),
                "above the bound": "none" if line["largest"] <= 1 else "SOME",
            }
        )
    return pd.DataFrame(rows)


def _scatter(axes: Axes, points: pd.DataFrame) -> None:
    """Every pair of statistics as a point; the line is the bound, which no point may exceed."""
    for family, (_, color, marker) in FAMILIES.items():
        rows = points[points.family == family]
        # Rasterized, because thousands of vector points would make a large file.
        axes.plot(
            rows.bound,
            rows.loss.clip(lower=FLOOR),
            marker,
            color=color,
            markersize=2,
            alpha=0.35,
            markeredgewidth=0,
            rasterized=True,
        )
    ends = np.array([0.8 * points.bound.min(), 1.25 * points.bound.max()])
    axes.plot(ends, ends, color=style.INK)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlim=(ends[0], ends[1]), ylim=(0.6 * FLOOR, 10), xlabel="bound, over $\\|R\\|$")
    ticks = [tick for tick in (0.1, 0.3, 1, 3, 10) if ends[0] <= tick <= ends[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    style.grid(axes, "both")


def _describe(axes: Axes, points: pd.DataFrame) -> None:
    """A line above the panel for each family: changed choices, their loss / bound, and points at the floor."""
    lines = {style.MUTED: ("changed", "median", "largest", "on floor")}
    for family, (_, color, _) in FAMILIES.items():
        rows = points[points.family == family]
        ratios = (rows.loss / rows.bound)[rows.changed]
        changed, floor = (f"{style.percent(share, 0)} %" for share in (rows.changed.mean(), (rows.loss < FLOOR).mean()))
        lines[color] = (changed, style.number(ratios.median(), 2), style.number(ratios.max(), 2), floor)
    for i, (color, words) in enumerate(lines.items()):
        for x, word in zip((0.25, 0.5, 0.75, 1.0), words, strict=True):
            place: dict[str, Any] = {
                "xytext": (0, 21 - 8 * i),
                "textcoords": "offset points",
                "ha": "right",
                "fontsize": 6.5,
            }
            axes.annotate(word, (x, 1), xycoords="axes fraction", color=color, **place)


def _changes(axes: Axes, points: pd.DataFrame, by: str) -> None:
    changed = points.groupby(["score", "family", by]).changed.mean()
    for score, dashes in DASHES.items():
        for family, (_, color, marker) in FAMILIES.items():
            line = 100 * changed[score, family]
            axes.plot(line.index, line, color=color, marker=marker, markersize=3.5, linestyle=dashes)
    axes.set_xscale("log")
    ticks = sorted(points[by].unique())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(-4, 104)
    style.grid(axes)
