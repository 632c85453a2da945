import math
import random

import numpy as np
import pytest

from optrepro.experiments.descent.derivative_free import METHODS, search

START = np.array([0.9, 0.1])


def sphere(u):
    return float(np.square(u - 0.3).sum())


class Recorder:
    """A function that keeps its points."""

    def __init__(self, function):
        self.function, self.points = function, []

    def __call__(self, u):
        self.points.append(u)
        return self.function(u)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dim", [1, 2, 6])
@pytest.mark.parametrize("budget", [1, 3, 50])
def test_makes_exactly_the_evaluations_of_its_budget_and_returns_their_values(method, dim, budget):
    function = Recorder(sphere)
    values = search(method, function, np.full(dim, 0.9), budget, seed=0)
    assert values.shape == (budget,)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [sphere(u) for u in function.points])


@pytest.mark.parametrize("method", METHODS)
def test_the_first_evaluation_is_at_the_start_to_the_last_bit(method):
    function, start = Recorder(sphere), np.array([0.1 / 3, 1 / 7])
    search(method, function, start, 20, seed=1)
    np.testing.assert_array_equal(function.points[0], start)
    assert not any(np.array_equal(u, start) for u in function.points[1:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_every_point_is_in_the_box_though_the_minimum_is_outside(method, corner):
    function = Recorder(lambda u: float(np.square(u - (3 * corner - 1)).sum()))
    search(method, function, np.full(3, corner), 60, seed=2)
    points = np.array(function.points)
    assert points.shape == (60, 3)
    assert points.min() >= 0
    assert points.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides_everything_that_is_drawn(method):
    first = search(method, sphere, START, 50, seed=3)
    np.random.seed(5)  # noqa: NPY002
    np.testing.assert_array_equal(search(method, sphere, START, 50, seed=3), first)
    assert not np.array_equal(search(method, sphere, START, 50, seed=4), first)


@pytest.mark.parametrize("method", METHODS)
def test_global_random_states_stay_as_they_are(method):
    def states():
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002
        return random.getstate(), kind, keys.tolist(), rest

    before = states()
    search(method, sphere, START, 50, seed=0)
    assert states() == before


@pytest.mark.parametrize("method", [name for name in METHODS if name != "random-search"])
@pytest.mark.parametrize("dim", [2, 6])
def test_finds_a_lower_point_of_a_sphere_than_random_search(method, dim):
    def mean_regret(name):
        starts = np.random.default_rng(0).random((10, dim))
        return np.mean([search(name, sphere, start, 100, seed).min() for seed, start in enumerate(starts)])

    assert mean_regret(method) < 0.75 * mean_regret("random-search")


@pytest.mark.parametrize("method", METHODS)
def test_random_search_covers_the_box_and_every_method_looks_away_from_its_start(method):
    function = Recorder(sphere)
    search(method, function, START, 50, seed=0)
    spread = np.std(function.points, axis=0)
    assert (spread > (0.2 if method == "random-search" else 0.05)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_infinite_and_do_not_stop_the_search(method, wrong):
    values = search(method, lambda u: wrong if u[0] > 0.5 else sphere(u), START, 50, seed=0)
    assert values[0] == math.inf
    assert len(values) == 50
    assert np.isfinite(values).sum() > 10
    assert not np.isnan(values).any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1.0, math.nan])
def test_a_plateau_uses_the_whole_budget(method, value):
    assert len(search(method, lambda u: value, START, 120, seed=0)) == 120


def test_a_search_that_has_converged_begins_anew():
    for method in ("cma-es", "differential-evolution"):
        function = Recorder(lambda u: 0.0 if np.abs(u - START).max() < 0.2 else 1.0)
        search(method, function, START, 2000, seed=0)
        assert np.abs(np.array(function.points[-100:]) - START).max() > 0.3, method


@pytest.mark.parametrize("method", METHODS)
def test_an_error_of_the_function_reaches_the_caller(method):
    def broken(u):
        raise KeyError("u")

    with pytest.raises(KeyError):
        search(method, broken, START, 50, seed=0)


@pytest.mark.parametrize(("dim", "budget", "size"), [(2, 50, 6), (6, 50, 6), (2, 10, 5), (2, 500, 20)])
def test_the_population_of_differential_evolution_fits_the_budget(dim, budget, size, monkeypatch):
    sizes = []

    def first_population(f, box, init, **settings):
        sizes.append(len(init))
        for u in init:
            f(u)

    monkeypatch.setattr("scipy.optimize.differential_evolution", first_population)
    search("differential-evolution", sphere, np.full(dim, 0.5), budget, seed=0)
    assert set(sizes) == {size}


@pytest.mark.parametrize(
    ("method", "start", "budget", "message"),
    [
        ("simplex", [0.5], 10, r"method = 'simplex' is unknown; .*'cma-es'"),
        ("tpe", [0.5, 1.2], 10, r"start = \[0.5, 1.2\] is not allowed; it must be one point"),
        ("tpe", [math.nan], 10, "start = .* is not allowed; it must be one point"),
        ("tpe", [[0.5]], 10, "start = .* is not allowed; it must be one point"),
        ("tpe", [], 10, "start = .* is not allowed; it must be one point"),
        ("tpe", [0.5], 0, "budget = 0 is not allowed; it must be at least 1"),
    ],
)
def test_bad_input_is_named(method, start, budget, message):
    with pytest.raises(ValueError, match=message):
        search(method, sphere, start, budget, seed=0)
