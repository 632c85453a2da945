"""Exhibit pop-budgets: progress of the policy beyond the horizon that it was trained for."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.conventions import POP
from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import MEASURES, curve_panel, readable_scores

COLLECTIONS = {"prior-test": "the prior's test functions", "vlse": "the smooth benchmark functions"}


def figure(material: Material) -> Figure:
    """Both scores during the runs, and average ranks at multiples of the horizon; one column per collection."""
    scores, curves = material.tables["pop-budgets"], material.tables["pop-curves"]
    curves = curves[curves.optimizer.isin(scores.optimizer.unique())]  # the references stop at the horizon
    collections = list(scores.collection.unique())
    page = style.page(material, height=175)
    rows = page.subplots(3, len(collections), squeeze=False)
    for column, collection in zip(rows.T, collections, strict=True):
        own = scores[scores.collection == collection]
        for axes, measure in zip(column, MEASURES, strict=False):
            curve_panel(axes, curves[curves.collection == collection], measure)
            horizon = own.budget.min() / own.multiple.min()
            axes.axvspan(horizon, axes.get_xlim()[1], color=style.FAINT, alpha=0.4, lw=0, zorder=0)
        column[0].set_title(f"On {COLLECTIONS[collection]}")
        column[0].annotate(
            "beyond the\ntrained horizon",
            (horizon, column[0].get_ylim()[0]),
            (3, 3),
            textcoords="offset points",
            fontsize=6.5,
            color=style.MUTED,
        )
        column[1].set_title("")
        rank_panel(column[2], own)
    page.legend(*rows[0, 0].get_legend_handles_labels(), ncols=5, loc="outside lower center", handlelength=2.6)
    return page


def rank_panel(axes: Axes, scores: pd.DataFrame) -> None:
    """Average rank by digits at each budget; the axis is inverted, so that the best rank, 1, is at the top."""
    budgets = sorted(scores.budget.unique())
    for key, rows in scores.groupby("optimizer", sort=False):
        look, width = style.look(str(key)), 2.4 if key == POP else 1.1
        x = [budgets.index(budget) for budget in rows.budget]
        axes.plot(x, rows["rank"], **{**look.point, **look.line}, linewidth=width)
    multiples = scores.drop_duplicates("budget").sort_values("budget")
    ticks = [f"{budget}\n({multiple}×)" for budget, multiple in zip(multiples.budget, multiples.multiple, strict=True)]
    axes.set_xticks(range(len(budgets)), ticks)
    axes.set(xlabel="evaluations (multiples of the trained horizon)", ylabel="average rank (1 is best)")
    axes.invert_yaxis()
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """One row per collection, budget and optimizer: scores, and the policy's lead with its tests."""
    scores = material.tables["pop-budgets"]
    readable = readable_scores(scores)
    readable.insert(0, "functions of", scores.collection.map({"prior-test": "prior", "vlse": "benchmark"}))
    readable.insert(1, "budget", [f"{b} ({m}×)" for b, m in zip(scores.budget, scores.multiple, strict=True)])
    return readable
