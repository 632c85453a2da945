"""Panels that several exhibits share: dots with intervals, learning curves, shares of candidates, table cells."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

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
CONSTANT = 0.99  # a rule with this share of choices of the smallest candidate took nothing else to speak of
SAME, SAME_LOSS = 1e-12, 1e-6  # chosen: smaller differences are rounding errors, in a score and in a mean of losses
FEW = 6  # with so many evaluations at most, curves have markers
SHOWN_CONTROLS = ("random-raw", "mean")
FAR = 2  # chosen: rows further behind the lower quartile than so many quartile ranges are arrows
# word for the best of a column, label of its axis, scale, and the end of the axis where the worst rows are
SCORES: dict[str, tuple[str, str, float, Literal["low", "high"]]] = {
    "test_accuracy": ("Highest", "final test accuracy (%)", 100, "low"),
    "test_loss": ("Lowest", "final test loss (nats)", 1, "high"),
}
DIFFERENCES = {"accuracy": ("percentage points", 100), "loss": ("nats saved", 1)}  # unit and scale by criterion


def comparison_figure(material: Material, study: str) -> Figure:
    """Scores of every optimizer of a study, selected curves, and the choices of the dynamic rules over time."""
    scores, curves = material.tables[f"{study}-scores"], material.tables[f"{study}-curves"]
    rows = 4.6 * len(without_copies(scores)) + 38
    figure = style.page(material, height=rows + 65)
    parts: Any = figure.subfigures(2, 1, height_ratios=[rows, 65])
    top, bottom = parts
    score_panels(top, scores, ["test_accuracy", "difference", "test_loss"])
    training_panels(bottom, curves, material.tables[f"{study}-choices"], scores, SHOWN_RULES)
    return figure


def training_panels(
    figure: Figure,
    curves: pd.DataFrame,
    choices: pd.DataFrame,
    scores: pd.DataFrame,
    rules: Sequence[str],
    metric: str = "test_accuracy",
) -> None:
    """Curves of the fixed candidates, some rules and some controls, and beside them what these rules chose."""
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.1, 1])
    left, right = parts
    fixed = scores[scores.group == "fixed"].optimizer
    curve_panel(left.subplots(), curves, scores, [*fixed, *rules, *SHOWN_CONTROLS], metric)
    left.legend(ncols=3, loc="outside lower center", handlelength=1.3, handletextpad=0.5, columnspacing=0.6)
    if len(chosen := choices[choices.optimizer.isin(rules)]):
        choice_panels(right, chosen, scores, rules)


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


def score_panels(figure: Figure, scores: pd.DataFrame, columns: Sequence[str], criterion: str = "accuracy") -> None:
    """Panels with common rows, one for each column: test accuracy or loss, or the paired difference to the reference.

    Rows with exactly the reference's results are one row with it, and the note below names them.
    """
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    shown = without_copies(scores)
    fill_score_panels(panels, shown, columns, criterion)
    for axes in (axes for axes, column in zip(panels, columns, strict=True) if column == "difference"):
        axes.set_title(finding(scores))  # of all rules, copies among them
    labels, note = _labels_with_copies(scores)
    name_rows(panels[0], shown, labels)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7)


def fill_score_panels(
    panels: Sequence[Axes], scores: pd.DataFrame, columns: Sequence[str], criterion: str = "accuracy"
) -> None:
    """Draw one column of the scores in each panel; differences are in the criterion, "accuracy" or "loss".

    The reference is the fixed candidate that a manual sweep would have picked; the band is its interval.
    """
    y = row_positions(scores)
    best = scores.set_index("optimizer").loc[scores.reference.iloc[0]]
    color = style.look(str(best.name)).color
    for axes, column in zip(panels, columns, strict=True):
        if column == "difference":
            difference_panel(axes, scores, y, criterion)
            continue
        word, label, scale, worst = SCORES[column]
        dots(axes, scores, y, column, scale, worst=worst)
        axes.axvspan(scale * best[f"{column}_low"], scale * best[f"{column}_high"], color=color, alpha=0.2, lw=0)
        best_label = scores.sort_values(column, ascending=worst == "high").label.iloc[0]
        axes.set(title=f"{word}:\n{short(best_label)}", xlabel=label)


def difference_panel(
    axes: Axes,
    scores: pd.DataFrame,
    y: Sequence[float],
    criterion: str = "accuracy",
    among: pd.DataFrame | None = None,
) -> None:
    """The paired differences to the reference, which is on the vertical line; `among` as in `dots`."""
    reference = str(scores.reference.iloc[0])
    unit, scale = DIFFERENCES[criterion]
    dots(axes, scores, y, "difference", scale, "low", among)
    axes.axvline(0, color=style.look(reference).color, linewidth=1)
    for position in (at for at, key in zip(y, scores.optimizer, strict=True) if key == reference):
        axes.plot(0, position, **style.look(reference).point)
    unit = unit.removeprefix("percentage ")
    axes.set(title=finding(scores), xlabel=f"{unit} over the one picked\non validation (paired)")


def finding(scores: pd.DataFrame) -> str:
    """How many dynamic rules are better and worse than the reference, by the intervals of the differences."""
    rules = scores[scores.group == "dynamic"]
    name = str(scores.set_index("optimizer").label[scores.reference.iloc[0]])
    better, worse = int((rules.difference_low > 0).sum()), int((rules.difference_high < 0).sum())
    if better:
        lost = f", {worse} lose{'s' * (worse == 1)}" if worse else ""
        return f"{better} of {len(rules)} rules beat{'s' * (better == 1)}\n{name}{lost}"
    return (
        f"{worse} of {len(rules)} rules lose{'s' * (worse == 1)}\nto {name}"
        if worse
        else f"No rule differs\nfrom {name}"
    )


def without_copies(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores without rows that have the reference's result in every seed, and its mean loss."""
    return scores[~_copies(scores)].reset_index(drop=True)


def _copies(scores: pd.DataFrame) -> pd.Series:
    differences = scores[["difference", "difference_low", "difference_high"]].abs()
    losses = (scores.test_loss - scores.test_loss[scores.optimizer == scores.reference].mean()).abs()
    return (differences < SAME).all(axis=1) & (losses < SAME_LOSS)


def _labels_with_copies(scores: pd.DataFrame) -> tuple[list[str], str]:
    """The labels of `without_copies`, of which the reference's names its first copy, and a note on all others."""
    labels = pd.Series(row_labels(scores), index=scores.optimizer)
    copies = _copies(scores).to_numpy()
    note = ""
    if copies.any():
        first, *others = scores.label[copies]
        reference = scores.reference.iloc[0]
        labels[reference] = f"{scores.set_index('optimizer').label[reference]}, also {first}"
        if others:
            labels[reference] += " *"
            note = f"* and {'; '.join(others)}: the same result in every seed"
    return list(labels[~copies]), note


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


def dots(
    axes: Axes,
    scores: pd.DataFrame,
    y: Sequence[float],
    column: str,
    scale: float,
    worst: Literal["low", "high"] | None = None,
    among: pd.DataFrame | None = None,
) -> None:
    """A dot with a 95 % interval for each row; rows far from the others are arrows at the panel's edge.

    Args:
        axes: axes of the panel.
        scores: optimizer, and `column` with its ``_low`` and ``_high``.
        y: position of each row.
        column: what is drawn.
        scale: factor of the values.
        worst: the end of the axis where the worst rows are: rows `FAR` behind are arrows and none at the other end.
            Without it, rows 15 quartile ranges from the median are.
        among: the rows that the limits of the axis are made for; `scores` by default.
    """
    low, high = _limits(scores if among is None else among, column, worst)
    for position, row in zip(y, scores.to_dict("records"), strict=True):
        look, mean = style.look(row["optimizer"]), row[column]
        if np.isnan(mean):
            continue
        if not low <= mean <= high:
            edge, text = (low, f"◂ {scale * mean:.3g}") if mean < low else (high, f"{scale * mean:.3g} ▸")
            side: Any = "left" if mean < low else "right"
            axes.annotate(text, (scale * edge, position), fontsize=7, va="center", ha=side)
            continue
        ends = scale * np.array([[row[f"{column}_low"]], [row[f"{column}_high"]]])
        axes.plot(np.clip(ends, scale * low, scale * high), [position] * 2, color=look.color, linewidth=1.6)
        axes.plot(scale * mean, position, **look.point, zorder=3)
    margin = 0.06 * (high - low) or 1e-3  # the second value if all rows are equal
    axes.set_xlim(scale * (low - margin), scale * (high + margin))
    style.grid(axes, "x")
    axes.tick_params(axis="y", length=0)


def _limits(scores: pd.DataFrame, column: str, worst: Literal["low", "high"] | None) -> tuple[float, float]:
    """Limits that contain the intervals (and 0 for differences) of all rows that are not far from the others."""
    means = scores[column].dropna()
    lower, middle, upper = means.quantile([0.25, 0.5, 0.75])
    if worst is None:
        reach = 15 * max(upper - lower, 1e-6)
        near = scores[(scores[column] - middle).abs() <= reach]
    else:
        widths = scores[f"{column}_high"] - scores[f"{column}_low"]
        reach = max(FAR * (upper - lower), widths.median(), 1e-6)
        ahead = scores[column] >= lower - reach if worst == "low" else scores[column] <= upper + reach
        near = scores[ahead]
    ends = near[[f"{column}_low", f"{column}_high", column]].to_numpy(dtype=float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    return (min(low, 0.0), max(high, 0.0)) if column == "difference" else (low, high)


def curve_panel(
    axes: Axes, curves: pd.DataFrame, scores: pd.DataFrame, optimizers: Sequence[str], metric: str = "test_accuracy"
) -> None:
    """Mean accuracy or loss over training; the title says who is ahead.

    The bands are one standard deviation over the seeds, of the reference and of the best rule among the shown. The axis
    covers the values after the first third of training, so that differences between curves are visible.
    """
    labels, groups = (scores.set_index("optimizer")[name] for name in ("label", "group"))
    shown = curves[curves.optimizer.isin(optimizers) & (curves.metric == metric)]
    _, label, scale, worst = SCORES[metric]
    rules = scores[(scores.group == "dynamic") & scores.optimizer.isin(optimizers)].sort_values("rank", kind="stable")
    banded = {scores.reference.iloc[0], *rules.optimizer[:1]}
    marker = "." if shown.step.nunique() <= FEW else ""
    for key in (key for key in optimizers if key in set(shown.optimizer)):
        rows = shown[shown.optimizer == key].sort_values("step")
        look, mean, spread = style.look(key), scale * rows["mean"], scale * rows["std"].fillna(0)
        # fixed candidates have wide lines, which stay visible behind a rule that always chooses them
        width = 2.6 if groups[key] == "fixed" else 1.2
        axes.plot(rows.step, mean, **look.line, linewidth=width, marker=marker, label=labels[key])
        if key in banded:
            axes.fill_between(rows.step, mean - spread, mean + spread, color=look.color, alpha=0.15, lw=0)
    later = scale * shown[shown.step >= shown.step.max() / 3]["mean"]
    margin = 0.08 * (later.max() - later.min()) + 0.002 * scale
    axes.set_ylim(later.min() - margin, later.max() + margin)
    axes.set(title=_ahead(shown, labels, worst), xlabel="training step", ylabel=label.removeprefix("final "))
    style.grid(axes)


def _ahead(shown: pd.DataFrame, labels: pd.Series, worst: str) -> str:
    """Which of the curves is the best at the first and which at the last evaluation."""
    means = shown.pivot_table(index="step", columns="optimizer", values="mean", sort=False).sort_index()
    best = means.idxmax(axis=1) if worst == "low" else means.idxmin(axis=1)
    first, last = labels[best.iloc[0]], labels[best.iloc[-1]]
    return (
        f"Ahead from the start:\n{last}"
        if (best == best.iloc[-1]).all()
        else f"Best early: {first};\nat the end: {last}"
    )


def choice_panels(figure: Figure, choices: pd.DataFrame, scores: pd.DataFrame, optimizers: Sequence[str]) -> None:
    """Stacked shares of the candidates over training, one panel per rule, in the colours of the fixed candidates.

    The title says which rules took other candidates than the smallest.
    """
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
        axes.set_title(short(labels[key]).replace(", ", ",\n"), fontsize=7.5, fontweight="normal")
        axes.locator_params(axis="x", nbins=3)
    panels[0].set_ylabel("share of choices (%)")
    smallest = choices[choices.candidate == names[0]].groupby("optimizer").overall.first()
    switching = [short(labels[key]) for key in shown if smallest.get(key, 0) < CONSTANT]
    title = f"Rules that leave {names[0]}: {'; '.join(switching) or 'none'}"
    figure.suptitle(title, x=0.12, ha="left", fontsize=8.5, fontweight="bold")
    handles = [Patch(color=color, label=candidate) for candidate, color in colors.items()]
    figure.legend(handles=handles, ncols=len(handles), loc="outside lower center")


def short(label: str) -> str:
    """A rule's label in a title: "GAP, raw" -> "raw"."""
    return label.removeprefix("GAP, ")


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
        color_palette={label: style.look(key).ink if key in bold else style.INK for key, label in labels.items()},
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
    ink, weight = style.ink_on(color), "bold" if bold else "normal"
    axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7, color=ink, fontweight=weight)


def bare(axes: Axes) -> None:
    """Remove frame and ticks, for drawn tables."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
