"""Local models: what generated the data is recovered, and the prior does what a prior does."""

import math

import pytest
import torch
from torch import Tensor

from optrepro.metalearning.lto import local_models, lqg
from optrepro.metalearning.lto.lqg import Controller, Dynamics

STEPS, N = 8, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=source, dtype=torch.float64)


def truth(seed: int = 0) -> tuple[Dynamics, Controller]:
    source = generator(seed)
    noise = 0.1 * torch.eye(N, dtype=torch.float64).expand(STEPS, N, N)
    dynamics = Dynamics(
        0.4 * normal(source, STEPS, N, N), normal(source, STEPS, N, 1), normal(source, STEPS, N), noise**2
    )
    psi = Controller(
        0.3 * normal(source, STEPS, 1, N), normal(source, STEPS, 1), torch.full((STEPS, 1, 1), 0.25).double()
    )
    return dynamics, psi


def simulated(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """States (T + 1, count, n) and actions (T, count, 1) of the true system."""
    (dynamics, psi), source = truth(), generator(seed)
    states, actions = [normal(source, count, N)], []
    for t in range(STEPS):
        actions.append(states[-1] @ psi.K[t].mT + psi.k[t] + 0.5 * normal(source, count, 1))
        mean = states[-1] @ dynamics.A[t].mT + actions[-1] @ dynamics.B[t].mT + dynamics.c[t]
        states.append(mean + 0.1 * normal(source, count, N))
    return torch.stack(states), torch.stack(actions)


@pytest.mark.parametrize("strength", [0.0, 20.0])
def test_dynamics_are_recovered_from_many_samples(strength):
    expected, found = truth()[0], local_models.dynamics(*simulated(50_000), strength)
    for name in ("A", "B", "c", "F"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=0.05, rtol=0)


def test_a_controller_is_recovered_from_its_actions():
    states, actions = simulated(50_000)
    expected, found = truth()[1], local_models.controller(states[:-1], actions, 0.0)
    for name in ("K", "k", "G"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=0.05, rtol=0)


def test_without_prior_pooled_samples_are_stacked_least_squares():
    states, actions = simulated(50)
    found = local_models.dynamics(states, actions, 0.0)
    for t in range(STEPS):
        design = torch.cat([states[t], actions[t], torch.ones(50, 1)], -1)
        solution = torch.linalg.lstsq(design, states[t + 1]).solution
        together = torch.cat([found.A[t], found.B[t], found.c[t, :, None]], -1).mT
        torch.testing.assert_close(together, solution, rtol=1e-4, atol=1e-4)


def test_a_heavy_prior_gives_the_same_model_at_all_steps_and_a_light_one_does_not():
    heavy, light = (local_models.dynamics(*simulated(50), strength) for strength in (1e9, 1e-3))
    torch.testing.assert_close(heavy.A, heavy.A[:1].expand_as(heavy.A), rtol=1e-4, atol=1e-4)
    assert (light.A - light.A[:1]).abs().max() > 0.1


def test_the_prior_weighs_more_where_samples_are_few():
    heavy = local_models.dynamics(*simulated(1000), 1e9).A
    few, many = (local_models.dynamics(*simulated(count), 50.0).A for count in (10, 1000))
    assert (few - heavy).norm() < (many - heavy).norm()


def test_covariances_are_positive_definite_with_fewer_samples_than_features():
    found = local_models.dynamics(*simulated(3), 5.0)
    assert (torch.linalg.eigvalsh(found.F) > 0).all()
    assert found.A.isfinite().all()


def test_a_feature_that_never_varies_has_no_weight_and_breaks_nothing():
    states, actions = simulated(200)
    constant = torch.cat([states, torch.zeros(STEPS + 1, 200, 1)], -1)
    found, without = local_models.dynamics(constant, actions, 5.0), local_models.dynamics(states, actions, 5.0)
    assert (found.A[..., N] == 0).all()
    torch.testing.assert_close(found.A[:, :N, :N], without.A)


H = 1.7


def quadratic_descent(count: int, gain: float, noise: float) -> tuple[Tensor, Tensor, Controller]:
    """Iterates (T + 1, count) and actions (T, count) on H/2 x^2 under a = -gain x + noise, and this controller."""
    source = generator(2)
    x, actions = [1 + normal(source, count)], []
    for _ in range(STEPS):
        actions.append(-gain * x[-1] + noise * normal(source, count))
        x.append(x[-1] + actions[-1])
    one = torch.ones(STEPS, 1, 1, dtype=torch.float64)
    return torch.stack(x), torch.stack(actions), Controller(-gain * one, 0 * one[..., 0], noise**2 * one)


def test_the_expected_advantage_of_another_controller_is_the_change_of_the_meta_loss():
    """On a quadratic objective the model is exact."""
    x, actions, old = quadratic_descent(20_000, 0.2, 0.1)
    states = x[..., None]
    dynamics = local_models.dynamics(states, actions[..., None], 0.0)
    curvature = torch.full((STEPS,), H, dtype=torch.float64)
    cost = local_models.advantage(states[:-1], H * x[1:], curvature, old, 0.8, 0.0)
    new = Controller(1.5 * old.K, old.k - 0.05, 2 * old.G)
    first = x[0].mean()[None], x[0].var(correction=0)[None, None]

    def meta_loss(psi: Controller) -> Tensor:
        after = lqg.forward(dynamics, psi, *first)
        z = torch.ones(STEPS, 2, 2, dtype=torch.float64)  # x' = x + a
        return lqg.expected_cost(lqg.Cost(H * z, 0 * z[..., 0], 0 * z[..., 0, 0]), after).sum()

    noiseless = Controller(old.K, old.k, 0 * old.G)
    predicted = lqg.expected_cost(cost, lqg.forward(dynamics, new, *first)).sum()
    torch.testing.assert_close(predicted, meta_loss(new) - meta_loss(noiseless), rtol=0.02, atol=0)


def test_with_exact_models_repeated_lqg_ends_at_newton_s_step():
    """The meta-loss of a quadratic is least if every point after the first is the minimum."""
    gain = 0.5
    for _ in range(6):
        x, actions, old = quadratic_descent(5000, gain, 0.1)
        states, curvature = x[..., None], torch.full((STEPS,), H, dtype=torch.float64)
        cost = local_models.advantage(states[:-1], H * x[1:], curvature, old, 1 - gain, 0.0)
        still = local_models.dynamics(states, actions[..., None], 0.0)
        psi = lqg.backward(still, cost, torch.zeros(STEPS).double())
        gain = -float(psi.K[: STEPS // 2].mean())
    assert gain == pytest.approx(1, abs=0.02)


def test_noise_of_the_gradients_that_does_not_depend_on_the_state_leaves_the_cost_unbiased():
    source = generator(4)
    states, weights = normal(source, STEPS, 50_000, N), normal(source, N)
    gradients = states @ weights + 3 * normal(source, STEPS, 50_000)
    zero = torch.zeros(STEPS, 1, N, dtype=torch.float64)
    old = Controller(zero, zero[..., 0], zero[..., :1] + 1)
    cost = local_models.advantage(states, gradients, torch.ones(STEPS).double(), old, 0.0, 0.0)
    torch.testing.assert_close(cost.C[:, N, :N], weights.expand(STEPS, N), atol=5 * 3 / math.sqrt(50_000), rtol=0)


def test_curvatures_are_positive_after_flooring_and_unchanged_above():
    curvature = torch.tensor([-1.0, 0.0, 2.0, 5.0], dtype=torch.float64)
    found = local_models.floored(curvature, 0.1)
    assert found.tolist() == pytest.approx([0.2, 0.2, 2.0, 5.0])
    assert (local_models.floored(torch.zeros(3).double(), 0.1) > 0).all()


def test_stacked_models_are_a_batch_of_groups():
    models = [local_models.dynamics(*simulated(count), 5.0) for count in (10, 40)]
    both = local_models.stack(models)
    assert both.A.shape == (2, STEPS, N, N)
    torch.testing.assert_close(both.F[1], models[1].F)
