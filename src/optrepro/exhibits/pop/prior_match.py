"""Exhibit pop-prior-match: statistics of the prior, of the benchmark and of the shifted collections."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from optrepro.exhibits import panels, series, style
from optrepro.exhibits.material import Material

TELLING = 2  # number of statistics with a panel in which the benchmark is farthest from the prior, and likewise nearest
NAMES = {"prior": "prior", "prior-test": "prior (test)", "vlse": "benchmark"}
LINES: dict[str, dict[str, Any]] = {
    "prior": {"color": style.INK, "linewidth": 2.2},
    "vlse": {"color": "#0072B2", "linewidth": 2.2},
}
SHIFTED = "shifted collections"
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
    """Above: distributions of the most telling statistics. Below: distances of all to those of the prior."""
    values, distances = material.tables["pop-prior-match"], material.tables["pop-prior-distances"]
    collections, names = _ordered(values), [name for name in STATISTICS if name in set(values.statistic)]
    lines, chosen = len(collections) - 1, telling(distances, names)
    page = style.page(material, height=7 * lines + 92)
    parts: Any = page.subfigures(2, 1, height_ratios=[66, 7 * lines + 26])
    curves, cells = parts
    panels_above = curves.subplots(1, len(chosen), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels_above, chosen, strict=True):
        distribution_panel(axes, values[values.statistic == name], collections)
        title, label = STATISTICS[name]
        axes.set_title(f"{title}{_from_prior(distances, name)}")
        axes.set_xlabel(label, fontsize=7)
    panels_above[0].set_ylabel("share of functions")
    curves.legend(*_once(panels_above[0]), ncols=3, loc="outside lower center")
    axes = cells.subplots()
    distance_panel(axes, distances, collections[1:], names, near=" ≈")
    axes.set_title("Kolmogorov-Smirnov distance to the prior (≈: within what chance gives)")
    return page


def telling(distances: pd.DataFrame, names: list[str]) -> list[str]:
    """The statistics in which the benchmark is farthest from the prior, then those in which it is nearest to it.

    Without the benchmark, they are the first ones.
    """
    benchmark = distances[(distances.collection == "vlse") & distances.statistic.isin(names)]
    ordered = list(benchmark.sort_values("ks", ascending=False, kind="stable").statistic) or names
    return ordered if len(ordered) <= 2 * TELLING else [*ordered[:TELLING], *ordered[-TELLING:]]


def distribution_panel(axes: Axes, values: pd.DataFrame, collections: list[str]) -> None:
    """Distribution functions of a statistic; the axis covers the prior and the benchmark. Shifted ones are grey."""
    shown = values[values.collection.isin(LINES)].value
    low, high = shown.quantile([0.01, 0.99])
    margin = 0.05 * (high - low) + 1e-3
    for name in [
        *(name for name in collections if name not in LINES),
        *(name for name in LINES if name in collections),
    ]:
        look, label = (LINES[name], name_of(name)) if name in LINES else (series.OTHERS, SHIFTED)
        ordered = np.sort(values[values.collection == name].value)
        share = np.arange(len(ordered) + 1) / max(len(ordered), 1)
        x = np.concatenate([[-np.inf], ordered, [np.inf]]).clip(low - 2 * margin, high + 2 * margin)
        axes.plot(x, np.append(share, 1), drawstyle="steps-post", label=label, **look)
    axes.set(xlim=(low - margin, high + margin), ylim=(0, 1))
    style.grid(axes, "both")


def distance_panel(
    axes: Axes, distances: pd.DataFrame, collections: list[str], names: list[str], near: str = ""
) -> None:
    """Kolmogorov-Smirnov distances to the prior, one row per collection; bold if above the quantile of chance.

    The row of the benchmark has a frame. `near` is written behind distances that chance explains.
    """
    for row in distances.to_dict("records"):
        if row["collection"] in collections and row["statistic"] in names:
            x, y = names.index(row["statistic"]), collections.index(row["collection"])
            far = row["ks"] > row["ks_chance"]
            text = "1" if row["ks"] > 0.995 else f"{row['ks']:.2f}".removeprefix("0")  # cells may be narrow
            text += "" if far else near
            panels.cell(axes, x, y, text, row["ks"], bold=far)
    axes.set(xlim=(0, len(names)), ylim=(len(collections), 0))
    axes.set_yticks([y + 0.5 for y in range(len(collections))], [name_of(name) for name in collections])
    if "vlse" in collections:
        place, color = collections.index("vlse"), LINES["vlse"]["color"]
        frame = Rectangle((0, place), len(names), 1, fill=False, ec=color, lw=2, zorder=4, clip_on=False)
        axes.add_patch(frame)
        axes.get_yticklabels()[place].set(fontweight="bold", color=color)
    titles = [re.sub(" |(?<=-)", "\n", STATISTICS[name][0], count=1) for name in names]
    axes.set_xticks([x + 0.5 for x in range(len(names))], titles)
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
            "collection": rows.collection.map(name_of),
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


def _from_prior(distances: pd.DataFrame, statistic: str) -> str:
    """How far the benchmark is from the prior, for the title of a panel."""
    own = distances[(distances.collection == "vlse") & (distances.statistic == statistic)]
    return "".join(f":\n{ks:.2f} apart" for ks in own.ks)


def _once(axes: Axes) -> tuple[list[Any], list[str]]:
    """The handles and labels of a legend, each label once."""
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    return list(handles.values()), list(handles)


def _ordered(values: pd.DataFrame) -> list[str]:
    """The collections in order: the prior, the benchmark, and the others by name."""
    names = set(values.collection)
    return [*(name for name in LINES if name in names), *sorted(names - set(LINES))]


def name_of(collection: str) -> str:
    """The name of a collection in figures and tables."""
    return NAMES.get(collection, collection.removeprefix("shift-").replace("-", " "))
