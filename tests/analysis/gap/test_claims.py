import re
from dataclasses import replace

import pytest
from tests.analysis.judge import judge

from optrepro.catalogue import Margin

MARGIN = Margin(points=0.5, percent=1)
AS_GOOD = {"optimizers": ["raw", "debiased"], "margin": MARGIN}


@pytest.mark.parametrize(
    ("raw", "debiased", "verdict"),
    [(0.86, 0.848, "holds"), (0.848, 0.80, "holds in part"), (0.80, 0.80, "fails")],
)
def test_as_good_is_no_worse_than_the_best_fixed_candidate_by_more_than_the_margin(
    training_study, raw, debiased, verdict
):
    found = judge("matches-best-fixed", training_study(raw=raw, debiased=debiased), **AS_GOOD)
    assert found.verdict == verdict
    assert "momentum 0.9" in found.evidence
    assert "[" in found.evidence


def test_noise_earns_no_verdict(training_study):
    study = training_study(seeds=3)
    rules = study.runs.optimizer.isin(AS_GOOD["optimizers"]) & (study.runs.metric == "test_accuracy")
    study.runs.loc[rules, "value"] += study.runs[rules].seed.map({0: -0.2, 1: 0.0, 2: 0.2})
    assert judge("matches-best-fixed", study, **AS_GOOD).verdict == "undecided"


def test_a_rule_that_never_switched_holds_trivially(training_study):
    study = training_study(raw=0.86, debiased=0.86)
    chosen = (study.runs.optimizer == "raw") & study.runs.metric.str.startswith("chosen")
    study.runs.loc[chosen, "value"] = (study.runs[chosen].metric == "chosen[1]").astype(float)
    assert judge("matches-best-fixed", study, **AS_GOOD).verdict == "holds trivially"


@pytest.mark.parametrize(("level", "verdict"), [(0.86, "holds"), (0.80, "fails")])
def test_the_sweep_is_not_needed_if_the_rule_keeps_up_at_every_rate(training_study, level, verdict):
    found = judge("matches-at-every-rate", training_study(raw=level), optimizers=["raw"], margin=MARGIN)
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("role", "rule", "settings"),
    [
        ("tuning", "matches-at-every-rate", {"optimizers": ["raw"]}),
        ("tuning", "beats-controls", {"pairs": {"raw": ["mean"]}, "at": "every rate"}),
        ("test", "beats-controls", {"pairs": {"raw": ["mean"]}}),
        ("test", "matches-best-fixed", {"optimizers": ["raw"]}),
        ("test", "adapts-after-shift", {"optimizer": "raw"}),
    ],
)
def test_two_seeds_judge_nothing(training_study, role, rule, settings):
    study = training_study()
    name = {"tuning": "tune", "test": "test"}[role]
    runs = study.runs[(study.runs.role != name) | (study.runs.seed < 2)]
    found = judge(rule, type(study)(runs, study.facts), **settings)
    assert found == ("undecided", f"gap-sgdm has 2 {role} seeds; a verdict needs 3")


@pytest.mark.parametrize(("level", "verdict"), [(0.87, "holds"), (0.841, "undecided"), (0.83, "fails")])
def test_highest_means_wholly_above_the_best_of_the_others(training_study, level, verdict):
    study, among = training_study(validation=level), ["momentum-90", "paper", "validation"]
    assert judge("highest-accuracy", study, optimizer="validation", among=among).verdict == verdict
    if verdict == "undecided":  # a lead of at most 2 points is none where these matter to nobody
        wide = Margin(points=2)
        assert judge("highest-accuracy", study, optimizer="validation", among=among, margin=wide).verdict == "fails"


@pytest.mark.parametrize(
    ("raw", "debiased", "verdict"),
    [(0.87, 0.87, "holds"), (0.87, 0.85, "holds in part"), (0.855, 0.85, "fails")],
)
def test_a_rule_has_to_beat_all_of_its_controls(training_study, raw, debiased, verdict):
    pairs = {"raw": ["random-raw", "mean"], "debiased": ["random", "mean"]}
    assert judge("beats-controls", training_study(raw=raw, debiased=debiased), pairs=pairs).verdict == verdict


def test_taking_the_smallest_candidate_is_not_switching(training_study):
    assert judge("switches", training_study(), optimizer="paper", most=0.9).verdict == "fails"
    found = judge("switches", training_study(), optimizer="raw", most=0.9)
    assert found.verdict == "holds"
    assert "20.0\N{NO-BREAK SPACE}%" in found.evidence


def test_switching_with_one_optimizer_of_two_holds_in_part(training_study):
    runs = training_study(adam=True)
    chosen = runs.runs.metric.str.startswith("chosen") & (runs.runs.optimizer == "paper")
    runs.runs.loc[chosen, "value"] = 1.0
    assert judge("switches", training_study(), runs, optimizer="paper", most=0.9).verdict == "holds in part"


def _by_loss(study):
    return type(study)(study.runs, replace(study.facts, criterion="loss"))


def test_matching_by_loss_is_said_in_nats_and_a_diverged_run_does_not_match(training_study):
    found = judge("matches-best-fixed", _by_loss(training_study(paper=0.86)), optimizers=["paper"])
    assert found.verdict == "holds"
    assert found.evidence.startswith("nats below momentum 0.9: GAP, paper: +0.019")
    lost = _by_loss(training_study(paper=0.86, diverged=("paper/test/0.03/1",)))
    found = judge("matches-best-fixed", lost, optimizers=["paper"])
    assert found.verdict == "fails"
    assert found.evidence.endswith("of the choices, 1 diverged")


def test_matching_says_what_was_taken_and_how_far_the_fixed_candidate_that_is_best_on_test_is(training_study):
    study = training_study(paper=0.86)
    runs = study.runs
    runs.loc[(runs.optimizer == "momentum-99") & (runs.metric == "test_accuracy"), "value"] += 0.1
    paper = (runs.optimizer == "paper") & runs.metric.str.startswith("chosen")
    found = judge("matches-best-fixed", study, optimizers=["paper", "raw"])
    assert "0.5 in 98.0\N{NO-BREAK SPACE}% of the choices; GAP, raw" in found.evidence
    assert "; points above momentum 0.99, the best on test data: GAP, paper: -" in found.evidence
    runs.loc[paper, "value"] = (runs[paper].metric == "chosen[0]").astype(float)
    assert "], always took 0.5; GAP, raw" in judge("matches-best-fixed", study, optimizers=["paper", "raw"]).evidence


def test_always_the_smallest_candidate_is_said_to_be_that_fixed_candidate(training_study):
    study = training_study()
    paper, fixed = (study.runs[study.runs.optimizer == key] for key in ("paper", "momentum-50"))
    same = study.runs.value.copy()
    chosen = paper.metric.str.startswith("chosen")
    same[paper[~chosen].index] = fixed.value.to_numpy()
    same[paper[chosen].index] = (paper[chosen].metric == "chosen[0]").astype(float)
    study.runs["value"] = same
    found = judge("switches", study, optimizer="paper", most=0.9, compared=True)
    assert found.verdict == "fails"
    assert found.evidence.endswith(
        "0.5 in 100.0\N{NO-BREAK SPACE}% of the choices, points above momentum 0.5: 0 (the runs are identical)"
    )


@pytest.mark.parametrize(
    ("raw", "paper", "verdict"), [(0.86, 0.80, "holds"), (0.84, 0.86, "holds"), (0.80, 0.80, "fails")]
)
def test_one_rule_has_to_hold_its_own_in_every_study(training_study, raw, paper, verdict):
    levels = {"debiased": 0.80, "validation": 0.80, "paper_each": 0.80}
    studies = [
        training_study(raw=raw, paper=paper, **levels),
        training_study(adam=True, raw=raw, paper=paper, **levels),
    ]
    assert judge("matches-at-every-rate", *studies).verdict == verdict


def test_two_rules_that_hold_in_one_study_each_hold_in_part_at_most(training_study):
    levels = {"debiased": 0.80, "validation": 0.80, "paper_each": 0.80}
    studies = [
        training_study(raw=0.86, paper=0.80, **levels),
        training_study(adam=True, raw=0.80, paper=0.86, **levels),
    ]
    found = judge("matches-at-every-rate", *studies)
    assert found.verdict == "fails"  # each at half of the learning rates
    assert "at 3 of 6 learning rates, the most of 5 rules" in found.evidence
    assert "gap-sgdm 0 of 3 (worse at 0.01, 0.03, 0.1), gap-adam 3 of 3" in found.evidence
    assert "random switching at 0, mean of the buffers at 6; at 3 of the 6 where one of these is not" in found.evidence


def test_a_rule_that_is_named_is_judged_alone(training_study):
    found = judge("matches-at-every-rate", training_study(), optimizers=["paper", "paper-each"])
    assert found.verdict == "fails"
    found = judge("matches-at-every-rate", training_study(), optimizers=["continuous"])
    assert found == ("not run", "continuous is not among the runs")


def test_controls_have_to_be_beaten_in_every_study(training_study):
    weak, strong = training_study(raw=0.84, adam=True), _by_loss(training_study(raw=0.87))
    pairs = {"raw": ["random-raw", "mean"]}
    assert judge("beats-controls", strong, pairs=pairs).verdict == "holds"
    found = judge("beats-controls", strong, weak, pairs=pairs)
    assert found.verdict == "holds in part"
    assert "gap-sgdm (nats): GAP, raw: +0.0" in found.evidence
    assert "gap-adam (points): GAP, raw: -1." in found.evidence


def test_controls_may_have_to_be_beaten_over_all_learning_rates(training_study):
    study, pairs = training_study(raw=0.87), {"raw": ["random-raw", "mean"]}
    runs = study.runs
    worse = (runs.optimizer == "raw") & (runs.role == "tune") & (runs.metric == "validation_accuracy")
    runs.loc[worse & (runs.learning_rate == 0.1), "value"] = 0.5
    assert judge("beats-controls", study, pairs=pairs).verdict == "holds"
    assert judge("beats-controls", study, pairs=pairs, at="every rate").verdict == "fails"


@pytest.mark.parametrize(
    ("optimizer", "other", "verdict"),
    [("raw", False, "holds"), ("paper", False, "fails"), ("paper", True, "holds in part")],
)
def test_adapting_means_to_beat_the_fixed_candidate_that_is_best_at_the_end_in_tuning(
    shift_study, optimizer, other, verdict
):
    noise = shift_study("noise", tuning={"momentum-90": (0.74, 0.77)} if other else {})
    found = judge("adapts-after-shift", shift_study("data"), noise, optimizer=optimizer)
    assert found.verdict == verdict
    assert "40 % random labels: " in found.evidence


# the members are compared at power 0.1, which suits the random ones best
@pytest.mark.parametrize(
    ("identity", "ahead", "verdict"),
    [(1.0, 0.0, "holds"), (1.0, 0.3, "holds in part"), (1e-3, 0.0, "holds in part"), (1.0, 0.6, "fails")],
)
def test_the_optimal_member_is_fastest_if_no_member_ends_lower(families_study, identity, ahead, verdict):
    study = families_study({("members/ellipse", "identity"): {0.1: identity, 1.0: 1.0}}, ahead=ahead)
    assert judge("fastest-member", study).verdict == verdict


@pytest.mark.parametrize(
    ("raw", "in_adam", "verdict"), [(0.90, 0.90, "holds"), (0.90, 0.80, "holds in part"), (0.80, 0.80, "fails")]
)
def test_adapting_pays_if_the_best_rule_is_ahead_of_the_fixed_filter_on_every_task(
    training_study, raw, in_adam, verdict
):
    studies = [training_study(raw=raw, mean=0.85), training_study(adam=True, raw=in_adam, mean=0.85)]
    found = judge("adapting-pays", *studies, optimizers=["raw"], margin=MARGIN)
    assert found.verdict == verdict


def test_what_adapting_is_worth_is_a_factor_of_the_error_in_the_mean_over_tasks(training_study):
    studies = [training_study(raw=0.91, mean=0.81), training_study(adam=True, raw=0.81, mean=0.81)]
    found = judge("adapting-pays", *studies, optimizers=["raw", "paper"])
    gain = float(re.search(r"(\d\.\d+) \(GAP, raw\)", found.evidence)[1])
    assert gain == pytest.approx(2**0.5, rel=0.05)
    assert found.evidence.endswith("]")
    assert "mean of 2 tasks: " in found.evidence


def test_what_adapting_is_worth_is_a_factor_of_the_loss_where_that_is_the_criterion(training_study):
    study = _by_loss(training_study(raw=0.8, mean=0.6))
    found = judge("adapting-pays", study, optimizers=["raw"])
    losses = study.runs[(study.runs.metric == "test_loss") & (study.runs.step == 40)].groupby("optimizer").value.mean()
    gain = float(re.search(r"(\d\.\d+) \(GAP, raw\)", found.evidence)[1])
    assert gain == pytest.approx(losses["mean"] / losses["raw"], rel=0.02)
