"""The kind training: image classification, every optimizer on the same networks and batches."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import Name
from optrepro.studies.data import ImageStudy
from optrepro.studies.recipe import Recipe


class TrainingStudy(Recipe, ImageStudy):
    """Image classification: every optimizer trains the same networks on the same batches."""

    runner: ClassVar[str] = "optrepro.experiments.training.classification"

    kind: Literal["training"] = "training"
    network: Name
    network_settings: dict[str, Any] = {}
    augment: Annotated[bool, Field(description="Random crops with 4 pixels of padding, and flips.")] = False

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.network
