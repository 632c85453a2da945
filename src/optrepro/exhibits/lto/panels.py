"""Exhibits lto-fig1 to lto-fig5: the true objective by iteration, with one panel per data set."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.conventions import PSD
from optrepro.exhibits import style
from optrepro.exhibits.material import Material

CLASSIC = ("sgd", "momentum", "conjugate-gradient", "lbfgs", "adam", "adagrad", "rmsprop")  # as in the paper
LEARNED = {"l2l": 1.9, "psd-paper": 1.9, PSD: 2.6}  # line widths of the learned optimizers
SHOWN = (*CLASSIC, *LEARNED)
FACES = "grey"  # the panel in place of the paper's Toronto Faces Dataset
HEADROOM = 1.12  # upper limit of a panel, as a multiple of the initial objective

PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}  # background of text between curves


def figure(material: Material) -> Figure:
    """Mean over the repetitions and one standard deviation, by data set, with the numbers of `losses`."""
    curves, scores = _of_figure(material)
    shown = curves[curves.optimizer.isin(SHOWN)]
    titles = dict(zip(shown.panel, shown.dataset, strict=True))
    page = style.page(material, height=82)
    panels = page.subplots(1, len(titles), squeeze=False)[0]
    for letter, axes, (panel, title) in zip("abcdefgh", panels, titles.items(), strict=False):
        curve_panel(axes, shown[shown.panel == panel])
        axes.set_title(f"{letter}  {title}", pad=12)
        subtitle(axes, scores[scores.panel == panel])
        if panel.endswith(FACES):
            note = "in the place of\nToronto Faces"
            axes.text(0.98, 0.82, note, fontsize=6.5, color=style.MUTED, bbox=PLATE, zorder=5, **_corner(axes))
    panels[0].set_ylabel("true objective (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    page.legend(handles, labels, ncols=5, loc="outside lower center", handlelength=3)
    return page


def curve_panel(axes: Axes, curves: pd.DataFrame) -> None:
    """The curves of one panel, clipped at its upper limit, with the numbers of `losses` at the top."""
    start = curves[curves.step == 0]["mean"].max()
    lows, marked = [], 0
    for place, (key, rows) in enumerate(curves.groupby("optimizer", sort=False)):
        look, width = style.look(str(key)), LEARNED.get(str(key), 1.0)
        every = -(-len(rows) // 3)  # three markers a curve, those of the curves at different points
        marks: dict[str, Any] = {
            "markevery": (place * every // 9 % every, every),
            "markersize": 7 if key == PSD else 3.5,
        }
        zorder = 2 if key in LEARNED else 3  # thin lines stay visible on wide ones
        label = str(rows.label.iloc[0])
        axes.plot(rows.step, rows["mean"], **{**look.point, **look.line}, **marks, lw=width, label=label, zorder=zorder)
        spread = rows["std"].fillna(0)
        alpha = 0.2 if key in LEARNED else 0.08
        axes.fill_between(rows.step, rows["mean"] - spread, rows["mean"] + spread, color=look.color, alpha=alpha, lw=0)
        lows.append((rows["mean"] - spread).min())
        if text := losses(rows.lost.iloc[0], rows.overshot.iloc[0]):
            _mark(axes, text, look.color, marked)
            marked += 1
    low, high = min(lows), HEADROOM * start
    axes.set(xlabel="iteration", xlim=(0, curves.step.max()), ylim=(low - 0.03 * (high - low), high))
    style.grid(axes)


def losses(diverged: int, overshot: int) -> str:
    """The numbers of runs that diverge (✕) and that overshoot and recover (△), where there are any."""
    return " ".join(f"{sign} {count}" for sign, count in (("✕", diverged), ("△", overshot)) if count)


def _mark(axes: Axes, text: str, color: str, above: int) -> None:
    """Write the losses of an optimizer at the top, four in a row, after those of `above` others."""
    axes.text(
        0.02 + 0.25 * (above % 4),
        0.985 - 0.075 * (above // 4),
        text,
        transform=axes.transAxes,
        va="top",
        fontsize=6.5,
        fontweight="bold",
        color=color,
        bbox=PLATE,
        zorder=5,
    )


def subtitle(axes: Axes, scores: pd.DataFrame) -> None:
    """The text below the title, which compares the policy's area with that of the best other optimizer."""
    for row in scores[scores.optimizer == PSD].to_dict("records"):
        text = f"area {relative_difference(row, 'area')} against {rival(scores, row, 'area')}: {row['area_verdict']}"
        axes.text(0, 1.02, text, transform=axes.transAxes, fontsize=6.5, color=style.look(PSD).color)


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


def _corner(axes: Axes) -> dict[str, Any]:
    return {"transform": axes.transAxes, "ha": "right", "va": "top"}
