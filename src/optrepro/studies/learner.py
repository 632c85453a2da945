"""The kind learner: step rules learned on perceptrons, each iteration on new ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import Batch, Count, Model, Name, Positive, Run, Scale, counted, dataset_of, overridden
from optrepro.studies.data import ImageStudy

Method = Literal["imitation", "mirror", "bregman", "unrolled"]
Share = Annotated[float, Field(ge=0, le=1)]


class ObjectiveConfig(Model):
    """Training of a two-layer perceptron on projected images: `optrepro.problems.networks.perceptrons`."""

    inputs: Annotated[Count, Field(description="Dimensions that images are projected to.")]
    hidden: Annotated[Count, Field(description="Units of the hidden layer.")]
    batch_size: Count
    steps: Annotated[Count, Field(description="Length of a run.")]


class MetaObjective(ObjectiveConfig):
    """The objectives that rules are learned on."""

    examples: Annotated[Count, Field(description="Of the random subset that an objective is the mean over.")]
    problems: Annotated[Count, Field(description="New objectives in an iteration.")]


class StepPolicyConfig(Model):
    """The recurrent policy: `optrepro.optimizers.predicted_step.StepPolicySettings`."""

    cells: Annotated[Count, Field(description="Of the LSTM.")] = 16
    networks: Annotated[Literal[1, 4], Field(description="One for all coordinates, or one for each tensor.")] = 1
    output: Annotated[Literal["step", "normalized"], Field(description="What the LSTM's number is a multiple of.")] = (
        "step"
    )
    scale: Annotated[Positive, Field(description="The multiple that 1 stands for.")] = 0.01


class L2LConfig(Model):
    """The rule learned by gradient descent: `optrepro.optimizers.l2l.L2LSettings`."""

    cells: Annotated[Count, Field(description="Of each of the two LSTM layers.")] = 20
    preprocessing: Annotated[Positive, Field(description="Decades of the gradient told apart by their logarithm.")] = (
        10.0
    )
    scale: Annotated[Positive, Field(description="Factor on the output.")] = 0.1


class ImitationConfig(Model):
    """Imitation of AdaGrad: `optrepro.metalearning.lto.imitation.ImitationSettings`."""

    iterations: Annotated[Count, Field(description="Rollouts; in the first the teacher acts.")]
    teacher_rate: Annotated[Positive, Field(description="Learning rate of AdaGrad.")]
    coordinates: Annotated[Count, Field(description="Sampled of each group, in every rollout.")] = 128
    epochs: Annotated[Count, Field(description="Passes over what was recorded.")] = 4
    sequences: Annotated[Count, Field(description="Coordinates in a minibatch.")] = 512
    learning_rate: Positive = 0.01
    max_grad_norm: Positive = 1.0


class MirrorConfig(Model):
    """Guided policy search on policy: `optrepro.metalearning.lto.mirror_descent.MirrorSettings`."""

    iterations: Count
    truth: Annotated[Count, Field(description="Examples that a true gradient is taken on.")] = 256
    coordinates: Annotated[Count, Field(description="Sampled of each group, in every rollout.")] = 96
    curvature: Annotated[float, Field(ge=0, description="Share of the pooled slope of the gradient.")] = 0.1
    noise: Annotated[Positive, Field(description="Of the policy, beside the size of its actions.")] = 0.5
    kl: Annotated[Positive, Field(description="Limit on a change, nats for each coordinate and step.")] = 0.1
    random_scale: Annotated[float, Field(ge=0, description="Units of the coordinates: exp of at most so much.")] = 0.0
    measure: Annotated[Count, Field(description="Iterations between measurements of the guiding policy.")] = 20
    epochs: Annotated[Count, Field(description="Passes over what was recorded.")] = 2
    sequences: Annotated[Count, Field(description="Coordinates in a minibatch.")] = 768
    learning_rate: Positive = 0.01
    last_rate: Annotated[Share, Field(description="Share of the learning rate left at the end.")] = 0.05
    max_grad_norm: Positive = 1.0


class BregmanConfig(Model):
    """Guided policy search by Bregman ADMM: `optrepro.metalearning.lto.guided_policy_search.GuidedSettings`."""

    iterations: Count
    state: Annotated[Literal["phi", "compact"], Field(description="What the guiding policy acts on.")] = "compact"
    sharing: Annotated[
        Literal["group", "coordinate"], Field(description="What has models, gains and duals of its own.")
    ] = "group"
    teacher_rate: Annotated[
        Positive | None, Field(description="Of AdaGrad, imitated at first; null: the recurrent policy is.")
    ] = None
    noise: Annotated[Positive, Field(description="Of the guiding policy's actions, beside their size.")] = 0.5
    coordinates: Annotated[Count, Field(description="Sampled of each group, in every rollout.")] = 128
    strength: Annotated[Positive, Field(description="Of the models' prior, in samples.")] = 200.0
    floor: Annotated[Positive, Field(description="Least curvature, beside the mean over the steps.")] = 0.1
    persistence: Annotated[Share, Field(description="Of displacements from one step to the next.")] = 0.95
    kl: Annotated[Positive, Field(description="Limit on the guiding policy's change, nats a coordinate and step.")] = (
        0.2
    )
    backtracks: Annotated[int, Field(ge=0, description="Quarterings of the limit where a change does not pay.")] = 3
    policy_weight: Annotated[Positive, Field(description="First weight of the recurrent policy's pull.")] = 0.1
    policy_kl: Annotated[Positive, Field(description="Distance of the policies that the weight is adapted to.")] = 0.02
    dual_rate: Annotated[float, Field(ge=0, description="Step size of the duals.")] = 0.5
    epochs: Annotated[Count, Field(description="Passes over the recorded coordinates in a regression.")] = 10
    sequences: Annotated[Count, Field(description="Coordinates in a minibatch.")] = 1024
    learning_rate: Positive = 3e-3
    last_rate: Annotated[Share, Field(description="Share of the learning rate left at the end.")] = 0.05
    max_grad_norm: Positive = 1.0


class UnrolledConfig(Model):
    """Truncated back-propagation: `optrepro.metalearning.lto.unrolled.UnrolledSettings`."""

    iterations: Annotated[Count, Field(description="Rollouts, each on new objectives.")]
    unroll: Annotated[Count, Field(description="Steps between two updates.")] = 20
    learning_rate: Positive = 3e-3
    last_rate: Annotated[Share, Field(description="Share of the learning rate left at the end.")] = 0.05
    max_grad_norm: Positive = 1.0
    first_horizon: Annotated[Count, Field(description="Steps of the first rollout.")] = 20
    curriculum: Annotated[Share, Field(description="Share of the iterations over which rollouts grow.")] = 0.0
    logarithm: Annotated[bool, Field(description="The loss is the logarithm of the objective.")] = False
    random_scale: Annotated[float, Field(ge=0, description="Units of the coordinates: exp of at most so much.")] = 0.0


class LearnerRow(Model):
    """One learned rule: its method, and what it has that the study's others have not."""

    label: Annotated[str, Field(description="Name in figures and tables.")]
    group: Annotated[str, Field(description="What the row varies.")] = "standard"
    method: Annotated[Method, Field(description="How it is learned.")]
    objective: Annotated[dict[str, Any], Field(description="Over the study's objective, for training only.")] = {}
    policy: Annotated[dict[str, Any], Field(description="Over the study's policy.")] = {}
    l2l: Annotated[dict[str, Any], Field(description="Over the study's L2L.")] = {}
    imitation: Annotated[dict[str, Any], Field(description="Over the study's settings of this method.")] = {}
    mirror: Annotated[dict[str, Any], Field(description="Over the study's settings of this method.")] = {}
    bregman: Annotated[dict[str, Any], Field(description="Over the study's settings of this method.")] = {}
    unrolled: Annotated[dict[str, Any], Field(description="Over the study's settings of this method.")] = {}
    start: Annotated[Name | None, Field(description="Earlier row whose weights learning begins with.")] = None
    validate_every: Annotated[
        Count | None, Field(description="Iterations between validations, if not the study's.")
    ] = None


class LearnerRecipe(NamedTuple):
    """How one rule is learned: the study's settings with the row's own over them.

    A method's settings are under its name; their horizon is the objective's steps.
    """

    objective: MetaObjective
    policy: StepPolicyConfig
    l2l: L2LConfig
    imitation: ImitationConfig
    mirror: MirrorConfig
    bregman: BregmanConfig
    unrolled: UnrolledConfig

    def used(self, method: Method) -> dict[str, Any]:
        """What a method uses, as plain values."""
        rule = "l2l" if method == "unrolled" else "policy"
        return {part: getattr(self, part).model_dump(mode="json") for part in ("objective", rule, method)}


def _form(recipe: LearnerRecipe) -> tuple[StepPolicyConfig, L2LConfig]:
    return recipe.policy, recipe.l2l


class LearnerStudy(ImageStudy):
    """Meta-training: step rules learned on perceptrons, each iteration on new ones."""

    runner: ClassVar[str] = "optrepro.experiments.meta.train_step_rules"

    kind: Literal["learner"] = "learner"
    objective: MetaObjective
    validation_problems: Annotated[Count, Field(description="Fixed objectives that learning is watched on.")]
    validate_every: Annotated[Count, Field(description="Iterations between validations.")]
    patience: Annotated[Count, Field(description="Validations without a better score before learning stops.")]
    policy: StepPolicyConfig = StepPolicyConfig()
    l2l: L2LConfig = L2LConfig()
    imitation: ImitationConfig
    mirror: MirrorConfig
    bregman: BregmanConfig
    unrolled: UnrolledConfig
    learners: Annotated[dict[Name, LearnerRow], Field(min_length=1)]
    gpu: Annotated[bool, Field(description="Whether the jobs ask the cluster for a GPU.")] = False

    @model_validator(mode="after")
    def _rows_are_valid(self) -> Self:
        earlier: dict[str, list[str]] = {}  # rows that learn the same kind of rule
        for name, row in self.learners.items():
            self.recipe(name)  # raises for what is not allowed
            alike = earlier.setdefault("l2l" if row.method == "unrolled" else "policy", [])
            if row.start is not None and row.start not in alike:
                raise ValueError(f"learners.{name}.start = {row.start!r} is not one of the earlier rows {alike}")
            if row.start is not None and _form(self.recipe(row.start)) != _form(self.recipe(name)):
                raise ValueError(f"learners.{name}.start = {row.start!r} has another policy or l2l, so other weights")
            alike.append(name)
        return self

    def recipe(self, learner: str) -> LearnerRecipe:
        """The settings of a row, complete."""
        row = self.learners[learner]
        parts = {
            part: overridden(getattr(self, part), getattr(row, part), f"learners.{learner}.{part}")
            for part in LearnerRecipe._fields
        }
        return LearnerRecipe(**parts)

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """A job for each rule."""
        return (self.training_of(name, study_id, scale) for name in self.learners)

    def trained_rows(self) -> Sequence[str]:
        """The learned rules."""
        return list(self.learners)

    def training_of(self, row: str, study_id: str, scale: Scale) -> Batch:
        """The batch that learns a rule, after the one whose weights it begins with."""
        watched = {"objective", "validation_problems", "validate_every", "patience", "labels"}
        data = self.model_dump(mode="json", include={*watched, "train_examples", "validation_examples"})
        learner = self.learners[row]
        own = [learner.method, learner.validate_every, self.recipe(row).used(learner.method)]
        earlier = self.training_of(learner.start, study_id, scale).settings if learner.start else None
        settings = fingerprint([data, own, earlier, dataset_of(self, scale), scale.seed])
        # The row is not in the seed: rules are learned on the same objectives.
        seed = derive_seed(scale.seed, study_id, 0)
        run = Run(study_id, "meta-validation", row, "tune", None, 0, seed, settings)
        weights = (study_id, learner.start) if learner.start else None
        return Batch(study_id, row, row, (run,), (), settings, weights)

    def repetitions_in_words(self) -> str:
        """The number of validation problems."""
        return f"{counted(self.validation_problems, 'validation problem')}."
