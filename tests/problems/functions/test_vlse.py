import math
import pickle

import numpy as np
import pytest
import torch

from optrepro.problems.functions import vlse

EXTRAS = ("bohachevsky2", "bohachevsky3", "shekel5", "shekel7")
HIGHER = {  # a second dimension for every function whose dimension is free
    "ackley": 5,
    "griewank": 5,
    "levy": 5,
    "rastrigin": 5,
    "schwefel": 5,
    "perm0db": 5,
    "rotated_hyper_ellipsoid": 5,
    "sphere": 5,
    "sum_of_powers": 5,
    "sum_squares": 5,
    "trid": 5,
    "zakharov": 5,
    "dixon_price": 5,
    "rosenbrock": 5,
    "michalewicz": 5,
    "permdb": 5,
    "powell": 8,
    "styblinski_tang": 5,
}
FUNCTIONS = [vlse.get(name) for name in (*vlse.names(), *EXTRAS)] + [vlse.get(*item) for item in HIGHER.items()]

every_function = pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f"{f.name}-{f.dim}")
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def points(f, n, seed=0):
    return vlse.sample_starts(f, n, torch.Generator().manual_seed(seed))


def gradient(f, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


def special_points(f):
    """Corners, centre and edge centres of the box, the origin and the axes, and every minimizer, clipped to the box."""
    lattice = torch.cartesian_prod(*torch.tensor([[0.0, 0.5, 1.0]] * f.dim, dtype=torch.float64)).reshape(-1, f.dim)
    box = f.lower + (f.upper - f.lower) * lattice
    zero = torch.zeros(f.dim, dtype=torch.float64)
    axes = torch.cat([torch.diag(f.lower), torch.diag(f.upper)])
    return torch.cat([box, zero[None], axes, f.minimizers]).clamp(f.lower, f.upper)


# --- The collection -------------------------------------------------------------------------------------------------


def test_there_are_47_functions_in_six_groups():
    assert len(vlse.names()) == len(set(vlse.names())) == 47
    assert [len(vlse.names(group)) for group in vlse.GROUPS] == [16, 7, 5, 4, 3, 12]
    assert sum((vlse.names(group) for group in vlse.GROUPS), ()) == vlse.names()


def test_the_43_smooth_functions_leave_out_the_four_kinks():
    assert len(vlse.SMOOTH_43) == 43
    assert set(vlse.names()) - set(vlse.SMOOTH_43) == {"bukin6", "cross_in_tray", "eggholder", "holder_table"}
    assert all(vlse.get(name).smooth for name in vlse.SMOOTH_43)


@pytest.mark.parametrize("name", EXTRAS)
def test_the_extras_are_found_by_name_and_counted_nowhere(name):
    assert vlse.get(name).name == name
    assert name not in vlse.names()


def test_the_default_dimension_is_the_fixed_one_or_the_smallest_useful_one():
    dims = {name: vlse.get(name).dim for name in ("ackley", "powell", "forrester", "hartmann6", "shekel", "branin")}
    assert dims == {"ackley": 2, "powell": 4, "forrester": 1, "hartmann6": 6, "shekel": 4, "branin": 2}


@pytest.mark.parametrize("name", ["ackley", "shekel7"])
def test_a_function_survives_pickling(name):
    f = vlse.get(name)
    x = points(f, 3)
    assert torch.equal(pickle.loads(pickle.dumps(f))(x), f(x))


# --- Minima ---------------------------------------------------------------------------------------------------------


@every_function
def test_the_value_at_every_minimizer_is_the_optimum(f):
    values = f(f.minimizers)
    assert values.shape == (len(f.minimizers),)
    torch.testing.assert_close(values, torch.full_like(values, f.optimum), rtol=1e-12, atol=1e-12)


@every_function
def test_the_minimizers_lie_in_the_box(f):
    assert f.minimizers.shape[1:] == f.lower.shape == f.upper.shape == (f.dim,)
    assert (f.minimizers >= f.lower).all()
    assert (f.minimizers <= f.upper).all()


@every_function
def test_no_point_of_the_box_lies_below_the_optimum(f):
    near_minimizers = f.minimizers.repeat(200, 1) + 1e-3 * (points(f, 200 * len(f.minimizers)) - f.minimizers[0])
    sample = torch.cat([points(f, 20_000), near_minimizers.clamp(f.lower, f.upper)])
    assert f(sample).min() >= f.optimum - 1e-11


@every_function
def test_the_gradient_vanishes_at_the_minimizers_inside_the_box(f):
    inside = (f.minimizers > f.lower) & (f.minimizers < f.upper)
    slope = gradient(f, f.minimizers)[inside].abs().max()
    typical = gradient(f, points(f, 1000)).abs().mean()
    assert slope <= 1e-5 * max(typical, 1)


@pytest.mark.parametrize(("dim", "optimum"), [(2, -1.801303410), (5, -4.687658), (10, -9.660152)])
def test_michalewicz_has_its_published_minimum_in_every_dimension(dim, optimum):
    assert vlse.get("michalewicz", dim).optimum == pytest.approx(optimum, abs=1e-6)


@every_function
def test_the_largest_value_exceeds_random_values_but_for_two_percent_of_the_range(f):
    random = f(points(f, 20_000, seed=5)).max().item()
    assert f.largest >= random - 0.02 * (random - f.optimum)


@pytest.mark.parametrize(
    ("name", "dim", "largest"),
    [("sphere", 3, 3 * 5.12**2), ("booth", 2, 37**2 + 35**2), ("cross_in_tray", 2, -0.0001), ("holder_table", 2, 0)],
)
def test_the_largest_value_is_exact_where_it_lies_in_a_corner_or_the_centre(name, dim, largest):
    assert vlse.get(name, dim).largest == pytest.approx(largest)


def test_the_largest_value_is_the_same_every_time():
    first = vlse.get("griewank", 3).largest
    vlse._largest.cache_clear()
    assert vlse.get("griewank", 3).largest == first


# --- Shapes, dtypes, devices ----------------------------------------------------------------------------------------


@every_function
@both_dtypes
def test_a_batch_has_the_values_and_gradients_of_its_points_alone(f, dtype):
    x = points(f, 6).to(dtype)
    alone = torch.stack([f(row) for row in x])
    rtol = 1e-4 if dtype == torch.float32 else 1e-11
    scale = alone.abs().max().item()

    assert f(x[0]).shape == ()
    assert f(x).dtype == dtype
    torch.testing.assert_close(f(x), alone, rtol=rtol, atol=rtol * scale)
    torch.testing.assert_close(f(x.reshape(2, 3, f.dim)), alone.reshape(2, 3), rtol=rtol, atol=rtol * scale)
    rows = torch.stack([gradient(f, row) for row in x])
    torch.testing.assert_close(gradient(f, x), rows, rtol=rtol, atol=rtol * rows.abs().max().item())


@every_function
def test_an_empty_batch_gives_an_empty_result(f):
    assert f(torch.empty(0, f.dim)).shape == (0,)


@every_function
def test_float32_agrees_with_float64(f):
    single = torch.cat([points(f, 500), special_points(f)]).float().clamp(f.lower.float(), f.upper.float())
    double = f(single.double())
    torch.testing.assert_close(f(single).double(), double, rtol=1e-4, atol=2e-6 * double.abs().max().item())


@every_function
def test_no_constant_is_left_on_another_device(f):
    assert f(torch.empty(4, f.dim, device="meta")).device.type == "meta"


@every_function
def test_a_function_first_used_without_autograd_is_differentiable_later(f):
    vlse._table.cache_clear()
    x = points(f, 4)
    with torch.inference_mode():
        f(x)
    assert gradient(f, x).isfinite().all()


@every_function
def test_function_transforms_give_the_gradient_of_autograd(f):
    vlse._table.cache_clear()
    x = points(f, 5)
    transformed = torch.func.vmap(torch.func.grad(f))(x)
    expected = gradient(f, x)
    torch.testing.assert_close(transformed, expected, rtol=1e-9, atol=1e-12 * expected.abs().max().item())


# --- Gradients ------------------------------------------------------------------------------------------------------


@every_function
def test_the_gradient_agrees_with_finite_differences(f):
    x = torch.cat([points(f, 6), torch.lerp(f.minimizers[:1], points(f, 2), 0.01)])
    noise = 1e-9 * f(x).abs().max().item()  # rounding of the values over the length of the difference
    assert torch.autograd.gradcheck(f, x.requires_grad_(), atol=1e-5 + noise)


@every_function
@both_dtypes
def test_the_gradient_is_finite_everywhere_in_the_closed_box(f, dtype):
    x = torch.cat([special_points(f), points(f, 1000)]).to(dtype)
    assert f(x).isfinite().all()
    assert gradient(f, x).isfinite().all()


@both_dtypes
@pytest.mark.parametrize(
    ("name", "kink"),
    [
        ("ackley", (0, 0)),
        ("drop_wave", (0, 0)),
        ("schwefel", (0, 0)),
        ("sum_of_powers", (0, 0)),
        ("holder_table", (0, 0)),
        ("cross_in_tray", (0, 0)),
        ("bukin6", (-10, 1)),
    ],
)
def test_the_subgradient_at_a_kink_is_zero(name, kink, dtype):
    assert gradient(vlse.get(name), torch.tensor(kink, dtype=dtype)).abs().max() < 1e-12


def test_the_eggholder_has_a_finite_gradient_on_its_kinks():
    x = torch.tensor([[0.0, -47.0], [-100.0, 3.0], [100.0, 53.0]])
    assert gradient(vlse.get("eggholder"), x).isfinite().all()


# --- An independent implementation ----------------------------------------------------------------------------------

# Ours -> the class of the package jaxvlse, a port of the library's own R sources, and its arguments but the dimension.
PUBLISHED = {
    "ackley": ("Ackley", {}),
    "bukin6": ("Bukin6", {}),
    "cross_in_tray": ("CrossInTray", {}),
    "drop_wave": ("DropWave", {}),
    "eggholder": ("EggHolder", {}),
    "gramacy_lee": ("GramacyLee", {}),
    "griewank": ("Griewank", {}),
    "holder_table": ("HolderTable", {}),
    "langermann": ("Langermann", {}),
    "levy": ("Levy", {}),
    "levy13": ("Levy13", {}),
    "rastrigin": ("Rastrigin", {}),
    "schaffer2": ("Schaffer2", {}),
    "schaffer4": ("Schaffer4", {}),
    "schwefel": ("Schwefel", {}),
    "shubert": ("Shubert", {}),
    "bohachevsky1": ("Bohachevsky", {"variant": 1}),
    "bohachevsky2": ("Bohachevsky", {"variant": 2}),
    "bohachevsky3": ("Bohachevsky", {"variant": 3}),
    "perm0db": ("Perm0", {"beta": 10}),
    "rotated_hyper_ellipsoid": ("RotatedHyperEllipsoid", {}),
    "sphere": ("Sphere", {}),
    "sum_of_powers": ("SumPowers", {}),
    "sum_squares": ("SumSquares", {}),
    "trid": ("Trid", {}),
    "booth": ("Booth", {}),
    "matyas": ("Matyas", {}),
    "mccormick": ("McCormick", {}),
    "zakharov": ("Zakharov", {}),
    "three_hump_camel": ("Camel3", {}),
    "six_hump_camel": ("Camel6", {}),
    "dixon_price": ("DixonPrice", {}),
    "rosenbrock": ("Rosenbrock", {}),
    "dejong5": ("DeJong5", {}),
    "easom": ("Easom", {}),
    "michalewicz": ("Michalewicz", {"m": 10}),
    "beale": ("Beale", {}),
    "branin": ("Branin", {}),
    "colville": ("Colville", {}),
    "forrester": ("Forrester", {}),
    "goldstein_price": ("GoldsteinPrice", {}),
    "hartmann3": ("Hartmann3", {}),
    "hartmann4": ("Hartmann4", {}),
    "hartmann6": ("Hartmann6", {}),
    "permdb": ("Perm", {"beta": 0.5}),
    "powell": ("Powell", {}),
    "shekel": ("Shekel", {"m": 10}),
    "shekel5": ("Shekel", {"m": 5}),
    "shekel7": ("Shekel", {"m": 7}),
    "styblinski_tang": ("StyblinskiTang", {}),
}
# The package's Power Sum has another vector b, so that one is written out below. The library gives two boxes for each
# of these two; the package takes the smaller.
SMALLER_BOX = ("shubert", "sum_squares")


@pytest.fixture(scope="module")
def published():
    """The function of jaxvlse that corresponds to one of ours."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    import vlse as package

    def build(f):
        name, arguments = PUBLISHED[f.name]
        free = {"d": f.dim} if f.name in HIGHER else {}
        return getattr(package, name)(**free, **arguments)

    return build


def power_sum_as_published(x):
    return sum((sum(value**k for value in x) - b) ** 2 for k, b in enumerate((8, 18, 44, 114), start=1))


def test_every_function_has_an_independent_implementation():
    assert set(PUBLISHED) | {"power_sum"} == {*vlse.names(), *EXTRAS}


@pytest.mark.parametrize("f", [f for f in FUNCTIONS if f.name in PUBLISHED], ids=lambda f: f"{f.name}-{f.dim}")
def test_values_box_and_minimum_are_those_of_an_independent_implementation(f, published):
    other = published(f)
    x = points(f, 200, seed=3)
    expected = torch.from_numpy(np.array(other(x.numpy())))
    torch.testing.assert_close(f(x), expected, rtol=1e-10, atol=1e-12 * expected.abs().max().item())

    assert f.optimum == pytest.approx(float(other.ymin), rel=1e-4, abs=1e-4)
    if f.name not in SMALLER_BOX:
        np.testing.assert_allclose(np.array(other.domain), np.stack([f.lower, f.upper]))


def test_power_sum_has_the_values_of_the_published_formula():
    x = points(vlse.get("power_sum"), 200)
    expected = torch.tensor([power_sum_as_published(row) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(vlse.get("power_sum")(x), expected, rtol=1e-11, atol=0)


# --- Starts ---------------------------------------------------------------------------------------------------------


@every_function
def test_starts_fill_the_box_and_only_the_box(f):
    x = points(f, 4000)
    width = f.upper - f.lower
    assert x.shape == (4000, f.dim)
    assert x.dtype == torch.float64
    assert (x >= f.lower).all()
    assert (x <= f.upper).all()
    torch.testing.assert_close((x.mean(0) - f.lower) / width, torch.full_like(width, 0.5), rtol=0, atol=0.03)
    torch.testing.assert_close(x.std(0) / width, torch.full_like(width, math.sqrt(1 / 12)), rtol=0, atol=0.02)


def test_the_same_generator_state_gives_the_same_starts():
    f = vlse.get("branin")
    assert torch.equal(points(f, 10, seed=1), points(f, 10, seed=1))
    assert not torch.equal(points(f, 10, seed=1), points(f, 10, seed=2))


# --- Errors ---------------------------------------------------------------------------------------------------------


def test_an_unknown_name_is_an_error_that_offers_the_nearest():
    with pytest.raises(ValueError, match=r"name = 'rosenbrok'.*nearest: rosenbrock"):
        vlse.get("rosenbrok")


@pytest.mark.parametrize(
    ("name", "dim", "allowed"),
    [
        ("branin", 3, "2"),
        ("hartmann6", 2, "6"),
        ("powell", 6, "4, 8, 12, ..."),
        ("rosenbrock", 1, "2, 3, 4, ..."),
        ("ackley", 0, "1, 2, 3, ..."),
        ("ackley", 2.0, "1, 2, 3, ..."),
    ],
)
def test_a_dimension_that_a_function_does_not_have_is_an_error_that_lists_the_allowed(name, dim, allowed):
    with pytest.raises(ValueError) as error:
        vlse.get(name, dim)
    assert str(error.value) == f"dim = {dim!r} is not a dimension of {name}; allowed: {allowed}."


def test_an_unknown_group_is_an_error():
    with pytest.raises(ValueError, match=r"group = 'bowls'.*bowl, plate"):
        vlse.names("bowls")


@pytest.mark.parametrize("x", [torch.zeros(3), torch.tensor(0.0), torch.zeros(2, 1)])
def test_a_wrong_last_dimension_is_an_error(x):
    with pytest.raises(ValueError, match="the last dimension must be 2"):
        vlse.get("branin")(x)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
def test_another_dtype_is_an_error(dtype):
    with pytest.raises(ValueError, match=r"dtype .*allowed are torch.float32 and torch.float64"):
        vlse.get("branin")(torch.zeros(2, dtype=dtype))


def test_no_starts_is_an_error():
    with pytest.raises(ValueError, match="n = 0 is not allowed"):
        points(vlse.get("branin"), 0)
