import numpy as np
import pytest

from optrepro.problems.functions import bbob

cocoex = pytest.importorskip("cocoex")

FUNCTIONS = range(1, 25)


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_minimum_is_the_value_at_the_minimizer(function, dim):
    p = bbob.problems(48, dim)[24 + function - 1]
    best = cocoex.BareProblem("bbob", function, dim, 2).best_parameter()
    assert p.name == f"bbob_f{function:03}_i02_d{dim:02}"
    assert p.value_and_gradient(np.array(best))[0] == pytest.approx(p.minimum, abs=1e-7)
    assert p.value_and_gradient(p.start)[0] > p.minimum


def test_the_first_24_are_an_instance_of_every_function_and_a_longer_list_begins_with_them():
    few, many = bbob.problems(24, 2), bbob.problems(30, 2)
    assert [p.name for p in many[:24]] == [p.name for p in few] == [f"bbob_f{i:03}_i01_d02" for i in FUNCTIONS]
    assert many[24].name == "bbob_f001_i02_d02"


def test_starts_are_in_the_box_and_the_same_each_time_and_differ():
    starts = [np.array([p.start for p in bbob.problems(30, 3)]) for _ in range(2)]
    assert np.array_equal(*starts)
    assert len(np.unique(starts[0])) == 90
    assert np.abs(starts[0]).max() < 5
    assert {(*p.lower, *p.upper) for p in bbob.problems(3, 2)} == {(-5, -5, 5, 5)}


def sphere(x):
    return float((x**2).sum())


def ellipsoid(x):
    return float((10.0 ** (6 * np.arange(len(x)) / (len(x) - 1)) * x**2).sum())


@pytest.mark.parametrize(("value", "weights"), [(sphere, [1, 1, 1]), (ellipsoid, [1, 1e3, 1e6])])
def test_central_differences_are_the_gradient(value, weights):
    x = np.array([0.5, -3.0, 4.0])
    found, gradient = bbob.central_differences(value)(x)
    assert found == value(x)
    np.testing.assert_allclose(gradient, 2 * np.array(weights) * x, rtol=1e-3)
    np.testing.assert_allclose(gradient[-1], 2 * weights[-1] * x[-1], rtol=1e-9)


def test_the_sphere_has_the_gradient_of_a_sphere():
    p = bbob.problems(1, 5)[0]
    best = np.array(cocoex.BareProblem("bbob", 1, 5, 1).best_parameter())
    np.testing.assert_allclose(p.value_and_gradient(p.start)[1], 2 * (p.start - best), rtol=1e-6)


def test_a_dimension_without_functions_is_an_error():
    with pytest.raises(ValueError, match=r"dim = 1 is not allowed: the functions of BBOB have at least 2 dimensions"):
        bbob.problems(1, 1)
