"""Exhibit gap-selection: the choices of each rule on each workload, by time and tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from optrepro.exhibits import style
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material

ROW = ["workload", "optimizer", "layer"]  # keys of a row of the table
LINE, LEGEND = 3.1, 17.0  # heights of a row in a panel and of the legend, mm
MOST = 28  # largest number of tensors with a name; of more, every second or third is named


def figure(material: Material) -> Figure:
    """One block per workload: shares over the whole training, memory over time, and memory by tensor."""
    shares, summary, course = _tables(material)
    blocks = [(str(name), rows) for name, rows in summary.groupby("workload", sort=False)]
    heights = [LINE * max(rows.optimizer.nunique(), min(rows.layer.nunique() - 1, MOST)) + 17 for _, rows in blocks]
    page = style.page(material, height=sum(heights) + LEGEND)
    momenta = sorted(shares.candidate.unique())
    norm = LogNorm(*(1 / (1 - momenta[end]) for end in (0, -1)))
    parts: Any = page.subfigures(len(blocks) + 1, 1, height_ratios=[*heights, LEGEND])
    for part, (name, rows) in zip(parts, blocks, strict=False):
        left, middle, right = part.subplots(1, 3, width_ratios=[1.25, 0.8, 0.8])
        whole = rows[rows.layer == "all"]
        _shares(left, whole, shares[(shares.workload == name) & (shares.layer == "all")])
        left.set_title(workloads.title(name))
        _over_time(middle, course[course.workload == name], norm)
        _by_tensor(right, rows[rows.layer != "all"], norm)
    _legend(parts[-1], momenta, norm)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per workload and rule, then one per tensor for rules that choose by tensor."""
    shares, rows, _ = _tables(material)
    columns = shares.pivot(index=ROW, columns="candidate", values="share").reindex(pd.MultiIndex.from_frame(rows[ROW]))
    return pd.DataFrame(
        {
            "workload": [workloads.title(name) for name in rows.workload],
            "rule": [workloads.rule(key) for key in rows.optimizer],
            "tensor": [workloads.tensor(layer) for layer in rows.layer],
            **{f"{m:g} (% of choices)": [style.percent(share) for share in own] for m, own in columns.items()},
            "constant": rows.constant,
        }
    )


def _tables(material: Material) -> tuple[pd.DataFrame, ...]:
    return tuple(material.tables[f"gap-selection-{kind}"] for kind in ("shares", "summary", "course"))


def _legend(part: Any, momenta: list[float], norm: LogNorm) -> None:
    """The candidates' colours, and the scale of the mean memory."""
    left, right = part.subplots(1, 2, width_ratios=[1, 0.7])
    left.set_axis_off()
    handles = [Patch(color=style.candidate_color(momentum), label=f"{momentum:g}") for momentum in momenta]
    left.legend(handles=handles, ncols=len(handles), loc="center", title="momentum or β₁", title_fontsize=7)
    bar = part.colorbar(ScalarMappable(norm, style.SEQUENTIAL), cax=right, orientation="horizontal")
    memories = [1 / (1 - momentum) for momentum in momenta]
    bar.set_ticks(memories, labels=[f"{memory:.0f}" for memory in memories])
    bar.ax.minorticks_off()
    bar.set_label("mean memory of the choices (steps)")


def _shares(axes: Axes, rows: pd.DataFrame, shares: pd.DataFrame) -> None:
    """A bar for each rule, in the colours of the candidates, with a text if the choice is constant."""
    left = np.zeros(len(rows))
    y = np.arange(len(rows))
    for momentum in sorted(shares.candidate.unique()):
        own = shares[shares.candidate == momentum].set_index("optimizer").share
        width = 100 * own.reindex(rows.optimizer, fill_value=0).to_numpy(dtype=float)
        axes.barh(y, width, left=left, height=0.8, color=style.candidate_color(momentum))
        left = left + width
    for position, constant in enumerate(rows.constant):
        if constant != "no":
            axes.text(2, position, constant, va="center", fontsize=6.2, color=style.INK, fontweight="bold")
    axes.set_yticks(y, [workloads.rule(key) for key in rows.optimizer], fontsize=6.5)
    axes.set(xlim=(0, 100), ylim=(len(y) - 0.5, -0.5), xlabel="share of choices (%)")
    axes.tick_params(axis="y", length=0)


def _over_time(axes: Axes, rows: pd.DataFrame, norm: LogNorm) -> None:
    means = rows.pivot(index="optimizer", columns="step", values="memory").reindex(rows.optimizer.unique())
    _cells(axes, means, norm)
    steps = list(means.columns)
    axes.set_yticks([])
    shown = [0, len(steps) // 2 - 1, len(steps) - 1]
    axes.set_xticks([i + 0.5 for i in shown], [str(steps[i]) for i in shown])
    axes.set_xlabel("training step")
    axes.set_title("over time", fontweight="normal")


def _by_tensor(axes: Axes, rows: pd.DataFrame, norm: LogNorm) -> None:
    if rows.empty:
        axes.set_axis_off()
        return
    means = rows.pivot(index="layer", columns="optimizer", values="memory")
    means = means.reindex(index=rows.layer.unique(), columns=rows.optimizer.unique())
    _cells(axes, means, norm)
    named = range(0, len(means), -(-len(means) // MOST))
    axes.set_yticks([i + 0.5 for i in named], [workloads.tensor(str(means.index[i])) for i in named], fontsize=5.5)
    names = [workloads.rule(str(key)).removesuffix(", per tensor") for key in means.columns]
    axes.set_xticks([i + 0.5 for i in range(len(names))], names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlabel("rule")
    axes.set_title("by tensor", fontweight="normal")


def _cells(axes: Axes, values: pd.DataFrame, norm: LogNorm) -> None:
    axes.pcolormesh(
        values.to_numpy(dtype=float), norm=norm, cmap=colormaps[style.SEQUENTIAL], edgecolors="white", lw=0.4
    )
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
