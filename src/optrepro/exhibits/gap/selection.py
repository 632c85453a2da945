"""Exhibit gap-selection: which candidates each rule took, on each workload."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from optrepro.exhibits import style
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material

ROW = ["workload", "optimizer", "layer"]  # keys of a row of the table
COLUMNS = 2  # panels side by side


def figure(material: Material) -> Figure:
    """One panel per workload: a bar for each rule, of the candidates' shares in all its choices."""
    shares, summary = _tables(material)
    blocks = [(str(name), rows) for name, rows in summary[summary.layer == "all"].groupby("workload", sort=False)]
    lines = -(-len(blocks) // COLUMNS)
    most = max(len(rows) for _, rows in blocks)
    page = style.page(material, height=lines * (4.6 * most + 16) + 12)
    panels = page.subplots(lines, min(COLUMNS, len(blocks)), sharex=True, squeeze=False)
    for axes in panels[-1]:
        axes.set_xlabel("share of choices (%)")
    for axes, (name, rows) in zip(panels.flat, blocks, strict=False):
        _bars(axes, rows, shares[(shares.workload == name) & (shares.layer == "all")])
        axes.set_title(workloads.title(name))
    for axes in panels.flat[len(blocks) :]:
        axes.set_axis_off()
    momenta = sorted(shares.candidate.unique())
    handles = [Patch(color=style.candidate_color(momentum), label=f"{momentum:g}") for momentum in momenta]
    page.legend(
        handles=handles, ncols=len(handles), loc="outside lower right", title="momentum or β₁", title_fontsize=7
    )
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per workload and rule, then one per tensor for rules that choose by tensor."""
    shares, rows = _tables(material)
    columns = shares.pivot(index=ROW, columns="candidate", values="share").reindex(pd.MultiIndex.from_frame(rows[ROW]))
    return pd.DataFrame(
        {
            "workload": [workloads.title(name) for name in rows.workload],
            "rule": [workloads.rule(key) for key in rows.optimizer],
            "tensor": [workloads.tensor(layer) for layer in rows.layer],
            **{f"{m:g} (% of choices)": [style.percent(share) for share in own] for m, own in columns.items()},
            "constant": rows.constant,
            "mean memory (steps)": [f"{memory:.1f}" for memory in rows.memory],
        }
    )


def _tables(material: Material) -> tuple[pd.DataFrame, pd.DataFrame]:
    return material.tables["gap-selection-shares"], material.tables["gap-selection-summary"]


def _bars(axes: Axes, rows: pd.DataFrame, shares: pd.DataFrame) -> None:
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
            axes.text(2, position, constant, va="center", fontsize=7, color=style.INK, fontweight="bold")
    axes.set_yticks(y, [workloads.rule(key) for key in rows.optimizer])
    axes.set(xlim=(0, 100), ylim=(len(y) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
