"""Exhibit pop-training: scores of a policy during its training, with those of the tuned baselines."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from optrepro.conventions import POP
from optrepro.exhibits import style
from optrepro.exhibits.material import Material

SCORES = {"score": "score", "improvement": "normalized improvement", "digits": "digits gained"}
TITLES = {"score": "Validation score", "improvement": "Its part: improvement", "digits": "Its part: digits"}
DIAGNOSTICS = {
    "kl": ("Change per update", "KL divergence (nats)"),
    "entropy": ("Exploration", "entropy of the actions (nats)"),
    "explained_variance": ("Value function", "explained variance"),
}
RISE = 0.05  # share of the training in which the scores rise; the axis does not resolve values before


def figure(material: Material) -> Figure:
    """Above: scores on the validation functions, with lines for the baselines. Below: diagnostics of PPO."""
    curves, tuned = material.tables["pop-training"], material.tables["pop-tuned"]
    page = style.page(material, height=125)
    panels = page.subplots(2, 3)
    for axes, metric in zip(panels[0], SCORES, strict=True):
        score_panel(axes, curves[curves.metric == metric], tuned, metric)
    for axes, metric in zip(panels[1], DIAGNOSTICS, strict=True):
        diagnostic_panel(axes, curves[curves.metric == metric], metric)
    page.legend(*panels[0, 0].get_legend_handles_labels(), ncols=5, loc="outside lower center", handlelength=2.6)
    return page


def score_panel(axes: Axes, curves: pd.DataFrame, tuned: pd.DataFrame, metric: str) -> None:
    """A score of the policy on validation functions by number of training functions; horizontal lines: baselines."""
    _curves(axes, curves)
    for row in tuned[tuned.optimizer.isin([POP]) | (tuned.group != "policy")].to_dict("records"):
        width = 2.0 if row["optimizer"] == POP else 1.0
        axes.axhline(row[metric], **style.look(row["optimizer"]).line, linewidth=width, zorder=1, label=row["label"])
    later = curves.value[curves.functions >= RISE * curves.functions.max()]
    low, high = min(later.min(), tuned[metric].min()), max(later.max(), tuned[metric].max())
    if low < high:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
    axes.set(title=TITLES[metric], ylabel=SCORES[metric])


def diagnostic_panel(axes: Axes, curves: pd.DataFrame, metric: str) -> None:
    """A diagnostic of PPO's iterations by number of training functions."""
    _curves(axes, curves)
    title, label = DIAGNOSTICS[metric]
    axes.set(title=title, ylabel=label)


def _curves(axes: Axes, curves: pd.DataFrame) -> None:
    """A line for each training seed."""
    for (key, seed), rows in curves.groupby(["optimizer", "seed"], sort=False):
        label = f"{rows.label.iloc[0]} (in training)" if seed == curves.seed.min() else None
        axes.plot(rows.functions, rows.value, color=style.look(str(key)).color, linewidth=1.6, label=label, zorder=3)
    axes.set_xlabel("training functions seen")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.locator_params(axis="x", nbins=5)
    style.grid(axes)


def table(material: Material) -> pd.DataFrame:
    """Validation scores of each tuned optimizer, and of the trained policy at the end and at its best."""
    curves, tuned = material.tables["pop-training"], material.tables["pop-tuned"]
    rows = [
        _row(row["label"], _rate(row), [row["score"], row["improvement"], row["digits"]])
        for row in tuned.to_dict("records")
    ]
    wide = curves.pivot_table(index=["label", "seed", "functions"], columns="metric", values="value").reset_index()
    for (label, seed), own in wide.dropna(subset=["score"]).groupby(["label", "seed"], sort=False):
        for name, at in (("last", own.iloc[-1]), ("best", own.iloc[int(own.score.argmax())])):
            rows.append(_row(f"{label}, seed {seed}, {name}", "–", at[list(SCORES)], f"{at.functions:,.0f}"))
    return pd.DataFrame(rows)


def _row(label: str, rate: str, scores: list[float] | pd.Series, seen: str = "–") -> dict[str, str]:
    numbers = dict(zip(SCORES.values(), (style.number(score, 4) for score in scores), strict=True))
    return {"optimizer": label, "learning rate": rate, "training functions seen": seen, **numbers}


def _rate(row: dict[Any, Any]) -> str:
    return style.number(row["learning_rate"]) + (" †" if row["on_edge"] else "")
