"""The catalogue of tables, exhibits, claims and choices, which the papers' folders declare beside their studies."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

from optrepro.config import SHOWN, ConfigError, key_of, parse
from optrepro.settings import ModulePath, essential, in_words, shortened
from optrepro.studies.base import DottedPath, Model, Name

PAPER_SCALE = "paper"  # the scale that has the papers' own settings
ALL = "all"  # the `system` of entries in the config folder itself, which belong to no single paper


class Paper(Model):
    """A paper that is reproduced."""

    title: Annotated[str, Field(description="Name and number of the paper, as exhibits print them.")]
    position: Annotated[int, Field(description="Place of the paper among the others.")]
    absent: Annotated[
        dict[str, str], Field(description="What of the paper no exhibit reproduces, each with the reason.")
    ] = {}


class TableEntry(Model):
    """A table of the analysis: a function from the tidy results of studies to a data frame."""

    function: Annotated[DottedPath, Field(description="Import path of the function that makes the table.")]
    studies: Annotated[
        tuple[Name, ...], Field(description="Studies whose results are its positional arguments, in this order.")
    ] = ()
    further: Annotated[
        tuple[Name, ...],
        Field(
            description="Studies whose results are positional arguments, too, where there are any: the published "
            "results may lack them."
        ),
    ] = ()
    arguments: Annotated[dict[str, Any], Field(description="Keyword arguments of the function.")] = {}
    each: Annotated[
        tuple[Name, ...],
        Field(
            description="Studies that each have such a table; in the name of the table, `{study}` stands for theirs."
        ),
    ] = ()
    judges: Annotated[
        bool, Field(description="Whether the table judges all claims, so that it reads all studies that they name.")
    ] = False
    files: Annotated[
        tuple[str, ...],
        Field(description="Other files that the function reads; for claims they are filled in."),
    ] = ()


class Curves(Model):
    """Curves of a table that readers of the site show, hide and read off one by one."""

    table: Annotated[Name, Field(description="One of the exhibit's tables, with a column `optimizer`.")]
    x: Annotated[str, Field(description="Column of the horizontal axis.")]
    y: Annotated[str, Field(description="Column of the vertical axis.")]
    shows: Annotated[str, Field(description="What the vertical axis shows, in words.")]
    panels: Annotated[
        tuple[str, ...],
        Field(description="Columns whose values tell the panels apart, of which one is shown at a time."),
    ] = ()
    where: Annotated[dict[str, str], Field(description="Values of columns that rows must have to be shown.")] = {}


class ExhibitEntry(Model):
    """A figure with its table, drawn by the functions `figure` and `table` of a module."""

    system: Annotated[str, Field(description="The paper's folder; filled in when the catalogue is read.")] = ALL
    title: Annotated[str, Field(description="Title of the figure.")]
    module: Annotated[ModulePath, Field(description="Import path of the module that draws it.")]
    tables: Annotated[tuple[Name, ...], Field(min_length=1, description="Tables that it shows, in this order.")]
    reproduces: Annotated[
        str | None,
        Field(description="The figure, table or experiment of the paper that it is about, as the paper numbers it."),
    ] = None
    curves: Annotated[
        Curves | None,
        Field(description="Curves that the site lets readers pick from; null: it shows the figure alone."),
    ] = None
    caption: Annotated[
        str,
        Field(
            description="Caption, whose first 90 words explain every panel; the site folds the rest. Scale, seeds, "
            "data and missing runs are added to it when the figure is drawn."
        ),
    ]
    published: Annotated[
        bool,
        Field(description="Whether it is in the published gallery; `false` until its studies have published results."),
    ] = True


class Exhibits(Model):
    """The tables of the analysis and the exhibits that show them."""

    tables: Annotated[dict[str, TableEntry], Field(description="Tables of the analysis, by name.")] = {}
    exhibits: Annotated[dict[Name, ExhibitEntry], Field(description="Figures with their tables, by name.")] = {}


class Catalogue(Model):
    """All tables and exhibits, and the papers by the names of their folders."""

    papers: Annotated[dict[str, Paper], Field(description="The papers by the names of their folders, in order.")]
    tables: Annotated[dict[Name, TableEntry], Field(description="All tables, by name.")]
    exhibits: Annotated[dict[Name, ExhibitEntry], Field(description="All exhibits, by name.")]

    def published(self) -> list[str]:
        """The exhibits of the published gallery."""
        return [name for name, entry in self.exhibits.items() if entry.published]

    def studies_of(self, exhibit: str) -> list[str]:
        """The studies whose results an exhibit shows, in the order of its tables."""
        names = [study for table in self.exhibits[exhibit].tables for study in self.tables[table].studies]
        return list(dict.fromkeys(names))

    def jobs(self) -> list[tuple[Name, ...]]:
        """The tables in groups that share their studies, files and module, each of which one job computes."""
        groups: dict[tuple[object, ...], list[Name]] = {}
        for name, entry in self.tables.items():
            module = entry.function.rpartition(".")[0]
            groups.setdefault((entry.studies, entry.further, module, entry.judges, entry.files), []).append(name)
        return [tuple(names) for names in groups.values()]


def _naming_studies(settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a rule unchanged. Raises: ValueError where they name no studies for it to judge."""
    studies = settings.get("studies", [])
    if not isinstance(studies, list) or not all(isinstance(study, str) for study in studies):
        raise ValueError(f"studies = {shortened(studies)} must be a list of names of studies")
    return settings


class Margin(Model):
    """The margin of equivalence of a claim: differences that are smaller matter to nobody. 0 allows for none."""

    points: Annotated[float, Field(ge=0, description="Percentage points of accuracy.")] = 0.0
    percent: Annotated[float, Field(ge=0, description="Per cent of the other's mean loss, objective or area.")] = 0.0
    improvement: Annotated[float, Field(ge=0, description="Of normalized improvement, which is in [0, 1].")] = 0.0
    digits: Annotated[float, Field(ge=0, description="Digits of the regret, -log10 of the normalized one.")] = 0.0

    def of(self, criterion: str, level: float) -> float:
        """The margin in the unit of a criterion, "accuracy" or "loss", beside a mean of that level."""
        return self.points / 100 if criterion == "accuracy" else self.percent / 100 * abs(level)

    def in_words(self) -> str:
        """The margin as readers see it: "0.25 points of accuracy, 0.5 % of the loss"."""
        words = {
            "points": "points of accuracy",
            "percent": "% of the other's mean",
            "improvement": "of improvement",
            "digits": "digits of regret",
        }
        return ", ".join(f"{getattr(self, name):g} {unit}" for name, unit in words.items() if getattr(self, name))


class Claim(Model):
    """A claim of a paper, and how it is judged here. A claim whose runs are missing is "not run"."""

    id: Annotated[Name, Field(description="Name of the claim.")]
    system: Annotated[str, Field(description="The paper's folder; filled in when the catalogue is read.")] = ALL
    statement: Annotated[str, Field(description="What the paper claims, in a sentence.")]
    source: Annotated[str, Field(description="Where the paper makes the claim.")]
    number: Annotated[str | None, Field(description="The number that the paper reports, where it is known.")] = None
    setting: Annotated[
        str | None,
        Field(
            description="The paper's own setting. At any scale but `paper` the verdict is on a proxy of it, and is "
            "marked so; null: the claim is of no such setting."
        ),
    ] = None
    exhibit: Annotated[Name | None, Field(description="The exhibit that tests it; null: none is built.")] = None
    rule: Annotated[
        DottedPath | None, Field(description="Import path of the function that judges it; null: there is none.")
    ] = None
    settings: Annotated[
        dict[str, Any], AfterValidator(_naming_studies), Field(description="Arguments of the rule.")
    ] = {}
    margin: Annotated[Margin | None, Field(description="Argument `margin` of the rule; null: the rule has none.")] = (
        None
    )
    criterion: Annotated[str, Field(description="When the claim holds, holds in part or fails, in words.")]

    def is_proxy(self, scale: str) -> bool:
        """Whether results of a scale stand in for the setting of the paper."""
        return self.setting is not None and scale != PAPER_SCALE


class Cell(Model):
    """A number of a published exhibit."""

    exhibit: Annotated[Name, Field(description="The exhibit.")]
    row: Annotated[dict[str, str], Field(description="Values of columns by which the row is found.")]
    column: Annotated[str, Field(description="The column.")]
    find: Annotated[str, Field(description="Regular expression of what is taken of the cell, or the group in it.")] = (
        ".+"
    )


class Finding(Model):
    """A sentence on the published results, for the README and the site."""

    text: Annotated[str, Field(description="Markdown, with the names of numbers in braces.")]
    numbers: Annotated[dict[str, Cell], Field(description="The numbers by their names.")] = {}


def _as_list(path: Any) -> Any:
    return [path] if isinstance(path, str) else path


Standing = Literal["stated", "repository", "derived", "prior-art", "chosen"]
PATH = (
    "Dotted path in the resolved `paper.yaml`, where `*` stands for one key and a final `**` for any below; or `code.` "
    "and a name below the package, for what the code decides."
)
STANDING = "Where the value comes from."
WHY = "The reason, in a sentence."


class Choice(Model):
    """A line of the fidelity ledger: a setting and where its value comes from."""

    path: Annotated[str, Field(description=PATH)]
    value: Annotated[Any, Field(description="Value that is set there.")]
    standing: Annotated[Standing, Field(description=STANDING)]
    why: Annotated[str, Field(description=WHY)]


class ChoiceEntry(Model):
    """The origin of the value of one or several settings, with the reason for it. A value is

    - `stated` in the paper's abstract, captions or README,
    - in the paper's public `repository`,
    - `derived` by mathematics that anyone can check,
    - `prior-art`, from the published recipe that the paper refers to, or the nearest one,
    - or `chosen` by us.

    A test fails for a setting without an entry, an entry without a setting, and a value that differs.
    """

    path: Annotated[
        tuple[str, ...], BeforeValidator(_as_list), Field(description=f"One path or a list of them. {PATH}")
    ] = ()
    value: Annotated[Any, Field(description="Value of these paths.")] = None
    values: Annotated[dict[str, Any], Field(description="Values by path, for paths whose values differ.")] = {}
    standing: Annotated[Standing, Field(description=STANDING)]
    why: Annotated[str, Field(description=WHY)]

    def choices(self) -> Iterator[Choice]:
        """One line of the ledger for each path."""
        for path, value in {**dict.fromkeys(self.path, self.value), **self.values}.items():
            yield Choice(path=path, value=value, standing=self.standing, why=self.why)


def load(folder: Path) -> Catalogue:
    """The catalogue that the config folder and the papers' folders in it declare, in the order of the papers.

    Raises: ConfigError that names the file, the key, its value and what is allowed.
    """
    papers = {path.parent.name: _read(path, Paper) for path in folder.glob("*/paper.yaml")}
    papers = dict(sorted(papers.items(), key=lambda item: item[1].position))
    tables: dict[str, TableEntry] = {}
    exhibits: dict[str, ExhibitEntry] = {}
    for system in (*papers, ALL):
        path = (folder if system == ALL else folder / system) / "exhibits.yaml"
        if path.exists():
            declared: Exhibits = _read(path, Exhibits)
            tables |= dict(_expanded(declared.tables))
            exhibits |= {n: e.model_copy(update={"system": system}) for n, e in declared.exhibits.items()}
    tables = {name: _judging(entry, folder, exhibits) for name, entry in tables.items()}
    for name, exhibit in exhibits.items():
        for table in exhibit.tables:
            if table not in tables:
                raise ConfigError(
                    f"{folder}/*/exhibits.yaml: exhibits.{name}.tables names {shortened(table)}, "
                    f"which is not one of {sorted(tables)}"
                )
        if exhibit.curves is not None and exhibit.curves.table not in exhibit.tables:
            raise ConfigError(
                f"{folder}/*/exhibits.yaml: exhibits.{name}.curves.table = {shortened(exhibit.curves.table)} is not "
                f"allowed; it is one of the exhibit's tables, {', '.join(exhibit.tables)}"
            )
    try:
        return Catalogue(papers=papers, tables=tables, exhibits=exhibits)
    except ValidationError as error:  # the name of a folder, or one that `each` makes, is no name
        raise ConfigError("\n".join(_lines(f"{folder}/*/exhibits.yaml", error))) from None


def claims(folder: Path) -> list[Claim]:
    """The claims in ``claims.yaml`` of each paper's folder, in the order of the papers. Raises: ConfigError."""
    return [
        claim.model_copy(update={"system": path.parent.name})
        for path in files(folder, "claims.yaml")
        for claim in _read(path, list[Claim])
    ]


def choices(folder: Path) -> list[Choice]:
    """The fidelity ledger: ``fidelity.yaml`` of the config folder, then that of each paper. Raises: ConfigError."""
    entries = (entry for path in files(folder, "fidelity.yaml") for entry in _read(path, list[ChoiceEntry]))
    return [choice for entry in entries for choice in entry.choices()]


def findings(folder: Path) -> list[Finding]:
    """The findings in ``findings.yaml`` of the config folder; none without that file. Raises: ConfigError."""
    path = folder / "findings.yaml"
    return _read(path, list[Finding]) if path.exists() else []


def files(folder: Path, name: str) -> list[Path]:
    """The files called `name` in the config folder and in the papers' folders, in the order of the papers."""
    papers = {path.parent: _read(path, Paper).position for path in folder.glob("*/paper.yaml")}
    return [path for place in (folder, *sorted(papers, key=papers.__getitem__)) if (path := place / name).exists()]


def named(path: str, what: str) -> Any:
    """The object at an import path such as ``optrepro.analysis.gap.claims.switches``.

    Raises: ConfigError that begins with `what`, the key of the path, if the object does not exist.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the module raises while it is imported
        raise ConfigError(f"{what} = {shortened(path)} cannot be imported: {error or type(error).__name__}") from None


def source_modules(entry: TableEntry, folder: Path) -> list[str]:
    """The modules that compute a table: that of its function and, for a table of claims, those of their rules."""
    rules = [claim.rule for claim in claims(folder) if claim.rule] if entry.judges else []
    return sorted({path.rpartition(".")[0] for path in (entry.function, *rules)})


def _expanded(tables: dict[str, TableEntry]) -> Iterator[tuple[str, TableEntry]]:
    """The tables by name; an entry with `each` becomes one table for each of its studies."""
    for name, entry in tables.items():
        if not entry.each:
            yield name, entry
        for study in entry.each:
            yield name.replace("{study}", study), entry.model_copy(update={"studies": (study,), "each": ()})


def _judging(entry: TableEntry, folder: Path, exhibits: Mapping[str, ExhibitEntry]) -> TableEntry:
    """The entry; if it judges the claims, with their studies and files filled in.

    Studies of claims alone that unpublished exhibits test are `further` ones.
    """
    if not entry.judges:
        return entry
    studies: dict[bool, list[str]] = {True: [], False: []}  # by whether they are published
    for claim in claims(folder):
        tested = exhibits.get(claim.exhibit) if claim.exhibit else None
        studies[tested is None or tested.published] += claim.settings.get("studies", ())
    further = [study for study in studies[False] if study not in studies[True]]
    read = [str(path) for path in (*files(folder, "claims.yaml"), *files(folder, "paper.yaml"))]
    update = {
        "studies": tuple(dict.fromkeys(studies[True])),
        "further": tuple(dict.fromkeys(further)),
        "files": tuple(read),
        "arguments": {"folder": str(folder)},
    }
    return entry.model_copy(update=update)


def _read(path: Path, kind: Any) -> Any:
    try:
        content = parse(path.read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(path, error, content))) from None


def _lines(place: Path | str, error: ValidationError, content: Any = None) -> Iterator[str]:
    """One line for each key that is not allowed; an entry of a list is named by its number and what it is about."""
    problems = essential(error)
    for problem in problems[:SHOWN]:
        location = problem["loc"]
        key = key_of(location) if location else "the file"
        if isinstance(content, list) and location:
            key = f"{_entry(content, int(location[0]))} {key_of(location[1:]) if location[1:] else ''}".rstrip()
        if problem["type"] == "missing":
            yield f"{place}: {key} is missing"
        elif problem["type"] == "extra_forbidden":
            yield f"{place}: {key} is not a key of this file"
        else:
            yield f"{place}: {key} = {shortened(problem['input'])} is not allowed. {in_words(problem)}"
    if len(problems) > SHOWN:
        yield f"and {len(problems) - SHOWN:,} more errors"


def _entry(content: Sequence[Any], number: int) -> str:
    """An entry of a list of claims or choices, by its number from 1, with its id or path where it has one."""
    entry = content[number]
    about = (entry.get("id") or entry.get("path")) if isinstance(entry, dict) else None
    return f"entry {number + 1}{f' ({shortened(about)})' if about else ''}:"
