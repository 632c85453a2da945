"""The fixed sets are the same wherever they are named, and progress on them is counted by closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor

from optrepro.conventions import FLOOR
from optrepro.experiments.descent.fixed_sets import FixedSet, fixed, progress
from optrepro.problems.functions.settings import PriorSettings

PRIOR = PriorSettings(
    shares={"convex": 0.25, "gp": 0.35, "sum": 0.4},
    features=16,
    length_scale=(0.1, 1.0),
    anisotropy=3.0,
    condition=1e4,
    amplitude=(0.05, 2.0),
    warp=2.0,
)


def parts(of: FixedSet) -> dict[str, Tensor]:
    return {**vars(of.functions), "start": of.start}


def test_a_larger_set_begins_with_the_smaller_one() -> None:
    small, large = (fixed(PRIOR, 1, "test", count, 2) for count in (10, 70))
    for name, expected in parts(small).items():
        torch.testing.assert_close(parts(large)[name][:10], expected, rtol=1e-14, atol=0, msg=name)
    for name, extremum in vars(small.extrema).items():
        torch.testing.assert_close(getattr(large.extrema, name)[:10], extremum)


def test_equal_names_give_equal_sets() -> None:
    first = fixed(PRIOR, 1, "test", 10, 2)
    torch.manual_seed(99)
    again = fixed(PRIOR, 1, "test", 10, 2)
    assert all(torch.equal(parts(again)[name], value) for name, value in parts(first).items())


@pytest.mark.parametrize(("seed", "name", "dim"), [(2, "test", 2), (1, "validation", 2), (1, "test", 3)])
def test_seeds_names_and_dimensions_tell_sets_apart(seed: int, name: str, dim: int) -> None:
    first, other = fixed(PRIOR, 1, "test", 10, 2), fixed(PRIOR, seed, name, 10, dim)
    assert other.start.shape == (10, dim)
    for part in ("center", "phases", "weights", "start"):
        ours, theirs = parts(first)[part].flatten(), parts(other)[part].flatten()
        common = set(ours[ours != 0].tolist()) & set(theirs.tolist())
        assert not common, part


def test_starts_are_not_drawn_from_the_numbers_of_the_functions() -> None:
    made = fixed(PRIOR, 1, "test", 10, 2)
    assert not set(made.start.flatten().tolist()) & set(made.functions.center.flatten().tolist())


def test_starts_lie_in_the_box_and_no_start_is_below_the_minimum() -> None:
    made = fixed(PRIOR, 1, "test", 50, 2)
    assert 0 <= made.start.min() < made.start.max() <= 1
    value = made.functions.value(made.start[:, None])[:, 0]
    assert (value >= made.extrema.minimum).all()


def of_one_run(*regrets: float) -> tuple[float, float]:
    improvement, digits = progress(np.array(regrets)[:, None])
    return improvement.item(), digits.item()


@pytest.mark.parametrize(
    ("regrets", "improvement", "digits"),
    [
        ((2.0, 2.0), 0, 0),
        ((2.0, 1.0, 0.2), 0.9, 1),
        ((5e-9, 5e-11), 0.99, 2),
        ((1e200, 1e197), 0.999, 3),
        ((4.0, 0.0), 1, 12),
        ((1.0, 1e-20), 1, 12),
    ],
)
def test_progress_is_the_share_of_the_starts_regret_that_is_gone_and_the_digits_of_what_is_left(
    regrets: tuple[float, ...], improvement: float, digits: float
) -> None:
    assert of_one_run(*regrets) == pytest.approx((improvement, digits))


def test_no_progress_is_made_from_an_optimal_start() -> None:
    assert of_one_run(0.0, 0.0) == (0, 0)


def test_what_beats_an_estimated_minimum_takes_its_place() -> None:
    assert of_one_run(1.0, 0.1, -1.0) == pytest.approx((1, -np.log10(FLOOR)))
    assert of_one_run(-1.0, -1.0) == (0, 0)  # the start did already, and nothing came after it


def test_a_run_without_a_finite_start_has_made_no_progress() -> None:
    assert of_one_run(np.inf, np.inf) == (0, 0)
    assert of_one_run(np.inf, 1.0) == (0, 0)


def test_runs_are_counted_each_for_itself() -> None:
    runs = [(1.0, 0.1), (np.inf, np.inf), (0.0, 0.0), (1.0, -1.0), (8.0, 4.0)]
    together = progress(np.array(runs).T)
    alone = np.array([of_one_run(*run) for run in runs]).T
    np.testing.assert_array_equal(together, alone)
