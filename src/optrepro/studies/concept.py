"""The kind `concept`: the gradient autocorrelation along a training run, and the candidates' scores from it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.studies.base import KIND, Count, Positive, counted
from optrepro.studies.data import ImageStudy
from optrepro.studies.fields import Blocks, Lags, Network, NetworkSettings, Window


class ConceptStudy(ImageStudy):
    """The gradient autocorrelation along training runs with plain SGD, and the candidates' scores from it."""

    runner: ClassVar[str] = "optrepro.experiments.probes.concept"

    kind: Annotated[Literal["concept"], KIND] = "concept"
    network: Network
    network_settings: NetworkSettings = {}
    batch_sizes: Annotated[
        tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...],
        Field(min_length=1, description="Batch sizes; each has its own runs."),
    ]
    learning_rate: Annotated[Positive, Field(description="Learning rate of plain SGD.")]
    steps: Annotated[
        Count, Field(description="Number of steps of a run, at least 3 times `window` and 2 times `lags`.")
    ]
    window: Window
    lags: Lags
    blocks: Blocks
    probes: Annotated[
        int,
        Field(
            ge=2, description="Number of steps of a window at which the gradient of the whole training set is taken."
        ),
    ]
    candidates: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1, description="Momenta that are scored.")
    ]
    repetitions: Annotated[Count, Field(description="Number of runs, each with weights and batches of its own.")]

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.steps < 3 * self.window + 2 * self.lags:
            raise ValueError(
                f"steps = {self.steps} must be at least 3 window + 2 lags = {3 * self.window + 2 * self.lags}"
            )
        if self.window % self.blocks:
            raise ValueError(f"window = {self.window} must be a multiple of blocks = {self.blocks}")
        if self.probes > self.window:
            raise ValueError(f"probes = {self.probes} must be at most window = {self.window}")
        return self

    def network_in_words(self) -> str:
        """The network; there are several batch sizes."""
        return self.network

    def repetitions_in_words(self) -> str:
        """Numbers of seeds and steps."""
        return f"{counted(self.repetitions, 'seed')}, {self.steps} steps each."
