"""Exhibit gap-stationarity: how long the gradient autocorrelation lasts, and its stationarity and drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.exhibits import style
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material
from optrepro.exhibits.style import Look

PARTS = {"R": "R changes by half", "memory": "R without R₀ changes by half"}
PASSED = "longest window in which |g|² passes as stationary"
LOOKS = {"R": Look("#0072B2", "o"), "memory": Look("#0072B2", "o", filled=False), "kpss": Look("#E69F00", "s")}
LINES = {"R": -0.25, "memory": 0.0, "kpss": 0.25}  # heights of the marks of a workload
ACCEPTED = 0.05  # a window's length passes while its share of rejections is at most this
LARGEST = max(workloads.MEMORIES)


def figure(material: Material) -> Figure:
    """For each workload, how many steps the autocorrelation lasts, beside the memories of the candidates."""
    names = list(dict.fromkeys(material.tables["gap-lag-one"].workload))
    lasting = _lasting(material)
    page = style.page(material, height=13 * len(names) + 36)
    axes = page.subplots()
    for y, name in enumerate(names):
        for kind, line in LINES.items():
            if (name, kind) in lasting:
                _mark(axes, *lasting[name, kind], y + line, LOOKS[kind])
    furthest = max(steps for steps, _ in lasting.values())
    axes.set_xscale("log")
    axes.set(xlim=(1.6, 2.6 * furthest), ylim=(len(names) - 0.5, -0.5), xlabel="steps")
    axes.set_yticks(range(len(names)), [workloads.title(name) for name in names])
    axes.tick_params(axis="y", length=0)
    _plain_ticks(axes, [2, 5, 10, 20, 50, 100, 200, 500, 1000])
    workloads.mark_memories(axes, -0.5)
    axes.set_title(_finding(lasting, names), pad=16)
    words = {**PARTS, "kpss": PASSED}
    handles = [Line2D([], [], **look.point, label=words[kind]) for kind, look in LOOKS.items()]
    page.legend(handles=handles, ncols=len(handles), loc="outside lower center")
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


def _lasting(material: Material) -> dict[tuple[str, str], tuple[float, str]]:
    """By workload and kind of mark: its place in steps, and the words beside it."""
    drift, half = material.tables["gap-drift"], material.tables["gap-half-distances"]
    long = drift[drift.window == drift.window.max()].groupby("workload").distance.agg(["min", "max"])
    lasting = {}
    for row in half.to_dict("records"):
        first, last = long.loc[row["workload"]]
        steps, words = row["distance"], distance_in_words(row["distance"], first)
        lasting[row["workload"], row["part"]] = (
            (float(last), f"over {last}") if steps == float("inf") else (steps, words)
        )
    tests = material.tables["gap-kpss"]
    for name, rows in tests[tests.series == "kpss_square"].groupby("workload", sort=False):
        lengths = rows.sort_values("length").set_index("length").rejected
        passed = lengths[(lengths <= ACCEPTED).cummin()]
        steps = (passed if len(passed) else lengths).index[-1 if len(passed) else 0]
        words = f"below {steps}" if not len(passed) else f"{'at least ' * (len(passed) == len(lengths))}{steps}"
        lasting[str(name), "kpss"] = (float(steps), words)
    return lasting


def _mark(axes: Axes, steps: float, words: str, y: float, look: Look) -> None:
    axes.plot([1, steps], [y, y], color=look.color, linewidth=0.8, alpha=0.5)
    axes.plot(steps, y, **look.point)
    place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 7}
    axes.annotate(words, (steps, y), **place)


def _finding(lasting: Mapping[tuple[str, str], tuple[float, str]], names: Sequence[str]) -> str:
    """On how many workloads the autocorrelation outlasts the largest memory, with and without R_0."""
    memory = 1 / (1 - LARGEST)
    counts = [sum((name, part) in lasting and lasting[name, part][0] >= memory for name in names) for part in PARTS]
    return (
        f"R outlasts the memory of {LARGEST:g} on {counts[0]} of {len(names)} workloads, "
        f"without R₀ on {counts[1]} of {len(names)}"
    )


def _plain_ticks(axes: Axes, ticks: list[int]) -> None:
    low, high = axes.get_xlim()
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
