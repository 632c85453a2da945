"""The kind `training`: image classification, with every optimizer on the same networks and batches."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import KIND
from optrepro.studies.data import ImageStudy
from optrepro.studies.fields import Network, NetworkSettings
from optrepro.studies.recipe import Recipe


class TrainingStudy(Recipe, ImageStudy):
    """Image classification: every optimizer trains the same networks on the same batches."""

    runner: ClassVar[str] = "optrepro.experiments.training.classification"

    kind: Annotated[Literal["training"], KIND] = "training"
    network: Network
    network_settings: NetworkSettings = {}
    augment: Annotated[
        bool, Field(description="Whether images are augmented by random crops with 4 pixels of padding, and by flips.")
    ] = False

    @property
    def model(self) -> str:
        """Name of the network."""
        return self.network
