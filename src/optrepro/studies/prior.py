"""The kind `prior`: samples from the synthetic prior, and its statistics beside those of the benchmark."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.problems.functions.settings import PriorSettings
from optrepro.studies.base import KIND, Count, Study


class PriorStudy(Study):
    """The prior's fixed sets, samples for the gallery, and its statistics beside those of other collections."""

    runner: ClassVar[str] = "optrepro.experiments.descent.prior_portrait"

    kind: Annotated[Literal["prior"], KIND] = "prior"
    prior: Annotated[PriorSettings, Field(description="The prior.")]
    dim: Annotated[Count, Field(description="Dimension of the functions.")] = 2
    validation_functions: Annotated[Count, Field(description="Size of the validation set.")]
    test_functions: Annotated[Count, Field(description="Size of the test set.")]
    described: Annotated[
        Count, Field(description="Number of functions of each collection whose statistics are computed.")
    ]
    functions: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Benchmark functions whose statistics are computed too, except those of more than `dim` "
            "variables.",
        ),
    ]
    gallery: Annotated[Count, Field(description="Number of test functions that are drawn.")]
    resolution: Annotated[int, Field(ge=8, description="Number of grid points along each axis of the pictures.")]
