import math

import pytest
import torch

from optrepro.problems.functions import toys


def grid(toy: toys.Toy, points: int = 201) -> torch.Tensor:
    axes = [
        torch.linspace(low, high, points, dtype=torch.float64) for low, high in zip(toy.lower, toy.upper, strict=True)
    ]
    return torch.cartesian_prod(*axes)


@pytest.mark.parametrize("name", toys.names())
def test_the_minimum_is_zero_and_nothing_in_the_box_is_lower(name: str) -> None:
    toy = toys.get(name)
    minimizers = torch.tensor(toy.minimizers, dtype=torch.float64)
    torch.testing.assert_close(toy(minimizers), torch.zeros(len(minimizers), dtype=torch.float64), atol=1e-24, rtol=0)
    values = toy(grid(toy))
    near = (grid(toy)[:, None] - minimizers).norm(dim=-1).amin(1) < 0.2
    assert values.min() >= 0
    assert (values[~near] > 1e-3).all()


@pytest.mark.parametrize("name", toys.names())
def test_the_gradient_vanishes_at_every_minimizer_and_is_finite_in_the_box(name: str) -> None:
    toy = toys.get(name)
    x = torch.cat([torch.tensor(toy.minimizers, dtype=torch.float64), grid(toy, 21)]).requires_grad_()
    (gradient,) = torch.autograd.grad(toy(x).sum(), x)
    assert gradient[: len(toy.minimizers)].abs().max() < 1e-10
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", toys.names())
def test_convex_losses_and_no_others_have_a_semidefinite_hessian_everywhere(name: str) -> None:
    toy = toys.get(name)
    hessians = torch.func.vmap(torch.func.hessian(toy.formula))(grid(toy, 31))
    assert bool((torch.linalg.eigvalsh(hessians)[:, 0] > -1e-9).all()) == toy.convex


@pytest.mark.parametrize(("name", "condition"), [("bowl", 2.0), ("ellipse", 25.0)])
def test_the_quadratics_have_the_condition_of_their_title_and_turned_axes(name: str, condition: float) -> None:
    matrix = torch.func.hessian(toys.get(name).formula)(torch.zeros(2, dtype=torch.float64))
    values, vectors = torch.linalg.eigh(matrix)
    assert (values[1] / values[0]).item() == pytest.approx(condition)
    assert abs(vectors[0, 0].item()) == pytest.approx(math.cos(math.radians(30)))
    assert toys.get(name).curvature() == pytest.approx(condition)


def test_the_saddle_is_a_saddle_and_runs_start_beside_it() -> None:
    toy = toys.get("saddle")
    origin = torch.zeros(2, dtype=torch.float64)
    low, high = torch.linalg.eigvalsh(torch.func.hessian(toy.formula)(origin))
    assert low < 0 < high
    assert toy.starts(100, torch.Generator().manual_seed(0))[:, 0].abs().max() <= 0.1


@pytest.mark.parametrize("name", toys.names())
def test_a_batch_of_points_is_evaluated_point_by_point(name: str) -> None:
    toy = toys.get(name)
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    assert toy(x).shape == (3, 4)
    torch.testing.assert_close(toy(x)[1, 2], toy(x[1, 2]))


@pytest.mark.parametrize("name", toys.names())
def test_starts_lie_in_the_box_and_repeat_with_their_seed(name: str) -> None:
    toy = toys.get(name)
    starts = toy.starts(50, torch.Generator().manual_seed(3))
    assert (starts >= torch.tensor(toy.lower)).all()
    assert (starts <= torch.tensor(toy.upper)).all()
    assert torch.equal(starts, toy.starts(50, torch.Generator().manual_seed(3)))


@pytest.mark.parametrize("name", toys.names())
def test_gradient_descent_at_the_rate_of_the_curvature_never_climbs_from_a_start(name: str) -> None:
    toy = toys.get(name)
    x = toy.starts(50, torch.Generator().manual_seed(1)).requires_grad_()
    value = toy(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert (toy(x - gradient / toy.curvature()) <= value).all()


def test_unknown_names_and_wrong_dimensions_are_named() -> None:
    with pytest.raises(ValueError, match="toy = 'canyon' is not one of bowl, ellipse"):
        toys.get("canyon")
    with pytest.raises(ValueError, match=r"valley: x has the shape \(5, 3\)"):
        toys.get("valley")(torch.zeros(5, 3))
