"""Exhibit pop-budgets: progress of the policy beyond the horizon that it was trained for."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.conventions import POP
from optrepro.exhibits import series, style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import (
    BASELINES,
    MEASURES,
    curve_panel,
    foremost,
    leader,
    policy_label,
    readable_scores,
)

COLLECTIONS = {"prior-test": "The prior's test functions", "vlse": "The smooth benchmark functions"}


def figure(material: Material) -> Figure:
    """Both scores during the runs, and average ranks at multiples of the horizon; one column per collection."""
    scores, curves = material.tables["pop-budgets"], material.tables["pop-curves"]
    curves = curves[curves.optimizer.isin(scores.optimizer.unique())]  # the references stop at the horizon
    collections, coloured = list(scores.collection.unique()), foremost(scores)
    page = style.page(material, height=185)
    rows = page.subplots(3, len(collections), squeeze=False)
    for column, collection in zip(rows.T, collections, strict=True):
        own, lines = scores[scores.collection == collection], curves[curves.collection == collection]
        for axes, measure in zip(column, MEASURES, strict=False):
            curve_panel(axes, lines, measure, coloured)
            horizon = own.budget.min() / own.multiple.min()
            axes.axvspan(horizon, axes.get_xlim()[1], color=style.FAINT, alpha=0.4, lw=0, zorder=0)
            axes.set_title(f"{leader(lines, measure)} ends highest")
        column[0].set_title(f"{COLLECTIONS[collection]}\n{column[0].get_title(loc='left')}")
        column[0].annotate(
            "beyond the\ntrained horizon",
            (horizon, column[0].get_ylim()[0]),
            (3, 3),
            textcoords="offset points",
            fontsize=7,
            color=style.MUTED,
        )
        rank_panel(column[2], own, coloured)
    return page


def rank_panel(axes: Axes, scores: pd.DataFrame, coloured: Collection[str]) -> None:
    """Average rank by digits at each budget; the axis is inverted, so that the best rank, 1, is at the top."""
    budgets = sorted(scores.budget.unique())
    ends = []
    for key, rows in scores.groupby("optimizer", sort=False):
        look, width = style.look(str(key)), 2.4 if key == POP else 1.3
        x = [budgets.index(budget) for budget in rows.budget]
        if key not in coloured:
            axes.plot(x, rows["rank"], **series.OTHERS)
            continue
        axes.plot(x, rows["rank"], **{**look.point, **look.line}, linewidth=width)
        ends.append((series.short(rows.label.iloc[0]), rows["rank"].iloc[-1], look.color))
    multiples = scores.drop_duplicates("budget").sort_values("budget")
    ticks = [f"{budget}\n({multiple}×)" for budget, multiple in zip(multiples.budget, multiples.multiple, strict=True)]
    axes.set_xticks(range(len(budgets)), ticks)
    axes.set(xlabel="evaluations (multiples of the trained horizon)", ylabel="average rank (1 is best)")
    axes.set(xlim=(-0.15, len(budgets) - 0.9), title=ahead_at_last(scores))
    axes.invert_yaxis()
    style.grid(axes)
    series.name_ends(axes, ends)


def ahead_at_last(scores: pd.DataFrame) -> str:
    """The baselines that rank above the policy at the largest budget, in words."""
    last = scores[scores.budget == scores.budget.max()]
    own = last["rank"][last.optimizer == POP].min()
    ahead = last[last.group.isin(BASELINES) & (last["rank"] < own)].sort_values("rank")
    return f"Above {policy_label(scores)} at {last.multiple.iloc[0]}×:\n{series.listed(list(ahead.label))}"


def table(material: Material) -> pd.DataFrame:
    """One row per collection, budget and optimizer: scores, and the policy's lead with its tests."""
    scores = material.tables["pop-budgets"]
    readable = readable_scores(scores)
    readable.insert(0, "functions of", scores.collection.map({"prior-test": "prior", "vlse": "benchmark"}))
    readable.insert(1, "budget", [f"{b} ({m}×)" for b, m in zip(scores.budget, scores.multiple, strict=True)])
    return readable
