"""What the project asks of a learned optimizer, beside what was measured: pass, miss, or not evaluated yet.

The targets stand in the catalogue, as arguments of a table; how each is measured stands in the papers' folders, as a
method of a subclass of `Measures` that has the name of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import pandas as pd
from pydantic import Field, ValidationError, model_validator

from optrepro.analysis.results import StudyResults
from optrepro.settings import ConfigError, Model, in_words

PASS, MISS, OPEN = "pass", "miss", "not evaluated yet"
COLUMNS = ["target", "criterion", "asked", "measured", "verdict", "analysis"]
UNANALYSED = "not analysed yet"


class Target(Model):
    """A target: what is measured, and one bound of its value."""

    BOUNDS: ClassVar[dict[str, Callable[[float, float], bool]]] = {
        "at_least": lambda value, bound: value >= bound,
        "at_most": lambda value, bound: value <= bound,
        "above": lambda value, bound: value > bound,
        "below": lambda value, bound: value < bound,
    }

    criterion: Annotated[str, Field(description="What is measured.")]
    at_least: Annotated[float | None, Field(description="Smallest value that passes.")] = None
    at_most: Annotated[float | None, Field(description="Largest value that passes.")] = None
    above: Annotated[float | None, Field(description="Larger values pass.")] = None
    below: Annotated[float | None, Field(description="Smaller values pass.")] = None
    asked: Annotated[str | None, Field(description="The bound in words; null: as it stands.")] = None
    analysis: Annotated[str, Field(description="Where a miss is analysed.")] = UNANALYSED

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (given := len(self._bounds())) != 1:
            raise ValueError(f"one of {list(self.BOUNDS)} must be given, not {given}")
        return self

    def in_words(self) -> str:
        """What is asked."""
        [(name, bound)] = self._bounds().items()
        return self.asked or f"{name.replace('_', ' ')} {bound:g}"

    def verdict(self, value: float) -> str:
        """Whether a value passes; one that is not a number has not been evaluated."""
        if value != value:
            return OPEN
        [(name, bound)] = self._bounds().items()
        return PASS if self.BOUNDS[name](value, bound) else MISS

    def _bounds(self) -> dict[str, float]:
        return {name: bound for name in self.BOUNDS if (bound := getattr(self, name)) is not None}


class Measured(NamedTuple):
    """A value that a target bounds, and the words that show it."""

    value: float
    words: str


class Measures:
    """How targets are measured: each public method is the measure of the target of its name.

    A measure raises KeyError, with what is absent, if the results do not have what it needs.
    """

    def __init__(self, studies: Iterable[StudyResults]) -> None:
        self._studies = {study.facts.study: study for study in studies}

    def _study(self, name: str) -> StudyResults:
        """A study all of whose runs are there. Raises: KeyError."""
        if name not in self._studies:
            raise KeyError(f"{name} has no results")
        missing = len(self._studies[name].facts.missing)
        if missing:
            raise KeyError(f"{name} lacks {missing} runs")
        return self._studies[name]

    @classmethod
    def _names(cls) -> list[str]:
        return sorted(name for each in cls.__mro__ for name in vars(each) if not name.startswith("_"))


def compare(measures: Measures, targets: Mapping[str, Any]) -> pd.DataFrame:
    """One row per target: target, criterion, asked, measured, verdict, analysis (of a miss, otherwise empty).

    Raises: ConfigError for a target that has no measure or is not valid.
    """
    rows = []
    for name, entry in targets.items():
        if name not in measures._names():
            raise ConfigError(f"targets.{name} is not one of {measures._names()}")
        target = _valid(name, entry)
        try:
            measured: Measured = getattr(measures, name)()
        except KeyError as absent:
            measured = Measured(float("nan"), str(absent.args[0]))
        verdict = target.verdict(measured.value)
        analysis = target.analysis if verdict == MISS else ""
        rows.append((name, target.criterion, target.in_words(), measured.words, verdict, analysis))
    return pd.DataFrame(rows, columns=COLUMNS)


def _valid(name: str, entry: Any) -> Target:
    try:
        return Target.model_validate(entry)
    except ValidationError as error:
        places = (".".join(["targets", name, *map(str, each["loc"])]) for each in error.errors())
        faults = (f"{place}: {in_words(each)}" for place, each in zip(places, error.errors(), strict=True))
        raise ConfigError("\n".join(faults)) from None
