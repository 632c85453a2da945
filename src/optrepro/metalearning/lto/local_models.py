r"""Local models of a group of coordinates: linear-Gaussian dynamics of the state, and the quadratic cost of a step.

The coordinates of a group, over all rollouts, are samples of one time-varying system, so that what is fitted is shared
in the group, offsets too. At every step the joint distribution of the numbers at hand is Gaussian with a
normal-inverse-Wishart prior, and a model is a conditional of it. The prior is what is pooled over the steps of the
group, and counts as much as `strength` samples: a step with many samples (a weight matrix) speaks for itself, one with
few (a bias) leans on its neighbours in time.

The cost. The meta-loss, the sum of the objective after every step, is that of the controller at hand plus the expected
sum of its advantages (the performance difference lemma, S. Kakade and J. Langford 2002). The advantage of an action
over the controller's mean one is what it is worth to be displaced by their difference,

    v_s (a - K s - k) + 1/2 V_s (a - K s - k)^2,    v_s = g_{s+1} + p v_{s+1},    V_s = h_{s+1} + p^2 V_{s+1},

with gradients g and curvatures h after the step, and the persistence p: the controller undoes a part of a displacement
at each step. v is regressed on the state. Every coordinate's gradient along the rollout is in it, so a state that does
not tell the iterate is enough: with f(x_{s+1}) - f(x_s) as the cost of a step, the model does not know that what is
gained now cannot be gained later, and predicts tens of times what comes true.

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

RIDGE = 1e-6  # on the diagonal of correlations: features that are always equal share a coefficient
Model = TypeVar("Model", Dynamics, Cost, Controller)


class Linear(NamedTuple):
    """y ~ N(W x + c, F): W (T, q, p), c (T, q), F (T, q, q)."""

    W: Tensor
    c: Tensor
    F: Tensor


def regress(x: Tensor, y: Tensor, strength: float) -> Linear:
    """Of y (T, N, q) on x (T, N, p), for each step, in float64.

    Args:
        x: what is known. A number that never varies gets the coefficient 0.
        y: what is predicted.
        strength: of the normal-inverse-Wishart prior, in samples; 0 is least squares.
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
    """Of the states (T + 1, N, n) of a group under actions (T, N, m)."""
    n = states.shape[-1]
    model = regress(torch.cat([states[:-1], actions], -1), states[1:], strength)
    return Dynamics(A=model.W[..., :n], B=model.W[..., n:], c=model.c, F=model.F)


def controller(states: Tensor, actions: Tensor, strength: float) -> Controller:
    """The linear-Gaussian controller nearest to actions (T, N, m) in states (T, N, n)."""
    return Controller(*regress(states, actions, strength))


def advantage(
    states: Tensor, gradients: Tensor, curvature: Tensor, old: Controller, persistence: float, strength: float
) -> Cost:
    """Of actions over the mean ones of a controller, as a cost of state and action; its sum is the change of meta-loss.

    Args:
        states: met under `old` with noise, (T, N, n).
        gradients: estimates of the true gradient after each step, (T, N), whose errors do not depend on the states.
        curvature: h, (T,), positive: `floored`.
        old: the controller, of one action.
        persistence: p in [0, 1], what is left of a displacement after one step.
        strength: of the prior for the regression on the state.
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
    """Curvatures (T,), none below a share of their mean size: a step has to have a price."""
    return curvature.clamp_min(max(share * float(curvature.abs().mean()), 1e-12))


def stack(models: Sequence[Model]) -> Model:
    """Models of single groups as a batch, the groups in front."""
    kind = type(models[0])
    return kind(*(torch.stack([getattr(model, field.name) for model in models]) for field in fields(kind)))


def _posterior(samples: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Most probable mean (T, p) and covariance (T, p, p) of samples (T, N, p)."""
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
