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


def test_holm_adjusts_for_every_comparison_with_the_reference(study):
    table = comparison.scores(study)
    smallest = table.p.min()
    assert table.p_holm.min() == pytest.approx(min(1.0, smallest * (len(table) - 1)))


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
