"""The README's counts, findings and lists, which a command writes from the published exhibits.

A block stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from optrepro import catalogue, layout
from optrepro.catalogue import Catalogue
from optrepro.exhibits.claims import LOOKS
from optrepro.site import material
from optrepro.site.material import KINDS, Judged

PAGES = ("README.md", "figures/README.md")


def insert(page: str, folder: Path) -> str:
    """The page with everything between its markers written anew from the published exhibits.

    Raises: ConfigError if a number of a finding is not there.
    """
    known, claims = catalogue.load(folder), material.judged(layout.PUBLISHED, folder)
    blocks: Mapping[str, Callable[[], str]] = {
        "counts": lambda: _counts(claims),
        "findings": lambda: "\n".join(f"- {finding}" for finding in material.findings(folder)),
        "runs": lambda: _runs(known),
        "map": lambda: _map(known, claims),
        "exhibits": lambda: _exhibits(known),
    }
    for name, text in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in page:
            page = re.sub(f"{begin}.*?{end}", partial(_between, begin, text(), end), page, flags=re.DOTALL)
    return page


def _between(begin: str, text: str, end: str, _: re.Match[str]) -> str:
    return f"{begin}\n{text}\n{end}"


def _counts(claims: Sequence[Judged]) -> str:
    """How many claims of the papers, and of this project's controls, have each verdict."""
    lines = []
    for own, title in KINDS.items():
        chosen = [each for each in claims if each.own == own]
        counts = _verdicts(each.verdict for each in chosen)
        lines.append(f"- **{len(chosen)} {title}**, {material.on_proxy(chosen)}: {counts}")
    return "\n".join(lines)


def _verdicts(verdicts: Iterable[str]) -> str:
    """How often each verdict was given: "● holds: 3 · ✕ fails: 1"."""
    given = list(verdicts)
    return " · ".join(f"{sign} {name}: {given.count(name)}" for name, (_, sign) in LOOKS.items() if name in given)


def _runs(known: Catalogue) -> str:
    """What the published results took."""
    studies = {study for name in known.published() for study in known.studies_of(name)}
    origin = material.origin_of(layout.PUBLISHED, studies)
    scales = " and ".join(f"`{scale}`" for scale in origin.scales)
    return f"Published at scale {scales}: {origin.runs:,} jobs, {origin.core_hours:.1f} core hours."


def _map(known: Catalogue, claims: Sequence[Judged]) -> str:
    """The map, with a heading line for each paper."""
    rows = ["| in the paper | exhibits | verdicts | scale reached | the paper's setting |", "|---|---|---|---|---|"]
    paper = ""
    for each in material.reproduced(layout.PUBLISHED, known, claims, known.published()):
        if each.paper != paper:
            paper = each.paper
            rows.append(f"| **{paper}** | | | | |")
        exhibits = ", ".join(f"[`{name}`](figures/{name}.png)" for name in each.exhibits)
        signs = ", ".join(f"{LOOKS[verdict][1]} {verdict}" for verdict in each.verdicts)
        cells = (each.part, exhibits, signs, each.scale, " · ".join(each.settings))
        rows.append(f"| {' | '.join(cell or '–' for cell in cells)} |")
    return "\n".join(rows)


def _exhibits(known: Catalogue) -> str:
    """Every exhibit of the catalogue by paper; those that are not published yet have no link."""
    lines = []
    for system in dict.fromkeys(entry.system for entry in known.exhibits.values()):
        title = known.papers[system].title if system in known.papers else "All papers"
        lines += [f"**{title}**", ""]
        for name, entry in known.exhibits.items():
            if entry.system == system:
                linked = f"[`{name}`]({name}.png)" if entry.published else f"`{name}`, not published yet"
                lines.append(f"- {linked}: {entry.title}")
        lines.append("")
    return "\n".join(lines).strip()
