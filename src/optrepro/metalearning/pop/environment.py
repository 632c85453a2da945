"""Optimization as a decision process: a policy chooses the steps on problems in a box."""

from __future__ import annotations

import math
from collections.abc import Callable
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
        rates: learning rates that the policy chose, (T, N, D).
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
    trajectory = Trajectory(policy.settings, start, valid, horizon=horizon)
    chosen = torch.ones_like(start, dtype=torch.bool) if valid is None else valid.bool()
    every = bool(chosen.all())
    if noise is not None and not every:
        raise ValueError("valid = False is not allowed together with noise, because training has no padding")
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
    """Return the log density of a normal distribution, up to a constant that cancels in ratios."""
    return -((action - mean) / log_std.exp()).square() / 2 - log_std


def joint(each: Tensor, settings: PolicySettings) -> Tensor:
    """Sum log densities, or entropies, over the outputs of the policy for one coordinate and time."""
    return each if settings.outputs == 1 else each.sum(-1)


def _placed(action: Tensor, chosen: Tensor, every: bool) -> Tensor:
    """Put the actions of existing coordinates, (rows, ...), in their places, (N, D, ...)."""
    if every:
        return action.view(*chosen.shape, *action.shape[1:])
    placed = action.new_zeros(*chosen.shape, *action.shape[1:])
    placed[chosen] = action
    return placed


def of(functions: Problems) -> Evaluate:
    """Return a function that evaluates one point on each function of a batch."""

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = functions.value_and_gradient(u[:, None])
        return value[:, 0], gradient[:, 0]

    return evaluate
