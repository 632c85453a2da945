"""The kind `overhead`: step time and memory of every optimizer, as ratios to those of an optimizer of PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import KIND, Count, DottedPath, Model, Name, Positive, Scale, Study
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.fields import Gpu, Label


class TimedFamily(Model):
    """Optimizers that are compared with one class of PyTorch."""

    reference: Annotated[
        DottedPath, Field(description="Import path of a class of PyTorch with the settings `foreach` and `fused`.")
    ]
    settings: Annotated[dict[str, Any], Field(description="Keyword arguments of the reference.")] = {}
    optimizers: Annotated[
        dict[Name, OptimizerConfig],
        Field(
            min_length=1,
            description="The optimizers that are timed, by name; rows of the group `fixed` and rows with `shares_of` "
            "are left out.",
        ),
    ]


class TimedNetwork(Model):
    """A network whose parameters the timed steps update."""

    label: Label
    network: Annotated[Name, Field(description="`gpt`, or a network for 100 classes of images of 3 x 32 x 32.")]
    settings: Annotated[
        dict[str, Any],
        Field(
            description="Settings of the network; for `gpt` its `vocabulary`, `context`, `width`, `layers` and `heads`."
        ),
    ] = {}
    lora_rank: Annotated[
        Count | None,
        Field(description="Rank of adapters, the only parameters that are updated; null: all parameters are."),
    ] = None


class OverheadStudy(Study):
    """Step time and memory of optimizers, as ratios to those of an optimizer of PyTorch.

    The job takes all cores of a run, so that no other job runs at the same time. Times differ from run to run, so its
    results are not reproducible bit for bit.
    """

    runner: ClassVar[str] = "optrepro.experiments.probes.overhead"
    timed: ClassVar[bool] = True

    kind: Annotated[Literal["overhead"], KIND] = "overhead"
    families: Annotated[
        dict[Name, TimedFamily],
        Field(
            min_length=1, description="Families of optimizers, each with the class that it is compared with, by name."
        ),
    ]
    networks: Annotated[
        dict[Name, TimedNetwork],
        Field(min_length=1, description="Networks whose parameters the timed steps update, by name."),
    ]
    seconds: Annotated[Positive, Field(description="Approximate time for which an optimizer is timed on a network.")]
    turns: Annotated[
        Count, Field(description="Smallest number of turns of an optimizer and its references; there are at most 40.")
    ]
    gpu: Gpu = False

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """The classes of all rows, which are timed in one job."""
        return [row.class_ for family in self.families.values() for row in family.optimizers.values()]
