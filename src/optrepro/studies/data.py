"""What studies read: images and text, of the first data set of a list that is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.studies.base import ELSEWHERE, Count, Model, Reading, Scale, Study

NUMBERED = ("gsm8k",)  # corpora of questions whose answers end in "#### number"
FirstAtHand = Annotated[
    tuple[str, ...], Field(min_length=1, description="The first that is at hand is used."), ELSEWHERE
]


class ImageData(Model):
    """The images a study uses: one subset for all of its runs."""

    holds: ClassVar[Literal["image", "text"]] = "image"

    dataset: FirstAtHand
    labels: Annotated[Literal["fine", "coarse"], Field(description="CIFAR-100 has 100 fine and 20 coarse ones.")] = (
        "fine"
    )
    train_examples: Annotated[Count | None, Field(description="Size of the seeded subset at most; null: all.")] = None
    validation_examples: Annotated[
        Count, Field(description="Held out of the training set, for tuning only; a quarter of it at most.")
    ]

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets of the list."""
        return self.dataset

    def remarks(self, dataset: str) -> list[str]:
        """What to remark on the data set of this description."""
        coarse = self.labels == "coarse" and dataset.startswith("CIFAR-100")
        return ["coarse labels, 20 classes in all"] if coarse else []


class LanguageTask(Model):
    """Text for a causal language model: its examples are pieces of one corpus."""

    holds: ClassVar[Literal["image", "text"]] = "text"

    modality: Literal["language"] = "language"
    corpus: FirstAtHand
    context: Annotated[int, Field(ge=2, description="Tokens of an example.")]
    train_examples: Count
    validation_examples: Annotated[Count, Field(description="For tuning only.")]
    test_examples: Count
    exact_match: Annotated[int, Field(ge=0, description="Test questions that are answered by generation.")] = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets of the list."""
        return self.corpus


class VisionTask(ImageData):
    """Images to classify, of all classes or of half of them."""

    modality: Literal["vision"] = "vision"
    classes: Annotated[
        Literal["all", "first half", "second half"], Field(description="One half pretrains, the other fine-tunes.")
    ] = "all"


Task = Annotated[LanguageTask | VisionTask, Field(discriminator="modality")]


class ImageStudy(Study, ImageData):
    """A study that reads one set of images."""

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The images of the study, the same for all workloads."""
        return [Reading("", "dataset", self)]

    def remarks_on_data(self, dataset: str) -> Sequence[str]:
        """See `ImageData.remarks`."""
        return self.remarks(dataset)
