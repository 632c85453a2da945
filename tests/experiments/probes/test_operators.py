"""The optimal operators against a numerical convex solver, which knows only the budget sets."""

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from optrepro.experiments.probes.operators import Diagonal, Family, Frobenius, Lyapunov, Spectral, learning_power

DIMENSION = 4
FAMILIES = ["frobenius", "spectral", "spectral-integer", "spectral-loose", "lyapunov", "lyapunov-metric", "diagonal"]


def random_moment(seed: int, rank: int = DIMENSION) -> Tensor:
    factor = torch.randn(DIMENSION, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return factor @ factor.mT


def family(name: str, sigma: Tensor) -> Family:
    return {
        "frobenius": Frobenius(2.5),
        "spectral": Spectral(1.7, 0.6),
        "spectral-integer": Spectral(1.2, 0.6),
        "spectral-loose": Spectral(9.0, 0.6),
        "lyapunov": Lyapunov(2.5, sigma),
        "lyapunov-metric": Lyapunov(2.5, random_moment(99)),
        "diagonal": Diagonal(2.5, torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)),
    }[name]


def root(matrix: Tensor) -> np.ndarray:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt() @ vectors.mT).numpy()


def budget_set(family: Family, operator: cp.Expression, size: cp.Expression | float) -> list[cp.Constraint]:
    """`operator` in `size` times the budget set, straight from the definitions."""
    cone = [operator >> 0]
    match family:
        case Frobenius(budget):
            return [*cone, cp.norm(operator, "fro") <= size * budget**0.5]
        case Spectral(budget, cap):
            return [*cone, size * cap * np.eye(DIMENSION) - operator >> 0, cp.trace(operator) <= size * budget]
        case Lyapunov(budget, metric):
            return [*cone, cp.norm(operator @ root(metric), "fro") <= size * budget**0.5]
        case Diagonal(budget, cost):
            weighted = cp.multiply(np.sqrt(cost.numpy()), cp.diag(operator))
            off_diagonal = cp.multiply(operator, 1 - np.eye(DIMENSION))
            return [*cone, cp.norm(weighted) <= size * budget**0.5, off_diagonal == 0]
    raise TypeError(family)


def solve(problem: cp.Problem) -> float:
    value = problem.solve(solver=cp.CLARABEL)
    assert problem.status == cp.OPTIMAL
    return value


@pytest.mark.parametrize("rank", [DIMENSION, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_no_operator_that_a_convex_solver_finds_has_more_learning_power(name: str, rank: int) -> None:
    sigma = random_moment(3, rank)
    chosen = family(name, sigma)
    operator = cp.Variable((DIMENSION, DIMENSION), symmetric=True)
    solved = solve(cp.Problem(cp.Maximize(cp.trace(operator @ sigma.numpy())), budget_set(chosen, operator, 1.0)))
    assert chosen.power(sigma).item() == pytest.approx(solved, rel=1e-5)
    assert chosen.polar(sigma).item() == pytest.approx(solved, rel=1e-5)


@pytest.mark.parametrize("name", ["frobenius", "lyapunov", "lyapunov-metric", "diagonal"])
def test_a_strictly_convex_budget_makes_the_solver_find_the_same_operator(name: str) -> None:
    sigma = random_moment(4)
    chosen = family(name, sigma)
    operator = cp.Variable((DIMENSION, DIMENSION), symmetric=True)
    solve(cp.Problem(cp.Maximize(cp.trace(operator @ sigma.numpy())), budget_set(chosen, operator, 1.0)))
    np.testing.assert_allclose(operator.value, chosen.optimal(sigma).numpy(), atol=2e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gauge_is_the_smallest_multiple_of_the_set_that_holds_the_operator(name: str) -> None:
    operator = random_moment(5)
    if name == "diagonal":
        operator = operator.diagonal().diag()
    chosen = family(name, random_moment(6))
    size = cp.Variable()
    solved = solve(cp.Problem(cp.Minimize(size), budget_set(chosen, cp.Constant(operator.numpy()), size)))
    assert chosen.gauge(operator).item() == pytest.approx(solved, rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_optimal_operator_lies_on_the_boundary_of_the_budget(name: str) -> None:
    sigma = random_moment(7)
    chosen = family(name, sigma)
    assert chosen.gauge(chosen.optimal(sigma)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_learning_power_is_at_most_gauge_times_polar(name: str) -> None:
    for seed in range(20):
        sigma, operator = random_moment(2 * seed), random_moment(2 * seed + 1)
        chosen = family(name, sigma)
        assert learning_power(operator, sigma) <= chosen.gauge(operator) * chosen.polar(sigma) * (1 + 1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_of_moments_is_solved_one_by_one(name: str) -> None:
    batch = torch.stack([random_moment(seed) for seed in range(6)]).reshape(2, 3, DIMENSION, DIMENSION)
    chosen = family(name, batch)
    optimal, power, polar = chosen.optimal(batch), chosen.power(batch), chosen.polar(batch)
    gauge = chosen.gauge(optimal)
    for i in range(2):
        for j in range(3):
            single = family(name, batch[i, j])
            torch.testing.assert_close(optimal[i, j], single.optimal(batch[i, j]))
            torch.testing.assert_close(power[i, j], single.power(batch[i, j]))
            torch.testing.assert_close(polar[i, j], single.polar(batch[i, j]))
            torch.testing.assert_close(gauge[i, j], single.gauge(optimal[i, j]))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_moment_of_zero_gives_the_operator_zero(name: str) -> None:
    zero = torch.zeros(DIMENSION, DIMENSION, dtype=torch.float64)
    chosen = family(name, zero)
    assert torch.equal(chosen.optimal(zero), zero)
    assert chosen.power(zero) == chosen.polar(zero) == chosen.gauge(zero) == 0


@pytest.mark.parametrize("name", ["frobenius", "spectral-loose", "lyapunov"])
def test_the_operator_vanishes_on_the_null_space_of_the_moment(name: str) -> None:
    sigma = random_moment(8, rank=2)
    null = torch.linalg.eigh(sigma).eigenvectors[:, :2]
    optimal = family(name, sigma).optimal(sigma)
    assert (optimal @ null).abs().max() < 1e-7
    assert torch.linalg.matrix_rank(optimal, rtol=1e-6) == 2


def test_lyapunov_with_the_moment_as_metric_is_normalized_gradient_descent_on_the_range() -> None:
    sigma = random_moment(9)
    expected = (2.5 / sigma.trace()).sqrt() * torch.eye(DIMENSION, dtype=torch.float64)
    torch.testing.assert_close(Lyapunov(2.5, sigma).optimal(sigma), expected)

    deficient = random_moment(9, rank=2)
    vectors = torch.linalg.eigh(deficient).eigenvectors[:, 2:]
    expected = (2.5 / deficient.trace()).sqrt() * vectors @ vectors.mT
    torch.testing.assert_close(Lyapunov(2.5, deficient).optimal(deficient), expected, atol=1e-6, rtol=0)


def test_spectral_gives_the_cap_to_leading_eigenvectors_and_the_remainder_to_the_next() -> None:
    sigma = torch.diag(torch.tensor([1.0, 4.0, 2.0, 3.0], dtype=torch.float64))
    expected = torch.diag(torch.tensor([0.0, 0.6, 0.5, 0.6], dtype=torch.float64))
    torch.testing.assert_close(Spectral(1.7, 0.6).optimal(sigma), expected)


def test_tied_eigenvalues_leave_the_spectral_power_unique() -> None:
    sigma = 3 * torch.eye(DIMENSION, dtype=torch.float64)
    chosen = Spectral(1.7, 0.6)
    assert chosen.power(sigma).item() == pytest.approx(3 * 1.7)
    assert chosen.gauge(chosen.optimal(sigma)).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("exponent", "shape"), [(3, -1), (2, 0)])
def test_the_diagonal_cost_recovers_adam_and_sgd(exponent: int, shape: int) -> None:
    deviation = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    sigma = torch.diag(deviation**2)
    q = Diagonal(1.0, deviation**exponent).optimal(sigma).diagonal()
    torch.testing.assert_close(q / q[1], deviation**shape)


def test_tiny_float32_moments_do_not_underflow() -> None:
    sigma = torch.diag(torch.tensor([2e-30, 1e-30]))
    for chosen in (Frobenius(1.0), Spectral(1.5, 1.0), Lyapunov(1.0, sigma), Diagonal(1.0, torch.ones(2))):
        assert chosen.optimal(sigma)[0, 0] > 0.5


def test_the_gauge_is_infinite_outside_every_multiple() -> None:
    indefinite = torch.diag(torch.tensor([1.0, -1.0]))
    for chosen in (Frobenius(1.0), Spectral(1.0, 1.0), Lyapunov(1.0, torch.eye(2)), Diagonal(1.0, torch.ones(2))):
        assert chosen.gauge(indefinite) == torch.inf
    assert Diagonal(1.0, torch.ones(2)).gauge(torch.tensor([[2.0, 1.0], [1.0, 2.0]])) == torch.inf


def test_power_on_the_null_space_of_the_metric_is_unbounded_and_says_so() -> None:
    chosen = Lyapunov(1.0, torch.diag(torch.tensor([1.0, 0.0])))
    with pytest.raises(ValueError, match="unbounded"):
        chosen.optimal(torch.eye(2))


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (torch.ones(2, 3), r"shape \(2, 3\)"),
        (torch.ones(3), r"shape \(3,\)"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (torch.full((2, 2), torch.nan), "not symmetric"),
        (torch.diag(torch.tensor([1.0, -1.0])), "not positive semidefinite"),
    ],
)
@pytest.mark.parametrize(
    "chosen", [Frobenius(1.0), Spectral(1.0, 1.0), Lyapunov(1.0, torch.eye(2)), Diagonal(1.0, torch.ones(2))]
)
def test_a_bad_moment_is_named(chosen: Family, sigma: Tensor, message: str) -> None:
    for method in (chosen.optimal, chosen.polar):
        with pytest.raises(ValueError, match=message):
            method(sigma)


def test_bad_budgets_caps_costs_and_metrics_are_named() -> None:
    with pytest.raises(ValueError, match=r"budget = 0 "):
        Frobenius(0)
    with pytest.raises(ValueError, match=r"cap = -1 "):
        Spectral(1.0, -1)
    with pytest.raises(ValueError, match=r"budget = nan "):
        Lyapunov(float("nan"), torch.eye(2))
    with pytest.raises(ValueError, match="metric is not positive semidefinite"):
        Lyapunov(1.0, -torch.eye(2))
    with pytest.raises(ValueError, match=r"cost has the entry 0\.0"):
        Diagonal(1.0, torch.tensor([1.0, 0.0]))
