"""Studies of fine-tuning: backbones that are pretrained here or come from a hub, adapted by LoRA."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from optrepro.studies.common import Count, ImageData, Model, Name, OptimizerConfig, Positive, TrainedRow
from optrepro.studies.gap import Recipe


def _commit(revision: str) -> str:
    if re.fullmatch("[0-9a-f]{40}", revision) is None:
        raise ValueError(
            f"{revision!r} is not a commit of the hub, which has 40 hexadecimal digits (0-9, a-f); names of branches "
            "and tags are not allowed, because they move"
        )
    return revision


Revision = Annotated[str, AfterValidator(_commit)]
NUMBERED = ("gsm8k",)  # corpora of questions whose answers end in "#### number"


class LanguageTask(Model):
    """Text for a causal language model: its examples are pieces of one corpus."""

    modality: Literal["language"] = "language"
    corpus: Annotated[tuple[str, ...], Field(min_length=1, description="The first that is at hand is used.")]
    context: Annotated[int, Field(ge=2, description="Tokens of an example.")]
    train_examples: Count
    validation_examples: Annotated[Count, Field(description="For tuning only.")]
    test_examples: Count
    exact_match: Annotated[int, Field(ge=0, description="Test questions that are answered by generation.")] = 0


class VisionTask(ImageData):
    """Images to classify, of all classes or of half of them."""

    modality: Literal["vision"] = "vision"
    classes: Annotated[
        Literal["all", "first half", "second half"], Field(description="One half pretrains, the other fine-tunes.")
    ] = "all"


Task = Annotated[LanguageTask | VisionTask, Field(discriminator="modality")]


class Architecture(Model):
    """Sizes of a transformer."""

    width: Count
    layers: Count
    heads: Count
    patch: Annotated[Count | None, Field(description="Side of a patch in pixels, for images.")] = None

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} must be a multiple of heads = {self.heads}")
        return self


class Backbone(Model):
    """A small transformer and how it is pretrained: AdamW with beta1 0.9, cosine schedule (chosen)."""

    label: Annotated[str, Field(description="Name in figures and tables.")]
    task: Task
    architecture: Architecture
    batch_size: Count
    steps: Count
    learning_rate: Positive

    @model_validator(mode="after")
    def _patches_are_of_images(self) -> Self:
        patch = self.architecture.patch
        if (patch is None) == isinstance(self.task, VisionTask):
            raise ValueError(
                f"architecture.patch = {patch} is not allowed: a task of the modality {self.task.modality} "
                f"{'needs' if patch is None else 'has no'} patches"
            )
        return self


class PretrainingStudy(Model):
    """Backbones for fine-tuning where no hub is at hand; each leaves its weights."""

    kind: Literal["pretraining"] = "pretraining"
    backbones: Annotated[dict[Name, Backbone], Field(min_length=1)]
    gpu: Annotated[bool, Field(description="Whether the jobs ask the cluster for a GPU.")] = False


class LoraConfig(Model):
    """Low-rank adapters (arXiv 2106.09685): W + (alpha / rank) B A with B = 0 at the start."""

    rank: Count
    alpha: Positive
    targets: Annotated[
        tuple[str, ...] | None, Field(description="Names of the adapted layers; null: every linear one of the blocks.")
    ] = None


class FineTuningStudy(Recipe):
    """Fine-tuning by LoRA: every optimizer from the same adapters, on the same batches."""

    kind: Literal["finetuning"] = "finetuning"
    task: Task
    backbone: Annotated[TrainedRow | None, Field(description="A row of a pretraining study, as study/row.")] = None
    hub: Annotated[str | None, Field(description="Name of a pretrained model of the hub.")] = None
    revision: Annotated[
        Revision | None, Field(description="Commit of the hub's model, in 40 hexadecimal digits; required with `hub`.")
    ] = None
    lora: LoraConfig

    @field_validator("optimizers")
    @classmethod
    def _grouped(cls, rows: dict[Name, OptimizerConfig]) -> dict[Name, OptimizerConfig]:
        """Rows of a group one after the other: those that a scale adds to the ones it inherits come last."""
        groups = list(dict.fromkeys(row.group for row in rows.values()))
        return dict(sorted(rows.items(), key=lambda item: groups.index(item[1].group)))

    @model_validator(mode="after")
    def _one_backbone(self) -> Self:
        if (self.backbone is None) == (self.hub is None):
            raise ValueError(f"exactly one of backbone = {self.backbone!r} and hub = {self.hub!r} must be set")
        if self.hub is not None and self.revision is None:
            raise ValueError(
                f"revision = None is not allowed with hub = {self.hub!r}: it must be a commit of that model, in 40 "
                "hexadecimal digits (0-9, a-f)"
            )
        if self.hub is None and self.revision is not None:
            raise ValueError(f"revision = {self.revision!r} is not allowed without hub: it names a commit of the hub")
        if isinstance(self.task, LanguageTask) and self.task.exact_match > self.task.test_examples:
            raise ValueError(f"task.exact_match = {self.task.exact_match} must be at most test_examples")
        return self

    @model_serializer(mode="wrap")
    def _without_unset_revision(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Ids and facts of runs without a model of the hub are older than the revision, and stay as they were."""
        fields: dict[str, Any] = serialize(self)
        if self.revision is None:
            fields.pop("revision", None)
        return fields

    @model_validator(mode="after")
    def _answers_are_numbers(self) -> Self:
        if not isinstance(self.task, LanguageTask) or self.task.exact_match == 0:
            return self
        if others := [name for name in self.task.corpus if name not in NUMBERED]:
            raise ValueError(
                f"task.exact_match = {self.task.exact_match} is not allowed with the corpus {', '.join(others)}: only "
                f"the answers of {', '.join(NUMBERED)} end in a number to match"
            )
        return self

    @property
    def criterion(self) -> Literal["accuracy", "loss"]:
        """See `Recipe`; a language model is judged by its loss."""
        return "loss" if isinstance(self.task, LanguageTask) else "accuracy"

    @property
    def model(self) -> str:
        """Name of the backbone in workloads: the row's, or the hub's without its owner."""
        name = self.backbone or self.hub
        assert name is not None
        return name.rpartition("/")[2]
