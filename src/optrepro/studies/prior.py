"""The kind prior: samples of the synthetic prior, and its statistics beside those of the benchmark."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from optrepro.studies.base import Count, Model, Positive, Study


def ascending(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    """Refuse a pair whose first number is the larger one."""
    if pair is not None and pair[0] > pair[1]:
        raise ValueError(f"{list(pair)} must be the smaller number first")
    return pair


Range = Annotated[
    tuple[Positive, Positive], AfterValidator(ascending), Field(description="Smallest and largest, log-uniform.")
]


class PriorConfig(Model):
    """The distribution over functions on the unit box: `optrepro.problems.functions.synthetic`."""

    shares: dict[Literal["convex", "gp", "sum"], Annotated[float, Field(ge=0, le=1)]]
    features: Annotated[Count, Field(description="Random Fourier features of a sample.")]
    length_scale: Annotated[Range, Field(description="Of the kernel, in units of the box.")]
    anisotropy: Annotated[float, Field(ge=1, description="Largest ratio of length scales between coordinates.")]
    condition: Annotated[float, Field(ge=1, description="Largest condition number of a quadratic, log-uniform.")]
    amplitude: Annotated[Range, Field(description="Of the sample in a sum; the quadratic's mean is 1.")]
    warp: Annotated[float, Field(ge=0, description="Largest s of (exp(s f) - 1) / s, uniform from 0.")]

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"shares = {dict(self.shares)} sum to {sum(self.shares.values()):g}, not to 1")
        return self


class PriorStudy(Study):
    """The prior's fixed sets, samples of it, and its statistics beside the benchmark's."""

    runner: ClassVar[str] = "optrepro.experiments.descent.prior_portrait"

    kind: Literal["prior"] = "prior"
    prior: PriorConfig
    dim: Count = 2
    validation_functions: Count
    test_functions: Count
    described: Annotated[Count, Field(description="Functions of each collection whose statistics are taken.")]
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Benchmark functions described.")]
    gallery: Annotated[Count, Field(description="Functions drawn.")]
    resolution: Annotated[int, Field(ge=8, description="Grid points along each axis.")]
