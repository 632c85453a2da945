import math

import pytest
import torch

from optrepro.problems.functions import synthetic
from optrepro.problems.functions.settings import PriorSettings
from optrepro.problems.functions.synthetic import KINDS, SyntheticPrior
from optrepro.settings import overridden

SETTINGS = PriorSettings(
    shares={"convex": 0.25, "gp": 0.35, "sum": 0.4},
    features=64,
    length_scale=(0.1, 1.0),
    anisotropy=3.0,
    condition=1e4,
    amplitude=(0.05, 2.0),
    warp=2.0,
)


def sample(n=24, dim=2, seed=0, **changes):
    return SyntheticPrior(overridden(SETTINGS, changes, "prior")).sample(seed, n, dim)


def only(kind):
    return {"shares": {kind: 1.0}}


def points(n, p, dim, seed=0):
    return torch.rand(n, p, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_gradients_and_hessians_are_those_of_autograd(dim):
    functions, u = sample(dim=dim), points(24, 3, dim).requires_grad_()
    values = functions.value(u)
    (gradient,) = torch.autograd.grad(values.sum(), u, create_graph=True)
    rows = [torch.autograd.grad(gradient[..., i].sum(), u, retain_graph=True)[0] for i in range(dim)]
    value, closed = functions.value_and_gradient(u.detach())
    torch.testing.assert_close(value, values.detach())
    torch.testing.assert_close(closed, gradient.detach())
    torch.testing.assert_close(functions.hessian(u.detach()), torch.stack(rows, -2))


def test_a_longer_batch_begins_with_the_shorter_one_and_rows_are_its_functions():
    long, short, u = sample(n=40), sample(n=7), points(7, 5, 2)
    torch.testing.assert_close(long[:7].value(u), short.value(u), rtol=0, atol=0)
    picked = torch.tensor([3, 1])
    torch.testing.assert_close(long[picked].value(u[picked]), short.value(u)[picked], rtol=0, atol=0)
    assert (len(long), len(long[picked]), long.dim) == (40, 2, 2)


def test_another_seed_is_another_batch():
    u = points(24, 1, 2)
    assert (sample(seed=0).value(u) != sample(seed=1).value(u)).all()


def test_a_quadratic_has_its_condition_in_range_its_mean_1_and_its_minimum_0_at_the_center():
    functions = sample(n=300, warp=0.0, **only("convex"))
    eigenvalues = torch.linalg.eigvalsh(functions.quadratic)
    condition = (eigenvalues[:, 1] / eigenvalues[:, 0]).log10()
    assert eigenvalues.min() > 0
    assert 0 <= condition.min() < 0.1
    assert 3.5 < condition.max() <= 4
    middle = (torch.arange(30, dtype=torch.float64) + 0.5) / 30
    mean = functions.value(torch.cartesian_prod(middle, middle).expand(300, -1, -1)).mean(1)
    torch.testing.assert_close(mean, torch.ones(300, dtype=torch.float64), rtol=1e-2, atol=0)
    at_center = functions.value(functions.center[:, None])
    torch.testing.assert_close(at_center, torch.zeros_like(at_center), rtol=0, atol=1e-12)
    assert ((functions.center >= 0) & (functions.center <= 1)).all()


def test_samples_have_mean_0_and_the_covariance_of_the_rbf_kernel():
    functions = sample(n=20_000, features=16, length_scale=(0.3, 0.3), anisotropy=1.0, warp=0.0, **only("gp"))
    offsets = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.3], [0.3, 0.3], [0.6, 0.0]], dtype=torch.float64)
    values = functions.value((0.2 + offsets).expand(20_000, -1, -1))
    covariance = (values[:, :1] * values).mean(0)
    expected = torch.exp(-offsets.square().sum(-1) / (2 * 0.3**2))
    torch.testing.assert_close(covariance, expected, rtol=0, atol=0.04)
    torch.testing.assert_close(values.mean(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=0.03)


def test_length_scales_of_a_function_differ_between_coordinates_by_at_most_the_anisotropy():
    functions = sample(n=400, features=512, length_scale=(0.2, 0.2), **only("gp"))
    lengths = 1 / functions.frequencies.std(-1)
    ratio = lengths.amax(1) / lengths.amin(1)
    assert ratio.max() < 3 * 1.2
    assert (ratio > 1.5).double().mean() > 0.3
    alike = sample(n=400, features=512, length_scale=(0.2, 0.2), anisotropy=1.0, **only("gp"))
    torch.testing.assert_close(1 / alike.frequencies.std(-1), torch.full((400, 2), 0.2).double(), rtol=0.2, atol=0)


def test_a_sum_is_a_quadratic_plus_a_sample_of_an_amplitude_in_range():
    functions = sample(n=2000, features=256, **only("sum"))
    amplitude = functions.weights.square().sum(1).div(2).sqrt()
    assert amplitude.min() < 0.07 < 1.5 < amplitude.max() < 2 * 1.3
    assert (functions.quadratic.diagonal(dim1=1, dim2=2) > 0).all()


def test_the_shares_are_those_of_the_settings_and_each_kind_has_its_parts():
    functions = sample(n=4000)
    shares = [(functions.kind == KINDS.index(name)).double().mean().item() for name in SETTINGS.shares]
    assert shares == pytest.approx(list(SETTINGS.shares.values()), abs=0.03)
    flat = (functions.quadratic == 0).all(-1).all(-1)
    silent = (functions.weights == 0).all(-1)
    assert torch.equal(flat, functions.kind == KINDS.index("gp"))
    assert torch.equal(silent, functions.kind == KINDS.index("convex"))


def test_the_warp_keeps_order_and_is_the_identity_at_0():
    plain, warped, u = sample(n=50, warp=0.0), sample(n=50, warp=2.0), points(50, 30, 2)
    z, values, s = plain.value(u), warped.value(u), warped.warp[:, None]
    torch.testing.assert_close(values, torch.expm1(s * z) / s)
    assert torch.equal(z.argsort(1), values.argsort(1))
    assert (s.min() < 0.3) & (s.max() > 1.7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimated_minimum_is_no_higher_than_a_dense_grid_and_is_taken_at_its_point(kind):
    functions = sample(n=40, **only(kind))
    found = synthetic.extrema(functions, 1024)
    unit = torch.linspace(0, 1, 101, dtype=torch.float64)
    grid = functions.value(torch.cartesian_prod(unit, unit).expand(40, -1, -1))
    span = grid.amax(1) - grid.amin(1)
    assert ((found.minimum - grid.amin(1)) / span).max() < 1e-6
    height = (found.maximum - grid.amin(1)) / span
    assert 0.4 < height.min() <= height.max() < 1.01
    assert height.median() > 0.85
    torch.testing.assert_close(functions.value(found.minimizer[:, None])[:, 0], found.minimum)
    assert ((found.minimizer >= 0) & (found.minimizer <= 1)).all()


def test_the_estimated_minimizer_of_a_convex_function_is_its_center():
    functions = sample(n=60, dim=3, condition=100.0, **only("convex"))
    torch.testing.assert_close(synthetic.extrema(functions).minimizer, functions.center, rtol=0, atol=1e-5)


def test_refined_points_are_never_higher_and_stay_in_the_box():
    functions, u = sample(n=30), points(30, 4, 2)
    refined = synthetic.refine(functions, u)
    assert (functions.value(refined) <= functions.value(u)).all()
    assert ((refined >= 0) & (refined <= 1)).all()


def test_points_are_refined_as_far_beside_functions_that_have_arrived_as_alone():
    functions, u = sample(n=12), points(12, 2, 2)
    together = synthetic.refine(functions, u)
    alone = torch.cat([synthetic.refine(functions[i : i + 1], u[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(functions.value(together), functions.value(alone), rtol=0, atol=1e-12)


def test_minima_are_those_of_the_extrema_however_many_functions_there_are():
    functions = sample(n=synthetic.IN_CACHE + 3)
    torch.testing.assert_close(synthetic.minima(functions, chunk=5), synthetic.extrema(functions).minimum)


def test_functions_move_to_float32_and_keep_their_kind():
    functions, u = sample(), points(24, 5, 2)
    single = functions.to(torch.float32)
    value, gradient = single.value_and_gradient(u.float())
    assert value.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(value.double(), functions.value(u), rtol=1e-3, atol=1e-3)
    assert torch.equal(single.kind, functions.kind)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_functions_are_the_same_on_a_gpu():
    u = points(24, 5, 2)
    on_gpu = SyntheticPrior(SETTINGS).sample(0, 24, 2, "cuda")
    torch.testing.assert_close(on_gpu.value(u.cuda()).cpu(), sample().value(u))
    torch.testing.assert_close(sample().to(torch.device("cuda")).value(u.cuda()).cpu(), sample().value(u))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": {"convex": 0.5}}, "shares"),
        ({"shares": {"convex": 0.5, "other": 0.5}}, "other"),
        ({"length_scale": (1.0, 0.1)}, "length_scale"),
        ({"length_scale": (0.0, 0.1)}, "length_scale"),
        ({"amplitude": (2.0, 1.0)}, "amplitude"),
    ],
)
def test_settings_that_make_no_prior_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        sample(**changes)


def test_a_function_is_finite_all_over_the_box_even_where_length_scales_are_short():
    functions = sample(n=300, length_scale=(0.04, 1.0))
    value, gradient = functions.value_and_gradient(points(300, 50, 2))
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert math.isfinite(functions.hessian(points(300, 5, 2)).abs().max().item())


@pytest.mark.parametrize("scales", [(0.04, 0.05), (0.5, 1.0)])
@pytest.mark.parametrize("warp", [0.0, 2.0])
def test_values_near_a_minimum_jump_by_at_most_their_rounding(scales, warp):
    functions = sample(n=64, length_scale=scales, warp=warp, **only("gp"))
    lowest = synthetic.extrema(functions).minimizer[:, None]
    # so near that an exact value would be the same
    near = (lowest + 1e-10 * (points(64, 400, 2) - 0.5)).clamp(0, 1)
    jumps = functions.value(near).std(1)
    inside = ((lowest > 0.01) & (lowest < 0.99)).all(-1)[:, 0]
    share = (jumps / functions.rounding())[inside]
    assert inside.sum() > 10
    assert share.max() < 1
    if not warp:
        assert share.min() > 0.01


def test_a_quadratic_is_not_rounded_near_its_minimum_even_when_warped():
    functions = sample(**only("convex"))
    assert not functions.rounding().any()
    near = functions.center[:, None] + 1e-9 * (points(24, 5, 2) - 0.5)
    offset = near - functions.center[:, None]
    exact = torch.einsum("npi,nij,npj->np", offset, functions.quadratic, offset)
    torch.testing.assert_close(functions.value(near), exact, rtol=1e-10, atol=0)
