"""Exhibit vlse-baselines: the classic optimizers on the benchmark functions, by function and overall."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import StrMethodFormatter

from optrepro.conventions import FLOOR
from optrepro.exhibits import style
from optrepro.exhibits.functions import heat_map
from optrepro.exhibits.material import Material
from optrepro.exhibits.panels import critical_difference, function_label


def figure(material: Material) -> Figure:
    """Left: regret by function and optimizer. Right: ranks on both sets of functions, and two performance profiles."""
    scores, profile = material.tables["vlse-scores"], material.tables["vlse-profile"]
    page = style.page(material, height=max(150.0, 3.9 * scores.function.nunique() + 35))
    parts: Any = page.subfigures(1, 2, width_ratios=[1, 1.05])
    heat_map(parts[0], scores)
    *diagrams, profiles = parts[1].subfigures(3, 1, height_ratios=[1, 1, 2.4])
    for part, subset in zip(diagrams, ("smooth", "all"), strict=True):
        rank_diagram(part, material, subset)
    smooth = profile[profile.subset == "smooth"]
    targets = sorted(smooth.target.unique(), reverse=True)
    panels = profiles.subplots(len(targets), 1, sharex=True)
    for axes, target in zip(panels, targets, strict=True):
        profile_panel(axes, smooth[smooth.target == target], scores)
    panels[-1].set_xlabel("evaluations of value and gradient")
    profiles.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="outside lower center", handlelength=2.8)
    return page


def rank_diagram(figure: SubFigure, material: Material, subset: str) -> None:
    """Critical-difference diagram of the average ranks; bars join optimizers without significant difference."""
    ranks, tests = (_selected(material.tables[name], subset, "regret") for name in ("vlse-ranks", "vlse-tests"))
    critical_difference(figure.subplots(), ranks, tests)
    overall = ranks.iloc[0]
    title = f"Average rank by regret, {overall.functions} {_kind(subset)}functions"
    figure.suptitle(title, x=0.03, ha="left", fontsize="medium", fontweight="bold")


def profile_panel(axes: Axes, curves: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Share of problems (a function with a start) solved to a normalized regret, against evaluations."""
    for row in scores.drop_duplicates("optimizer").to_dict("records"):
        curve = curves[curves.optimizer == row["optimizer"]].sort_values("evaluations")
        look = style.look(row["optimizer"])
        style_of = {**look.point, **look.line, "drawstyle": "steps-post", "markevery": [-1], "clip_on": False}
        axes.plot(curve.evaluations, 100 * curve.share, **style_of, label=row["label"])
    axes.set(xscale="log", ylabel="solved (%)", xlim=(1, curves.evaluations.max()), ylim=(0, None))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    exponent = round(np.log10(curves.target.iloc[0]))
    axes.set_title(f"Solved to a normalized regret of 10$^{{{exponent}}}$")
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """Two rows per function (median normalized improvement and regret) and the summaries; one column per optimizer."""
    scores = material.tables["vlse-scores"]
    rows = []
    for _, own in scores.groupby("function", sort=False):
        facts = own.iloc[0].to_dict()
        head = {"group": facts["group"], "function": function_label(facts), "d": str(facts["dimension"])}
        for measure in ("improvement", "regret"):
            cells = {row["label"]: _cell(measure, row[measure]) for row in own.to_dict("records")}
            rows.append({**head, "measure": measure, **cells})
    return pd.DataFrame([*rows, *_rank_rows(material), *_count_rows(scores)]).fillna("–")


def _rank_rows(material: Material) -> list[dict[str, str]]:
    """Average ranks, means and tests against the best-ranked optimizer, for each set of functions and measure."""
    all_ranks, all_tests = material.tables["vlse-ranks"], material.tables["vlse-tests"]
    rows = []
    for subset, measure in product(all_ranks.subset.unique(), all_ranks.measure.unique()):
        ranks, tests = _selected(all_ranks, subset, measure), _selected(all_tests, subset, measure)
        best = ranks.iloc[int(ranks["rank"].argmin())]
        on = f"{best.functions} {_kind(subset)}functions"
        test = f"Friedman's p {_compared(best.friedman_p)}, critical difference {best.critical_difference:.2f}"
        mean = "mean of the medians" if measure == "improvement" else "mean of the medians' log10"
        cells: dict[str, dict[str, str]] = {
            f"average rank ({test})": {},
            mean: {},
            "functions on which no other is better": {},
            f"wins/ties/losses against {best.label}": {},
            f"Wilcoxon's p (Holm) against {best.label}": {},
        }
        for row in ranks.to_dict("records"):
            record, p = _versus(tests, best.optimizer, row["optimizer"])
            values = (f"{row['rank']:.2f}", f"{row['average']:.3f}", str(row["first"]), record, p)
            for own, value in zip(cells.values(), values, strict=True):
                own[row["label"]] = value
        rows += [
            {"group": "summary", "function": f"{what}, {on}", "d": "", "measure": measure, **own}
            for what, own in cells.items()
        ]
    return rows


def _count_rows(scores: pd.DataFrame) -> list[dict[str, str]]:
    """Numbers of skipped and diverged runs and of rates at an end of the grid, over all functions."""
    titles = {
        "on_edge": "functions whose tuned rate is an end of the grid",
        "skipped": "starts skipped as optimal",
        "diverged": "diverged test runs",
        "tuning_diverged": "diverged tuning runs",
    }
    sums = scores.groupby("label")[list(titles)].sum().astype(int).astype(str).to_dict()
    return [
        {"group": "summary", "function": title, "d": "", "measure": "", **sums[column]}
        for column, title in titles.items()
    ]


def _versus(tests: pd.DataFrame, best: str, other: str) -> tuple[str, str]:
    """Wins/ties/losses of `other` against `best`, and the p-value of their difference; dashes for `best` itself."""
    if other == best:
        return "–", "–"
    pair = tests[tests["first"].isin([best, other]) & tests["second"].isin([best, other])].iloc[0]
    wins, losses = (pair.wins, pair.losses) if pair["first"] == other else (pair.losses, pair.wins)
    return f"{wins}/{pair.ties}/{losses}", style.p_value(pair.p_holm)


def _selected(table: pd.DataFrame, subset: str, measure: str) -> pd.DataFrame:
    return table[(table.subset == subset) & (table.measure == measure)]


def _cell(measure: str, value: float) -> str:
    if measure == "improvement":
        return style.number(value, 4)
    return f"< {FLOOR:.0e}" if value < FLOOR else style.number(value, 2)


def _compared(p: float) -> str:
    text = style.p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _kind(subset: str) -> str:
    return "smooth " if subset == "smooth" else ""
