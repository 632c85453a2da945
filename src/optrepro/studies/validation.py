"""The kind `validation`: image classification with controls that see as much as validation-aware selection."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.settings import Name
from optrepro.studies.base import KIND
from optrepro.studies.training import TrainingStudy


class ValidationStudy(TrainingStudy):
    """Image classification with controls for validation-aware selection.

    That rule reads validation data, and computes a second gradient in each step. The rows in `joined` see as many
    examples, and those in `doubled` as many gradients.
    """

    runner: ClassVar[str] = "optrepro.experiments.training.validation"

    kind: Annotated[Literal["validation"], KIND] = "validation"  # type: ignore[assignment]
    joined: Annotated[
        tuple[Name, ...],
        Field(
            description="Rows whose test runs train on training and validation data together. They are tuned as all "
            "rows are, with training data alone to train on."
        ),
    ] = ()
    doubled: Annotated[
        tuple[Name, ...], Field(description="Rows whose steps average the gradients of two training batches.")
    ] = ()

    @model_validator(mode="after")
    def _controls_exist(self) -> Self:
        for key in ("joined", "doubled"):
            for name in getattr(self, key):
                if name not in self.optimizers:
                    raise ValueError(f"{key}: {name!r} is not one of {sorted(self.optimizers)}")
        return self
