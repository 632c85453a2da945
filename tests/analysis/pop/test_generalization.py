import numpy as np
import pandas as pd
import pytest

from optrepro.analysis.pop import generalization
from optrepro.analysis.results import StudyResults


def _at(table, optimizer, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    rows = table[table.optimizer == optimizer]
    assert len(rows) == 1
    return rows.iloc[0]


def _with(study, runs):
    return StudyResults(runs, study.facts)


def _regret(study, workload, optimizer, seed=None):
    runs = study.runs
    mask = (runs.metric == "regret") & (runs.workload == workload) & (runs.optimizer == optimizer)
    return mask if seed is None else mask & (runs.seed == seed)


def test_scores_are_the_share_of_the_starts_regret_that_is_gone_and_its_digits(transfer_study):
    study = transfer_study()
    runs = study.runs[_regret(study, "prior-test", "adam")].pivot(index="seed", columns="step", values="value")
    share = runs[10] / runs[1]
    row = _at(generalization.in_distribution(study), "adam")
    assert row.improvement == pytest.approx((1 - share).mean())
    assert row.digits == pytest.approx(-np.log10(share).mean())
    assert row.digits_low < row.digits < row.digits_high
    assert row.functions == 24


def test_digits_end_at_twelve(transfer_study):
    study = transfer_study({("prior-test", "pop"): 30.0})
    assert _at(generalization.in_distribution(study), "pop").digits == 12


def test_a_minimum_that_was_beaten_is_replaced_by_the_lowest_value_found(transfer_study):
    study = transfer_study()
    moved = study.runs.copy()
    moved.loc[(moved.metric == "regret") & (moved.workload == "prior-test") & (moved.seed == 3), "value"] -= 0.5
    truth = study.runs.copy()
    one = (truth.metric == "regret") & (truth.workload == "prior-test") & (truth.seed == 3)
    truth.loc[one, "value"] -= truth.value[one].min()
    found = generalization.in_distribution(_with(study, moved))
    expected = generalization.in_distribution(_with(study, truth))
    pd.testing.assert_frame_equal(found, expected)


def test_a_minimum_that_was_not_beaten_stays(transfer_study):
    study = transfer_study()
    assert _at(generalization.in_distribution(study), "pop").digits < 3  # no run of seed 0 is at regret 0


def test_a_start_at_the_optimum_is_skipped_and_counted(transfer_study):
    study = transfer_study()
    runs = study.runs.copy()
    runs.loc[(runs.metric == "regret") & (runs.workload == "prior-test") & (runs.seed == 5), "value"] = 0.0
    row = _at(generalization.in_distribution(_with(study, runs)), "adam")
    assert (row.functions, row.skipped) == (23, 1)


def test_the_lead_of_the_policy_is_paired_by_function(transfer_study):
    study = transfer_study()
    rows = generalization.in_distribution(study)
    adam, pop = _at(rows, "adam"), _at(rows, "pop")
    assert adam.digits_difference == pytest.approx(pop.digits - adam.digits)
    # what the problems share cancels
    assert adam.digits_difference_high - adam.digits_difference_low < 1.5 * (adam.digits_high - adam.digits_low)
    assert (adam.wins, adam.ties, adam.losses) == (24, 0, 0)
    assert np.isnan(pop.digits_difference)
    assert np.isnan(pop.improvement_p)


def test_functions_on_which_both_gain_the_same_are_ties(transfer_study):
    study = transfer_study()
    runs = study.runs.copy()
    adam, pop = (_regret(study, "prior-test", key, seed=7) for key in ("adam", "pop"))
    runs.loc[adam, "value"] = runs.value[pop].to_numpy()
    row = _at(generalization.in_distribution(_with(study, runs)), "adam")
    assert (row.wins, row.ties, row.losses) == (23, 1, 0)


def test_p_values_are_corrected_for_all_other_optimizers(transfer_study):
    rows = generalization.in_distribution(transfer_study())
    # 24 wins of 24: the smallest p there is, times the number of optimizers it is compared with
    assert rows.digits_p.dropna().tolist() == pytest.approx([4 * 2 / 2**24] * 4)


def test_scores_are_given_for_each_kind_of_function(transfer_study):
    study = transfer_study()
    runs = study.runs.copy()
    convex = (runs.metric == "regret") & (runs.workload == "prior-test") & (runs.seed % 3 == 0) & (runs.step > 1)
    runs.loc[convex, "value"] *= 0.1
    before, after = (generalization.in_distribution(s) for s in (study, _with(study, runs)))
    assert (after.convex_digits - before.convex_digits).tolist() == pytest.approx([1.0] * 5)
    assert after.gp_digits.tolist() == before.gp_digits.tolist()
    assert after.convex_functions.tolist() == [8] * 5


def test_runs_that_diverged_are_counted_by_the_budget_they_diverged_within(transfer_study):
    study = transfer_study()
    extra = study.runs[_regret(study, "prior-test", "adam")].drop_duplicates("seed").head(5)
    extra = extra.assign(metric="diverged", value=1.0, step=[0, 4, 10, 11, 16])
    table = generalization.budgets(_with(study, pd.concat([study.runs, extra])))
    counts = table[(table.optimizer == "adam") & (table.collection == "prior-test")].diverged
    assert counts.tolist() == [3, 2, 0, 0]
    assert table[table.optimizer == "pop"].diverged.sum() == 0


def test_the_benchmark_is_scored_by_function_without_those_that_have_kinks(transfer_study):
    study = transfer_study()
    row = _at(generalization.budgets(study), "adam", collection="vlse", multiple=1)
    assert row.functions == 6
    runs = study.runs[study.runs.workload.str.startswith("vlse/") & (study.runs.metric == "regret")]
    runs = runs[(runs.optimizer == "adam") & ~runs.workload.str.endswith("eggholder")]
    share = runs[runs.step == 10].value.to_numpy() / runs[runs.step == 1].value.to_numpy()
    assert row.improvement == pytest.approx((1 - share).mean())
    assert row.digits == pytest.approx(np.median(-np.log10(share).reshape(6, 5), axis=1).mean())


def test_budgets_are_multiples_of_the_horizon_that_the_runs_reach(transfer_study):
    table = generalization.budgets(transfer_study(stalls=("pop",)))
    pop = table[(table.optimizer == "pop") & (table.collection == "prior-test")]
    assert pop.multiple.tolist() == [1, 2, 4, 10]
    assert pop.digits.nunique() == 1
    assert pop["rank"].tolist()[0] == 1
    assert pop["rank"].tolist()[-1] > 1  # L-BFGS gains 2.4 digits by then
    assert "random-search" not in set(table.optimizer)


def test_references_that_ran_on_fewer_functions_change_no_rank(transfer_study):
    study = transfer_study()
    few = study.runs[(study.runs.optimizer != "random-search") | (study.runs.seed < 3)]
    before, after = (generalization.in_distribution(s) for s in (study, _with(study, few)))
    assert _at(after, "random-search").functions == 3
    assert _at(after, "random-search").wins == 3
    assert np.isnan(_at(after, "random-search")["rank"])
    assert after["rank"].equals(before["rank"])


def test_dimensions_are_those_of_the_prior_in_order(transfer_study):
    table = generalization.dimensions(transfer_study({("prior-8d", "pop"): 0.2}))
    assert list(table.dimension.unique()) == [2, 8]
    assert _at(table, "adam", dimension=2).digits_difference > 0 > _at(table, "adam", dimension=8).digits_difference
    assert _at(table, "adam", dimension=8).functions == 12


def test_shifted_collections_stand_beside_prior_and_benchmark(transfer_study):
    table = generalization.shift(transfer_study())
    assert list(table.collection.unique()) == ["prior-test", "vlse", "shift-plateaus"]
    assert set(table.budget) == {10}


def test_curves_begin_with_nothing_gained(transfer_study):
    table = generalization.curves(transfer_study())
    assert list(table.collection.unique()) == ["prior-test", "vlse"]
    first = table[table.evaluations == 1]
    assert (first.improvement == 0).all()
    assert (first.digits == 0).all()
    own = table[(table.optimizer == "pop") & (table.collection == "vlse")]
    assert own.evaluations.tolist() == [1, 2, 5, 10, 20, 40, 100]
    assert own.digits.is_monotonic_increasing


def test_the_tuned_rate_is_the_one_of_the_highest_score(transfer_study):
    table = generalization.tuned(transfer_study())
    assert list(table.optimizer) == ["adam", "rprop", "lbfgs", "pop"]
    adam, pop = _at(table, "adam"), _at(table, "pop")
    assert (adam.learning_rate, adam.digits) == (0.1, 1.0)
    assert not adam.on_edge
    assert np.isnan(pop.learning_rate)
    assert pop.digits == 2.0


def test_a_rate_at_an_end_of_the_grid_is_marked(transfer_study):
    study = transfer_study()
    runs = study.runs[study.runs.learning_rate != 1.0]
    assert _at(generalization.tuned(_with(study, runs)), "adam").on_edge


def test_rates_tuned_for_a_function_are_not_those_of_the_prior(transfer_study):
    study = transfer_study()
    each = study.runs[(study.runs.metric == "tuning_score") & (study.runs.learning_rate == 1.0)]
    each = each.assign(workload="vlse-each/booth", value=99.0)
    found = generalization.tuned(_with(study, pd.concat([study.runs, each])))
    assert _at(found, "adam").learning_rate == 0.1


def test_a_study_without_the_policy_has_scores_and_no_lead(transfer_study):
    study = transfer_study()
    rows = generalization.in_distribution(_with(study, study.runs[study.runs.optimizer != "pop"]))
    assert rows.digits.notna().all()
    assert rows.digits_difference.isna().all()


def test_an_optimizer_that_left_no_results_is_left_out(transfer_study):
    study = transfer_study()
    partial = study.runs[(study.runs.optimizer != "rprop") | (study.runs.workload != "prior-8d")]
    table = generalization.dimensions(_with(study, partial))
    assert set(table[table.dimension == 8].optimizer) == {"adam", "lbfgs", "pop", "random-search"}


def test_training_is_given_by_functions_seen(policy_study):
    table = generalization.training(policy_study())
    curve = table[(table.optimizer == "standard") & (table.metric == "score")]
    assert curve.functions.tolist() == [512, 1024, 2048]
    assert curve.value.tolist() == pytest.approx([1.2, 1.8, 2.0])


def test_ablations_are_compared_with_the_standard_policy_by_function(policy_study):
    table = generalization.ablation(policy_study({"scaling-none": 1.0}))
    assert list(table.optimizer) == ["standard", "scaling-none", "history-2"]
    worse, same = _at(table, "scaling-none"), _at(table, "history-2")
    assert worse.benchmark_functions == 7
    assert worse.functions_seen == 2048
    assert worse.prior_digits_difference == pytest.approx(-1)
    assert worse.vlse_digits_difference == pytest.approx(-1, abs=0.02)
    assert worse.vlse_digits_difference_high < -0.8
    assert worse.vlse_digits_p < 0.05 < same.vlse_digits_p
    assert np.isnan(_at(table, "standard").vlse_digits_difference)


def test_training_seeds_give_intervals_on_the_prior(policy_study):
    one = _at(generalization.ablation(policy_study()), "history-2")
    assert one.seeds == 1
    assert np.isnan(one.prior_digits_low)
    three = _at(generalization.ablation(policy_study(seeds=3)), "history-2")
    assert three.seeds == 3
    assert three.prior_digits_low < three.prior_digits == pytest.approx(2.1)
    assert three.benchmark_functions == 7
