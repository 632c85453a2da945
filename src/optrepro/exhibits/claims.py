"""Exhibit claims: how many claims of the papers have each verdict, and in the table every claim with its evidence."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

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
HATCH = "////"  # of what was judged on a proxy


def figure(material: Material) -> Figure:
    """A bar for each paper, with this project's own controls apart, of its claims by verdict; proxies are hatched."""
    claims = material.tables["claims"]
    sections = dict(list(claims.groupby(_section(claims), sort=False)))
    page = style.page(material, 9.5 * len(sections) + 26)
    axes = page.subplots()
    for y, section in enumerate(sections.values()):
        _bar(axes, y, section)
    axes.set_yticks(range(len(sections)), [title.replace(" (", "\n(") for title in sections])
    axes.set(ylim=(len(sections) - 0.5, -0.5), xlabel="claims", title=_finding(claims))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(axis="y", length=0)
    handles = [Patch(facecolor=color, label=f"{sign} {verdict}") for verdict, (color, sign) in LOOKS.items()]
    proxy = Patch(facecolor="white", edgecolor=style.MUTED, hatch=HATCH, linewidth=0, label="judged on a proxy")
    page.legend(handles=[*handles, proxy], ncols=len(handles) + 1, loc="outside lower center", columnspacing=1.2)
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


def _bar(axes: Axes, y: int, section: pd.DataFrame) -> None:
    """The numbers of claims with each verdict, side by side; of each, those judged on a proxy are hatched."""
    left = 0
    for verdict, (color, sign) in LOOKS.items():
        given = section[section.verdict == verdict]
        start = left
        for proxy in (False, True):
            if count := int((given.proxy == proxy).sum()):
                hatch = HATCH if proxy else None
                axes.barh(y, count, 0.62, left, color=color, edgecolor="white", linewidth=0.8, hatch=hatch)
                left += count
        if len(given):
            label = f"{sign} {len(given)}"
            box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
            axes.text(
                (start + left) / 2,
                y,
                label,
                color=style.legible(color),
                ha="center",
                va="center",
                fontweight="bold",
                bbox=box,
            )


def _finding(claims: pd.DataFrame) -> str:
    """How many of the papers' own claims hold, wholly, in part or trivially, and how many were judged on a proxy."""
    papers = claims[~claims.source.str.endswith(OWN)]
    given = list(papers.verdict)
    counts = " · ".join(
        f"{verdict.removeprefix('holds ')}: {given.count(verdict)}" for verdict in LOOKS if verdict in given
    )
    return f"{len(papers)} claims of the papers, {int(papers.proxy.sum())} judged on a proxy:\n{counts}"
