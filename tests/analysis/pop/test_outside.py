import numpy as np
import pandas as pd
import pytest

from optrepro.analysis import rankings
from optrepro.analysis.pop import generalization, outside
from optrepro.analysis.results import StudyResults

INF = float("inf")
# Digits of two solvers on three problems: to the tolerance 1e-3, a needs 2, 10 and 10 evaluations, b needs 10 and 2.
DIGITS = pd.DataFrame(
    {"a": [0, 0, 0, 3.5, 1, 0, 4, 3, 5], "b": [0, 0, 0, 2.9, 3, 0, 3, 4, 2.99]},
    index=pd.MultiIndex.from_product([[1, 2, 10], ["p", "q", "r"]], names=["step", "problem"]),
)


def test_a_problem_is_solved_at_the_first_evaluation_that_reaches_the_tolerance():
    times = outside.solving_times(DIGITS, 1e-3)
    assert times.loc[["p", "q", "r"]].to_numpy().tolist() == [[2, 10], [10, 2], [10, INF]]
    assert outside.solving_times(DIGITS, 1e-5).to_numpy().tolist() == [[INF, INF], [INF, INF], [10, INF]]


def test_a_data_profile_is_the_share_solved_by_each_evaluation():
    table = outside.shares_below(outside.solving_times(DIGITS, 1e-3))
    shares = table.pivot(index="x", columns="optimizer", values="share")
    assert shares.index.tolist() == [1, 2, 10]
    np.testing.assert_allclose(shares["a"], [0, 1 / 3, 1])
    np.testing.assert_allclose(shares["b"], [0, 1 / 3, 2 / 3])


def test_a_performance_profile_is_the_share_within_a_multiple_of_the_fewest_evaluations(outside_study, monkeypatch):
    study = outside_study()
    digits = DIGITS.rename(columns={"a": "adam", "b": "pop"})
    monkeypatch.setattr(outside, "_digits", lambda study: digits)
    table = outside.profiles(study)
    own = table[(table.kind == "performance") & (table.tolerance == 1e-3)]
    shares = own.pivot(index="x", columns="optimizer", values="share")
    assert shares.index.tolist() == [1, 5]  # p: 1 and 5, q: 5 and 1, r: 1 and never
    np.testing.assert_allclose(shares.adam, [2 / 3, 1])
    np.testing.assert_allclose(shares["pop"], [1 / 3, 2 / 3])
    assert set(own.problems) == {3}


@pytest.mark.parametrize("study", ["pop-cutest", "pop-bbob"])
def test_ranks_are_of_every_group_of_dimensions_and_budget_and_of_all_problems(study, outside_study):
    table = outside.ranks(outside_study(study))
    groups = {"pop-cutest": ["all", "1–2", "3–5", "6–10", "11–32"], "pop-bbob": ["all", "2", "10"]}[study]
    sizes = {"pop-cutest": [24, 6, 6, 6, 6], "pop-bbob": [48, 24, 24]}[study]
    assert list(table.columns) == outside.RANKS
    assert table.groupby("group", sort=False).problems.first().to_dict() == dict(zip(groups, sizes, strict=True))
    assert list(table.budget.unique()) == [50, 200, 500]
    assert list(table.optimizer.unique()) == ["adam", "rprop", "lbfgs", "pop"]  # references ran on fewer problems
    assert len(table) == len(groups) * 3 * 4


def test_ranks_of_first_order_optimizers_leave_quasi_newton_methods_out(outside_study):
    study = outside_study("pop-bbob")
    table = outside.ranks(study)
    own = table[(table.group == "2") & (table.budget == 50)].set_index("optimizer")
    digits = generalization.by_problem(study, "bbob-2d").digits.xs(50, level="step").unstack("optimizer")
    expected = rankings.summary(-digits[["adam", "rprop", "pop"]]).set_index("optimizer")
    pd.testing.assert_series_equal(own["rank"].dropna()[expected.index], expected["rank"], check_names=False)
    assert np.isnan(own.loc["lbfgs", "rank"])
    assert own.rank_gradient.sum() == pytest.approx(10)
    assert set(own.friedman_p) == {expected.friedman_p.iloc[0]}
    assert own.loc["adam", ["wins", "ties", "losses"]].tolist() == [24, 0, 0]
    assert own.loc["adam", "p"] < 1e-5
    assert np.isnan(own.loc["pop", "p"])


def test_rates_are_those_tuned_on_the_prior(outside_study):
    table = outside.ranks(outside_study()).groupby("optimizer").learning_rate.first()
    assert table[["adam", "rprop"]].tolist() == [0.1, 0.1]


def test_solved_problems_are_those_below_the_tolerance(outside_study):
    study = outside_study()
    table = outside.ranks(study)
    digits = generalization.by_problem(study, "cutest").digits.xs(200, level="step").unstack("optimizer")
    own = table[(table.group == "all") & (table.budget == 200)].set_index("optimizer")
    for column, least in (("solved", 3), ("solved_well", 6)):
        pd.testing.assert_series_equal(own[column], (digits[own.index] >= least).mean(), check_names=False)


def test_the_lowest_value_of_any_run_is_the_minimum(outside_study):
    study = outside_study()
    runs = study.runs.copy()
    best = (runs.workload == "cutest") & (runs.metric == "regret") & (runs.seed == 0)
    runs.loc[best, "value"] += -0.5  # the reference goes lowest on this problem
    reference = best & (runs.optimizer == "random-search") & (runs.step == 50)
    runs.loc[reference, "value"] = -0.7
    table = outside.ranks(StudyResults(runs, study.facts))
    own = table[(table.group == "1–2") & (table.budget == 500)].set_index("optimizer")
    assert own.loc["pop", "solved"] == pytest.approx(5 / 6)


def test_runs_that_met_something_not_finite_are_counted_from_then_on(outside_study):
    table = outside.ranks(outside_study())
    counts = table[table.optimizer == "adam"].pivot(index="group", columns="budget", values="not_finite")
    assert counts.loc["all"].tolist() == [0, 1, 1]
    assert counts.loc["11–32"].tolist() == [0, 1, 1]
    assert counts.loc["1–2"].tolist() == [0, 0, 0]
    assert set(table[table.optimizer != "adam"].not_finite) == {0}


def test_problems_that_start_at_the_lowest_value_are_skipped_and_counted(outside_study):
    study = outside_study()
    runs = study.runs.copy()
    runs.loc[(runs.workload == "cutest") & (runs.metric == "regret") & (runs.seed == 0), "value"] = 0.0
    table = outside.ranks(StudyResults(runs, study.facts)).groupby("group", sort=False)[["problems", "skipped"]].first()
    assert table.loc["all"].tolist() == [23, 1]
    assert table.loc["1–2"].tolist() == [5, 1]


def test_without_the_package_the_tables_are_empty_with_their_columns(outside_study):
    study = outside_study(installed=False)
    for table, columns in ((outside.ranks(study), outside.RANKS), (outside.profiles(study), outside.PROFILES)):
        assert table.empty
        assert list(table.columns) == columns


def test_budgets_that_no_run_reaches_are_left_out(outside_study):
    study = outside_study()
    short = StudyResults(study.runs[study.runs.step <= 50], study.facts)
    assert set(outside.ranks(short).budget) == {50}
