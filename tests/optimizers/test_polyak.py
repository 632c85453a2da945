import copy
from itertools import pairwise

import pytest
import torch

from optrepro.optimizers.polyak import Polyak


def parameter(*values):
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def closure_of(optimizer, function):
    """The closure of a loss: evaluate, differentiate the sum over problems, return."""

    def closure():
        optimizer.zero_grad()
        loss = function()
        loss.sum().backward()
        return loss

    return closure


def minimize(function, x, steps, optimum=0.0):
    """Take steps of Polyak's rule on a function of one parameter; return the losses."""
    optimizer = Polyak([x], optimum)
    closure = closure_of(optimizer, lambda: function(x))
    return torch.stack([optimizer.step(closure).detach() for _ in range(steps)])


CURVATURE = torch.tensor([1.0, 5.0, 25.0], dtype=torch.float64)


def quadratic(x):
    """Minimum -3 at the origin."""
    return 0.5 * (CURVATURE * x**2).sum(-1) - 3


def test_one_step_on_a_quadratic_is_the_closed_form():
    x = parameter(2.0, -1.0, 0.5)
    gradient = CURVATURE * x.detach()
    expected = x.detach() - 0.5 * (x.detach() @ gradient) / (gradient @ gradient) * gradient

    minimize(quadratic, x, steps=1, optimum=-3.0)

    torch.testing.assert_close(x.detach(), expected, rtol=1e-14, atol=0)


def test_every_step_halves_an_isotropic_quadratic():
    x = parameter(3.0, -4.0)
    minimize(lambda x: 0.5 * (x**2).sum(), x, steps=5)
    torch.testing.assert_close(x.detach(), torch.tensor([3.0, -4.0], dtype=torch.float64) / 2**5)


def test_converges_on_a_quadratic_and_never_moves_away_from_the_minimum():
    x = parameter(2.0, -1.0, 0.5)
    optimizer = Polyak([x], -3.0)
    distances = []
    for _ in range(300):
        distances.append(x.detach().norm())
        loss = optimizer.step(closure_of(optimizer, lambda: quadratic(x)))
    assert loss + 3 < 1e-12
    assert all(after <= before for before, after in pairwise(distances))


def test_step_returns_the_loss_before_the_step():
    x = parameter(2.0, -1.0, 0.5)
    before = quadratic(x.detach())
    assert minimize(quadratic, x, steps=1, optimum=-3.0).item() == before.item()


@pytest.mark.parametrize("optimum", [-3.0, torch.linspace(-4, -3, 6, dtype=torch.float64).reshape(2, 3)])
def test_batched_problems_step_as_they_would_one_by_one(optimum):
    starts = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batched = starts.clone().requires_grad_()
    minimize(quadratic, batched, steps=7, optimum=optimum)

    optima = torch.as_tensor(optimum).expand(2, 3)
    for index in [(i, j) for i in range(2) for j in range(3)]:
        alone = starts[index].clone().requires_grad_()
        minimize(quadratic, alone, steps=7, optimum=optima[index].item())
        torch.testing.assert_close(batched[index].detach(), alone.detach(), rtol=1e-13, atol=1e-15)


def test_several_parameters_of_a_scalar_loss_step_as_one_vector():
    whole = parameter(2.0, -1.0, 0.5)
    minimize(quadratic, whole, steps=4, optimum=-3.0)

    head, tail = parameter(2.0), parameter(-1.0, 0.5)
    optimizer = Polyak([head, tail], -3.0)
    closure = closure_of(optimizer, lambda: quadratic(torch.cat([head, tail])))
    for _ in range(4):
        optimizer.step(closure)

    torch.testing.assert_close(torch.cat([head, tail]).detach(), whole.detach(), rtol=1e-14, atol=0)


def test_a_scalar_loss_takes_parameters_of_any_shape():
    scalar = torch.tensor(2.0, requires_grad=True)
    matrix = torch.ones(2, 3, requires_grad=True)
    optimizer = Polyak([scalar, matrix])
    optimizer.step(closure_of(optimizer, lambda: 0.5 * scalar**2 + 0.5 * (matrix**2).sum()))
    assert scalar.item() == pytest.approx(1)
    torch.testing.assert_close(matrix.detach(), torch.full((2, 3), 0.5))


def test_a_zero_gradient_moves_nothing_even_above_the_minimum():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    minimize(lambda x: 0.5 * (x**2).sum(-1) + 1, x, steps=1, optimum=0.0)
    assert x[0].tolist() == [0.0, 0.0]
    assert x[1].tolist() != [3.0, 4.0]


def test_a_loss_below_the_minimum_moves_nothing():
    x = parameter(1.0, 1.0)
    minimize(lambda x: (x**2).sum(), x, steps=1, optimum=5.0)
    assert x.tolist() == [1.0, 1.0]


def test_an_almost_flat_problem_takes_a_long_but_finite_step():
    slope = 1e-160  # 1 / slope**2 is infinite
    x = parameter(0.0, 2.0)
    minimize(lambda x: 1 + slope * x[0], x, steps=1)
    assert x[0].item() == pytest.approx(-1 / slope, rel=1e-3)
    assert x[1].item() == 2.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_where_loss_or_gradient_are_not_finite_the_problem_stays_and_the_others_do_not(bad):
    x = parameter(2.0, -1.0, 0.5)
    optimizer = Polyak([x])
    x.grad = torch.ones_like(x)
    optimizer.step(lambda: bad)
    x.grad[1] = bad
    optimizer.step(lambda: 1.0)
    assert x.tolist() == [2.0, -1.0, 0.5]

    rows = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    rows.grad = torch.ones_like(rows)
    rows.grad[1, 0] = bad
    Polyak([rows]).step(lambda: torch.tensor([bad, 1.0, 1.0]))
    torch.testing.assert_close(rows.tolist(), [[1.0, 1.0], [1.0, 1.0], [0.5, 0.5]], rtol=1e-14, atol=0)


def test_a_huge_gradient_is_no_overflow():
    x = torch.zeros(100, requires_grad=True)
    x.grad = torch.full((100,), 1e19)
    Polyak([x]).step(lambda: 1e20)
    torch.testing.assert_close(x.detach(), torch.full((100,), -0.1))


def test_scaling_the_loss_changes_no_step():
    x, scaled = parameter(2.0, -1.0, 0.5), parameter(2.0, -1.0, 0.5)
    minimize(quadratic, x, steps=5, optimum=-3.0)
    minimize(lambda x: 1e6 * quadratic(x), scaled, steps=5, optimum=-3e6)
    torch.testing.assert_close(scaled, x, rtol=1e-10, atol=0)


def test_a_reloaded_state_dict_continues_with_the_same_optimum():
    x = parameter(2.0, -1.0, 0.5)
    optimizer = Polyak([x], -3.0)
    optimizer.step(closure_of(optimizer, lambda: quadratic(x)))

    y = x.detach().clone().requires_grad_()
    resumed = Polyak([y], optimum=0.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step(closure_of(optimizer, lambda: quadratic(x)))
    resumed.step(closure_of(resumed, lambda: quadratic(y)))

    assert torch.equal(x, y)


def test_an_optimum_that_does_not_fit_the_loss_is_an_error():
    x = torch.ones(4, 2, requires_grad=True)
    with pytest.raises(ValueError, match=r"optimum has shape \(3,\).*\(4,\)"):
        minimize(lambda x: (x**2).sum(-1), x, steps=1, optimum=torch.zeros(3))


def test_a_parameter_that_does_not_fit_the_loss_is_an_error():
    x = torch.ones(2, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"shape \(2, 4\) must start with the loss's shape \(4,\)"):
        minimize(lambda x: (x**2).sum(0), x, steps=1)
