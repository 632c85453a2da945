"""Panels that several exhibits share: dots with intervals, learning curves, shares of candidates, table cells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from optrepro.conventions import ALPHA
from optrepro.exhibits import style
from optrepro.exhibits.material import Material

CD_HEIGHT = 3.0  # height of the bar above the axis of ranks, in rows of labels
SHOWN_RULES = ("paper", "debiased", "raw")  # dynamic rules with curves and choices in the figure
SHOWN_CONTROLS = ("random-raw", "mean")
# title of a panel, label of its axis, scale
SCORES = {
    "test_accuracy": ("Test accuracy", "final accuracy (%)", 100),
    "test_loss": ("Test loss", "final cross-entropy (nats)", 1),
}
DIFFERENCES = {"accuracy": ("percentage points", 100), "loss": ("nats saved", 1)}  # unit and scale by criterion


def comparison_figure(material: Material, study: str) -> Figure:
    """Scores of every optimizer of a study, selected curves, and the choices of the dynamic rules over time."""
    scores, curves = material.tables[f"{study}-scores"], material.tables[f"{study}-curves"]
    choices = material.tables[f"{study}-choices"]
    rows = 4.6 * len(scores) + 30
    figure = style.page(material, height=rows + 65)
    parts: Any = figure.subfigures(2, 1, height_ratios=[rows, 65])
    top, bottom = parts
    score_panels(top, scores)
    left, right = bottom.subfigures(1, 2, width_ratios=[1.1, 1])
    fixed = scores[scores.group == "fixed"].optimizer
    curve_panel(left.subplots(), curves, scores, [*fixed, *SHOWN_RULES, *SHOWN_CONTROLS])
    left.legend(ncols=3, loc="outside lower center", handlelength=1.9, columnspacing=0.8)
    choice_panels(right, choices, scores, SHOWN_RULES)
    return figure


def readable_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as text, one row per optimizer: accuracies in %, differences in points, 95 % intervals in brackets."""
    names = row_labels(scores)

    def column(name: str, scale: float, digits: int) -> list[str]:
        ends = scale * scores[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
        return [style.interval(mean, low, high, digits) for mean, low, high in ends]

    return pd.DataFrame(
        {
            "optimizer": names,
            "group": scores.group,
            "learning rate": [f"{rate:g}" for rate in scores.learning_rate],
            "test accuracy (%)": column("test_accuracy", 100, 2),
            "rank": scores["rank"].astype(int),
            "difference to the best fixed (points)": column("difference", 100, 2),
            "p (Holm)": [style.p_value(p) for p in scores.p_holm],
            "difference to the fixed one best on test (points)": column("top_difference", 100, 2),
            "test loss": column("test_loss", 1, 4),
            "seeds": scores.seeds,
            "diverged": scores.diverged,
            "diverged in tuning": scores.tuning_diverged,
        }
    )


def row_labels(scores: pd.DataFrame) -> list[str]:
    """Labels that mark the smallest fixed candidate, and with † rows whose tuned rate is an end of the grid."""
    rows: Any = scores.itertuples()
    smallest = scores.value.min()
    return [
        row.label + (" (always the smallest)" if row.value == smallest else "") + (" †" if row.on_boundary else "")
        for row in rows
    ]


def score_panels(figure: Figure, scores: pd.DataFrame, loss: bool = True) -> None:
    """Panels with common rows: test accuracy, its paired difference to the best fixed candidate, and test loss.

    The band is the interval of the best fixed candidate, which the manual sweep picks.
    """
    panels = figure.subplots(1, 3 if loss else 2, sharey=True)
    fill_score_panels(panels, scores, ["test_accuracy", "difference", "test_loss"][: len(panels)])
    name_rows(panels[0], scores, row_labels(scores))


def fill_score_panels(
    panels: Sequence[Axes], scores: pd.DataFrame, columns: Sequence[str], criterion: str = "accuracy"
) -> None:
    """Draw one column of the scores in each panel; differences are in the criterion, "accuracy" or "loss"."""
    y = row_positions(scores)
    best = scores.set_index("optimizer").loc[scores.reference.iloc[0]]
    color = style.look(str(best.name)).color
    unit, scale_of_differences = DIFFERENCES[criterion]
    titles = {**SCORES, "difference": ("Difference to best fixed", f"{unit} (paired)", scale_of_differences)}
    for axes, column in zip(panels, columns, strict=True):
        title, label, scale = titles[column]
        dots(axes, scores, y, column, scale)
        axes.set(title=title, xlabel=label)
        if column == "difference":
            axes.axvline(0, color=color, linewidth=1)
            axes.plot(0, y[list(scores.optimizer).index(best.name)], **style.look(str(best.name)).point)
        else:
            axes.axvspan(scale * best[f"{column}_low"], scale * best[f"{column}_high"], color=color, alpha=0.2, lw=0)


def name_rows(axes: Axes, scores: pd.DataFrame, labels: Sequence[str], y: Sequence[float] | None = None) -> None:
    """Label the rows of a panel under the headings of their groups, at `y` or at `row_positions`."""
    y = row_positions(scores) if y is None else y
    axes.set_yticks(y, labels)
    axes.set_ylim(max(y) + 0.7, min(y) - 1.4)
    for group, rows in scores.assign(y=y).groupby("group"):
        axes.annotate(
            style.GROUP_TITLES.get(str(group), str(group)),
            (0, rows.y.min() - 0.85),
            xycoords=axes.get_yaxis_transform(),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7,
            fontweight="bold",
            color=style.MUTED,
        )


def row_positions(scores: pd.DataFrame) -> list[float]:
    """Vertical positions of rows from the top, with space for a heading above each group."""
    groups = (scores.group != scores.group.shift()).cumsum()
    return [float(i + group) for i, group in enumerate(groups)]


def dots(axes: Axes, scores: pd.DataFrame, y: Sequence[float], column: str, scale: float) -> None:
    """A dot with a 95 % interval for each row; rows far from the others are arrows at the panel's edge."""
    low, high = _limits(scores, column)
    for position, row in zip(y, scores.to_dict("records"), strict=True):
        look, mean = style.look(row["optimizer"]), row[column]
        if np.isnan(mean):
            continue
        if not low <= mean <= high:
            edge, arrow = (low, "◂") if mean < low else (high, "▸")
            axes.annotate(f"{arrow} {scale * mean:.3g}", (scale * edge, position), fontsize=6.5, va="center")
            continue
        ends = scale * np.array([[row[f"{column}_low"]], [row[f"{column}_high"]]])
        axes.plot(np.clip(ends, scale * low, scale * high), [position] * 2, color=look.color, linewidth=1.6)
        axes.plot(scale * mean, position, **look.point, zorder=3)
    margin = 0.06 * (high - low) or 1e-3  # the second value if all rows are equal
    axes.set_xlim(scale * (low - margin), scale * (high + margin))
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def _limits(scores: pd.DataFrame, column: str) -> tuple[float, float]:
    """Limits that contain all intervals (and 0 for differences), except rows 15 quartile ranges from the median."""
    means = scores[column].dropna()
    lower, middle, upper = means.quantile([0.25, 0.5, 0.75])
    reach = 15 * max(upper - lower, 1e-6)
    near = scores[(scores[column] - middle).abs() <= reach]
    ends = near[[f"{column}_low", f"{column}_high", column]].to_numpy(dtype=float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    return (min(low, 0.0), max(high, 0.0)) if column == "difference" else (low, high)


def curve_panel(
    axes: Axes, curves: pd.DataFrame, scores: pd.DataFrame, optimizers: Sequence[str], metric: str = "test_accuracy"
) -> None:
    """Mean accuracy or loss over training; the band is one standard deviation over the seeds.

    The axis covers the values after the first third of training, so that differences between curves are visible.
    """
    labels = scores.set_index("optimizer").label
    groups = scores.set_index("optimizer").group
    shown = curves[curves.optimizer.isin(optimizers) & (curves.metric == metric)]
    title, label, scale = SCORES[metric]
    for key in (key for key in optimizers if key in set(shown.optimizer)):
        rows = shown[shown.optimizer == key].sort_values("step")
        look, spread = style.look(key), rows["std"].fillna(0)
        # fixed candidates have wide lines, which stay visible behind a rule that always chooses them
        width = 2.6 if groups[key] == "fixed" else 1.2
        mean, spread = scale * rows["mean"], scale * spread
        axes.plot(rows.step, mean, **look.line, linewidth=width, label=labels[key])
        axes.fill_between(rows.step, mean - spread, mean + spread, color=look.color, alpha=0.15, lw=0)
    later = scale * shown[shown.step >= shown.step.max() / 3]["mean"]
    margin = 0.08 * (later.max() - later.min()) + 0.002 * scale
    axes.set_ylim(later.min() - margin, later.max() + margin)
    axes.set(title=f"{title} during training", xlabel="training step", ylabel=label.removeprefix("final "))
    style.grid(axes)


def choice_panels(figure: Figure, choices: pd.DataFrame, scores: pd.DataFrame, optimizers: Sequence[str]) -> None:
    """Stacked shares of the candidates over training, one panel per rule, in the colours of the fixed candidates."""
    labels = scores.set_index("optimizer").label
    names = sorted(set(choices.candidate), key=float)
    colors = {name: style.candidate_color(float(name)) for name in names}
    shown = [key for key in optimizers if key in set(choices.optimizer)]
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, shown, strict=True):
        shares = choices[choices.optimizer == key].pivot_table(index="step", columns="candidate", values="share")
        shares = shares[sorted(shares.columns, key=lambda name: float(str(name)))]
        steps = [0, *shares.index]
        # each share covers the steps since the previous evaluation
        bottom = np.zeros(len(shares))
        for candidate in shares.columns:
            height = 100 * shares[candidate].to_numpy()
            axes.stairs(bottom + height, steps, baseline=bottom, fill=True, color=colors[candidate])
            bottom = bottom + height
        axes.set(xlim=(0, steps[-1]), ylim=(0, 100), xlabel="training step")
        axes.set_title(labels[key], fontsize=7.5, fontweight="normal")
        axes.locator_params(axis="x", nbins=3)
    panels[0].set_ylabel("share of choices (%)")
    figure.suptitle("Candidate chosen", x=0.12, ha="left", fontsize=8.5, fontweight="bold")
    handles = [Patch(color=color, label=candidate) for candidate, color in colors.items()]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center")


def function_label(facts: Mapping[Any, Any]) -> str:
    """Label of a benchmark function: its id, its dimension if that is not 2, and † if it has kinks along curves."""
    dimension = "" if facts["dimension"] == 2 else f" ({facts['dimension']}-D)"
    return str(facts["function"]).replace("_", " ") + dimension + ("" if facts["smooth"] else " †")


def critical_difference(axes: Axes, ranks: pd.DataFrame, tests: pd.DataFrame, bold: Collection[str] = ()) -> None:
    """Critical-difference diagram: bars join optimizers without significant difference (Wilcoxon, Holm-corrected).

    Args:
        axes: axes of the diagram.
        ranks: optimizer, label, rank, critical_difference.
        tests: first, second, p_holm of every pair.
        bold: optimizers with bold labels, which alone have a colour.
    """
    import scikit_posthocs  # imported here because it takes half a second and only this diagram needs it

    labels = dict(zip(ranks.optimizer, ranks.label, strict=True))
    p = pd.DataFrame(1.0, index=ranks.label, columns=ranks.label)
    for row in tests.to_dict("records"):
        first, second = labels[row["first"]], labels[row["second"]]
        p.loc[first, second] = p.loc[second, first] = row["p_holm"]
    axes.spines.top.set_visible(True)
    artists = scikit_posthocs.critical_difference_diagram(
        ranks.set_index("label")["rank"],
        p,
        alpha=ALPHA,
        ax=axes,
        label_fmt_left="{label}  {rank:.1f} ",
        label_fmt_right=" {rank:.1f}  {label}",
        label_props={"fontsize": 7},
        marker_props={"s": 14},
        elbow_props={"linewidth": 0.9},
        crossbar_props={"linewidth": 2, "color": style.MUTED},
        color_palette={label: style.look(key).color if key in bold else style.INK for key, label in labels.items()},
        text_h_margin=0.2,
    )
    for lines in artists["crossbars"]:
        for line in lines:  # the library iterates over a set of names, whose order differs between processes
            line.set_xdata(sorted(line.get_xdata()))
    strong = {labels[key] for key in bold if key in labels}
    for text in axes.texts:
        if any(label in text.get_text() for label in strong):
            text.set_fontweight("bold")
    best, difference = ranks["rank"].min(), ranks.critical_difference.iloc[0]
    axes.plot([best, best + difference], [CD_HEIGHT] * 2, color=style.INK, linewidth=2)
    axes.text(best, CD_HEIGHT + 0.6, f"critical difference {difference:.2f}", fontsize=7)


def cell(axes: Axes, x: float, y: float, text: str, shade: float, *, boxed: bool = False, bold: bool = False) -> None:
    """A unit cell of a drawn table at (x, y), with a shade from 0 to 1 of the sequential colour map."""
    color = colormaps[style.SEQUENTIAL](min(max(shade, 0), 1))
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="white", lw=0.8))
    if boxed:
        axes.add_patch(Rectangle((x + 0.04, y + 0.05), 0.92, 0.9, fill=False, ec=style.WARNING, lw=1.6, zorder=3))
    ink, weight = ("black" if shade > 0.55 else "white"), ("bold" if bold else "normal")
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7, color=ink, fontweight=weight)


def bare(axes: Axes) -> None:
    """Remove frame and ticks, for drawn tables."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
