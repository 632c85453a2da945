"""Exhibits gap-lm, gap-vit and gap-cifar100: dynamic rules and fixed candidates on one task, also at every rate."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.analysis.results import Facts
from optrepro.exhibits import panels, style
from optrepro.exhibits.gap.every_rate import verdict_cell, verdict_legend
from optrepro.exhibits.material import Material


def figure(material: Material) -> Figure:
    """Above: scores, differences and all learning rates of each row. Below: selected curves and choices."""
    (facts,) = material.facts.values()
    scores, rates, curves, choices = _tables(material)
    rows = 4.6 * len(scores) + 36
    page = style.page(material, height=rows + 65)
    parts: Any = page.subfigures(2, 1, height_ratios=[rows, 65])
    top, bottom = parts
    measured, differences, cells = top.subplots(1, 3, sharey=True, width_ratios=[1, 1, 1.7])
    metric = f"test_{facts.criterion}"
    panels.fill_score_panels([measured, differences], scores, [metric, "difference"], facts.criterion)
    differences.set(title="To best fixed", xlabel=panels.DIFFERENCES[facts.criterion][0])
    panels.name_rows(measured, scores, _labels(scores))
    _rate_panel(cells, scores, rates)
    verdict_legend(top)
    left, right = bottom.subfigures(1, 2, width_ratios=[1.1, 1])
    rules = _shown_rules(scores)
    fixed = scores[scores.group == "fixed"].optimizer
    panels.curve_panel(left.subplots(), curves, scores, [*fixed, *rules, *panels.SHOWN_CONTROLS], metric)
    left.legend(ncols=3, loc="outside lower center", handlelength=1.3, columnspacing=0.5, fontsize=6.5)
    chosen = choices[choices.optimizer.isin(rules)]
    if len(chosen):
        panels.choice_panels(right, chosen, scores, rules)
        for axes in right.axes:
            axes.set_title(
                axes.get_title("left").removeprefix("GAP, ").replace(", ", ",\n"), fontsize=7, fontweight="normal"
            )
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per optimizer: scores, differences, learning rates held, choices, and number of tuning runs."""
    (facts,) = material.facts.values()
    scores, rates, _, _ = _tables(material)
    unit, scale = panels.DIFFERENCES[facts.criterion]
    best = scores.optimizer == scores.reference
    sweep = int(scores[scores.group == "fixed"].tuning_runs.sum())

    def column(name: str, factor: float, digits: int) -> list[str]:
        ends = factor * scores[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
        return [style.interval(mean, low, high, digits) for mean, low, high in ends]

    digits = 2 if facts.criterion == "accuracy" else 4
    tuning = [
        f"{runs} (the sweep: {sweep})" if group == "fixed" else str(runs)
        for runs, group in zip(scores.tuning_runs, scores.group, strict=True)
    ]
    held = rates[rates.trains].groupby("optimizer").held.agg(["sum", "count"]).reindex(scores.optimizer, fill_value=0)
    exact = {"exact match (%)": column("exact_match", 100, 2)} if "exact_match" in scores else {}
    corrected = {"p (Holm)": [style.p_value(p) for p in scores.p_holm]} if scores.p_holm.notna().any() else {}
    return pd.DataFrame(
        {
            "optimizer": panels.row_labels(scores),
            "group": scores.group,
            "learning rate": [f"{rate:g}" for rate in scores.learning_rate],
            "test accuracy (%)": column("test_accuracy", 100, 2),
            "test loss": column("test_loss", 1, 4),
            **exact,
            "rank": [style.number(rank) for rank in scores["rank"]],
            "best fixed": best.map({True: "yes", False: ""}),
            f"difference to the best fixed ({unit})": column("difference", scale, digits),
            **corrected,
            f"difference to the fixed one best on test ({unit})": column("top_difference", scale, digits),
            "learning rates held": [f"{k} of {n}" if n else "–" for k, n in held.to_numpy()],
            "smallest candidate (% of choices)": [style.percent(share) for share in scores.smallest],
            "tuning (runs)": tuning,
            "seeds": scores.seeds,
            "diverged": scores.diverged,
            "diverged in tuning": scores.tuning_diverged,
            "missing": [_missing(facts, runs, n) for runs, n in zip(scores.seeds, scores.diverged, strict=True)],
        }
    )


def _tables(material: Material) -> tuple[pd.DataFrame, ...]:
    (study,) = material.facts
    return tuple(material.tables[f"{study}-{kind}"] for kind in ("scores", "rates", "curves", "choices"))


def _rate_panel(axes: Axes, scores: pd.DataFrame, rates: pd.DataFrame) -> None:
    """Cells with the difference to the best fixed candidate at each learning rate."""
    y = dict(zip(scores.optimizer, panels.row_positions(scores), strict=True))
    grid = sorted(rates.learning_rate.unique())
    for cell in rates[rates.optimizer.isin(y.keys())].to_dict("records"):
        verdict_cell(axes, grid.index(cell["learning_rate"]), y[cell["optimizer"]] - 0.5, cell)
    _costs(axes, scores, y, len(grid))
    axes.set_xticks([i + 0.5 for i in range(len(grid))], [f"{rate:g}" for rate in grid])
    axes.set_xlim(0, len(grid) + 1.4)
    axes.set_title("At every learning rate (tuning)")
    axes.set_xlabel("learning rate", x=len(grid) / 2 / (len(grid) + 1.4))
    panels.bare(axes)


def _costs(axes: Axes, scores: pd.DataFrame, y: dict[Any, float], right: int) -> None:
    """Numbers of tuning runs of the fixed candidates together and of every other row, to the right of the cells."""
    fixed = scores[scores.group == "fixed"]
    if len(fixed):
        first, last = y[fixed.optimizer.iloc[0]], y[fixed.optimizer.iloc[-1]]
        axes.plot([right + 0.12] * 2, [first - 0.4, last + 0.4], color=style.MUTED, linewidth=1)
        axes.text(right + 0.25, (first + last) / 2, f"{fixed.tuning_runs.sum()} runs", va="center", fontsize=6.5)
    for row in scores[scores.group != "fixed"].to_dict("records"):
        axes.text(right + 0.25, y[row["optimizer"]], f"{row['tuning_runs']} runs", va="center", fontsize=6.5)


def _labels(scores: pd.DataFrame) -> list[str]:
    """The rows' labels; ‡ marks a rule that always chose the smallest candidate."""
    always = scores.smallest == 1
    return [label + " ‡" * mark for label, mark in zip(panels.row_labels(scores), always, strict=True)]


def _shown_rules(scores: pd.DataFrame) -> list[str]:
    """Three rules: the paper's score, the raw one, and the best other one on test data, or the debiased one."""
    dynamic = scores[scores.group == "dynamic"]
    best = list(dynamic.sort_values("rank", kind="stable").optimizer[:1])
    return [key for key in dict.fromkeys(["paper", "raw", *best, "debiased"]) if key in set(dynamic.optimizer)][:3]


def _missing(facts: Facts, seeds: int, diverged: int) -> int:
    """Number of missing test runs; if the criterion is loss, the column `seeds` leaves diverged runs out."""
    present = seeds if facts.criterion == "accuracy" else seeds + diverged
    return int(facts.settings["test_repetitions"]) - present
