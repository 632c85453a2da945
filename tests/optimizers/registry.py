"""Every exported optimizer, registered once: what it needs, and the settings under which the situations try it.

A test of a situation is crossed with all configurations, or with those that it can concern::

    @each
    def test_something_holds(make: Make) -> None: ...

    @each_that(lambda make: make.needs_loss)
    def test_something_holds_where_the_loss_is_looked_at(make: Make) -> None: ...

What no setting can touch is crossed with the classes, by `each_class`. Configurations of which others have every part
are left out, unless the environment variable `OPTREPRO_EVERY_FORM` is set, as it is where a change is tried in full.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from optrepro import optimizers
from optrepro.optimizers._pop_policy import Policy, PolicySettings
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Make:
    """A configuration of a class: called with parameters, it makes the optimizer.

    Attributes:
        name: of the configuration.
        kind: the class.
        settings: of the configuration, beside `lr`.
        family: the setting that lists candidates, to which a cycle of the momentum writes.
        needs_loss: `step` wants a closure and looks at its loss.
        looks_at_ranks: it sums or averages over the ranks that train together.
        one_group: it refuses a second parameter group.
        reference: torch's class, which a single candidate equals.
        policy: makes a small untrained policy.
    """

    name: str
    kind: type[Optimizer]
    settings: Settings = field(repr=False)
    lr: float = 0.05
    family: Literal["momentum", "betas"] | None = None
    needs_loss: bool = False
    looks_at_ranks: bool = True
    one_group: bool = False
    reference: type[Optimizer] | None = None
    policy: Callable[[], nn.Module] | None = None

    def __call__(self, params: Any, lr: Any = None, **settings: Any) -> Any:
        """The optimizer of these parameters; `lr` and `settings` take the place of the configuration's."""
        chosen = {"lr": self.lr if lr is None else lr, **self.settings, **settings}
        if self.policy is not None and "policy" not in chosen:
            chosen["policy"] = _seeded(self.policy)
        if chosen.get("policy") == "shipped":
            del chosen["policy"]
        return self.kind(params, **chosen)

    @property
    def torch_settings(self) -> dict[str, Any]:
        """The configuration's settings that `reference` has, too."""
        shared = ("weight_decay", "dampening", "nesterov", "eps", "maximize", self.family)
        return {name: value for name, value in self.settings.items() if name in shared}

    @property
    def probes(self) -> str | None:
        """The further gradients that `step` asks for."""
        if self.settings.get("score") == "validation":
            return "validation_grads"
        return "half_grads" if self.settings.get("self_term") == "halves" else None

    @property
    def is_continuous(self) -> bool:
        """Whether the momentum is a number on an interval."""
        return self.settings.get("candidates") == "continuous"

    @property
    def is_fixed(self) -> bool:
        """Whether a single candidate makes it torch's optimizer."""
        listed = self.settings.get(self.family or "")
        return isinstance(listed, float) or (self.family == "betas" and bool(listed) and isinstance(listed[0], float))

    @property
    def candidates(self) -> int:
        """The number of candidates, each of which has a buffer; one for an interval, none without momentum."""
        if self.family is None:
            return 0
        if self.is_fixed or self.is_continuous or self.kind is optimizers.CautiousAdamW:
            return 1
        return len(self.settings.get(self.family, (..., ..., ...)))

    @property
    def buffers(self) -> list[str]:
        """What the state calls the candidates' buffers."""
        name = {"momentum": "momentum_buffer", "betas": "exp_avg", None: ""}[self.family]
        return [name] if self.candidates == 1 else [f"{name}_{i}" for i in range(self.candidates)]

    @property
    def selects(self) -> bool:
        """Whether it tells its choices in `selection`."""
        return self.family is not None and self.kind is not optimizers.CautiousAdamW

    @property
    def selects_each(self) -> bool:
        """Whether each parameter has a choice of its own."""
        each = "per_parameter" if self.name.startswith("aligned") else "global"
        return self.selects and self.settings.get("select", each) == "per_parameter"

    @property
    def descends(self) -> bool:
        """Whether its steps are meant to go down; those of an untrained network may go anywhere."""
        return self.kind not in (optimizers.PredictedStepDescent, optimizers.L2L) or "policy" in self.settings

    @property
    def rounding(self) -> dict[str, float]:
        """How close runs are that choose alike: weights round as the sums they are made from, a choice does not."""
        return {"rtol": 1e-4, "atol": 1e-5} if self.name.startswith("aligned") else {"rtol": 0, "atol": 0}

    @property
    def order(self) -> dict[str, float]:
        """How close runs are that sum in another order."""
        return {"rtol": 1e-4, "atol": 1e-5} if self.name.startswith("aligned") else {"rtol": 1e-6, "atol": 1e-6}


def _seeded(policy: Callable[[], nn.Module]) -> nn.Module:
    """Always the same one, whatever is set globally."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return policy()
    finally:
        torch.set_default_dtype(default)


def register(kind: type[Optimizer], configurations: Mapping[str, Settings], **traits: Any) -> list[Make]:
    """The configurations of a class; `traits` are attributes of `Make` that hold for all of them."""
    return [
        Make(name, kind, {k: v for k, v in settings.items() if k != "lr"}, **{**traits, **_lr(settings)})
        for name, settings in configurations.items()
    ]


def _lr(settings: Settings) -> Settings:
    return {name: value for name, value in settings.items() if name == "lr"}


SGD = {"family": "momentum", "reference": torch.optim.SGD}
ADAM = {"family": "betas", "reference": torch.optim.Adam}
ADAMW = {"family": "betas", "reference": torch.optim.AdamW}
CONTINUOUS = {"candidates": "continuous"}
QUICK = {**CONTINUOUS, "every": 2, "lags": 3, "rest": 3}  # it watches five steps of eight
ONE_PAIR = {"betas": (0.9, 0.99)}

MAKES = [
    *register(
        optimizers.GapSGD,
        {
            "gap-sgd": {"weight_decay": 0.01},
            "gap-sgd-each": {"select": "per_parameter", "nesterov": True},
            "gap-sgd-debiased": {"score": "debiased", "score_ema": 0.5, "hysteresis": 0.1, "lr_modulation": True},
            "gap-sgd-raw": {"score": "raw", "dampening": 0.1},
            "gap-sgd-validation": {"score": "validation"},
            "gap-sgd-halves": {"score": "debiased", "self_term": "halves", "select": "per_parameter"},
            "gap-sgd-fixed": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
            "continuous-sgd": {**CONTINUOUS, "weight_decay": 0.01},
            "continuous-sgd-quick": {**QUICK, "momentum": (0.0, 0.95)},
            "continuous-sgd-fixed": {**CONTINUOUS, "momentum": 0.9, "weight_decay": 0.01},
        },
        **SGD,
    ),
    *register(
        optimizers.GapAdam,
        {
            "gap-adam": {"weight_decay": 0.01},
            "gap-adam-raw": {"score": "raw", "lr_modulation": True},
            "gap-adam-literal": {"score": "paper_literal"},
            "gap-adam-fixed": {**ONE_PAIR, "weight_decay": 0.01},
            "continuous-adam": {**CONTINUOUS, "score": "paper", "every": 1, "lags": 3, "rest": 3},
            "continuous-adam-fixed": {**CONTINUOUS, **ONE_PAIR},
        },
        **ADAM,
    ),
    *register(
        optimizers.GapAdamW,
        {
            "gap-adamw": {},
            "gap-adamw-each": {"select": "per_parameter", "score": "debiased"},
            "gap-adamw-fixed": ONE_PAIR,
            "continuous-adamw": QUICK,
            "continuous-adamw-fixed": {**CONTINUOUS, **ONE_PAIR},
        },
        **ADAMW,
    ),
    *register(
        optimizers.AlignedMeanSGD,
        {"aligned-sgd": {"weight_decay": 0.01, "nesterov": True}, "aligned-sgd-fixed": {"momentum": 0.9}},
        **SGD,
    ),
    *register(optimizers.AlignedMeanAdam, {"aligned-adam": {"weight_decay": 0.01, "select": "global"}}, **ADAM),
    *register(optimizers.AlignedMeanAdamW, {"aligned-adamw": {}, "aligned-adamw-fixed": ONE_PAIR}, **ADAMW),
    *register(
        optimizers.RandomSGD,
        {"random-sgd": {"seed": 1}, "random-sgd-fixed": {"seed": 1, "momentum": 0.9}},
        looks_at_ranks=False,
        **SGD,
    ),
    *register(
        optimizers.RandomAdam, {"random-adam": {"seed": 1, "shares": (0.2, 0.3, 0.5)}}, looks_at_ranks=False, **ADAM
    ),
    *register(
        optimizers.RandomAdamW, {"random-adamw": {"seed": 1, "select": "per_parameter"}}, looks_at_ranks=False, **ADAMW
    ),
    *register(optimizers.MeanSGD, {"mean-sgd": {}}, looks_at_ranks=False, **SGD),
    *register(optimizers.MeanAdam, {"mean-adam": {}}, looks_at_ranks=False, **ADAM),
    *register(optimizers.MeanAdamW, {"mean-adamw": {}}, looks_at_ranks=False, **ADAMW),
    *register(optimizers.CautiousAdamW, {"cautious-adamw": {}}, looks_at_ranks=False, family="betas"),
    *register(
        optimizers.POP,
        {
            "pop": {"lr": 0.5},
            "pop-box": {"bounds": (-3.0, 3.0), "lr": 0.1},
            "pop-shipped": {"policy": "shipped", "lr": 0.5},
        },
        needs_loss=True,
        policy=lambda: Policy(PolicySettings(width=8, history=4, smallest=1e-2)),
    ),
    *register(
        optimizers.PredictedStepDescent,
        {"psd": {}, "psd-shipped": {"policy": "shipped"}},
        lr=1.0,
        needs_loss=True,
        policy=lambda: StepPolicy(StepPolicySettings(cells=4, scale=1.0)),
    ),
    *register(
        optimizers.PredictedStepDescent,
        {"psd-relative": {}},
        lr=1.0,
        needs_loss=True,
        policy=lambda: StepPolicy(
            StepPolicySettings(4, 1, "normalized", 1.0, warmup=3, relative=True, steadiness=True)
        ),
    ),
    *register(
        optimizers.L2L,
        {"l2l": {}, "l2l-shipped": {"policy": "shipped"}},
        lr=1.0,
        needs_loss=True,
        policy=lambda: L2LPolicy(L2LSettings(cells=4)),
    ),
    *register(
        optimizers.ConjugateGradient,
        {"conjugate-gradient": {}, "conjugate-gradient-search": {"line_search": "armijo", "lr": 0.1}},
        needs_loss=True,
        one_group=True,
    ),
    *register(optimizers.Polyak, {"polyak": {}}, lr=1.0, needs_loss=True, one_group=True),
]


COVERED = {
    *("gap-sgd-raw", "gap-adam-raw", "gap-adam-literal", "gap-adam-fixed", "continuous-adam-fixed"),
    *(
        "continuous-adamw-fixed",
        "aligned-sgd-fixed",
        "aligned-adamw-fixed",
        "random-sgd-fixed",
        "random-adam",
        "mean-adam",
    ),
    *("pop-box", "psd", "l2l", "conjugate-gradient"),
}
CHOSEN = [make for make in MAKES if os.environ.get("OPTREPRO_EVERY_FORM") or make.name not in COVERED]


def _crossed(makes: Iterable[Make]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", [pytest.param(make, id=make.name) for make in makes])


def each_that(holds: Callable[[Make], Any]) -> pytest.MarkDecorator:
    """Every chosen configuration for which something holds."""
    return _crossed(make for make in CHOSEN if holds(make))


def each_class_that(holds: Callable[[Make], Any]) -> pytest.MarkDecorator:
    """The first configuration of every class for which something holds, the continuous forms' classes among them."""
    first = {(make.kind, make.is_continuous): make for make in reversed(MAKES)}
    return _crossed(make for make in MAKES if make in first.values() and holds(make))


each = each_that(lambda make: True)
each_class = each_class_that(lambda make: True)


def named(name: str) -> Make:
    """The configuration of this name."""
    return next(make for make in MAKES if make.name == name)
