"""The record of evaluations: which weights were looked at on which collections, how often, and from which commit.

A collection that others published says something about a learned optimizer only while nobody chooses by it. So every
evaluation is entered before its first run, and stays. Other weights of the same policy are a second look, which has to
be asked for; the record then shows both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from optrepro import damage, layout
from optrepro.settings import ConfigError, Model, Name

RECORD = Path("results", layout.PUBLISHED, "evaluations.json")
DIGITS = 12  # of a hash, where a text names it


class Evaluation(Model):
    """One look at the collections of a study with certain weights."""

    study: Annotated[Name, Field(description="The study that was run.")]
    scale: Annotated[Name, Field(description="The scale that it was run at.")]
    weights: Annotated[dict[Name, str], Field(description="SHA-256 of the weights of each learned row.")]
    collections: Annotated[dict[Name, dict[str, Any]], Field(description="Settings of each collection.")]
    packages: Annotated[dict[str, str], Field(description="Versions of the packages that hold the problems.")]
    commits: Annotated[tuple[str, ...], Field(description="Commits of the code, one for all pieces if it stayed.")]
    problems: Annotated[dict[Name, int], Field(description="Problems of each collection; none before the end.")] = {}
    cpu_hours: Annotated[float, Field(ge=0, description="Of all pieces that ended; what was stored costs none.")] = 0.0
    complete: Annotated[bool, Field(description="Whether all of its runs are there.")] = False

    @property
    def subject(self) -> tuple[object, ...]:
        """What was looked at with what; pieces of one evaluation agree in it."""
        return self.study, self.scale, self.weights, self.collections, self.packages

    def in_words(self) -> str:
        """The scale, the number of problems and the weights, in short."""
        size = f"{sum(self.problems.values()):,} problems" if self.complete else "not complete"
        weights = ", ".join(f"{row} {sha[:DIGITS]}" for row, sha in self.weights.items())
        return f"scale {self.scale}, {size}, weights {weights}"


def read(path: Path = RECORD) -> list[Evaluation]:
    """All evaluations, in the order in which they began. Raises: DamagedFileError if the file is no such record."""
    if not path.exists():
        return []
    with damage.reading(path, "a record of evaluations"):
        return TypeAdapter(list[Evaluation]).validate_python(json.loads(path.read_bytes()))


def write(evaluations: Sequence[Evaluation], path: Path = RECORD) -> None:
    """Write all evaluations, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([each.model_dump(mode="json") for each in evaluations], indent=1) + "\n")
    partial.replace(path)


def enter(new: Evaluation, again: bool = False, path: Path = RECORD) -> Evaluation:
    """Enter an evaluation that begins or goes on; return it with what the record already says of it.

    Raises: ConfigError if the study was evaluated with other weights of one of its policies, unless `again`.
    """
    entries = read(path)
    for place, known in enumerate(entries):
        if known.subject == new.subject:
            commits = tuple(dict.fromkeys([*known.commits, *new.commits]))
            entries[place] = known.model_copy(update={"commits": commits})
            write(entries, path)
            return entries[place]
    if not again:
        _refuse_second_look(entries, new, path)
    write([*entries, new], path)
    return new


def update(changed: Evaluation, changes: Mapping[str, Any], path: Path = RECORD) -> Evaluation:
    """Change an evaluation that is in the record; return it as it is then."""
    entries = read(path)
    [place] = [place for place, known in enumerate(entries) if known.subject == changed.subject]
    entries[place] = Evaluation(**{**entries[place].model_dump(), **changes})
    write(entries, path)
    return entries[place]


def _refuse_second_look(entries: Sequence[Evaluation], new: Evaluation, path: Path) -> None:
    for known in entries:
        for row, sha in new.weights.items():
            if known.study == new.study and known.weights.get(row, sha) != sha:
                raise ConfigError(
                    f"weights of {row} = {sha[:DIGITS]} are not allowed on {new.study}: by {path.as_posix()} it was "
                    f"evaluated with {known.weights[row][:DIGITS]}; --again looks once more, and the record shows both"
                )
