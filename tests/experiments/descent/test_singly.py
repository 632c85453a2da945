import numpy as np
import pytest
import torch

from optrepro.experiments.descent.singly import Singly
from optrepro.problems.functions.problem import Problem


def quadratic(center):
    def value_and_gradient(x):
        return float(((x - center) ** 2).sum()), 2 * (x - center)

    return value_and_gradient


def problem(start, lower, upper, center):
    start, lower, upper, center = (np.array(each, dtype=float) for each in (start, lower, upper, center))
    return Problem("quadratic", start, lower, upper, 0.0, quadratic(center))


@pytest.fixture
def suite():
    return Singly(
        [problem([1, 2], [0, 0], [4, 8], [3, 3]), problem([-1], [-2], [2], [0]), problem([0], [-1], [9], [5])]
    )


def test_starts_are_in_box_coordinates_padded_with_zeros(suite):
    assert suite.start.tolist() == [[0.25, 0.25], [0.25, 0], [0.1, 0]]
    assert suite.valid.tolist() == [[True, True], [True, False], [True, False]]
    assert suite.start.dtype == suite.optima.dtype == torch.float64


def test_gradients_are_those_in_box_coordinates(suite):
    values, gradients = suite.evaluate(suite.start)
    assert values.tolist() == [5, 1, 25]
    # d f / d u = (upper - lower) d f / d x
    assert gradients.tolist() == [[4 * -4, 8 * -2], [4 * -2, 0], [10 * -10, 0]]


def test_a_row_alone_and_a_slice_are_those_of_the_whole(suite):
    values, gradients = suite.evaluate(suite.start)
    part = suite[:2]
    torch.testing.assert_close(part.evaluate(part.start), (values[:2], gradients[:2]))
    alone = suite[1:]  # it is as wide as its widest problem
    assert alone.start.tolist() == [[0.25], [0.1]]
    for row, dim in enumerate((2, 1, 1)):
        value, gradient = suite.one(row)(suite.start[row, :dim])
        assert value == values[row]
        assert gradient.tolist() == gradients[row, :dim].tolist()


def test_what_is_not_finite_stays_so_without_a_warning(suite, recwarn):
    huge = Problem("huge", np.zeros(1), -np.ones(1), np.ones(1), 0.0, lambda x: (np.inf, np.array([1e308])))
    values, gradients = Singly([huge]).evaluate(torch.zeros(1, 1, dtype=torch.float64))
    assert values.isinf().all()
    assert gradients.isinf().all()
    assert not recwarn.list
