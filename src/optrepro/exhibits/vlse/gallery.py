"""Exhibit vlse-gallery: twelve of the benchmark functions of two variables, with paths of optimizers from one start."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.exhibits import style
from optrepro.exhibits.functions import SHADES, STAR, START, surface_panel
from optrepro.exhibits.material import Material

# chosen: two or more of each group, of which one can see in its shades what makes it hard
TELLING = (
    *("ackley", "rastrigin", "schwefel", "griewank"),  # many local minima
    *("sphere", "booth"),  # bowl and plate
    *("rosenbrock", "six_hump_camel"),  # valley
    *("dejong5", "michalewicz"),  # steep
    *("branin", "styblinski_tang"),  # other
)
SHOWN = ("rprop", "adam")  # paths in the figure; the later one is drawn on top
TABLED = ("lbfgs", "momentum", "rprop", "adam")
UNTIL = 50  # evaluations in the figure, all of which are recorded; later ones are recorded at a few evaluations
COLUMNS = 4
PANEL = 47.0  # height of a panel, mm
CASING = [patheffects.withStroke(linewidth=2.4, foreground="white")]


def figure(material: Material) -> Figure:
    """One panel per telling function: values as shades, minimizers as stars, and the paths."""
    surfaces, paths = material.tables["vlse-surfaces"], material.tables["vlse-trajectories"]
    names = telling(surfaces.function.unique())
    rows = -(-len(names) // COLUMNS)
    page = style.page(material, height=PANEL * rows + 8)
    panels = page.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        surface, own = surfaces[surfaces.function == name], paths[paths.function == name]
        surface_panel(axes, surface)
        path_panel(axes, own[own.step <= UNTIL])
        axes.set_title(_name(name, surface), fontsize=8, pad=3)
        axes.set_xlabel(_distances(own, surface), fontsize=7)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    handles = _legend(paths)
    page.legend(handles=handles, ncols=len(handles), loc="outside lower center")
    return page


def telling(present: Iterable[str]) -> list[str]:
    """The telling functions that are there, or the first dozen if none of them is."""
    there = list(present)
    return [name for name in TELLING if name in there] or there[: len(TELLING)]


def table(material: Material) -> pd.DataFrame:
    """Ends of the paths on all functions: one row per function and optimizer, with the nearest known minimizer."""
    surfaces, paths = material.tables["vlse-surfaces"], material.tables["vlse-trajectories"]
    rows = []
    for function, optimizer in product(surfaces.function.unique(), TABLED):
        path = paths[(paths.function == function) & (paths.optimizer == optimizer)].sort_values("step")
        if path.empty:
            continue
        first, last = (path[["x0", "x1"]].iloc[i].to_numpy() for i in (0, -1))
        nearest, distance = _nearest(last, surfaces[surfaces.function == function])
        rows.append(
            {
                "function": str(function).replace("_", " "),
                "optimizer": path.label.iloc[0],
                "start": _point(first),
                "last point": _point(last),
                "nearest minimizer": _point(nearest),
                "distance": style.number(distance),
                "evaluations": int(path.step.max()),
            }
        )
    return pd.DataFrame(rows)


def path_panel(axes: Axes, paths: pd.DataFrame) -> None:
    """The evaluated points of each optimizer, joined in order, with a circle at the common start."""
    for key in (key for key in SHOWN if key in set(paths.optimizer)):
        path = paths[paths.optimizer == key].sort_values("step")
        axes.plot(path.x0, path.x1, color=style.look(key).color, linewidth=1.0, path_effects=CASING)
        axes.plot(path.x0.iloc[-1], path.x1.iloc[-1], **{**style.look(key).point, "markersize": 5}, clip_on=False)
    if len(paths):
        start = paths.sort_values("step").iloc[0]
        axes.plot(start.x0, start.x1, **START, clip_on=False)


def _distances(paths: pd.DataFrame, surface: pd.DataFrame) -> str:
    """How far the last point of each optimizer is from the nearest minimizer, as a share of the box's longer side."""
    side = max(np.ptp(surface.x0), np.ptp(surface.x1))
    texts = []
    for key in (key for key in SHOWN if key in set(paths.optimizer)):
        path = paths[paths.optimizer == key].sort_values("step")
        distance = _nearest(path[["x0", "x1"]].iloc[-1].to_numpy(), surface)[1] / side
        texts.append(f"{path.label.iloc[0]} {style.number(round(100 * distance, 1))} %")
    return ", ".join(texts)


def _nearest(point: Any, surface: pd.DataFrame) -> tuple[Any, float]:
    """The known minimizer that is nearest to a point, and its distance."""
    points = surface[surface.kind == "minimizer"][["x0", "x1"]].to_numpy()
    distances = np.linalg.norm(points - point, axis=1)
    return points[distances.argmin()], float(distances.min())


def _legend(paths: pd.DataFrame) -> list[Any]:
    labels = paths.drop_duplicates("optimizer").set_index("optimizer").label
    lines = [
        Line2D([], [], label=labels[key], **{**style.look(key).point, "linestyle": "-"})
        for key in SHOWN
        if key in labels
    ]
    return [Line2D([], [], label="start", **START), *lines, Line2D([], [], label="minimizer", **STAR), *SHADES]


def _name(function: str, surface: pd.DataFrame) -> str:
    return function.replace("_", " ") + ("" if surface.smooth.iloc[0] else " †")


def _point(x: Any) -> str:
    return f"({x[0]:.4g}, {x[1]:.4g})"
