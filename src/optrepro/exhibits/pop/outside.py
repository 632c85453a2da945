"""Exhibits pop-cutest and pop-bbob: ranks by number of variables and budget, data and performance profiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from optrepro.conventions import POP
from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop.indistribution import policy_label
from optrepro.exhibits.pop.vlse_profiles import TICKS
from optrepro.studies import kinds

SOLVED = {"solved": "1e-3", "solved_well": "1e-6"}  # tolerances by column
SPREAD = 0.5  # width over which the markers of a group are spread
PROFILES = {
    "data": ("Solved to {tolerance} of the start's regret", "evaluations of value and gradient"),
    "performance": ("Performance profile, {tolerance}", "evaluations / fewest of any optimizer"),
}


def figure(material: Material) -> Figure:
    """Above: average ranks by group at each budget. Below: a data and a performance profile for each tolerance."""
    (study,) = material.facts
    ranks, profiles = material.tables[f"{study}-ranks"], material.tables[f"{study}-profiles"]
    if ranks.empty:
        return _without_runs(material)
    page = style.page(material, height=170)
    parts: Any = page.subfigures(2, 1, height_ratios=[60, 110])
    budgets = ranks.budget.unique()
    for axes, budget in zip(parts[0].subplots(1, len(budgets), sharey=True, squeeze=False)[0], budgets, strict=True):
        rank_panel(axes, ranks[(ranks.budget == budget) & ranks["rank"].notna()])
    parts[0].axes[0].set_ylabel("average rank (1 is best)")
    parts[0].axes[0].invert_yaxis()
    tolerances = sorted(profiles.tolerance.unique(), reverse=True)
    rows = parts[1].subplots(len(PROFILES), len(tolerances), sharey=True, squeeze=False)
    for row, kind in zip(rows, PROFILES, strict=True):
        for axes, tolerance in zip(row, tolerances, strict=True):
            profile_panel(axes, profiles[(profiles.kind == kind) & (profiles.tolerance == tolerance)])
        row[0].set_ylabel("problems (%)")
    page.legend(*rows[0, 0].get_legend_handles_labels(), ncols=6, loc="outside lower center", handlelength=2.6)
    return page


def rank_panel(axes: Axes, ranks: pd.DataFrame) -> None:
    """Average rank among policies and first-order baselines, by group of problems."""
    groups, keys = list(ranks.group.unique()), list(ranks.optimizer.unique())
    for place, key in enumerate(keys):
        own, look = ranks[ranks.optimizer == key], style.look(key)
        shift = SPREAD * (place / max(len(keys) - 1, 1) - 0.5)
        size = 8 if key == POP else 4
        axes.plot([groups.index(group) + shift for group in own.group], own["rank"], **look.point, markersize=size)
    for border in range(1, len(groups)):
        axes.axvline(border - 0.5, color=style.FAINT, linewidth=0.8)
    sizes = ranks.drop_duplicates("group").problems
    axes.set_xticks(range(len(groups)), [f"{group}\n({size})" for group, size in zip(groups, sizes, strict=True)])
    axes.set(xlabel="variables (problems)", xlim=(-0.5, len(groups) - 0.5), title=f"{ranks.budget.iloc[0]} evaluations")
    style.grid(axes)


def profile_panel(axes: Axes, profiles: pd.DataFrame) -> None:
    """One profile of every optimizer, on a logarithmic axis."""
    last = max(profiles.x.max(), 2)
    title, label = PROFILES[profiles.kind.iloc[0]]
    for key, own in sorted(profiles.groupby("optimizer", sort=False), key=lambda pair: pair[0] == POP):
        look, width = style.look(str(key)), 2.2 if key == POP else 1.0
        drawn = {**look.point, **look.line, "drawstyle": "steps-post", "markevery": [-1], "clip_on": False}
        x, share = [*own.x, last], [*own.share, own.share.iloc[-1]]
        axes.plot(x, 100 * np.array(share), **drawn, linewidth=width, label=own.label.iloc[0])
    exponent = round(np.log10(profiles.tolerance.iloc[0]))
    axes.set(xscale="log", xlim=(1, last), ylim=(0, None), xlabel=label)
    axes.set_title(title.format(tolerance=f"10$^{{{exponent}}}$"))
    axes.set_xticks([x for x in TICKS if x <= last])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.minorticks_off()
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """One row per group of problems, budget and optimizer: ranks, solved problems, and the policy's record."""
    (study,) = material.facts
    ranks = material.tables[f"{study}-ranks"]
    if ranks.empty:
        return pd.DataFrame({"not run": [_why(material)]})
    marks = ranks.on_edge.map({True: " †"}).fillna("")
    record = zip(ranks.wins, ranks.ties, ranks.losses, strict=True)
    shares = {f"solved to {tolerance} (%)": ranks[name] for name, tolerance in SOLVED.items()}
    return pd.DataFrame(
        {
            "variables": ranks.group,
            "budget": ranks.budget,
            "problems": ranks.problems,
            "optimizer": ranks.label,
            "learning rate": ranks.learning_rate.map(style.number) + marks,
            "rank among first-order": [f"{rank:.2f}" if rank == rank else "–" for rank in ranks["rank"]],
            "Friedman's p": [style.p_value(p) for p in ranks.friedman_p],
            "critical difference": [style.number(value) for value in ranks.critical_difference],
            "rank with L-BFGS": [f"{rank:.2f}" for rank in ranks.rank_gradient],
            **{name: [style.percent(share) for share in column] for name, column in shares.items()},
            f"wins/ties/losses of {policy_label(ranks)}": [
                f"{w}/{t}/{loss}" if w + t + loss else "–" for w, t, loss in record
            ],
            "p (Holm)": [style.p_value(p) for p in ranks.p],
            "skipped": ranks.skipped,
            "diverged": ranks.not_finite,
        }
    )


def _without_runs(material: Material) -> Figure:
    """A page that says why there is nothing to see."""
    page = style.page(material, height=30)
    page.set_layout_engine("none")  # without axes there is nothing to lay out
    page.text(0.5, 0.4, _why(material), ha="center", va="center", fontsize=8, color=style.WARNING)
    return page


def _why(material: Material) -> str:
    (facts,) = material.facts.values()
    packages = ", ".join(kinds.study(facts.settings).packages())
    return f"Not run: the problems are in the package {packages}, which was not installed."
