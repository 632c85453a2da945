"""Exhibit gap-greedy: what the score promises, what comes of it, and what noise in the score costs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from optrepro.exhibits import style
from optrepro.exhibits.gap import workloads
from optrepro.exhibits.material import Material
from optrepro.studies.base import counted

KEYS = ["workload", "learning_rate"]
BESIDE = 1.12  # factor between the horizons of lines that would hide each other
BEST: dict[str, Any] = {
    "color": style.MUTED,
    "linestyle": (0, (4.0, 1.5)),
    "linewidth": 2.4,
}  # the candidate that is best on average
DRAW: dict[str, Any] = {"color": style.MUTED, "linestyle": (0, (1.0, 1.2)), "linewidth": 0.9}


def figure(material: Material) -> Figure:
    """A row of panels for each workload and learning rate: promises kept, choices that end lowest, and regret."""
    promises, outcomes, noise = _tables(material)
    rows = list(promises.groupby(KEYS, sort=False))
    page = style.page(material, height=36 * len(rows) + 20)
    panels: Any = page.subplots(len(rows), 3, sharex="col", squeeze=False)
    for (left, middle, right), ((workload, rate), own) in zip(panels, rows, strict=True):
        _promises(left, own)
        finding = f"at most {100 * own.share.max():.0f} % is realized"
        left.set_title(f"{workloads.title(str(workload))}, learning rate {rate:g}:\n{finding}")
        _outcomes(middle, _at(outcomes, workload, rate))
        _regret(right, _at(noise, workload, rate))
    for axes, name in zip(
        panels[-1], ("steps after the fork", "steps after the fork", "batches in the score"), strict=True
    ):
        axes.set_xlabel(name)
    page.legend(handles=_handles(promises), ncols=4, loc="outside lower center", columnspacing=1.2)
    return page


def table(material: Material) -> pd.DataFrame:
    """Rows of three kinds: of a candidate's promises, of a score's choices, and of the noise in the score."""
    promises, outcomes, noise = _tables(material)
    parts = [
        pd.DataFrame(
            {
                **_places(promises),
                "row": [
                    f"momentum {m:g}, {counted(h, 'step')}"
                    for m, h in zip(promises.candidate, promises.horizon, strict=True)
                ],
                "promised drop (nats)": [style.number(x) for x in promises.promised],
                "realized drop (nats)": [style.number(x) for x in promises.realized],
                "realized (% of promised)": _column(promises, "share", 100, 1),
                "forks": promises.forks.astype(str),
            }
        ),
        pd.DataFrame(
            {
                **_places(outcomes),
                "row": [
                    f"{score}, {counted(h, 'step')}" for score, h in zip(outcomes.score, outcomes.horizon, strict=True)
                ],
                "realized drop (nats)": _column(outcomes, "drop", 1, 4),
                "forks": outcomes.forks.astype(str),
                "ends lowest (% of forks)": _column(outcomes, "lowest", 100, 1),
                "smallest candidate (% of choices)": [style.percent(share) for share in outcomes.smallest],
                "best on average": [f"{m:g}" for m in outcomes.best],
                "that one ends lowest (% of forks)": [style.percent(share) for share in outcomes.best_lowest],
                "further drop than that one (nats)": _column(outcomes, "gain", 1, 4),
            }
        ),
        pd.DataFrame(
            {
                **_places(noise),
                "row": [f"batches in the score: {_part(batches)}" for batches in noise.batches],
                "test accuracy (%)": _column(noise, "test_accuracy", 100, 2),
                "regret in test accuracy (points)": _column(noise, "regret_test_accuracy", 100, 2),
                "best fixed": noise.best_probe_loss,
                "training loss": _column(noise, "probe_loss", 1, 4),
                "regret in training loss (nats)": _column(noise, "regret_probe_loss", 1, 4),
                "smallest candidate (% of choices)": [style.percent(share) for share in noise.smallest],
                "seeds": noise.seeds.astype(str),
            }
        ),
    ]
    return pd.concat(parts, ignore_index=True).fillna("–")


def _tables(material: Material) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return material.tables["gap-promises"], material.tables["gap-outcomes"], material.tables["gap-noise"]


def _at(table: pd.DataFrame, workload: object, rate: object) -> pd.DataFrame:
    return table[(table.workload == workload) & (table.learning_rate == rate)]


def _promises(axes: Axes, rows: pd.DataFrame) -> None:
    """The realized share of the promised drop over the horizon, a line for each candidate."""
    for place, (candidate, own) in enumerate(rows.groupby("candidate")):
        color = style.candidate_color(float(str(candidate)))
        _line(axes, own.horizon * BESIDE ** (place - 1), own, "share", 100, color=color, marker="o")
    axes.axhline(100, color=style.MUTED, linewidth=0.8, zorder=0)
    _horizons(axes, rows)
    axes.set_ylabel("realized\n(% of promised)")


def _outcomes(axes: Axes, rows: pd.DataFrame) -> None:
    """The share of the forks at which each score's candidate ends lowest, over the horizon."""
    for place, (score, own) in enumerate(rows.groupby("score", sort=False)):
        look = style.look(str(score))
        _line(axes, own.horizon * BESIDE ** (place - 0.5), own, "lowest", 100, color=look.color, marker=look.marker)
    same = rows[rows.score == rows.score.iloc[0]]  # it does not depend on the score
    axes.plot(same.horizon, 100 * same.best_lowest, **BEST, zorder=0)
    axes.axhline(100 / same.candidates.iloc[0], **DRAW)
    _horizons(axes, rows)
    axes.set(ylim=(-5, 105), ylabel="ends lowest\n(% of forks)")


def _regret(axes: Axes, rows: pd.DataFrame) -> None:
    """The regret in training loss over the number of batches that the score is computed from."""
    look = style.look("paper")
    _line(axes, rows.batches, rows, "regret_probe_loss", 1, color=look.color, marker=look.marker)
    axes.axhline(0, color=style.MUTED, linewidth=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(rows.batches), [_part(batches) for batches in rows.batches])
    axes.minorticks_off()
    axes.set_ylabel("regret (nats)")
    style.grid(axes)


def _line(axes: Axes, x: Any, rows: pd.DataFrame, name: str, scale: float, *, color: str, marker: str) -> None:
    """Means joined by a line, with their intervals."""
    axes.vlines(x, scale * rows[f"{name}_low"], scale * rows[f"{name}_high"], color=color, linewidth=1)
    axes.plot(x, scale * rows[name], color=color, marker=marker, markersize=3.8)


def _horizons(axes: Axes, rows: pd.DataFrame) -> None:
    horizons = sorted(rows.horizon.unique())
    axes.set_xscale("log")
    axes.set_xticks(horizons, [str(horizon) for horizon in horizons])
    axes.minorticks_off()
    style.grid(axes)


def _part(batches: float) -> str:
    """A number of batches: 0.125 -> "1/8", 4.0 -> "4"."""
    return f"{batches:g}" if batches >= 1 or (1 / batches) % 1 else f"1/{1 / batches:g}"


def _handles(promises: pd.DataFrame) -> list[Line2D]:
    candidates = [
        Line2D([], [], color=style.candidate_color(m), marker="o", label=f"momentum {m:g}")
        for m in sorted(promises.candidate.unique())
    ]
    scores = [
        Line2D([], [], color=style.look(score).color, marker=style.look(score).marker, label=label)
        for score, label in (("paper", "the paper's score"), ("raw", "the promised drop (raw)"))
    ]
    others = [
        Line2D([], [], **BEST, label="the best one on average"),
        Line2D([], [], **DRAW, label="one drawn at random"),
    ]
    return [*candidates, *scores, *others]


def _places(table: pd.DataFrame) -> dict[str, list[str]]:
    return {
        "workload": [workloads.title(name) for name in table.workload],
        "learning rate": [f"{rate:g}" for rate in table.learning_rate],
    }


def _column(table: pd.DataFrame, name: str, scale: float, digits: int) -> list[str]:
    """A mean with its interval, as text."""
    ends = scale * table[[name, f"{name}_low", f"{name}_high"]].to_numpy(dtype=float)
    return [style.interval(mean, low, high, digits) for mean, low, high in ends]
