"""The data that studies read: images and text of the first data set in a list that is available."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from optrepro.problems.data import archives
from optrepro.studies.base import ELSEWHERE, Count, Model, Reading, Scale, Study

NUMBERED = ("gsm8k",)  # corpora of questions whose answers end in "#### number"


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        archives.archive(name)
    return names


FirstAtHand = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        description="Names of data sets in order of preference. The first one that is available is used; with "
        "`download`, the first one of the list.",
    ),
    AfterValidator(_known),
    ELSEWHERE,
]
TASK = Field(description="The data, and what is learned on them.")
MODALITY = Field(description="The modality of the task, which decides what its other keys are.")


class ImageData(Model):
    """The images that a study reads: one subset for all of its runs.

    The data sets are `digits`, `mnist`, `fashion-mnist`, `cifar10` and `cifar100`; see `../data/README.md`.
    """

    holds: ClassVar[Literal["image", "text"]] = "image"

    dataset: FirstAtHand
    labels: Annotated[
        Literal["fine", "coarse"],
        Field(description="Which labels of CIFAR-100 are used: it has 100 fine and 20 coarse classes."),
    ] = "fine"
    train_examples: Annotated[
        Count | None,
        Field(description="Largest size of the training subset, which all runs share; null: all examples."),
    ] = None
    validation_examples: Annotated[
        Count,
        Field(
            description="Number of examples that are held out of the training set for tuning, at most a quarter of "
            "it; tuning never sees the test set."
        ),
    ]

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets of the list."""
        return self.dataset

    def remarks(self, dataset: str) -> list[str]:
        """Remarks on a data set, given by its description."""
        coarse = self.labels == "coarse" and dataset.startswith("CIFAR-100")
        return ["coarse labels, 20 classes in all"] if coarse else []


class LanguageTask(Model):
    """Text for a causal language model, whose examples are pieces of one corpus.

    The corpora are `python-docs`, `python-source`, `tinyshakespeare`, `gsm8k` and `hellaswag`.
    """

    holds: ClassVar[Literal["image", "text"]] = "text"

    modality: Annotated[Literal["language"], MODALITY] = "language"
    corpus: FirstAtHand
    context: Annotated[int, Field(ge=2, description="Number of tokens of an example.")]
    train_examples: Annotated[Count, Field(description="Largest size of the training subset, which all runs share.")]
    validation_examples: Annotated[Count, Field(description="Number of examples for tuning.")]
    test_examples: Annotated[Count, Field(description="Largest number of examples of a test.")]
    exact_match: Annotated[
        int,
        Field(
            ge=0,
            description="Number of test questions that are answered by generation at the end of a test run; for "
            "`gsm8k` alone, whose answers end in a number.",
        ),
    ] = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets of the list."""
        return self.corpus


class VisionTask(ImageData):
    """Image classification, with all classes or half of them."""

    modality: Annotated[Literal["vision"], MODALITY] = "vision"
    classes: Annotated[
        Literal["all", "first half", "second half"],
        Field(
            description="Which classes are used: a backbone may be pretrained on one half of them and fine-tuned on "
            "the other."
        ),
    ] = "all"


Task = Annotated[LanguageTask | VisionTask, Field(discriminator="modality")]


class ImageStudy(Study, ImageData):
    """A study that reads one set of images."""

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The images of the study, which all workloads share."""
        return [Reading("", "dataset", self)]

    def remarks_on_data(self, dataset: str) -> Sequence[str]:
        """See `ImageData.remarks`."""
        return self.remarks(dataset)
