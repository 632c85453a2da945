"""The base of trainers of step rules: a rule, its optimizer, and the number of the iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from optrepro.problems.networks.perceptrons import Perceptrons


class HasLength(Protocol):
    """Settings with a number of iterations."""

    @property
    def iterations(self) -> int:
        """Number of iterations of the training."""
        ...


Settings = TypeVar("Settings", bound=HasLength)
Rule = TypeVar("Rule", bound=nn.Module)


class StepTrainer(Generic[Settings, Rule]):
    """Trains a step rule by Adam. Random numbers depend only on the seed and the iteration.

    Args:
        settings: settings of the training.
        horizon: number of steps of a rollout.
        make: makes the rule; its weights depend only on the seed.
        objectives: returns the new objectives of an iteration.
        seed: seed of the weights and of all random choices.
        device: device of the training.
        adam: further arguments of Adam.
    """

    def __init__(
        self,
        settings: Settings,
        horizon: int,
        make: Callable[[], Rule],
        objectives: Callable[[int], Perceptrons],
        seed: int,
        device: torch.device | str,
        **adam: Any,
    ):
        self.settings, self.horizon, self.objectives = settings, horizon, objectives
        self.seed, self.device = seed, device
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.rule = make().to(device)
        self.optimizer = torch.optim.Adam(self.rule.parameters(), **adam)
        self.iteration = 0

    @property
    def done(self) -> bool:
        """Whether all iterations are done."""
        return self.iteration >= self.settings.iterations

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on."""
        states = {"rule": self.rule.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**states, "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.rule.load_state_dict(state["rule"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]
