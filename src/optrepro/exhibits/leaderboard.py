"""Exhibit leaderboard: places of optimizers on every task and over all, and what a step costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from optrepro.exhibits import style
from optrepro.exhibits.material import Material

TASKS = {  # by the end of the name of the study: heading, unit of a score, its scale, digits
    "functions": ("functions", "digits", 1, 2),
    "images": ("images", "%", 100, 2),
    "cifar100": ("CIFAR-100", "%", 100, 1),
    "language": ("language", "nats", -1, 3),
    "vision": ("vision", "%", 100, 1),
}
EDGE = 0.5  # share of the functions from which on a row is marked as tuned to an end of its grid
OURS = "dynamic"  # group of the rows of this project
COSTS = {"ratio": "step", "state": "state"}
COLORS = colormaps["YlGnBu_r"]  # of ranks, the best ones dark


def figure(material: Material) -> Figure:
    """Rows are optimizers, the best average rank on top: average rank, rank and score on each task, costs."""
    overall, places = material.tables["leaderboard-overall"], material.tables["leaderboard-places"]
    page = style.page(material, height=5.6 * len(overall) + 34)
    tasks = list(places.task.unique())
    left, middle, right = page.subplots(1, 3, sharey=True, width_ratios=[0.9, 0.6 * len(tasks), 1.15])
    _averages(left, overall)
    _matrix(middle, overall, places, tasks)
    _costs(right, overall, material.tables["leaderboard-costs"])
    left.set_yticks(range(len(overall)), overall.label)
    for tick, group in zip(left.get_yticklabels(), overall.group, strict=True):
        tick.set_fontweight("bold" if group == OURS else "normal")
    left.set_ylim(len(overall) - 0.4, -0.6)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per task and optimizer, in the order of the places, and then those over all tasks."""
    overall, places = material.tables["leaderboard-overall"], material.tables["leaderboard-places"]
    costs = _costs_by_optimizer(material.tables["leaderboard-costs"])
    rows = []
    for task, own in places.groupby("task", sort=False):
        heading, unit, scale, digits = TASKS[_name(task)]
        for row in own.sort_values(["rank", "label"]).to_dict("records"):
            rows.append(
                {
                    "task": f"{heading} ({unit})",
                    "rank": f"{row['rank']:g}",
                    "optimizer": row["label"],
                    "score": _scaled(row, "score", scale, digits),
                    "behind the first": _scaled(row, "behind", abs(scale), digits),
                    "difference to AdamW": _scaled(row, "difference", abs(scale), digits),
                    "p (Holm)": style.p_value(row["p_holm"]),
                    "learning rate": style.number(row["learning_rate"]),
                    "at an end of the grid": _edge(row),
                    "diverged": f"{row['diverged']:.0f}",
                    "diverged in tuning": f"{row['tuning_diverged']:.0f}",
                    "step / AdamW's": "–",
                    "state / AdamW's": "–",
                }
            )
    failed = places.groupby("optimizer")[["diverged", "tuning_diverged"]].sum()
    for row in overall.to_dict("records"):
        key = row["optimizer"]
        rows.append(
            {
                **dict.fromkeys(rows[0], "–"),
                "task": "all, average rank",
                "rank": style.interval(row["average_rank"], row["average_rank_low"], row["average_rank_high"], 1),
                "optimizer": row["label"],
                "p (Holm)": style.p_value(row["friedman_p"]) + " (Friedman)",
                "diverged": f"{failed.diverged[key]:.0f}",
                "diverged in tuning": f"{failed.tuning_diverged[key]:.0f}",
                "step / AdamW's": costs["ratio"].get(key, "–"),
                "state / AdamW's": costs["state"].get(key, "–"),
            }
        )
    return pd.DataFrame(rows)


def _averages(axes: Axes, overall: pd.DataFrame) -> None:
    """Average ranks with their intervals, and the critical difference beside the best one."""
    for y, row in enumerate(overall.to_dict("records")):
        color = style.look("raw").color if row["group"] == OURS else style.INK
        axes.plot([row["average_rank_low"], row["average_rank_high"]], [y, y], color=color, lw=1.2, alpha=0.5)
        axes.plot(row["average_rank"], y, "o", color=color)
    best, distance = overall.average_rank.min(), overall.critical_difference.iloc[0]
    if np.isfinite(distance):
        axes.axvspan(best, best + distance, color=style.FAINT, alpha=0.6, lw=0)
    axes.set_xlim(0.5, len(overall) + 0.5)
    axes.set(title="Average rank", xlabel="1 is best")
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def _matrix(axes: Axes, overall: pd.DataFrame, places: pd.DataFrame, tasks: list[str]) -> None:
    """A cell for each optimizer and task, coloured by the rank, with rank and score in it."""
    count = len(overall)
    for x, task in enumerate(tasks):
        _, _, scale, digits = TASKS[_name(task)]
        own = places[places.task == task].set_index("optimizer")
        for y, key in enumerate(overall.optimizer):
            row: Any = own.loc[key]
            color = COLORS((row["rank"] - 1) / max(count - 1, 1))
            ink = style.ink_on(color)
            axes.add_patch(Rectangle((x - 0.47, y - 0.44), 0.94, 0.88, facecolor=color, lw=0))
            mark = " †" if row["on_edge"] >= EDGE else ""
            axes.text(x - 0.43, y, f"{row['rank']:g}", color=ink, va="center", fontsize=7.5, fontweight="bold")
            score = f"{scale * row['score']:.{digits}f}" if np.isfinite(row["score"]) else "diverged"
            axes.text(x + 0.42, y, score + mark, color=ink, va="center", ha="right", fontsize=7)
            if row["beside_first"]:
                axes.add_patch(Rectangle((x - 0.45, y - 0.42), 0.9, 0.84, fill=False, edgecolor=style.WARNING, lw=1.1))
    axes.set_xticks(range(len(tasks)), ["{}\n({})".format(*TASKS[_name(task)][:2]) for task in tasks])
    axes.xaxis.tick_top()
    axes.set_xlim(-0.5, len(tasks) - 0.5)
    axes.set_title("Rank on each task, and score")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _costs(axes: Axes, overall: pd.DataFrame, costs: pd.DataFrame) -> None:
    """Step time and memory as ratios to AdamW's, as text."""
    texts = _costs_by_optimizer(costs)
    for x, column in enumerate(COSTS):
        for y, key in enumerate(overall.optimizer):
            axes.text(x, y, texts[column].get(key, "–"), ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(COSTS)), list(COSTS.values()))
    axes.xaxis.tick_top()
    axes.set_xlim(-0.6, len(COSTS) - 0.4)
    axes.set_title("Cost / AdamW's")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _costs_by_optimizer(costs: pd.DataFrame) -> dict[str, dict[str, str]]:
    """For each cost, the range over the networks by optimizer, as text."""
    return {
        column: {
            str(key): "–".join(dict.fromkeys(_ratio(value) for value in (own.min(), own.max())))
            for key, own in costs.groupby("optimizer")[column]
        }
        for column in COSTS
    }


def _ratio(value: float) -> str:
    """Two digits, and nothing finer than a hundredth."""
    if value < 0.005:
        return "<0.01"
    return f"{value:.0f}" if value >= 99.5 else f"{round(value, 2):.2g}"


def _name(task: Any) -> str:
    return str(task).rpartition("-")[2]


def _scaled(row: Mapping[Any, Any], name: str, scale: float, digits: int) -> str:
    """A score or a difference with its interval, as text."""
    low, high = sorted(scale * row[f"{name}_{end}"] for end in ("low", "high"))
    return style.interval(scale * row[name], low, high, digits) if np.isfinite(row[name]) else "–"


def _edge(row: Mapping[Any, Any]) -> str:
    if _name(row["task"]) == "functions":
        return f"{row['on_edge']:.0%} of the functions"
    return "yes" if row["on_edge"] else "no"
