"""The kind overhead: step time and memory of every optimizer, as ratios to torch's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import KIND, Count, DottedPath, Model, Name, Positive, Scale, Study
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.fields import Gpu, Label


class TimedFamily(Model):
    """Optimizers whose steps are compared with those of one class of torch."""

    reference: Annotated[
        DottedPath, Field(description="Import path of a class of torch with the settings `foreach` and `fused`.")
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
    """A network for whose parameters steps are timed."""

    label: Label
    network: Annotated[Name, Field(description="`gpt`, or a network for 100 classes of images of 3 x 32 x 32.")]
    settings: Annotated[
        dict[str, Any],
        Field(
            description="Settings of the network; for `gpt` its `vocabulary`, `context`, `width`, `layers` and `heads`."
        ),
    ] = {}
    lora_rank: Annotated[
        Count | None, Field(description="Rank of adapters, whose parameters alone are timed; null: all parameters are.")
    ] = None


class OverheadStudy(Study):
    """Step time and memory of optimizers, as ratios to torch's.

    The job takes all cores of a run, so that nothing else runs meanwhile. Times never come out equal twice, and so
    neither do the bytes of its results.
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
        Field(min_length=1, description="Networks for whose parameters steps are taken, by name."),
    ]
    seconds: Annotated[Positive, Field(description="About how long an optimizer is timed on a network.")]
    turns: Annotated[
        Count, Field(description="Smallest number of turns of an optimizer and its references; there are at most 40.")
    ]
    gpu: Gpu = False

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """The classes of all rows: they are timed in one job."""
        return [row.class_ for family in self.families.values() for row in family.optimizers.values()]
