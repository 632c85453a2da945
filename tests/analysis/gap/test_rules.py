"""Rules beside the best fixed candidate and both controls, on made-up studies, and the claim on them."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.analysis.judge import CONFIG, judge

from optrepro import config, layout
from optrepro.analysis.gap import rules
from optrepro.analysis.results import StudyResults, read_study
from optrepro.catalogue import Margin

MARGIN = Margin(points=0.25)
TUNED = Path(__file__).parents[3] / layout.tidy(layout.PUBLISHED, "gap-rules-tuning")


def with_control(study: StudyResults, name: str = "") -> StudyResults:
    """The study with a control that has the shares of raw, under another name."""
    optimizers = dict(study.facts.optimizers)
    optimizers["random-raw"] = {**optimizers["random-raw"], "shares_of": "raw"}
    facts = replace(study.facts, settings={**study.facts.settings, "optimizers": optimizers})
    return StudyResults(study.runs, replace(facts, study=name) if name else facts)


def outcomes(study, beside, key="raw"):
    table = rules.differences(study, points=0.25)
    return table[(table.beside == beside) & (table.optimizer == key)]


@pytest.mark.parametrize(("raw", "outcome"), [(0.86, "met"), (0.82, "missed")])
def test_a_rule_stands_at_every_rate_beside_the_fixed_candidate_that_is_best_there(training_study, raw, outcome):
    rows = outcomes(with_control(training_study(raw=raw)), rules.FIXED)
    assert rows.learning_rate.tolist() == [0.01, 0.03, 0.1]
    assert set(rows.reference) == {"momentum 0.9"}
    assert rows.difference.tolist() == pytest.approx([raw - 0.84] * 3, abs=0.005)
    assert set(rows.outcome) == {outcome}
    assert (rows.margin == 0.0025).all()


def test_beside_a_control_the_mean_over_the_rates_decides(training_study):
    study = with_control(training_study(raw=0.87))
    table = rules.differences(study, points=0.25)
    deciding = rules.deciding(table[table.optimizer == "raw"])
    assert deciding.groupby("beside", sort=False).size().to_dict() == {
        rules.FIXED: 3,
        rules.MEAN: 1,
        rules.RANDOM: 1,
    }
    beside = deciding.set_index("beside")
    assert beside.reference[rules.RANDOM] == "random, shares of raw"
    assert beside.difference[[rules.MEAN, rules.RANDOM]].tolist() == pytest.approx([0.015, 0.02], abs=0.003)


def test_only_a_rule_whose_shares_are_drawn_has_rows_beside_random(training_study):
    table = rules.differences(with_control(training_study()))
    assert set(table[table.beside == rules.RANDOM].optimizer) == {"raw"}
    assert {"paper", "raw", "debiased"} <= set(table[table.beside == rules.MEAN].optimizer)


def test_within_the_margin_is_as_good_and_not_ahead(training_study):
    study = with_control(training_study())
    runs = study.runs
    fixed, own = (runs[runs.optimizer == key] for key in ("momentum-90", "raw"))
    for control in ("mean", "random-raw"):
        runs.loc[runs.optimizer == control, "value"] = fixed.value.to_numpy()[: (runs.optimizer == control).sum()]
    own = own[~own.metric.str.startswith("chosen")]
    runs.loc[own.index, "value"] = fixed.value.to_numpy() - 0.001
    assert set(outcomes(study, rules.FIXED).outcome) == {"met"}
    assert set(outcomes(study, rules.MEAN).outcome) == {"missed"}


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [(0.87, 0.87, "holds"), (0.87, 0.853, "holds in part"), (0.82, 0.82, "fails")],
)
def test_one_rule_has_to_meet_everything_on_every_workload(training_study, first, second, verdict):
    studies = [
        with_control(training_study(raw=first)),
        with_control(training_study(raw=second), name="gap-rules-images"),
    ]
    found = judge("one-rule", *studies, margin=MARGIN)
    assert found.verdict == verdict
    if verdict == "holds in part":
        assert found.evidence == (
            "GAP, raw: as good at 6 of 6 learning rates and worse at 0, ahead of the mean of the buffers in 1 of 2 "
            "studies, and of random switching in 2 of 2"
        )


def test_without_a_rule_with_both_controls_the_claim_is_not_run(training_study):
    found = judge("one-rule", training_study(), margin=MARGIN)
    assert found.verdict == "not run"


@pytest.mark.skipif(not TUNED.exists(), reason="the study on which the attempts are tuned is not published yet")
@pytest.mark.parametrize("attempt", ["regret", "noise-window", "own-memory"])
def test_an_attempt_has_the_settings_that_are_least_far_behind_at_their_worst_rate_in_tuning(attempt):
    study, judged = read_study(TUNED), config.load(CONFIG / "overnight.yaml").studies["gap-rules-images"]
    row = judged.optimizers[attempt]
    tried = {key: entry for key, entry in study.facts.optimizers.items() if entry["class"] == row.class_}
    table = rules.differences(study)
    worst = table[(table.beside == rules.FIXED) & table.optimizer.isin(tried)].groupby("optimizer").difference.min()
    assert tried[str(worst.idxmax())]["settings"] == row.settings
