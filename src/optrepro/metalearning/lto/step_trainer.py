"""What all trainers of step rules share: a rule, its optimizer, and where the training stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from optrepro.problems.networks.perceptrons import Perceptrons


class HasLength(Protocol):
    """Settings of a training of so many iterations."""

    @property
    def iterations(self) -> int:
        """Length of the training."""
        ...


Settings = TypeVar("Settings", bound=HasLength)
Rule = TypeVar("Rule", bound=nn.Module)


class StepTrainer(Generic[Settings, Rule]):
    """A step rule trained by Adam, an iteration at a time. All randomness is derived from the seed and the iteration.

    Args:
        settings: how it is trained.
        horizon: number of steps of a rollout.
        make: makes the rule; its weights depend on the seed alone.
        objectives: the objectives of an iteration, new ones for each.
        seed: of the weights and of all random choices.
        device: where all of it happens.
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
        """Whether the training has its length."""
        return self.iteration >= self.settings.iterations

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on."""
        states = {"rule": self.rule.state_dict(), "optimizer": self.optimizer.state_dict()}
        return {**states, "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.rule.load_state_dict(state["rule"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration = state["iteration"]
