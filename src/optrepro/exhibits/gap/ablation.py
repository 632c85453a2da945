"""Exhibit gap-ablation: the effect of each part of the greedy rule, and of the batch size."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

TITLES = {"gap-ablation-sgd": "SGD", "gap-ablation-adam": "AdamW"}
HEADINGS = {"fixed": "fixed candidates"}
MARKERS = ("o", "s")  # markers of the studies in their common panel
SPREAD = 0.35  # largest horizontal offset of the lines, in octaves of batch size
FAR = 3  # chosen: rows further behind than so many upper quartiles of the differences are arrows
SAME = 0.0005  # chosen: a variant this close to its score, in accuracy, has no effect and no row


def figure(material: Material) -> Figure:
    """Above: differences of the variants, in groups, to the picked fixed candidate. Below: the same by batch size."""
    variants, sizes = material.tables["gap-ablation"], material.tables["gap-batch-sizes"]
    rows = _rows(variants[~_without_effect(variants)])
    height = 4.0 * (len(rows) + rows.group.nunique()) + 32
    page = style.page(material, height=height + 66)
    parts: Any = page.subfigures(2, 1, height_ratios=[height, 66])
    top, bottom = parts
    _variant_panels(top, variants, rows)
    _size_panels(bottom, sizes)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per variant, then one per batch size and optimizer: accuracies in %, differences in points."""
    variants = material.tables["gap-ablation"]
    sizes = material.tables["gap-batch-sizes"]
    sizes = sizes.assign(varied="batch of " + sizes.batch_size.astype(str))
    both = pd.concat([variants, sizes], ignore_index=True)

    def column(name: str) -> list[str]:
        ends = 100 * both[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
        return [style.interval(mean, low, high, 2) for mean, low, high in ends]

    corrected = {"p (Holm)": [style.p_value(p) for p in both.p_holm]} if both.p_holm.notna().any() else {}
    return pd.DataFrame(
        {
            "study": both.study.map(TITLES).fillna("SGD"),
            "varied": both.varied.replace(HEADINGS),
            "row": both.label + both.on_boundary.map({True: " †", False: ""}),
            "learning rate": [f"{rate:g}" for rate in both.learning_rate],
            "test accuracy (%)": column("test_accuracy"),
            "difference to the best fixed (points)": column("difference"),
            **corrected,
            "difference to the score alone (points)": column("base_difference"),
            "smallest candidate (% of choices)": [style.percent(share) for share in both.smallest],
            "seeds": both.seeds,
            "diverged": both.diverged,
            "diverged in tuning": both.tuning_diverged,
        }
    )


def _variant_panels(figure: Figure, variants: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Differences for each study, and the shares of the smallest candidate; a note names variants without effect."""
    y = dict(zip(rows.optimizer, panels.row_positions(rows), strict=True))
    *sides, shares = figure.subplots(1, variants.study.nunique() + 1, sharey=True)
    idle = _without_effect(variants)
    for axes, marker, (study, own) in zip(sides, MARKERS, variants.groupby("study", sort=False), strict=False):
        varied = own[own.base_difference.notna()]
        differ = int(((varied.base_difference_low > 0) | (varied.base_difference_high < 0)).sum())
        name = TITLES.get(str(study), str(study))
        shown = own[~idle[own.index]]
        shown = shown.assign(row=[_key(row) for row in shown.to_dict("records")])
        _differences(axes, shown, y)
        axes.set_title(f"{name}: {differ} of {len(varied)} variants\ndiffer from their score")
        chosen = shown.dropna(subset="smallest")
        shares.plot(100 * chosen.smallest, chosen.row.map(y), marker, color=style.INK, label=name, mfc="none")
    shares.set(title="How often the smallest\ncandidate is taken", xlabel="share of choices (%)", xlim=(-4, 104))
    shares.legend(loc="upper left", handletextpad=0.2)
    style.grid(shares, "x")
    shares.tick_params(axis="y", length=0)
    panels.name_rows(sides[0], rows, list(rows.label))
    if idle.any():
        groups = variants[idle].drop_duplicates("optimizer").groupby("varied", sort=False)
        named = ", ".join(f"{group} ({'; '.join(own.label)})" for group, own in groups)
        note = f"Not shown, as within {100 * SAME:g} points of the score alone: {named}"
        figure.supxlabel(textwrap.fill(note, 120), x=0.01, ha="left", fontsize=7)


def _size_panels(figure: Figure, sizes: pd.DataFrame) -> None:
    """Differences and shares of the smallest candidate by batch size."""
    difference, smallest = figure.subplots(1, 2)
    rules = sizes[sizes.group != "fixed"]
    _by_size(difference, rules, "difference")
    difference.axhline(0, color=style.MUTED, linewidth=0.8, zorder=0)
    difference.set(title=_at_sizes(rules[rules.group == "dynamic"]), ylabel="points to the picked fixed one")
    _by_size(smallest, sizes.dropna(subset="smallest"), "smallest")
    smallest.set(title="How often the smallest candidate\nis taken", ylabel="share of choices (%)", ylim=(-4, 104))
    handles, labels = difference.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=4, loc="outside lower center", handlelength=2.4)


def _without_effect(variants: pd.DataFrame) -> pd.Series:
    """Whether a variant is within `SAME` of its score in every study."""
    ends = variants[["base_difference_low", "base_difference_high"]].abs()
    return (ends <= SAME).all(axis=1).groupby(variants.optimizer).transform("all")


def _at_sizes(rules: pd.DataFrame) -> str:
    """In how many comparisons, over the batch sizes, rules are better and worse than the picked fixed candidate."""
    better, worse = int((rules.difference_low > 0).sum()), int((rules.difference_high < 0).sum())
    sizes = rules.batch_size.nunique()
    return f"Rules at {sizes} batch sizes: better in {better},\nworse in {worse} of {len(rules)} comparisons"


def _rows(variants: pd.DataFrame) -> pd.DataFrame:
    """The rows of all studies, each once, grouped by variation: optimizer, label, group (the heading)."""
    records = variants.to_dict("records")
    rows = pd.DataFrame(
        {
            "optimizer": [_key(row) for row in records],
            "label": [f"{row['value']:g}" if row["group"] == "fixed" else row["label"] for row in records],
            "group": variants.varied.replace(HEADINGS),
        }
    ).drop_duplicates("optimizer")
    order = {group: i for i, group in enumerate(rows.group.unique())}
    return rows.sort_values("group", key=lambda group: group.map(order), kind="stable", ignore_index=True)


def _key(row: Mapping[Hashable, Any]) -> str:
    """Key of a row, which is the same for fixed candidates of equal memory with SGD and with Adam."""
    return f"momentum-{round(100 * row['value'])}" if row["group"] == "fixed" else str(row["optimizer"])


def _differences(axes: Axes, variants: pd.DataFrame, y: Mapping[str, float]) -> None:
    """Dots with intervals in the colour of their score; open if the difference to the score alone may be 0."""
    behind = variants.difference.abs()
    least = -FAR * behind[behind > SAME].quantile(0.75)
    for row in variants.to_dict("records"):
        look, position = style.look(row["base"] or row["row"]), y[row["row"]]
        if row["optimizer"] == row["reference"]:
            axes.plot(0, position, "|", color=look.color, markersize=9, markeredgewidth=1.6)
            continue
        if row["difference"] < least:
            note = f"◂ {100 * row['difference']:.2f}"
            axes.annotate(note, (0.02, position), xycoords=axes.get_yaxis_transform(), fontsize=7, va="center")
            continue
        low, high = 100 * row["difference_low"], 100 * row["difference_high"]
        same = row["base_difference_low"] <= 0 <= row["base_difference_high"]
        axes.plot([low, high], [position] * 2, color=look.color, linewidth=1.4)
        axes.plot(100 * row["difference"], position, "o", color=look.color, mfc="white" if same else look.color)
    axes.axvline(0, color=style.MUTED, linewidth=0.8, zorder=0)
    axes.set_xlabel("points to the fixed one\npicked on validation (paired)")
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def _by_size(axes: Axes, sizes: pd.DataFrame, column: str) -> None:
    """A line for each optimizer over the batch sizes, with 95 % intervals if the column has them.

    The lines are offset horizontally, so that their intervals do not overlap.
    """
    places = np.linspace(-SPREAD, SPREAD, sizes.optimizer.nunique())
    for place, (key, rows) in zip(places, sizes.groupby("optimizer", sort=False), strict=True):
        rows, look = rows.sort_values("batch_size"), style.look(str(key))
        x = rows.batch_size * 2**place
        axes.plot(
            x,
            100 * rows[column],
            **look.line,
            marker=look.marker,
            linewidth=1.2,
            ms=3.5,
            label=rows.label.iloc[0],
        )
        if f"{column}_low" in rows:
            axes.vlines(x, 100 * rows[f"{column}_low"], 100 * rows[f"{column}_high"], color=look.color, lw=0.7)
    ticks = sorted(sizes.batch_size.unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("batch size (examples)")
    style.grid(axes)
