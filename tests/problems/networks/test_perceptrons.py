import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optrepro.problems.networks.perceptrons import Perceptrons, project

RUNS, EXAMPLES, INPUTS, HIDDEN, CLASSES, BATCH = 3, 50, 6, 5, 4, 7
SEEDS = (11, 12, 2**62)


@pytest.fixture(scope="module")
def problems():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(RUNS, EXAMPLES, INPUTS, generator=generator)
    labels = torch.randint(CLASSES, (RUNS, EXAMPLES), generator=generator)
    return Perceptrons(inputs, labels, HIDDEN, CLASSES, BATCH, SEEDS)


def network_of(x):
    """The perceptron with parameters x (P,), of PyTorch's own layers."""
    network = nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    nn.utils.vector_to_parameters(x, network.parameters())
    return network


def autograd(problems, row, x, examples):
    """Value and gradient (P,) of one objective."""
    network = network_of(x)
    loss = F.cross_entropy(network(problems.inputs[row, examples]), problems.labels[row, examples])
    return loss.detach(), nn.utils.parameters_to_vector(torch.autograd.grad(loss, tuple(network.parameters())))


# Values and gradients


def test_values_and_gradients_are_those_of_autograd_on_pytorchs_layers(problems):
    x, examples = 2 * problems.start(), problems.minibatches(1)[0]
    values, gradients = problems.evaluate(x, examples)
    assert values.shape == (RUNS,)
    for row in range(RUNS):
        value, gradient = autograd(problems, row, x[row], examples[row])
        torch.testing.assert_close(values[row], value)
        torch.testing.assert_close(gradients[row], gradient)
        assert gradient.norm() > 0.1


def test_the_objective_is_the_mean_over_all_examples_however_it_is_cut(problems):
    x = problems.start()
    expected, _ = problems.evaluate(x, torch.arange(EXAMPLES).expand(RUNS, -1))
    torch.testing.assert_close(problems.objective(x), expected)
    torch.testing.assert_close(problems.objective(x, chunk=8), expected)


def test_a_smaller_batch_is_repeated_so_that_its_mean_is_that_of_its_own_examples(problems):
    mixed = replace(problems, batch_size=8, batch_sizes=(2, 8, 4))
    x, drawn = problems.start(), mixed.minibatches(40)
    values, gradients = mixed.evaluate(x, drawn[0])
    for row, size in enumerate((2, 8, 4)):
        alone = replace(problems.rows([row]), batch_size=size)
        own = alone.minibatches(40)
        assert torch.equal(drawn[:, [row]], own.repeat(1, 1, 8 // size))
        value, gradient = alone.evaluate(x[[row]], own[0])
        torch.testing.assert_close(values[[row]], value)
        torch.testing.assert_close(gradients[[row]], gradient)
    assert mixed.rows([2, 0]).batch_sizes == (4, 2)


def test_evaluations_change_nothing(problems):
    x, examples = problems.start(), problems.minibatches(1)[0]
    before = [t.clone() for t in (x, problems.inputs, problems.labels, examples)]
    problems.evaluate(x, examples)
    problems.objective(x)
    for now, then in zip((x, problems.inputs, problems.labels, examples), before, strict=True):
        assert torch.equal(now, then)


def test_no_row_depends_on_those_it_is_stacked_with(problems):
    order = [2, 0]
    some = problems.rows(order)
    assert some.seeds == (SEEDS[2], SEEDS[0])
    torch.testing.assert_close(some.start(), problems.start()[order], rtol=0, atol=0)
    assert torch.equal(some.minibatches(9), problems.minibatches(9)[:, order])
    x, examples = problems.start(), problems.minibatches(1)[0]
    for mine, all_ in zip(some.evaluate(x[order], examples[order]), problems.evaluate(x, examples), strict=True):
        torch.testing.assert_close(mine, all_[order])
    torch.testing.assert_close(some.objective(x[order]), problems.objective(x)[order])


def test_hidden_units_and_examples_may_be_permuted(problems):
    x = problems.start()
    units = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(1))
    w1, b1, w2, b2 = (x[:, g.columns].view(RUNS, *s) for g, s in zip(problems.groups, problems.shapes, strict=True))
    permuted = torch.cat([part.flatten(1) for part in (w1[:, units], b1[:, units], w2[:, :, units], b2)], 1)
    examples = problems.minibatches(1)[0]
    value, gradient = problems.evaluate(x, examples)
    other_value, other_gradient = problems.evaluate(permuted, examples.flip(1))
    torch.testing.assert_close(other_value, value)
    inner = problems.groups[1].columns
    torch.testing.assert_close(other_gradient[:, inner], gradient[:, inner][:, units])


def test_equal_logits_give_the_logarithm_of_the_number_of_classes(problems):
    zero = torch.zeros_like(problems.start())
    torch.testing.assert_close(problems.objective(zero), torch.full((RUNS,), math.log(CLASSES)))


# Groups


def test_groups_are_the_weights_and_biases_side_by_side_in_the_order_of_pytorchs_layers(problems):
    groups, x = problems.groups, problems.start()
    assert groups[0].start == 0
    assert [group.stop for group in groups[:-1]] == [group.start for group in groups[1:]]
    assert groups[-1].stop == x.shape[1]
    for group, shape, parameter in zip(groups, problems.shapes, network_of(x[0]).parameters(), strict=True):
        assert torch.equal(x[0, group.columns].view(shape), parameter)


# Starts and minibatches


def test_starts_fill_the_range_of_one_over_the_root_of_the_fan_in():
    problems = Perceptrons(torch.zeros(2, 1, 100), torch.zeros(2, 1, dtype=torch.int64), 400, 10, 1, (1, 2))
    x = problems.start()
    for group, bound in zip(problems.groups, (0.1, 0.1, 0.05, 0.05), strict=True):
        part = x[:, group.columns]
        assert part.abs().max() <= bound
        assert part.abs().max() > 0.7 * bound
        assert part.min() < 0 < part.max()
    weights = x[:, problems.groups[0].columns]
    assert weights.std() == pytest.approx(0.1 / math.sqrt(3), rel=0.02)


def test_starts_and_minibatches_follow_from_the_seed_alone(problems):
    again = Perceptrons(problems.inputs + 1, problems.labels, HIDDEN, CLASSES, BATCH, (12, 11, 12))
    assert torch.equal(again.start(), problems.start()[[1, 0, 1]])
    assert torch.equal(again.minibatches(5), problems.minibatches(5)[:, [1, 0, 1]])
    assert not torch.equal(problems.start()[0], problems.start()[1])
    assert not torch.equal(problems.minibatches(5)[:, 0], problems.minibatches(5)[:, 1])


def test_more_steps_begin_with_the_same_minibatches(problems):
    assert torch.equal(problems.minibatches(40)[:9], problems.minibatches(9))


def test_minibatches_are_passes_over_all_examples_in_a_new_order_each(problems):
    steps = 2 * EXAMPLES  # BATCH passes for every EXAMPLES steps
    batches = problems.minibatches(steps)
    assert batches.shape == (steps, RUNS, BATCH)
    for row in range(RUNS):
        passes = batches[:, row].reshape(-1, EXAMPLES)
        assert torch.equal(passes.sort(1).values, torch.arange(EXAMPLES).expand(2 * BATCH, -1))
        assert len({tuple(order) for order in passes.tolist()}) == 2 * BATCH


# Projection


def test_a_projection_has_mean_0_and_variance_1_in_every_dimension():
    generator = torch.Generator().manual_seed(0)
    images = 3 + torch.rand(200, 2, 5, 5, generator=generator) * torch.logspace(-2, 2, 50).view(2, 5, 5)
    projected = project(images, 8, seed=1)
    assert projected.shape == (200, 8)
    torch.testing.assert_close(projected.mean(0), torch.zeros(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(projected.var(0), torch.ones(8))


def test_a_projection_is_linear_up_to_its_normalization_and_follows_from_the_seed():
    images = torch.randn(100, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    projected = project(images, 3, seed=1)
    flat = torch.cat([images.flatten(1), torch.ones(100, 1)], 1)
    fitted = flat @ torch.linalg.lstsq(flat, projected).solution
    torch.testing.assert_close(fitted, projected, rtol=1e-4, atol=1e-4)
    assert torch.equal(project(images, 3, seed=1), projected)
    assert not torch.allclose(project(images, 3, seed=2), projected, atol=0.1)


def test_images_that_are_all_alike_are_projected_to_zero():
    assert torch.equal(project(torch.ones(10, 1, 2, 2), 3, seed=0), torch.zeros(10, 3))
