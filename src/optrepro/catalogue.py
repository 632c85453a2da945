"""The catalogue of tables, exhibits, claims and choices: what the config folder declares beside the scales."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from optrepro.config import ConfigError, parse
from optrepro.studies.base import DottedPath, Model, Name

System = Literal["gap", "vlse", "pop", "lto", "all"]


class TableEntry(Model):
    """A table of the analysis: a function from the tidy results of studies to a data frame."""

    function: DottedPath
    studies: Annotated[tuple[Name, ...], Field(description="Its positional arguments, in this order.")]
    files: Annotated[tuple[str, ...], Field(description="Files it reads besides: its keyword `files`.")] = ()


class ExhibitEntry(Model):
    """A figure with its table: a module with functions `figure` and `table`."""

    system: System
    title: str
    module: DottedPath
    tables: Annotated[tuple[Name, ...], Field(min_length=1)]
    caption: str


class Catalogue(Model):
    """All tables and exhibits, by id."""

    tables: dict[Name, TableEntry]
    exhibits: dict[Name, ExhibitEntry]

    def studies_of(self, exhibit: str) -> list[str]:
        """The studies whose results an exhibit shows, in the order of its tables."""
        names = [study for table in self.exhibits[exhibit].tables for study in self.tables[table].studies]
        return list(dict.fromkeys(names))


class Claim(Model):
    """A claim of a paper, and how it is judged here."""

    id: Name
    system: System
    statement: str
    source: Annotated[str, Field(description="Where the paper makes it.")]
    number: Annotated[str | None, Field(description="The paper's own number, where it is known.")] = None
    exhibit: Annotated[Name | None, Field(description="The exhibit that tests it; null: not built yet.")] = None
    rule: Annotated[DottedPath | None, Field(description="Import path of the function that judges it.")] = None
    settings: Annotated[dict[str, Any], Field(description="Arguments of the rule.")] = {}
    criterion: Annotated[str, Field(description="When it holds, holds in part or fails, in words.")]


class Choice(Model):
    """An entry of the fidelity ledger: a setting and where its value comes from."""

    path: Annotated[str, Field(description="Dotted config path; `*` stands for one key, a final `**` for any below.")]
    value: Any
    standing: Literal["stated", "repository", "derived", "prior-art", "chosen"]
    why: str


def load(folder: Path) -> Catalogue:
    """The catalogue in ``exhibits.yaml`` of the config folder.

    Raises: ConfigError naming the key, its value and what is allowed.
    """
    catalogue: Catalogue = _read(folder / "exhibits.yaml", Catalogue)
    for name, exhibit in catalogue.exhibits.items():
        for table in exhibit.tables:
            if table not in catalogue.tables:
                raise ConfigError(
                    f"{folder / 'exhibits.yaml'}: exhibits.{name}.tables names {table!r}, "
                    f"which is not one of {sorted(catalogue.tables)}"
                )
    return catalogue


def claims(path: Path) -> list[Claim]:
    """The claims in ``claims.yaml``. Raises: ConfigError."""
    rows: list[Claim] = _read(path, list[Claim])
    return rows


def choices(path: Path) -> list[Choice]:
    """The fidelity ledger in ``fidelity.yaml``. Raises: ConfigError."""
    rows: list[Choice] = _read(path, list[Choice])
    return rows


def named(path: str, what: str) -> Any:
    """What an import path names, such as ``optrepro.analysis.gap.claims.switches``.

    Raises: ConfigError that says `what` was asked for if there is no such thing.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{what} = {path!r} cannot be imported: {error}") from None


def _read(path: Path, kind: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(parse(path.read_text(), str(path)))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except ValidationError as error:
        lines = (f"{path}: {'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors())
        raise ConfigError("\n".join(lines)) from None
