"""The kind `surfaces`: values of two-dimensional benchmark functions on a grid."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import KIND, Study


class SurfacesStudy(Study):
    """Values of two-dimensional benchmark functions on a grid, for the gallery's contours."""

    runner: ClassVar[str] = "optrepro.experiments.descent.surfaces"

    kind: Annotated[Literal["surfaces"], KIND] = "surfaces"
    functions: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Ids of benchmark functions in `optrepro.problems.functions.vlse`; only those of two variables "
            "are used.",
        ),
    ]
    resolution: Annotated[int, Field(ge=8, description="Number of grid points along each axis.")]
