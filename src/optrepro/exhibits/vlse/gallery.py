"""Exhibit vlse-gallery: the benchmark functions of two variables, with paths of optimizers from one start."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.exhibits import style
from optrepro.exhibits.functions import STAR, START, surface_panel
from optrepro.exhibits.material import Material

SHOWN = ("lbfgs", "momentum", "rprop", "adam")  # more paths would not be distinguishable; later ones are drawn on top
COLUMNS = 6
PANEL = 29.0  # height of a panel, mm
CASING = [patheffects.withStroke(linewidth=2.0, foreground="white")]


def figure(material: Material) -> Figure:
    """One panel per function: values as shades, minimizers as stars, and the paths."""
    surfaces, paths = material.tables["vlse-surfaces"], material.tables["vlse-trajectories"]
    names = surfaces.function.unique()
    rows = -(-len(names) // COLUMNS)
    page = style.page(material, height=PANEL * rows + 8)
    panels = page.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        surface = surfaces[surfaces.function == name]
        surface_panel(axes, surface)
        path_panel(axes, paths[paths.function == name])
        mark = "" if surface.smooth.iloc[0] else " †"
        axes.set_title(name.replace("_", " ") + mark, fontsize=6.5, fontweight="normal", pad=2)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    page.legend(handles=_legend(paths), ncols=len(SHOWN) + 2, loc="outside lower center")
    return page


def table(material: Material) -> pd.DataFrame:
    """Ends of the paths in the figure: one row per function and optimizer, with the nearest known minimizer."""
    surfaces, paths = material.tables["vlse-surfaces"], material.tables["vlse-trajectories"]
    rows = []
    for function, optimizer in product(surfaces.function.unique(), SHOWN):
        path = paths[(paths.function == function) & (paths.optimizer == optimizer)].sort_values("step")
        if path.empty:
            continue
        points = surfaces[(surfaces.function == function) & (surfaces.kind == "minimizer")][["x0", "x1"]].to_numpy()
        first, last = (path[["x0", "x1"]].iloc[i].to_numpy() for i in (0, -1))
        nearest = points[np.linalg.norm(points - last, axis=1).argmin()]
        rows.append(
            {
                "function": str(function).replace("_", " "),
                "optimizer": path.label.iloc[0],
                "start": _point(first),
                "last point": _point(last),
                "nearest minimizer": _point(nearest),
                "distance": style.number(float(np.linalg.norm(nearest - last))),
                "evaluations": int(path.step.max()),
            }
        )
    return pd.DataFrame(rows)


def path_panel(axes: Axes, paths: pd.DataFrame) -> None:
    """The evaluated points of each optimizer, joined in order, with a circle at the common start."""
    for key in (key for key in SHOWN if key in set(paths.optimizer)):
        path = paths[paths.optimizer == key].sort_values("step")
        axes.plot(path.x0, path.x1, color=style.look(key).color, linewidth=0.8, path_effects=CASING)
        axes.plot(path.x0.iloc[-1], path.x1.iloc[-1], **{**style.look(key).point, "markersize": 3}, clip_on=False)
    if len(paths):
        start = paths.sort_values("step").iloc[0]
        axes.plot(start.x0, start.x1, **START, clip_on=False)


def _legend(paths: pd.DataFrame) -> list[Line2D]:
    labels = paths.drop_duplicates("optimizer").set_index("optimizer").label
    lines = [
        Line2D([], [], label=labels[key], **{**style.look(key).point, "linestyle": "-"})
        for key in SHOWN
        if key in labels
    ]
    return [Line2D([], [], label="start", **START), *lines, Line2D([], [], label="minimizer", **STAR)]


def _point(x: Any) -> str:
    return f"({x[0]:.4g}, {x[1]:.4g})"
