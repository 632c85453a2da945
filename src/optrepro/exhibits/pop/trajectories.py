"""Exhibit pop-trajectories: points that the policy and the best baseline evaluate on typical functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.conventions import POP
from optrepro.exhibits import style
from optrepro.exhibits.functions import SHADES, STAR, START, surface_panel
from optrepro.exhibits.material import Material

TYPICAL = ("sphere", "booth", "rosenbrock", "rastrigin", "dejong5", "styblinski_tang")  # chosen: one of each group
COLUMNS = 3
PANEL = 60.0  # height of a panel, mm


def figure(material: Material) -> Figure:
    """One panel per function: values as shades, minimizers, and both paths from the first start."""
    surfaces, paths = material.tables["vlse-surfaces"], material.tables["pop-trajectories"]
    shown, names = _shown(material), typical(set(surfaces.function) & set(paths.function))
    rows = max(1, -(-len(names) // COLUMNS))
    page = style.page(material, height=PANEL * rows + 8)
    panels = page.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        surface_panel(axes, surfaces[surfaces.function == name])
        path_panel(axes, paths[paths.function == name], shown)
        axes.set_title(name.replace("_", " "), pad=3)
        axes.set_xlabel(_outcome(material.tables["pop-vlse-scores"], name, shown), fontsize=7)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    labels = paths.drop_duplicates("optimizer").set_index("optimizer").label
    lines = [
        Line2D([], [], label=labels[key], **{**style.look(key).point, "linestyle": "-"})
        for key in shown
        if key in labels
    ]
    handles: list[Any] = [Line2D([], [], label="start", **START), *lines]
    handles += [Line2D([], [], label="minimizer", **STAR), *SHADES]
    page.legend(handles=handles, ncols=len(handles), loc="outside lower center")
    return page


def path_panel(axes: Axes, paths: pd.DataFrame, shown: Iterable[str]) -> None:
    """The evaluated points up to the best one, which has a marker, joined in order."""
    for key in shown:
        path = paths[paths.optimizer == key].sort_values("step")
        if path.empty:
            continue
        look, best = style.look(key), path[path.best].iloc[0]
        until = path[path.step <= best.step]
        axes.plot(until.x0, until.x1, ".-", color=look.color, linewidth=1, markersize=3.5)
        axes.plot(best.x0, best.x1, **{**look.point, "markersize": 7, "zorder": 3}, clip_on=False)
        axes.plot(path.x0.iloc[0], path.x1.iloc[0], **START, clip_on=False)


def table(material: Material) -> pd.DataFrame:
    """The best points of the paths, the lengths of paths and steps, and the median regret over all starts."""
    scores, paths = material.tables["pop-vlse-scores"], material.tables["pop-trajectories"]
    rows = []
    for name in typical(set(material.tables["vlse-surfaces"].function) & set(paths.function)):
        for key in _shown(material):
            path = paths[(paths.function == name) & (paths.optimizer == key)].sort_values("step")
            if path.empty:
                continue
            steps = path[["x0", "x1"]].diff().pow(2).sum(axis=1).pow(0.5).iloc[1:]
            best = path[path.best].iloc[0]
            rows.append(
                {
                    "function": name.replace("_", " "),
                    "optimizer": path.label.iloc[0],
                    "evaluations": len(path),
                    "best point": f"({best.x0:.4g}, {best.x1:.4g})",
                    "at evaluation": int(best.step),
                    "length of the path": style.number(float(steps.sum())),
                    "longest step": style.number(float(steps.max())),
                    "shortest step": style.number(float(steps[steps > 0].min())),
                    "median normalized regret": style.number(_regret(scores, name, key)),
                }
            )
    return pd.DataFrame(rows)


def typical(present: Iterable[str]) -> list[str]:
    """The typical functions that have results, or the first six functions if none of them has."""
    there = list(present)
    return [name for name in TYPICAL if name in there] or sorted(there)[: len(TYPICAL)]


def _shown(material: Material) -> list[str]:
    """The best first-order baseline by average rank, and the policy, which is drawn on top."""
    summary = material.tables["pop-vlse-summary"]
    rivals = summary[(summary.tuned == "once") & (summary.subset == "smooth") & (summary.family == "first-order")]
    best = rivals.sort_values("rank_first_order").optimizer.head(1)
    return [*best, POP]


def _regret(scores: pd.DataFrame, function: str, optimizer: str) -> float:
    row = scores[(scores.tuned == "once") & (scores.function == function) & (scores.optimizer == optimizer)]
    return float(row.regret.iloc[0]) if len(row) else float("nan")


def _outcome(scores: pd.DataFrame, function: str, shown: Iterable[str]) -> str:
    labels = scores.drop_duplicates("optimizer").set_index("optimizer").label
    texts = [f"{labels[key]} {style.number(_regret(scores, function, key), 2)}" for key in shown if key in labels]
    return ", ".join(texts)
