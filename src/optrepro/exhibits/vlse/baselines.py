"""Exhibit vlse-baselines: the classic optimizers on the benchmark functions, by function and overall."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import StrMethodFormatter

from optrepro.conventions import FLOOR
from optrepro.exhibits import panels, series, style
from optrepro.exhibits.functions import heat_map
from optrepro.exhibits.material import Material

SUBSET = "smooth"  # the functions in the figure, without those that have kinks along curves; the table has all
COLOURED = 5  # number of optimizers with a colour, those of the best rank
GAP = 0.07  # between names of optimizers, as a share of a panel's height


def figure(material: Material) -> Figure:
    """Left: regret by function and optimizer. Right: ranks on the smooth functions, and two performance profiles."""
    scores, profile = material.tables["vlse-scores"], material.tables["vlse-profile"]
    page = style.page(material, height=max(150.0, 3.7 * scores.function.nunique() + 38))
    parts: Any = page.subfigures(1, 2, width_ratios=[1, 1.05])
    heat_map(parts[0], scores)
    diagram, profiles = parts[1].subfigures(2, 1, height_ratios=[1, 2.6])
    ranks = rank_diagram(diagram, material)
    coloured = series.foremost(-ranks.set_index("optimizer")["rank"], (), COLOURED)
    smooth = profile[profile.subset == SUBSET]
    targets = sorted(smooth.target.unique(), reverse=True)
    for axes, target in zip(profiles.subplots(len(targets), 1, squeeze=False)[:, 0], targets, strict=True):
        profile_panel(axes, smooth[smooth.target == target], scores, coloured)
        axes.set_xlabel("evaluations of value and gradient")
    return page


def rank_diagram(figure: SubFigure, material: Material) -> pd.DataFrame:
    """Critical-difference diagram of the average ranks; bars join optimizers without significant difference."""
    ranks, tests = (_selected(material.tables[name], SUBSET, "regret") for name in ("vlse-ranks", "vlse-tests"))
    best = ranks.iloc[int(ranks["rank"].argmin())]
    panels.critical_difference(figure.subplots(), ranks, tests, bold=[best.optimizer])
    title = f"{best.label} ranks first by regret, {best.functions} {_kind(SUBSET)}functions"
    figure.suptitle(title, x=0.03, ha="left", fontsize="medium", fontweight="bold")
    return ranks


def profile_panel(axes: Axes, curves: pd.DataFrame, scores: pd.DataFrame, coloured: Sequence[str]) -> None:
    """Share of problems (a function with a start) solved to a normalized regret, against evaluations."""
    shares, ends, last = {}, [], curves.evaluations.max()
    for row in scores.drop_duplicates("optimizer").to_dict("records"):
        curve = curves[curves.optimizer == row["optimizer"]].sort_values("evaluations")
        look, solved = style.look(row["optimizer"]), 100 * curve.share
        shares[row["label"]] = solved.iloc[-1]
        drawn: dict[str, Any] = series.OTHERS
        if row["optimizer"] in coloured:
            drawn = {**look.point, **look.line, "markevery": [-1]}
            ends.append((row["label"], solved.iloc[-1], look.color))
        axes.plot(curve.evaluations, solved, **drawn, drawstyle="steps-post", clip_on=False)
    axes.set(xscale="log", ylabel="solved (%)", xlim=(1, 1.1 * last), ylim=(0, 1.15 * max(shares.values()) or 1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    exponent = round(np.log10(curves.target.iloc[0]))
    most = max(shares, key=lambda label: shares[label])
    axes.set_title(f"Solved to 10$^{{{exponent}}}$: most by {most}")
    style.grid(axes)
    series.name_ends(axes, ends, GAP)


def table(material: Material) -> pd.DataFrame:
    """Two rows per function (median normalized improvement and regret) and the summaries; one column per optimizer."""
    scores = material.tables["vlse-scores"]
    rows = []
    for _, own in scores.groupby("function", sort=False):
        facts = own.iloc[0].to_dict()
        head = {"group": facts["group"], "function": panels.function_label(facts), "d": str(facts["dimension"])}
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
