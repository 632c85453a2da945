"""Exhibit gap-shift: dynamic rules and fixed candidates with a change of data, batch size or noise in mid-training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

FAR = 4.0  # times the upper quartile of the differences
TITLES = {"before": "Before", "after": "After", "overall": "Overall"}


def figure(material: Material) -> Figure:
    """One strip per shift: curves, differences in each phase, recovery, and choices before and after."""
    scores, curves, choices = (material.tables[f"gap-shift-{kind}"] for kind in ("scores", "curves", "choices"))
    studies = list(dict.fromkeys(scores.study))
    rows = [(scores.study == study).sum() + scores[scores.study == study].group.nunique() for study in studies]
    heights = [3.7 * count + 22 for count in rows]
    page = style.page(material, height=sum(heights) + 14)
    parts: Any = page.subfigures(len(studies) + 1, 1, height_ratios=[*heights, 14])
    *strips, legend = parts
    for strip, study in zip(strips, studies, strict=True):
        own = scores[scores.study == study].reset_index(drop=True)
        strip.suptitle(own["shift"].iloc[0].capitalize(), x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        left, right = strip.subfigures(1, 2, width_ratios=[1, 2.4])
        _curves(left.subplots(), curves[curves.study == study], own)
        _columns(right, own, choices[choices.study == study])
    _legend(legend, strips[0], choices)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per shift and optimizer: accuracies and differences in each phase, recovery, choices, failures."""
    scores, choices = material.tables["gap-shift-scores"], material.tables["gap-shift-choices"]
    columns: dict[str, Any] = {
        "shift": scores["shift"],
        "optimizer": [label for _, own in scores.groupby("study", sort=False) for label in panels.row_labels(own)],
        "group": scores.group,
        "learning rate": [f"{rate:g}" for rate in scores.learning_rate],
    }
    for phase in TITLES:
        columns[f"{phase} (%)"] = _texts(scores, phase)
        best = scores.optimizer == scores[f"{phase}_reference"]
        differences = _texts(scores, f"{phase}_difference")
        columns[f"{phase}: difference to best fixed (points)"] = [
            "best fixed" if is_best else text for is_best, text in zip(best, differences, strict=True)
        ]
    for runs, kind in (("tuning", "reference"), ("test runs", "hindsight")):
        columns[f"best fixed in {runs}"] = [_phases(row, kind) for row in scores.to_dict("records")]
    columns["recovery (steps)"] = [_steps(row) for row in scores.to_dict("records")]
    columns["recovered (% of runs)"] = [style.percent(share, 0) for share in scores.recovered]
    for phase in ("before", "after"):
        columns[f"choices {phase} (%)"] = [
            _chosen(choices, row["study"], row["optimizer"], phase) for row in scores.to_dict("records")
        ]
    columns |= {"seeds": scores.seeds, "diverged": scores.diverged, "diverged in tuning": scores.tuning_diverged}
    return pd.DataFrame(columns)


def _curves(axes: Axes, curves: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Test accuracy during training, of the fixed candidates, some rules and some controls."""
    dynamic = scores[scores.group == "dynamic"]
    best = dynamic.sort_values("overall", ascending=False).optimizer[:1]
    keys = [*scores[scores.group == "fixed"].optimizer, *panels.SHOWN_RULES, *best, *panels.SHOWN_CONTROLS]
    panels.curve_panel(axes, curves, scores, list(dict.fromkeys(keys)))
    axes.axvline(scores.remaining.iloc[0], color=style.MUTED, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=0)
    axes.set(title="", ylabel="test accuracy (%)")


def _columns(figure: Figure, scores: pd.DataFrame, choices: pd.DataFrame) -> None:
    """The panels of a strip that have common rows."""
    *phases, recovery, chosen = figure.subplots(1, 5, sharey=True, width_ratios=[1, 1, 1, 0.9, 0.9])
    y = panels.row_positions(scores)
    for axes, (phase, title) in zip(phases, TITLES.items(), strict=True):
        _differences(axes, scores, y, phase)
        for key in {scores[f"{phase}_reference"].iloc[0]} & set(scores.optimizer):
            axes.axvline(0, color=style.look(key).color, linewidth=1)
            axes.plot(0, y[list(scores.optimizer).index(key)], **style.look(key).point)
        axes.set_title(title, fontsize=7.5)
        axes.set_xlabel("points", fontsize=7)
    _recovery(recovery, scores, y)
    _bars(chosen, scores, choices, y)
    labels = [label.replace(" (always the smallest)", "") for label in panels.row_labels(scores)]  # too wide here
    panels.name_rows(phases[0], scores, labels)


def _differences(axes: Axes, scores: pd.DataFrame, y: list[float], phase: str) -> None:
    """Paired differences in one phase; rows far below the others are arrows at the left edge."""
    difference = scores[f"{phase}_difference"]
    if difference.isna().all():
        return
    near = difference >= -FAR * difference.abs().quantile(0.75)
    ends = {f"difference{end}": scores[f"{phase}_difference{end}"].where(near) for end in ("", "_low", "_high")}
    panels.dots(axes, scores.assign(**ends), y, "difference", 100)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.06 * (high - low), high + 0.06 * (high - low))  # room for markers in narrow panels
    axes.locator_params(axis="x", nbins=3)
    for position, value in zip(y, difference.where(~near), strict=True):
        if value == value:
            note = f"◂ {100 * value:.3g}"
            axes.annotate(note, (0.02, position), xycoords=axes.get_yaxis_transform(), fontsize=6.5, va="center")


def _recovery(axes: Axes, scores: pd.DataFrame, y: list[float]) -> None:
    """Median steps until recovery; if half of the runs do not recover, the share of runs that do."""
    remaining = scores.remaining.iloc[0]
    for position, row in zip(y, scores.to_dict("records"), strict=True):
        if np.isfinite(row["recovery"]):
            axes.plot(row["recovery"], position, **style.look(row["optimizer"]).point)
        else:
            note = "–" if np.isnan(row["recovered"]) else f"{style.percent(row['recovered'], 0)} % ▸"
            axes.annotate(note, (1.1 * remaining, position), fontsize=6.5, ha="right", va="center", color=style.MUTED)
    axes.set_xlim(0, 1.12 * remaining)
    axes.locator_params(axis="x", nbins=3)
    axes.set_title("Recovery", fontsize=7.5)
    axes.set_xlabel("steps", fontsize=7)
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def _bars(axes: Axes, scores: pd.DataFrame, choices: pd.DataFrame, y: list[float]) -> None:
    """Shares of the candidates before the shift (upper bar) and after it (lower bar), for rules that choose."""
    for position, key in zip(y, scores.optimizer, strict=True):
        own = choices[choices.optimizer == key].assign(memory=lambda table: table.candidate.astype(float))
        for phase, offset in (("before", -0.2), ("after", 0.2)):
            left = 0.0
            for row in own.sort_values("memory").to_dict("records"):
                width = 100 * row[phase]
                axes.barh(position + offset, width, 0.34, left, color=style.candidate_color(row["memory"]))
                left += width
    axes.set_xlim(0, 100)
    axes.set_title("Chosen", fontsize=7.5)
    axes.set_xlabel("% of choices", fontsize=7)
    axes.tick_params(axis="y", length=0)


def _legend(figure: Figure, strip: Figure, choices: pd.DataFrame) -> None:
    """The legends for the curves and for the candidates' colours."""
    lines, _ = strip.subfigs[0].axes[0].get_legend_handles_labels()
    candidates = sorted(set(choices.candidate), key=float)
    patches = [Patch(color=style.candidate_color(float(name)), label=f"chosen: {name}") for name in candidates]
    figure.legend(handles=lines, loc="center left", ncols=4, handlelength=1.9, columnspacing=0.9)
    figure.legend(handles=patches, loc="center right", ncols=1, handlelength=1.2, columnspacing=0.9)


def _texts(scores: pd.DataFrame, name: str) -> list[str]:
    ends = 100 * scores[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
    return [style.interval(mean, low, high, 2) for mean, low, high in ends]


def _phases(row: dict[Any, Any], kind: str) -> str:
    """The phases in which the row's optimizer is the ``_reference`` or ``_hindsight``, or a dash."""
    return ", ".join(phase for phase in TITLES if row[f"{phase}_{kind}"] == row["optimizer"]) or "–"


def _steps(row: dict[Any, Any]) -> str:
    if np.isinf(row["recovery"]):
        return f"> {row['remaining']}"
    return style.number(row["recovery"])


def _chosen(choices: pd.DataFrame, study: str, optimizer: str, phase: str) -> str:
    """Shares of the candidates in %, such as "0.5: 90, 0.9: 10"; a dash without choices."""
    own = choices[(choices.study == study) & (choices.optimizer == optimizer)]
    shares = sorted((float(row["candidate"]), row[phase]) for row in own.to_dict("records"))
    return ", ".join(f"{candidate:g}: {style.percent(share, 0)}" for candidate, share in shares) or "–"
