r"""Finite-horizon linear-quadratic-Gaussian control, batched over leading dimensions, in float64.

Dynamics :math:`s_{t+1} \sim N(A_t s_t + B_t a_t + c_t, F_t)`, cost :math:`\frac12 z_t' C_t z_t + d_t' z_t + h_t` of
state and action together, :math:`z_t = (s_t, a_t)`, and controllers :math:`\psi(a \mid s, t) = N(K_t s + k_t, G_t)`. A
batch has one system for each group of coordinates: the cost of a pass is linear in the horizon T, cubic in the n
features of a coordinate, and independent of the number of coordinates.

Shapes: the state has n features, the action m; there are T steps; all arguments have the same leading dimensions "...".

Source: Li and Malik 2017, arXiv 1703.00441, section 3; the maximum-entropy form is that of S. Levine and P. Abbeel
2014, Learning Neural Network Policies with Guided Policy Search under Unknown Dynamics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dynamics:
    """Dynamics s' ~ N(A s + B a + c, F): A (..., T, n, n), B (..., T, n, m), c (..., T, n), F (..., T, n, n)."""

    A: Tensor
    B: Tensor
    c: Tensor
    F: Tensor


@dataclass(frozen=True)
class Cost:
    """Cost z' C z / 2 + d' z + h of z = (s, a): symmetric C (..., T, n + m, n + m), d (..., T, n + m), h (..., T)."""

    C: Tensor
    d: Tensor
    h: Tensor

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.C + other.C, self.d + other.d, self.h + other.h)


@dataclass(frozen=True)
class Controller:
    """Controller a ~ N(K s + k, G): K (..., T, m, n), k (..., T, m), G (..., T, m, m)."""

    K: Tensor
    k: Tensor
    G: Tensor


@dataclass(frozen=True)
class Trajectory:
    """Distribution of z = (s, a) at every step: mean (..., T, n + m), covariance (..., T, n + m, n + m)."""

    mean: Tensor
    covariance: Tensor


@dataclass(frozen=True)
class Update:
    """The result of a constrained update, for each leading index.

    Attributes:
        controller: the new controller.
        multiplier: multiplier of the constraint, (...); if it is the smallest one tried, the constraint is inactive.
        kl: KL divergence from the old controller, (...), nats per step.
        iterations: number of iterations of the dual ascent.
    """

    controller: Controller
    multiplier: Tensor
    kl: Tensor
    iterations: int


def backward(dynamics: Dynamics, cost: Cost, temperature: Tensor) -> Controller:
    """Return the controller that minimizes sum_t E[cost_t] - temperature_t E[entropy of psi_t].

    Args:
        dynamics: dynamics of the state.
        cost: cost of states and actions.
        temperature: weight of the entropy, (..., T), not negative; 0 gives a deterministic controller (G = 0).

    Raises: ValueError if there is no minimum, because the second derivative of the cost-to-go by the action is not
    positive definite at some step. `constrained_update` then raises its multiplier.
    """
    controller, definite = _backward(dynamics, cost, temperature)
    if not definite.all():
        raise ValueError(
            "cost has no minimum under these dynamics, because Q_aa is not positive definite for batch indices "
            f"{(~definite).nonzero().tolist()}; add a weight on KL(psi || another controller)"
        )
    return controller


def forward(dynamics: Dynamics, controller: Controller, mean: Tensor, covariance: Tensor) -> Trajectory:
    """Return the distribution of states and actions, from s_0 ~ N(mean (..., n), covariance (..., n, n))."""
    means, covariances = [], []
    for A, B, c, F, K, k, G in zip(
        *(_steps(x, 2) for x in (dynamics.A, dynamics.B)),
        _steps(dynamics.c, 1),
        *(_steps(x, 2) for x in (dynamics.F, controller.K)),
        _steps(controller.k, 1),
        _steps(controller.G, 2),
        strict=True,
    ):
        of_both = K @ covariance
        upper = torch.cat([covariance, of_both.mT], -1)
        lower = torch.cat([of_both, of_both @ K.mT + G], -1)
        means.append(torch.cat([mean, _apply(K, mean) + k], -1))
        covariances.append(torch.cat([upper, lower], -2))
        W = torch.cat([A, B], -1)
        mean = _apply(W, means[-1]) + c
        covariance = _symmetric(W @ covariances[-1] @ W.mT + F)
    return Trajectory(torch.stack(means, -2), torch.stack(covariances, -3))


def expected_cost(cost: Cost, trajectory: Trajectory) -> Tensor:
    """Return E[z' C z / 2 + d' z + h] at every step, (..., T)."""
    z, second = trajectory.mean, trajectory.covariance
    quadratic = (cost.C * (second + z[..., :, None] * z[..., None, :])).sum((-2, -1))
    return quadratic / 2 + (cost.d * z).sum(-1) + cost.h


def divergence(controller: Controller, other: Controller, trajectory: Trajectory) -> Tensor:
    """Return E[KL(controller || other)] over the trajectory's states at every step, (..., T) nats."""
    n, m = controller.K.shape[-1], controller.K.shape[-2]
    mean, covariance = trajectory.mean[..., :n], trajectory.covariance[..., :n, :n]
    factor = torch.linalg.cholesky(other.G)
    gain = controller.K - other.K
    offset = _apply(gain, mean) + controller.k - other.k
    # Second moment of the action around other's mean; its trace with other.G^-1 is the quadratic part of the KL.
    moved = offset[..., :, None] * offset[..., None, :] + gain @ covariance @ gain.mT + controller.G
    distance = torch.cholesky_solve(moved, factor).diagonal(dim1=-2, dim2=-1).sum(-1)
    return (distance - m + _log_determinant(factor) - torch.logdet(controller.G)) / 2


def surprise(controller: Controller, weight: Tensor) -> Cost:
    """Return the cost weight_t * -log psi(a | s, t), with weight (..., T).

    If `weight` is also added to the temperature of `backward`, the total is the cost weight_t * KL(. || controller).
    """
    m = controller.K.shape[-2]
    factor = torch.linalg.cholesky(controller.G)
    eye = torch.eye(m, dtype=factor.dtype, device=factor.device).expand_as(controller.G)
    residual = torch.cat([-controller.K, eye], -1)  # a - K s - k = residual z - k
    weighted = torch.cholesky_solve(residual, factor)  # G^-1 residual
    precise = torch.cholesky_solve(controller.k[..., None], factor)[..., 0]
    constant = (controller.k * precise).sum(-1) + _log_determinant(factor) + m * math.log(2 * math.pi)
    return Cost(
        C=weight[..., None, None] * (residual.mT @ weighted),
        d=-weight[..., None] * _apply(residual.mT, precise),
        h=weight * constant / 2,
    )


def constrained_update(
    dynamics: Dynamics,
    cost: Cost,
    temperature: Tensor,
    old: Controller,
    mean: Tensor,
    covariance: Tensor,
    epsilon: Tensor,
    iterations: int = 40,
    tolerance: float = 0.05,
    multiplier: Tensor | None = None,
) -> Update:
    """Minimize sum_t E[cost_t] - temperature_t E[entropy], subject to mean_t E[KL(psi || old)] <= epsilon.

    This is a dual ascent on the multiplier of each leading index. The logarithm of the multiplier moves along
    log(KL / epsilon), with a step size that grows while the constraint stays on one side and shrinks when it changes.
    A bracket holds the largest multiplier that was too small and the smallest one that was large enough; a step out of
    the bracket halves it instead. A multiplier for which the cost has no minimum is too small. The result is the
    cheapest tried controller that meets the constraint.

    Args:
        dynamics, cost, temperature: as for `backward`.
        old: controller that the new one must stay close to.
        mean, covariance: mean (..., n) and covariance (..., n, n) of the first state.
        epsilon: limit of the KL, (...), nats per step, positive.
        iterations: largest number of passes; exceeded only while no tried multiplier is feasible.
        tolerance: relative tolerance; a KL of at least epsilon * (1 - tolerance) ends the search.
        multiplier: initial multiplier, (...); None is 1.

    Raises: ValueError if epsilon is not positive; RuntimeError if no multiplier up to 1e30 meets the constraint.
    """
    if not (epsilon > 0).all():
        raise ValueError(f"epsilon = {epsilon.tolist()} is not allowed; every entry must be positive")
    log_eta = (torch.ones_like(epsilon) if multiplier is None else multiplier).log()
    low, high = torch.full_like(epsilon, -math.inf), torch.full_like(epsilon, math.inf)
    rate, side = torch.full_like(epsilon, 0.5), torch.zeros_like(epsilon)  # KL is about proportional to eta^-2
    best, best_kl, best_eta = old, torch.zeros_like(epsilon), torch.full_like(epsilon, math.inf)
    for iteration in range(1, 4 * iterations + 1):
        proposal, kl = _penalized(dynamics, cost, temperature, old, mean, covariance, log_eta.exp())
        feasible = kl <= epsilon
        better = feasible & (log_eta < best_eta.log())
        best = _choose(better, proposal, best)
        best_kl, best_eta = torch.where(better, kl, best_kl), torch.where(better, log_eta.exp(), best_eta)
        high, low = torch.where(better, log_eta, high), torch.where(feasible, low, torch.maximum(low, log_eta))
        found = best_eta.isfinite()
        met = found & ((best_kl >= epsilon * (1 - tolerance)) | (high < math.log(1e-12)) | (high - low < 1e-3))
        if met.all() or (found.all() and iteration >= iterations):
            break
        ascent = (kl.clamp(1e-30, 1e30) / epsilon).log().clamp(-10, 10)
        rate = rate * torch.where(ascent.sign() * side < 0, 0.5, torch.where(side == 0, 1.0, 1.5))
        side, moved = ascent.sign(), log_eta + rate * ascent
        inside = (moved > low) & (moved < high)
        moved = torch.where(inside | low.isinf() | high.isinf(), moved, (low + high) / 2)
        log_eta = torch.where(met, log_eta, moved)  # finished systems stay, so batching changes nothing
        if log_eta.max() > math.log(1e30):
            break
    if not best_eta.isfinite().all():
        raise RuntimeError("no multiplier up to 1e30 keeps KL(psi || old) within epsilon; the models may not be finite")
    return Update(best, best_eta, best_kl, iteration)


def _penalized(
    dynamics: Dynamics,
    cost: Cost,
    temperature: Tensor,
    old: Controller,
    mean: Tensor,
    covariance: Tensor,
    eta: Tensor,
) -> tuple[Controller, Tensor]:
    """Return the minimum of cost + eta * KL(psi || old), and its mean KL (...), infinite if there is no minimum."""
    weight = eta[..., None].expand_as(temperature)
    controller, definite = _backward(dynamics, cost + surprise(old, weight), temperature + weight)
    controller = _choose(definite, controller, old)
    trajectory = forward(dynamics, controller, mean, covariance)
    kl = divergence(controller, old, trajectory).mean(-1)
    return controller, torch.where(definite & kl.isfinite(), kl, math.inf)


def _backward(dynamics: Dynamics, cost: Cost, temperature: Tensor) -> tuple[Controller, Tensor]:
    """Return the controller of `backward`, and for which leading indices (...) it is a minimum."""
    n = dynamics.A.shape[-1]
    V, v = torch.zeros_like(dynamics.A[..., 0, :, :]), torch.zeros_like(dynamics.c[..., 0, :])
    definite = torch.ones(V.shape[:-2], dtype=torch.bool, device=V.device)
    gains, offsets, spreads = [], [], []
    W_all = torch.cat([dynamics.A, dynamics.B], -1)
    for t in reversed(range(W_all.shape[-3])):
        W, c = W_all[..., t, :, :], dynamics.c[..., t, :]
        Q = _symmetric(cost.C[..., t, :, :] + W.mT @ V @ W)
        q = cost.d[..., t, :] + _apply(W.mT, _apply(V, c) + v)
        factor, failed = torch.linalg.cholesky_ex(Q[..., n:, n:])
        definite = definite & (failed == 0)
        inverse = torch.cholesky_inverse(factor)
        K = -inverse @ Q[..., n:, :n]
        k = -_apply(inverse, q[..., n:])
        V = _symmetric(Q[..., :n, :n] + Q[..., :n, n:] @ K)
        v = q[..., :n] + _apply(Q[..., :n, n:], k)
        gains.append(K)
        offsets.append(k)
        spreads.append(temperature[..., t, None, None] * inverse)
    stacked = (torch.stack(x[::-1], dim) for x, dim in ((gains, -3), (offsets, -2), (spreads, -3)))
    return Controller(*stacked), definite


def _choose(condition: Tensor, one: Controller, other: Controller) -> Controller:
    """Select one of two controllers for each leading index."""
    where = condition[..., None, None, None]
    return Controller(
        torch.where(where, one.K, other.K),
        torch.where(where[..., 0], one.k, other.k),
        torch.where(where, one.G, other.G),
    )


def _steps(x: Tensor, event: int) -> tuple[Tensor, ...]:
    """Split a tensor into steps; `event` dimensions follow that of time."""
    return x.unbind(-1 - event)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Multiply matrices (..., p, q) with vectors (..., q)."""
    return (matrix @ vector[..., None])[..., 0]


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.mT) / 2


def _log_determinant(factor: Tensor) -> Tensor:
    """Return the log determinant of the matrix with this Cholesky factor."""
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
