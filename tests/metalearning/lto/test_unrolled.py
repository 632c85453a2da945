"""Truncated back-propagation against autograd through a naive unroll, and trainings that are over in seconds."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from optrepro.metalearning.lto.settings import UnrolledSettings
from optrepro.metalearning.lto.unrolled import Trainer
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.problems.networks.perceptrons import Perceptrons

SMALL = L2LSettings(cells=4)
SETTINGS = UnrolledSettings(iterations=4, unroll=4, max_grad_norm=1e30)


def objectives(index: int, count: int = 2, examples: int = 30) -> Perceptrons:
    """Two clouds of points each, told apart by a perceptron of 3-4-2."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.randint(2, (count, examples), generator=generator)
    inputs = torch.randn(count, examples, 3, generator=generator) + labels[..., None]
    return Perceptrons(inputs, labels, 4, 2, 6, tuple(range(count * index, count * (index + 1))))


def trainer(
    source: Callable[[int], Perceptrons] = objectives, seed: int = 0, horizon: int = 12, **changes: Any
) -> Trainer:
    return Trainer(SETTINGS.model_copy(update=changes), horizon, SMALL, source, seed)


def weights(of: Trainer) -> list[Tensor]:
    return [p.detach().clone() for p in of.rule.parameters()]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# The gradient


def value_of(problems: Perceptrons, x: Tensor, examples: Tensor) -> Tensor:
    """Values (R,) that autograd can differentiate."""
    values = []
    for row, inputs, labels, batch in zip(x, problems.inputs, problems.labels, examples, strict=True):
        w1, b1, w2, b2 = (row[g.columns].view(s) for g, s in zip(problems.groups, problems.shapes, strict=True))
        values.append(F.cross_entropy(F.linear(F.relu(F.linear(inputs[batch], w1, b1)), w2, b2), labels[batch]))
    return torch.stack(values)


def naive_meta_gradient(
    rule: L2LPolicy,
    problems: Perceptrons,
    steps: int,
    scale: Tensor | float = 1.0,
    of: Callable[[Tensor], Tensor] = torch.Tensor.clone,
    second: bool = False,
) -> list[Tensor]:
    """Of the mean of a function of the losses, by autograd through everything, with u = x / scale for coordinates."""
    u, examples = (problems.start() / scale).requires_grad_(), problems.minibatches(steps + 1)
    memory, losses = rule.begin(u, []), []
    for t in range(steps):
        value = value_of(problems, scale * u, examples[t])
        (gradient,) = torch.autograd.grad(value.sum(), u, create_graph=True)
        step, memory = rule.step(memory, u, value, gradient if second else gradient.detach())
        u = u + step
        losses.append(value_of(problems, scale * u, examples[t + 1]))
    return list(torch.autograd.grad(of(torch.stack(losses)).mean(), list(rule.parameters())))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_gradient_of_a_stretch_is_that_of_autograd_through_a_naive_unroll(steps: int) -> None:
    own = trainer(horizon=steps, unroll=steps)
    expected = naive_meta_gradient(own.rule, objectives(0), steps)
    own.iterate()
    got = [p.grad for p in own.rule.parameters()]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
    assert max(float(g.abs().max()) for g in expected) > 1e-4


def test_with_logarithms_it_is_that_of_their_mean() -> None:
    own = trainer(horizon=7, unroll=7, logarithm=True)
    expected = naive_meta_gradient(own.rule, objectives(0), 7, of=torch.log)
    own.iterate()
    torch.testing.assert_close([p.grad for p in own.rule.parameters()], expected, rtol=1e-4, atol=1e-7)


def test_a_random_scale_measures_every_coordinate_in_a_unit_of_its_own() -> None:
    own = trainer(horizon=7, unroll=7, random_scale=1.5)
    scale = own._scale(objectives(0).start())
    assert math.exp(-1.5) < scale.min() < 0.5 < 2 < scale.max() < math.exp(1.5)
    expected = naive_meta_gradient(own.rule, objectives(0), 7, scale)
    own.iterate()
    torch.testing.assert_close([p.grad for p in own.rule.parameters()], expected, rtol=1e-3, atol=1e-6)
    assert not torch.equal(own._scale(objectives(0).start()), scale)


def test_second_derivatives_of_the_objective_are_dropped() -> None:
    own = trainer(horizon=7, unroll=7)
    with torch.no_grad():
        own.rule.out.mul_(30)  # bold steps, so that gradients change
    full = naive_meta_gradient(own.rule, objectives(0), 7, second=True)[4]
    own.iterate()
    assert own.rule.out.grad is not None
    assert not torch.allclose(own.rule.out.grad, full, rtol=1e-2)


def test_gradients_stop_between_stretches_and_the_memory_does_not() -> None:
    own = trainer(horizon=8, unroll=4, learning_rate=0.0)
    rule, problems = own.rule, objectives(0)
    own.iterate()
    x, examples = problems.start(), problems.minibatches(9)
    memory, losses = rule.begin(x, []), []
    for t in range(8):
        value, gradient = problems.evaluate(x.detach(), examples[t])
        if t == 4:
            x, memory = x.detach(), {name: part.detach() for name, part in memory.items()}
        step, memory = rule.step(memory, x, value, gradient)
        x = x + step
        losses.append(value_of(problems, x, examples[t + 1]))
    expected = torch.autograd.grad(torch.stack(losses[4:]).mean(), list(rule.parameters()))
    torch.testing.assert_close([p.grad for p in rule.parameters()], list(expected), rtol=1e-4, atol=1e-7)


def test_the_loss_told_is_the_mean_of_the_minibatch_objectives_after_the_steps() -> None:
    own, problems = trainer(learning_rate=0.0), objectives(0)
    x, examples = problems.start(), problems.minibatches(13)
    memory, values = own.rule.begin(x, []), []
    with torch.no_grad():
        for t in range(12):
            step, memory = own.rule.step(memory, x, *problems.evaluate(x, examples[t]))
            x = x + step
            values.append(problems.evaluate(x, examples[t + 1])[0])
    assert own.iterate()["loss"] == pytest.approx(float(torch.stack(values).mean()), rel=1e-5)


# Training


def test_training_lowers_the_loss() -> None:
    own = trainer(iterations=40, horizon=20, unroll=10, learning_rate=0.02, max_grad_norm=1.0)
    told = [own.iterate()["loss"] for _ in range(40)]
    assert own.done
    assert sum(told[-5:]) < 0.85 * sum(told[:5])


def test_a_killed_and_resumed_training_equals_an_uninterrupted_one() -> None:
    whole, first = trainer(), trainer()
    expected = [whole.iterate() for _ in range(4)]
    told = [first.iterate() for _ in range(2)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    resumed = trainer(seed=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    told += [resumed.iterate() for _ in range(2)]
    assert told == expected
    assert_equal(weights(resumed), weights(whole))
    assert resumed.done


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = trainer(), trainer(), trainer(seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert_equal(weights(a), weights(b))
    assert not torch.equal(weights(a)[0], weights(c)[0])


def test_rollouts_grow_to_the_horizon() -> None:
    own = trainer(iterations=10, horizon=40, first_horizon=5, curriculum=0.6)
    horizons = []
    for own.iteration in range(10):
        horizons.append(own._horizon())
    assert horizons[0] == 5
    assert horizons[3] == math.ceil(math.sqrt(5 * 40))
    assert horizons == sorted(horizons)
    assert horizons[6:] == [40] * 4


def test_without_a_curriculum_every_rollout_has_the_horizon() -> None:
    assert trainer(curriculum=0.0)._horizon() == 12


def test_every_iteration_has_its_own_objectives() -> None:
    asked = []

    def source(index: int) -> Perceptrons:
        asked.append(index)
        return objectives(index)

    own = trainer(source)
    for _ in range(3):
        own.iterate()
    assert asked == [0, 1, 2]


def test_a_rollout_whose_loss_is_not_finite_ends_and_teaches_nothing() -> None:
    def source(index: int) -> Perceptrons:
        problems = objectives(index)
        return replace(problems, inputs=torch.full_like(problems.inputs, math.nan))

    own = trainer(source)
    before = weights(own)
    assert not math.isfinite(own.iterate()["loss"])
    assert_equal(weights(own), before)
    assert own.iteration == 1


def test_the_learning_rate_falls_to_its_last_share() -> None:
    own = trainer(iterations=50, horizon=4, learning_rate=0.1, last_rate=0.2)
    rates = [own.iterate()["learning_rate"] for _ in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.02, rel=0.02)
