"""Exhibit gap-families: the optimal operators of the static families on toy losses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
MEMBERS = {"frobenius": "optimal member", "random": "random member", "identity": "identity"}
FAMILIES = {
    "frobenius": "Frobenius (optimal member)",
    "spectral": "spectral",
    "lyapunov": "Lyapunov",
    "diagonal": "diagonal",
    "identity": "identity",
}
KINDS = {
    "members": "Members of one family",
    "families": "Families, constant scale",
    "families-decayed": "Families, shrinking steps",
}
NORM = {"families-norm": "Families, equal norm"}  # in the table only
FIXED = ("lyapunov", "diagonal")  # their steps do not shrink with the gradient
STALLED = 100  # a family has stalled if shrinking steps lower its last gap by more than this factor


def figure(material: Material) -> Figure:
    """One row of panels for each toy loss: members of one family, families, and families whose steps shrink."""
    table, members = material.tables["gap-families"], material.tables["gap-family-members"]
    drawn = table[table.shown & table.kind.isin(KINDS)]
    toys, kinds = list(drawn.toy.unique()), [kind for kind in KINDS if kind in set(drawn.kind)]
    page = style.page(material, height=20 + 50 * len(toys))
    panels = page.subplots(len(toys), len(kinds), squeeze=False, sharex=True)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    for row, toy in zip(panels, toys, strict=True):
        here = drawn[drawn.toy == toy]
        for axes, kind in zip(row, kinds, strict=True):
            if kind not in set(here.kind):
                axes.set_axis_off()
                continue
            if kind == "members":
                _single_members(axes, members[members.toy == toy])
            _panel(axes, MEMBERS if kind == "members" else FAMILIES, here[here.kind == kind])
            axes.set_title(f"{next(letters)}  {TOYS.get(toy, toy)}")
        row[0].set_ylabel("loss above its minimum")
        _name_stalled(row[kinds.index("families")], here)
    for axes, kind in zip(panels[0], kinds, strict=True):
        axes.set_title(f"{KINDS[kind]}\n{axes.get_title('left')}", loc="left")
    for axes in panels[-1]:
        axes.set_xlabel("step")
    named = {label: line for axes in panels[0] for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    page.legend(named.values(), named.keys(), ncols=6, loc="outside lower center")
    return page


def table(material: Material) -> pd.DataFrame:
    """The gap at the last step of each optimizer on each toy loss, at the power in the figure."""
    curves = material.tables["gap-families"]
    last = curves[curves.shown & (curves.step == curves.groupby("toy").step.transform("max"))]
    return pd.DataFrame(
        {
            "comparison": last.kind.map({**KINDS, **NORM}),
            "loss": last.toy.map(lambda toy: TOYS.get(toy, toy)),
            "optimizer": [
                (MEMBERS if kind == "members" else FAMILIES)[key]
                for kind, key in zip(last.kind, last.optimizer, strict=True)
            ],
            "power": [f"{power:g}" for power in last.power],
            "final gap (median)": [style.number(gap) for gap in last["median"]],
            "lower quartile": [style.number(gap) for gap in last.lower],
            "upper quartile": [style.number(gap) for gap in last.upper],
            "members ahead of the optimal one (%)": [style.percent(share, 0) for share in last.ahead],
            "diverged starts (%)": [style.percent(share, 0) for share in last.diverged_share],
        }
    )


def _panel(axes: Axes, names: Iterable[str], curves: pd.DataFrame) -> None:
    """Median and quartiles over the starts; random members are drawn one by one instead."""
    for key in names:
        if key == "random":
            continue
        rows = curves[curves.optimizer == key].sort_values("step")
        look = style.look(key)
        lower, middle, upper = (_drawable(rows[column]) for column in ("lower", "median", "upper"))
        axes.plot(rows.step, middle, **look.line, label=FAMILIES[key])
        axes.fill_between(rows.step, lower, upper, color=look.color, alpha=0.12, lw=0)
    drawn = _drawable(curves[["lower", "upper"]])
    axes.set(yscale="log", ylim=(np.nanmin(drawn) / 2, np.nanmax(drawn) * 2))
    style.grid(axes)


def _single_members(axes: Axes, members: pd.DataFrame) -> None:
    look = style.look("random")
    for number, (_, rows) in enumerate(members.sort_values("step").groupby("member")):
        label = MEMBERS["random"] if number == 0 else None
        axes.plot(rows.step, _drawable(rows["median"]), color=look.color, lw=0.6, ls=":", label=label)


def _name_stalled(axes: Axes, curves: pd.DataFrame) -> None:
    """Say in the panel of constant scale which families stall there because the length of their steps is fixed."""
    last = curves[curves.step == curves.step.max()].set_index(["kind", "optimizer"])["median"].clip(lower=FLOOR)
    stalled = [
        FAMILIES[key]
        for key in FIXED
        if last.get(("families", key), 0.0) > STALLED * last.get(("families-decayed", key), np.inf)
    ]
    if stalled:
        text = f"{', '.join(stalled)}: stalled,\nsteps of fixed length"
        plate = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        place: dict[str, Any] = {"ha": "right", "va": "top", "transform": axes.transAxes}
        axes.text(0.98, 0.97, text, fontsize=7, color=style.MUTED, bbox=plate, **place)


def _drawable(gaps: pd.Series | pd.DataFrame) -> NDArray[np.float64]:
    """Gaps for a logarithmic axis, at least the floor; the curve ends where a run diverged."""
    values = gaps.to_numpy(dtype=float)
    return np.where(np.isfinite(values), np.maximum(values, FLOOR), np.nan)
