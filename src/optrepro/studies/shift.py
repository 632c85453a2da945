"""The kind `shift`: image classification in which something changes abruptly in mid-training."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.studies.base import KIND
from optrepro.studies.training import TrainingStudy


class ShiftStudy(TrainingStudy):
    """Image classification in which something changes abruptly after half of the steps.

    Permuted labels or pixels make a new task, so validation and test data change too; batch size and label noise change
    only the training data. Steps and evaluations are even numbers, so that the curve has a point at the shift. Tuning
    runs also record the whole curve, on validation data, from which the best fixed candidates before the shift, after
    it and overall are chosen.
    """

    runner: ClassVar[str] = "optrepro.experiments.training.shift"

    kind: Annotated[Literal["shift"], KIND] = "shift"  # type: ignore[assignment]
    shift: Annotated[
        Literal["classes", "inputs", "batch_size", "label_noise"],
        Field(
            description="The change: every class becomes the next one, the pixels are permuted, the batch size "
            "changes, or a share of the training labels becomes random."
        ),
    ]
    shifted_to: Annotated[
        float,
        Field(ge=0, description="Batch size after the shift, or share of random labels; unused for the other shifts."),
    ] = 0.0

    @model_validator(mode="after")
    def _shift_is_possible(self) -> Self:
        size = self.shifted_to
        if self.steps % 2 or self.evaluations % 2:
            raise ValueError(
                f"steps = {self.steps} and evaluations = {self.evaluations} must be even, so that the curve has a "
                "point at the shift"
            )
        if self.shift == "batch_size" and (size < 2 or size % 2):
            raise ValueError(f"shifted_to = {size} is not allowed: a batch size is an even number of at least 2")
        if self.shift == "label_noise" and not 0 < size <= 1:
            raise ValueError(f"shifted_to = {size} is not allowed: a share of random labels is in (0, 1]")
        return self
