"""The figure of one run: its path on contours, in two dimensions, and the regret over the evaluations."""

from __future__ import annotations

import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import style
from optrepro.exhibits.functions import DEPTH, STAR, START, shades
from optrepro.exhibits.material import Material

HEIGHT, CONTOURS_WIDTH, CURVE_WIDTH = 78.0, 88.0, 92.0  # mm
LEVELS = 14
CASING = [patheffects.withStroke(linewidth=2.6, foreground="white")]


def figure(path: pd.DataFrame, surface: pd.DataFrame | None, title: str, key: str) -> Figure:
    """The path on contours, if there is a surface, beside the regret over the evaluations.

    Args:
        path: step, value, best, regret, x0, x1, ... of each evaluation.
        surface: kind, x0, x1, value of a square grid and of the minimizers; None if the dimension is not two.
        title: title that names the optimizer and the function.
        key: key of the optimizer, which decides its colour.
    """
    page = style.page(Material({}, {}), HEIGHT, CURVE_WIDTH + (0 if surface is None else CONTOURS_WIDTH))
    panels = page.subplots(1, 1 if surface is None else 2, squeeze=False)[0]
    if surface is not None:
        contour_panel(panels[0], path, surface, key)
    regret_panel(panels[-1], path, key)
    page.suptitle(title, x=0.02, ha="left", fontsize=9, fontweight="bold")
    return page


def contour_panel(axes: Axes, path: pd.DataFrame, surface: pd.DataFrame, key: str) -> None:
    """Contours on a logarithmic scale above the lowest value, low values light, with all evaluated points."""
    grid, minimizers = surface[surface.kind == "grid"], surface[surface.kind == "minimizer"]
    size = round(len(grid) ** 0.5)
    x0, x1, values = (grid[column].to_numpy().reshape(size, size) for column in ("x0", "x1", "value"))
    heights = shades(values)
    axes.contourf(x0, x1, heights, LEVELS, cmap="Greys", vmax=DEPTH * heights.max())
    axes.contour(x0, x1, heights, LEVELS, colors="white", linewidths=0.4)
    look = style.look(key)
    axes.plot(path.x0, path.x1, color=look.color, linewidth=1.1, path_effects=CASING)
    axes.plot(path.x0, path.x1, **{**look.point, "marker": "o", "markersize": 2.2}, clip_on=False)
    best = path.iloc[int(path.value.argmin())]
    axes.plot(path.x0.iloc[0], path.x1.iloc[0], **START, clip_on=False, label="start")
    axes.plot(minimizers.x0, minimizers.x1, **{**STAR, "markersize": 8}, clip_on=False, label="minimizer")
    axes.plot(best.x0, best.x1, **{**look.point, "marker": "o", "markersize": 4}, clip_on=False, label="best point")
    axes.set(xlim=(x0.min(), x0.max()), ylim=(x1.min(), x1.max()), xlabel="$x_0$", ylabel="$x_1$", title="Path")
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.19), ncols=3, borderaxespad=0, handletextpad=0.2)


def regret_panel(axes: Axes, path: pd.DataFrame, key: str) -> None:
    """Regret of the best point so far as a line, and of each point as a dot, on a logarithmic axis."""
    look = style.look(key)
    lowest = path.best.iloc[-1] - path.regret.iloc[-1]
    floor = max(1e-16, 1e-14 * float((path.value - lowest).max()))  # smaller regrets are rounding errors
    axes.plot(path.step, (path.value - lowest).clip(lower=floor), "o", color=style.MUTED, markersize=2.2, label="point")
    axes.plot(path.step, path.regret.clip(lower=floor), color=look.color, drawstyle="steps-post", label="best so far")
    axes.set(yscale="log", xlabel="evaluations of value and gradient", ylabel="value - minimum", title="Regret")
    style.grid(axes)
    axes.legend(loc="best")
