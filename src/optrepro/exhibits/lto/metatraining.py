"""Exhibit lto-metatraining: costs of the guiding and the recurrent policy, their mismatch, and validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import StrMethodFormatter

from optrepro.exhibits import style
from optrepro.exhibits.material import Material

METHODS = {
    "mirror": "on policy",
    "bregman": "Bregman ADMM",
    "imitation": "imitation",
    "unrolled": "back-propagation",
}
GUIDED = ("mirror", "bregman")  # methods with a guiding policy
COSTS: dict[str, tuple[dict[str, Any], str]] = {  # style and label of the lines of a guided method
    "guiding": ({"linestyle": "-", "color": style.INK}, "guiding policy"),
    "policy": ({"linestyle": "-"}, "recurrent policy"),
    "area": ({"linestyle": ":", "marker": "o", "markersize": 2.5}, "recurrent policy, validation"),
}
COLOR: dict[str, Any] = {"color": style.MUTED}  # neutral colour in the legend, for lines in the colours of the learners
BELOW = {
    "mismatch": ("Mismatch of mean actions", "rms difference / rms action"),
    "kl": ("Step of the guiding policy", "KL divergence (nats)"),
    "area": ("All learners", "area on validation (nats)"),
}
NAMES = {
    "area": "area, validation",
    "final": "final objective, validation",
    "guiding": "cost, guiding policy",
    "policy": "cost, recurrent policy",
    "kl": "KL",
}


def figure(material: Material) -> Figure:
    """Above: costs of each guided method. Below: mismatch and step of both, and validation of all learners."""
    logged = material.tables["lto-metatraining"]
    guided = [method for method in GUIDED if method in set(logged.method)]
    page = style.page(material, height=130 if guided else 70)
    parts: Any = page.subfigures(2, 1) if guided else [None, page]
    if guided:
        above = parts[0].subplots(1, len(guided), squeeze=False)[0]
        for axes, method in zip(above, guided, strict=True):
            cost_panel(axes, logged[logged.method == method], method)
        above[0].set_ylabel("cost: area (nats)")
        handles = [Line2D([], [], **{**COLOR, **look}, label=name) for look, name in COSTS.values()]
        parts[0].legend(handles=handles, ncols=3, loc="outside lower center")
    shown = {metric: text for metric, text in BELOW.items() if guided or metric == "area"}
    below = parts[1].subplots(1, len(shown), squeeze=False)[0]
    for axes, (metric, (title, label)) in zip(below, shown.items(), strict=True):
        drawn = (logged.metric == metric) & (logged.method.isin(GUIDED) | (metric == "area"))
        metric_panel(axes, logged[drawn], metric)
        axes.set(title=title, ylabel=label)
    handles = [line for line in below[-1].lines if not str(line.get_label()).startswith("_")]
    parts[1].legend(handles=handles, ncols=2, loc="outside lower center", handlelength=3)
    return page


def cost_panel(axes: Axes, logged: pd.DataFrame, method: str) -> None:
    """Costs of both policies on the training objectives, and of the recurrent policy on validation objectives."""
    for (key, _), own in logged.groupby(["optimizer", "seed"], sort=False):
        for metric, (look, _name) in COSTS.items():
            rows = own[own.metric == metric]
            axes.plot(rows.step, rows.value, **{"color": style.look(str(key)).color, "linewidth": 1.3, **look})
    axes.set(title=f"Cost, {METHODS[method]}", xlabel="iteration")
    style.grid(axes)


def metric_panel(axes: Axes, logged: pd.DataFrame, metric: str) -> None:
    """A metric by share of the training, because methods differ in their numbers of iterations."""
    for (key, seed), rows in logged.groupby(["optimizer", "seed"], sort=False):
        look, label = style.look(str(key)), str(rows.label.iloc[0]) if seed == logged.seed.min() else None
        share = 100 * rows.step / rows.step.max()
        axes.plot(share, rows.value, **{**look.point, **look.line}, markersize=3, label=label)
    axes.set(xlabel="training done (%)", xlim=(0, 102))
    if metric == "mismatch":
        axes.set_yscale("log")
        for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            which(StrMethodFormatter("{x:g}"))
        axes.tick_params(axis="y", which="both", labelsize=7)
    finite = logged[np.isfinite(logged.value)]
    low, high = finite.value.min(), finite.groupby("optimizer").value.median().max()
    if metric == "area" and low < high:  # the first values are much larger and are not resolved
        axes.set_ylim(low - 0.05 * (high - low), high + 0.3 * (high - low))
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """One row per learner and seed: the records at the first, the best and the last validation."""
    logged = material.tables["lto-metatraining"]
    rows = []
    for (_, seed), own in logged.groupby(["optimizer", "seed"], sort=False):
        wide = own.pivot(index="step", columns="metric", values="value")
        moments = {"first": wide.index[0], "best": wide.area.idxmin(), "last": wide.index[-1]}
        for moment, step in moments.items():
            values = {NAMES.get(str(m), str(m)): style.number(wide[m].get(step, float("nan")), 4) for m in wide}
            head = {"learner": own.label.iloc[0], "method": METHODS.get(own.method.iloc[0], own.method.iloc[0])}
            rows.append({**head, "seed": seed, "moment": moment, "iteration": f"{step:,}", **values})
    return pd.DataFrame(rows).astype(object).fillna("–")
