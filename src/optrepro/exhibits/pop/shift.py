"""Exhibit pop-shift: the policy's lead on collections that differ from the prior, sorted by their distance to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import MEASURES, lead_panel, leads, readable_scores
from optrepro.exhibits.pop.prior_match import STATISTICS, distance_panel, name_of

PRIOR = "prior-test"


def figure(material: Material) -> Figure:
    """Distance to the prior by statistic, and the policy's lead, in panels whose common rows are the collections."""
    scores, distances = material.tables["pop-shift"], material.tables["pop-prior-distances"]
    mean = _mean_distances(distances)
    order = _order(scores, mean)
    statistics = [name for name in STATISTICS if name in set(distances.statistic)]
    page = style.page(material, height=9 * len(order) + 50)
    cells, *sides = page.subplots(1, 3, width_ratios=[2.5, 1, 1], sharey=True)
    distance_panel(cells, distances, order, statistics)
    mean_column(cells, mean, order, statistics)
    cells.set_title("Distance to the prior (KS)")
    for axes, measure in zip(sides, MEASURES, strict=True):
        lead_panel(axes, leads(scores, "collection", measure), order, "collection", measure)
    cells.set_ylim(len(order), 0)
    return page


def mean_column(axes: Axes, mean: Mapping[str, float], order: list[str], statistics: list[str]) -> None:
    """The mean distances, right of those of the statistics."""
    left = len(statistics) + 0.3
    for place, collection in enumerate(order):
        if collection == PRIOR:
            axes.text(
                len(statistics) / 2, place + 0.5, "other functions of the prior", ha="center", va="center", fontsize=7
            )
        elif collection in mean:
            panels.cell(axes, left, place, f"{mean[collection]:.2f}".removeprefix("0"), mean[collection], bold=True)
    titles = [*(STATISTICS[name][0] for name in statistics), "mean"]
    axes.set_xticks([*axes.get_xticks(), left + 0.5], titles, rotation=90)
    axes.set_xlim(0, left + 1)


def table(material: Material) -> pd.DataFrame:
    """One row per collection and optimizer: distance to the prior, scores, and the policy's lead with its tests."""
    scores, mean = material.tables["pop-shift"], _mean_distances(material.tables["pop-prior-distances"])
    order = {collection: place for place, collection in enumerate(_order(scores, mean))}
    ordered = scores.sort_values("collection", key=lambda name: name.map(order), kind="stable", ignore_index=True)
    readable = readable_scores(ordered)
    readable.insert(0, "collection", ordered.collection.map(name_of))
    distances = [style.number(value) for value in ordered.collection.map(mean)]
    readable.insert(1, "mean KS distance to the prior", distances)
    return readable


def _mean_distances(distances: pd.DataFrame) -> dict[str, float]:
    """Mean over the statistics of the Kolmogorov-Smirnov distance of each collection to the prior; 0 for the prior."""
    mean = distances.groupby("collection").ks.mean()
    return {PRIOR: 0.0} | {str(name): float(value) for name, value in mean.items()}


def _order(scores: pd.DataFrame, mean: dict[str, float]) -> list[str]:
    """The collections sorted by mean distance; those without a distance come last."""
    names: list[Any] = list(scores.collection.unique())
    return sorted(names, key=lambda name: mean.get(name, float("inf")))
