"""Exhibit claims: the claims of the papers, and the verdict on each."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optrepro.exhibits import style
from optrepro.exhibits.material import Material

OWN = "of this project"  # end of the source of claims that no paper makes
# Each verdict has both a colour and a sign, so that it can be read without colours.
LOOKS = {
    "holds": ("#2678B8", "●"),
    "holds in part": ("#B87A00", "◐"),
    "fails": (style.WARNING, "✕"),
    "not run": ("#8C8C8C", "○"),
}
LINE, GAP, HEADING, FONT = 2.3, 0.8, 5.0, 6.0  # mm, and points
COLUMNS = {"statement": 20.0, "evidence": 98.5}  # left edges, mm
WIDTHS = {"statement": 66, "evidence": 70}  # number of characters in a line
MOST = {"evidence": 2}  # largest number of lines


def figure(material: Material) -> Figure:
    """A drawn table of verdict, claim and short evidence, by paper, with this project's own controls separate."""
    claims = material.tables["claims"]
    sections = dict(list(claims.groupby(_section(claims), sort=False)))
    height = sum(_height(claim) for claim in claims.to_dict("records")) + (HEADING + GAP) * len(sections) + GAP
    page = style.page(material, height)
    page.set_layout_engine("constrained", rect=(0, 0, 1, 1))  # the columns are laid out here, in mm of the page
    axes = page.subplots()
    axes.set(xlim=(0, style.PAGE_WIDTH), ylim=(height, 0))
    axes.axis("off")
    y = 0.0
    for title, section in sections.items():
        _heading(axes, y, str(title), section)
        y += HEADING
        for claim in section.to_dict("records"):
            _row(axes, y, claim)
            y += _height(claim)
        y += GAP
    return page


def table(material: Material) -> pd.DataFrame:
    """Every claim with its source, the paper's number, the criterion, the verdict and the evidence."""
    claims = material.tables["claims"]
    columns = ["statement", "source", "number", "exhibit", "criterion", "verdict", "evidence"]
    readable = claims[columns].fillna("–")
    readable.insert(0, "section", _section(claims))
    return readable.rename(columns={"statement": "claim", "number": "the paper's number"})


def _section(claims: pd.DataFrame) -> pd.Series:
    own = claims.source.str.endswith(OWN)
    return claims.paper + own.map({True: ": controls of this project", False: ""})


def _lines(claim: Mapping[Any, Any], name: str) -> list[str]:
    """The lines of a cell, with an ellipsis if the text is truncated."""
    return textwrap.wrap(
        claim[name], WIDTHS[name], max_lines=MOST.get(name), placeholder=" …", break_on_hyphens=False
    ) or [""]


def _height(claim: Mapping[Any, Any]) -> float:
    return max(len(_lines(claim, name)) for name in COLUMNS) * LINE + GAP


def _heading(axes: Axes, y: float, title: str, section: pd.DataFrame) -> None:
    """The title of a section, and the number of its claims with each verdict."""
    axes.text(0, y + 1, title, fontsize=8, fontweight="bold", va="top")
    for number, (verdict, (color, sign)) in enumerate(LOOKS.items()):
        count = int((section.verdict == verdict).sum())
        x = 104 + 15 * number
        axes.text(x, y + 1, f"{sign} {count}", color=color, fontsize=8, fontweight="bold", va="top")


def _row(axes: Axes, y: float, claim: Mapping[Any, Any]) -> None:
    color, sign = LOOKS[claim["verdict"]]
    axes.axhline(y - 0.5, color=style.FAINT, linewidth=0.5)
    axes.text(0, y, f"{sign} {claim['verdict']}", color=color, fontweight="bold", va="top", fontsize=FONT)
    for name, left in COLUMNS.items():
        for number, line in enumerate(_lines(claim, name)):
            axes.text(left, y + number * LINE, line, va="top", fontsize=FONT)
