"""Exhibit gap-overhead: step time and memory of every optimizer, relative to PyTorch's foreach version."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from optrepro.exhibits import style
from optrepro.exhibits.material import Material

FAMILIES = {"sgd": "SGD", "adamw": "AdamW"}
# Targets for the cost of a step (chosen), for rules with three or two candidates, and without candidates.
TARGETS = {
    ("sgd", "switching"): 2.5,
    ("adamw", "switching"): 2.0,
    ("sgd", "continuous"): 1.3,
    ("adamw", "continuous"): 1.3,
}
SHOWN = ("resnet18", "gpt")  # networks in the figure; the others are in the table
TICKS = (0.25, 1, 4, 16)
UNIT = "(× torch foreach)"


def figure(material: Material) -> Figure:
    """One block per family, with one row per optimizer; panels of step time for each network, and of memory."""
    ratios = material.tables["gap-overhead"]
    families = list(ratios.family.unique())
    rows = [ratios[ratios.family == family].optimizer.nunique() for family in families]
    page = style.page(material, height=26 * len(families) + 4.6 * sum(rows) + 8)
    heights = [count + 5 for count in rows]
    blocks = page.subfigures(len(families), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, family in zip(blocks, families, strict=True):
        _block(block, ratios[ratios.family == family], family)
    target = Line2D([], [], color=style.INK, marker="|", linestyle="none", markersize=9, label="target: at most this")
    blocks[-1].legend(handles=[target], loc="outside lower right")
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per network and optimizer."""
    ratios = material.tables["gap-overhead"]
    return pd.DataFrame(
        {
            "network": ratios.network_label,
            "parameters": ratios.parameters,
            "family": ratios.family.map(lambda family: FAMILIES.get(family, family)),
            "optimizer": ratios.label,
            "step (ms)": [style.number(1000 * seconds) for seconds in ratios.seconds],
            "step / torch's foreach": [
                style.interval(*values, 2) for values in zip(ratios.ratio, ratios.low, ratios.high, strict=True)
            ],
            "turns": ratios.turns,
            "state / torch's": [f"{state:.2f}" for state in ratios.state],
        }
    )


def _block(block: Figure, ratios: pd.DataFrame, family: str) -> None:
    networks = [key for key in ratios.network.unique() if key in SHOWN] or list(ratios.network.unique())
    keys = list(dict.fromkeys(ratios.optimizer))
    panels = block.subplots(1, len(networks) + 1, sharey=True, squeeze=False)[0]
    block.suptitle(
        f"{FAMILIES.get(family, family)} and what is built on it", x=0.01, ha="left", fontsize=9, weight="bold"
    )
    spread = ratios[["low", "high"]].to_numpy()
    for axes, network in zip(panels[:-1], networks, strict=True):
        rows = ratios[ratios.network == network].set_index("optimizer")
        axes.set_xlim(spread.min() / 1.25, spread.max() * 1.25)
        within, targets = _times(axes, rows, keys, family)
        title = f"{rows.network_label.iloc[0]}: {within} of {targets}\nwithin their targets"
        axes.set(title=title, xlabel=f"step time {UNIT}")
    _memory(panels[-1], ratios, keys)
    labels = ratios.drop_duplicates("optimizer").set_index("optimizer").label
    panels[0].set_yticks(range(len(keys)), [labels[key] for key in keys])
    panels[0].set_ylim(len(keys) - 0.4, -0.6)


def _times(axes: Axes, rows: pd.DataFrame, keys: list[str], family: str) -> tuple[int, int]:
    """Step times with their targets; the number of rows within their target, and of rows with one."""
    within = targets = 0
    axes.axvline(1, color=style.MUTED, lw=0.8)
    for y, key in enumerate(keys):
        if key not in rows.index:
            continue
        row, look = rows.loc[key], style.look(key)
        axes.plot([row.low, row.high], [y, y], color=look.color, lw=1.3)
        axes.plot(row.ratio, y, **look.point)
        if (target := TARGETS.get((family, _form(key, str(row.group))))) is not None and row["select"] == "global":
            axes.plot([target, target], [y - 0.4, y + 0.4], color=style.INK, lw=1)
            within, targets = within + bool(row.ratio <= target), targets + 1
    _ratio_axis(axes)
    return within, targets


def _memory(axes: Axes, ratios: pd.DataFrame, keys: list[str]) -> None:
    axes.axvline(1, color=style.MUTED, lw=0.8)
    for y, key in enumerate(keys):
        state, look = ratios[ratios.optimizer == key].state, style.look(key)
        axes.plot([state.min(), state.max()], [y, y], color=look.color, lw=1.3)
        axes.plot(state.median(), y, **look.point)
    most = ratios[ratios.group == "dynamic"].state.max()
    title = f"Memory: a rule takes\nat most {most:.2g} times" if most == most else "Memory"
    axes.set(title=title, xlabel=f"state {UNIT}", xlim=(0.8, 1.15 * ratios.state.max()))
    _ratio_axis(axes, ticks=(1, 2, 3, 4))


def _form(key: str, group: str) -> str:
    """The target that applies to a rule: that for several buffers or for one."""
    if group != "dynamic":
        return "other"
    return "continuous" if key == "continuous" else "switching"


def _ratio_axis(axes: Axes, ticks: tuple[float, ...] = TICKS) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    style.grid(axes, "x")
    axes.set_axisbelow(True)
