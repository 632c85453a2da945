"""Studies of the system GAP: training, the principle, the static families."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from optrepro.studies.common import (
    Comparison,
    Count,
    DottedPath,
    ImageData,
    Model,
    Name,
    OptimizerConfig,
    Positive,
    Schedule,
)


class Recipe(Comparison):
    """How a study trains networks: every optimizer from the same weights, on the same batches."""

    batch_size: Annotated[
        int, Field(ge=2, multiple_of=2, description="Even, for the rules that compare the halves of a batch.")
    ]
    steps: Count
    schedule: Annotated[Schedule, Field(description="step: a tenth after half of the steps, again after 3/4.")] = (
        "cosine"
    )
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluations: Annotated[Count, Field(description="Points of the learning curves.")] = 10
    tuning_repetitions: Count
    test_repetitions: Count
    runs_per_job: Annotated[
        Count | Literal["optimizer", "study"], Field(description="So many, or all of an optimizer or of the study.")
    ] = "optimizer"
    gpu: Annotated[bool, Field(description="Whether the jobs ask the cluster for a GPU.")] = False

    @property
    def criterion(self) -> Literal["accuracy", "loss"]:
        """What learning rates are tuned by, on validation data: the highest accuracy or the lowest loss."""
        return "accuracy"


class TrainingStudy(Recipe, ImageData):
    """Image classification: every optimizer trains the same networks on the same batches."""

    kind: Literal["training"] = "training"
    network: Name
    network_settings: dict[str, Any] = {}
    augment: Annotated[bool, Field(description="Random crops with 4 pixels of padding, and flips.")] = False


class ShiftStudy(TrainingStudy):
    """Image classification in which something changes sharply after half of the steps.

    Permuted labels or pixels are another task, and validation and test data follow. Batch size and label noise change
    the gradients' noise; what is learned from is worse, what it is tested on stays.
    """

    kind: Literal["shift"] = "shift"  # type: ignore[assignment]
    shift: Annotated[
        Literal["classes", "inputs", "batch_size", "label_noise"],
        Field(description="What changes: the labels or the pixels are permuted, or a number is another one."),
    ]
    shifted_to: Annotated[
        float, Field(ge=0, description="Batch size after the shift, or share of random labels; else unused.")
    ] = 0.0

    @model_validator(mode="after")
    def _shift_is_possible(self) -> Self:
        size = self.shifted_to
        if self.steps % 2 or self.evaluations % 2:
            raise ValueError(
                f"steps = {self.steps} and evaluations = {self.evaluations} must be even: the curve has a point at the "
                "shift"
            )
        if self.shift == "batch_size" and (size < 2 or size % 2):
            raise ValueError(f"shifted_to = {size} is not allowed: a batch size is an even number from 2 on")
        if self.shift == "label_noise" and not 0 < size <= 1:
            raise ValueError(f"shifted_to = {size} is not allowed: a share of random labels is in (0, 1]")
        return self


class FamiliesStudy(Model):
    """Toy losses under the optimal operators of the static families."""

    kind: Literal["families"] = "families"
    member_toys: Annotated[tuple[str, ...], Field(min_length=1, description="Losses for members of one family.")]
    family_toys: Annotated[tuple[str, ...], Field(min_length=1, description="Losses on which families are compared.")]
    powers: Annotated[tuple[Positive, ...], Field(min_length=1, description="Budgets of learning power, tuned over.")]
    decay: Annotated[float, Field(ge=0, lt=1, description="Of the running average of g g^T.")]
    members: Annotated[Count, Field(description="Random members of equal power.")]
    tuning_starts: Count
    starts: Count
    steps: Count
    points: Annotated[int, Field(ge=2, description="Points of the curves.")]


class ConceptStudy(ImageData):
    """The gradient autocorrelation measured along one training run, and the candidates' scores from it."""

    kind: Literal["concept"] = "concept"
    network: Name
    network_settings: dict[str, Any] = {}
    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=2, multiple_of=2)], ...], Field(min_length=1)]
    learning_rate: Positive
    steps: Count
    window: Annotated[Count, Field(description="Consecutive steps that one estimate is made from.")]
    lags: Annotated[Count, Field(description="Largest lag of the autocorrelation.")]
    blocks: Annotated[int, Field(ge=2, description="Blocks of a window, for standard errors; divides it.")]
    probes: Annotated[int, Field(ge=2, description="Steps of a window at which the full gradient is taken.")]
    candidates: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], Field(min_length=1)]
    repetitions: Count

    @model_validator(mode="after")
    def _windows_fit(self) -> Self:
        if self.steps < 3 * self.window + 2 * self.lags:
            raise ValueError(
                f"steps = {self.steps} must be at least 3 window + 2 lags = {3 * self.window + 2 * self.lags}"
            )
        if self.window % self.blocks or self.probes > self.window:
            raise ValueError(f"window = {self.window} must be a multiple of blocks = {self.blocks} and hold the probes")
        return self


class Workload(Model):
    """A training run whose gradients are measured, and the rules whose choices are recorded on the same task."""

    study: Annotated[Name, Field(description="A study of the kind training or finetuning.")]
    follow: Annotated[Name, Field(description="The row of that study whose gradients are measured.")]
    learning_rate: Positive
    steps: Annotated[Count | None, Field(description="The study's, if null.")] = None
    rules: Annotated[tuple[Name, ...], Field(description="Rows whose choices are recorded, at the same rate.")] = ()


class DiagnosticsStudy(Model):
    """The statistics of the gradients along training, and what the rules make of them."""

    kind: Literal["diagnostics"] = "diagnostics"
    workloads: Annotated[dict[Name, Workload], Field(min_length=1)]
    window: Annotated[Count, Field(description="Consecutive steps that one estimate is made from.")]
    lags: Annotated[Count, Field(description="Largest lag of the autocorrelation.")]
    blocks: Annotated[int, Field(ge=2, description="Blocks of a window, for standard errors; divides it.")]
    points: Annotated[Count, Field(description="Points of the curves of choices.")]
    repetitions: Annotated[Count, Field(description="Runs of each row that is followed; the rules run once.")]
    gpu: Annotated[bool, Field(description="Whether the jobs ask the cluster for a GPU.")] = False

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.window % self.blocks:
            raise ValueError(f"window = {self.window} must be a multiple of blocks = {self.blocks}")
        return self


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


class OverheadStudy(Model):
    """Step time and memory of every optimizer, as ratios to torch's. Times never come out equal twice."""

    kind: Literal["overhead"] = "overhead"
    families: Annotated[dict[Name, TimedFamily], Field(min_length=1)]
    networks: Annotated[dict[Name, TimedNetwork], Field(min_length=1)]
    seconds: Annotated[Positive, Field(description="Time for an optimizer on a network, about.")]
    turns: Annotated[Count, Field(description="Turns of an optimizer and its references, at least.")]
    gpu: Annotated[bool, Field(description="Whether the job asks the cluster for a GPU.")] = False
