"""The kind `policy`: meta-training of POP's policy by reinforcement learning on functions sampled from the prior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.metalearning.pop.settings import PPOSettings
from optrepro.problems.functions.settings import PriorSettings
from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import (
    ELSEWHERE,
    KIND,
    LATER,
    Batch,
    Count,
    Model,
    Name,
    Positive,
    Role,
    Run,
    Scale,
    Study,
    counted,
    determining,
    overridden,
)
from optrepro.studies.fields import Gpu, Label


class NetworkConfig(Model):
    """The policy's network, which reads the trajectory and chooses the learning rate of each coordinate."""

    backbone: Annotated[Literal["transformer", "gru"], Field(description="Architecture that reads the trajectory.")] = (
        "transformer"
    )
    width: Annotated[Count, Field(description="Width of the backbone.")] = 32
    layers: Annotated[Count, Field(description="Number of layers of the backbone.")] = 2
    heads: Annotated[
        Count, Field(description="Number of heads of the Transformer's attention; the width is a multiple of it.")
    ] = 2
    history: Annotated[
        Count, Field(description="Number of evaluations that a layer of the Transformer attends to.")
    ] = 16
    horizon: Annotated[int, Field(ge=2, description="Number of evaluations of a training run.")] = 50
    scaling: Annotated[
        Literal["coordinate", "norm", "maximum", "none"],
        Field(
            description="Divisor of the gradient: its absolute value (`coordinate`), its root mean square over the "
            "coordinates (`norm`), the largest of these so far (`maximum`), or none."
        ),
    ] = "coordinate"
    smallest: Annotated[Positive, Field(description="Smallest learning rate, in units of the box.")] = 1e-8
    largest: Annotated[Positive, Field(description="Largest learning rate.")] = 1.0
    shortest: Annotated[
        Positive | None,
        Field(
            description="Lower bound of the learning rates for actions below 0, at most `smallest`; null: `smallest`."
        ),
        LATER,
    ] = None
    resolved: Annotated[
        float, Field(gt=0, lt=1, description="Relative size below which features treat all sizes as equal."), LATER
    ] = 1e-10
    least_log_std: Annotated[
        float, Field(lt=-1, description="Lower bound of the logarithm of the standard deviation of actions."), LATER
    ] = -6.0
    most_log_std: Annotated[
        float,
        Field(ge=-1, le=1, description="Upper bound of the logarithm of the standard deviation of actions."),
        LATER,
    ] = -1.0
    acting: Annotated[
        Literal["mean", "sample"],
        Field(
            description="Whether the policy acts after training by the mean of its distribution over actions, or by "
            "samples, which are a fixed function of time and coordinate."
        ),
        LATER,
    ] = "mean"
    second: Annotated[
        Literal["none", "momentum", "best"],
        Field(
            description="Second term of a step, of which the policy adds a share; not in the paper: the last step "
            "(`momentum`), the difference to the best point so far (`best`), or none."
        ),
        LATER,
    ] = "none"

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        if self.smallest >= self.largest:
            raise ValueError(f"smallest = {self.smallest} is not below largest = {self.largest}")
        if self.shortest is not None and self.shortest > self.smallest:
            raise ValueError(f"shortest = {self.shortest} is above smallest = {self.smallest}")
        return self


class PolicyRow(Model):
    """One trained policy, given by the settings in which it differs from the study."""

    label: Label
    group: Annotated[str, Field(description="What the row varies; exhibits sort rows by it.")] = "standard"
    prior: Annotated[dict[str, Any], Field(description="Changes of the study's `prior`, for training only.")] = {}
    network: Annotated[dict[str, Any], Field(description="Changes of the study's `network`.")] = {}
    ppo: Annotated[dict[str, Any], Field(description="Changes of the study's `ppo`.")] = {}
    start: Annotated[
        Name | None, Field(description="Row of the study whose weights are the initial ones; null: new weights.")
    ] = None
    seed: Annotated[
        int, Field(ge=0, description="Number of the first training seed; repetitions use the following ones.")
    ] = 0


class PolicyStudy(Study):
    """Meta-training: policies that choose learning rates are trained by PPO on functions sampled from the prior.

    The weights with the best score on the validation functions are kept, beside the results.
    """

    runner: ClassVar[str] = "optrepro.experiments.meta.train_pop"

    kind: Annotated[Literal["policy"], KIND] = "policy"
    prior: Annotated[
        PriorSettings,
        Field(description="The prior; validation and test functions come from it for every row."),
        ELSEWHERE,
    ]
    network: Annotated[NetworkConfig, Field(description="The policy's network."), ELSEWHERE] = NetworkConfig()
    ppo: Annotated[PPOSettings, Field(description="How policies are trained."), ELSEWHERE]
    validation_functions: Annotated[
        Count, Field(description="Number of fixed functions that policies are validated on.")
    ]
    test_functions: Annotated[Count, Field(description="Number of fixed functions for the test at the end.")]
    validate_every: Annotated[Count, Field(description="Number of iterations between validations.")]
    patience: Annotated[
        Count, Field(description="Number of validations without a better score after which the training stops.")
    ]
    functions: Annotated[
        tuple[str, ...], Field(min_length=1, description="Benchmark functions for the test at the end.")
    ]
    starts: Annotated[Count, Field(description="Number of starts on each of them.")]
    policies: Annotated[
        dict[Name, PolicyRow], Field(min_length=1, description="The policies that are trained, by name."), ELSEWHERE
    ]
    repetitions: Annotated[
        Count, Field(description="Number of training seeds; the weights of the first one are kept."), ELSEWHERE
    ] = 1
    gpu: Annotated[Gpu, ELSEWHERE] = False

    @model_validator(mode="after")
    def _rows_are_valid(self) -> Self:
        for name, row in self.policies.items():
            if row.start is not None and (row.start == name or row.start not in self.policies):
                others = sorted(set(self.policies) - {name})
                raise ValueError(f"policies.{name}.start = {row.start!r} is not one of {others}")
            self.entry(name)
        return self

    def entry(self, policy: str) -> tuple[PriorSettings, NetworkConfig, PPOSettings]:
        """The complete settings of a row: prior, network and PPO."""
        row, key = self.policies[policy], f"policies.{policy}"
        return (
            overridden(self.prior, row.prior, f"{key}.prior"),
            overridden(self.network, row.network, f"{key}.network"),
            overridden(self.ppo, row.ppo, f"{key}.ppo"),
        )

    def stage(self, policy: str) -> int:
        """Number of consecutive trainings before that of a row, following `start`."""
        start = self.policies[policy].start
        return 0 if start is None else 1 + self.stage(start)

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each policy."""
        return (self.training_of(name, study_id, scale) for name in self.policies)

    def trained_rows(self) -> Sequence[str]:
        """The policies."""
        return list(self.policies)

    def training_of(self, row: str, study_id: str, scale: Scale) -> Batch:
        """The batch that trains a policy, starting from the weights of another batch if `start` is set."""
        number, start = self.policies[row].seed, self.policies[row].start
        # The settings of tests and of the validation score, which are the same for all rows.
        standard = [self.prior.model_dump(mode="json"), self.network.horizon, self.ppo.log_regret]
        own = [determining(part) for part in self.entry(row)]
        earlier = self.training_of(start, study_id, scale).settings if start else None
        settings = fingerprint([determining(self), standard, own, earlier, scale.seed, *([number] if number else [])])
        # The seed does not depend on the row, so policies have the same initial weights and functions.
        seeds = [derive_seed(scale.seed, study_id, i) for i in range(number, number + self.repetitions)]
        tests = ["prior-test", *(f"vlse/{name}" for name in self.functions)]
        workloads: list[tuple[str, Role]] = [("prior-validation", "tune"), *((name, "test") for name in tests)]
        runs = tuple(
            Run(study_id, workload, row, role, None, i, seed, settings)
            for i, seed in enumerate(seeds)
            for workload, role in workloads
        )
        return Batch(study_id, row, row, runs, (), settings, weights=(study_id, start) if start else None)

    def repetitions_in_words(self) -> str:
        """The number of trainings of each policy."""
        return f"{counted(self.repetitions, 'training seed')}."
