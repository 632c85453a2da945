"""Exhibits gap-lm, gap-vit and gap-cifar100: dynamic rules and fixed candidates on one task, also at every rate."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.analysis.results import Facts
from optrepro.conventions import ALPHA
from optrepro.exhibits import panels, style
from optrepro.exhibits.gap.every_rate import verdict_cell, verdict_legend
from optrepro.exhibits.material import Material


def figure(material: Material) -> Figure:
    """Above: scores, differences and, where they tell, all learning rates. Below: selected curves and choices."""
    (facts,) = material.facts.values()
    scores, rates, curves, choices = _tables(material)
    telling = _share_apart(rates) > ALPHA
    rows = 4.6 * len(scores if telling else panels.without_copies(scores)) + 38
    page = style.page(material, height=rows + 65)
    parts: Any = page.subfigures(2, 1, height_ratios=[rows, 65])
    top, bottom = parts
    metric = f"test_{facts.criterion}"
    if telling:
        measured, differences, cells = top.subplots(1, 3, sharey=True, width_ratios=[1.2, 1.2, 1.7])
        panels.fill_score_panels([measured, differences], scores, [metric, "difference"], facts.criterion)
        panels.name_rows(measured, scores, _labels(scores))
        _rate_panel(cells, scores, rates)
        verdict_legend(top)
    else:
        panels.score_panels(top, scores, [metric, "difference"], facts.criterion)
    panels.training_panels(bottom, curves, choices, scores, _shown_rules(scores), metric)
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
            **_at_rates(scores, rates, facts.criterion),
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


def _share_apart(rates: pd.DataFrame) -> float:
    """Share of rules and controls, over the learning rates, whose interval is wholly on one side of 0.

    By chance alone, that is `ALPHA` of them.
    """
    rules = rates[rates.trains & (rates.group != "fixed") & rates.verdict.isin(["above", "within", "below"])]
    return float(rules.verdict.isin(["above", "below"]).mean())


def _at_rates(scores: pd.DataFrame, rates: pd.DataFrame, criterion: str) -> dict[str, list[str]]:
    """A column for each learning rate, with the cells of the figure in words."""
    unit, scale = panels.DIFFERENCES[criterion]
    digits = 1 if criterion == "accuracy" else 3
    cells = {(row["learning_rate"], row["optimizer"]): row for row in rates.to_dict("records")}
    return {
        f"at {rate:g} ({unit}, tuning)": [
            _cell_in_words(cells.get((rate, key)), scale, digits) for key in scores.optimizer
        ]
        for rate in sorted(rates.learning_rate.unique())
    }


def _cell_in_words(row: Mapping[Hashable, Any] | None, scale: float, digits: int) -> str:
    """The verdict at a learning rate and the difference: "below, -0.108"; a dash if there is none."""
    if row is None:
        return "–"
    if not row["trains"]:
        return "does not train"
    if row["verdict"] == "best" or row["difference"] != row["difference"]:
        return str(row["verdict"])
    return f"{row['verdict']}, {scale * row['difference']:+.{digits}f}"


def _rate_panel(axes: Axes, scores: pd.DataFrame, rates: pd.DataFrame) -> None:
    """Cells with the difference to the best fixed candidate at each learning rate, below the numbers of tuning runs."""
    y = dict(zip(scores.optimizer, panels.row_positions(scores), strict=True))
    grid = sorted(rates.learning_rate.unique())
    for cell in rates[rates.optimizer.isin(y.keys())].to_dict("records"):
        verdict_cell(axes, grid.index(cell["learning_rate"]), y[cell["optimizer"]] - 0.5, cell)
    fixed = scores.group == "fixed"
    sweep, rule = scores[fixed].tuning_runs.sum(), scores[~fixed].tuning_runs.max()
    axes.set_title(f"At every learning rate: {sweep} runs\nfor the sweep, {rule} for a rule")
    axes.set_xticks([i + 0.5 for i in range(len(grid))], [f"{rate:g}" for rate in grid])
    axes.set_xlim(0, len(grid))
    axes.set_xlabel("learning rate")
    panels.bare(axes)


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
