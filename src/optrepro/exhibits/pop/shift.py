"""Exhibit pop-shift: scores on collections that differ from the prior, sorted by their distance to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.conventions import POP
from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import MEASURES, complete, readable_scores

NAMES = {"prior-test": "prior (test)", "vlse": "benchmark"}
SPREAD = 0.62  # share of a row's height over which the optimizers are spread


def figure(material: Material) -> Figure:
    """Distance to the prior by statistic, and both scores, in panels whose common rows are the collections."""
    scores, distances = material.tables["pop-shift"], _distances(material)
    order = _order(scores, distances)
    page = style.page(material, height=19 * len(order) + 45)
    cells, *dots = page.subplots(1, 3, width_ratios=[1.35, 1, 1], sharey=True)
    distance_panel(cells, distances, order)
    for axes, measure in zip(dots, MEASURES, strict=True):
        score_panel(axes, complete(scores), order, measure)
    cells.set_yticks([i + 0.5 for i in range(len(order))], [_name(collection) for collection in order])
    cells.set_ylim(len(order), 0)
    page.legend(*dots[0].get_legend_handles_labels(), ncols=5, loc="outside lower center")
    return page


def distance_panel(axes: Axes, distances: pd.DataFrame, order: list[str]) -> None:
    """Kolmogorov-Smirnov distance of each statistic between a collection and the prior, and their mean."""
    statistics = [name for name in distances if name != "mean"]
    for place, collection in enumerate(order):
        row = distances.loc[collection].to_dict() if collection in distances.index else {}
        for number, (statistic, value) in enumerate(row.items()):
            if np.isfinite(value):
                mean = statistic == "mean"
                text = f"{value:.2f}".removeprefix("0")  # the cells are narrow
                panels.cell(axes, number + 0.3 * mean, place, text, value, bold=mean)
    titles = [*(str(name).replace("_", " ") for name in statistics), "mean"]
    places = [*(x + 0.5 for x in range(len(statistics))), len(statistics) + 0.8]
    axes.set_xticks(places, titles, rotation=45, ha="right", rotation_mode="anchor")
    axes.set(xlim=(0, len(statistics) + 1.3), title="Distance to the prior (KS)")
    panels.bare(axes)


def score_panel(axes: Axes, scores: pd.DataFrame, order: list[str], measure: str) -> None:
    """Mean score with its 95 % interval; rows are collections, in which the optimizers are spread vertically."""
    keys = list(scores.optimizer.unique())
    for place, key in enumerate(keys):
        own, look = scores[scores.optimizer == key], style.look(key)
        y = [order.index(name) + 0.5 + SPREAD * (place / max(len(keys) - 1, 1) - 0.5) for name in own.collection]
        ends = [own[measure] - own[f"{measure}_low"], own[f"{measure}_high"] - own[measure]]
        size = 8 if key == POP else 3.5
        axes.errorbar(own[measure], y, xerr=ends, **look.point, label=own.label.iloc[0], markersize=size, elinewidth=1)
    for line in range(1, len(order)):
        axes.axhline(line, color=style.FAINT, linewidth=0.8)
    axes.set(title=MEASURES[measure].capitalize(), xlabel=f"{MEASURES[measure]} (mean)")
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def table(material: Material) -> pd.DataFrame:
    """One row per collection and optimizer: distance to the prior, scores, and the policy's lead with its tests."""
    scores, distances = material.tables["pop-shift"], _distances(material)
    order = {collection: place for place, collection in enumerate(_order(scores, distances))}
    ordered = scores.sort_values("collection", key=lambda name: name.map(order), kind="stable", ignore_index=True)
    readable = readable_scores(ordered)
    readable.insert(0, "collection", ordered.collection.map(_name))
    mean = ordered.collection.map(distances["mean"])
    readable.insert(1, "mean KS distance to the prior", [style.number(value) for value in mean])
    return readable


def _distances(material: Material) -> pd.DataFrame:
    """Kolmogorov-Smirnov distances to the prior, collections by statistics, with their mean; 0 for the prior."""
    wide = material.tables["pop-prior-distances"].pivot(index="collection", columns="statistic", values="ks")
    wide.loc["prior-test"] = 0.0
    return wide.assign(mean=wide.mean(axis=1)).rename_axis(columns=None)


def _order(scores: pd.DataFrame, distances: pd.DataFrame) -> list[str]:
    """The collections sorted by mean distance; those without a distance come last."""
    mean = distances["mean"].to_dict()
    names: list[Any] = list(scores.collection.unique())
    return sorted(names, key=lambda name: mean.get(name, float("inf")))


def _name(collection: str) -> str:
    return NAMES.get(collection, collection.removeprefix("shift-").replace("-", " "))
