"""Panels on functions that several exhibits share: values in two dimensions, and regrets by function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from optrepro.conventions import FLOOR
from optrepro.exhibits import style
from optrepro.exhibits.panels import function_label

STAR: dict[str, Any] = {
    "marker": "*",
    "linestyle": "none",
    "color": style.WARNING,
    "markersize": 4.5,
    "markeredgewidth": 0,
    "zorder": 4,  # above paths
}
START: dict[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "color": style.INK,
    "markersize": 3.5,
    "markerfacecolor": "white",
}
DEPTH = 1.6  # largest value of the scale of shades over the largest shade, so that what is high is grey and not black
SHADES = [  # the ends of that scale, for legends
    Patch(facecolor=colormaps["Greys"](shade / DEPTH), edgecolor=style.MUTED, linewidth=0.5, label=f"{end} value")
    for end, shade in (("low", 0), ("high", 1))
]


def surface_panel(axes: Axes, surface: pd.DataFrame) -> None:
    """Shades of the values above the smallest, on a logarithmic scale, low values light; stars at the minimizers."""
    grid, minimizers = surface[surface.kind == "grid"], surface[surface.kind == "minimizer"]
    size = round(len(grid) ** 0.5)
    extent = (grid.x0.min(), grid.x0.max(), grid.x1.min(), grid.x1.max())
    image = shades(grid.value.to_numpy().reshape(size, size))
    axes.imshow(image, "Greys", vmax=DEPTH * image.max(), interpolation="bilinear", origin="lower", extent=extent)
    axes.set_aspect("auto")
    axes.plot(minimizers.x0, minimizers.x1, **STAR, clip_on=False)
    axes.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])


def shades(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values above the smallest, on a scale that is linear for the lowest twentieth of them and logarithmic above."""
    above = values - values.min()
    logarithms: NDArray[np.float64] = np.log10(1 + above / max(np.quantile(above, 0.05), 1e-12 * above.max()))
    return logarithms


def heat_map(figure: SubFigure, scores: pd.DataFrame) -> None:
    """Median normalized regret by function, grouped, and optimizer, on a logarithmic scale."""
    axes = figure.subplots()
    facts, labels = scores.drop_duplicates("function"), scores.drop_duplicates("optimizer").label
    values = scores.pivot(index="function", columns="optimizer", values="regret")
    digits = -np.log10(values.loc[scores.function.unique(), scores.optimizer.unique()].clip(lower=FLOOR).to_numpy())
    image = axes.imshow(digits, aspect="auto", cmap=style.SEQUENTIAL, vmin=0, vmax=-np.log10(FLOOR))
    for (i, j), value in np.ndenumerate(digits):
        color = style.INK if np.isnan(value) else style.ink_on(image.to_rgba(value))
        axes.text(j, i, style.number(round(value, 0), 2), ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(len(labels)), labels, rotation=90)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(facts)), [function_label(row) for row in facts.to_dict("records")])
    axes.tick_params(length=0, pad=2)
    axes.spines[:].set_visible(False)
    for group in facts.group.unique():
        rows = np.flatnonzero(facts.group == group)
        axes.axhline(rows[0] - 0.5, color="white", linewidth=2.5)
        axes.text(*(len(labels) - 0.35, rows.mean(), group), rotation=-90, va="center", fontsize=7, color=style.MUTED)
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=45, pad=0.01)
    bar.set_label("median normalized regret, as its negative log10 (in each cell)", fontsize=7)
    bar.outline.set_visible(False)
