"""Exhibit pop-vlse-profiles: share of solved problems over the evaluations, by group of functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.exhibits.series import OTHERS, foremost, short

COLUMNS = 3
PANEL = 36.0  # height of a panel, mm
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
POLICIES = ("pop-trained", "pop")  # the later one is drawn on top
STRONGEST = 3  # number of other optimizers that have a colour, those that solve most at the end; the rest is grey


def figure(material: Material) -> Figure:
    """One block per target, with one panel per group of functions."""
    profile = material.tables["pop-vlse-profile"]
    groups, targets = profile.group.unique(), sorted(profile.target.unique(), reverse=True)
    shown = _shown(profile)
    rows = -(-len(groups) // COLUMNS)
    page = style.page(material, height=PANEL * rows * len(targets) + 30)
    blocks: Any = page.subfigures(len(targets), 1, squeeze=False)[:, 0]
    for block, target in zip(blocks, targets, strict=True):
        panels = block.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axes, group in zip(panels.ravel(), groups, strict=False):
            profile_panel(axes, profile[(profile.group == group) & (profile.target == target)], shown)
        for axes in panels.ravel()[len(groups) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("solved (%)")
        for column in panels.T:
            lowest = [axes for axes in column if axes.axison][-1]
            lowest.set_xlabel("evaluations")
            lowest.tick_params(labelbottom=True)
        exponent = round(np.log10(target))
        title = f"Solved to a normalized regret of 10$^{{{exponent}}}$"
        block.suptitle(title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    labels = profile.drop_duplicates("optimizer").set_index("optimizer").label
    handles = [page.axes[0].plot([], [], **_line(key), label=short(labels[key]))[0] for key in shown]
    others = page.axes[0].plot([], [], **OTHERS, label=f"{len(labels) - len(shown)} others, see the table")
    page.legend(handles=[*handles, *others], ncols=6, loc="outside lower center", handlelength=2.6)
    return page


def profile_panel(axes: Axes, curves: pd.DataFrame, shown: Sequence[str]) -> None:
    """Share of solved problems of a group, by evaluations of value and gradient; those not shown by name are grey."""
    for key in [*(key for key in curves.optimizer.unique() if key not in shown), *reversed(shown)]:
        curve = curves[curves.optimizer == key].sort_values("evaluations")
        look = _line(key) if key in shown else OTHERS
        axes.plot(curve.evaluations, 100 * curve.share, **look, drawstyle="steps-post", markevery=[-1], clip_on=False)
    functions = curves.functions.iloc[0]
    axes.set_title(
        f"{curves.group.iloc[0]} ({functions} function{'' if functions == 1 else 's'})",
        fontsize=7.5,
        fontweight="normal",
        pad=3,
    )
    axes.set(xscale="log", xlim=(1, curves.evaluations.max()), ylim=(0, 100))
    axes.set_xticks([x for x in TICKS if x <= curves.evaluations.max()])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """Share of solved problems at the end of the budget: one row per group and target, one column per optimizer."""
    profile = material.tables["pop-vlse-profile"]
    final = profile[profile.evaluations == profile.evaluations.max()]
    order = list(profile.label.unique())
    rows = []
    for (group, target), own in final.groupby(["group", "target"], sort=False):
        cells = {row["label"]: style.percent(row["share"]) for row in own.to_dict("records")}
        head = {"group": group, "functions": own.functions.iloc[0], "target": f"{target:g}"}
        rows.append({**head, **{label: cells.get(label, "–") for label in order}})
    return pd.DataFrame(rows)


def _shown(profile: pd.DataFrame) -> list[str]:
    """The policies, and the other optimizers that solve most at the end of the budget, over all groups and targets."""
    final = profile[profile.evaluations == profile.evaluations.max()]
    return foremost(final.groupby("optimizer", sort=False).share.mean(), POLICIES[::-1], STRONGEST)


def _line(optimizer: str) -> dict[str, Any]:
    look = style.look(optimizer)
    wide = optimizer in POLICIES
    return {**look.point, **look.line, "linewidth": 2.2 if wide else 1.0, "markersize": 6 if wide else 3.5}
