"""Exhibit pop-prior-match: statistics of the prior, of the benchmark and of the shifted collections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

COLUMNS = 5
NAMES = {"prior": "prior", "vlse": "benchmark"}
LINES: dict[str, dict[str, Any]] = {
    "prior": {"color": style.INK, "linewidth": 2.2},
    "vlse": {"color": "#0072B2", "linewidth": 2.2},
}
FAINT_LINES: list[dict[str, Any]] = [
    {"color": "#E69F00", "linestyle": "-"},
    {"color": "#CC79A7", "linestyle": "--"},
    {"color": "#009E73", "linestyle": ":"},
    {"color": "#D55E00", "linestyle": "-."},
    {"color": "#56B4E9", "linestyle": (0, (5, 1.5, 1, 1.5, 1, 1.5))},
]
# title and axis of each statistic, in the order in which they are drawn
STATISTICS = {
    "condition": ("Condition number", "log10, median over the box"),
    "minimum_condition": ("Condition at minimum", "log10"),
    "nonconvexity": ("Non-convexity", "negative eigenvalues (share)"),
    "minima": ("Local minima", "log10 of their number"),
    "funnel": ("Lowest minimum", "share of descents"),
    "gradient_spread": ("Gradient norms", "log10, 90 % / 10 % quantile"),
    "gradient_turn": ("Turn of gradient", "log10 of angle / π over 0.01"),
    "correlation": ("Correlation of values", "at distance 0.1"),
    "skewness": ("Skewness of values", "(mean - median) / std"),
    "median_position": ("Median of values", "log10 of place in range"),
}


def figure(material: Material) -> Figure:
    """Above: distributions of each statistic in each collection. Below: their distances to those of the prior."""
    values, distances = material.tables["pop-prior-match"], material.tables["pop-prior-distances"]
    names = [name for name in STATISTICS if name in set(values.statistic)]
    collections = _ordered(values)
    rows, lines = -(-len(names) // COLUMNS), len(collections) - 1
    page = style.page(material, height=42 * rows + 5.5 * lines + 40)
    parts: Any = page.subfigures(2, 1, height_ratios=[42 * rows + 10, 5.5 * lines + 30])
    curves, cells = parts
    grid = curves.subplots(rows, COLUMNS, squeeze=False, sharey=True)
    for axes, name in zip(grid.ravel(), names, strict=False):
        distribution_panel(axes, values[values.statistic == name], collections)
        title, label = STATISTICS[name]
        axes.set_title(title, fontsize=7)
        axes.set_xlabel(label, fontsize=6.5)
    for axes in grid.ravel()[len(names) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("share of functions")
    curves.legend(*grid[0, 0].get_legend_handles_labels(), ncols=7, loc="outside lower center", columnspacing=1.2)
    distance_panel(cells.subplots(), distances, collections[1:], names)
    return page


def distribution_panel(axes: Axes, values: pd.DataFrame, collections: list[str]) -> None:
    """Distribution functions of a statistic; the axis covers the prior and the benchmark."""
    faint = iter(FAINT_LINES)
    shown = values[values.collection.isin(LINES)].value
    low, high = shown.quantile([0.01, 0.99])
    margin = 0.05 * (high - low) + 1e-3
    for name in collections:
        look = LINES.get(name) or {**next(faint), "linewidth": 1, "alpha": 0.8}
        ordered = np.sort(values[values.collection == name].value)
        share = np.arange(len(ordered) + 1) / max(len(ordered), 1)
        x = np.concatenate([[-np.inf], ordered, [np.inf]]).clip(low - 2 * margin, high + 2 * margin)
        axes.plot(x, np.append(share, 1), drawstyle="steps-post", label=_name(name), **look)
    axes.set(xlim=(low - margin, high + margin), ylim=(0, 1))
    style.grid(axes, "both")


def distance_panel(axes: Axes, distances: pd.DataFrame, collections: list[str], names: list[str]) -> None:
    """Kolmogorov-Smirnov distances to the prior, one row per collection; bold if above the quantile of chance."""
    for row in distances.to_dict("records"):
        if row["collection"] in collections and row["statistic"] in names:
            x, y = names.index(row["statistic"]), collections.index(row["collection"])
            far = row["ks"] > row["ks_chance"]
            panels.cell(axes, x, y, f"{row['ks']:.2f}" + ("" if far else " ≈"), row["ks"], bold=far)
    axes.set(xlim=(0, len(names)), ylim=(len(collections), 0))
    axes.set_yticks([y + 0.5 for y in range(len(collections))], [_name(name) for name in collections])
    titles = [STATISTICS[name][0] for name in names]
    axes.set_xticks([x + 0.5 for x in range(len(names))], titles, rotation=25, ha="right", rotation_mode="anchor")
    axes.set_title("Kolmogorov-Smirnov distance to the prior (≈: within what chance gives)")
    panels.bare(axes)


def table(material: Material) -> pd.DataFrame:
    """One row per collection and statistic: medians, and both distances with their quantiles of chance."""
    distances = material.tables["pop-prior-distances"]
    order = [name for name in _ordered(material.tables["pop-prior-match"]) if name != "prior"]
    keys = distances.assign(
        place=distances.collection.map(order.index), number=distances.statistic.map(list(STATISTICS).index)
    )
    rows = keys.sort_values(["place", "number"])
    return pd.DataFrame(
        {
            "collection": rows.collection.map(_name),
            "statistic": rows.statistic.map(lambda name: ", ".join(STATISTICS[name])),
            "functions": rows.functions,
            "median": rows["median"].map(style.number),
            "prior's median": rows.prior_median.map(style.number),
            "KS distance": rows.ks.map("{:.2f}".format),
            "by chance (95 %)": rows.ks_chance.map("{:.2f}".format),
            "Wasserstein distance (prior's IQR)": rows.wasserstein.map(style.number),
            "by chance (95 %) ": rows.wasserstein_chance.map(style.number),
        }
    ).reset_index(drop=True)


def _ordered(values: pd.DataFrame) -> list[str]:
    """The collections in order: the prior, the benchmark, and the others by name."""
    names = set(values.collection)
    return [*(name for name in LINES if name in names), *sorted(names - set(LINES))]


def _name(collection: str) -> str:
    return NAMES.get(collection, collection.removeprefix("shift-").replace("-", " "))
