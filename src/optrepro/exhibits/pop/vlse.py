"""Exhibit pop-vlse: the policy and the baselines on the benchmark functions, by function and overall."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from optrepro.conventions import POP
from optrepro.exhibits import style
from optrepro.exhibits.functions import heat_map
from optrepro.exhibits.material import Material
from optrepro.exhibits.panels import function_label

FAMILIES = (
    "policy",
    "first-order",
    "quasi-newton",
    "derivative-free",
)  # order from left to right, and from top to bottom
OUTCOMES = {"wins": style.look(POP).color, "ties": style.FAINT, "losses": style.MUTED}
SETS = {"smooth": "smooth functions", "all": "functions"}
TUNED = {"once": "baselines tuned once", "each": "baselines tuned for each function"}


def figure(material: Material) -> Figure:
    """Left: regret by function and optimizer. Right: improvement, ranks, and wins against the policy."""
    scores = _in_families(material.tables["pop-vlse-scores"].query("tuned == 'once'"))
    summary = _in_families(material.tables["pop-vlse-summary"].query("subset == 'smooth'"))
    page = style.page(material, height=max(150.0, 3.9 * scores.function.nunique() + 35))
    parts: Any = page.subfigures(1, 2, width_ratios=[1.4, 1])
    heat_map(parts[0], scores)
    _highlight(parts[0].axes[0], scores)
    summary_panels(parts[1], summary)
    return page


def summary_panels(figure: SubFigure, summary: pd.DataFrame) -> None:
    """Mean improvement, average rank, and the policy's wins, ties and losses; one row per optimizer."""
    improvement, rank, wins = figure.subplots(3, 1)
    rows = summary.drop_duplicates("optimizer")
    y = dict(zip(rows.optimizer, range(len(rows)), strict=True))
    for row in summary.to_dict("records"):
        look, shift = style.look(row["optimizer"]), 0.0
        if row["tuned"] == "each":
            if row["family"] not in ("first-order", "quasi-newton"):
                continue  # the same as for "once", because the optimizer is not tuned
            look, shift = style.Look(look.color, look.marker, look.dashes, filled=False), 0.3
        height = y[row["optimizer"]] + shift
        improvement.plot(
            [row["improvement_low"], row["improvement_high"]], [height] * 2, color=look.color, linewidth=1.4
        )
        improvement.plot(row["improvement"], height, **look.point)
        rank.plot(row["rank_any"], height, **look.point)
        if row["optimizer"] != POP and row["wins"] == row["wins"]:
            _outcome_bar(wins, height, row)
    functions = int(summary.functions.max())
    improvement.set(title="Normalized improvement", xlabel="mean, 95 % interval")
    rank.set(title="Average rank", xlabel="by median regret, 1 is best", xlim=(1, None))
    wins.set(title=f"Won by {_label(rows, POP)}", xlabel="functions won, tied, lost", xlim=(0, functions))
    for axes in (improvement, rank, wins):
        axes.set_yticks(range(len(rows)), rows.label)
        axes.set_ylim(len(rows) - 0.3, -0.7)
        axes.tick_params(axis="y", length=0)
        _bold_policies(axes.get_yticklabels(), rows)
        style.grid(axes, "x")
    handles = [
        Line2D([], [], **style.Look(style.INK, "o", filled=filled).point, label=label)
        for filled, label in ((True, "tuned once"), (False, "for each function"))
    ]
    figure.legend(handles=handles, ncols=2, loc="outside lower center")


def table(material: Material) -> pd.DataFrame:
    """Two rows per function (medians with intervals), and the summaries; one column per optimizer."""
    scores = _in_families(material.tables["pop-vlse-scores"])
    labels = list(scores.label.unique())
    rows = [row for _, own in scores.groupby(["function", "tuned"], sort=False) for row in _function_rows(own)]
    rows += _summary_rows(_in_families(material.tables["pop-vlse-summary"]))
    return pd.DataFrame(rows, columns=["group", "function", "d", "baselines", "measure", *labels]).fillna("–")


def _function_rows(own: pd.DataFrame) -> list[dict[str, str]]:
    facts = own.iloc[0].to_dict()
    head = {
        "group": facts["group"],
        "function": function_label(facts),
        "d": str(facts["dimension"]),
        "baselines": TUNED[facts["tuned"]],
    }
    rows = []
    for measure in ("improvement", "regret"):
        cells = {}
        for row in own.to_dict("records"):
            middle, low, high = (style.number(row[measure + end], 3) for end in ("", "_low", "_high"))
            cells[row["label"]] = f"{middle} [{low}, {high}]"
        rows.append({**head, "measure": f"median {measure}", **cells})
    return rows


def _summary_rows(summary: pd.DataFrame) -> list[dict[str, str]]:
    """The summaries of each optimizer, for both ways of tuning and both sets of functions."""
    rows = []
    for (tuned, subset), own in summary.groupby(["tuned", "subset"], sort=False):
        head = {
            "group": "summary",
            "function": f"{own.functions.max()} {SETS[str(subset)]}",
            "baselines": TUNED[str(tuned)],
        }
        cells: dict[str, dict[str, str]] = {}
        for row in own.to_dict("records"):
            for measure, text in _summary_cells(row).items():
                cells.setdefault(measure, {})[row["label"]] = text
        rows += [{**head, "measure": measure, **texts} for measure, texts in cells.items()]
    return rows


def _summary_cells(row: dict[Any, Any]) -> dict[str, str]:
    cells = {
        "mean normalized improvement": style.interval(
            row["improvement"], row["improvement_low"], row["improvement_high"]
        ),
        "average rank by regret, first-order": _rank(row["rank_first_order"]),
        "average rank by regret, with L-BFGS": _rank(row["rank_gradient"]),
        "average rank by regret, with derivative-free": _rank(row["rank_any"]),
        "learning rate tuned once († an end of the grid)": style.number(row["learning_rate"])
        + (" †" if row["on_edge"] else ""),
        "diverged tuning runs": f"{row['diverged_in_tuning']:.0f}",
    }
    if row["optimizer"] == POP or row["wins"] != row["wins"]:
        return cells
    return cells | {
        "wins/ties/losses of the policy": f"{row['wins']:.0f}/{row['ties']:.0f}/{row['losses']:.0f}",
        "better/worse over paired starts (5 %)": f"{row['start_wins']}/{row['start_losses']}",
        "Wilcoxon's p (Holm) by regret": style.p_value(row["p_regret"]),
        "Wilcoxon's p (Holm) by improvement": style.p_value(row["p_improvement"]),
    }


def _rank(rank: float) -> str:
    return "–" if rank != rank else f"{rank:.2f}"


def _outcome_bar(axes: Axes, height: float, row: dict[Any, Any]) -> None:
    """A bar of wins, ties and losses; it is thinner for the baseline tuned for each function."""
    once, left = row["tuned"] == "once", 0.0
    for outcome, color in OUTCOMES.items():
        axes.barh(height, row[outcome], left=left, height=0.36 if once else 0.2, color=color, alpha=1 if once else 0.6)
        left += row[outcome]


def _highlight(axes: Axes, scores: pd.DataFrame) -> None:
    """Draw the names of policies in their colours, and the smallest regret of each function in bold."""
    columns = scores.drop_duplicates("optimizer")
    axes.tick_params(axis="x", labelrotation=62, labelsize=6.5)
    _bold_policies(axes.get_xticklabels(), columns)
    values = scores.pivot(index="function", columns="optimizer", values="regret")
    values = values.loc[scores.function.unique(), columns.optimizer]
    best = values.le(values.min(axis=1), axis=0).to_numpy().ravel()
    for text, bold in zip(axes.texts, best, strict=False):
        text.set_fontweight("bold" if bold else "normal")


def _bold_policies(texts: Any, rows: pd.DataFrame) -> None:
    for text, optimizer, family in zip(texts, rows.optimizer, rows.family, strict=True):
        if family == "policy":
            text.set(fontweight="bold", color=style.look(optimizer).color)


def _in_families(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with optimizers in the order of `FAMILIES`; the order of functions is unchanged."""
    order = {family: i for i, family in enumerate(FAMILIES)}
    by_family = table.iloc[np.argsort(table.family.map(order), kind="stable")]
    if "function" not in table:
        return by_family
    place = {name: i for i, name in enumerate(table.function.unique())}
    return by_family.iloc[np.argsort(by_family.function.map(place), kind="stable")]


def _label(rows: pd.DataFrame, optimizer: str) -> str:
    """The optimizer's label, or its key if it has no results."""
    found = rows[rows.optimizer == optimizer].label
    return str(found.iloc[0]) if len(found) else optimizer
