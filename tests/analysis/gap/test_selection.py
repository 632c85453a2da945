import pandas as pd
import pytest

from optrepro.analysis.gap import selection

ROW = ["workload", "optimizer", "layer"]


@pytest.fixture(scope="module")
def study(diagnostics_study):
    return diagnostics_study()


@pytest.fixture(scope="module")
def summary(study):
    return selection.summary(study).set_index(ROW)


def test_shares_sum_to_one(study):
    sums = selection.shares(study).groupby(ROW).share.sum()
    assert sums.to_numpy() == pytest.approx(1)


def test_the_shares_are_those_of_the_choices(study):
    shares = selection.shares(study).pivot(index=ROW, columns="candidate", values="share")
    assert shares.loc[("gpt", "raw-each", "in.weight")].to_dict() == {0.5: 0.2, 0.9: 0.3, 0.99: 0.5}
    assert shares.loc[("perceptron", "raw-each", "all"), 0.99] == pytest.approx(0.75)


def test_a_rule_has_a_row_for_all_of_its_choices_and_one_for_each_tensor_it_chooses_for(study):
    for table in (selection.shares(study), selection.summary(study)):
        layers = table[table.workload == "gpt"].groupby("optimizer").layer.unique()
        assert {key: list(own) for key, own in layers.items()} == {
            "paper": ["all"],
            "raw-each": ["all", "in.weight", "out.weight"],
        }


def test_a_constant_rule_is_said_to_be_constant(summary):
    assert summary.constant["gpt", "paper", "all"] == "always 0.5"
    assert summary.constant["gpt", "raw-each", "all"] == "no"
    assert summary.constant["gpt", "raw-each", "out.weight"] == "always 0.99"


@pytest.mark.parametrize(("share", "said"), [(1.0, "always 0.9"), (0.996, "0.9, but for 0.4 %"), (0.98, "no")])
def test_a_few_exceptions_are_stated(share, said):
    assert selection.statement(pd.Series({0.5: 1 - share, 0.9: share})) == said


def test_memory_is_the_geometric_mean_of_what_was_chosen(summary):
    assert summary.memory["gpt", "paper", "all"] == pytest.approx(2)
    assert summary.memory["gpt", "raw-each", "in.weight"] == pytest.approx(2**0.2 * 10**0.3 * 100**0.5)
