import math

import pytest
import torch

from optrepro.problems.functions import landscape, shifted, vlse
from optrepro.problems.functions.landscape import describe
from optrepro.problems.functions.shifted import LIKE_THE_PRIOR, Formulas
from optrepro.problems.functions.synthetic import SyntheticPrior


def problem(formula, dim=2):
    unknown = torch.zeros(1, dtype=torch.float64)
    # + 0: a Hessian of its own for what is linear
    return Formulas(lambda u: formula(u) + 0 * u.square().sum(-1), {}, dim, unknown, unknown)


def one(problems, name, points=256):
    return describe(problems, 0, points)[name].item()


def quadratic(stiffness, center=0.4):
    return problem(lambda u: ((u - center) ** 2 * torch.tensor(stiffness, dtype=u.dtype)).sum(-1), len(stiffness))


def test_the_condition_number_of_a_quadratic_is_that_of_its_hessian_everywhere():
    bowl = quadratic([1.0, 1000.0])
    assert one(bowl, "condition") == pytest.approx(3)
    assert one(bowl, "minimum_condition") == pytest.approx(3)
    assert math.isnan(one(quadratic([1.0]), "condition"))


def test_nonconvexity_is_the_share_of_negative_eigenvalues():
    assert one(quadratic([1.0, 2.0]), "nonconvexity") == 0
    assert one(problem(lambda u: u[..., 0] ** 2 - u[..., 1] ** 2), "nonconvexity") == 0.5
    assert one(problem(lambda u: -(u**2).sum(-1)), "nonconvexity") == 1


def test_the_gradient_spread_is_the_log_ratio_of_two_quantiles():
    slope = problem(lambda u: u[..., 0] ** 2 / 2, dim=2)  # |gradient| = u0, uniform in [0, 1]
    assert one(slope, "gradient_spread", 1024) == pytest.approx(math.log10(9), abs=0.01)


def test_gradients_turn_where_waves_are_short_and_not_on_a_slope():
    slow, fast = (one(problem(lambda u, k=k: torch.sin(k * u).sum(-1)), "gradient_turn") for k in (3, 150))
    assert slow < -2 < -1 < fast
    assert one(problem(lambda u: u.sum(-1)), "gradient_turn") <= -7


def test_values_are_correlated_on_a_slope_and_not_where_waves_are_short():
    assert one(problem(lambda u: u.sum(-1)), "correlation") > 0.9
    quarters = problem(lambda u: torch.sin(25 * math.pi * u.sum(-1)))  # 0.1 is a wave and a quarter
    assert one(quarters, "correlation", 1024) == pytest.approx(0, abs=0.1)


def test_skewness_and_the_place_of_the_median_tell_tails_apart():
    even, heavy = problem(lambda u: u[..., 0]), problem(lambda u: torch.exp(10 * u[..., 0]))
    assert one(even, "skewness") == pytest.approx(0, abs=0.01)
    assert one(even, "median_position") == pytest.approx(math.log10(0.5), abs=0.01)
    assert one(heavy, "skewness") > 0.3
    assert one(heavy, "median_position") == pytest.approx(math.log10(math.exp(5 - 10)), abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_minima_are_counted(count):
    inner = problem(lambda u: torch.cos(2 * math.pi * count * u).sum(-1) + 0.1 * ((u - 0.5) ** 2).sum(-1))
    assert 10 ** one(inner, "minima") == pytest.approx(count**2)


def test_minima_at_the_bounds_and_in_corners_count():
    corners = problem(lambda u: -((u - 0.5) ** 2).sum(-1))
    assert 10 ** one(corners, "minima") == pytest.approx(4)
    assert one(corners, "funnel") == 1  # all are as deep


def test_the_funnel_is_the_share_of_starts_that_descend_into_the_lowest_minimum():
    tilted = problem(lambda u: torch.cos(4 * math.pi * u[..., 0]) + 0.1 * u[..., 0] + (u[..., 1] - 0.5) ** 2)
    assert 10 ** one(tilted, "minima") == pytest.approx(2)
    assert one(tilted, "funnel") == pytest.approx(0.5, abs=0.05)


def test_where_all_is_flat_there_is_no_minimum_to_end_in():
    step = problem(lambda u: torch.relu(0.01 - ((u - 0.5) ** 2).sum(-1)) * -1)
    assert one(step, "funnel") == pytest.approx(math.pi * 0.01, abs=0.03)
    assert one(step, "gradient_spread") == 12


@pytest.mark.parametrize("source", ["prior", "plateaus"])
def test_scaling_and_shifting_the_values_changes_no_statistic(source):
    base = SyntheticPrior(LIKE_THE_PRIOR).sample(0, 6, 2) if source == "prior" else shifted.get(source, 0, 6, 2)
    u = shifted.sobol(2, 2)
    unknown = torch.zeros(6, dtype=torch.float64)
    assert base.value(u.expand(6, -1, -1)).isfinite().all()
    scaled = [
        Formulas(lambda u, a=a, b=b: a * base.value(u) + b, {}, 2, unknown, unknown) for a, b in ((1, 0), (64, 2))
    ]
    first, second = (describe(problems, 0, 64) for problems in scaled)
    for name in ("condition", "nonconvexity", "gradient_spread", "gradient_turn", "correlation", "skewness"):
        torch.testing.assert_close(first[name], second[name], rtol=1e-6, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(first["median_position"], second["median_position"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(first["minima"], second["minima"], rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("name", "minima", "funnel"),
    [
        ("sphere", 1, 1.0),
        ("rosenbrock", 1, 1.0),
        ("branin", 3, 1.0),
        ("six_hump_camel", 6, None),
        ("easom", None, 0.05),
    ],
)
def test_benchmark_functions_have_the_minima_they_are_known_for(name, minima, funnel):
    found = describe(vlse.get(name), 0, 64)
    if minima is not None:
        assert 10 ** found["minima"].item() == pytest.approx(minima)
    if funnel is not None:
        assert found["funnel"].item() == pytest.approx(funnel, abs=0.06)


def test_a_function_of_the_benchmark_is_described_in_box_coordinates():
    f = vlse.get("booth")
    boxed = landscape.boxed(f)
    u = torch.tensor([[[0.25, 0.75]]], dtype=torch.float64)
    assert boxed.value(u).item() == f(torch.lerp(f.lower, f.upper, u[0, 0])).item()
    assert (boxed.minimum.item(), boxed.maximum.item()) == (f.optimum, f.largest)


def test_a_batch_is_described_function_by_function():
    problems = SyntheticPrior(LIKE_THE_PRIOR).sample(0, landscape.CHUNK + 2, 2)
    together, alone = describe(problems, 0, 32), describe(problems[-1:], 0, 32)
    for name, values in together.items():
        assert len(values) == landscape.CHUNK + 2
        torch.testing.assert_close(values[-1:], alone[name], rtol=1e-6, atol=1e-6, equal_nan=True)


def test_noise_in_gradients_shows_in_the_gradients_alone():
    noisy = shifted.get("noisy-gradients", 0, 8, 2)
    clean, dirty = describe(noisy.functions, 0, 64), describe(noisy, 0, 64)
    assert (dirty["gradient_turn"] > clean["gradient_turn"]).all()
    for name in ("condition", "minima", "funnel", "skewness"):
        torch.testing.assert_close(clean[name], dirty[name], equal_nan=True)


def test_less_than_two_points_are_refused():
    with pytest.raises(ValueError, match="points = 1"):
        describe(quadratic([1.0, 1.0]), 0, 1)
