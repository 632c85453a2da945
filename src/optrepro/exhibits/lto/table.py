"""Exhibit lto-table: area and final objective of every optimizer in all panels, with ranks and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from optrepro.conventions import PSD
from optrepro.exhibits import style
from optrepro.exhibits.lto.panels import COLOURED, LEARNED, losses, readable_scores
from optrepro.exhibits.material import Material
from optrepro.exhibits.panels import name_rows, row_positions
from optrepro.exhibits.series import muted

VARIANTS = ("psd-bregman", "imitation")  # other ways of training that have a colour here
VERDICTS = {"best": style.look(PSD).color, "equivalent": "#E377B2", "tied": "#F6C6E0", "worse": style.FAINT}
SIGNS = {"best": "●", "equivalent": "◕", "tied": "◐", "worse": "○"}
SIZES = {PSD: 9.0, "l2l": 6.0}  # marker sizes of the learned optimizers; 4 for others
REACH = 0.85  # quantile of the ratios at the end of the axis; larger ratios are drawn there
LANES = (0.0, -0.24, 0.24)  # heights, in rows, of markers that would overlap
WIDTH = 0.022  # of a marker, as a share of the axis


def figure(material: Material) -> Figure:
    """Left: area by panel, relative to the best classic optimizer. Right: average ranks, and panels by verdict."""
    scores = material.tables["lto-scores"]
    summary = material.tables["lto-summary"].sort_values("area_rank", kind="stable")
    page = style.page(material, height=max(115.0, 6.6 * (scores.panel.nunique() + scores.figure.nunique()) + 45))
    parts: Any = page.subfigures(1, 2, width_ratios=[1.4, 1])
    left, right = parts
    area = left.subplots()
    relative_panel(area, scores)
    left.legend(*_legend(summary), ncols=3, loc="outside lower center", handletextpad=0.2, columnspacing=1)
    ranks, verdicts = right.subplots(2, 1)
    rank_panel(ranks, summary)
    verdict_panel(verdicts, summary)
    handles = [Patch(color=color, label=verdict) for verdict, color in VERDICTS.items()]
    right.legend(handles=handles, ncols=2, loc="outside lower center")
    return page


def relative_panel(axes: Axes, scores: pd.DataFrame) -> None:
    """Areas relative to the classic optimizer with the lowest area, on a logarithmic axis; one row per panel."""
    titles = scores.drop_duplicates("panel")
    y = dict(zip(titles.panel, row_positions(titles.assign(group=titles.figure)), strict=True))
    low, high = float(scores.area_relative.min()), max(float(scores.area_relative.quantile(REACH)), 1.02)
    width = WIDTH * np.log(high / low)
    for panel, own in scores.groupby("panel", sort=False):
        ordered = own.sort_values("area_relative", kind="stable")
        lanes = in_lanes(np.log(ordered.area_relative.clip(upper=high)).tolist(), width)
        for row, lane in zip(ordered.to_dict("records"), lanes, strict=True):
            look, inside = _look(row["optimizer"]), row["area_relative"] <= high
            point = look.point if inside else {**look.point, "marker": "$»$"}
            size = SIZES.get(row["optimizer"], 4.0)
            zorder = 2 + size / 10 + (row["optimizer"] in COLOURED)
            x, height = min(row["area_relative"], high), y[panel] + LANES[lane]
            axes.plot(x, height, **point, markersize=size, zorder=zorder, clip_on=False)
    for row in scores[scores.optimizer == PSD].to_dict("records"):
        text = f"{SIGNS[row['area_verdict']]} {row['area_verdict']} {losses(row['diverged'], row['overshot'])}".strip()
        axes.text(1.03, y[row["panel"]], text, transform=axes.get_yaxis_transform(), fontsize=7, va="center")
    axes.axvline(1, color=style.MUTED, linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlim=(low / 1.01, high * 1.01))
    headings = "figure " + titles.figure.str.removeprefix("fig")
    name_rows(axes, titles.assign(group=headings), list(titles.dataset), list(y.values()))
    own = scores[scores.optimizer == PSD]
    best, equivalent = (int((own.area_verdict == verdict).sum()) for verdict in ("best", "equivalent"))
    counts = f"{next(iter(own.label), PSD)}'s area: best in {best},\nequivalent in {equivalent} of {len(own)} panels"
    axes.set(title=counts, xlabel="area over the lowest of a classic optimizer's")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter() if high / low > 3 else StrMethodFormatter("{x:g}"))
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.tick_params(axis="y", length=0)
    style.grid(axes, "both")
    axes.grid(True, axis="x", which="minor")


def in_lanes(places: Sequence[float], width: float) -> list[int]:
    """Lanes of markers at ascending places: the first lane that is free, or else the one that was left first."""
    taken = [-np.inf] * len(LANES)
    lanes = []
    for place in places:
        free = [lane for lane, last in enumerate(taken) if place - last >= width]
        lane = free[0] if free else int(np.argmin(taken))
        taken[lane] = place
        lanes.append(lane)
    return lanes


def _look(optimizer: str) -> style.Look:
    """The look of an optimizer, in grey if it has no colour in the exhibits of Predicted Step Descent."""
    return style.look(optimizer) if optimizer in (*COLOURED, *VARIANTS) else muted(optimizer)


def rank_panel(axes: Axes, summary: pd.DataFrame) -> None:
    """Average rank over the panels; filled markers are ranks by area, open ones by final objective."""
    for place, row in enumerate(summary.to_dict("records")):
        look = _look(row["optimizer"])
        axes.plot([row["area_rank"], row["final_rank"]], [place] * 2, color=look.color, linewidth=0.8)
        for measure, filled in (("final", False), ("area", True)):
            point = replace(look, filled=filled).point
            axes.plot(row[f"{measure}_rank"], place, **point, markersize=SIZES.get(row["optimizer"], 4.0))
    axes.set(title=f"{summary.label.iloc[0]} ranks first", xlabel="rank by area (open: final)", xlim=(0.6, None))
    _rows(axes, summary)


def verdict_panel(axes: Axes, summary: pd.DataFrame) -> None:
    """Numbers of panels by the verdict on an optimizer's area, and of the runs that diverge or overshoot."""
    for place, row in enumerate(summary.to_dict("records")):
        left = 0
        for verdict, color in VERDICTS.items():
            axes.barh(place, row[f"area_{verdict}"], left=left, height=0.6, color=color)
            left += row[f"area_{verdict}"]
        lost = losses(row["lost"], row["overshot"])
        axes.text(left, place, f" {lost}", color=style.WARNING, fontsize=7, va="center")
    axes.set(title="Verdicts by area", xlabel="panels\n(runs: ✕ diverged, △ overshot)")
    axes.set_xlim(0, 1.25 * summary.panels.max())
    _rows(axes, summary)


def table(material: Material) -> pd.DataFrame:
    """One row per panel and optimizer, one per optimizer over all panels, then progress."""
    scores = readable_scores(material.tables["lto-scores"])
    scores.insert(0, "part", "panel")
    records = material.tables["lto-tuned"].to_dict("records")
    rates = {row["optimizer"]: _rate(row) for row in records}
    scores["learning rate"] = material.tables["lto-scores"].optimizer.map(rates).to_numpy()
    overall = [_overall(row, rates) for row in material.tables["lto-summary"].to_dict("records")]
    beyond = [_beyond(row) for row in material.tables["lto-progress"].to_dict("records")]
    parts = [scores, pd.DataFrame([*overall, *beyond])]
    return pd.concat(parts, ignore_index=True).astype(object).fillna("–")


def _overall(row: dict[Any, Any], rates: dict[str, str]) -> dict[str, Any]:
    """The summary of an optimizer, with the number of panels in which it is worse before Holm's correction."""
    cells = {"part": "all panels", "panel": f"{row['panels']} panels", "optimizer": row["label"]}
    cells |= {"learning rate": rates.get(row["optimizer"], "–")}
    cells |= {"diverged": row["lost"], "overshot and recovered": row["overshot"]}
    for measure, name in (("area", "area"), ("final", "final objective")):
        cells[name] = f"{row[f'{measure}_relative']:.3f} of the best classic (geometric mean)"
        cells[f"rank by {name}"] = f"{row[f'{measure}_rank']:.2f}"
        if row["optimizer"] != PSD and row[f"{measure}_wins"] == row[f"{measure}_wins"]:
            record = "/".join(f"{row[f'{measure}_{outcome}']:.0f}" for outcome in ("wins", "ties", "losses"))
            cells[f"difference to it, {name}"] = f"the policy's wins/ties/losses {record}"
            cells[f"p (Holm), {name}"] = style.p_value(row[f"{measure}_p"])
        counts = ", ".join(f"{verdict} {row[f'{measure}_{verdict}']}" for verdict in VERDICTS)
        cells[f"verdict by {name}"] = f"{counts} ({row[f'{measure}_behind']} uncorrected)"
    return cells


def _beyond(row: dict[Any, Any]) -> dict[str, Any]:
    """Progress beyond the trained horizon."""
    fall = style.interval(row["progress"], row["progress_low"], row["progress_high"], 4)
    return {
        "part": f"progress, iteration {row['trained']} to {row['end']}",
        "panel": row["panel"],
        "data": row["dataset"],
        "optimizer": row["label"],
        "final objective": f"{row['at_trained']:.4f} to {row['at_end']:.4f}, falls by {fall}",
    }


def _rate(row: dict[Any, Any]) -> str:
    """The tuned learning rate, with † if it is an end of its grid."""
    return style.number(row["learning_rate"]) + (" †" if row["rates"] > 1 and not row["interior"] else "")


def _rows(axes: Axes, summary: pd.DataFrame) -> None:
    """Label the rows, learned optimizers in their colours."""
    axes.set_yticks(range(len(summary)), _broken(summary))
    axes.set_ylim(len(summary) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    for text, key in zip(axes.get_yticklabels(), summary.optimizer, strict=True):
        if key in LEARNED:
            text.set(fontweight="bold", color=style.look(key).ink)
    style.grid(axes, "x")


def _legend(summary: pd.DataFrame) -> tuple[list[Line2D], list[str]]:
    keys = list(summary.optimizer)
    return [Line2D([], [], **_look(k).point, markersize=SIZES.get(k, 4.0)) for k in keys], _broken(summary)


def _broken(summary: pd.DataFrame) -> list[str]:
    """The labels, with long ones broken into two lines."""
    return [label.replace(", ", ",\n") for label in summary.label]
