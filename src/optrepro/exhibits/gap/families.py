"""Exhibit gap-families: the optimal operators of the static families on toy losses."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from optrepro.exhibits import style
from optrepro.exhibits.material import Material

FLOOR = 1e-10  # gaps below are drawn here
TOYS = {
    "bowl": "round bowl",
    "ellipse": "elliptic bowl",
    "valley": "curved valley",
    "saddle": "saddle",
    "wells": "four wells",
}
NAMES = {
    "members": {"frobenius": "optimal member", "random": "random members", "identity": "identity"},
    "families": {
        "frobenius": "Frobenius",
        "spectral": "spectral",
        "lyapunov": "Lyapunov",
        "diagonal": "diagonal",
        "identity": "identity",
    },
}
KINDS = {
    "members": "Members of one family at one budget",
    "families": "Families at equal power",
    "families-norm": "Families at equal norm",  # in the table only
}


def figure(material: Material) -> Figure:
    """Median gap over the starts with quartiles; one row of panels per comparison, one panel per toy loss."""
    table = material.tables["gap-families"]
    drawn = table[table.shown & table.kind.isin(NAMES)]
    kinds = list(drawn.kind.unique())
    page = style.page(material, height=62 * len(kinds))
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    for part, kind in zip(page.subfigures(len(kinds), 1, squeeze=False)[:, 0], kinds, strict=True):
        curves = drawn[drawn.kind == kind]
        toys = list(curves.toy.unique())
        panels = part.subplots(1, len(toys), squeeze=False)[0]
        for axes, toy in zip(panels, toys, strict=True):
            _panel(axes, kind, curves[curves.toy == toy])
            axes.set_title(f"{next(letters)}  {TOYS.get(toy, toy)}")
        panels[0].set_ylabel("loss above its minimum")
        part.suptitle(KINDS[kind], x=0.01, ha="left", fontsize=9.5, fontweight="bold")
        part.legend(*panels[0].get_legend_handles_labels(), ncols=len(NAMES[kind]), loc="outside lower center")
    return page


def table(material: Material) -> pd.DataFrame:
    """The gap at the last step of each optimizer on each toy loss, at the power in the figure."""
    curves = material.tables["gap-families"]
    last = curves[curves.shown & (curves.step == curves.groupby("toy").step.transform("max"))]
    return pd.DataFrame(
        {
            "comparison": last.kind.map(KINDS),
            "loss": last.toy.map(lambda toy: TOYS.get(toy, toy)),
            "optimizer": [NAMES[kind.split("-")[0]][key] for kind, key in zip(last.kind, last.optimizer, strict=True)],
            "power": [f"{power:g}" for power in last.power],
            "final gap (median)": [style.number(gap) for gap in last["median"]],
            "lower quartile": [style.number(gap) for gap in last.lower],
            "upper quartile": [style.number(gap) for gap in last.upper],
            "members ahead of the optimal one (%)": [style.percent(share, 0) for share in last.ahead],
            "diverged starts (%)": [style.percent(share, 0) for share in last.diverged_share],
        }
    )


def _panel(axes: Axes, kind: str, curves: pd.DataFrame) -> None:
    for key, name in NAMES[kind].items():
        rows = curves[curves.optimizer == key].sort_values("step")
        look = style.look(key)
        lower, middle, upper = (_drawable(rows[column]) for column in ("lower", "median", "upper"))
        axes.plot(rows.step, middle, **look.line, label=name)
        axes.fill_between(rows.step, lower, upper, color=look.color, alpha=0.12, lw=0)
    drawn = _drawable(curves[["lower", "upper"]])
    axes.set(xlabel="step", yscale="log", ylim=(np.nanmin(drawn) / 2, np.nanmax(drawn) * 2))
    style.grid(axes)


def _drawable(gaps: pd.Series | pd.DataFrame) -> NDArray[np.float64]:
    """Gaps for a logarithmic axis, at least the floor; the curve ends where a run diverged."""
    values = gaps.to_numpy(dtype=float)
    return np.where(np.isfinite(values), np.maximum(values, FLOOR), np.nan)
