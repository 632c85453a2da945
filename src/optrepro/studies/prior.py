"""The kind prior: samples of the synthetic prior, and its statistics beside those of the benchmark."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.problems.functions.settings import PriorSettings
from optrepro.studies.base import Count, Study


class PriorStudy(Study):
    """The prior's fixed sets, samples of it, and its statistics beside the benchmark's."""

    runner: ClassVar[str] = "optrepro.experiments.descent.prior_portrait"

    kind: Literal["prior"] = "prior"
    prior: PriorSettings
    dim: Count = 2
    validation_functions: Count
    test_functions: Count
    described: Annotated[Count, Field(description="Functions of each collection whose statistics are taken.")]
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Benchmark functions described.")]
    gallery: Annotated[Count, Field(description="Functions drawn.")]
    resolution: Annotated[int, Field(ge=8, description="Grid points along each axis.")]
