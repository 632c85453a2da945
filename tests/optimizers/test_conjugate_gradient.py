import copy
import io

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


def test_without_a_line_search_the_closure_is_called_once_a_step():
    _, closure = minimize(quadratic, torch.zeros(DIM, dtype=torch.float64, requires_grad=True), 7, lr=1e-3)
    assert len(closure.losses) == 7


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


@pytest.mark.parametrize("line_search", [None, "armijo"])
def test_a_run_resumed_from_a_state_dict_equals_the_uninterrupted_one(line_search):
    x = torch.ones(DIM, dtype=torch.float64, requires_grad=True)
    optimizer, closure = minimize(quadratic, x, 3, lr=0.02, line_search=line_search)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)

    y = x.detach().clone().requires_grad_()
    resumed = ConjugateGradient([y], lr=1.0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        optimizer.step(closure)
        resumed.step(closure_of(resumed, lambda: quadratic(y)))

    assert torch.equal(x, y)


def test_a_loaded_state_is_not_shared_with_its_source():
    x = torch.ones(DIM, dtype=torch.float64, requires_grad=True)
    optimizer, _ = minimize(quadratic, x, 3)
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    y = x.detach().clone().requires_grad_()
    resumed = ConjugateGradient([y])
    resumed.load_state_dict(saved)
    resumed.step(closure_of(resumed, lambda: quadratic(y)))
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("line_search", [None, "armijo"])
def test_where_loss_or_gradient_are_not_finite_nothing_is_done_or_remembered(bad, line_search):
    x, y = (torch.ones(DIM, dtype=torch.float64, requires_grad=True) for _ in range(2))
    minimize(quadratic, x, 6, lr=0.02, line_search=line_search)
    optimizer, closure = minimize(quadratic, y, 3, lr=0.02, line_search=line_search)
    before = y.detach().clone()

    def bad_gradient():
        loss = closure()
        y.grad[1] = bad
        return loss

    assert optimizer.step(lambda: closure() * bad).isfinite().logical_not()
    optimizer.step(bad_gradient)
    assert torch.equal(y, before)
    for _ in range(3):
        optimizer.step(closure)
    assert torch.equal(y, x)


@pytest.mark.parametrize("line_search", [None, "armijo"])
def test_parameters_without_a_gradient_stay_though_they_had_a_direction(line_search):
    x, y = parameter(1.0, -2.0), parameter(3.0)
    optimizer = ConjugateGradient([x, y], lr=0.1, line_search=line_search)
    optimizer.step(closure_of(optimizer, lambda: (x**2).sum() + (y**2).sum()))
    before = y.item()
    optimizer.step(closure_of(optimizer, lambda: (x**2).sum()))
    assert y.item() == before
    assert x.abs().max() < 2


def test_a_closure_that_fails_in_the_line_search_leaves_the_parameters_as_they_were():
    x = parameter(3.0, -1.0)
    optimizer = ConjugateGradient([x], lr=1.0, line_search="armijo")
    closure = closure_of(optimizer, lambda: (x**2).sum())

    def failing():
        if len(closure.losses) == 2:
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert x.tolist() == [3.0, -1.0]


def test_a_huge_gradient_is_no_overflow():
    x = torch.ones(100, requires_grad=True)
    optimizer = ConjugateGradient([x], lr=1e-22)
    for size in (1.0, 1e19, 1.0, 1.0):
        x.grad = torch.full((100,), size)
        optimizer.step(lambda: 1.0)
        assert x.isfinite().all()
    assert optimizer.state[x]["direction"].abs().max() < 10


def test_a_missing_closure_is_an_error_that_says_why():
    x = parameter(1.0)
    x.grad = torch.ones_like(x)
    with pytest.raises(ValueError, match="closure = None is not allowed: ConjugateGradient evaluates the loss"):
        ConjugateGradient([x]).step()


@pytest.mark.parametrize(
    ("settings", "message"), [({"lr": 0.0}, "lr = 0.0"), ({"line_search": "wolfe"}, "line_search = 'wolfe'")]
)
def test_a_setting_that_is_not_allowed_is_an_error_that_names_it(settings, message):
    with pytest.raises(ValueError, match=message):
        ConjugateGradient([parameter(1.0)], **settings)


def test_a_second_parameter_group_is_an_error():
    with pytest.raises(ValueError, match="several groups"):
        ConjugateGradient([{"params": [parameter(1.0)]}, {"params": [parameter(2.0)]}])


def test_complex_parameters_are_an_error():
    with pytest.raises(ValueError, match="complex"):
        ConjugateGradient([torch.ones(2, dtype=torch.complex64, requires_grad=True)])


def test_sparse_gradients_are_an_error():
    table = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = ConjugateGradient(table.parameters())
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step(closure_of(optimizer, lambda: table(torch.tensor([1, 2])).sum()))
