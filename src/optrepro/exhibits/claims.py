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
PROXY = ", a proxy"  # what stands behind the scale of results that stand in for the paper's setting
# Each verdict has both a colour and a sign, so that it can be read without colours.
LOOKS = {
    "holds": ("#2678B8", "●"),
    "holds in part": ("#B87A00", "◐"),
    "holds trivially": ("#7B5EA7", "◌"),
    "undecided": ("#666666", "?"),
    "fails": (style.WARNING, "✕"),
    "not run": ("#8C8C8C", "○"),
}
LINE, GAP, HEADING, FONT = 2.3, 0.8, 5.0, 6.0  # mm, and points
COLUMNS = {"statement": 22.0, "basis": 118.0}  # left edges, mm
WIDTHS = {"statement": 82, "basis": 52}  # number of characters in a line


def figure(material: Material) -> Figure:
    """A drawn table of verdict, claim and what it was judged on, by paper, with this project's own controls apart."""
    claims = material.tables["claims"]
    claims = claims.assign(basis=[_basis(claim) for claim in claims.to_dict("records")])
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
    """Every claim with its verdict, scale and setting, the evidence, the criterion and its margin."""
    claims = material.tables["claims"]
    names = {
        "id": "id",
        "statement": "claim",
        "verdict": "verdict",
        "scale": "scale",
        "setting": "the paper's setting",
        "evidence": "evidence",
        "setup": "judged on",
        "criterion": "criterion",
        "margin": "margin",
        "source": "source",
        "number": "the paper's number",
        "exhibit": "exhibit",
    }
    proxy = claims.proxy.map({True: PROXY, False: ""})
    readable = claims.assign(scale=claims.scale + proxy)[list(names)].rename(columns=names)
    readable.insert(0, "section", _section(claims))
    return readable.astype(object).fillna("–")


def _section(claims: pd.DataFrame) -> pd.Series:
    own = claims.source.str.endswith(OWN)
    return claims.paper + own.map({True: ": controls of this project", False: ""})


def _basis(claim: Mapping[Any, Any]) -> str:
    """The scale at which a claim was judged, and the setting of the paper that this is a proxy of."""
    if claim["proxy"]:
        return f"{claim['scale']}{PROXY} of: {claim['setting']}"
    return claim["scale"] if isinstance(claim["scale"], str) else "–"


def _lines(claim: Mapping[Any, Any], name: str) -> list[str]:
    return textwrap.wrap(claim[name], WIDTHS[name], break_on_hyphens=False) or [""]


def _height(claim: Mapping[Any, Any]) -> float:
    return max(len(_lines(claim, name)) for name in COLUMNS) * LINE + GAP


def _heading(axes: Axes, y: float, title: str, section: pd.DataFrame) -> None:
    """The title of a section, and the number of its claims with each verdict."""
    axes.text(0, y + 1, title, fontsize=8, fontweight="bold", va="top")
    for number, (verdict, (color, sign)) in enumerate(LOOKS.items()):
        count = int((section.verdict == verdict).sum())
        x = 108 + 12 * number
        axes.text(x, y + 1, f"{sign} {count}", color=color, fontsize=8, fontweight="bold", va="top")


def _row(axes: Axes, y: float, claim: Mapping[Any, Any]) -> None:
    color, sign = LOOKS[claim["verdict"]]
    axes.axhline(y - 0.5, color=style.FAINT, linewidth=0.5)
    axes.text(0, y, f"{sign} {claim['verdict']}", color=color, fontweight="bold", va="top", fontsize=FONT)
    for name, left in COLUMNS.items():
        for number, line in enumerate(_lines(claim, name)):
            axes.text(left, y + number * LINE, line, va="top", fontsize=FONT)
