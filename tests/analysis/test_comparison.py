from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from optrepro.analysis import comparison
from optrepro.analysis.results import StudyResults


@pytest.fixture
def study(training_study):
    return training_study()


def _row(table: pd.DataFrame, key: str) -> pd.Series:
    return table.set_index("optimizer").loc[key]


def test_scores_have_one_row_per_optimizer_in_the_order_of_the_config(study):
    assert list(comparison.scores(study).optimizer) == list(study.facts.optimizers)


def test_final_accuracy_is_that_of_the_last_step(study):
    runs = study.runs
    last = runs[
        (runs.optimizer == "raw") & (runs.role == "test") & (runs.metric == "test_accuracy") & (runs.step == 40)
    ]
    assert _row(comparison.scores(study), "raw").test_accuracy == pytest.approx(last.value.mean())


def test_difference_to_the_best_fixed_candidate_is_paired_by_seed(study):
    raw = _row(comparison.scores(study), "raw")
    assert raw.reference == "momentum-90"
    assert raw.difference == pytest.approx(0.02, abs=0.003)
    # the seeds' own effect (sd 0.01) cancels: unpaired, the interval would be five times as wide
    assert raw.difference_high - raw.difference_low < 0.008
    assert raw.p == pytest.approx(2 / 2**8)


def test_best_fixed_candidate_is_picked_on_validation_and_the_top_one_on_test(training_study):
    study = training_study()
    runs = study.runs.copy()
    lucky = (runs.optimizer == "momentum-99") & (runs.metric == "test_accuracy")
    runs.loc[lucky, "value"] += 0.1
    table = comparison.scores(StudyResults(runs, study.facts))
    assert set(table.reference) == {"momentum-90"}
    assert set(table.top) == {"momentum-99"}
    assert _row(table, "raw").top_difference < 0 < _row(table, "raw").difference


def test_the_reference_is_not_compared_with_itself(study):
    reference = _row(comparison.scores(study), "momentum-90")
    assert np.isnan(reference.difference)
    assert np.isnan(reference.p_holm)


def test_holm_adjusts_for_every_comparison_with_the_reference(training_study):
    table = comparison.scores(training_study(seeds=10))
    smallest = table.p.min()
    assert table.p_holm.min() == pytest.approx(smallest * (len(table) - 1))


def test_no_adjusted_p_is_given_where_the_seeds_are_too_few_for_any_difference_to_be_found(training_study):
    compared = len(comparison.scores(training_study(seeds=2))) - 1
    enough = int(np.ceil(np.log2(2 * compared / 0.05)))
    assert comparison.scores(training_study(seeds=enough)).p_holm.notna().sum() == compared
    assert comparison.scores(training_study(seeds=enough - 1)).p_holm.isna().all()


def test_answers_that_match_exactly_are_scored_where_questions_were_asked(study):
    assert "exact_match" not in comparison.scores(study)
    ends = study.runs[(study.runs.role == "test") & (study.runs.metric == "test_accuracy") & (study.runs.step == 40)]
    asked = pd.concat([study.runs, ends.assign(metric="exact_match", value=ends.seed / 10)], ignore_index=True)
    row = _row(comparison.scores(StudyResults(asked, study.facts)), "raw")
    assert row.exact_match == pytest.approx(0.35)
    assert row.exact_match_low < 0.35 < row.exact_match_high


@pytest.mark.parametrize(("rates", "on_boundary"), [([0.01, 0.03, 0.1], False), ([0.03, 0.1], True)])
def test_a_tuned_rate_at_the_end_of_the_grid_is_marked(study, rates, on_boundary):
    runs = study.runs[study.runs.learning_rate.isin(rates)]
    assert _row(comparison.scores(StudyResults(runs, study.facts)), "raw").on_boundary == on_boundary


def test_a_diverged_run_counts_as_accuracy_0_and_leaves_the_mean_loss(training_study):
    whole = _row(comparison.scores(training_study()), "raw")
    table = comparison.scores(training_study(diverged=("raw/test/0.03/2",)))
    raw = _row(table, "raw")
    assert raw.diverged == 1
    assert table.diverged.sum() == 1
    assert raw.seeds == whole.seeds
    assert raw.test_accuracy < whole.test_accuracy - 0.05
    assert raw.test_loss == pytest.approx(whole.test_loss, abs=0.01)


def test_a_missing_run_drops_its_pair_only(training_study):
    table = comparison.scores(training_study(missing=("raw/test/0.03/2",)))
    assert _row(table, "raw").seeds == 7
    assert _row(table, "raw").p == pytest.approx(2 / 2**7)
    assert _row(table, "mean").seeds == 8


def test_diverged_tuning_runs_are_counted_apart(training_study):
    row = _row(comparison.scores(training_study(diverged=("raw/tune/0.1/0", "raw/tune/0.1/1"))), "raw")
    assert (row.diverged, row.tuning_diverged) == (0, 2)


def test_curves_are_mean_and_standard_deviation_over_seeds(study):
    table = comparison.curves(study)
    point = table[(table.optimizer == "mean") & (table.metric == "test_loss") & (table.step == 20)].squeeze()
    runs = study.runs
    mask = (runs.optimizer == "mean") & (runs.metric == "test_loss") & (runs.step == 20) & (runs.role == "test")
    values = runs[mask].value
    assert (point["mean"], point["std"], point.seeds) == pytest.approx((values.mean(), values.std(), 8))


def test_curves_leave_a_diverged_run_out_of_all_points(training_study):
    table = comparison.curves(training_study(diverged=("raw/test/0.03/2",)))
    assert set(table[table.optimizer == "raw"].seeds) == {7}
    assert set(table[table.optimizer == "mean"].seeds) == {8}


def test_choices_are_shares_between_evaluations_not_since_the_start(study):
    runs = study.runs.copy()
    paper = (runs.optimizer == "paper") & runs.metric.str.startswith("chosen")
    # ten steps with the first candidate, then all with the third
    counts = {"chosen[0]": {10: 10, 20: 10, 30: 10, 40: 10}, "chosen[2]": {10: 0, 20: 10, 30: 20, 40: 30}}
    runs.loc[paper, "value"] = [
        counts.get(m, {}).get(s, 0.0) for m, s in zip(runs[paper].metric, runs[paper].step, strict=True)
    ]
    table = comparison.choices(StudyResults(runs, study.facts))
    table = table[table.optimizer == "paper"].pivot_table(index="step", columns="candidate", values="share")
    assert table["0.5"].tolist() == [1, 0, 0, 0]
    assert table["0.99"].tolist() == [0, 1, 1, 1]


def test_shares_of_choices_sum_to_one_and_name_the_candidates(study):
    table = comparison.choices(study)
    assert set(table.optimizer) == {"paper", "raw", "validation", "random"}
    assert np.allclose(table.groupby(["optimizer", "step"]).share.sum(), 1)
    overall = table.drop_duplicates(["optimizer", "candidate"]).set_index(["optimizer", "candidate"]).overall
    assert overall["raw", "0.99"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("entry", "count", "names"),
    [
        ({"class": "optrepro.optimizers.gap.GapSGD", "settings": {}}, 3, ["0.5", "0.9", "0.99"]),
        ({"class": "optrepro.optimizers.gap.GapAdamW", "settings": {}}, 3, ["0.5", "0.9", "0.99"]),
        ({"class": "a.GapAdamW", "settings": {"betas": [[0.8, 0.999], [0.99, 0.999]]}}, 2, ["0.8", "0.99"]),
        ({"class": "a.GapSGD", "settings": {"momentum": [0.1, 0.2]}}, 2, ["0.1", "0.2"]),
        ({"class": "a.Other", "settings": {}}, 2, ["0", "1"]),
    ],
)
def test_candidates_are_named_by_their_memory(entry, count, names):
    assert comparison.candidates(entry, count) == names


def test_sweep_has_every_rate_and_marks_the_tuned_one(study):
    table = comparison.sweep(study)
    assert len(table) == len(study.facts.optimizers) * 3
    assert set(table[table.tuned].learning_rate) == {0.03}
    assert table.groupby("optimizer").seeds.sum().unique().tolist() == [9]


def test_sweep_counts_a_diverged_run_as_accuracy_0(training_study):
    table = comparison.sweep(training_study(diverged=("raw/tune/0.1/0",)))
    cell = table[(table.optimizer == "raw") & (table.learning_rate == 0.1)].squeeze()
    assert cell.tuning_diverged == 1
    assert cell.validation_accuracy == pytest.approx(2 / 3 * 0.84, abs=0.02)


def _by_loss(study: StudyResults) -> StudyResults:
    return StudyResults(study.runs, replace(study.facts, criterion="loss"))


def _with_final(study: StudyResults, metric: str, value: float, **where: object) -> StudyResults:
    """The study with another value of a metric in some of its tuning runs."""
    runs = study.runs.copy()
    mask = (runs.role == "tune") & (runs.metric == metric)
    for column, wanted in where.items():
        mask &= runs[column] == wanted
    assert mask.any()
    runs.loc[mask, "value"] = value
    return StudyResults(runs, study.facts)


def test_loss_as_criterion_makes_less_loss_the_better_and_differences_positive(training_study):
    study = _by_loss(training_study())
    table = comparison.scores(study)
    assert set(table.reference) == {"momentum-90"}
    assert _row(table, "raw").difference == pytest.approx(0.02, abs=0.003)
    assert _row(table, "paper").difference < 0
    assert _row(table, "validation")["rank"] == 1
    assert _row(table, "raw").validation_loss == pytest.approx(1.05 - 0.86, abs=0.02)


def test_loss_and_accuracy_may_pick_different_references(training_study):
    study = _with_final(training_study(), "validation_loss", 0.0, optimizer="momentum-99")
    assert set(comparison.scores(study).reference) == {"momentum-90"}
    assert set(comparison.scores(_by_loss(study)).reference) == {"momentum-99"}


def test_a_fixed_candidate_of_which_a_tuning_run_diverged_is_no_reference_by_loss(training_study):
    study = _by_loss(training_study(diverged=("momentum-90/tune/0.03/1",)))
    assert set(comparison.scores(study).reference) == {"momentum-99"}


def test_scores_count_the_tuning_runs_of_a_row(study):
    assert set(comparison.scores(study).tuning_runs) == {9}


def _cell(table: pd.DataFrame, optimizer: str, rate: float = 0.03) -> pd.Series:
    return table[(table.optimizer == optimizer) & (table.learning_rate == rate)].squeeze()


@pytest.mark.parametrize("criterion", ["accuracy", "loss"])
def test_at_every_rate_the_verdict_says_where_the_interval_lies(training_study, criterion):
    study = training_study(raw=0.86, debiased=0.8402, paper=0.80)
    table = comparison.rates(StudyResults(study.runs, replace(study.facts, criterion=criterion)))
    assert set(table.learning_rate) == {0.01, 0.03, 0.1}
    assert set(table.best) == {"momentum-90"}
    assert table.trains.all()
    for rate in (0.01, 0.03, 0.1):
        verdicts = {key: _cell(table, key, rate).verdict for key in ("momentum-90", "raw", "debiased", "paper")}
        assert verdicts == {"momentum-90": "best", "raw": "above", "debiased": "within", "paper": "below"}
    assert _cell(table, "raw").difference == pytest.approx(0.02, abs=0.004)
    assert _cell(table, "raw").pairs == 3


def test_the_best_fixed_candidate_may_be_another_at_each_rate(study):
    table = comparison.rates(_with_final(study, "validation_accuracy", 0.9, optimizer="momentum-50", learning_rate=0.1))
    assert table.drop_duplicates("learning_rate").set_index("learning_rate").best.to_dict() == {
        0.01: "momentum-90",
        0.03: "momentum-90",
        0.1: "momentum-50",
    }


def test_a_rate_is_held_where_the_verdict_is_not_below(training_study):
    table = comparison.rates(training_study(raw=0.86, debiased=0.8402, paper=0.80))
    assert set(table[table.held].verdict) == {"within", "above", "best"}
    assert set(table[~table.held].verdict) == {"below"}


def test_fixed_candidates_of_the_same_memory_are_one_rule_with_adam_too(training_study):
    table = comparison.rates(training_study(), training_study(adam=True))
    memories = table.groupby("rule").value.unique()
    assert {rule: list(values) for rule, values in memories.items() if rule.startswith("momentum")} == {
        "momentum-50": [0.5],
        "momentum-90": [0.9],
        "momentum-99": [0.99],
    }


def test_peers_with_grids_of_their_own_have_no_cells(study):
    assert "schedule-free" not in set(comparison.rates(study).optimizer)


def test_a_rate_at_which_the_best_fixed_candidate_is_half_as_good_as_at_the_best_rate_trains_nothing(study):
    worse = study
    for key in ("momentum-50", "momentum-90", "momentum-99"):
        worse = _with_final(worse, "validation_accuracy", 0.4, optimizer=key, learning_rate=0.1)
    table = comparison.rates(worse)
    assert table[~table.trains].learning_rate.unique().tolist() == [0.1]


def test_by_loss_a_rate_trains_if_the_right_token_is_at_least_half_as_probable(study):
    for loss, trains in ((0.85, True), (0.95, False)):  # the best cell's is about 0.21, and ln 2 is 0.69
        worse = _by_loss(study)
        for key in ("momentum-50", "momentum-90", "momentum-99"):
            worse = _with_final(worse, "validation_loss", loss, optimizer=key, learning_rate=0.1)
        assert set(comparison.rates(worse).query("learning_rate == 0.1").trains) == {trains}


def test_a_rate_at_which_a_run_of_every_fixed_candidate_diverged_trains_nothing(training_study):
    lost = tuple(f"momentum-{m}/tune/0.1/{seed}" for m in (50, 90, 99) for seed in range(3))
    table = comparison.rates(_by_loss(training_study(diverged=lost)))
    assert not table[table.learning_rate == 0.1].trains.any()
    assert table[table.learning_rate != 0.1].trains.all()


def test_by_loss_a_diverged_run_is_below_without_a_difference(training_study):
    cell = _cell(comparison.rates(_by_loss(training_study(diverged=("raw/tune/0.03/1",)))), "raw")
    assert cell.verdict == "below"
    assert cell.failed == 1
    assert np.isnan(cell.difference)


def test_one_seed_leaves_the_verdict_open(study):
    runs = study.runs[(study.runs.role == "test") | (study.runs.seed == 0)]
    table = comparison.rates(StudyResults(runs, study.facts))
    assert set(table.verdict) == {"best", "open"}
    assert table[["inside", "held"]].isna().all(axis=None)
    held = comparison.held(StudyResults(runs, study.facts))
    assert set(held.rule) == set(table.rule)
    assert not held[["rates", "inside", "held"]].any(axis=None)
    assert (held.outside == "").all()


def test_a_rate_tells_where_a_control_that_looks_at_nothing_is_not_inside(training_study):
    study = training_study(random=0.87, mean=0.87)
    blind = study.runs.optimizer.isin(["random", "mean"]) & (study.runs.role == "tune")
    study.runs.loc[blind & (study.runs.learning_rate == 0.1), "value"] = 0.5
    study.runs.loc[(study.runs.optimizer == "raw") & (study.runs.learning_rate == 0.1), "value"] = 0.5
    table = comparison.rates(study)
    assert table[table.tells].learning_rate.unique().tolist() == [0.1]
    held = comparison.held(study).set_index("rule")
    assert held.loc["raw", ["rates", "inside", "telling", "told"]].tolist() == [3, 2, 1, 0]
    assert held.loc["momentum-90", ["telling", "told"]].tolist() == [1, 1]


def test_rates_held_are_counted_by_rule_over_optimizers_and_studies(training_study):
    held = comparison.held(training_study(), training_study(adam=True)).set_index(["rule", "study"])
    for study in ("gap-sgdm", "gap-adam"):
        assert held.loc[("raw", study), ["inside", "held", "above", "rates"]].tolist() == [3, 3, 3, 3]
        assert held.loc[("paper", study), ["held", "below"]].tolist() == [0, "0.01, 0.03, 0.1"]
        assert held.loc[("momentum-90", study), ["label", "held", "worst"]].tolist() == ["fixed 0.9", 3, 0.0]
    assert held.loc[("paper", "gap-sgdm"), "worst"] == pytest.approx(-0.04, abs=0.006)


def test_rates_that_train_nothing_are_not_counted(training_study):
    lost = tuple(f"momentum-{m}/tune/0.1/{seed}" for m in (50, 90, 99) for seed in range(3))
    assert set(comparison.held(training_study(diverged=lost)).rates) == {2}


def test_a_lost_run_leaves_the_worst_difference_unknown(training_study):
    study = _by_loss(training_study(diverged=("raw/tune/0.03/1",)))
    held = comparison.held(study).set_index("rule")
    assert held.loc["raw", ["held", "below"]].tolist() == [2, "0.03"]
    assert np.isnan(held.worst["raw"])


def test_the_share_of_the_smallest_candidate_is_over_the_whole_training(study):
    shares = comparison.scores(study).set_index("optimizer").smallest
    assert shares[["paper", "raw"]].tolist() == pytest.approx([0.98, 0.2])
    assert np.isnan(shares["momentum-50"])


def test_a_mean_inside_the_best_fixed_candidates_interval_may_still_lie_below_in_pairs(training_study):
    runs = training_study().runs
    cells = (runs.role == "tune") & (runs.metric == "validation_accuracy") & (runs.learning_rate == 0.03)
    spread = runs.seed.map({0: 0.80, 1: 0.85, 2: 0.90})
    for key, shift in (("momentum-90", 0.0), ("raw", -0.010), ("paper", -0.2)):
        mask = cells & (runs.optimizer == key)
        runs.loc[mask, "value"] = spread[mask] + shift + 0.0001 * runs.seed[mask]
    study = StudyResults(runs, training_study().facts)
    raw, paper = (_cell(comparison.rates(study), key) for key in ("raw", "paper"))
    assert (raw.verdict, raw.inside) == ("below", True)
    assert (paper.verdict, paper.inside) == ("below", False)
