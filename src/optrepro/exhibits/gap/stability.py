"""Exhibit gap-stability: loss of alignment by perturbed statistics, with the bound 2 ||R - R'||."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

from optrepro.exhibits import style
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material

EDGES = np.logspace(-6, 1, 29)  # of the bars, in loss over bound; what is smaller is in the first bar
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
    """One row per source of perturbed statistics: loss over bound for both scores, and changed choices."""
    page = style.page(material, height=130)
    panels: Any = page.subplots(2, 3)
    for row, (name, (by, words, label)) in zip(panels, SOURCES.items(), strict=True):
        points = material.tables[f"gap-{name}"]
        for axes, score in zip(row, DASHES, strict=False):
            _histogram(axes, points[points.score == score])
            largest = (points.loss / points.bound)[points.score == score].max()
            axes.set_title(f"{words.capitalize()}, {score}:\nat most {style.percent(largest)} % of the bound")
        row[0].set_ylabel("share of pairs (%)")
        _changes(row[2], points, by)
        row[2].set(title=_most_changed(points), xlabel=label, ylabel="choice changed (%)")
    families = [Patch(color=color, alpha=0.6, label=words) for words, color, _ in FAMILIES.values()]
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


def _histogram(axes: Axes, points: pd.DataFrame) -> None:
    """Shares of the pairs by loss over bound; the first bar holds those whose choice, or whose loss, is the same."""
    for family, (_, color, _) in FAMILIES.items():
        rows = points[points.family == family]
        ratios = (rows.loss / rows.bound).clip(EDGES[0], EDGES[-1])
        counts, _ = np.histogram(ratios, EDGES)
        axes.stairs(100 * counts / max(len(rows), 1), EDGES, fill=True, color=color, alpha=0.6)
    axes.axvline(1, color=style.INK)
    axes.set_xscale("log")
    axes.set(xlim=(EDGES[0], EDGES[-1]), ylim=(0, 104), xlabel="loss of alignment, over the bound")
    ticks = [10.0**power for power in (-6, -4, -2, 0)]
    axes.set_xticks(ticks, ["≤ 10$^{-6}$", "10$^{-4}$", "0.01", "1"])
    axes.xaxis.set_minor_formatter(NullFormatter())
    style.grid(axes)


def _most_changed(points: pd.DataFrame) -> str:
    """For which of the families perturbed statistics change the choice more often."""
    changed = points.groupby("family").changed.mean()
    few, many = (style.percent(changed[family], 0) for family in FAMILIES)
    return f"{few} % of choices among 3\nchange, {many} % among 100"


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
