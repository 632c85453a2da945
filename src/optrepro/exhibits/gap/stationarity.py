"""Exhibit gap-stationarity: the gradient autocorrelation along training, its stationarity and its drift."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.exhibits import style
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material

PARTS = {"R": "all lags", "memory": "without $R_0$"}
SHORTEST = 8  # start of the x-axes in the lower panels, in steps: just below the memory of 0.9


def figure(material: Material) -> Figure:
    """Above: the lag-1 coefficient along training. Below: tests of stationarity, and drift, with the memories."""
    lag_one, tests, drift = (material.tables[f"gap-{name}"] for name in ("lag-one", "kpss", "drift"))
    names = list(dict.fromkeys(lag_one.workload))
    looks = workloads.looks(names)
    page = style.page(material, height=132)
    parts: Any = page.subfigures(2, 1, height_ratios=[62, 70])
    above, below = parts
    panels = above.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _coefficients(axes, lag_one[lag_one.workload == name])
        axes.set(title=workloads.title(name), xlabel="training step")
    panels[0].set_ylabel("lag-1 coefficient")
    above.legend(handles=_coefficient_handles(), ncols=4, loc="outside lower center")
    left, middle, right = below.subplots(1, 3)
    _rejections(left, tests, looks)
    for axes, part in ((middle, "R"), (right, "memory")):
        _drift(axes, drift[drift.part == part], looks)
        axes.set_title(f"Drift of $R$, {PARTS[part]}", pad=12)
    right.sharey(middle)
    handles = [Line2D([], [], **look.line, label=workloads.title(name)) for name, look in looks.items()]
    if (short := drift.window.min()) < drift.window.max():
        handles.append(Line2D([], [], color=style.MUTED, lw=0.8, marker=".", label=f"windows of {short} steps"))
    below.legend(handles=handles, ncols=len(handles), loc="outside lower center", handlelength=3)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per workload and tensor: the lag-1 coefficient early, halfway and late, tests, and drift."""
    lag_one, drift = material.tables["gap-lag-one"], material.tables["gap-drift"]
    rejected = material.tables["gap-kpss-tensors"].set_index(["workload", "layer", "series"]).rejected
    half = material.tables["gap-half-distances"].set_index(["workload", "part"]).distance.to_dict()
    long = drift[drift.window == drift.window.max()]
    first = {str(workload): float(rows.distance.min()) for workload, rows in long.groupby("workload")}
    weighted = set(lag_one[lag_one.layer == "preconditioned"].workload)
    tests, rows = material.tables["gap-kpss"], []
    for (name, layer), group in lag_one.groupby(["workload", "layer"], sort=False):
        early, halfway, late = group.iloc[0], group.iloc[len(group) // 2], group.iloc[-1]
        whole = layer == ("preconditioned" if name in weighted else "all")  # the inner product in the score
        row = {"workload": workloads.title(str(name)), "tensor": workloads.tensor(str(layer))}
        row |= {
            f"R_1 / R_0, {when}": style.number(window.coefficient, 2)
            for when, window in (("early", early), ("halfway", halfway), ("late", late))
        }
        row["signal in R_0, halfway"] = style.number(halfway.signal, 2)
        row["R_1 / R_0 without noise, halfway"] = style.number(halfway.noiseless, 2)
        row["R_1 above R_0 without noise, at most (standard errors)"] = style.number(group.excess.max(), 2)
        for series, title in (("kpss_square", "|g|²"), ("kpss_lag1", "lag 1")):
            row[f"stationarity of {title} rejected (%)"] = style.percent(
                rejected.get((name, layer, series), float("nan")), 0
            )
        for part, title in (("R", "R"), ("memory", "R without R_0")):
            steps = distance_in_words(half[name, part], first[str(name)]) if whole else ""
            row[f"{title} changes by half in (steps)"] = steps
            row[f"{title} changes at the shortest distance by"] = _early(drift, str(name), part) if whole else ""
        row["rejected of all tensors' windows, by length (steps: %)"] = _by_length(tests, str(name)) if whole else ""
        rows.append(row)
    return pd.DataFrame(rows)


def _by_length(tests: pd.DataFrame, workload: str) -> str:
    """Shares of windows in which stationarity of |g|² is rejected, in %, by length: "50: 0, 100: 20"."""
    rows = tests[(tests.workload == workload) & (tests.series == "kpss_square")].sort_values("length")
    return ", ".join(f"{row['length']}: {style.percent(row['rejected'], 0)}" for row in rows.to_dict("records"))


def _early(drift: pd.DataFrame, workload: str, part: str) -> str:
    """The change at the shortest distance, "0.29 in 20 steps", or "not resolved in 20 steps"."""
    row = drift[(drift.workload == workload) & (drift.part == part)].sort_values("distance").iloc[0]
    change = "not resolved" if pd.isna(row.change) else style.number(row.change, 2)
    return f"{change} in {row.distance} steps"


def distance_in_words(distance: float, first: float) -> str:
    """A half distance in words; if it is the first distance measured, it is an upper bound."""
    if distance == float("inf"):
        return "not in the training"
    return f"at most {first:.0f}" if distance <= first else f"{distance:.0f}"


def _coefficients(axes: Axes, rows: pd.DataFrame) -> None:
    """Thin lines: tensors, lighter near the output. Thick lines: the sum in the score, measured and noise-free."""
    tensors = [layer for layer in dict.fromkeys(rows.layer) if layer not in workloads.SUMS]
    whole = "preconditioned" if (rows.layer == "preconditioned").any() else "all"
    for i, layer in enumerate(tensors):
        line = rows[rows.layer == layer]
        shade = colormaps[style.SEQUENTIAL](i / max(len(tensors) - 1, 1))
        axes.plot(line.step, line.coefficient, color=shade, linewidth=0.7, alpha=0.9)
    line = rows[rows.layer == whole]
    axes.plot(line.step, line.coefficient, color=style.INK, linewidth=2)
    axes.plot(line.step, line.noiseless, color=style.WARNING, linewidth=1.4, linestyle=(0, (4, 1.5)))
    axes.axhline(0, color=style.MUTED, linewidth=0.6)
    axes.set(ylim=(-0.3, 1.6), xlim=(0, rows.step.max()))
    style.grid(axes)


def _coefficient_handles() -> list[Line2D]:
    first, last = (colormaps[style.SEQUENTIAL](shade) for shade in (0.0, 1.0))
    return [
        Line2D([], [], color=style.INK, linewidth=2, label="$R_1/R_0$, all tensors"),
        Line2D([], [], color=style.WARNING, linestyle=(0, (4, 1.5)), label="with $R_0$ free of noise"),
        Line2D([], [], color=first, linewidth=0.9, label="first tensor"),
        Line2D([], [], color=last, linewidth=0.9, label="last tensor"),
    ]


def _rejections(axes: Axes, tests: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    squares = tests[tests.series == "kpss_square"]
    for name, look in looks.items():
        rows = squares[squares.workload == name].sort_values("length")
        axes.plot(rows.length, 100 * rows.rejected, **look.line, marker=look.marker, markersize=3.5)
    axes.set_xscale("log")
    axes.set(xlim=(SHORTEST, 1.25 * squares.length.max()), ylim=(-4, 104))
    axes.set(xlabel="length of window (steps)", ylabel="windows rejected (%)")
    axes.set_title("Stationarity rejected", pad=12)
    workloads.mark_memories(axes, 104)
    _plain_ticks(axes, [10, 20, 50, 100, 200, 400, 800, 1600])
    style.grid(axes)


def _drift(axes: Axes, rows: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    """Median and quartiles over the distance; thin lines with dots are short windows, for short distances."""
    long = rows.window == rows.window.max()
    for name, look in looks.items():
        own = (rows.workload == name) & rows.change.notna()
        line, short = (rows[own & which].sort_values("distance") for which in (long, ~long))
        axes.plot(line.distance, line.change, **look.line)
        axes.fill_between(line.distance, line.low, line.high, color=look.color, alpha=0.12, lw=0)
        axes.plot(short.distance, short.change, color=look.color, lw=0.8, marker=".", ms=4)
    if not long.all() and rows[~long].change.isna().all():
        place: dict[str, Any] = {"ha": "center", "fontsize": 6.5, "color": style.MUTED}
        axes.text(0.27, 0.04, "shorter\nwindows:\nnot resolved", transform=axes.transAxes, **place)
    axes.axhline(0.5, color=style.MUTED, linewidth=0.8)
    axes.set_xscale("log")
    axes.set(xlim=(SHORTEST, 1.1 * rows.distance.max()), ylim=(0, 1.6))
    axes.set(xlabel="distance of windows (steps)", ylabel="change, over $\\|R\\|$")
    workloads.mark_memories(axes, 1.6)
    _plain_ticks(axes, [10, 20, 50, 100, 200, 500, 1000])
    style.grid(axes)


def _plain_ticks(axes: Axes, ticks: list[int]) -> None:
    low, high = axes.get_xlim()
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
