"""Exhibit pop-indistribution: the policy and the baselines on test functions of the prior, at the trained horizon."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from optrepro.conventions import POP
from optrepro.exhibits import panels, series, style
from optrepro.exhibits.material import Material

COLLECTION = "prior-test"
BASELINES = ("first-order", "quasi-newton")  # groups of optimizers that are tuned
KINDS = {"convex": "convex", "gp": "Gaussian process", "sum": "sum of both"}
MEASURES = {"improvement": "normalized improvement", "digits": "digits gained"}
RISE = 5  # number of evaluations in which all curves rise; the axis does not resolve values before
COLOURED = 3  # number of baselines with a colour, those of the best rank


def figure(material: Material) -> Figure:
    """Above: both scores during the runs. Below: the policy's lead over each optimizer at the horizon."""
    scores = material.tables["pop-indistribution"]
    horizon, coloured = scores.budget.max(), foremost(scores)
    curves = material.tables["pop-curves"]
    shown = complete(curves[(curves.collection == COLLECTION) & (curves.evaluations <= horizon)])
    rows = 4.6 * len(scores) + 30
    page = style.page(material, height=rows + 65)
    parts: Any = page.subfigures(2, 1, height_ratios=[65, rows])
    for axes, measure in zip(parts[0].subplots(1, 2), MEASURES, strict=True):
        curve_panel(axes, shown, measure, coloured)
        axes.set_title(f"{MEASURES[measure].capitalize()}:\n{leader(shown, measure)} ends highest")
    dot_panels(parts[1], scores, coloured)
    return page


def foremost(scores: pd.DataFrame) -> list[str]:
    """The optimizers that have a colour: the policies, and the baselines of the best rank by digits in any row."""
    best = -scores[scores.group.isin((*BASELINES, "policy"))].groupby("optimizer", sort=False)["rank"].min()
    policies = list(scores.optimizer[scores.group == "policy"].unique())
    return series.foremost(best, policies, COLOURED)


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of optimizers that ran on all functions of their collection, so that their means are comparable.

    References may have run on fewer functions; only their paired differences to the policy are comparable.
    """
    return table[table.functions == table.groupby("collection").functions.transform("max")]


def leader(curves: pd.DataFrame, measure: str) -> str:
    """The label of the optimizer with the highest mean at the end."""
    final = curves[curves.evaluations == curves.evaluations.max()]
    return series.short(str(final.label.iloc[int(final[measure].argmax())]))


def curve_panel(axes: Axes, curves: pd.DataFrame, measure: str, coloured: Collection[str]) -> None:
    """Mean score over the evaluations, on a logarithmic axis; the band is the policy's 95 % interval.

    The curves that are coloured have their names at their ends; the others are grey.
    """
    ends = []
    for key, rows in curves.groupby("optimizer", sort=False):
        look, width = style.look(str(key)), 2.4 if key == POP else 1.3
        if key not in coloured:
            axes.plot(rows.evaluations, rows[measure], **series.OTHERS, label=rows.label.iloc[0])
            continue
        point = {**look.point, **look.line, "markevery": [-1]}
        axes.plot(rows.evaluations, rows[measure], **point, linewidth=width, label=rows.label.iloc[0])
        ends.append((series.short(rows.label.iloc[0]), rows[measure].iloc[-1], look.color))
        if key == POP:
            low, high = rows[f"{measure}_low"], rows[f"{measure}_high"]
            axes.fill_between(rows.evaluations, low, high, color=look.color, alpha=0.15, lw=0)
    later = curves[measure][curves.evaluations >= RISE]
    axes.set(xscale="log", xlim=(1, 1.1 * curves.evaluations.max()), ylim=(later.min(), axes.get_ylim()[1]))
    axes.set(xlabel="evaluations of value and gradient", ylabel=f"mean {measure}")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    style.grid(axes)
    series.name_ends(axes, ends)


def dot_panels(figure: Any, scores: pd.DataFrame, coloured: Collection[str]) -> None:
    """Panels with common rows, optimizers by group: the policy's paired lead over them by both scores."""
    others = scores[scores.optimizer != POP]
    y = panels.row_positions(others)
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for panel, (measure, name) in zip(axes, MEASURES.items(), strict=True):
        column = f"{measure}_difference"
        panel.axvline(0, color=style.look(POP).color, linewidth=1)
        for place, row in zip(y, others.to_dict("records"), strict=True):
            key = row["optimizer"]
            lead_row(panel, place, row, column, style.look(key) if key in coloured else series.muted(key))
        ahead, compared = int((others[f"{column}_low"] > 0).sum()), int(others[column].notna().sum())
        title = f"{policy_label(scores)} is ahead of {ahead} of {compared}"
        panel.set(title=title, xlabel=f"difference in {name} (paired)")
        style.grid(panel, "x")
        panel.tick_params(axis="y", length=0)
    panels.name_rows(axes[0], others, list(others.label), y)


def lead_row(axes: Axes, place: float, row: Mapping[Any, Any], column: str, look: style.Look) -> None:
    """A difference with its 95 % interval, open if that includes 0."""
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    axes.plot([low, high], [place, place], color=look.color, linewidth=1.6)
    axes.plot(row[column], place, **replace(look, filled=not low <= 0 <= high).point, markersize=6)


def leads(scores: pd.DataFrame, case: str, measure: str) -> pd.DataFrame:
    """The row of the best baseline, by its mean, in each case; a case is a value of that column."""
    baselines = scores[scores.group.isin(BASELINES)].dropna(subset=[f"{measure}_difference"])
    return baselines.loc[baselines.groupby(case, sort=False)[measure].idxmax()]


def lead_panel(axes: Axes, leads: pd.DataFrame, cases: Sequence[Any], case: str, measure: str) -> None:
    """The policy's paired lead over the best baseline with its 95 % interval, filled if that excludes 0.

    Rows are the `cases`; the baseline's name is at the right edge. The title counts the cases.
    """
    look, column = style.look(POP), f"{measure}_difference"
    axes.axvline(0, color=style.INK, linewidth=0.8)
    for row in leads.to_dict("records"):
        place, text = cases.index(row[case]) + 0.5, f"over {row['label']}"
        lead_row(axes, place, row, column, look)
        axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    ahead, behind = (leads[f"{column}_low"] > 0).sum(), (leads[f"{column}_high"] < 0).sum()
    axes.set_title(f"{measure.capitalize()}: ahead in\n{ahead} of {len(leads)}, behind in {behind}")
    axes.set(xlabel="lead (paired)", ylim=(len(cases), 0))
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def table(material: Material) -> pd.DataFrame:
    """One row per optimizer: scores, the policy's lead with its tests, and scores by kind of function."""
    scores = material.tables["pop-indistribution"]
    edges = material.tables["pop-tuned"].set_index("optimizer").on_edge
    readable = readable_scores(scores)
    marks = scores.optimizer.map(edges.map({True: " †", False: ""})).fillna("")
    readable.insert(1, "learning rate", scores.learning_rate.map(style.number) + marks)
    for kind, name in KINDS.items():
        for measure in MEASURES:
            readable[f"{measure}, {name}"] = [style.number(value) for value in scores[f"{kind}_{measure}"]]
    return readable


def readable_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as text, for each row of `optrepro.analysis.pop.generalization.compare`; 95 % intervals in brackets."""
    record = zip(scores.wins, scores.ties, scores.losses, strict=True)
    policy = policy_label(scores)
    return pd.DataFrame(
        {
            "optimizer": scores.label,
            "normalized improvement": intervals(scores, "improvement", 3),
            "digits": intervals(scores, "digits", 2),
            "rank": [style.number(rank) for rank in scores["rank"]],
            f"lead of {policy}, improvement": intervals(scores, "improvement_difference", 3),
            "p (Holm)": [style.p_value(p) for p in scores.improvement_p],
            f"lead of {policy}, digits": intervals(scores, "digits_difference", 2),
            "p (Holm), digits": [style.p_value(p) for p in scores.digits_p],
            f"wins/ties/losses of {policy}": [f"{w}/{t}/{loss}" if w + t + loss else "–" for w, t, loss in record],
            "functions": scores.functions,
            "skipped": scores.skipped,
            "diverged": scores.diverged,
        }
    )


def policy_label(scores: pd.DataFrame) -> str:
    """The name of the policy that the others are compared with; its key where it has no results."""
    return next(iter(scores.label[scores.optimizer == POP]), POP)


def intervals(scores: pd.DataFrame, name: str, digits: int) -> list[str]:
    """A column with its 95 % intervals as text, `digits` after the point."""
    ends = scores[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
    return [style.interval(mean, low, high, digits) for mean, low, high in ends]
