"""The kind overhead: step time and memory of every optimizer, as ratios to torch's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import Count, DottedPath, Model, Name, Positive, Scale, Study
from optrepro.studies.comparison import OptimizerConfig


class TimedFamily(Model):
    """Optimizers whose steps are compared with those of one class of torch's."""

    reference: Annotated[DottedPath, Field(description="A class with the settings foreach and fused.")]
    settings: Annotated[dict[str, Any], Field(description="Of the reference.")] = {}
    optimizers: Annotated[
        dict[Name, OptimizerConfig],
        Field(min_length=1, description="Rows of the group fixed and rows with shares_of are not timed."),
    ]


class TimedNetwork(Model):
    """A network for whose parameters steps are timed."""

    label: str
    network: Annotated[Name, Field(description="gpt, or a network for images of 32 x 32 pixels in 3 channels.")]
    settings: Annotated[dict[str, Any], Field(description="Of the network; for gpt the sizes it takes.")] = {}
    lora_rank: Annotated[Count | None, Field(description="Time the adapters' parameters; null: all parameters.")] = None


class OverheadStudy(Study):
    """Step time and memory of every optimizer, as ratios to torch's. Times never come out equal twice."""

    runner: ClassVar[str] = "optrepro.experiments.probes.overhead"
    timed: ClassVar[bool] = True

    kind: Literal["overhead"] = "overhead"
    families: Annotated[dict[Name, TimedFamily], Field(min_length=1)]
    networks: Annotated[dict[Name, TimedNetwork], Field(min_length=1)]
    seconds: Annotated[Positive, Field(description="Time for an optimizer on a network, about.")]
    turns: Annotated[Count, Field(description="Turns of an optimizer and its references, at least.")]
    gpu: Annotated[bool, Field(description="Whether the job asks the cluster for a GPU.")] = False

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """The classes of all rows: they are timed in one job."""
        return [row.class_ for family in self.families.values() for row in family.optimizers.values()]
