import numpy as np
import pandas as pd
import pytest
import scikit_posthocs
from scipy import stats

from optrepro.analysis import rankings

# Demsar (2006), table 6: AUC of four variants of C4.5 on 14 data sets.
DEMSAR = pd.DataFrame(
    [
        (0.763, 0.768, 0.771, 0.798),
        (0.599, 0.591, 0.590, 0.569),
        (0.954, 0.971, 0.968, 0.967),
        (0.628, 0.661, 0.654, 0.657),
        (0.882, 0.888, 0.886, 0.898),
        (0.936, 0.931, 0.916, 0.931),
        (0.661, 0.668, 0.609, 0.685),
        (0.583, 0.583, 0.563, 0.625),
        (0.775, 0.838, 0.866, 0.875),
        (1.000, 1.000, 1.000, 1.000),
        (0.940, 0.962, 0.965, 0.962),
        (0.619, 0.666, 0.614, 0.669),
        (0.972, 0.981, 0.975, 0.9749),  # printed 0.975, but ranked third
        (0.957, 0.978, 0.946, 0.970),
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)


@pytest.fixture
def values():
    noise = np.random.default_rng(0).normal(size=(30, 5))
    return pd.DataFrame(noise + np.array([0.0, 0.0, 0.5, 1.0, 2.0]), columns=list("abcde"))


def test_average_ranks_are_those_of_demsars_example():
    assert rankings.average_ranks(-DEMSAR).round(3).tolist() == [3.143, 2.000, 2.893, 1.964]


def test_the_critical_difference_is_that_of_demsars_example():
    assert rankings.critical_difference(optimizers=4, problems=14) == pytest.approx(1.25, abs=0.005)


def test_friedman_is_hand_computed_without_ties():
    # ranks (1, 2, 3), (1, 2, 3), (1, 3, 2), (2, 1, 3): sums 5, 8, 11, chi2 = 12/(4*3*4) * (25 + 64 + 121) - 3*4*4
    values = pd.DataFrame([(0, 1, 2), (0, 1, 2), (0, 2, 1), (1, 0, 2)])
    test = rankings.friedman(values)
    assert test.chi_squared == pytest.approx(4.5)
    assert test.p == pytest.approx(stats.chi2.sf(4.5, 2))
    assert test.f == pytest.approx(3 * 4.5 / (4 * 2 - 4.5))
    assert test.f_p == pytest.approx(stats.f.sf(3 * 4.5 / 3.5, 2, 6))


def test_friedman_of_perfect_agreement_is_certain_and_of_two_optimizers_is_nan():
    agreement = rankings.friedman(pd.DataFrame([(0, 1, 2)] * 5))
    assert agreement.f == np.inf
    assert agreement.f_p == 0
    assert np.isnan(rankings.friedman(pd.DataFrame([(0, 1)] * 5)).p)


def test_pairs_are_tested_as_scikit_posthocs_does(values):
    table = rankings.pairwise(values)
    expected = scikit_posthocs.posthoc_wilcoxon(values.melt(), val_col="value", group_col="variable", p_adjust="holm")
    assert len(table) == 10
    for row in table.to_dict("records"):
        assert row["p_holm"] == pytest.approx(expected.loc[row["first"], row["second"]])


def test_wins_ties_and_losses_count_the_first_of_the_pair():
    row = rankings.pairwise(pd.DataFrame({"a": [1, 2, 3, 3], "b": [2, 2, 1, 4]})).iloc[0]
    assert (row["first"], row.second, row.wins, row.ties, row.losses) == ("a", "b", 2, 1, 1)


def test_optimizers_that_never_differ_have_p_one(values):
    table = rankings.pairwise(values.assign(b=values.a)[["a", "b"]])
    assert table.p.tolist() == [1.0]
    assert table.statistic.tolist() == [30 * 31 / 4]


def test_ranks_of_zero_differences_are_split_between_the_signs():
    # |d| = 0, 0, 1, 2, 3 have ranks 1.5, 1.5, 3, 4, 5; all of a's differences are negative: R+ = 1.5, R- = 13.5
    row = rankings.pairwise(pd.DataFrame({"a": [0, 0, 0, 0, 0], "b": [0, 0, 1, 2, 3]})).iloc[0]
    assert row.statistic == 1.5


@pytest.mark.parametrize("pairs", [1, 2, 7, 13, 14, 43])
def test_wilcoxon_is_that_of_scipy_with_ties_and_zeros_and_without(pairs):
    rng = np.random.default_rng(pairs)
    for difference in (rng.standard_normal(pairs), rng.integers(-2, 4, pairs).astype(float)):
        if difference.any():
            expected = stats.wilcoxon(difference, zero_method="zsplit", method="auto")
            assert rankings.wilcoxon(pd.Series(difference)) == pytest.approx((expected.statistic, expected.pvalue))


def test_consistent_differences_are_found_and_chance_is_not(values):
    p = rankings.pairwise(values).set_index(["first", "second"]).p_holm
    assert p["a", "e"] < 0.001
    assert p["a", "b"] > 0.05
