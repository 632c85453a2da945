r"""Local models of a group of coordinates: linear-Gaussian dynamics of the state, and the quadratic cost of a step.

The coordinates of a group, over all rollouts, are samples of one time-varying system, so the group shares the fitted
model, including its offsets. At every step, the joint distribution of the model's inputs and outputs is Gaussian with a
normal-inverse-Wishart prior, and the model is a conditional of it. The prior is the distribution pooled over the steps
of the group, with the weight of `strength` samples: it matters little for a step with many samples (a weight matrix),
and connects one with few samples (a bias) to other steps.

The cost. The meta-loss, the sum of the objective after every step, is that of the current controller plus the expected
sum of advantages (the performance difference lemma, S. Kakade and J. Langford 2002). The advantage of an action a over
the controller's mean action is the effect of a displacement by their difference,

    v_s (a - K s - k) + 1/2 V_s (a - K s - k)^2,    v_s = g_{s+1} + p v_{s+1},    V_s = h_{s+1} + p^2 V_{s+1},

with gradients g and curvatures h after the step, and the persistence p < 1, because the controller undoes a part of a
displacement at each step. v is regressed on the state. It contains the gradients of the whole rollout, so the state
need not determine the iterate. If the cost of a step were f(x_{s+1}) - f(x_s) instead, the model would not know that a
gain now excludes the same gain later, and would predict tens of times the real gain.

Source: arXiv 1703.00441, section 3 (block-diagonal models, shared in a group); the prior as in S. Levine and P. Abbeel
2014, section 4, but pooled over time; the cost as an advantage is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from optrepro.metalearning.lto.lqg import Controller, Cost, Dynamics

RIDGE = 1e-6  # added to the diagonal of correlations, so that features that are always equal share a coefficient
Model = TypeVar("Model", Dynamics, Cost, Controller)


class Linear(NamedTuple):
    """Linear model y ~ N(W x + c, F): W (T, q, p), c (T, q), F (T, q, q)."""

    W: Tensor
    c: Tensor
    F: Tensor


def regress(x: Tensor, y: Tensor, strength: float) -> Linear:
    """Regress y on x at each step, in float64.

    Args:
        x: inputs (T, N, p); a constant input gets the coefficient 0.
        y: outputs (T, N, q).
        strength: weight of the normal-inverse-Wishart prior, in samples; 0 is least squares.
    """
    inputs = x.shape[-1]
    mean, covariance = _posterior(torch.cat([x, y], -1).double(), strength)
    of_x = covariance[..., :inputs, :inputs]
    scale = of_x.diagonal(dim1=-2, dim2=-1).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    ridge = RIDGE * torch.eye(inputs, dtype=scale.dtype, device=scale.device)
    correlation = of_x / scale[..., :, None] / scale[..., None, :] + ridge
    crossed = covariance[..., :inputs, inputs:] / scale[..., None]
    W = (torch.linalg.solve(correlation, crossed) / scale[..., None]).mT
    c = mean[..., inputs:] - (W @ mean[..., :inputs, None])[..., 0]
    F = covariance[..., inputs:, inputs:] - W @ covariance[..., :inputs, inputs:]
    return Linear(W, c, (F + F.mT) / 2)


def dynamics(states: Tensor, actions: Tensor, strength: float) -> Dynamics:
    """Fit the dynamics of a group to states (T + 1, N, n) and actions (T, N, m)."""
    n = states.shape[-1]
    model = regress(torch.cat([states[:-1], actions], -1), states[1:], strength)
    return Dynamics(A=model.W[..., :n], B=model.W[..., n:], c=model.c, F=model.F)


def controller(states: Tensor, actions: Tensor, strength: float) -> Controller:
    """Fit a linear-Gaussian controller to actions (T, N, m) in states (T, N, n)."""
    return Controller(*regress(states, actions, strength))


def advantage(
    states: Tensor, gradients: Tensor, curvature: Tensor, old: Controller, persistence: float, strength: float
) -> Cost:
    """Return the advantage over a controller's mean actions as a cost; its sum is the change of the meta-loss.

    Args:
        states: states visited under `old` with noise, (T, N, n).
        gradients: estimates of the true gradient after each step, (T, N); their errors must not depend on the states.
        curvature: h, (T,), positive, see `floored`.
        old: controller of one action.
        persistence: p in [0, 1], the share of a displacement that remains after one step.
        strength: weight of the prior in the regression on the state, in samples.
    """
    price, stiffness = (torch.empty_like(x, dtype=torch.float64) for x in (gradients, curvature))
    v, V = torch.zeros_like(price[0]), torch.zeros_like(stiffness[0])
    for t in reversed(range(len(price))):
        v = price[t] = gradients[t] + persistence * v
        V = stiffness[t] = curvature[t] + persistence**2 * V
    worth = regress(states, price[..., None], strength)
    w = torch.cat([worth.W[:, 0], torch.zeros_like(worth.c)], -1)
    move = torch.cat([-old.K[:, 0], torch.ones_like(old.k)], -1)  # a - K s - k = move z - k
    crossed = w[:, :, None] * move[:, None, :]
    C = crossed + crossed.mT + stiffness[:, None, None] * move[:, :, None] * move[:, None, :]
    d = worth.c * move - old.k * w - stiffness[:, None] * old.k * move
    h = (stiffness * old.k[:, 0] / 2 - worth.c[:, 0]) * old.k[:, 0]
    return Cost(C, d, h)


def floored(curvature: Tensor, share: float) -> Tensor:
    """Raise curvatures (T,) to at least a share of their mean absolute value, so that every step has a cost."""
    return curvature.clamp_min(max(share * float(curvature.abs().mean()), 1e-12))


def stack(models: Sequence[Model]) -> Model:
    """Stack the models of groups along a new first dimension."""
    kind = type(models[0])
    return kind(*(torch.stack([getattr(model, field.name) for model in models]) for field in fields(kind)))


def _posterior(samples: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return the most probable mean (T, p) and covariance (T, p, p) of samples (T, N, p)."""
    count, own = samples.shape[1], samples.mean(1)
    centred = samples - own[:, None]
    scatter = centred.mT @ centred
    pooled = own.mean(0)
    between = own - pooled
    spread = (scatter / count + between[:, :, None] * between[:, None, :]).mean(0)
    shrunk = count * strength / (count + strength)
    mean = (count * own + strength * pooled) / (count + strength)
    covariance = (strength * spread + scatter + shrunk * between[:, :, None] * between[:, None, :]) / (count + strength)
    return mean, covariance
