"""Which of many series have a colour, the look of the others, and names at the ends of curves instead of a legend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

from optrepro.exhibits import style

NBSP = "\N{NO-BREAK SPACE}"  # keeps the words of a name on a line
GREY = "#A8A8A8"  # of optimizers without a colour of their own, whose names are in MUTED
OTHERS: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "zorder": 1.5}  # their curves


def foremost(quality: pd.Series, first: Sequence[str], number: int) -> list[str]:
    """The optimizers that have a colour: those named first, and as many others of the highest quality.

    Args:
        quality: a number for each optimizer, higher is better.
        first: optimizers that have a colour in any case, if they are there.
        number: of the others.
    """
    others = quality.drop(list(first), errors="ignore").sort_values(ascending=False, kind="stable")
    return [*(key for key in first if key in quality.index), *(str(key) for key in others.index[:number])]


def muted(optimizer: str) -> style.Look:
    """The look of an optimizer without a colour of its own: its marker and dashes in grey."""
    return replace(style.look(optimizer), color=GREY)


def name_ends(axes: Axes, ends: Iterable[tuple[str, float, str]], gap: float = 0.08) -> None:
    """Write names at the right edge, at the values where their curves end, and apart where they would overlap.

    Args:
        axes: the panel, whose limits and scale are final.
        ends: name, value at the edge and colour of each curve.
        gap: least distance of two names, as a share of the panel's height.
    """
    transform = axes.transScale + axes.transLimits
    rows = sorted((float(transform.transform((1, value))[1]), name, color) for name, value, color in ends)
    heights = apart([height for height, *_ in rows], gap)
    for (end, name, color), height in zip(rows, heights, strict=True):
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        places: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "axes fraction", "annotation_clip": False}
        text: dict[str, Any] = {"fontsize": 7, "color": style.legible(color), "va": "center", "ha": "left"}
        axes.annotate(name, (1.0, min(max(end, 0), 1)), (1.035, height), arrowprops=line, **places, **text)


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights in [0, 1], moved as little as possible so that neighbours are at least `gap` apart."""
    if not heights:
        return []
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights) - steps).x
    return [float(height) for height in np.clip(moved, 0, max(1 - steps[-1], 0)) + steps]


def short(label: str) -> str:
    """A label without the remark in its brackets: "POP (2-D, as the paper)" -> "POP (2-D)"."""
    return re.sub(r"\(([^,)]*),[^)]*\)", r"(\1)", label)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "Adam, Rprop and L-BFGS"; "none" without any."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part) or "none"
