"""Exhibit pop-vlse: the policy and the baselines on the benchmark functions, by function and overall."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D

from optrepro.conventions import POP
from optrepro.exhibits import panels, series, style
from optrepro.exhibits.functions import heat_map
from optrepro.exhibits.material import Material

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
    """Above: improvement, ranks, and wins against the policy. Below: regret by function and optimizer."""
    scores = _in_families(material.tables["pop-vlse-scores"].query("tuned == 'once'"))
    summary = _in_families(material.tables["pop-vlse-summary"].query("subset == 'smooth'"))
    rows, functions = 4.2 * summary.optimizer.nunique() + 24, 3.4 * scores.function.nunique() + 40
    page = style.page(material, height=rows + functions)
    parts: Any = page.subfigures(2, 1, height_ratios=[rows, functions])
    summary_panels(parts[0], summary)
    heat_map(parts[1], scores)
    _highlight(parts[1].axes[0], scores)
    return page


def summary_panels(figure: SubFigure, summary: pd.DataFrame) -> None:
    """Mean improvement, average rank, and the policy's wins, ties and losses; one row per optimizer.

    Policies and the best baseline by rank have a colour.
    """
    improvement, rank, wins = figure.subplots(1, 3, sharey=True)
    rows = summary.drop_duplicates("optimizer")
    y = dict(zip(rows.optimizer, range(len(rows)), strict=True))
    once = summary[summary.tuned == "once"].set_index("optimizer")
    coloured = series.foremost(-once.rank_any, list(rows.optimizer[rows.family == "policy"]), 1)
    for row in summary.to_dict("records"):
        key, shift = row["optimizer"], 0.0
        look = style.look(key) if key in coloured else replace(style.look(key), color=style.MUTED)
        if row["tuned"] == "each":
            if row["family"] not in ("first-order", "quasi-newton"):
                continue  # the same as for "once", because the optimizer is not tuned
            look, shift = replace(look, filled=False), 0.3
        height = y[key] + shift
        ends = [row["improvement_low"], row["improvement_high"]]
        improvement.plot(ends, [height] * 2, color=look.color, linewidth=1.4)
        improvement.plot(row["improvement"], height, **look.point)
        rank.plot(row["rank_any"], height, **look.point)
        if key != POP and row["wins"] == row["wins"]:
            _outcome_bar(wins, height, row)
    functions, policy = int(summary.functions.max()), _label(rows, POP)
    improvement.set(title=f"{_first(once.improvement, once.label)} improves most", xlabel="mean improvement")
    rank.set(title=f"{_first(-once.rank_any, once.label)} ranks first", xlim=(1, None))
    rank.set_xlabel("average rank, 1 is best")
    others = once.drop(POP, errors="ignore")
    title = f"{policy} wins\nagainst {(others.wins > others.losses).sum()} of {len(others)}"
    wins.set(title=title, xlabel="functions won, tied, lost", xlim=(0, functions))
    for axes in (improvement, rank, wins):
        axes.tick_params(axis="y", length=0)
        style.grid(axes, "x")
    improvement.set_yticks(range(len(rows)), rows.label)
    improvement.set_ylim(len(rows) - 0.3, -0.7)
    _bold_policies(improvement.get_yticklabels(), rows)
    handles = [
        Line2D([], [], **style.Look(style.INK, "o", filled=filled).point, label=label)
        for filled, label in ((True, "tuned once"), (False, "for each function"))
    ]
    figure.legend(handles=handles, ncols=2, loc="outside lower center")


def _first(quality: pd.Series, labels: pd.Series) -> str:
    """The label of the optimizer of the highest quality."""
    return series.short(str(labels.iloc[int(quality.argmax())])) if quality.notna().any() else "none"


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
        "function": panels.function_label(facts),
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
    _bold_policies(axes.get_xticklabels(), columns)
    values = scores.pivot(index="function", columns="optimizer", values="regret")
    values = values.loc[scores.function.unique(), columns.optimizer]
    best = values.le(values.min(axis=1), axis=0).to_numpy().ravel()
    for text, bold in zip(axes.texts, best, strict=False):
        text.set_fontweight("bold" if bold else "normal")


def _bold_policies(texts: Any, rows: pd.DataFrame) -> None:
    for text, optimizer, family in zip(texts, rows.optimizer, rows.family, strict=True):
        if family == "policy":
            text.set(fontweight="bold", color=style.look(optimizer).ink)


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
