"""What the site shows of a scale: drawn exhibits with their numbers, verdicts, choices, and where it all comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from optrepro import catalogue, damage, layout, parquet, provenance
from optrepro.analysis.results import Facts, read_facts
from optrepro.catalogue import PAPER_SCALE, Catalogue, Cell, Choice, Claim, Curves, ExhibitEntry, Paper
from optrepro.config import ConfigError
from optrepro.exhibits import style
from optrepro.exhibits.claims import OWN, PROXY

CLAIMS = "claims"  # the exhibit whose numbers are the verdicts
NAMES = ("verdict", "evidence", "scale", "judged on")  # columns of these numbers
KINDS = {False: "claims of the papers", True: "controls of this project"}  # by whether a claim is our own
DOWNLOADS = ("svg", "csv", "tex")


@dataclass(frozen=True)
class Origin:
    """Where results come from: their scales, the commits of the code, the machines and the time that the runs took."""

    scales: tuple[str, ...]
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    versions: tuple[str, ...]
    runs: int
    core_hours: float


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict; `scale` says whether the results are a proxy, and `setup` what was run."""

    claim: Claim
    paper: Paper
    verdict: str
    evidence: str
    scale: str
    setup: str

    @property
    def own(self) -> bool:
        """Whether it is a control or a check of this project, and no claim of the paper."""
        return self.claim.source.endswith(OWN)

    @property
    def proxy(self) -> bool:
        """Whether it was judged on a proxy of the paper's setting."""
        return self.scale.endswith(PROXY)


@dataclass(frozen=True)
class Reproduced:
    """A figure, table or experiment of a paper, and the exhibits that are about it, if there are any.

    `scale` is that of the results and says that they are a proxy where they are, or why there are none; `settings` are
    the paper's own, and `verdicts` those on the claims of the paper that the exhibits test, each named once.
    """

    paper: str
    part: str
    exhibits: tuple[str, ...]
    scale: str
    settings: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """An exhibit as it is drawn: its caption in parts, its numbers, its files, and the claims that it tests.

    `size` is width and height of the figure in points; `series` holds the curves that readers pick from, if any.
    """

    name: str
    entry: ExhibitEntry
    title: str
    reading: str
    setup: str
    table: pd.DataFrame
    size: tuple[float, float]
    files: Mapping[str, Path]
    judged: tuple[Judged, ...]
    origin: Origin
    series: Mapping[str, Any] | None


@dataclass(frozen=True)
class Material:
    """Everything that the pages of the site are made of."""

    papers: Mapping[str, Paper]
    exhibits: Sequence[Shown]
    claims: Sequence[Judged]
    choices: Sequence[Choice]
    reproduced: Sequence[Reproduced]
    findings: Sequence[str]
    origin: Origin

    def of(self, system: str) -> list[Shown]:
        """The exhibits of a paper, in the order of the catalogue."""
        return [shown for shown in self.exhibits if shown.entry.system == system]


def read(scale: str, folder: Path) -> Material:
    """The material of a scale, or of the published results, whose exhibits have been drawn.

    Raises: ConfigError if none is drawn, or the config folder is invalid; DamagedFileError for a damaged file.
    """
    known, choices = catalogue.load(folder), catalogue.choices(folder)
    drawn = [name for name in known.exhibits if Path(f"{layout.exhibit(scale, name)}.json").exists()]
    if not drawn:
        raise ConfigError(
            f"scale = {scale!r} has no exhibits; run it first (snakemake --configfile config/{scale}.yaml)"
        )
    records = _records(scale, {study for name in drawn for study in known.studies_of(name)})
    claims = judged(scale, folder) if CLAIMS in drawn else []
    exhibits = [_shown(scale, name, known, claims, records) for name in drawn]
    found = reproduced(scale, known, claims, drawn)
    told = findings(folder) if scale == layout.PUBLISHED else []
    return Material(known.papers, exhibits, claims, choices, found, told, _origin(scale, records, records))


def judged(scale: str, folder: Path) -> list[Judged]:
    """The claims with the verdicts in the numbers of the exhibit `claims`, where they stand by their ids."""
    papers = catalogue.load(folder).papers
    table = numbers(scale, CLAIMS)
    if not {"id", *NAMES} <= set(table):
        raise ConfigError(f"{layout.exhibit(scale, CLAIMS)}.csv is of an older version; draw the exhibit again")
    rows = {row["id"]: row for row in table.to_dict("records")}
    return [
        Judged(claim, papers[claim.system], *(rows[claim.id][name] for name in NAMES))
        for claim in catalogue.claims(folder)
        if claim.id in rows
    ]


def on_proxy(claims: Sequence[Judged]) -> str:
    """How many of the claims were judged on a proxy, in words."""
    number = sum(each.proxy for each in claims)
    return f"{'all' if number == len(claims) else number} on a proxy"


def reproduced(scale: str, known: Catalogue, claims: Sequence[Judged], names: Iterable[str]) -> list[Reproduced]:
    """The map from the parts of the papers to those of the exhibits that are about them, in the order of the papers."""
    parts: dict[str, dict[str, list[str]]] = {system: {} for system in known.papers}
    for name in names:
        entry = known.exhibits[name]
        if entry.reproduces is not None:
            parts[entry.system].setdefault(entry.reproduces, []).append(name)
    found = []
    for paper, of_paper in ((known.papers[system], of_paper) for system, of_paper in parts.items() if of_paper):
        there = [_part(scale, known, claims, paper, part, exhibits) for part, exhibits in of_paper.items()]
        there += [Reproduced(paper.title, part, (), f"not reproduced: {why}") for part, why in paper.absent.items()]
        found += sorted(there, key=lambda each: each.part)
    return found


def _part(
    scale: str, known: Catalogue, claims: Sequence[Judged], paper: Paper, part: str, exhibits: Sequence[str]
) -> Reproduced:
    scales = _scales(scale, dict.fromkeys(study for name in exhibits for study in known.studies_of(name)))
    tested = [each for name in exhibits for each in claims if each.claim.exhibit == name and not each.own]
    return Reproduced(
        paper.title,
        part,
        tuple(exhibits),
        " and ".join(scales) + PROXY * any(each != PAPER_SCALE for each in scales),
        tuple(dict.fromkeys(each.claim.setting for each in tested if each.claim.setting)),
        tuple(dict.fromkeys(each.verdict for each in tested)),
    )


def findings(folder: Path) -> list[str]:
    """The findings, in Markdown, with the numbers of the published exhibits filled in.

    Raises: ConfigError if a number is not there.
    """
    return [
        finding.text.format(**{name: _cell(name, cell) for name, cell in finding.numbers.items()})
        for finding in catalogue.findings(folder)
    ]


def _cell(name: str, cell: Cell) -> str:
    table = numbers(layout.PUBLISHED, cell.exhibit)
    where = f"findings.yaml: {name}: figures/{cell.exhibit}.csv"
    if unknown := [column for column in (*cell.row, cell.column) if column not in table]:
        raise ConfigError(f"{where} has no column {unknown[0]!r}; it has {', '.join(map(str, table))}")
    for column, value in cell.row.items():
        table = table[table[column] == value]
    if len(table) != 1:
        raise ConfigError(f"{where} has {len(table)} rows with {cell.row}; one is needed")
    found = re.search(cell.find, table[cell.column].iloc[0])
    if found is None:
        raise ConfigError(f"{where}: {table[cell.column].iloc[0]!r} has nothing like {cell.find!r}")
    return found[1] if found.groups() else found[0]


def numbers(scale: str, exhibit: str) -> pd.DataFrame:
    """The numbers of an exhibit as texts. Raises: DamagedFileError if they are not those that were drawn."""
    return _numbers(_verified(layout.exhibit(scale, exhibit), "csv"))


def origin_of(scale: str, studies: Iterable[str]) -> Origin:
    """Where the results of studies come from."""
    records = _records(scale, studies)
    return _origin(scale, records, records)


def _shown(
    scale: str, name: str, known: Catalogue, claims: Sequence[Judged], records: Mapping[str, Sequence[Any]]
) -> Shown:
    entry, stem = known.exhibits[name], layout.exhibit(scale, name)
    record = damage.record(Path(f"{stem}.json"), "title", "caption")
    files = {kind: _verified(stem, kind) for kind in DOWNLOADS}
    reading = style.typeset(" ".join(entry.caption.split()))
    whole = style.typeset(" ".join(record["caption"].split()))
    # A caption ends with sentences on scale, data and seeds; of one that was drawn before an edit, nothing is folded.
    setup = whole.removeprefix(reading).strip() if whole.startswith(reading) else ""
    studies = known.studies_of(name)
    return Shown(
        name=name,
        entry=entry,
        title=record["title"],
        reading=whole.removesuffix(setup).strip(),
        setup=setup,
        table=_numbers(files["csv"]),
        size=_size(files["svg"]),
        files=files,
        judged=tuple(each for each in claims if each.claim.exhibit == name),
        origin=_origin(scale, records, studies),
        series=None if entry.curves is None else _series(scale, entry.curves, studies),
    )


def _verified(stem: Path, kind: str) -> Path:
    path = provenance.verified(Path(f"{stem}.{kind}"), Path(f"{stem}.json"))
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; draw the exhibit again")
    return path


def _numbers(path: Path) -> pd.DataFrame:
    with damage.reading(path, "a table in CSV"):
        return pd.read_csv(path, dtype=str, keep_default_na=False)


def _size(path: Path) -> tuple[float, float]:
    with damage.reading(path, "a figure in SVG"), path.open() as file:
        _, _, width, height = re.search(r'viewBox="([^"]*)"', file.read(2000))[1].split()  # type: ignore[index]
        return float(width), float(height)


# --- Where results come from ----------------------------------------------------------------------------------------


def _records(scale: str, studies: Iterable[str]) -> dict[str, list[Any]]:
    """The records of the runs of each study; published results hold them in their sidecars."""
    return {study: _of_study(scale, study) for study in sorted(studies)}


def _of_study(scale: str, study: str) -> list[Any]:
    if scale == layout.PUBLISHED:
        sidecar = layout.tidy(scale, study).with_suffix(".sidecar.json")
        return list(damage.record(sidecar).get("runs", {}).values()) if sidecar.exists() else []
    return [damage.record(path) for path in sorted(Path("results", scale, "runs", study).glob("*/run.json"))]


def _origin(scale: str, records: Mapping[str, Sequence[Any]], studies: Iterable[str]) -> Origin:
    chosen = [record for study in studies for record in records[study]]
    packages = [record["environment"]["packages"] for record in chosen]
    return Origin(
        scales=tuple(_scales(scale, studies)),
        commits=_unique(_commit(record["git"]) for record in chosen),
        machines=_unique(f"{record['environment']['machine']}, {record['device']}" for record in chosen),
        versions=_unique(f"torch {versions['torch']}" for versions in packages if "torch" in versions),
        runs=len(chosen),
        core_hours=sum(record["wall_seconds"] * record["threads"] for record in chosen) / 3600,
    )


def _commit(state: Mapping[str, Any]) -> str:
    """The commit of a run's code, with a plus sign if files differed from it."""
    return f"{str(state['commit'] or 'unknown')[:7]}{'+' if state['dirty'] else ''}"


def _scales(scale: str, studies: Iterable[str]) -> list[str]:
    """The scales at which the results of studies were made: their facts know those of published ones."""
    return list(dict.fromkeys(facts.scale for facts in _facts(scale, studies)))


def _facts(scale: str, studies: Iterable[str]) -> Iterator[Facts]:
    """The facts of those of the studies that have results."""
    paths = (layout.tidy(scale, study).with_suffix(".json") for study in studies)
    return (read_facts(path) for path in paths if path.exists())


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


# --- Curves that readers pick from ----------------------------------------------------------------------------------


def _series(scale: str, curves: Curves, studies: Sequence[str]) -> dict[str, Any]:
    """The curves of each panel, and the names of the optimizers."""
    table = parquet.read(layout.table(scale, curves.table))
    for column, value in curves.where.items():
        table = table[table[column].astype(str) == value]
    if "label" in table:
        labels = dict(zip(table.optimizer, table.label, strict=True))
    else:
        labels = {key: each.label(key) for each in _facts(scale, studies) for key in each.optimizers}
    panels = table.groupby(list(curves.panels), sort=False) if curves.panels else [("all", table)]
    return {
        "x": curves.x,
        "y": curves.shows,
        "labels": {key: labels[key] for key in dict.fromkeys(table.optimizer)},
        "panels": {
            ", ".join(map(str, name if isinstance(name, tuple) else (name,))).replace("_", " "): {
                str(key): {"x": curve[curves.x].tolist(), "y": [float(f"{y:.5g}") for y in curve[curves.y]]}
                for key, curve in panel.groupby("optimizer", sort=False)
            }
            for name, panel in panels
        },
    }
