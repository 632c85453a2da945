"""Exhibit pop-indistribution: the policy and the baselines on test functions of the prior, at the trained horizon."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from optrepro.conventions import POP
from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

COLLECTION = "prior-test"
KINDS = {"convex": "convex", "gp": "Gaussian process", "sum": "sum of both"}
MEASURES = {"improvement": "normalized improvement", "digits": "digits gained"}
RISE = 5  # number of evaluations in which all curves rise; the axis does not resolve values before


def figure(material: Material) -> Figure:
    """Above: both scores during the runs. Below: scores at the horizon, and the policy's lead over each optimizer."""
    scores = material.tables["pop-indistribution"]
    horizon = scores.budget.max()
    curves = material.tables["pop-curves"]
    shown = complete(curves[(curves.collection == COLLECTION) & (curves.evaluations <= horizon)])
    rows = 4.6 * len(scores) + 30
    page = style.page(material, height=rows + 75)
    parts: Any = page.subfigures(2, 1, height_ratios=[75, rows])
    upper = parts[0].subplots(1, 2)
    for axes, measure in zip(upper, MEASURES, strict=True):
        curve_panel(axes, shown, measure)
    parts[0].legend(*upper[0].get_legend_handles_labels(), ncols=5, loc="outside lower center", handlelength=2.6)
    dot_panels(parts[1], scores)
    return page


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of optimizers that ran on all functions of their collection, so that their means are comparable.

    References may have run on fewer functions; only their paired differences to the policy are comparable.
    """
    return table[table.functions == table.groupby("collection").functions.transform("max")]


def curve_panel(axes: Axes, curves: pd.DataFrame, measure: str) -> None:
    """Mean score over the evaluations, on a logarithmic axis; the band is the policy's 95 % interval."""
    for key, rows in curves.groupby("optimizer", sort=False):
        look, width = style.look(str(key)), 2.4 if key == POP else 1.1
        point = {**look.point, **look.line, "markevery": [-1]}
        axes.plot(rows.evaluations, rows[measure], **point, linewidth=width, label=rows.label.iloc[0])
        if key == POP:
            low, high = rows[f"{measure}_low"], rows[f"{measure}_high"]
            axes.fill_between(rows.evaluations, low, high, color=look.color, alpha=0.15, lw=0)
    later = curves[measure][curves.evaluations >= RISE]
    axes.set(xscale="log", xlim=(1, 1.1 * curves.evaluations.max()), ylim=(later.min(), None))
    axes.set(xlabel="evaluations of value and gradient", ylabel=f"mean {measure}")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_title(MEASURES[measure].capitalize())
    style.grid(axes)


def dot_panels(figure: Any, scores: pd.DataFrame) -> None:
    """Panels with common rows, optimizers by group: both scores, and the policy's paired lead."""
    axes = figure.subplots(1, 4, sharey=True)
    lead = f"Lead of\n{policy_label(scores)}"
    y = panels.row_positions(scores)
    titles = {
        "improvement": ("Improvement", "normalized improvement"),
        "improvement_difference": (lead, "difference (paired)"),
        "digits": ("Digits", "digits gained"),
        "digits_difference": (lead, "difference (paired)"),
    }
    whole = complete(scores).reindex(scores.index).assign(optimizer=scores.optimizer)
    for panel, (column, (title, label)) in zip(axes, titles.items(), strict=True):
        shown = scores if column.endswith("difference") else whole
        if shown[column].notna().any():
            panels.dots(panel, shown, y, column, 1)
        if column.endswith("difference"):
            panel.axvline(0, color=style.look(POP).color, linewidth=1)
            panel.set_xlim(min(panel.get_xlim()[0], 0), max(panel.get_xlim()[1], 0))
        panel.set(title=title, xlabel=label)
        panel.locator_params(axis="x", nbins=4)
    panels.name_rows(axes[0], scores, list(scores.label), y)


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
