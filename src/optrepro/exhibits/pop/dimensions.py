"""Exhibit pop-dimensions: the policy on functions with more variables than in its training."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.conventions import POP
from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import MEASURES, complete, policy_label, readable_scores

WIDTH = 0.5  # width of the interval over which the optimizers of one dimension are spread


def figure(material: Material) -> Figure:
    """Above: both scores by dimension. Below: the policy's lead over the best first-order baseline."""
    scores = material.tables["pop-dimensions"]
    page = style.page(material, height=130)
    rows = page.subplots(2, 2, height_ratios=[1.5, 1], squeeze=False)
    for (above, below), measure in zip(rows.T, MEASURES, strict=True):
        score_panel(above, complete(scores), measure)
        lead_panel(below, scores, measure)
    page.legend(*rows[0, 0].get_legend_handles_labels(), ncols=5, loc="outside lower center", handlelength=2.6)
    return page


def score_panel(axes: Axes, scores: pd.DataFrame, measure: str) -> None:
    """Mean score with its 95 % interval, by dimension."""
    dimensions, keys = list(scores.dimension.unique()), list(scores.optimizer.unique())
    for place, key in enumerate(keys):
        rows, look = scores[scores.optimizer == key], style.look(key)
        shift = WIDTH * (place / max(len(keys) - 1, 1) - 0.5)
        x = [dimensions.index(dimension) + shift for dimension in rows.dimension]
        ends = [rows[measure] - rows[f"{measure}_low"], rows[f"{measure}_high"] - rows[measure]]
        width = 2.0 if key == POP else 0.9
        drawn = {**look.point, **look.line, "linewidth": width, "elinewidth": width, "markersize": 3 + 2 * width}
        axes.errorbar(x, rows[measure], yerr=ends, label=rows.label.iloc[0], **drawn)
    _dimension_axis(axes, dimensions)
    axes.set(ylabel=f"mean {measure}", title=MEASURES[measure].capitalize())


def lead_panel(axes: Axes, scores: pd.DataFrame, measure: str) -> None:
    """The policy's paired lead over the first-order baseline with the highest mean, whose name is shown."""
    dimensions = list(scores.dimension.unique())
    baselines = scores[scores.group == "first-order"].dropna(subset=[f"{measure}_difference"])
    look = style.look(POP)
    axes.axhline(0, color=style.INK, linewidth=0.8)
    for dimension, rows in baselines.groupby("dimension"):
        best, x = rows.iloc[int(rows[measure].argmax())], dimensions.index(dimension)
        axes.plot([x, x], best[[f"{measure}_difference_low", f"{measure}_difference_high"]], color=look.color)
        axes.plot(x, best[f"{measure}_difference"], **look.point, markersize=8)
        lead, white = best[f"{measure}_difference"], {"fc": "white", "ec": "none", "pad": 0.6}
        place: dict[str, Any] = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"over {best.label}", (x, lead), **place, fontsize=6.5, bbox=white)
    _dimension_axis(axes, dimensions)
    axes.set(ylabel="difference (paired)", title=f"Lead of {policy_label(scores)}")


def _dimension_axis(axes: Axes, dimensions: list[int]) -> None:
    axes.set_xticks(range(len(dimensions)), [str(d) for d in dimensions])
    axes.set(xlabel="dimension", xlim=(-0.5, len(dimensions) - 0.1))
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """One row per dimension and optimizer: scores, and the policy's lead with its tests."""
    scores = material.tables["pop-dimensions"]
    readable = readable_scores(scores)
    readable.insert(0, "dimension", scores.dimension)
    return readable
