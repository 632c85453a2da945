"""Optimization as a decision process: problems in a box, a policy that steps on them, and a reward for progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optrepro.optimizers._pop_policy import Policy, PolicySettings, Trajectory

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
ENTROPY = 0.5 * (1 + math.log(2 * math.pi))  # of the standard normal distribution, in nats


class Problems(Protocol):
    """A batch of functions on the unit box, as `optrepro.problems.functions.synthetic.Functions`."""

    def value_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (n, p) and gradients (n, p, d) at points (n, p, d)."""
        ...


@dataclass(frozen=True)
class Rollout:
    """N runs of T evaluations in D coordinates; the first T - 1 evaluations are followed by an action.

    Attributes:
        values: (T, N) float64.
        points: box coordinates (T, N, D) float64.
        features: (N, D, T, FEATURES), or None where they were not kept.
        actions, log_probs: (N, D, T); None likewise. Where a policy chooses two numbers, actions are (N, D, T, 2).
        rates: learning rates that were taken, (T, N, D).
    """

    values: Tensor
    points: Tensor
    rates: Tensor
    features: Tensor | None
    actions: Tensor | None
    log_probs: Tensor | None


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
    """Let the policy take `budget` evaluations from `start` (N, D).

    Args:
        policy: decides.
        evaluate: box coordinates (N, D) to values (N,) and gradients (N, D).
        start: box coordinates.
        budget: evaluations of value and gradient.
        valid: coordinates that exist.
        noise: draws the actions, and has everything kept that training needs; None acts as an optimization does.
        horizon: what the policy is told of the budget; None: the one that it was trained for.

    Raises: ValueError for noise where some coordinates do not exist.
    """
    trajectory = Trajectory(policy.settings, start, valid, horizon=horizon)
    chosen = torch.ones_like(start, dtype=torch.bool) if valid is None else valid.bool()
    every = bool(chosen.all())
    if noise is not None and not every:
        raise ValueError("valid = False for some coordinates is not allowed with noise: training has no padding.")
    rows = start.numel() if every else int(chosen.sum())
    memory = policy.begin(rows)
    numbers = torch.arange(start.shape[1], device=start.device).expand_as(start)[chosen]
    values, points, rates, kept = [], [], [], []
    for time in range(budget):
        value, gradient = evaluate(trajectory.u)
        values.append(value)
        points.append(trajectory.u)
        features = trajectory.observe(value, gradient)
        flat = features.flatten(0, 1) if every else features[chosen]
        if noise is None:
            action = policy.act(flat, memory, time, numbers)
        else:
            mean, log_std = policy.step(flat, memory, time)
            draw = torch.randn(mean.shape, generator=noise).to(mean)
            action = mean + log_std.exp() * draw
            probability = joint(log_prob(action, mean, log_std), policy.settings)
            kept.append((features, action.view(*start.shape, *action.shape[1:]), probability.view_as(start)))
        trajectory.move(_placed(action.to(start), chosen, every))
        rates.append(trajectory.rate)
    stacked = [torch.stack(parts, 2) for parts in zip(*kept, strict=True)] if kept else [None] * 3
    return Rollout(torch.stack(values), torch.stack(points), torch.stack(rates), *stacked)


def log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log density of a normal distribution, up to the constant that no ratio sees."""
    return -((action - mean) / log_std.exp()).square() / 2 - log_std


def joint(each: Tensor, settings: PolicySettings) -> Tensor:
    """Log density, or entropy, of all that the policy chooses for a coordinate at a time, from those of each number."""
    return each if settings.outputs == 1 else each.sum(-1)


def _placed(action: Tensor, chosen: Tensor, every: bool) -> Tensor:
    """Actions of the coordinates that exist, (rows, ...), where they belong, (N, D, ...)."""
    if every:
        return action.view(*chosen.shape, *action.shape[1:])
    placed = action.new_zeros(*chosen.shape, *action.shape[1:])
    placed[chosen] = action
    return placed


def of(functions: Problems) -> Evaluate:
    """Evaluate one point on each function of a batch."""

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = functions.value_and_gradient(u[:, None])
        return value[:, 0], gradient[:, 0]

    return evaluate
