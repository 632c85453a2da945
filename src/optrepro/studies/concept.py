"""The kind concept: the gradient autocorrelation along one training run, and the scores of candidates from it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.studies.base import Count, Name, Positive, counted
from optrepro.studies.data import ImageStudy


class ConceptStudy(ImageStudy):
    """The gradient autocorrelation measured along one training run, and the candidates' scores from it."""

    runner: ClassVar[str] = "optrepro.experiments.probes.concept"

    kind: Literal["concept"] = "concept"
    network: Name
    network_settings: dict[str, Any] = {}
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...], Field(min_length=1)]
    learning_rate: Positive
    steps: Count
    window: Annotated[Count, Field(description="Consecutive steps that one estimate is made from.")]
    lags: Annotated[Count, Field(description="Largest lag of the autocorrelation.")]
    blocks: Annotated[int, Field(ge=2, description="Blocks of a window, for standard errors; divides it.")]
    probes: Annotated[int, Field(ge=2, description="Steps of a window at which the full gradient is taken.")]
    candidates: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)]
    repetitions: Count

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.steps < 3 * self.window + 2 * self.lags:
            raise ValueError(
                f"steps = {self.steps} must be at least 3 window + 2 lags = {3 * self.window + 2 * self.lags}"
            )
        if self.window % self.blocks or self.probes > self.window:
            raise ValueError(f"window = {self.window} must be a multiple of blocks = {self.blocks} and hold the probes")
        return self

    def network_in_words(self) -> str:
        """The network alone: batch sizes differ."""
        return self.network

    def repetitions_in_words(self) -> str:
        """Seeds and steps."""
        return f"{counted(self.repetitions, 'seed')}, {self.steps} steps each."
