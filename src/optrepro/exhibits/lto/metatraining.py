"""Exhibit lto-metatraining: costs of the guiding and the recurrent policy, their mismatch, and validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import series, style
from optrepro.exhibits.material import Material

METHODS = {
    "mirror": "on policy",
    "bregman": "Bregman ADMM",
    "imitation": "imitation",
    "unrolled": "back-propagation",
}
GUIDED = ("mirror", "bregman")  # methods with a guiding policy
COSTS: dict[str, tuple[dict[str, Any], str]] = {  # style and name of the lines of a recurrent policy
    "policy": ({"linestyle": "-"}, "training"),
    "area": ({"linestyle": ":", "marker": "o", "markersize": 2.5}, "validation"),
}
ROW, LAST = 54.0, 58.0  # heights, mm, of the row of a guided method, and of that of all learners
NAMES = {
    "area": "area, validation",
    "final": "final objective, validation",
    "guiding": "cost, guiding policy",
    "policy": "cost, recurrent policy",
    "kl": "KL",
}


def figure(material: Material) -> Figure:
    """A row for each guided method: both costs and the mismatch. Last, validation of all learners."""
    logged = material.tables["lto-metatraining"]
    guided = [method for method in GUIDED if method in set(logged.method)]
    heights = [*(ROW for _ in guided), LAST]
    page = style.page(material, height=sum(heights))
    parts: Any = page.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, method in zip(parts, guided, strict=False):
        own = logged[logged.method == method]
        part.suptitle(course(own, method), x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        guiding, costs, mismatch = part.subplots(1, 3)
        metric_panel(guiding, own[own.metric == "guiding"])
        guiding.set(title="Cost of the guiding policy", ylabel="area (nats)")
        cost_panel(costs, own)
        metric_panel(mismatch, own[own.metric == "mismatch"])
        mismatch.set(title="Mismatch of actions", ylabel="rms, relative")
    learners_panel(parts[-1].subplots(), logged[logged.metric == "area"])
    return page


def course(logged: pd.DataFrame, method: str) -> str:
    """How the area on the validation problems goes in the training by a method, in words."""
    area = logged[logged.metric == "area"].sort_values("step").groupby("seed").value
    first, last = area.first().mean(), area.last().mean()
    ends = f"from {first:.3f} to {last:.3f}"
    goes = f"falls {ends}" if last < first else f"rises {ends}" if last > first else f"stays at {last:.3f}"
    seeds = f"{area.ngroups} seed{'' if area.ngroups == 1 else 's'}"
    name = METHODS[method][0].upper() + METHODS[method][1:]
    return f"{name}: area on validation {goes} ({seeds})"


def cost_panel(axes: Axes, logged: pd.DataFrame) -> None:
    """Costs of the recurrent policy on the training objectives and on the validation problems."""
    names: dict[str, tuple[str, float, str]] = {}
    for (key, _), own in logged.groupby(["optimizer", "seed"], sort=False):
        color = style.look(str(key)).color
        for metric, (look, name) in COSTS.items():
            rows = own[own.metric == metric]
            axes.plot(rows.step, rows.value, **{"color": color, "linewidth": 1.3, **look})
            if len(rows):
                names[metric] = (name, rows.value.iloc[-1], color)
    axes.set(title="Cost of the recurrent policy", ylabel="area (nats)")
    axes.set(xlabel="iteration", xlim=(0, logged.step.max()))
    style.grid(axes)
    series.name_ends(axes, names.values())


def metric_panel(axes: Axes, logged: pd.DataFrame) -> None:
    """A metric of one method, a line for each seed."""
    for (key, _), rows in logged.groupby(["optimizer", "seed"], sort=False):
        axes.plot(rows.step, rows.value, color=style.look(str(key)).color, linewidth=1.3)
    axes.set(xlabel="iteration", xlim=(0, None))
    style.grid(axes)


def learners_panel(axes: Axes, logged: pd.DataFrame) -> None:
    """Area on validation by share of the training, because methods differ in their numbers of iterations."""
    ends = []
    for (key, seed), rows in logged.groupby(["optimizer", "seed"], sort=False):
        look = style.look(str(key))
        axes.plot(100 * rows.step / rows.step.max(), rows.value, **{**look.point, **look.line}, markersize=3)
        if seed == logged.seed.min() and np.isfinite(rows.value.iloc[-1]):
            ends.append((str(rows.label.iloc[0]), rows.value.iloc[-1], look.color))
    axes.set(xlabel="training done (%)", ylabel="area on validation (nats)", xlim=(0, 100))
    finite = logged[np.isfinite(logged.value)]
    low, high = finite.value.min(), finite.groupby("optimizer").value.median().max()
    if low < high:  # the first values are much larger and are not resolved
        axes.set_ylim(low - 0.05 * (high - low), high + 0.3 * (high - low))
    best = logged.loc[finite.value.idxmin()].label if len(finite) else "none"
    axes.set_title(f"All learners: {best} reaches the lowest area")
    style.grid(axes)
    series.name_ends(axes, ends, 0.1)


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
