"""Exhibits lto-fig1 to lto-fig5: the true objective by iteration, with one panel per data set."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

from optrepro.conventions import PSD
from optrepro.exhibits import series, style
from optrepro.exhibits.material import Material

CLASSIC = ("sgd", "momentum", "conjugate-gradient", "lbfgs", "adam", "adagrad", "rmsprop")  # as in the paper
LEARNED = {"l2l": 1.9, "psd-bregman": 1.9, "psd-paper": 1.9, PSD: 2.6}  # line widths of the learned optimizers
SHOWN = (*CLASSIC, *LEARNED)
COLOURED = ("adagrad", "rmsprop", *LEARNED)  # the others have their markers and dashes in grey
FACES = "grey"  # the panel in place of the paper's Toronto Faces Dataset
LINE = 42  # characters of a line below a panel


def figure(material: Material) -> Figure:
    """Mean over the repetitions and one standard deviation, by data set, with the numbers of `lost_runs` below."""
    curves, scores = _of_figure(material)
    shown = curves[curves.optimizer.isin(SHOWN)]
    titles = dict(zip(shown.panel, shown.dataset, strict=True))
    below = {panel: lost_runs(own) for panel, own in shown.groupby("panel", sort=False)}
    page = style.page(material, height=89 + 3 * max(map(len, below.values())))
    drawn = page.subplots(1, len(titles), squeeze=False)[0]
    for letter, axes, (panel, title) in zip("abcdefgh", drawn, titles.items(), strict=False):
        curve_panel(axes, shown[shown.panel == panel])
        replaced = ["in the place of Toronto Faces"] if panel.endswith(FACES) else []
        axes.set_xlabel("\n".join(["iteration", *replaced, *below[panel]]), fontsize=7)
        axes.set_title(f"{letter}  {title}", pad=22)
        subtitle(axes, scores[scores.panel == panel])
    drawn[0].set_ylabel("true objective (nats)")
    handles, labels = drawn[0].get_legend_handles_labels()
    page.legend(handles, labels, ncols=5, loc="outside lower center", handlelength=2.4, columnspacing=1.2)
    return page


def curve_panel(axes: Axes, curves: pd.DataFrame) -> None:
    """The curves of one panel on a logarithmic axis, which covers those in colour.

    A curve in colour of which all runs diverge may leave the axis, as grey ones may.
    """
    covered = [curves[curves.step == 0]["mean"].max()]
    for place, (key, rows) in enumerate(curves.groupby("optimizer", sort=False)):
        coloured, width = key in COLOURED, LEARNED.get(str(key), 1.2)
        look = style.look(str(key)) if coloured else series.muted(str(key))
        every = -(-len(rows) // 3)  # three markers a curve, those of the curves at different points
        marks: dict[str, Any] = {
            "markevery": (place * every // 9 % every, every),
            "markersize": 7 if key == PSD else 3.5,
            "zorder": 3 if coloured else 1.5,
        }
        label = str(rows.label.iloc[0])
        axes.plot(rows.step, rows["mean"], **{**look.point, **look.line}, **marks, lw=width, label=label)
        if not coloured:
            continue
        spread = rows["std"].fillna(0)
        low, high = (rows["mean"] - spread).clip(lower=rows["mean"] / 10), rows["mean"] + spread
        axes.fill_between(rows.step, low, high, color=look.color, alpha=0.2 if key in LEARNED else 0.1, lw=0)
        if rows.lost.iloc[0] < rows.repetitions.iloc[0]:
            covered += [rows["mean"].min(), rows["mean"].max()]
    axes.set(yscale="log", xlim=(0, curves.step.max()), ylim=(min(covered) / 1.06, 1.04 * max(covered)))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    style.grid(axes)


def lost_runs(curves: pd.DataFrame) -> list[str]:
    """Lines that count the runs of each optimizer that diverge (✕), and that overshoot and recover (△)."""
    first = curves.drop_duplicates("optimizer")
    lines = []
    for word, column in (("✕ diverged", "lost"), ("△ overshot", "overshot")):
        counted = first[first[column] > 0]
        counts = [f"{label} {count}" for label, count in zip(counted.label, counted[column], strict=True)]
        unbroken = ", ".join(count.replace(" ", series.NBSP) for count in counts)
        lines += textwrap.wrap(f"{word}: {unbroken}", LINE, break_on_hyphens=False) if counts else []
    return lines


def losses(diverged: int, overshot: int) -> str:
    """The numbers of runs that diverge (✕) and that overshoot and recover (△), where there are any."""
    return " ".join(f"{sign} {count}" for sign, count in (("✕", diverged), ("△", overshot)) if count)


def subtitle(axes: Axes, scores: pd.DataFrame) -> None:
    """The text below the title, which compares the policy with the best other optimizer by both measures."""
    for row in scores[scores.optimizer == PSD].to_dict("records"):
        lines = []
        for measure, name in (("area", "area"), ("final", "end")):
            found = f"{relative_difference(row, measure)} against {rival(scores, row, measure)}"
            lines.append(f"{name} {found}: {row[f'{measure}_verdict']}")
        axes.text(0, 1.02, "\n".join(lines), transform=axes.transAxes, fontsize=7, color=style.look(PSD).ink)


def table(material: Material) -> pd.DataFrame:
    """One row per panel and optimizer: area and final objective with ranks, intervals and tests."""
    return readable_scores(_of_figure(material)[1])


def readable_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores as text: 95 % intervals in brackets, differences to the best other optimizer in percent."""
    readable: dict[str, Any] = {
        "panel": scores.panel,
        "data": scores.dataset,
        "optimizer": scores.label,
        "learning rate": [style.number(rate) for rate in scores.learning_rate],
    }
    for measure, name in (("area", "area"), ("final", "final objective")):
        ends = scores[[measure, f"{measure}_low", f"{measure}_high"]].to_numpy(dtype=float)
        readable[name] = [style.interval(mean, low, high, 4) for mean, low, high in ends]
        readable[f"rank by {name}"] = scores[f"{measure}_rank"]
        records = scores.to_dict("records")
        readable[f"best other by {name}"] = [rival(scores, row, measure) for row in records]
        readable[f"difference to it, {name}"] = [relative_difference(row, measure, ends=True) for row in records]
        readable[f"p (Holm), {name}"] = [style.p_value(p) for p in scores[f"{measure}_p_holm"]]
        readable[f"verdict by {name}"] = scores[f"{measure}_verdict"]
    readable["repetitions"] = scores.repetitions
    readable |= {"diverged": scores.diverged, "overshot and recovered": scores.overshot}
    return pd.DataFrame(readable)


def relative_difference(row: Any, measure: str, ends: bool = False) -> str:
    """The difference to the best other optimizer in percent of its mean, with its interval.

    A dash stands for no other optimizer, and for a mean of 0, of which there are no percent.
    """
    difference = row[f"{measure}_difference"]
    reference = row[measure] - difference
    if difference != difference or reference == 0:
        return "–"
    mean, low, high = (100 * row[f"{measure}_difference{end}"] / reference for end in ("", "_low", "_high"))
    interval = f" [{low:+.1f}, {high:+.1f}]" if ends and low == low else ""
    return f"{mean:+.1f} %{interval}"


def rival(scores: pd.DataFrame, row: Any, measure: str) -> str:
    """The label of the best other optimizer; a dash if there is none."""
    labels = dict(zip(scores.optimizer, scores.label, strict=True))
    return str(labels.get(row[f"{measure}_rival"], "–"))


def _of_figure(material: Material) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curves and scores of the figure that the table of scores belongs to."""
    [scores] = [table for name, table in material.tables.items() if name != "lto-curves"]
    curves = material.tables["lto-curves"]
    return curves[curves.panel.isin(scores.panel.unique())], scores
