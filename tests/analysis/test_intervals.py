import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from optrepro.analysis.intervals import holm, mean_interval, median_interval, sign_flip_test


def test_interval_is_the_mean_plus_and_minus_t_times_the_standard_error():
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * math.sqrt(5 / 3) / 2  # t at 0.975 with 3 degrees of freedom, s^2 = 5/3, n = 4
    assert mean == 2.5
    assert (low, high) == pytest.approx((2.5 - half, 2.5 + half), abs=1e-6)


def test_interval_covers_the_truth_as_often_as_its_level_says():
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.normal(3.0, 2.0, size=10), level=0.9) for _ in range(2000)]
    covered = np.mean([low <= 3.0 <= high for _, low, high in intervals])
    assert covered == pytest.approx(0.9, abs=0.02)  # three standard errors


def test_one_value_has_a_mean_and_no_interval_and_none_has_neither():
    mean, low, high = mean_interval([0.5])
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)
    assert all(math.isnan(x) for x in mean_interval([]))


@pytest.mark.parametrize("bad", [{"values": [1.0, math.nan]}, {"values": [1.0, 2.0], "level": 1.0}])
def test_bad_input_is_refused_by_name(bad):
    with pytest.raises(ValueError, match=r"values|level"):
        mean_interval(**bad)


def test_sign_flip_p_is_the_share_of_sign_patterns_at_least_as_extreme():
    differences = np.array([0.3, -0.1, 0.4, 0.25, 0.05])
    means = [np.mean(differences * signs) for signs in product((1, -1), repeat=5)]
    share = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert sign_flip_test(differences) == pytest.approx(share)


@pytest.mark.parametrize("pairs", [2, 6, 14])
def test_sign_flip_p_is_that_of_scipy_with_equal_differences_too(pairs):
    for sample in (np.random.default_rng(0).normal(0.3, 1, pairs), np.array([0.1, 0.2, 0.3] * 5)[:pairs]):
        test = stats.permutation_test((sample,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert sign_flip_test(sample) == pytest.approx(test.pvalue)


@pytest.mark.parametrize(("pairs", "smallest"), [(3, 2 / 8), (10, 2 / 1024)])
def test_smallest_p_is_two_sign_patterns(pairs, smallest):
    assert sign_flip_test(np.arange(1.0, pairs + 1)) == pytest.approx(smallest)


def test_no_difference_is_no_evidence():
    assert sign_flip_test([0.0, 0.0, 0.0]) == 1.0
    assert sign_flip_test([0.2]) == 1.0
    assert math.isnan(sign_flip_test([]))


def test_many_pairs_are_sampled_and_the_seed_decides():
    differences = np.random.default_rng(0).normal(0.4, 1, size=20)
    assert sign_flip_test(differences, seed=1) == sign_flip_test(differences, seed=1)
    assert sign_flip_test(differences, seed=1) == pytest.approx(sign_flip_test(differences, seed=2), abs=0.025)


def test_holm_by_hand():
    # ascending: 0.01 * 3, max(that, 0.02 * 2), max(that, 0.9 * 1)
    assert holm([0.9, 0.01, 0.02]) == pytest.approx([0.9, 0.03, 0.04])


def test_holm_never_falls_and_never_exceeds_one():
    assert holm([0.03, 0.031, 0.9]) == pytest.approx([0.09, 0.09, 0.9])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_is_that_of_statsmodels():
    p = np.random.default_rng(0).random(40) ** 3
    assert holm(p.tolist()) == multipletests(p, method="holm")[1].tolist()


def test_holm_leaves_out_what_was_not_tested():
    adjusted = holm([math.nan, 0.01, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.02])


def test_the_medians_interval_lies_between_the_right_order_statistics():
    # P(Binomial(10, 1/2) < 2) = 0.011 and P(... < 3) = 0.055, so the second smallest and the second largest
    assert median_interval(range(1, 11)) == (5.5, 2, 9)


def test_the_medians_interval_covers_the_median_at_its_level():
    samples = np.random.default_rng(0).exponential(size=(2000, 64))
    ends = np.array([median_interval(sample)[1:] for sample in samples])
    covered = ((ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1])).mean()
    assert 0.945 < covered < 0.975


def test_few_values_have_a_median_without_an_interval_and_none_have_nothing():
    assert median_interval([1, 2, 3])[0] == 2
    assert np.isnan(median_interval([1, 2, 3])[1:]).all()
    assert np.isnan(median_interval([])).all()
