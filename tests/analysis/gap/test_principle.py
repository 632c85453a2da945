import pandas as pd
import pytest
from tests.analysis.judge import judge


def test_no_free_lunch_needs_different_winners(families_study):
    assert judge("no-family-wins-everywhere", families_study()).verdict == "holds"
    one = families_study({("families/saddle", "frobenius"): {0.1: 1e-9, 1.0: 1e-9}})
    assert judge("no-family-wins-everywhere", one).verdict == "fails"
    close = families_study({("families/saddle", "frobenius"): {0.1: 1e-1, 1.0: 1.0001e-6}})
    close.runs.loc[
        (close.runs.workload == "families/saddle")
        & (close.runs.optimizer == "frobenius")
        & (close.runs.metric == "final_gap")
        & (close.runs.seed < 8),
        "value",
    ] = 1e-8
    assert judge("no-family-wins-everywhere", close).verdict != "holds"


@pytest.mark.parametrize(("ellipse", "verdict"), [("frobenius", "holds"), ("spectral", "holds in part")])
def test_expected_families_have_to_win_on_every_toy(families_study, ellipse, verdict):
    expected = {"ellipse": [ellipse], "saddle": ["spectral", "diagonal"]}
    assert judge("expected-families-win", families_study(), expected=expected).verdict == verdict


def test_a_geometric_autocorrelation_predicts_the_best_candidate(concept_study):
    assert judge("decay-rate-predicts-choice", concept_study(rho={"late": 0.2})).verdict == "holds"


def test_another_autocorrelation_does_not(concept_study):
    study = concept_study()
    scores = study.runs.metric == "score_debiased"
    study.runs.loc[scores & (study.runs.optimizer == "momentum-0.5"), "value"] = 100.0
    assert judge("decay-rate-predicts-choice", study).verdict == "fails"


def _with_long_memory(study):
    """The study with a candidate 0.99 too, which is never the best."""
    runs = study.runs
    worst = runs[runs.optimizer == "momentum-0.9"].assign(optimizer="momentum-0.99", value=-10.0)
    return type(study)(pd.concat([runs, worst], ignore_index=True), study.facts)


def _calm(study, length, statistic):
    """The study with other KPSS statistics in its longest windows, whose length is said to be another."""
    longest = study.runs.metric.str.contains("[80]", regex=False)
    study.runs.loc[longest, "value"] = statistic
    study.runs["metric"] = study.runs.metric.str.replace("[80]", f"[{length}]", regex=False)
    return study


def test_stationary_is_a_lasting_choice_and_a_gradient_that_stands_still_over_every_memory(
    concept_study, diagnostics_study
):
    still = _calm(diagnostics_study(), 100, 0.1)
    found = judge("stationary-over-memories", _with_long_memory(concept_study()), still)
    assert found.verdict == "holds"
    assert "of 0.99 (100 steps) in 2 of 2 workloads" in found.evidence
    assert (
        judge("stationary-over-memories", _with_long_memory(concept_study(rho={"late": 0.2})), still).verdict
        == "holds in part"
    )


@pytest.mark.parametrize(
    ("length", "statistic", "fall", "words"),
    [
        (100, 5.0, 1.0, "of 100 steps up to 100\N{NO-BREAK SPACE}%"),
        (80, 0.1, 1.0, "of 100 steps none (not tested)"),
        (100, 0.1, 0.95, "of 0.99 (100 steps) in 0 of 2 workloads"),
    ],
)
def test_the_gradient_has_to_stand_still_over_the_longest_memory_too(
    concept_study, diagnostics_study, length, statistic, fall, words
):
    study = _calm(diagnostics_study(fall=fall), length, statistic)
    found = judge("stationary-over-memories", _with_long_memory(concept_study()), study)
    assert found.verdict == "holds in part"
    assert words in found.evidence


def test_a_change_within_the_shortest_distance_measured_is_not_compared_with_shorter_memories(
    concept_study, diagnostics_study
):
    study = diagnostics_study(fall=0.5)
    study.runs.loc[study.runs.metric.str.startswith("kpss"), "value"] = 5.0
    found = judge("stationary-over-memories", _with_long_memory(concept_study(rho={"late": 0.2})), study)
    assert found.verdict == "fails"
    assert "of 0.9 (10 steps) not resolved" in found.evidence
    assert "perceptron at most 20" in found.evidence


@pytest.mark.parametrize(("noise", "verdict"), [({16: 20.0, 512: 0.0}, "holds"), ({16: 0.0, 512: 0.0}, "fails")])
def test_noise_in_the_self_term_is_told_from_its_effect_on_the_choice(concept_study, noise, verdict):
    assert judge("self-term-lowers-choice", concept_study(noise=noise)).verdict == verdict
