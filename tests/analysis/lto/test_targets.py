from pathlib import Path

import pytest

from optrepro import catalogue
from optrepro.analysis.lto import targets
from optrepro.analysis.results import StudyResults

ASKED = catalogue.load(Path(__file__).parents[3] / "config").tables["lto-targets"].arguments["targets"]
FEW = ("adagrad", "rmsprop", "l2l", "psd", "psd-bregman")


def verdicts(*studies: StudyResults) -> dict[str, str]:
    return targets.table(*studies, targets=ASKED).set_index("target").verdict.to_dict()


def test_every_target_of_the_catalogue_is_measured_and_every_measure_is_asked_for():
    assert sorted(ASKED) == targets.StepMeasures._names()


@pytest.mark.parametrize(
    ("speed", "slower", "reached"),
    [(5.0, 5.0, ("pass", "pass")), (5.0, 3.0, ("pass", "miss")), (3.0, 3.0, ("miss",) * 2)],
)
def test_twelve_panels_by_area_and_all_by_final_objective_are_to_be_best_or_equivalent(
    objectives_study, speed, slower, reached
):
    slow = {(panel, "psd"): slower for panel in ("fig1-grey", "fig2-grey", "fig3-grey")}
    found = verdicts(objectives_study({"psd": speed, **slow}, keep=FEW))
    assert (found["area"], found["final"]) == reached
    assert found["ended_above"] == found["progress"] == found["rates"] == "pass"


def test_a_run_that_ends_above_its_start_is_a_miss_with_its_count(objectives_study):
    study = objectives_study(diverged=(("fig3-grey", "psd"),), keep=FEW)
    row = targets.table(study, targets={"ended_above": ASKED["ended_above"]}).squeeze()
    assert (row.verdict, row.measured) == ("miss", "2 of 150; none overshot and recovered")


def test_an_objective_that_rises_beyond_the_horizon_is_a_miss(objectives_study):
    study = objectives_study(keep=FEW)
    runs = study.runs.copy()
    late = (runs.workload == "fig5-grey") & (runs.optimizer == "psd") & (runs.metric == "objective") & (runs.step > 400)
    runs.loc[late, "value"] *= 1.5
    assert verdicts(StudyResults(runs, study.facts))["progress"] == "miss"


def test_validation_of_l2l_is_looked_at_late_in_its_training(learner_study):
    made = learner_study(keep=("l2l-trained",))
    renamed = StudyResults(made.runs.assign(optimizer="l2l"), made.facts)
    renamed.facts.settings["learners"]["l2l"] = renamed.facts.settings["learners"].pop("l2l-trained")
    found = targets.StepMeasures([renamed]).l2l_jumps()
    assert found.words == "0.600 to 0.750 in 2 validations"  # those at 8 and 10; the first ones fall from 1.2
    assert found.value == pytest.approx(0.25)


@pytest.mark.parametrize(("seeds", "verdict"), [(1, "miss"), (3, "pass")])
def test_the_ablation_needs_three_seeds(seeds, verdict, learner_study):
    assert verdicts(learner_study(ablation=True, seeds=seeds))["seeds"] == verdict


def test_without_the_policy_or_results_nothing_is_evaluated(objectives_study):
    assert set(verdicts().values()) == {"not evaluated yet"}
    without = verdicts(objectives_study(keep=("fig1-grey", "adagrad", "rmsprop")))
    assert {without[name] for name in ("area", "final", "ended_above", "progress")} == {"not evaluated yet"}
