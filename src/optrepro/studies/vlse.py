"""Studies of the benchmark functions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from optrepro.studies.common import ConstantRates, Count, Model


class FunctionsStudy(ConstantRates):
    """The benchmark functions in box coordinates, each optimizer tuned per function on starts of its own."""

    kind: Literal["functions"] = "functions"
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Ids in `optrepro.problems.functions.vlse`.")]
    dimension: Annotated[Count, Field(description="Dimension of the functions that are defined in any.")] = 2
    budget: Annotated[Count, Field(description="Evaluations of value and gradient in a run.")]
    tuning_starts: Count
    starts: Count


class SurfacesStudy(Model):
    """Values of the two-dimensional functions on a grid, for the gallery's contours."""

    kind: Literal["surfaces"] = "surfaces"
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Ids in `optrepro.problems.functions.vlse`.")]
    resolution: Annotated[int, Field(ge=8, description="Grid points along each axis.")]
