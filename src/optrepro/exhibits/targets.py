"""Exhibits pop-targets and lto-targets: what is asked of a learned optimizer, what was measured, pass or miss."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.exhibits.series import NBSP

# Each verdict has both a colour and a sign, so that it can be read without colours.
LOOKS = {"pass": ("#2678B8", "●"), "miss": (style.WARNING, "✕"), "not evaluated yet": ("#8C8C8C", "○")}
LINE, GAP, HEADING, FONT = 2.9, 1.3, 6.5, 7  # mm, and points
COLUMNS = {"criterion": 32.0, "asked": 90.0, "measured": 116.0}  # left edges, mm
WIDTHS = {"criterion": 39, "asked": 18, "measured": 45}  # number of characters in a line
MOST = 5  # lines of a cell; the table has all of it


def figure(material: Material) -> Figure:
    """A drawn table of verdict, criterion, what is asked and what was measured; a miss names its analysis."""
    (targets,) = material.tables.values()
    rows = targets.to_dict("records")
    height = HEADING + sum(map(_height, rows)) + GAP
    page = style.page(material, height)
    page.set_layout_engine("constrained", rect=(0, 0, 1, 1))  # the columns are laid out here, in mm of the page
    axes = page.subplots()
    axes.set(xlim=(0, style.PAGE_WIDTH), ylim=(height, 0))
    axes.axis("off")
    _heading(axes, targets)
    y = HEADING
    for row in rows:
        _row(axes, y, row)
        y += _height(row)
    return page


def table(material: Material) -> pd.DataFrame:
    """Every target with what is asked, what was measured, the verdict and where a miss is analysed."""
    (targets,) = material.tables.values()
    return targets.drop(columns="target").replace({"analysis": {"": "–"}})


def _heading(axes: Axes, targets: pd.DataFrame) -> None:
    """The number of targets with each verdict, and the names of the columns."""
    counts = [f"{sign} {(targets.verdict == verdict).sum()}" for verdict, (_, sign) in LOOKS.items()]
    for place, (count, (color, _)) in enumerate(zip(counts, LOOKS.values(), strict=True)):
        axes.text(8 * place, 1, count, color=style.legible(color), fontsize=8, fontweight="bold", va="top")
    for name, left in COLUMNS.items():
        axes.text(left, 1, name, fontsize=8, fontweight="bold", va="top")


def _cells(row: Mapping[Any, Any]) -> dict[str, list[str]]:
    """The lines of each cell; a last line of the measured value says where a miss is analysed."""
    cells = {
        name: textwrap.wrap(
            row[name].replace(" %", f"{NBSP}%"), width, max_lines=MOST, placeholder=" …", break_on_hyphens=False
        )
        for name, width in WIDTHS.items()
    }
    cells["measured"] += [f"→ {row['analysis']}"] if row["analysis"] else []
    return cells


def _height(row: Mapping[Any, Any]) -> float:
    return max(map(len, _cells(row).values())) * LINE + GAP


def _row(axes: Axes, y: float, row: Mapping[Any, Any]) -> None:
    color, sign = LOOKS[row["verdict"]]
    axes.axhline(y - 0.6, color=style.FAINT, linewidth=0.5)
    axes.text(0, y, f"{sign} {row['verdict']}", color=style.legible(color), fontweight="bold", va="top", fontsize=FONT)
    for name, lines in _cells(row).items():
        for number, line in enumerate(lines):
            shade = style.MUTED if line.startswith("→") else style.INK
            axes.text(COLUMNS[name], y + number * LINE, line, va="top", fontsize=FONT, color=shade)
