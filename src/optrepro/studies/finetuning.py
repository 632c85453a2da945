"""The kind `finetuning`: LoRA fine-tuning of backbones that are pretrained here or come from the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from optrepro.studies.base import (
    KIND,
    LATER,
    Batch,
    Count,
    Model,
    Name,
    Positive,
    Reading,
    Scale,
    TrainedRow,
    training_of,
)
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.data import NUMBERED, TASK, LanguageTask, Task
from optrepro.studies.pretraining import PretrainingStudy
from optrepro.studies.recipe import Recipe


def _commit(revision: str) -> str:
    if re.fullmatch("[0-9a-f]{40}", revision) is None:
        raise ValueError(
            f"{revision!r} is not a commit of the hub, which has 40 hexadecimal digits (0-9, a-f); names of branches "
            "and tags are not allowed, because they move"
        )
    return revision


Revision = Annotated[str, AfterValidator(_commit)]


class LoraConfig(Model):
    """Low-rank adapters (arXiv 2106.09685): W + (alpha / rank) B A with B = 0 at the start."""

    rank: Annotated[Count, Field(description="Rank of the product B A that is added to a layer's weights.")]
    alpha: Annotated[Positive, Field(description="Numerator of the factor `alpha` / `rank` on B A.")]
    targets: Annotated[
        tuple[str, ...] | None,
        Field(description="Names of the adapted layers; null: every linear layer of the blocks."),
    ] = None


class FineTuningStudy(Recipe):
    """Fine-tuning by low-rank adapters. The backbone is frozen; an image classifier also trains a new head."""

    runner: ClassVar[str] = "optrepro.experiments.training.finetuning"

    kind: Annotated[Literal["finetuning"], KIND] = "finetuning"
    task: Annotated[Task, TASK]
    backbone: Annotated[
        TrainedRow | None,
        Field(
            description="Row of a study of the kind `pretraining`, as study/row, whose weights are adapted; it is "
            "trained first. Either this or `hub` is set."
        ),
    ] = None
    hub: Annotated[
        str | None,
        Field(
            description="Pretrained model of the hub as owner/model, or a folder: for text any causal language model, "
            "for images a ViT, DINO or DINOv2."
        ),
    ] = None
    revision: Annotated[
        Revision | None,
        Field(description="Commit of the hub's model, in 40 hexadecimal digits; required with `hub`."),
        LATER,
    ] = None
    lora: Annotated[LoraConfig, Field(description="The adapters.")]

    @field_validator("optimizers")
    @classmethod
    def _grouped(cls, rows: dict[Name, OptimizerConfig]) -> dict[Name, OptimizerConfig]:
        """Sort the rows by group, so that rows that a scale adds stand beside the inherited rows of their group."""
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
        """See `Recipe`; the criterion of a language model is its loss."""
        return "loss" if isinstance(self.task, LanguageTask) else "accuracy"

    @property
    def model(self) -> str:
        """Name of the backbone in workloads: that of its row, or of the hub's model without its owner."""
        name = self.backbone or self.hub
        assert name is not None
        return name.rpartition("/")[2]

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The task, which all workloads share."""
        return [Reading("", "task", self.task)]

    def backbone_of(self, scale: Scale) -> Batch | None:
        """The batch that pretrains the backbone, or None if it comes from the hub."""
        return training_of(self.backbone, scale) if self.backbone else None

    def hub_models(self, batch: Batch, scale: Scale) -> dict[str, str]:
        """The model that is fine-tuned, if it comes from the hub."""
        return {self.hub: self.revision} if self.hub and self.revision else {}

    def check_references(self, key: str, scale: Scale) -> None:
        """Check also that a pretraining study has the backbone, for the same modality."""
        super().check_references(key, scale)
        if self.backbone is None:
            return
        available = sorted(
            f"{name}/{row}"
            for name, study in scale.studies.items()
            if isinstance(study, PretrainingStudy)
            for row, backbone in study.backbones.items()
            if backbone.task.modality == self.task.modality
        )
        if self.backbone not in available:
            raise ValueError(f"{key}.backbone = {self.backbone!r} is not one of {available}")

    def remarks_on_data(self, dataset: str) -> Sequence[str]:
        """Remarks on the tokens of text, or on the labels of images."""
        if not isinstance(self.task, LanguageTask):
            return self.task.remarks(dataset)
        hub = "of questions, only the answers are scored"
        return [hub if self.hub else "tokens are bytes, all scored, those of questions too"]

    def network_in_words(self) -> str:
        """The backbone, the rank of its adapters, and the length of the training."""
        study, _, network = (self.backbone or "").partition("/")
        name = self.hub or f"{network}, pretrained by {study},"
        return f"{name} with LoRA of rank {self.lora.rank}, {self.steps} steps of {self.batch_size} examples"
