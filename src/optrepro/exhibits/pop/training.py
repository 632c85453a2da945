"""Exhibit pop-training: scores of a policy during its training, with those of the tuned baselines."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from optrepro.conventions import POP
from optrepro.exhibits import series, style
from optrepro.exhibits.material import Material

SCORES = {"score": "score", "improvement": "normalized improvement", "digits": "digits gained"}
DIAGNOSTICS = {
    "kl": "KL divergence of an update (nats)",
    "entropy": "entropy of the actions (nats)",
    "explained_variance": "explained variance",
}
RISE = 0.05  # share of the training in which the scores rise; the axis does not resolve values before
COLOURED = 3  # number of baselines with a colour, those of the highest score
GAP = 0.062  # between names of baselines, as a share of a panel's height


def figure(material: Material) -> Figure:
    """The score on the validation functions and its two parts, with lines for the baselines."""
    curves, tuned = material.tables["pop-training"], material.tables["pop-tuned"]
    lines = tuned[(tuned.optimizer == POP) | (tuned.group != "policy")]
    coloured = series.foremost(lines.set_index("optimizer").score, [POP], COLOURED)
    page = style.page(material, height=82)
    for axes, metric in zip(page.subplots(1, 3), SCORES, strict=True):
        score_panel(axes, curves[curves.metric == metric], lines, metric, coloured)
    return page


def score_panel(axes: Axes, curves: pd.DataFrame, lines: pd.DataFrame, metric: str, coloured: list[str]) -> None:
    """A score of the policy on validation functions by number of training functions; horizontal lines: baselines."""
    ends = []
    for (key, seed), rows in curves.groupby(["optimizer", "seed"], sort=False):
        color, label = style.look(str(key)).color, str(rows.label.iloc[0])
        axes.plot(rows.functions, rows.value, color=color, linewidth=1.6, zorder=3)
        if seed == curves.seed.min():
            ends.append((series.short(label), rows.value.iloc[-1], color))
    for row in lines.to_dict("records"):
        look, width = style.look(row["optimizer"]), 2.0 if row["optimizer"] == POP else 1.3
        drawn = {**look.line, "linewidth": width} if row["optimizer"] in coloured else series.OTHERS
        axes.axhline(row[metric], **{**drawn, "zorder": 1})
        color = look.color if row["optimizer"] in coloured else style.MUTED
        ends.append((series.short(row["label"]), row[metric], color))
    later = curves.value[curves.functions >= RISE * curves.functions.max()]
    low, high = min(later.min(), lines[metric].min()), max(later.max(), lines[metric].max())
    if low < high:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
    axes.set(title=passed(curves, lines, metric), ylabel=SCORES[metric], xlabel="training functions seen")
    axes.set_xlim(0, curves.functions.max())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=2)
    style.grid(axes)
    series.name_ends(axes, ends, GAP)


def passed(curves: pd.DataFrame, lines: pd.DataFrame, metric: str) -> str:
    """How many of the baselines a policy is above at the end of its training, in words."""
    final = curves.value[curves.functions == curves.functions.max()].mean()
    baselines = lines[lines.optimizer != POP][metric]
    return f"Ends above {(baselines < final).sum()} of {len(baselines)} baselines"


def table(material: Material) -> pd.DataFrame:
    """Validation scores of each tuned optimizer, and of the trained policy at the end and at its best.

    For the policy there are the diagnostics of PPO at that point, too.
    """
    curves, tuned = material.tables["pop-training"], material.tables["pop-tuned"]
    rows = [_row(row["label"], _rate(row), row) for row in tuned.to_dict("records")]
    wide = curves.pivot_table(index=["label", "seed", "functions"], columns="metric", values="value").reset_index()
    for (label, seed), own in wide.dropna(subset=["score"]).groupby(["label", "seed"], sort=False):
        for name, at in (("last", own.iloc[-1]), ("best", own.iloc[int(own.score.argmax())])):
            rows.append(_row(f"{label}, seed {seed}, {name}", "–", at.to_dict(), f"{at.functions:,.0f}"))
    return pd.DataFrame(rows)


def _row(label: str, rate: str, numbers: dict[Any, Any], seen: str = "–") -> dict[str, str]:
    cells = {
        title: style.number(numbers.get(name, float("nan")), 4) for name, title in {**SCORES, **DIAGNOSTICS}.items()
    }
    return {"optimizer": label, "learning rate": rate, "training functions seen": seen, **cells}


def _rate(row: dict[Any, Any]) -> str:
    return style.number(row["learning_rate"]) + (" †" if row["on_edge"] else "")
