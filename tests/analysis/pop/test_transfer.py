import numpy as np
import pandas as pd
import pytest
from tests.made_up.benchmark import BUDGET, FEW, GROUP, STARTS, made_up

from optrepro.analysis import rankings
from optrepro.analysis.intervals import holm
from optrepro.analysis.pop import transfer


@pytest.fixture(scope="module")
def study():
    return made_up()


@pytest.fixture(scope="module")
def summary(study):
    return transfer.summary(study)


def row_of(table, **keys):
    return table[(table[list(keys)] == pd.Series(keys)).all(axis=1)].squeeze()


def test_a_collection_is_the_benchmark_alone_up_to_the_budget_with_its_references(study):
    part = transfer.collection(study, "vlse", BUDGET)
    assert set(part.runs.workload) == set(GROUP)
    assert part.runs.step.max() == BUDGET
    assert list(part.facts.optimizers) == ["adam", "rprop", "lbfgs", "pop", "tpe"]
    assert part.facts.optimizers["tpe"]["group"] == "derivative-free"
    assert part.facts.settings["starts"] == STARTS
    assert list(transfer.collection(study, "vlse-each").facts.optimizers) == ["adam", "rprop", "lbfgs"]


def test_scores_have_what_is_tuned_twice_and_the_rest_once(study):
    table = transfer.scores(study)
    assert len(table) == len(GROUP) * (5 + 3)
    assert set(table[table.tuned == "each"].optimizer) == {"adam", "rprop", "lbfgs"}
    assert row_of(table, tuned="once", function="booth", optimizer="adam").regret == pytest.approx(65 * 2e-1 / 1e3)
    assert row_of(table, tuned="each", function="booth", optimizer="adam").regret == pytest.approx(65 * 1e-2 / 1e3)


def test_the_rate_is_the_priors_or_the_functions_own(study):
    table = transfer.scores(study)
    once, each = (row_of(table, tuned=tuned, function="booth", optimizer="adam") for tuned in ("once", "each"))
    assert (once.learning_rate, once.on_edge) == (0.2, False)
    assert (each.learning_rate, each.on_edge) == (0.4, True)
    policy = row_of(table, tuned="once", function="booth", optimizer="pop")
    assert np.isnan(policy.learning_rate)
    assert not policy.on_edge


def test_improvement_is_the_mean_over_the_starts_that_can_improve(study):
    row = row_of(transfer.scores(study), tuned="once", function="sphere", optimizer="rprop")
    assert row.mean_improvement == pytest.approx(0.9)
    assert row.skipped == 1


def test_the_summary_ranks_within_each_field(summary):
    policy = row_of(summary, tuned="once", subset="smooth", optimizer="pop")
    assert (policy.functions, policy.rank_first_order, policy.rank_gradient, policy.rank_any) == (8, 1, 2, 2)
    rprop = row_of(summary, tuned="once", subset="smooth", optimizer="rprop")
    assert (rprop.rank_first_order, rprop.rank_gradient, rprop.rank_any) == (2, 3, 3)
    lbfgs = row_of(summary, tuned="once", subset="smooth", optimizer="lbfgs")
    assert np.isnan(lbfgs.rank_first_order)
    assert lbfgs.rank_gradient == 1
    assert row_of(summary, tuned="each", subset="smooth", optimizer="adam").rank_first_order == 2


def test_wins_and_p_values_are_those_of_the_policy_against_the_others():
    summary = transfer.summary(made_up({("booth", "adam"): 1e-9, ("matyas", "adam"): 1e-6}))
    row = row_of(summary, tuned="once", subset="smooth", optimizer="adam")
    assert (row.wins, row.ties, row.losses) == (6, 1, 1)
    change = np.log10([2e-1 / 1e-6] * 6 + [1, 1e-9 / 1e-6])
    alone = [rankings.wilcoxon(pd.Series(change))[1]]
    others = [rankings.wilcoxon(pd.Series([d] * 8))[1] for d in (1.0, -1.0, 1.0)]  # always better, or always worse
    assert row.p_regret == pytest.approx(holm([*alone, *others])[0])
    assert np.isnan(row_of(summary, tuned="once", subset="smooth", optimizer="pop").p_regret)


def test_paired_starts_tell_where_the_policy_is_better_worse_or_neither():
    summary = transfer.summary(made_up({("booth", "lbfgs"): 1e-6}))
    adam, lbfgs = (row_of(summary, tuned="once", subset="all", optimizer=key) for key in ("adam", "lbfgs"))
    assert (adam.start_wins, adam.start_losses) == (9, 0)
    assert (lbfgs.start_wins, lbfgs.start_losses) == (0, 8)  # on booth all starts tie


def test_the_mean_improvement_has_a_bootstrap_interval_over_the_functions():
    row = row_of(transfer.summary(made_up({("booth", "adam"): 1.0})), tuned="once", subset="smooth", optimizer="adam")
    assert row.improvement == pytest.approx(7 / 8 * 0.8)
    assert 0.5 * 0.8 - 1e-9 <= row.improvement_low < row.improvement < row.improvement_high <= 0.8 + 1e-9


def test_diverged_tuning_runs_are_counted_by_way_of_tuning(summary):
    assert row_of(summary, tuned="once", subset="all", optimizer="adam").diverged_in_tuning == 1
    assert row_of(summary, tuned="each", subset="all", optimizer="adam").diverged_in_tuning == 0


def test_ranks_and_tests_cover_whatever_uses_gradients(study):
    ranks, tests = transfer.ranks(study), transfer.tests(study)
    assert set(ranks.optimizer) == {"adam", "rprop", "lbfgs", "pop"}
    assert row_of(ranks, tuned="once", subset="all", optimizer="pop").to_dict()["label"] == "POP"
    assert ranks.groupby(["tuned", "subset"]).problems.first().to_dict()["each", "all"] == 9
    assert len(tests) == 2 * 2 * 6


def test_the_profile_counts_the_starts_that_an_optimizer_has(study):
    table = transfer.profile(study)
    assert dict(table.groupby("group").functions.first()) == {"bowl": 3, "plate": 3, "many local minima": 2}
    own = {"group": "plate", "target": 1e-2, "evaluations": BUDGET}
    assert row_of(table, optimizer="pop", **own).share == 1
    # 30 % of 10, 20 and 30 is at most a hundredth of the range
    assert row_of(table, optimizer="tpe", **own).share == 3 / FEW
    assert row_of(table, optimizer="adam", **own).share == 5 / STARTS


def test_the_best_point_of_a_path_is_marked_or_else_the_last_one(study):
    best = transfer.trajectories(study).query("best").set_index("function").step
    assert best.to_dict() == {"sphere": 2, "booth": 3}


def test_rates_have_a_row_per_function_policy_and_step(study):
    row = transfer.rates(study).squeeze()
    assert (row.function, row.group, row.label, row.step) == ("sphere", "bowl", "POP", 4)
    assert (row["median"], row.lower, row.upper) == (-2, -3, -1)


def test_a_function_that_an_optimizer_has_no_result_on_is_in_no_comparison_with_it():
    summary = transfer.summary(made_up(drop=[("booth", "adam")]))
    adam, rprop = (row_of(summary, tuned="once", subset="smooth", optimizer=key) for key in ("adam", "rprop"))
    assert adam.wins + adam.ties + adam.losses == 7
    assert rprop.wins + rprop.ties + rprop.losses == 8
