import numpy as np
import pytest

from optrepro.analysis.gap import shift


def row(table, optimizer):
    (found,) = table[table.optimizer == optimizer].to_dict("records")
    return found


@pytest.fixture(scope="module")
def scores(shift_study):
    return shift.scores(shift_study("data"))


def test_each_phase_has_its_own_best_fixed_candidate(scores):
    assert set(scores.before_reference) == {"momentum-90"}
    assert set(scores.after_reference) == {"momentum-50"}
    # means over the curve, of momentum 0.5: (0.4375 + 0.555) / 2, and of momentum 0.9: (0.4625 + 0.545) / 2
    assert set(scores.overall_reference) == {"momentum-90"}


def test_the_best_fixed_candidates_are_chosen_in_the_tuning_runs_not_in_those_reported(shift_study):
    swapped = {"momentum-50": (0.74, 0.72), "momentum-90": (0.70, 0.76)}
    table = shift.scores(shift_study("data", tuning=swapped))
    for chosen, picks in (
        ("reference", ("momentum-50", "momentum-90", "momentum-50")),
        ("hindsight", ("momentum-90", "momentum-50", "momentum-90")),
    ):
        assert tuple(table[f"{phase}_{chosen}"].unique().item() for phase in shift.PHASES) == picks
    assert row(table, "raw")["after_difference"] == pytest.approx(0.78 - 0.72, abs=0.001)


def test_the_best_fixed_candidates_are_chosen_at_their_tuned_rates(shift_study):
    study = shift_study("data")
    of_others = (study.runs.role == "tune") & (study.runs.learning_rate != 0.03)
    study.runs.loc[of_others & (study.runs.optimizer == "momentum-99"), "value"] = 0.9
    assert set(shift.scores(study).before_reference) == {"momentum-90"}


def test_a_tuning_run_that_diverges_after_the_shift_counts_with_zero_from_then_on(shift_study):
    table = shift.scores(shift_study("data", lost_in_tuning=("momentum-90",)))
    assert set(table.before_reference) == {"momentum-90"}
    assert set(table.overall_reference) == {"momentum-50"}
    assert set(table.overall_hindsight) == {"momentum-90"}
    assert row(table, "momentum-90")["tuning_diverged"] == 6


def test_accuracies_are_those_at_the_half_at_the_end_and_over_the_curve(scores):
    raw = row(scores, "raw")
    effect = np.random.default_rng(0).standard_normal(8).mean() * 0.01
    assert raw["before"] == pytest.approx(0.75 + effect, abs=0.001)
    assert raw["after"] == pytest.approx(0.78 + effect, abs=0.001)
    first, second = 0.75 * np.array([5, 10, 15, 20]) / 20, 0.375 + 0.405 * np.array([0, 5, 10, 15]) / 15
    assert raw["overall"] == pytest.approx(np.mean([*first, *second]) + effect, abs=0.001)


@pytest.mark.parametrize(
    ("optimizer", "phase", "difference"),
    [("raw", "before", 0.01), ("raw", "after", 0.02), ("paper", "before", -0.04), ("momentum-99", "after", -0.16)],
)
def test_differences_are_paired_so_the_seeds_effects_cancel(scores, optimizer, phase, difference):
    found = row(scores, optimizer)
    assert found[f"{phase}_difference"] == pytest.approx(difference, abs=0.001)
    low, high = found[f"{phase}_difference_low"], found[f"{phase}_difference_high"]
    assert low < difference < high or high - low < 0.002
    assert high - low < 0.2 * (found[f"{phase}_high"] - found[f"{phase}_low"])


def test_the_best_fixed_candidate_has_no_difference_to_itself(scores):
    assert np.isnan(row(scores, "momentum-90")["before_difference"])
    assert not np.isnan(row(scores, "momentum-90")["after_difference"])


def test_recovery_is_the_first_point_at_which_the_best_fixed_level_is_reached_again(scores):
    # the level is momentum 0.9's at the half, 0.74; raw is at 0.645 after 15 steps and at 0.78 after 20
    assert (row(scores, "raw")["recovery"], row(scores, "raw")["recovered"]) == (20, 1)
    assert (row(scores, "momentum-90")["recovery"], row(scores, "momentum-90")["recovered"]) == (np.inf, 0)
    assert set(scores.remaining) == {20}


def test_an_accuracy_that_never_falls_has_recovered_at_the_first_point(shift_study):
    study = shift_study("batch")
    later = (study.runs.step > 20) & study.runs.metric.str.endswith("accuracy")
    study.runs.loc[later, "value"] = 0.9
    assert set(shift.scores(study).recovery) == {5}


def test_a_run_that_diverges_after_the_shift_counts_with_its_accuracy_before_and_zero_after(shift_study):
    whole, table = (shift.scores(shift_study("data", diverged=lost)) for lost in ((), (("raw", 0), ("raw", 1))))
    raw, complete = row(table, "raw"), row(whole, "raw")
    assert raw["before"] == complete["before"]
    assert raw["after"] == pytest.approx(0.75 * complete["after"], abs=0.01)
    assert (raw["diverged"], raw["seeds"], raw["recovered"]) == (2, 8, 0.75)
    assert row(table, "mean")["diverged"] == 0


def test_recovery_is_infinite_if_half_of_the_runs_do_not_recover(shift_study):
    three, four = (tuple(("raw", seed) for seed in range(count)) for count in (3, 4))
    assert row(shift.scores(shift_study("data", diverged=three)), "raw")["recovery"] == 20
    assert row(shift.scores(shift_study("data", diverged=four)), "raw")["recovery"] == np.inf


def test_pairs_are_of_seeds_that_both_have(shift_study):
    table = shift.scores(shift_study("data", missing=(("momentum-90", 3),)))
    assert row(table, "raw")["before_difference"] == pytest.approx(0.01, abs=0.001)
    assert row(table, "momentum-90")["seeds"] == 7


@pytest.mark.parametrize("missing", [None, "fixed"])
def test_studies_without_fixed_candidates_have_no_differences(shift_study, missing):
    study = shift_study("data")
    if missing is None:
        assert shift.scores(study).before_difference.notna().sum() == 6
        return
    study.runs.drop(study.runs.index[study.runs.optimizer.str.startswith("momentum")], inplace=True)
    table = shift.scores(study)
    assert table.before_difference.isna().all()
    assert table.recovery.isna().all()


def test_what_changes_is_said_in_words(shift_study):
    studies = [shift_study(name) for name in ("data", "batch", "noise")]
    table = shift.scores(*studies)
    assert list(dict.fromkeys(table.study)) == ["gap-shift-data", "gap-shift-batch", "gap-shift-noise"]
    assert list(dict.fromkeys(table["shift"])) == [
        "labels moved on by one class",
        "batch size 128 to 16",
        "40 % random labels",
    ]


def test_choices_are_counted_apart_before_and_after_the_shift(shift_study):
    table = shift.choices(shift_study("data"), shift_study("noise")).set_index(["study", "optimizer", "candidate"])
    assert "mean" not in table.index.get_level_values("optimizer")
    assert len(table) == 2 * 2 * 3
    for study in ("gap-shift-data", "gap-shift-noise"):
        own = table.loc[(study, "raw")]
        assert own.before.to_dict() == pytest.approx({"0.5": 0.9, "0.9": 0.1, "0.99": 0.0})
        assert own.after.to_dict() == pytest.approx({"0.5": 0.2, "0.9": 0.3, "0.99": 0.5})


def test_curves_carry_their_study(shift_study):
    table = shift.curves(shift_study("data"), shift_study("batch"))
    points = table[(table.optimizer == "raw") & (table.metric == "test_accuracy")].groupby("study").step.apply(list)
    assert points.to_dict() == {f"gap-shift-{name}": list(range(5, 41, 5)) for name in ("data", "batch")}
