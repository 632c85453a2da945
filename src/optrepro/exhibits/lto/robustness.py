"""Exhibit lto-robustness: learned optimizers with other batch sizes, widths and horizons than in their training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.conventions import PSD
from optrepro.exhibits import style
from optrepro.exhibits.lto.panels import LEARNED, losses
from optrepro.exhibits.material import Material

AXES = {"batch": "batch size", "width": "hidden units", "horizon": "iterations"}
SPREAD = 0.07  # horizontal distance of two optimizers' markers, in units of the distance between values
REACH = 1.5  # larger ratios are drawn at the upper edge


def figure(material: Material) -> Figure:
    """Area relative to the best classic optimizer, with 95 % intervals; one panel per varied property."""
    table = material.tables["lto-robustness"]
    page = style.page(material, height=72)
    varied = [name for name in AXES if name in set(table.varied)]
    panels = page.subplots(1, len(varied), squeeze=False, sharey=True)[0]
    for letter, axes, name in zip("abc", panels, varied, strict=False):
        relative_panel(axes, table[table.varied == name])
        axes.set(title=f"{letter}  {AXES[name].capitalize()}", xlabel=AXES[name])
    panels[0].set_ylabel("area over the best classic's")
    panels[0].set_ylim(*_limits(table))
    page.legend(*panels[0].get_legend_handles_labels(), ncols=5, loc="outside lower center", handlelength=3)
    return page


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Limits that contain all ratios and all intervals that are not too wide, at most `REACH`."""
    low, high = (float(np.nanmin([table.relative.min(), 0.98])), float(np.nanmax([table.relative.max(), 1.02])))
    room = 0.3 * (high - low)
    low = float(np.nanmax([low - room, np.nanmin([low, table.relative_low.min()])]))
    high = float(np.nanmin([high + room, np.nanmax([high, table.relative_high.max()]), REACH]))
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def relative_panel(axes: Axes, table: pd.DataFrame) -> None:
    """Ratios by value of the varied property; the horizontal line is the best classic optimizer for each value."""
    keys, values = list(table.optimizer.unique()), sorted(table.value.unique())
    axes.set_xlim(-0.4, len(values) - 0.6)
    for place, key in enumerate(keys):
        rows = table[table.optimizer == key].sort_values("value")
        look, width = style.look(key), LEARNED.get(key, 1.0)
        x = [values.index(value) + SPREAD * (place - (len(keys) - 1) / 2) for value in rows.value]
        shown = rows.relative.clip(upper=REACH)
        ends = [(shown - rows.relative_low).clip(lower=0), (rows.relative_high - shown).clip(lower=0)]
        point = {**look.point, **look.line, "markersize": 8 if key == PSD else 4}
        axes.errorbar(x, shown, yerr=ends, **point, lw=width, elinewidth=1, label=rows.label.iloc[0])
        for at, height, row in zip(x, shown, rows.to_dict("records"), strict=True):
            if text := losses(row["diverged"], row["overshot"]):
                _mark(axes, at, height, f"{text} of {row['repetitions']}", look.ink)
    axes.axhline(1, color=style.MUTED, linewidth=0.8, zorder=0)
    trained = table.trained.iloc[0]
    axes.set_xticks(
        range(len(values)), [f"{value}\nas trained" if value == trained else str(value) for value in values]
    )
    if trained in values:
        axes.axvline(values.index(trained), color=style.MUTED, linewidth=0.8, linestyle=":", zorder=0)
    style.grid(axes)


def _mark(axes: Axes, x: float, y: float, text: str, color: str) -> None:
    """Write a text beside a marker, on the side of the panel's middle."""
    right = x < sum(axes.get_xlim()) / 2
    axes.annotate(
        text,
        (x, y),
        xytext=(5 if right else -5, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=7,
        color=color,
    )


def table(material: Material) -> pd.DataFrame:
    """One row per value and optimizer: area, and area relative to the best classic optimizer."""
    rows = material.tables["lto-robustness"]
    labels = dict(zip(rows.optimizer, rows.label, strict=True))
    readable: dict[str, Any] = {
        "varied": rows.varied.map(AXES),
        "value": [f"{v} (as trained)" if v == t else str(v) for v, t in zip(rows.value, rows.trained, strict=True)],
        "optimizer": rows.label,
    }
    for column, name in (("area", "area"), ("relative", "over the best classic's")):
        ends = rows[[column, f"{column}_low", f"{column}_high"]].to_numpy(dtype=float)
        readable[name] = [style.interval(mean, low, high, 4) for mean, low, high in ends]
    readable["best classic"] = rows.reference.map(labels).fillna("–")
    readable["repetitions"] = rows.repetitions
    readable |= {"diverged": rows.diverged, "overshot and recovered": rows.overshot}
    return pd.DataFrame(readable)
