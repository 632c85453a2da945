"""On-policy guided policy search against the general LQG pass, and trainings that are over in seconds."""

import io
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optrepro.metalearning.lto import lqg, mirror_descent
from optrepro.metalearning.lto.lqg import Controller, Cost, Dynamics
from optrepro.metalearning.lto.mirror_descent import Model, Trainer
from optrepro.metalearning.lto.rollouts import area, roll_out
from optrepro.metalearning.lto.settings import MirrorSettings
from optrepro.optimizers.predicted_step import StepPolicySettings
from optrepro.problems.networks.perceptrons import Perceptrons

SETTINGS = MirrorSettings(iterations=4, truth=20, coordinates=5, measure=2, sequences=16)
POLICY = StepPolicySettings(cells=4, output="normalized", scale=0.05)


def objectives(index: int, count: int = 2, examples: int = 60) -> Perceptrons:
    """Two clouds of points each, told apart by a perceptron of 3-4-2."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.randint(2, (count, examples), generator=generator)
    inputs = torch.randn(count, examples, 3, generator=generator) + labels[..., None]
    return Perceptrons(inputs, labels, 4, 2, 6, tuple(range(count * index, count * (index + 1))))


def trainer(policy: StepPolicySettings = POLICY, horizon: int = 12, **changes: Any) -> Trainer:
    return Trainer(SETTINGS.model_copy(update=changes), horizon, policy, objectives, seed=0)


def example(steps: int = 7, coordinates: int = 6) -> tuple[Model, Tensor]:
    generator = torch.Generator().manual_seed(2)
    variance, curvature = (torch.rand(n, generator=generator, dtype=torch.float64) for n in (steps, steps + 1))
    gradients = torch.randn(steps + 1, coordinates, generator=generator, dtype=torch.float64)
    return Model(variance + 0.1, curvature), gradients


def test_the_scalar_pass_is_the_general_one() -> None:
    """State and action are a coordinate's deviations; of the end, whose cost the general pass has not, a last step."""
    model, gradients = example()
    steps, nu = len(model.variance), 0.7
    for i in range(gradients.shape[1]):
        one = torch.ones(1, steps + 1, 1, 1, dtype=torch.float64)
        dynamics = Dynamics(one, one, 0 * one[..., 0], 0 * one)
        C = torch.zeros(1, steps + 1, 2, 2, dtype=torch.float64)
        C[0, :, 0, 0] = model.curvature
        C[0, :steps, 1, 1] = nu / model.variance
        C[0, steps, 1, 1] = 1.0
        d = torch.stack([gradients[:, i], torch.zeros(steps + 1, dtype=torch.float64)], -1)[None]
        cost = Cost(C, d, torch.zeros(1, steps + 1, dtype=torch.float64))
        general: Controller = lqg.backward(dynamics, cost, torch.ones(1, steps + 1, dtype=torch.float64))
        kept, _ = mirror_descent.riccati(model, nu)
        torch.testing.assert_close(general.K[0, :steps, 0, 0], kept - 1)
        torch.testing.assert_close(general.k[0, :steps, 0], mirror_descent.offsets(model, gradients, nu)[:, i])


def test_offsets_minimize_the_cost_of_the_model() -> None:
    model, gradients = example()
    nu = 0.3

    def cost(offset: Tensor) -> Tensor:
        x, kept = torch.zeros_like(offset[0]), mirror_descent.riccati(model, nu)[0]
        total = gradients[0] * x
        for t in range(len(offset)):
            action = offset[t] - (1 - kept[t]) * x
            total = total + nu * action.square() / (2 * model.variance[t])
            x = x + action
            total = total + gradients[t + 1] * x + model.curvature[t + 1] * x.square() / 2
        return total

    best = mirror_descent.offsets(model, gradients, nu)
    for seed in range(20):
        moved = best + 0.1 * torch.randn(best.shape, generator=torch.Generator().manual_seed(seed), dtype=best.dtype)
        assert (cost(best) <= cost(moved) + 1e-12).all()


def test_several_multipliers_are_taken_at_once() -> None:
    model, gradients = example()
    grid = torch.tensor([0.01, 0.5, 3.0], dtype=torch.float64)
    together = mirror_descent.offsets(model, gradients, grid)
    for i, multiplier in enumerate(grid.tolist()):
        torch.testing.assert_close(together[:, i], mirror_descent.offsets(model, gradients, multiplier))


def test_the_limit_is_met_and_used() -> None:
    model, gradients = example()
    for limit in (1e-3, 0.1, 2.0):
        multiplier = mirror_descent.constrain(model, gradients, limit)
        found = mirror_descent.divergence(model, mirror_descent.offsets(model, gradients, multiplier))
        assert found <= limit
        assert found > 0.99 * limit


def test_curvature_is_the_slope_of_gradients_on_steps() -> None:
    generator = torch.Generator().manual_seed(1)
    actions = torch.randn(30, 50, generator=generator, dtype=torch.float64)
    x = torch.cat([torch.zeros(1, 50, dtype=torch.float64), actions]).cumsum(0)
    model = mirror_descent.fit(actions, 3.0 * x, noise=0.5, curvature=1.0)
    torch.testing.assert_close(model.curvature, torch.full((31,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(model.variance.mean().item(), 0.25 * actions.square().mean().item(), rtol=0.05, atol=0)
    concave = mirror_descent.fit(actions, -3.0 * x, noise=0.5, curvature=1.0)
    assert concave.curvature.abs().max() == 0


def test_training_lowers_the_cost_on_new_objectives() -> None:
    job = trainer(iterations=25, horizon=30, learning_rate=0.02, epochs=4)
    fresh = objectives(10_000, count=6)
    record = list(range(31))
    before = area(roll_out(job.rule, fresh, record), record).mean()
    reports = [job.iterate() for _ in range(25)]
    assert job.done
    assert area(roll_out(job.rule, fresh, record), record).mean() < 0.97 * before
    assert all(report["kl"] <= SETTINGS.kl * 1.001 for report in reports)
    assert reports[0]["guiding"] < reports[0]["policy"]


def test_the_guiding_cost_is_measured_when_due() -> None:
    job = trainer()
    assert ["guiding" in job.iterate() for _ in range(4)] == [True, False, True, False]


def test_resumed_training_equals_uninterrupted() -> None:
    whole, part = trainer(random_scale=1.0), trainer(random_scale=1.0)
    told = [whole.iterate() for _ in range(4)]
    again = [part.iterate() for _ in range(2)]
    buffer = io.BytesIO()
    torch.save(part.state_dict(), buffer)
    buffer.seek(0)
    resumed = trainer(random_scale=1.0)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    again += [resumed.iterate() for _ in range(2)]
    assert told == again
    for a, b in zip(whole.rule.parameters(), resumed.rule.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_each_group_may_have_a_network_of_its_own() -> None:
    job = trainer(replace(POLICY, networks=4))
    before = [p.detach().clone() for p in job.rule.parameters()]
    job.iterate()
    assert all(not torch.equal(a, b) for a, b in zip(before, job.rule.parameters(), strict=True))
