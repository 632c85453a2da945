"""LQG against scipy, Monte Carlo, torch.distributions and random perturbations."""

import itertools
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from optrepro.metalearning.lto import lqg
from optrepro.metalearning.lto.lqg import Controller, Cost, Dynamics

STEPS, N, M = 6, 3, 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def definite(source: torch.Generator, *batch: int, size: int) -> Tensor:
    root = normal(source, *batch, size, size)
    return root @ root.mT / size + 0.3 * torch.eye(size, dtype=torch.float64)


def system(*batch: int, seed: int = 0) -> tuple[Dynamics, Cost]:
    """A random time-varying system with a strictly convex cost that has linear terms."""
    source = generator(seed)
    time = (*batch, STEPS)
    dynamics = Dynamics(
        A=0.5 * normal(source, *time, N, N),
        B=normal(source, *time, N, M),
        c=normal(source, *time, N),
        F=0.1 * definite(source, *time, size=N),
    )
    cost = Cost(definite(source, *time, size=N + M), normal(source, *time, N + M), normal(source, *time))
    return dynamics, cost


def controller(*batch: int, seed: int = 1) -> Controller:
    source = generator(seed)
    time = (*batch, STEPS)
    return Controller(
        K=0.3 * normal(source, *time, M, N), k=normal(source, *time, M), G=definite(source, *time, size=M)
    )


def first(*batch: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    source = generator(seed)
    return normal(source, *batch, N), definite(source, *batch, size=N)


def pick(thing: Any, index: int) -> Any:
    return type(thing)(**{f.name: getattr(thing, f.name)[index] for f in fields(thing)})


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


def total(dynamics: Dynamics, cost: Cost, temperature: Tensor, psi: Controller) -> Tensor:
    """What `backward` minimizes."""
    expected = lqg.expected_cost(cost, lqg.forward(dynamics, psi, *first()))
    entropy = MultivariateNormal(psi.k, psi.G).entropy() if temperature.any() else zeros(STEPS)
    return (expected - temperature * entropy).sum()


# Backward pass


def invariant(steps: int) -> tuple[Dynamics, Cost, list[np.ndarray]]:
    source = generator(3)
    A, B = 0.6 * normal(source, N, N), normal(source, N, M)
    Q, R = definite(source, size=N), definite(source, size=M)
    C = torch.block_diag(Q, R)
    dynamics = Dynamics(A.expand(steps, N, N), B.expand(steps, N, M), zeros(steps, N), zeros(steps, N, N))
    cost = Cost(C.expand(steps, N + M, N + M), zeros(steps, N + M), zeros(steps))
    return dynamics, cost, [x.numpy() for x in (A, B, Q, R)]


def test_far_from_the_horizon_the_gains_are_those_of_the_algebraic_riccati_equation():
    dynamics, cost, (A, B, Q, R) = invariant(200)
    P = scipy.linalg.solve_discrete_are(A, B, Q, R)
    expected = -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
    np.testing.assert_allclose(lqg.backward(dynamics, cost, zeros(200)).K[0], expected, rtol=1e-9, atol=1e-12)


def test_near_the_horizon_the_gains_are_those_of_the_riccati_recursion():
    dynamics, cost, (A, B, Q, R) = invariant(5)
    P, expected = np.zeros((N, N)), []
    for _ in range(5):
        K = -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        P = Q + A.T @ P @ (A + B @ K)
        expected.append(K)
    np.testing.assert_allclose(lqg.backward(dynamics, cost, zeros(5)).K, expected[::-1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_no_perturbation_of_gains_offsets_or_spread_is_cheaper(temperature):
    dynamics, cost = system()
    heat = torch.linspace(0.5, 1.5, STEPS, dtype=torch.float64) * temperature
    best = lqg.backward(dynamics, cost, heat)
    least, source = total(dynamics, cost, heat, best), generator(4)
    for size in (1e-3, 1e-1):
        for _ in range(20):
            K, k = normal(source, STEPS, M, N), normal(source, STEPS, M)
            changed = Controller(best.K + size * K, best.k + size * k, best.G * math.exp(size))
            assert total(dynamics, cost, heat, changed) > least
            assert total(dynamics, cost, heat, replace(best, k=best.k + size * k)) > least
            assert total(dynamics, cost, heat, replace(best, K=best.K + size * K)) > least
    if temperature:
        assert total(dynamics, cost, heat, replace(best, G=0.99 * best.G)) > least


def test_without_temperature_the_controller_is_deterministic():
    assert not lqg.backward(*system(), zeros(STEPS)).G.any()


def test_a_cost_without_minimum_is_refused_and_its_batch_index_named():
    dynamics, cost = system(2)
    C = cost.C.clone()
    C[1, 3, N:, N:] = -100 * torch.eye(M)
    with pytest.raises(ValueError, match=r"not positive definite for batch indices \[\[1\]\]"):
        lqg.backward(dynamics, replace(cost, C=C), zeros(2, STEPS))


def test_a_heavy_weight_on_the_divergence_gives_back_the_other_controller():
    dynamics, cost = system()
    other, weight = controller(), torch.full((STEPS,), 1e9, dtype=torch.float64)
    psi = lqg.backward(dynamics, cost + lqg.surprise(other, weight), weight)
    for name in ("K", "k", "G"):
        torch.testing.assert_close(getattr(psi, name), getattr(other, name), rtol=1e-5, atol=1e-6)


# Forward pass and expectations


def sample(dynamics: Dynamics, psi: Controller, count: int) -> Tensor:
    """States and actions (T, count, n + m), drawn step by step."""
    source = generator(5)
    mean, covariance = first()
    s = mean + normal(source, count, N) @ torch.linalg.cholesky(covariance).mT
    drawn = []
    for t in range(STEPS):
        a = s @ psi.K[t].mT + psi.k[t] + normal(source, count, M) @ torch.linalg.cholesky(psi.G[t]).mT
        drawn.append(torch.cat([s, a], -1))
        noise = normal(source, count, N) @ torch.linalg.cholesky(dynamics.F[t]).mT
        s = s @ dynamics.A[t].mT + a @ dynamics.B[t].mT + dynamics.c[t] + noise
    return torch.stack(drawn)


def test_means_covariances_and_cost_are_those_of_simulated_trajectories():
    dynamics, cost = system()
    psi, count = controller(), 200_000
    trajectory = lqg.forward(dynamics, psi, *first())
    z = sample(dynamics, psi, count)
    error = trajectory.covariance.diagonal(dim1=-2, dim2=-1).sqrt() / math.sqrt(count)
    assert ((z.mean(1) - trajectory.mean).abs() < 5 * error).all()
    simulated = torch.stack([step.T.cov() for step in z])
    scale = (error[..., :, None] * error[..., None, :]).sqrt() * trajectory.covariance.diagonal(
        dim1=-2, dim2=-1
    ).amax() ** 0.5
    assert ((simulated - trajectory.covariance).abs() < 8 * scale).all()
    costs = torch.einsum("tbi,tij,tbj->tb", z, cost.C, z) / 2 + torch.einsum("tbi,ti->tb", z, cost.d) + cost.h[:, None]
    standard_error = costs.std(1) / math.sqrt(count)
    assert ((costs.mean(1) - lqg.expected_cost(cost, trajectory)).abs() < 5 * standard_error).all()


def test_the_divergence_in_a_state_that_is_known_is_that_of_torch():
    dynamics, _ = system()
    dynamics = replace(dynamics, F=zeros(STEPS, N, N))
    psi, other = controller(seed=6), controller(seed=7)
    # Without noise in actions and dynamics the states are points.
    mean, _ = first()
    points = lqg.forward(dynamics, replace(psi, G=zeros(STEPS, M, M)), mean, zeros(N, N))
    s = points.mean[:, :N, None]
    expected = kl_divergence(
        MultivariateNormal((psi.K @ s)[..., 0] + psi.k, psi.G),
        MultivariateNormal((other.K @ s)[..., 0] + other.k, other.G),
    )
    torch.testing.assert_close(lqg.divergence(psi, other, points), expected)


def test_the_divergence_under_uncertain_states_is_the_mean_over_sampled_states():
    dynamics, _ = system()
    psi, other = controller(seed=6), controller(seed=7)
    s = sample(dynamics, psi, 20_000)[..., :N]
    mean, mean_other = (torch.einsum("tij,tbj->tbi", of.K, s) + of.k[:, None] for of in (psi, other))
    simulated = kl_divergence(
        MultivariateNormal(mean, psi.G[:, None]), MultivariateNormal(mean_other, other.G[:, None])
    )
    expected = lqg.divergence(psi, other, lqg.forward(dynamics, psi, *first()))
    assert ((simulated.mean(1) - expected).abs() < 5 * simulated.std(1) / math.sqrt(20_000)).all()


def test_the_surprise_is_the_weighted_negative_log_density():
    psi, weight = controller(), torch.linspace(0.1, 2, STEPS, dtype=torch.float64)
    cost, z = lqg.surprise(psi, weight), normal(generator(8), STEPS, N + M)
    value = torch.einsum("ti,tij,tj->t", z, cost.C, z) / 2 + (cost.d * z).sum(-1) + cost.h
    density = MultivariateNormal((psi.K @ z[:, :N, None])[..., 0] + psi.k, psi.G).log_prob(z[:, N:])
    torch.testing.assert_close(value, -weight * density)


# Constrained update


@pytest.mark.parametrize("epsilon", [1e-4, 0.1, 2.0])
def test_the_constraint_is_met_and_used_up(epsilon):
    dynamics, cost = system(4)
    limit = torch.full((4,), epsilon, dtype=torch.float64)
    update = lqg.constrained_update(dynamics, cost, zeros(4, STEPS), controller(4), *first(4), limit)
    assert (update.kl <= limit).all()
    assert (update.kl >= 0.95 * limit).all()
    trajectory = lqg.forward(dynamics, update.controller, *first(4))
    kl = lqg.divergence(update.controller, controller(4), trajectory).mean(-1)
    torch.testing.assert_close(kl, update.kl)


def test_a_wider_limit_is_never_dearer_and_all_are_cheaper_than_the_old_controller():
    dynamics, cost = system()
    heat, old = torch.full((STEPS,), 1e-3, dtype=torch.float64), controller()
    costs = [total(dynamics, cost, heat, old)]
    for epsilon in (0.01, 0.1, 1.0, 10.0):
        limit = torch.tensor(epsilon, dtype=torch.float64)
        update = lqg.constrained_update(dynamics, cost, heat, old, *first(), limit)
        costs.append(total(dynamics, cost, heat, update.controller))
    assert all(later < earlier for earlier, later in itertools.pairwise(costs))


def test_a_limit_that_does_not_bind_gives_the_unconstrained_minimum():
    dynamics, cost = system()
    heat = torch.full((STEPS,), 0.5, dtype=torch.float64)
    limit = torch.tensor(1e6, dtype=torch.float64)
    update = lqg.constrained_update(dynamics, cost, heat, controller(), *first(), limit)
    torch.testing.assert_close(update.controller.K, lqg.backward(dynamics, cost, heat).K, rtol=1e-4, atol=1e-6)


def test_a_cost_without_minimum_is_bounded_by_the_constraint():
    dynamics, cost = system()
    cost = replace(cost, C=cost.C - 3 * torch.eye(N + M, dtype=torch.float64))
    limit = torch.tensor(0.05, dtype=torch.float64)
    update = lqg.constrained_update(dynamics, cost, zeros(STEPS), controller(), *first(), limit)
    assert 0.9 * limit <= update.kl <= limit


def test_a_limit_that_is_not_positive_is_refused():
    dynamics, cost = system()
    with pytest.raises(ValueError, match=r"epsilon = 0\.0"):
        lqg.constrained_update(dynamics, cost, zeros(STEPS), controller(), *first(), zeros())


# Batches


def test_a_batch_equals_its_systems_one_by_one():
    dynamics, cost = system(3)
    heat, limit = torch.full((3, STEPS), 0.1, dtype=torch.float64), torch.tensor([0.01, 0.2, 5.0], dtype=torch.float64)
    both = lqg.constrained_update(dynamics, cost, heat, controller(3), *first(3), limit)
    for i in range(3):
        old, start = pick(controller(3), i), [x[i] for x in first(3)]
        alone = lqg.constrained_update(pick(dynamics, i), pick(cost, i), heat[i], old, *start, limit[i])
        torch.testing.assert_close(both.multiplier[i], alone.multiplier)
        for name in ("K", "k", "G"):
            torch.testing.assert_close(getattr(both.controller, name)[i], getattr(alone.controller, name))
