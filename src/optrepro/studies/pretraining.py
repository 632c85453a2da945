"""The kind pretraining: backbones for fine-tuning where no hub is at hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import (
    ELSEWHERE,
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
from optrepro.studies.data import Task
from optrepro.studies.recipe import Recipe

POINTS = 10  # of the learning curve


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

    label: Annotated[str, Field(description="Name in figures and tables."), ELSEWHERE]
    task: Task
    architecture: Architecture
    batch_size: Count
    steps: Count
    learning_rate: Positive

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
    """How one backbone is trained, as the one row of a comparison."""

    kind: Literal["pretraining"] = "pretraining"
    network: str

    @property
    def model(self) -> str:
        """Name of the backbone."""
        return self.network


class PretrainingStudy(Study):
    """Backbones for fine-tuning where no hub is at hand; each leaves its weights."""

    runner: ClassVar[str] = "optrepro.experiments.training.pretraining"

    kind: Literal["pretraining"] = "pretraining"
    backbones: Annotated[dict[Name, Backbone], Field(min_length=1)]
    gpu: Annotated[bool, Field(description="Whether the jobs ask the cluster for a GPU."), ELSEWHERE] = False

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each backbone."""
        return (self.training_of(name, study_id, scale) for name in self.backbones)

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The task of each backbone."""
        return [Reading(name, f"backbones.{name}.task", row.task) for name, row in self.backbones.items()]

    def recipe(self, row: str) -> Recipe:
        """How a backbone is trained: AdamW with the usual betas, and a cosine schedule (chosen)."""
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
