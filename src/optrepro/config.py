"""The typed config: what to run, checked in full before anything runs.

A scale file (``config/laptop.yaml``) states only what differs from the file it names under ``extends``. Overrides by
dotted path come last. Every error names the key, the value, what is allowed, and the file that set it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
DottedPath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
TrainedPolicy = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Schedule = Literal["cosine", "step", "constant"]


def _distinct(grid: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(grid)) < len(grid):
        raise ValueError(f"{list(grid)} names a rate twice: every rate of a grid is a run of its own")
    return grid


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{list(pair)} must be the smaller number first")
    return pair


def _without_rate(settings: dict[str, Any]) -> dict[str, Any]:
    if "lr" in settings:
        raise ValueError(f"lr = {settings['lr']!r} is not allowed: the learning rate is tuned, set `learning_rates`")
    return settings


Grid = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_distinct)]
Settings = Annotated[dict[str, Any], AfterValidator(_without_rate)]


class ConfigError(ValueError):
    """A config that cannot be run; the message names each key, its value and what is allowed."""


class Model(BaseModel):
    """Frozen, and unknown keys are errors: a misspelt key must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class OptimizerConfig(Model):
    """One row of a comparison: a class, its settings, and how its learning rate is tuned."""

    label: Annotated[str, Field(description="Name in figures and tables.")]
    group: Annotated[
        Literal["fixed", "dynamic", "control", "peer", "first-order", "quasi-newton", "policy"],
        Field(description="How the exhibits sort and judge the row."),
    ] = "peer"
    class_: Annotated[DottedPath, Field(alias="class", description="Import path of a `torch.optim.Optimizer`.")]
    settings: Annotated[Settings, Field(description="Keyword arguments of the class; never the rate.")] = {}
    learning_rates: Annotated[Grid | None, Field(description="The tuning grid, if not the study's; equally long.")] = (
        None
    )
    schedule: Annotated[Schedule | None, Field(description="Learning-rate schedule, if not the study's.")] = None
    shares_of: Annotated[
        Name | None, Field(description="Draw candidates with the shares that this other row chose them in.")
    ] = None
    trained: Annotated[
        TrainedPolicy | None, Field(description="Take the weights of this row of a policy study, as study/row.")
    ] = None


class Comparison(Model):
    """What every study that compares optimizers has: the rows, and one tuning budget for all of them."""

    optimizers: Annotated[dict[Name, OptimizerConfig], Field(min_length=1)]
    learning_rates: Annotated[Grid, Field(description="The tuning grid.")]
    settings: Annotated[Settings, Field(description="For every optimizer; its own settings win.")] = {}

    @model_validator(mode="after")
    def _equal_budgets(self) -> Self:
        givers = sorted(name for name, optimizer in self.optimizers.items() if optimizer.shares_of is None)
        for name, optimizer in self.optimizers.items():
            grid = optimizer.learning_rates
            if grid is not None and len(grid) != len(self.learning_rates):
                raise ValueError(
                    f"optimizers.{name}.learning_rates has {len(grid)} values and the study's grid has "
                    f"{len(self.learning_rates)}: every optimizer gets the same tuning budget"
                )
            if optimizer.shares_of is not None and optimizer.shares_of not in givers:
                raise ValueError(f"optimizers.{name}.shares_of = {optimizer.shares_of!r} is not one of {givers}")
        return self

    def entry(self, optimizer: str) -> OptimizerConfig:
        """The entry of `optimizer` with the settings that it shares with the others filled in."""
        own = self.optimizers[optimizer]
        return own.model_copy(update={"settings": {**self.settings, **own.settings}})

    def grid(self, optimizer: str) -> tuple[float, ...]:
        """The learning rates that `optimizer` is tuned over, ascending."""
        return tuple(sorted(self.optimizers[optimizer].learning_rates or self.learning_rates))


class ImageData(Model):
    """The images a study uses: one subset for all of its runs."""

    dataset: Annotated[tuple[str, ...], Field(min_length=1, description="The first that is at hand is used.")]
    labels: Annotated[Literal["fine", "coarse"], Field(description="CIFAR-100 has 100 fine and 20 coarse ones.")] = (
        "fine"
    )
    train_examples: Annotated[Count | None, Field(description="Size of the seeded subset at most; null: all.")] = None
    validation_examples: Annotated[
        Count, Field(description="Held out of the training set, for tuning only; a quarter of it at most.")
    ]


class TrainingStudy(Comparison, ImageData):
    """Image classification: every optimizer trains the same networks on the same batches."""

    kind: Literal["training"] = "training"
    network: Name
    network_settings: dict[str, Any] = {}
    batch_size: Annotated[
        int, Field(ge=2, multiple_of=2, description="Even, for the rules that compare the halves of a batch.")
    ]
    steps: Count
    schedule: Annotated[Schedule, Field(description="step: a tenth after half of the steps, again after 3/4.")] = (
        "cosine"
    )
    augment: Annotated[bool, Field(description="Random crops with 4 pixels of padding, and flips.")] = False
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluations: Annotated[Count, Field(description="Points of the learning curves.")] = 10
    tuning_repetitions: Count
    test_repetitions: Count
    runs_per_job: Annotated[
        Count | Literal["optimizer", "study"], Field(description="So many, or all of an optimizer or of the study.")
    ] = "optimizer"
    gpu: Annotated[bool, Field(description="Whether the jobs ask the cluster for a GPU.")] = False


class ConstantRates(Comparison):
    """What every study has that compares optimizers on functions: their learning rates stay as they are."""

    @model_validator(mode="after")
    def _rows_hold_what_is_used(self) -> Self:
        for name, optimizer in self.optimizers.items():
            for key in ("schedule", "shares_of"):
                if getattr(optimizer, key) is not None:
                    raise ValueError(f"optimizers.{name}.{key} is for training studies: here rates stay constant")
        return self


class FunctionsStudy(ConstantRates):
    """The benchmark functions in box coordinates, each optimizer tuned per function on starts of its own."""

    kind: Literal["functions"] = "functions"
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Ids in `optrepro.problems.vlse`.")]
    dimension: Annotated[Count, Field(description="Dimension of the functions that are defined in any.")] = 2
    budget: Annotated[Count, Field(description="Evaluations of value and gradient in a run.")]
    tuning_starts: Count
    starts: Count


class SurfacesStudy(Model):
    """Values of the two-dimensional functions on a grid, for the gallery's contours."""

    kind: Literal["surfaces"] = "surfaces"
    functions: Annotated[tuple[str, ...], Field(min_length=1, description="Ids in `optrepro.problems.vlse`.")]
    resolution: Annotated[int, Field(ge=8, description="Grid points along each axis.")]


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


Range = Annotated[
    tuple[Positive, Positive], AfterValidator(_ascending), Field(description="Smallest and largest, log-uniform.")
]


class PriorConfig(Model):
    """The distribution over functions on the unit box: `optrepro.problems.prior`."""

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

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        if self.smallest >= self.largest:
            raise ValueError(f"smallest = {self.smallest} is not below largest = {self.largest}")
        return self


class PPOConfig(Model):
    """Proximal policy optimization: `optrepro.metalearning.ppo`."""

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
            for part in ("prior", "network", "ppo"):
                base: Model = getattr(self, part)
                try:
                    type(base).model_validate({**base.model_dump(), **getattr(row, part)})
                except ValidationError as error:
                    places = ((".".join(map(str, e["loc"])), e["msg"]) for e in error.errors())
                    faults = (
                        f"{key}: {fault}" if key else fault.removeprefix("Value error, ") for key, fault in places
                    )
                    overrides = f"policies.{name}.{part} = {getattr(row, part)}"
                    raise ValueError(f"{overrides} is not allowed: {'; '.join(faults)}") from None
        return self

    def entry(self, policy: str) -> tuple[PriorConfig, NetworkConfig, PPOConfig]:
        """Prior, network and PPO of a row, complete."""
        row = self.policies[policy]
        return (
            PriorConfig.model_validate({**self.prior.model_dump(), **row.prior}),
            NetworkConfig.model_validate({**self.network.model_dump(), **row.network}),
            PPOConfig.model_validate({**self.ppo.model_dump(), **row.ppo}),
        )


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


Study = Annotated[
    TrainingStudy
    | FunctionsStudy
    | SurfacesStudy
    | FamiliesStudy
    | ConceptStudy
    | PriorStudy
    | PolicyStudy
    | TransferStudy,
    Field(discriminator="kind"),
]


class Config(Model):
    """Everything that a scale runs."""

    scale: Annotated[Name, Field(description="Names the folder of the results.")]
    seed: Annotated[int, Field(ge=0, description="Root of every derived seed.")]
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto: a GPU where there is one.")] = "auto"
    download: Annotated[bool, Field(description="Fetch data sets; else use what is at hand.")] = False
    strict: Annotated[bool, Field(description="A missing run is an error, not a mark on the exhibit.")] = False
    studies: dict[Name, Study]

    @model_validator(mode="after")
    def _policies_are_trained(self) -> Self:
        rows = {f"{name}/{row}" for name, s in self.studies.items() if isinstance(s, PolicyStudy) for row in s.policies}
        for study_id, study in self.studies.items():
            for name, row in study.optimizers.items() if isinstance(study, Comparison) else ():
                key = f"studies.{study_id}.optimizers.{name}.trained = {row.trained!r}"
                if row.trained is not None and not (isinstance(study, TransferStudy) and row.group == "policy"):
                    raise ValueError(
                        f"{key} is not allowed: weights go to rows of the group policy in transfer studies"
                    )
                if row.trained is not None and row.trained not in rows:
                    raise ValueError(f"{key} is not one of {sorted(rows)}")
        return self


Layer = tuple[str, Mapping[str, Any]]


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config of a scale file, with `overrides` of the form ``studies.vlse.starts=8`` applied last.

    Raises: ConfigError, with one line for each thing that is wrong.
    """
    layers = [*_layers(Path(path)), *(_override(text) for text in overrides)]
    return build(layers)


def build(layers: Sequence[Layer]) -> Config:
    """The config that the layers give, later ones over earlier ones; an entry set to null is removed."""
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    try:
        return Config.model_validate(_without_removed(merged))
    except ValidationError as error:
        faults: dict[str, list[str]] = {}  # of each key: a value that may be of several types has one for each
        for place, fault in (_explain(layers, problem) for problem in error.errors()):
            faults.setdefault(place, []).append(fault)
        lines = (f"{place} {', or '.join(dict.fromkeys(all_))}" for place, all_ in faults.items())
        raise ConfigError("\n".join(lines)) from None


def parse(text: str, source: str) -> Any:
    """The value of a YAML text, with the numbers of YAML 1.2 and of JSON: PyYAML alone takes 1e-8 for a word.

    Raises: ConfigError with one line that names the source.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of a resolved config."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **TypeAdapter(Config).json_schema(by_alias=True)}


def _layers(path: Path) -> list[Layer]:
    try:
        content = parse(path.read_text(), str(path))
    except FileNotFoundError:
        there = ", ".join(sorted(str(p) for p in path.parent.glob("*.yaml"))) or "no YAML file"
        raise ConfigError(f"{path} does not exist; beside it: {there}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not {type(content).__name__}")
    parent = content.pop("extends", None)
    inherited = _layers(path.parent / parent) if parent else []
    return [*inherited, (str(path), content)]


def _override(text: str) -> Layer:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {text!r} is not of the form key.of.the.config=value")
    tree = parse(value, f"override {text!r}")
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return f"override {text}", tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _without_removed(merged: dict[str, Any]) -> dict[str, Any]:
    """Drop studies and their rows that a layer set to null; elsewhere null is a value."""
    result = dict(merged)
    if isinstance(studies := result.get("studies"), dict):
        result["studies"] = {k: _without_null_rows(v) for k, v in studies.items() if v is not None}
    return result


def _without_null_rows(study: Any) -> Any:
    if not isinstance(study, dict):
        return study
    kept = {key: study[key] for key in ("optimizers", "policies", "references", "collections") if key in study}
    kept = {key: rows for key, rows in kept.items() if isinstance(rows, dict)}
    return {**study, **{key: {k: v for k, v in rows.items() if v is not None} for key, rows in kept.items()}}


def _explain(layers: Sequence[Layer], problem: Any) -> tuple[str, str]:
    """Who set which key to which value, and what is wrong with that."""
    kind, value = problem["type"], problem["input"]
    missing = kind in ("missing", "union_tag_not_found")
    path = _path(problem["loc"])
    if kind.startswith("union_tag"):
        path, value = [*path, "kind"], value.get("kind")
    setters = [name for name, layer in layers if _holds(layer, path[:-1] if missing else path)]
    if not setters:  # the last part is none of the file's: pydantic marks a bad key, and the types a value may have
        return _explain(layers, {**problem, "loc": problem["loc"][:-1]})
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or "the config"
    place = f"{setters[-1]}: {key}"
    if missing:
        return place, "is missing"
    if kind == "extra_forbidden":
        close = get_close_matches(str(path[-1]), _keys(), n=1)
        return place, "is not a key of the config" + (f"; did you mean {close[0]}?" if close else "")
    message = problem["msg"].removeprefix("Value error, ")
    return (f"{place}:", message) if kind == "value_error" else (f"{place} = {value!r} is not allowed.", message)


def _path(location: Sequence[Any]) -> list[Any]:
    """The keys of a location: pydantic adds the kind of a study after its name."""
    return [*location[:2], *location[3:]] if location[:1] == ("studies",) else list(location)


def _keys() -> set[str]:
    """Every key that a config may have somewhere, names of studies and optimizers apart."""
    definitions = schema()
    return {key for model in (definitions, *definitions["$defs"].values()) for key in model["properties"]}


def _holds(layer: Any, path: Sequence[Any]) -> bool:
    for part in path:
        try:
            layer = layer[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
