"""Exhibit pop-networks: small networks trained by the policy, which was meta-trained on synthetic functions."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from optrepro.analysis.results import Facts
from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

HEIGHT = 62.0  # height of the row of a study, mm


def figure(material: Material) -> Figure:
    """Final test accuracy with intervals, training loss and test accuracy over training; one row per study."""
    page = style.page(material, height=HEIGHT * len(material.facts) + 8)
    parts: Any = page.subfigures(len(material.facts), 1, squeeze=False)
    for part, (study, facts) in zip(parts[:, 0], material.facts.items(), strict=True):
        scores, curves = material.tables[f"{study}-scores"], material.tables[f"{study}-curves"]
        _study_panels(part, _title(facts), scores, curves)
    handles, labels = page.axes[1].get_legend_handles_labels()
    page.legend(handles, labels, ncols=len(labels), loc="outside lower center", handlelength=2.6)
    return page


def table(material: Material) -> pd.DataFrame:
    """One row per study and optimizer: accuracies in %, differences in points, 95 % intervals in brackets."""
    parts = []
    for study, facts in material.facts.items():
        scores = material.tables[f"{study}-scores"]

        def column(name: str, scale: float, digits: int, scores: pd.DataFrame = scores) -> list[str]:
            ends = scale * scores[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
            return [style.interval(mean, low, high, digits) for mean, low, high in ends]

        parts.append(
            pd.DataFrame(
                {
                    "network": _title(facts),
                    "optimizer": _labels(scores),
                    "rate or box": [f"{rate:g}" for rate in scores.learning_rate],
                    "test accuracy (%)": column("test_accuracy", 100, 2),
                    "difference to the best baseline (points)": column("difference", 100, 2),
                    "p (Holm)": [style.p_value(p) for p in scores.p_holm],
                    "test loss": column("test_loss", 1, 4),
                    "seeds": scores.seeds,
                    "diverged": scores.diverged,
                    "diverged in tuning": scores.tuning_diverged,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _study_panels(figure: SubFigure, title: str, scores: pd.DataFrame, curves: pd.DataFrame) -> None:
    accuracy, loss, during = figure.subplots(1, 3, width_ratios=[1, 1.1, 1.1])
    figure.suptitle(title, x=0.01, ha="left", fontsize=8.5, fontweight="bold")
    _score_panel(accuracy, scores)
    _curve_panel(loss, curves[curves.metric == "train_loss"], scores, 1)
    loss.set(yscale="log", title="Training loss", ylabel="cross-entropy (nats)")
    _curve_panel(during, curves[curves.metric == "test_accuracy"], scores, 100)
    during.set(title="Test accuracy in training", ylabel="accuracy (%)")


def _score_panel(axes: Axes, scores: pd.DataFrame) -> None:
    """Final test accuracy with its interval; the band is the interval of the best baseline in tuning."""
    y = list(range(len(scores)))
    panels.dots(axes, scores, y, "test_accuracy", 100)
    for row in scores[scores.optimizer == scores.reference].to_dict("records"):
        low, high = 100 * row["test_accuracy_low"], 100 * row["test_accuracy_high"]
        axes.axvspan(low, high, color=style.look(row["optimizer"]).color, alpha=0.15, lw=0)
    axes.set_yticks(y, _labels(scores))
    axes.set_ylim(len(y) - 0.4, -0.6)
    axes.set(title="Test accuracy", xlabel="final accuracy (%)")


def _curve_panel(axes: Axes, curves: pd.DataFrame, scores: pd.DataFrame, scale: float) -> None:
    """Means over the seeds; the band is one standard deviation."""
    for row in scores.to_dict("records"):
        own, look = curves[curves.optimizer == row["optimizer"]].sort_values("step"), style.look(row["optimizer"])
        low, high = own["mean"] - own["std"].fillna(0), own["mean"] + own["std"].fillna(0)
        width, order = (2.4, 4) if row["group"] == "policy" else (1.2, 2)
        axes.plot(own.step, scale * own["mean"], **look.line, linewidth=width, zorder=order, label=row["label"])
        axes.fill_between(
            own.step, scale * low.clip(lower=0.5 * own["mean"]), scale * high, color=look.color, alpha=0.12, lw=0
        )
    axes.set_xlabel("training step")
    style.grid(axes)


def _labels(scores: pd.DataFrame) -> list[str]:
    """Labels, with † if the tuned rate is an end of its grid."""
    return [label + (" †" if end else "") for label, end in zip(scores.label, scores.on_boundary, strict=True)]


def _title(facts: Facts) -> str:
    hidden = facts.settings.get("network_settings", {}).get("hidden")
    data = str(facts.dataset).partition(" (")[0]
    return f"{data}, {facts.settings['network']}" + (f" with {hidden} hidden units" if hidden else "")
