"""The kind `pretraining`: backbones for fine-tuning without the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import (
    ELSEWHERE,
    KIND,
    Batch,
    Count,
    Model,
    Name,
    Positive,
    Reading,
    Run,
    Scale,
    Study,
    dataset_of,
    determining,
)
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.data import TASK, Task
from optrepro.studies.fields import Gpu, Label
from optrepro.studies.recipe import Recipe

POINTS = 10  # number of points of the learning curve


class Architecture(Model):
    """Sizes of a transformer: GPT-2 for text, a ViT for images."""

    width: Annotated[Count, Field(description="Size of a token's representation, a multiple of `heads`.")]
    layers: Annotated[Count, Field(description="Number of blocks.")]
    heads: Annotated[Count, Field(description="Number of heads of the attention.")]
    patch: Annotated[Count | None, Field(description="Side of a patch in pixels, for images; null: for text.")] = None

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} must be a multiple of heads = {self.heads}")
        return self


class Backbone(Model):
    """A small transformer and its pretraining."""

    label: Annotated[Label, ELSEWHERE]
    task: Annotated[Task, TASK]
    architecture: Annotated[Architecture, Field(description="Sizes of the transformer.")]
    batch_size: Annotated[Count, Field(description="Number of examples of a step.")]
    steps: Annotated[Count, Field(description="Number of optimizer steps.")]
    learning_rate: Annotated[Positive, Field(description="Learning rate of AdamW.")]

    @model_validator(mode="after")
    def _patches_are_of_images(self) -> Self:
        patch = self.architecture.patch
        if (patch is None) == (self.task.holds == "image"):
            raise ValueError(
                f"architecture.patch = {patch} is not allowed: a task of the modality {self.task.modality} "
                f"{'needs' if patch is None else 'has no'} patches"
            )
        return self


class PretrainingRecipe(Recipe):
    """The training of one backbone, as a comparison with one row."""

    kind: Annotated[Literal["pretraining"], KIND] = "pretraining"
    network: Annotated[str, Field(description="Name of the backbone.")]

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return self.network


class PretrainingStudy(Study):
    """Small transformers, which are backbones for fine-tuning without the Hugging Face hub.

    Each is trained once, by AdamW with a cosine schedule, and its weights are saved.
    """

    runner: ClassVar[str] = "optrepro.experiments.training.pretraining"

    kind: Annotated[Literal["pretraining"], KIND] = "pretraining"
    backbones: Annotated[
        dict[Name, Backbone], Field(min_length=1, description="The transformers that are trained, by name.")
    ]
    gpu: Annotated[Gpu, ELSEWHERE] = False

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each backbone."""
        return (self.training_of(name, study_id, scale) for name in self.backbones)

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The task of each backbone."""
        return [Reading(name, f"backbones.{name}.task", row.task) for name, row in self.backbones.items()]

    def recipe(self, row: str) -> Recipe:
        """The training of a backbone: AdamW with its default betas, and a cosine schedule (chosen)."""
        backbone = self.backbones[row]
        settings = {"betas": (0.9, 0.999), "weight_decay": 0.01}
        return PretrainingRecipe(
            network=row,
            optimizers={row: OptimizerConfig(label=backbone.label, class_="torch.optim.AdamW", settings=settings)},
            learning_rates=(backbone.learning_rate,),
            batch_size=backbone.batch_size,
            steps=backbone.steps,
            evaluations=POINTS,
            tuning_repetitions=1,
            test_repetitions=1,
        )

    def trained_rows(self) -> Sequence[str]:
        """The backbones."""
        return list(self.backbones)

    def training_of(self, row: str, study_id: str, scale: Scale) -> Batch:
        """The batch that pretrains a backbone."""
        backbone = self.backbones[row]
        dataset = dataset_of(backbone.task, scale)
        settings = fingerprint([determining(backbone), dataset, scale.seed])
        workload = f"{dataset}/{row}"
        seed = derive_seed(scale.seed, self.kind, workload)
        run = Run(study_id, workload, row, "test", backbone.learning_rate, 0, seed, settings)
        return Batch(study_id, row, row, (run,), (), settings)
