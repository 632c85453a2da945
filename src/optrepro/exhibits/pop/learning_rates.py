"""Exhibit pop-learning-rates: the learning rates that the policy chooses over time on typical functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.trajectories import typical

COLUMNS = 3
PANEL = 42.0  # height of a panel, mm
MOMENTS = (1, 10, 25, 50)  # evaluations in the table
POLICIES = ("pop-trained", "pop")  # the later one is drawn on top


def figure(material: Material) -> Figure:
    """One panel per function: median and quartiles of the learning rate over starts and coordinates."""
    rates = material.tables["pop-learning-rates"]
    names = typical(rates.function.unique())
    rows = max(1, -(-len(names) // COLUMNS))
    page = style.page(material, height=PANEL * rows + 10)
    panels = page.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(panels.ravel(), names, strict=False):
        rate_panel(axes, rates[rates.function == name])
    for axes in panels.ravel()[len(names) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("log$_{10}$ learning rate")
    for axes in panels[-1]:
        axes.set_xlabel("evaluation")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    page.legend(handles, labels, ncols=max(1, len(labels)), loc="outside lower center")
    return page


def rate_panel(axes: Axes, rates: pd.DataFrame) -> None:
    """log10 of the step length in units of the box; the line is the median, the band lies between the quartiles."""
    for key in (key for key in POLICIES if key in set(rates.optimizer)):
        own = rates[rates.optimizer == key].sort_values("step")
        look = style.look(key)
        axes.fill_between(own.step, own.lower, own.upper, color=look.color, alpha=0.22, linewidth=0)
        axes.plot(own.step, own["median"], **look.line, linewidth=1.6, label=own.label.iloc[0])
    facts = rates.iloc[0]
    axes.set_title(f"{facts.function.replace('_', ' ')} ({facts.group})", fontsize=7.5)
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """Median learning rate with quartiles at selected evaluations: one row per function and policy."""
    rates = material.tables["pop-learning-rates"]
    rows = []
    for (function, _), own in rates.groupby(["function", "optimizer"], sort=False):
        moments = own[own.step.isin(MOMENTS)].sort_values("step").to_dict("records")
        cells = {f"evaluation {row['step']}": _rate(row) for row in moments}
        head = {"function": str(function).replace("_", " "), "group": own.group.iloc[0], "policy": own.label.iloc[0]}
        rows.append({**head, **cells})
    return pd.DataFrame(rows)


def _rate(row: Mapping[Any, Any]) -> str:
    middle, low, high = (style.number(10 ** row[name], 2) for name in ("median", "lower", "upper"))
    return f"{middle} [{low}, {high}]"
