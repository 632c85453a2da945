"""Studies of the system POP: the prior, meta-training on it, and transfer from it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from optrepro.studies.common import ConstantRates, Count, Model, Name, Positive, overridden


def _ascending(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    if pair is not None and pair[0] > pair[1]:
        raise ValueError(f"{list(pair)} must be the smaller number first")
    return pair


Range = Annotated[
    tuple[Positive, Positive], AfterValidator(_ascending), Field(description="Smallest and largest, log-uniform.")
]


Horizon = Annotated[int, Field(ge=2)]


class PriorConfig(Model):
    """The distribution over functions on the unit box: `optrepro.problems.functions.synthetic`."""

    shares: dict[Literal["convex", "gp", "sum"], Annotated[float, Field(ge=0, le=1)]]
    features: Annotated[Count, Field(description="Random Fourier features of a sample.")]
    length_scale: Annotated[Range, Field(description="Of the kernel, in units of the box.")]
    anisotropy: Annotated[float, Field(ge=1, description="Largest ratio of length scales between coordinates.")]
    condition: Annotated[float, Field(ge=1, description="Largest condition number of a quadratic, log-uniform.")]
    amplitude: Annotated[Range, Field(description="Of the sample in a sum; the quadratic's mean is 1.")]
    warp: Annotated[float, Field(ge=0, description="Largest s of (exp(s f) - 1) / s, uniform from 0.")]

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Self:
        if abs(sum(self.shares.values()) - 1) > 1e-9:
            raise ValueError(f"shares = {dict(self.shares)} sum to {sum(self.shares.values()):g}, not to 1")
        return self


class NetworkConfig(Model):
    """The policy: `optrepro.optimizers.policy.PolicySettings`."""

    backbone: Literal["transformer", "gru"] = "transformer"
    width: Count = 32
    layers: Count = 2
    heads: Annotated[Count, Field(description="Of the Transformer's attention; divides the width.")] = 2
    history: Annotated[Count, Field(description="Evaluations that a layer attends to.")] = 16
    horizon: Annotated[int, Field(ge=2, description="Evaluations of a training run.")] = 50
    scaling: Annotated[
        Literal["coordinate", "norm", "maximum", "none"], Field(description="What the gradient is divided by.")
    ] = "coordinate"
    smallest: Annotated[Positive, Field(description="Smallest learning rate.")] = 1e-8
    largest: Annotated[Positive, Field(description="Largest learning rate.")] = 1.0
    shortest: Annotated[Positive | None, Field(description="Bound of the learning rates below, if not smallest.")] = (
        None
    )
    resolved: Annotated[float, Field(gt=0, lt=1, description="Share below which features tell no sizes apart.")] = 1e-10
    least_log_std: Annotated[float, Field(lt=-1, description="Of the distribution of actions.")] = -6.0
    most_log_std: Annotated[float, Field(ge=-1, le=1, description="Of the distribution of actions.")] = -1.0
    acting: Annotated[
        Literal["mean", "sample"], Field(description="What is taken of the distribution over actions, after training.")
    ] = "mean"
    second: Annotated[
        Literal["none", "momentum", "best"],
        Field(description="What a share of is added to steps, beyond the paper: the last step, the way to the best."),
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


class PPOConfig(Model):
    """Proximal policy optimization: `optrepro.metalearning.pop.ppo`."""

    functions: Annotated[
        dict[Count, Count], Field(min_length=1, description="New functions in an iteration, for each dimension.")
    ]
    iterations: Count
    epochs: Count
    minibatches: Count
    learning_rate: Positive
    max_grad_norm: Positive
    discount: Annotated[float, Field(gt=0, le=1)]
    gae_lambda: Annotated[float, Field(ge=0, le=1)]
    clip_ratio: Positive
    kl_limit: Annotated[Positive, Field(description="No epoch follows one that ends above this divergence.")]
    entropy: Annotated[float, Field(ge=0, description="Weight of the entropy bonus.")]
    value_loss: Annotated[Positive, Field(description="Weight of the critic's loss.")]
    improvement: Annotated[float, Field(ge=0, description="Weight of the normalized improvement in the reward.")]
    log_regret: Annotated[float, Field(ge=0, description="Reward for each power of ten that the regret falls by.")]
    floor: Annotated[float, Field(gt=0, lt=1, description="Share of the start's regret below which all is equal.")]
    terminal: Annotated[bool, Field(description="All of the reward with the last evaluation.")] = False
    precision: Annotated[Literal["float32", "bfloat16"], Field(description="Of updates on a GPU.")] = "float32"
    horizons: Annotated[
        tuple[Horizon, Horizon] | None,
        AfterValidator(_ascending),
        Field(description="Evaluations of an iteration's runs, log-uniform; null: the network's horizon."),
    ] = None
    kl_target: Annotated[Positive | None, Field(description="Divergence that the learning rate is adapted to.")] = None
    entropy_target: Annotated[
        tuple[float, float] | None, Field(description="Of an action, first and last; the bonus is adapted to it.")
    ] = None
    averaging: Annotated[float, Field(ge=0, lt=1, description="Share of the averaged weights an iteration keeps.")] = 0

    @model_validator(mode="after")
    def _minibatches_are_filled(self) -> Self:
        for dim, count in self.functions.items():
            if count < self.minibatches:
                raise ValueError(
                    f"functions[{dim}] = {count} is less than one for each of {self.minibatches} minibatches"
                )
        return self


class PolicyRow(Model):
    """One trained policy: what it has that the study's others have not."""

    label: Annotated[str, Field(description="Name in figures and tables.")]
    group: Annotated[str, Field(description="What the row varies.")] = "standard"
    prior: Annotated[dict[str, Any], Field(description="Over the study's prior.")] = {}
    network: Annotated[dict[str, Any], Field(description="Over the study's network.")] = {}
    ppo: Annotated[dict[str, Any], Field(description="Over the study's PPO.")] = {}
    start: Annotated[Name | None, Field(description="Row of the study whose weights training begins with.")] = None
    seed: Annotated[int, Field(ge=0, description="Number of the first training seed.")] = 0


class PolicyStudy(Model):
    """Meta-training: policies trained by PPO on functions streamed from the prior."""

    kind: Literal["policy"] = "policy"
    prior: PriorConfig
    network: NetworkConfig = NetworkConfig()
    ppo: PPOConfig
    validation_functions: Annotated[Count, Field(description="The fixed set that training is watched on.")]
    test_functions: Annotated[Count, Field(description="The fixed set that is used once, at the end.")]
    validate_every: Annotated[Count, Field(description="Iterations between validations.")]
    patience: Annotated[Count, Field(description="Validations without a better score before training stops.")]
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Benchmark functions, used once.")]
    starts: Annotated[Count, Field(description="Starts on each of them.")]
    policies: Annotated[dict[Name, PolicyRow], Field(min_length=1)]
    repetitions: Annotated[Count, Field(description="Training seeds; the weights of the first are kept.")] = 1
    gpu: Annotated[bool, Field(description="Whether the jobs ask the cluster for a GPU.")] = False

    @model_validator(mode="after")
    def _rows_are_valid(self) -> Self:
        for name, row in self.policies.items():
            if row.start is not None and (row.start == name or row.start not in self.policies):
                others = sorted(set(self.policies) - {name})
                raise ValueError(f"policies.{name}.start = {row.start!r} is not one of {others}")
            self.entry(name)
        return self

    def entry(self, policy: str) -> tuple[PriorConfig, NetworkConfig, PPOConfig]:
        """Prior, network and PPO of a row, complete."""
        row, key = self.policies[policy], f"policies.{policy}"
        return (
            overridden(self.prior, row.prior, f"{key}.prior"),
            overridden(self.network, row.network, f"{key}.network"),
            overridden(self.ppo, row.ppo, f"{key}.ppo"),
        )

    def stage(self, policy: str) -> int:
        """Number of trainings whose weights a row goes on from, one after the other."""
        start = self.policies[policy].start
        return 0 if start is None else 1 + self.stage(start)


class Collection(Model):
    """Problems that a transfer study runs on."""

    source: Annotated[
        Literal["prior", "vlse", "heavy-tailed", "ill-conditioned", "plateaus", "noisy-gradients", "ridges"],
        Field(description="The prior, the benchmark, or a shifted collection."),
    ]
    dim: Annotated[Count, Field(description="Dimension; of benchmark functions, of those that are free.")] = 2
    count: Annotated[Count, Field(description="Functions, with one start each; of the benchmark, starts on each.")]
    budget: Annotated[Count, Field(description="Evaluations of value and gradient in a run.")]
    each: Annotated[
        Count | None, Field(description="Tune for each benchmark function too, on so many other starts.")
    ] = None


class Reference(Model):
    """A derivative-free method."""

    label: str
    method: Name


class TransferStudy(ConstantRates):
    """Optimizers tuned once, on the prior's validation functions, and then run everywhere, beside learned ones."""

    kind: Literal["transfer"] = "transfer"
    prior: PriorConfig
    validation_functions: Annotated[Count, Field(description="Functions that learning rates are tuned on.")]
    budget: Annotated[Count, Field(description="Evaluations in a tuning run, and in a run of a reference.")]
    log_regret: Annotated[float, Field(ge=0, description="Of the tuning score, as in the policy's reward.")]
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="The benchmark.")]
    collections: Annotated[dict[Name, Collection], Field(min_length=1)]
    references: dict[Name, Reference] = {}
    reference_count: Annotated[Count, Field(description="Functions of a collection that references run on at most.")]
    reference_starts: Annotated[Count, Field(description="Starts on a benchmark function, for them.")]

    @model_validator(mode="after")
    def _names_tell_rows_apart(self) -> Self:
        if both := sorted({*self.references} & {*self.optimizers}):
            raise ValueError(f"references.{both[0]} has the name of an optimizer: names must tell all rows apart")
        return self


class PriorStudy(Model):
    """The prior's fixed sets, samples of it, and its statistics beside the benchmark's."""

    kind: Literal["prior"] = "prior"
    prior: PriorConfig
    dim: Count = 2
    validation_functions: Count
    test_functions: Count
    described: Annotated[Count, Field(description="Functions of each collection whose statistics are taken.")]
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Benchmark functions described.")]
    gallery: Annotated[Count, Field(description="Functions drawn.")]
    resolution: Annotated[int, Field(ge=8, description="Grid points along each axis.")]
