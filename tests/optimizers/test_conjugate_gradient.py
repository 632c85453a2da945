import numpy as np
import pytest
import torch
from scipy.sparse.linalg import cg

from optrepro.optimizers.conjugate_gradient import DECREASE, HALVINGS, ConjugateGradient

DIM = 8
ROOT = torch.randn(DIM, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
MATRIX = ROOT @ ROOT.T + torch.eye(DIM, dtype=torch.float64)
TARGET = torch.arange(1.0, DIM + 1, dtype=torch.float64)


def parameter(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def quadratic(x):
    """1/2 x'Ax - b'x, whose minimum solves A x = b."""
    return 0.5 * x @ MATRIX @ x - TARGET @ x


def closure_of(optimizer, function):
    """The closure of a loss, which counts its calls and the losses it has seen."""

    def closure():
        optimizer.zero_grad()
        loss = function()
        loss.backward()
        closure.losses.append(loss.item())
        return loss

    closure.losses = []
    return closure


def minimize(function, x, steps, **settings):
    """Take steps on a function of one parameter; return the optimizer and its closure."""
    optimizer = ConjugateGradient([x], **settings)
    closure = closure_of(optimizer, lambda: function(x))
    for _ in range(steps):
        optimizer.step(closure)
    return optimizer, closure


def exact_lengths(steps):
    """Step lengths of linear conjugate gradient (Nocedal and Wright, algorithm 5.2) from 0."""
    a, residual = MATRIX.numpy(), -TARGET.numpy()
    direction, lengths = -residual, []
    for _ in range(steps):
        length = residual @ residual / (direction @ a @ direction)
        after = residual + length * a @ direction
        direction = (after @ after) / (residual @ residual) * direction - after
        residual = after
        lengths.append(length)
    return lengths


def test_with_exact_step_lengths_on_a_quadratic_the_iterates_are_those_of_linear_conjugate_gradient():
    iterates = []
    cg(MATRIX.numpy(), TARGET.numpy(), rtol=1e-14, maxiter=DIM, callback=lambda x: iterates.append(x.copy()))

    x = torch.zeros(DIM, dtype=torch.float64, requires_grad=True)
    optimizer = ConjugateGradient([x])
    closure = closure_of(optimizer, lambda: quadratic(x))
    for length, expected in zip(exact_lengths(DIM), iterates, strict=True):
        optimizer.param_groups[0]["lr"] = length
        optimizer.step(closure)
        np.testing.assert_allclose(x.detach().numpy(), expected, rtol=1e-6)

    np.testing.assert_allclose(x.detach().numpy(), np.linalg.solve(MATRIX.numpy(), TARGET.numpy()), rtol=1e-8)


def test_the_first_step_is_one_of_gradient_descent():
    x = parameter(2.0, -1.0)
    minimize(lambda x: (x**2).sum(), x, 1, lr=0.1)
    torch.testing.assert_close(x.detach(), torch.tensor([1.6, -0.8], dtype=torch.float64))


def steps_on(gradients, lr=1.0):
    """The directions taken on prescribed gradients."""
    x = parameter(0.0, 0.0)
    optimizer = ConjugateGradient([x], lr=lr)
    directions = []
    for g in gradients:
        before = x.detach().clone()
        optimizer.step(closure_of(optimizer, lambda g=g: x @ torch.tensor(g, dtype=torch.float64)))
        directions.append(((x.detach() - before) / lr).tolist())
    return directions


def test_the_second_direction_adds_beta_times_the_first_by_the_formula_of_polak_and_ribiere():
    # beta = <g, g - g'> / <g', g'> = (0 + 2 (2 - 0)) / 1 with g' = (1, 0) and g = (0, 2)
    assert steps_on([(1.0, 0.0), (0.0, 2.0)]) == [[-1.0, 0.0], [-4.0, -2.0]]


def test_a_negative_beta_restarts_from_the_gradient():
    assert steps_on([(2.0, 0.0), (1.0, 0.0)])[1] == [-1.0, 0.0]  # beta = -1/4


def test_a_direction_that_is_not_one_of_descent_restarts_from_the_gradient():
    # beta = (1 + 1) / 1 and the direction -2 (1, 0) - (-1, 0) climbs
    assert steps_on([(1.0, 0.0), (-1.0, 0.0)])[1] == [1.0, 0.0]


def test_a_gradient_of_zero_is_survived():
    assert steps_on([(0.0, 0.0), (1.0, 2.0)]) == [[0.0, 0.0], [-1.0, -2.0]]


def test_the_line_search_takes_the_first_halving_that_decreases_the_loss_enough():
    x = parameter(1.0)  # on x^2 a step of length a ends at 1 - 2 a: a = 1 changes nothing, a = 1/2 finds the minimum
    _, closure = minimize(lambda x: (x**2).sum(), x, 1, lr=4.0, line_search="armijo")
    assert closure.losses == [1.0, 49.0, 9.0, 1.0, 0.0]
    assert x.item() == 0.0


def test_every_step_of_the_line_search_decreases_the_loss_by_its_share_of_the_slope():
    def rosenbrock(x):
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    x = parameter(-1.2, 1.0)
    optimizer = ConjugateGradient([x], lr=1.0, line_search="armijo")
    closure = closure_of(optimizer, lambda: rosenbrock(x))
    for _ in range(30):
        before, start = closure_of(optimizer, lambda: rosenbrock(x))().item(), x.detach().clone()
        gradient = x.grad.clone()
        optimizer.step(closure)
        decrease = rosenbrock(x).item() - before
        assert decrease <= DECREASE * (gradient @ (x.detach() - start)).item() < 0
    assert rosenbrock(x) < 1


def test_a_line_search_that_finds_nothing_leaves_the_parameters_and_forgets_the_direction():
    x = parameter(3.0, -1.0)
    optimizer = ConjugateGradient([x], line_search="armijo")
    closure = closure_of(optimizer, lambda: x.sum() + 1e9 * (x - x.detach()).abs().sum() + closure.rises)
    closure.rises = 0.0

    def rising():
        closure.rises += 1.0
        return closure()

    optimizer.step(rising)
    assert x.tolist() == [3.0, -1.0]
    assert len(closure.losses) == HALVINGS + 2
    assert optimizer.state[x]["direction"].tolist() == [0.0, 0.0]


def test_step_returns_the_loss_before_the_step():
    x = parameter(2.0, -1.0)
    optimizer = ConjugateGradient([x], line_search="armijo")
    assert optimizer.step(closure_of(optimizer, lambda: (x**2).sum())).item() == 5.0


@pytest.mark.parametrize("line_search", [None, "armijo"])
def test_several_parameters_step_as_one_vector(line_search):
    whole = torch.ones(DIM, dtype=torch.float64, requires_grad=True)
    minimize(quadratic, whole, 6, lr=0.02, line_search=line_search)

    matrix = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    tail, unused = torch.ones(2, dtype=torch.float64, requires_grad=True), parameter(7.0)
    optimizer = ConjugateGradient([matrix, unused, tail], lr=0.02, line_search=line_search)
    closure = closure_of(optimizer, lambda: quadratic(torch.cat([matrix.flatten(), tail])))
    for _ in range(6):
        optimizer.step(closure)

    torch.testing.assert_close(torch.cat([matrix.flatten(), tail]), whole, rtol=1e-12, atol=0)
    assert unused.item() == 7.0


def test_a_huge_gradient_is_no_overflow():
    x = torch.ones(100, requires_grad=True)
    optimizer = ConjugateGradient([x], lr=1e-22)
    for size in (1.0, 1e19, 1.0, 1.0):
        x.grad = torch.full((100,), size)
        optimizer.step(lambda: 1.0)
        assert x.isfinite().all()
    assert optimizer.state[x]["direction"].abs().max() < 10
