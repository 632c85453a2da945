import pandas as pd
import pytest

from optrepro.analysis import selection


@pytest.fixture(scope="module")
def choices(diagnostics_study):
    return selection.choices(diagnostics_study())


def test_shares_sum_to_one(choices):
    sums = choices.groupby(["workload", "optimizer", "layer", "step"]).share.sum()
    assert sums.to_numpy() == pytest.approx(1)
    summary = selection.summary(choices, ("layer",))
    assert summary[[0.5, 0.9, 0.99]].sum(axis=1).to_numpy() == pytest.approx(1)


def test_the_shares_are_those_of_the_choices(choices):
    summary = selection.summary(choices, ("layer",)).set_index(["workload", "optimizer", "layer"])
    assert summary.loc[("gpt", "raw-each", "in.weight"), [0.5, 0.9, 0.99]].tolist() == [0.2, 0.3, 0.5]
    whole = selection.summary(choices).set_index(["workload", "optimizer"])
    assert whole.loc[("perceptron", "raw-each"), 0.99] == pytest.approx(0.75)


def test_a_constant_rule_is_said_to_be_constant(choices):
    whole = selection.summary(choices).set_index(["workload", "optimizer"]).constant
    assert whole["gpt", "paper"] == "always 0.5"
    assert whole["gpt", "raw-each"] == "no"
    tensors = selection.summary(choices, ("layer",)).set_index(["workload", "optimizer", "layer"]).constant
    assert tensors["gpt", "raw-each", "out.weight"] == "always 0.99"


@pytest.mark.parametrize(("share", "said"), [(1.0, "always 0.9"), (0.996, "0.9, but for 0.4 %"), (0.98, "no")])
def test_a_few_exceptions_are_stated(share, said):
    assert selection.statement(pd.Series({0.5: 1 - share, 0.9: share})) == said


def test_memory_is_the_geometric_mean_of_what_was_chosen(choices):
    memory = selection.memory(choices, ["workload", "optimizer", "layer"])
    assert memory["gpt", "paper", "all"] == pytest.approx(2)
    assert memory["gpt", "raw-each", "in.weight"] == pytest.approx(2**0.2 * 10**0.3 * 100**0.5)
