"""Exhibit lto-ablation: the learned optimizers without parts of their training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

COLUMNS = {"area": ("Area", "mean objective (nats)"), "final": ("At the end", "final objective (nats)")}


def figure(material: Material) -> Figure:
    """Area and final objective of the learners, by group; one block per validation problem."""
    table = material.tables["lto-ablation"]
    blocks = {str(problem): _grouped(rows) for problem, rows in table.groupby("problem", sort=False)}
    heights = [5.5 * (len(rows) + rows.group.nunique()) + 28 for rows in blocks.values()]
    page = style.page(material, height=sum(heights))
    parts: Any = page.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)
    for part, (problem, rows) in zip(parts[:, 0], blocks.items(), strict=True):
        part.suptitle(
            f"{problem}: {seeds_in_words(rows)}\n{lowest(rows)}", x=0.01, ha="left", fontsize=9, fontweight="bold"
        )
        block(part.subplots(1, len(COLUMNS), sharey=True, width_ratios=[1.6, 1]), rows)
    return page


def block(axes: Any, rows: pd.DataFrame) -> None:
    """Panels whose common rows are the learners that were validated on one problem; lower is better."""
    y = panels.row_positions(rows)
    for panel, (column, (title, label)) in zip(axes, COLUMNS.items(), strict=True):
        for position, row in zip(y, rows.to_dict("records"), strict=True):
            dot(panel, position, row, column)
        panel.set(title=title, xlabel=label)
        style.grid(panel, "both")
        panel.tick_params(axis="y", length=0)
    _limit(axes[0], rows)
    panels.name_rows(axes[0], rows, list(rows.label), y)


def seeds_in_words(rows: pd.DataFrame) -> str:
    """The number of training seeds of the rows, and what intervals they allow."""
    fewest, most = int(rows.seeds.min()), int(rows.seeds.max())
    number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{number} training seed{'' if most == 1 else 's'}" + (", so no intervals" if most == 1 else "")


def lowest(rows: pd.DataFrame) -> str:
    """The learners with the lowest area and the lowest final objective, in words."""
    area, final = (_lowest(rows, column) for column in COLUMNS)
    return f"Lowest in both: {area}" if area == final else f"Lowest area: {area}; lowest at the end: {final}"


def _lowest(rows: pd.DataFrame, column: str) -> str:
    found = rows.dropna(subset=[column]).sort_values(column, kind="stable").label
    return str(next(iter(found), "none"))


def dot(axes: Axes, position: float, row: dict[Any, Any], column: str) -> None:
    """The value with the kept weights, with its interval over the seeds; for the area, also the first validation."""
    if column == "area":
        axes.plot([row["first"], row["area"]], [position] * 2, color=style.INK, linewidth=0.8, linestyle=":")
        axes.plot(row["first"], position, "o", color=style.INK, markerfacecolor="white", markersize=3.5)
        axes.plot([row["area_low"], row["area_high"]], [position] * 2, color=style.INK, linewidth=1.8)
    axes.plot(row[column], position, "o", color=style.INK)


def table(material: Material) -> pd.DataFrame:
    """One row per learner: area at the first and last validation and with the kept weights, and final objective."""
    table = material.tables["lto-ablation"]
    rows = pd.concat([_grouped(rows) for _, rows in table.groupby("problem", sort=False)], ignore_index=True)
    ends = rows[["area", "area_low", "area_high"]].to_numpy(dtype=float)
    return pd.DataFrame(
        {
            "study": rows.study,
            "validation problems": rows.problem,
            "varied": rows.group,
            "learner": rows.label,
            "method": rows.method,
            "area, kept weights": [style.interval(mean, low, high, 4) for mean, low, high in ends],
            "kept at iteration": [style.number(kept) for kept in rows.kept],
            "area, first validation": [style.number(area, 4) for area in rows["first"]],
            "area, last validation": [style.number(area, 4) for area in rows["last"]],
            "final objective, kept weights": [style.number(final, 4) for final in rows.final],
            "iterations": [style.number(count, 6) for count in rows.iterations],
            "training seeds": rows.seeds,
        }
    )


def _limit(axes: Axes, rows: pd.DataFrame) -> None:
    """The limit of the axis, which covers the areas with kept weights; a much larger first validation is outside."""
    low, high = rows.area.min(), rows.area.max()
    near = rows["first"][rows["first"] <= high + (high - low)]
    ends = np.nanmax([high, near.max(), rows.area_high.max()])
    margin = 0.08 * (ends - low) or 0.05 * ends
    axes.set_xlim(low - margin, ends + margin)


def _grouped(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by group, with groups in the order of their first rows."""
    order = {group: index for index, group in enumerate(rows.group.unique())}
    return rows.sort_values("group", key=lambda group: group.map(order), kind="stable", ignore_index=True)
