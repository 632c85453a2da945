"""The kind `learner`: step rules that are learned on perceptrons, on new ones in each iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from optrepro.metalearning.lto.settings import GuidedSettings, ImitationSettings, MirrorSettings, UnrolledSettings
from optrepro.seeds import derive_seed, fingerprint
from optrepro.settings import Share
from optrepro.studies.base import (
    KIND,
    LATER,
    Batch,
    Count,
    Model,
    Name,
    Positive,
    Run,
    Scale,
    counted,
    dataset_of,
    determining,
    overridden,
)
from optrepro.studies.data import ImageStudy
from optrepro.studies.fields import Gpu, Label

Method = Literal["imitation", "mirror", "bregman", "unrolled"]


class ObjectiveConfig(Model):
    """Training of a two-layer perceptron on images under a random projection."""

    inputs: Annotated[Count, Field(description="Number of dimensions that images are projected to.")]
    hidden: Annotated[Count, Field(description="Number of units of the hidden layer.")]
    batch_size: Annotated[Count, Field(description="Number of examples of a minibatch.")]
    steps: Annotated[Count, Field(description="Number of steps of a run.")]


class MetaObjective(ObjectiveConfig):
    """The objectives that rules are learned on. Their `steps` are the length of rollouts, whatever the method."""

    examples: Annotated[
        Count, Field(description="Size of the random subset of the images that an objective is the mean over.")
    ]
    problems: Annotated[Count, Field(description="Number of new objectives in an iteration.")]
    batch_sizes: Annotated[
        tuple[Count, ...],
        Field(
            description="Batch sizes, divisors of `batch_size`, of which each objective of the training draws one; "
            "empty: all have `batch_size`."
        ),
        LATER,
    ] = ()
    label_noise: Annotated[
        Share,
        Field(
            description="Largest share of random labels: each objective of the training draws its own share, uniformly "
            "from 0 on."
        ),
        LATER,
    ] = 0.0

    @model_validator(mode="after")
    def _batches_can_be_filled(self) -> Self:
        if odd := [size for size in self.batch_sizes if self.batch_size % size]:
            raise ValueError(f"batch_sizes: {odd} do not divide batch_size = {self.batch_size}")
        return self


class ValidationConfig(ObjectiveConfig):
    """Objectives that rules are validated on, with images that training never sees."""

    label_noise: Annotated[Share, Field(description="Share of random labels.")] = 0.0


class StepPolicyConfig(Model):
    """The recurrent policy that the methods `imitation`, `mirror` and `bregman` learn."""

    cells: Annotated[Count, Field(description="Number of cells of the LSTM.")] = 16
    networks: Annotated[
        Literal[1, 4],
        Field(
            description="Number of networks: one for all coordinates, or one for each weight matrix and bias vector."
        ),
    ] = 1
    output: Annotated[
        Literal["step", "normalized"],
        Field(
            description="The unit of the LSTM's outputs: a length (`step`), or the gradient and its mean, each divided "
            "by the root of the sum of squared gradients (`normalized`)."
        ),
    ] = "step"
    scale: Annotated[Positive, Field(description="Factor on the LSTM's outputs.")] = 0.01
    warmup: Annotated[
        int, Field(ge=0, description="Number of steps over which this factor grows to its value, linearly."), LATER
    ] = 0
    relative: Annotated[
        bool,
        Field(
            description="Whether the factor is relative to the size of the initial weights: their root mean square in "
            "each weight matrix or bias vector."
        ),
        LATER,
    ] = False
    steadiness: Annotated[
        bool,
        Field(
            description="Whether the policy sees how steady the gradient of a coordinate is: the size of its running "
            "mean beside the root of its mean square."
        ),
        LATER,
    ] = False


class L2LConfig(Model):
    """The rule that the method `unrolled` learns (learning to learn by gradient descent, L2L)."""

    cells: Annotated[Count, Field(description="Number of cells of each of the two LSTM layers.")] = 20
    preprocessing: Annotated[
        Positive, Field(description="Number of decades of the gradient whose logarithm is an input of the rule.")
    ] = 10.0
    scale: Annotated[Positive, Field(description="Factor on the output.")] = 0.1


class LearnerRow(Model):
    """One learned rule: its method, and the settings in which it differs from the study."""

    label: Label
    group: Annotated[str, Field(description="What the row varies; exhibits sort rows by it.")] = "standard"
    method: Annotated[Method, Field(description="How the rule is learned.")]
    objective: Annotated[dict[str, Any], Field(description="Changes of the study's objective, for training only.")] = {}
    policy: Annotated[dict[str, Any], Field(description="Changes of the study's `policy`.")] = {}
    l2l: Annotated[dict[str, Any], Field(description="Changes of the study's `l2l`.")] = {}
    imitation: Annotated[dict[str, Any], Field(description="Changes of the study's `imitation`.")] = {}
    mirror: Annotated[dict[str, Any], Field(description="Changes of the study's `mirror`.")] = {}
    bregman: Annotated[dict[str, Any], Field(description="Changes of the study's `bregman`.")] = {}
    unrolled: Annotated[dict[str, Any], Field(description="Changes of the study's `unrolled`.")] = {}
    start: Annotated[
        Name | None,
        Field(
            description="Earlier row of the same architecture whose weights are the initial ones; null: new weights."
        ),
    ] = None
    validate_every: Annotated[
        Count | None, Field(description="Number of iterations between validations; null: the study's.")
    ] = None


class LearnerRecipe(NamedTuple):
    """The complete settings of one learned rule: those of the study, overridden by those of the row.

    The settings of a method are in the field of its name; its horizon is the objective's number of steps.
    """

    objective: MetaObjective
    policy: StepPolicyConfig
    l2l: L2LConfig
    imitation: ImitationSettings
    mirror: MirrorSettings
    bregman: GuidedSettings
    unrolled: UnrolledSettings

    def used(self, method: Method) -> dict[str, Model]:
        """The settings that a method uses."""
        rule = "l2l" if method == "unrolled" else "policy"
        return {part: getattr(self, part) for part in ("objective", rule, method)}


def _form(recipe: LearnerRecipe) -> tuple[StepPolicyConfig, L2LConfig]:
    return recipe.policy, recipe.l2l


class LearnerStudy(ImageStudy):
    """Meta-training: step rules are learned on the training of perceptrons, on new objectives in each iteration.

    The rules are validated on fixed objectives with other images. The weights with the best score are kept, beside the
    results. The score is the mean objective along the trajectory. With several settings in `validation`, that mean and
    the objective at the end are added and divided by what AdaGrad reaches in this setting at the best of its rates, and
    the score is the worst one.
    """

    runner: ClassVar[str] = "optrepro.experiments.meta.train_step_rules"

    kind: Annotated[Literal["learner"], KIND] = "learner"
    objective: Annotated[
        MetaObjective,
        Field(description="The objectives of meta-training; every row is validated on objectives of this kind."),
    ]
    validation: Annotated[
        dict[Name, ValidationConfig],
        Field(description="The settings in which rules are validated, by name; empty: the one of `objective` alone."),
        LATER,
    ] = {}
    reference_rates: Annotated[
        tuple[Positive, ...],
        Field(
            min_length=1,
            description="Learning rates of AdaGrad, the best of which is the reference of a setting in `validation`.",
        ),
        LATER,
    ] = (0.02, 0.04, 0.08, 0.13, 0.2)
    averaging: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Decay of an exponential average of the weights over the iterations, which is validated beside "
            "the current weights; 0: there is none.",
        ),
        LATER,
    ] = 0.0
    validation_problems: Annotated[
        Count, Field(description="Number of fixed objectives that rules are validated on, in each setting.")
    ]
    validate_every: Annotated[Count, Field(description="Number of iterations between validations.")]
    patience: Annotated[
        Count, Field(description="Number of validations without a better score after which the learning stops.")
    ]
    policy: Annotated[StepPolicyConfig, Field(description="The recurrent policy.")] = StepPolicyConfig()
    l2l: Annotated[L2LConfig, Field(description="The rule of the method `unrolled`.")] = L2LConfig()
    imitation: Annotated[ImitationSettings, Field(description="Settings of the method `imitation`.")]
    mirror: Annotated[MirrorSettings, Field(description="Settings of the method `mirror`.")]
    bregman: Annotated[GuidedSettings, Field(description="Settings of the method `bregman`.")]
    unrolled: Annotated[UnrolledSettings, Field(description="Settings of the method `unrolled`.")]
    learners: Annotated[dict[Name, LearnerRow], Field(min_length=1, description="The rules that are learned, by name.")]
    gpu: Gpu = False

    @model_validator(mode="after")
    def _rows_are_valid(self) -> Self:
        earlier: dict[str, list[str]] = {}  # earlier rows by the architecture of their rules
        for name, row in self.learners.items():
            self.recipe(name)  # raises an error if the row is invalid
            alike = earlier.setdefault("l2l" if row.method == "unrolled" else "policy", [])
            if row.start is not None and row.start not in alike:
                raise ValueError(f"learners.{name}.start = {row.start!r} is not one of the earlier rows {alike}")
            if row.start is not None and _form(self.recipe(row.start)) != _form(self.recipe(name)):
                raise ValueError(f"learners.{name}.start = {row.start!r} is not allowed: its policy or l2l differs")
            alike.append(name)
        return self

    def recipe(self, learner: str) -> LearnerRecipe:
        """The complete settings of a row."""
        row = self.learners[learner]
        parts = {
            part: overridden(getattr(self, part), getattr(row, part), f"learners.{learner}.{part}")
            for part in LearnerRecipe._fields
        }
        return LearnerRecipe(**parts)

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each rule."""
        return (self.training_of(name, study_id, scale) for name in self.learners)

    def trained_rows(self) -> Sequence[str]:
        """The learned rules."""
        return list(self.learners)

    def training_of(self, row: str, study_id: str, scale: Scale) -> Batch:
        """The batch that learns a rule, starting from the weights of another batch if `start` is set."""
        validation = {"objective", "validation_problems", "validate_every", "patience", "labels"}
        validation |= {"validation", "reference_rates", "averaging"}
        common = {*validation, "train_examples", "validation_examples"}
        data = {name: value for name, value in determining(self).items() if name in common}
        learner = self.learners[row]
        used = {name: determining(part) for name, part in self.recipe(row).used(learner.method).items()}
        own = [learner.method, learner.validate_every, used]
        earlier = self.training_of(learner.start, study_id, scale).settings if learner.start else None
        settings = fingerprint([data, own, earlier, dataset_of(self, scale), scale.seed])
        # The seed does not depend on the row, so all rules are learned on the same objectives.
        seed = derive_seed(scale.seed, study_id, 0)
        run = Run(study_id, "meta-validation", row, "tune", None, 0, seed, settings)
        weights = (study_id, learner.start) if learner.start else None
        return Batch(study_id, row, row, (run,), (), settings, weights)

    def repetitions_in_words(self) -> str:
        """The number of validation problems."""
        return f"{counted(self.validation_problems, 'validation problem')}."
