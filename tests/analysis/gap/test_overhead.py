"""Ratios of made-up times, whose medians are known."""

import numpy as np
import pytest
from scipy import stats

from optrepro.analysis.gap import overhead


def test_ratios_are_medians_over_the_turns(overhead_study):
    table = overhead.ratios(overhead_study()).set_index(["network", "optimizer"])
    assert table.ratio["perceptron", "paper"] == pytest.approx(2.0)
    assert table.ratio["gpt", "continuous"] == pytest.approx(1.2)
    assert table.state["gpt", "paper"] == 3.0
    assert table.parameters["gpt", "paper"] == 1000
    assert table.seconds["perceptron", "paper"] == pytest.approx(0.002)
    assert (table.low <= table.ratio).all()
    assert (table.ratio <= table.high).all()


def test_rows_have_the_words_of_the_config_and_torchs_own_are_named(overhead_study):
    table = overhead.ratios(overhead_study())
    labels = table.drop_duplicates("optimizer").set_index("optimizer")
    assert labels.label["paper"] == "GAP, paper"
    assert labels.label["foreach"] == "torch, foreach"
    assert labels.group["foreach"] == "torch"
    assert labels.loc["paper-each", "select"] == "per_parameter"
    assert list(table.network_label.unique()) == ["perceptron", "GPT"]


@pytest.mark.parametrize("count", [6, 9, 20, 40])
def test_the_interval_holds_the_median_as_often_as_it_says_and_is_the_narrowest(count):
    values = np.arange(count, dtype=float)
    _, low, high = overhead.ratio_interval(values)
    assert low + high == count - 1
    coverage = 1 - 2 * stats.binom.cdf(low, count, 0.5)
    assert coverage >= 0.95
    assert 1 - 2 * stats.binom.cdf(low + 1, count, 0.5) < 0.95


def test_few_turns_give_their_range():
    assert overhead.ratio_interval([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
