"""Exhibit gap-concept: a measured gradient autocorrelation, the candidates' filters, and their inner products."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

SCORES = {"score_paper": "paper", "score_debiased": "debiased", "score_raw": "raw"}


def figure(material: Material) -> Figure:
    """Above: autocorrelation in each window of the run. Below: filters, and scores relative to the best candidate."""
    table = material.tables["gap-concept"]
    measured = table[table.batch_size > 0]
    phases, sizes = list(measured.phase.unique()), sorted(measured.batch_size.unique())
    page = style.page(material, height=78 + 5.2 * len(phases) * len(sizes) + 12)
    parts: Any = page.subfigures(2, 1, height_ratios=[72, 5.2 * len(phases) * len(sizes) + 22])
    above, below = parts
    windows = above.subplots(1, len(phases), sharey=True, squeeze=False)[0]
    for axes, phase in zip(windows, phases, strict=True):
        for size in sizes:
            color = colormaps["Purples"](0.4 + 0.6 * (sizes.index(size) + 1) / len(sizes))
            _autocorrelation(axes, measured[(measured.phase == phase) & (measured.batch_size == size)], color, size)
        axes.axhline(0, color=style.MUTED, linewidth=0.6)
        axes.set(title=f"{phase} in training".capitalize(), xlabel="lag k (steps)")
        style.grid(axes)
    windows[0].set_ylabel("autocorrelation $R_k / R_0$")
    star = Line2D([], [], marker="*", linestyle="none", color=style.MUTED, label="$R_0$ without mini-batch noise")
    handles = [*windows[0].get_legend_handles_labels()[0], star]
    above.legend(handles=handles, ncols=len(handles), loc="outside lower center")
    left, right = below.subplots(1, 2, width_ratios=[1, 2])
    _filters(left, table[table.metric == "filter"])
    _scores(right, measured)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per window and batch size: the autocorrelation at short lags, and the scores of the candidates."""
    measured = material.tables["gap-concept"]
    rows = []
    for (phase, size), window in measured[measured.batch_size > 0].groupby(["phase", "batch_size"], sort=False):
        by_metric = window.set_index(["metric", "lag"]).value
        own = by_metric["autocorrelation", 0]
        row = {"window": phase, "batch size": size, "R_0": style.number(own)}
        row["R_0 without noise / R_0"] = style.number(by_metric["self_term_halves", 0] / own)
        row |= {f"R_{k} / R_0": style.number(by_metric["autocorrelation", k] / own) for k in (1, 2, 5, 10)}
        for metric, name in SCORES.items():
            cells: Any = window[window.metric == metric].itertuples()
            for cell in cells:
                row[f"{name}, {cell.candidate:g}"] = style.number(cell.value) + (" (best)" if cell.best else "")
        rows.append(row)
    return pd.DataFrame(rows)


def _autocorrelation(axes: Axes, window: pd.DataFrame, color: object, size: int) -> None:
    """R_k with its 95 % band, all over R_0; the star is R_0 without mini-batch noise."""
    lags = window[window.metric == "autocorrelation"].sort_values("lag")
    own = lags.value.iloc[0]
    middle, half = lags.value / own, 1.96 * lags.error / own
    axes.plot(lags.lag, middle, color=color, marker=".", markersize=3, linewidth=1, label=f"batch {size}")
    axes.fill_between(lags.lag, middle - half, middle + half, color=color, alpha=0.2, lw=0)
    noiseless = window[window.metric == "self_term_halves"].value.iloc[0] / own
    axes.plot(0, noiseless, "*", color=color, markersize=8, markeredgecolor="white", markeredgewidth=0.4)


def _filters(axes: Axes, filters: pd.DataFrame) -> None:
    for candidate in sorted(filters.candidate.unique()):
        rows, color = filters[filters.candidate == candidate], style.candidate_color(candidate)
        axes.plot(rows.lag, rows.value, color=color, marker=".", markersize=3, label=f"momentum {candidate:g}")
    axes.set(title="Filters of unit norm", xlabel="lag k (steps)", ylabel="weight of the gradient at lag k")
    axes.legend()
    style.grid(axes)


def _scores(axes: Axes, measured: pd.DataFrame) -> None:
    """Cells with each score divided by the largest of its row and kind; the largest is boxed.

    The headings say in how many of the windows each score picks the smallest candidate.
    """
    windows = list(measured.groupby(["phase", "batch_size"], sort=False))
    candidates = sorted(measured.candidate.dropna().unique())
    gap = 0.4
    chosen = measured[measured.best]
    smallest = chosen[chosen.candidate == candidates[0]].groupby("metric").size().reindex(list(SCORES), fill_value=0)
    ticks = []
    for block, metric in enumerate(SCORES):
        left = block * (len(candidates) + gap)
        axes.text(
            left, -0.25, f"{SCORES[metric]}: {smallest[metric]} of {len(windows)}", fontweight="bold", fontsize=7.5
        )
        ticks += [left + i + 0.5 for i in range(len(candidates))]
        for y, (_, window) in enumerate(windows):
            cells = window[window.metric == metric].set_index("candidate")
            for x, candidate in enumerate(candidates):
                score, best = cells.value[candidate] / abs(cells.value).max(), cells.best[candidate]
                panels.cell(axes, left + x, y, f"{round(score, 2) + 0.0:.2f}", (score + 1) / 2, boxed=best, bold=best)
    axes.set_xticks(ticks, [f"{c:g}" for c in candidates] * len(SCORES))
    axes.set_yticks([y + 0.5 for y in range(len(windows))], [f"{phase}, batch {size}" for (phase, size), _ in windows])
    axes.set(
        xlim=(0, ticks[-1] + 0.5),
        ylim=(len(windows), -0.9),
        xlabel="momentum",
        title=_finding(smallest, candidates[0]),
    )
    panels.bare(axes)


def _finding(smallest: pd.Series, candidate: float) -> str:
    """Whether the noise at lag 0 makes the score as written pick the smallest candidate more often."""
    if smallest["score_paper"] > smallest["score_debiased"]:
        return f"Noise at lag 0 makes the written score pick {candidate:g}"
    return f"How often each score picks {candidate:g}"
