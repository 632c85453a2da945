"""The kind surfaces: values of the benchmark functions of two variables on a grid."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import Study


class SurfacesStudy(Study):
    """Values of the two-dimensional functions on a grid, for the gallery's contours."""

    runner: ClassVar[str] = "optrepro.experiments.descent.surfaces"

    kind: Literal["surfaces"] = "surfaces"
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Ids in `optrepro.problems.functions.vlse`.")]
    resolution: Annotated[int, Field(ge=8, description="Grid points along each axis.")]
