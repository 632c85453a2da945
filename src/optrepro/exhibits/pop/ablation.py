"""Exhibit pop-ablation: scores of the policy without each of its parts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import intervals

STANDARD = "standard"
COLUMNS = {
    "prior_improvement": ("Prior: improvement", "normalized"),
    "prior_digits": ("Prior: digits", "digits gained"),
    "vlse_improvement_difference": ("Improvement", "benchmark, difference"),
    "vlse_digits_difference": ("Digits", "benchmark, difference"),
}


def figure(material: Material) -> Figure:
    """Scores of the variants, in groups, on the prior, and paired differences to the standard on the benchmark."""
    scores = _grouped(material.tables["pop-ablation"])
    page = style.page(material, height=6 * len(scores) + 35)
    axes = page.subplots(1, len(COLUMNS), sharey=True)
    y = panels.row_positions(scores)
    for panel, (column, (title, label)) in zip(axes, COLUMNS.items(), strict=True):
        for position, row in zip(y, scores.to_dict("records"), strict=True):
            dot(panel, position, row, column)
        standard = scores[scores.optimizer == STANDARD]
        reference = [0.0] if column.endswith("difference") else list(standard[column].dropna())
        for x in reference:
            panel.axvline(x, color=style.look("pop").color, linewidth=1, zorder=1)
        panel.set(title=title, xlabel=label)
        panel.locator_params(axis="x", nbins=4)
        style.grid(panel, "x")
        panel.tick_params(axis="y", length=0)
    panels.name_rows(axes[0], scores, list(scores.label), y)
    return page


def dot(axes: Axes, position: float, row: Mapping[Hashable, Any], column: str) -> None:
    """A mean with its interval, if there is one; the dot is open if the difference to the standard may be 0."""
    mean, low, high = row[column], row[f"{column}_low"], row[f"{column}_high"]
    standard = row["optimizer"] == STANDARD
    if standard and column.endswith("difference"):
        mean = 0.0
    color = style.look("pop").color if standard else style.INK
    told_apart = not (column.endswith("difference") and low <= 0 <= high)
    axes.plot([low, high], [position] * 2, color=color, linewidth=1.6)
    axes.plot(mean, position, "*" if standard else "o", color=color, markerfacecolor=color if told_apart else "white")


def table(material: Material) -> pd.DataFrame:
    """One row per variant: both scores on both collections, and the differences to the standard policy."""
    scores = _grouped(material.tables["pop-ablation"])
    readable: dict[str, Any] = {"varied": scores.group, "policy": scores.label}
    for prefix, name in (("prior", "prior"), ("vlse", "benchmark")):
        for measure, digits in (("improvement", 3), ("digits", 2)):
            readable[f"{measure}, {name}"] = intervals(scores, f"{prefix}_{measure}", digits)
            readable[f"difference in {measure}, {name}"] = intervals(scores, f"{prefix}_{measure}_difference", digits)
    readable["p, improvement, benchmark"] = [style.p_value(p) for p in scores.vlse_improvement_p]
    readable["p, digits, benchmark"] = [style.p_value(p) for p in scores.vlse_digits_p]
    readable["training functions seen"] = [f"{seen:,.0f}".replace("nan", "–") for seen in scores.functions_seen]
    readable["seeds"] = scores.seeds
    return pd.DataFrame(readable)


def _grouped(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows sorted by group, with groups in the order of their first rows."""
    order = {group: index for index, group in enumerate(scores.group.unique())}
    return scores.sort_values("group", key=lambda group: group.map(order), kind="stable", ignore_index=True)
