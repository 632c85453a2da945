"""Exhibit gap-sweep: the manual sweep over learning rate and momentum, dynamic rules beside it, and the costs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

SHOWN_POINTS = 0.1  # the colours cover this much accuracy below the best cell
TITLES = {"gap-sgdm": "SGD with momentum", "gap-adam": "Adam"}


def figure(material: Material) -> Figure:
    """Validation accuracy by candidate or rule (rows) and learning rate (columns), one panel per study."""
    sweeps = _shown(material)
    rows = max(sweep.optimizer.nunique() for sweep in sweeps.values())
    page = style.page(material, height=5.6 * rows + 24)
    sides = page.subplots(1, len(sweeps), squeeze=False)[0]
    for axes, (study, sweep) in zip(sides, sweeps.items(), strict=True):
        _heat_map(axes, sweep)
        axes.set_title(TITLES.get(study, study))
    return page


def table(material: Material) -> pd.DataFrame:
    """Both sweeps, with peers and controls: one row per optimizer and rate, with the cost of tuning the optimizer."""
    parts = []
    for name, sweep in material.tables.items():
        runs = sweep.groupby("optimizer").seeds.transform("sum")
        best = sweep.validation_accuracy == sweep[sweep.group == "fixed"].validation_accuracy.max()
        parts.append(
            pd.DataFrame(
                {
                    "study": name.removesuffix("-sweep"),
                    "optimizer": sweep.label,
                    "group": sweep.group,
                    "learning rate": [f"{rate:g}" for rate in sweep.learning_rate],
                    "validation accuracy (%)": [style.percent(a, 2) for a in sweep.validation_accuracy],
                    "seeds": sweep.seeds,
                    "diverged": sweep.tuning_diverged,
                    "tuned": sweep.tuned.map({True: "yes", False: ""}),
                    "best cell of the fixed sweep": (best & (sweep.group == "fixed")).map({True: "yes", False: ""}),
                    "cost of the row (runs)": runs,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _shown(material: Material) -> dict[str, pd.DataFrame]:
    """The fixed candidates and the dynamic rules of each study; peers may have other grids."""
    sweeps = {name.removesuffix("-sweep"): sweep for name, sweep in material.tables.items()}
    return {study: sweep[sweep.group.isin(["fixed", "dynamic"])] for study, sweep in sweeps.items()}


def _heat_map(axes: Axes, sweep: pd.DataFrame) -> None:
    rates = sorted(sweep.learning_rate.unique())
    labels = sweep.drop_duplicates("optimizer").set_index("optimizer")
    fixed = int((labels.group == "fixed").sum())
    y = {key: i + (0.35 if i >= fixed else 0) for i, key in enumerate(labels.index)}
    top, best = sweep.validation_accuracy.max(), sweep[sweep.group == "fixed"].validation_accuracy.max()
    cells: Any = sweep.itertuples()
    for cell in cells:
        panels.cell(
            axes,
            rates.index(cell.learning_rate),
            y[cell.optimizer],
            _text(cell.validation_accuracy, cell.tuning_diverged, cell.seeds),
            shade=1 - (top - cell.validation_accuracy) / SHOWN_POINTS,
            boxed=cell.group == "fixed" and cell.validation_accuracy == best,
            bold=cell.tuned,
        )
    _costs(axes, sweep, y, fixed, len(rates))
    axes.set_yticks([position + 0.5 for position in y.values()], labels.label)
    axes.set_xticks([i + 0.5 for i in range(len(rates))], [f"{rate:g}" for rate in rates])
    axes.set(xlim=(0, len(rates) + 1.5), ylim=(max(y.values()) + 1, 0))
    axes.set_xlabel("learning rate", x=len(rates) / 2 / (len(rates) + 1.5))
    panels.bare(axes)


def _text(accuracy: float, diverged: int, seeds: int) -> str:
    """Accuracy in %; "div." if every run diverged, with a star if some did."""
    return "div." if diverged == seeds else style.percent(accuracy) + ("*" if diverged else "")


def _costs(axes: Axes, sweep: pd.DataFrame, y: dict[str, float], n_fixed: int, right: int) -> None:
    """The cost of the sweep over all fixed candidates and that of each rule, to the right of the cells."""
    runs = sweep.groupby("optimizer", sort=False).seeds.sum()
    axes.plot([right + 0.12] * 2, [0.1, n_fixed - 0.1], color=style.MUTED, linewidth=1)
    axes.text(right + 0.25, n_fixed / 2, f"{runs.iloc[:n_fixed].sum()} runs", va="center", fontsize=7)
    for key in runs.index[n_fixed:]:
        axes.text(right + 0.25, y[key] + 0.5, f"{runs[key]} runs", va="center", fontsize=7)
