import pytest
import torch

from optrepro.problems.functions import shifted

SOLVED = [name for name in shifted.NAMES if name != "noisy-gradients"]


def points(n, p, dim, seed=0):
    return torch.rand(n, p, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=shifted.NAMES)
def name(request):
    return request.param


def test_a_longer_collection_begins_with_the_shorter_one_and_rows_are_its_functions(name):
    long, short, u = shifted.get(name, 3, 20, 2), shifted.get(name, 3, 6, 2), points(6, 4, 2)
    for a, b in zip(long[:6].value_and_gradient(u), short.value_and_gradient(u), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    torch.testing.assert_close(long[:6].minimum, short.minimum)
    torch.testing.assert_close(long[:6].maximum, short.maximum)
    picked = torch.tensor([4, 0])
    torch.testing.assert_close(long[picked].value(u[picked]), short.value(u)[picked], rtol=0, atol=0)
    assert (len(long), len(long[picked]), long.dim) == (20, 2, 2)


def test_another_seed_is_another_collection(name):
    u = points(8, 1, 2)
    first, second = (shifted.get(name, seed, 8, 2).value_and_gradient(u)[1] for seed in (0, 1))
    assert (first != second).any(-1).all()


@pytest.mark.parametrize("dim", [2, 16])
def test_all_values_lie_between_the_minimum_and_about_the_maximum_and_are_finite(name, dim):
    problems = shifted.get(name, 0, 30, dim)
    values, gradients = problems.value_and_gradient(points(30, 200, dim))
    assert values.isfinite().all()
    assert gradients.isfinite().all()
    span = problems.maximum - problems.minimum
    assert (span > 0).all()
    assert (values.amin(1) >= problems.minimum - 1e-9 * span).all()
    if dim == 2:
        assert ((values.amax(1) - problems.maximum) / span).max() < 0.3


def test_one_point_has_one_answer_whatever_else_is_asked(name):
    problems, u = shifted.get(name, 0, 5, 2), points(5, 6, 2)
    _, together = problems.value_and_gradient(u)
    _, alone = problems.value_and_gradient(u[:, 3:4])
    torch.testing.assert_close(together[:, 3:4], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SOLVED)
def test_gradients_are_those_of_the_values(name):
    problems, u = shifted.get(name, 0, 12, 3), points(12, 4, 3)
    _, gradient = problems.value_and_gradient(u)
    step = 1e-6
    for k in range(3):
        e = step * torch.eye(3, dtype=torch.float64)[k]
        slope = (problems.value(u + e) - problems.value(u - e)) / (2 * step)
        scale = gradient.abs().amax()
        torch.testing.assert_close(gradient[..., k] / scale, slope / scale, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", SOLVED)
def test_the_minimum_is_0_at_a_point_in_the_box(name):
    problems = shifted.get(name, 0, 50, 4)
    center = problems.parameters["center"]
    assert ((center >= 0) & (center <= 1)).all()
    torch.testing.assert_close(problems.value(center[:, None])[:, 0], problems.minimum, rtol=0, atol=1e-15)
    nearby = center[:, None] + 0.01 * (points(50, 20, 4) - 0.5)
    assert (problems.value(nearby) > 0).all()


def test_values_of_heavy_tailed_functions_cover_many_decades():
    problems = shifted.get("heavy-tailed", 0, 100, 2)
    values = problems.value(points(100, 500, 2))
    decades = (values.amax(1) / values.quantile(0.1, dim=1)).log10()
    assert decades.median() > 3
    assert decades.max() > 10


def test_ill_conditioned_functions_have_condition_numbers_from_1e3_to_1e6_at_the_minimum():
    problems = shifted.get("ill-conditioned", 0, 200, 3)
    eigenvalues = torch.linalg.eigvalsh(problems.hessian(problems.parameters["center"][:, None]))[:, 0]
    condition = (eigenvalues[:, -1] / eigenvalues[:, 0]).log10()
    assert 3 - 1e-6 < condition.min() < 3.2
    assert 5.8 < condition.max() < 6 + 1e-6


def test_half_of_the_valleys_are_straight():
    problems = shifted.get("ill-conditioned", 0, 200, 2)
    here, there = (problems.hessian(points(200, 1, 2, seed)) for seed in (1, 2))
    straight = ((here - there).abs().amax((1, 2, 3)) < 1e-9).double().mean()
    assert 0.4 < straight < 0.6


def test_gradients_of_plateaus_are_close_to_zero_in_most_of_the_box():
    problems = shifted.get("plateaus", 0, 100, 2)
    _, gradient = problems.value_and_gradient(points(100, 500, 2))
    norms = gradient.norm(dim=-1)
    flat = (norms < 0.05 * norms.amax(1, keepdim=True)).double().mean(1)
    assert flat.median() > 0.5


def test_ridges_have_a_kink_that_the_gradient_jumps_across():
    problems = shifted.get("ridges", 0, 20, 2)
    rotation, center = problems.parameters["rotation"], problems.parameters["center"]
    across = 1e-6 * rotation[:, 1]
    sides = torch.stack([center + across, center - across], 1)
    _, gradient = problems.value_and_gradient(sides)
    jump = (gradient[:, 0] - gradient[:, 1]).norm(dim=-1)
    torch.testing.assert_close(jump, 2 * problems.parameters["slope"], rtol=1e-6, atol=0)


def test_the_noise_in_gradients_has_its_stated_size_and_is_gone_at_a_distance():
    problems = shifted.get("noisy-gradients", 0, 40, 2)
    u = points(40, 400, 2)
    clean = problems.functions.value_and_gradient(u)[1]
    noise = problems.value_and_gradient(u)[1] - clean
    torch.testing.assert_close(noise.square().mean((1, 2)).sqrt(), problems.level, rtol=0.25, atol=0)
    typical = problems.functions.value_and_gradient(shifted.sobol(2, 256).expand(40, -1, -1))[1]
    share = problems.level / typical.square().mean((1, 2)).sqrt()
    assert 0.1 <= share.min() < 0.15
    assert 0.7 < share.max() <= 1

    def correlation(distance):
        moved = u + distance
        other = problems.value_and_gradient(moved)[1] - problems.functions.value_and_gradient(moved)[1]
        return ((noise * other).mean((1, 2)) / problems.level**2).mean()

    assert correlation(1e-7) > 0.95
    assert abs(correlation(1e-3)) < 0.15
    torch.testing.assert_close(problems.value(u), problems.functions.value(u), rtol=0, atol=0)


def test_problems_move_to_float32(name):
    problems, u = shifted.get(name, 0, 6, 2), points(6, 5, 2)
    single = problems.to(torch.float32)
    values, gradients = single.value_and_gradient(u.float())
    assert values.dtype == gradients.dtype == single.minimum.dtype == torch.float32
    scale = problems.value(u).abs().amax()
    torch.testing.assert_close(values.double() / scale, problems.value(u) / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prior", 0, 1, 2), "'prior' is not a shifted collection; allowed are heavy-tailed, "),
        (("ridges", 0, 0, 2), "n = 0"),
        (("ridges", 0, 1, 1), "dim = 1"),
    ],
)
def test_what_is_no_collection_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        shifted.get(*arguments)
