"""Optimization as a decision process: a policy chooses the steps on problems in a box."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optrepro.optimizers._pop_policy import Policy, PolicySettings, Trajectory

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
ENTROPY = 0.5 * (1 + math.log(2 * math.pi))  # entropy of the standard normal distribution, in nats


class Problems(Protocol):
    """A batch of functions on the unit box, such as `optrepro.problems.functions.synthetic.Functions`."""

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, p) and gradients (n, p, d) at points (n, p, d)."""
        ...


@dataclass(frozen=True)
class Rollout:
    """N runs of T evaluations in D coordinates; only the first T - 1 actions lead to another evaluation.

    Attributes:
        values: value of each evaluation, (T, N) float64.
        points: point of each evaluation in box coordinates, (T, N, D) float64.
        rates: learning rates that the policy chose, (T, N, D); 0 for coordinates that do not exist.
        features: inputs of the policy, (N, D, T, FEATURES); None if they were not kept.
        actions, log_probs: actions (N, D, T), or (N, D, T, 2) for a policy with two outputs, and the log densities of
            the actions, (N, D, T); None if they were not kept.
    """

    values: Tensor
    points: Tensor
    rates: Tensor
    features: Tensor | None
    actions: Tensor | None
    log_probs: Tensor | None


class Descent:
    """A batch of N optimizations in boxes of at most D coordinates; nothing is computed for padding.

    Args:
        settings: settings of the policy.
        start: starting points (N, D) in box coordinates.
        valid: which coordinates exist, (N, D) bool; None: all of them.
        horizon: budget that the policy gets as input; None: the one of its training.

    Attributes:
        u: current points (N, D).
        padded: whether some coordinates do not exist.
        numbers: number of each existing coordinate in its problem, (rows,).
    """

    def __init__(
        self, settings: PolicySettings, start: Tensor, valid: Tensor | None = None, horizon: int | None = None
    ):
        self.u = start
        self._valid = torch.ones_like(start, dtype=torch.bool) if valid is None else valid.bool()
        self._problems, self.numbers = self._valid.nonzero(as_tuple=True)
        self.padded = len(self.numbers) < start.numel()
        # With padding, each coordinate is a problem of its own whose sums are those of the problem that it belongs to.
        start, sums = (start[self._valid][:, None], self._sums) if self.padded else (start, None)
        self._trajectory = Trajectory(settings, start, sums=sums, horizon=horizon)

    def observe(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Add values (N,) and gradients (N, D) at `u`; return features of those that exist, (rows, FEATURES)."""
        if self.padded:
            value, gradient = value[self._problems], gradient[self._valid][:, None]
        return self._trajectory.observe(value, gradient).flatten(0, 1)

    def move(self, action: Tensor) -> None:
        """Take a step with the actions of existing coordinates, (rows,) or (rows, 2)."""
        self._trajectory.move(action.view(*self._trajectory.u.shape, *action.shape[1:]))
        self.u = self._placed(self._trajectory.u, self.u)

    @property
    def rate(self) -> Tensor:
        """Learning rates of the last step, (N, D); 0 for padding."""
        return self._placed(self._trajectory.rate, torch.zeros_like(self.u))

    def _placed(self, existing: Tensor, padding: Tensor) -> Tensor:
        return padding.masked_scatter(self._valid, existing) if self.padded else existing

    def _sums(self, columns: Sequence[Tensor]) -> list[Tensor]:
        padded = self.u.new_zeros(len(columns), *self.u.shape)
        padded[:, self._problems, self.numbers] = torch.cat(list(columns), 1).T
        return list(padded.sum(-1)[:, self._problems, None])


@torch.no_grad()
def roll_out(
    policy: Policy,
    evaluate: Evaluate,
    start: Tensor,
    budget: int,
    valid: Tensor | None = None,
    noise: torch.Generator | None = None,
    horizon: int | None = None,
) -> Rollout:
    """Run the policy for `budget` evaluations.

    Args:
        policy: policy that chooses the steps.
        evaluate: maps box coordinates (N, D) to values (N,) and gradients (N, D).
        start: starting points (N, D) in box coordinates.
        budget: number of evaluations.
        valid: which coordinates exist, (N, D) bool; None: all of them.
        noise: generator for random actions; everything that training needs is then kept. None takes mean actions.
        horizon: budget that the policy gets as input; None: the one of its training.

    Raises: ValueError for noise if some coordinates do not exist.
    """
    descent = Descent(policy.settings, start, valid, horizon)
    if noise is not None and descent.padded:
        raise ValueError("valid = False is not allowed together with noise, because training has no padding")
    memory = policy.begin(len(descent.numbers))
    values, points, rates, kept = [], [], [], []
    for time in range(budget):
        point = descent.u.clone()  # an ordinary tensor, which `evaluate` may differentiate by
        value, gradient = evaluate(point)
        values.append(value)
        points.append(point)
        with torch.inference_mode():  # saves a tenth of what many small operations cost without gradients
            features = descent.observe(value, gradient)
            if noise is None:
                action = policy.act(features, memory, time, descent.numbers)
            else:
                mean, log_std = policy.step(features, memory, time)
                draw = torch.randn(mean.shape, generator=noise).to(mean)
                action = mean + log_std.exp() * draw
                probability = joint(log_prob(action, mean, log_std), policy.settings)
                whole = (part.view(*start.shape, *part.shape[1:]) for part in (features, action, probability))
                kept.append(tuple(whole))
            descent.move(action.to(start))
            rates.append(descent.rate)
    stacked = [torch.stack(parts, 2) for parts in zip(*kept, strict=True)] if kept else [None] * 3
    return Rollout(torch.stack(values), torch.stack(points), torch.stack(rates), *stacked)


def log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return the log density of a normal distribution, up to a constant that cancels in ratios."""
    return -((action - mean) / log_std.exp()).square() / 2 - log_std


def joint(each: Tensor, settings: PolicySettings) -> Tensor:
    """Sum log densities, or entropies, over the outputs of the policy for one coordinate and time."""
    return each if settings.outputs == 1 else each.sum(-1)


def of(functions: Problems) -> Evaluate:
    """Return a function that evaluates one point on each function of a batch."""

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = functions.value_and_gradient(u[:, None])
        return value[:, 0], gradient[:, 0]

    return evaluate
