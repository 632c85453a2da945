import importlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from optrepro import catalogue
from optrepro.analysis import judging
from optrepro.analysis import verdict as words
from optrepro.analysis.intervals import Interval
from optrepro.catalogue import Claim
from optrepro.config import ConfigError

CONFIG = Path(__file__).parents[2] / "config"
MODULES = ("gap.claims", "gap.principle", "pop.claims", "lto.claims", "vlse.claims")


def _judge(rule, *studies, **settings):
    settings["studies"] = [study.facts.study for study in studies]
    return judging.judge(_claim(rule, settings), {study.facts.study: study for study in studies})


def _claim(rule, settings):
    """A claim that the rule of this name judges, written with dashes."""
    name = rule.replace("-", "_")
    [path] = [m for m in MODULES if hasattr(importlib.import_module(f"optrepro.analysis.{m}"), name)] or ["gap.claims"]
    words = {"statement": "s", "source": "t", "criterion": "c"}
    return Claim(id="a", exhibit="x", rule=f"optrepro.analysis.{path}.{name}", settings=settings, **words)


@pytest.mark.parametrize(
    ("paper", "each", "verdict"),
    [(0.86, 0.84, "holds"), (0.84, 0.80, "holds in part"), (0.80, 0.80, "fails")],
)
def test_matching_means_that_the_interval_does_not_lie_wholly_below_zero(training_study, paper, each, verdict):
    study = training_study(paper=paper, paper_each=each)
    found = _judge("matches-best-fixed", study, optimizers=["paper", "paper-each"])
    assert found.verdict == verdict
    assert "momentum 0.9" in found.evidence
    assert "[" in found.evidence


@pytest.mark.parametrize(("level", "verdict"), [(0.86, "holds"), (0.80, "fails")])
def test_the_sweep_is_not_needed_if_the_rule_keeps_up_at_every_rate(training_study, level, verdict):
    found = _judge("matches-at-every-rate", training_study(paper=level), optimizer="paper")
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("seed", "rule", "settings"),
    [
        ("tuning", "matches-at-every-rate", {"optimizer": "raw"}),
        ("tuning", "one-rule-at-every-rate", {}),
        ("tuning", "beats-controls-everywhere", {"pairs": {"raw": ["mean"]}, "at": "every rate"}),
        ("test", "beats-controls-everywhere", {"pairs": {"raw": ["mean"]}}),
        ("test", "beats-controls", {"pairs": {"raw": ["mean"]}}),
        ("test", "matches-best-fixed", {"optimizers": ["raw"]}),
        ("test", "highest-accuracy", {"optimizer": "raw", "among": ["mean"]}),
    ],
)
def test_one_seed_judges_nothing(training_study, seed, rule, settings):
    study = training_study()
    role = {"tuning": "tune", "test": "test"}[seed]
    runs = study.runs[(study.runs.role != role) | (study.runs.seed == 0)]
    found = _judge(rule, type(study)(runs, study.facts), **settings)
    assert found == ("not run", f"gap-sgdm: one {seed} seed gives no interval")


@pytest.mark.parametrize(("level", "verdict"), [(0.87, "holds"), (0.84, "holds in part"), (0.83, "fails")])
def test_highest_means_wholly_above_the_best_of_the_others(training_study, level, verdict):
    study = training_study(validation=level)
    found = _judge("highest-accuracy", study, optimizer="validation", among=["momentum-90", "paper", "validation"])
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("raw", "debiased", "verdict"),
    [(0.87, 0.87, "holds"), (0.87, 0.85, "holds in part"), (0.855, 0.85, "fails")],
)
def test_a_rule_has_to_beat_all_of_its_controls(training_study, raw, debiased, verdict):
    pairs = {"raw": ["random-raw", "mean"], "debiased": ["random", "mean"]}
    assert _judge("beats-controls", training_study(raw=raw, debiased=debiased), pairs=pairs).verdict == verdict


def test_taking_the_smallest_candidate_is_not_switching(training_study):
    assert _judge("switches", training_study(), optimizer="paper", most=0.9).verdict == "fails"
    found = _judge("switches", training_study(), optimizer="raw", most=0.9)
    assert found.verdict == "holds"
    assert "20.0\N{NO-BREAK SPACE}%" in found.evidence


def test_switching_with_one_optimizer_of_two_holds_in_part(training_study):
    runs = training_study(adam=True)
    chosen = runs.runs.metric.str.startswith("chosen") & (runs.runs.optimizer == "paper")
    runs.runs.loc[chosen, "value"] = 1.0
    assert _judge("switches", training_study(), runs, optimizer="paper", most=0.9).verdict == "holds in part"


def _by_loss(study):
    return type(study)(study.runs, replace(study.facts, criterion="loss"))


def test_matching_by_loss_is_said_in_nats_and_a_diverged_run_does_not_match(training_study):
    found = _judge("matches-best-fixed", _by_loss(training_study(paper=0.86)), optimizers=["paper"])
    assert found.verdict == "holds"
    assert found.evidence.startswith("nats below momentum 0.9: GAP, paper: +0.019")
    lost = _by_loss(training_study(paper=0.86, diverged=("paper/test/0.03/1",)))
    found = _judge("matches-best-fixed", lost, optimizers=["paper"])
    assert found.verdict == "fails"
    assert found.evidence.endswith("of the choices, 1 diverged")


def test_matching_says_what_was_taken_and_how_far_the_fixed_candidate_that_is_best_on_test_is(training_study):
    study = training_study(paper=0.86)
    runs = study.runs
    runs.loc[(runs.optimizer == "momentum-99") & (runs.metric == "test_accuracy"), "value"] += 0.1
    paper = (runs.optimizer == "paper") & runs.metric.str.startswith("chosen")
    found = _judge("matches-best-fixed", study, optimizers=["paper", "raw"])
    assert "0.5 in 98.0\N{NO-BREAK SPACE}% of the choices; GAP, raw" in found.evidence
    assert "; points above momentum 0.99, the best on test data: GAP, paper: -" in found.evidence
    runs.loc[paper, "value"] = (runs[paper].metric == "chosen[0]").astype(float)
    assert "], always took 0.5; GAP, raw" in _judge("matches-best-fixed", study, optimizers=["paper", "raw"]).evidence


def test_no_number_of_the_evidence_is_a_signed_zero_or_loses_its_side_of_zero():
    tiny = words.signed(Interval(-6e-06, -0.35, 1e-20))
    assert tiny == "-6e-06\N{NO-BREAK SPACE}[-0.350,\N{NO-BREAK SPACE}0.000]"
    assert words.points(Interval(0.01, -0.001, -0.00001)).endswith("-0.001]")


def test_always_the_smallest_candidate_is_said_to_be_that_fixed_candidate(training_study):
    study = training_study()
    paper, fixed = (study.runs[study.runs.optimizer == key] for key in ("paper", "momentum-50"))
    same = study.runs.value.copy()
    chosen = paper.metric.str.startswith("chosen")
    same[paper[~chosen].index] = fixed.value.to_numpy()
    same[paper[chosen].index] = (paper[chosen].metric == "chosen[0]").astype(float)
    study.runs["value"] = same
    found = _judge("switches", study, optimizer="paper", most=0.9, compared=True)
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
    assert _judge("one-rule-at-every-rate", *studies).verdict == verdict


def test_two_rules_that_hold_in_one_study_each_hold_in_part_at_most(training_study):
    levels = {"debiased": 0.80, "validation": 0.80, "paper_each": 0.80}
    studies = [
        training_study(raw=0.86, paper=0.80, **levels),
        training_study(adam=True, raw=0.80, paper=0.86, **levels),
    ]
    found = _judge("one-rule-at-every-rate", *studies)
    assert found.verdict == "fails"  # each at half of the learning rates
    assert "at 3 of 6 learning rates, the most of 5 rules" in found.evidence
    assert "gap-sgdm 0 of 3 (not at 0.01, 0.03, 0.1), gap-adam 3 of 3; by paired differences at 3" in found.evidence
    assert "random switching at 2, mean of the buffers at 6; at 2 of the 4 where one of these is not" in found.evidence


def test_a_rule_that_is_named_is_judged_alone(training_study):
    found = _judge("one-rule-at-every-rate", training_study(), optimizers=["paper", "paper-each"])
    assert found.verdict == "fails"
    found = _judge("one-rule-at-every-rate", training_study(), optimizers=["continuous"])
    assert found == ("not run", "continuous is not among the runs")


def test_controls_have_to_be_beaten_in_every_study(training_study):
    weak, strong = training_study(raw=0.84, adam=True), _by_loss(training_study(raw=0.87))
    pairs = {"raw": ["random-raw", "mean"]}
    assert _judge("beats-controls-everywhere", strong, pairs=pairs).verdict == "holds"
    found = _judge("beats-controls-everywhere", strong, weak, pairs=pairs)
    assert found.verdict == "holds in part"
    assert "gap-sgdm (nats): GAP, raw: +0.0" in found.evidence
    assert "gap-adam (points): GAP, raw: -1." in found.evidence


def test_controls_may_have_to_be_beaten_over_all_learning_rates(training_study):
    study, pairs = training_study(raw=0.87), {"raw": ["random-raw", "mean"]}
    runs = study.runs
    worse = (runs.optimizer == "raw") & (runs.role == "tune") & (runs.metric == "validation_accuracy")
    runs.loc[worse & (runs.learning_rate == 0.1), "value"] = 0.5
    assert _judge("beats-controls-everywhere", study, pairs=pairs).verdict == "holds"
    assert _judge("beats-controls-everywhere", study, pairs=pairs, at="every rate").verdict == "fails"


@pytest.mark.parametrize(
    ("optimizer", "other", "verdict"),
    [("raw", False, "holds"), ("paper", False, "fails"), ("paper", True, "holds in part")],
)
def test_adapting_means_to_beat_the_fixed_candidate_that_is_best_at_the_end_in_tuning(
    shift_study, optimizer, other, verdict
):
    noise = shift_study("noise", tuning={"momentum-90": (0.74, 0.77)} if other else {})
    found = _judge("adapts-after-shift", shift_study("data"), noise, optimizer=optimizer)
    assert found.verdict == verdict
    assert "40 % random labels: " in found.evidence


# the members are compared at power 0.1, which suits the random ones best
@pytest.mark.parametrize(
    ("identity", "ahead", "verdict"),
    [(1.0, 0.0, "holds"), (1.0, 0.3, "holds in part"), (1e-3, 0.0, "holds in part"), (1.0, 0.6, "fails")],
)
def test_the_optimal_member_is_fastest_if_no_member_ends_lower(families_study, identity, ahead, verdict):
    study = families_study({("members/ellipse", "identity"): {0.1: identity, 1.0: 1.0}}, ahead=ahead)
    assert _judge("fastest-member", study).verdict == verdict


def test_no_free_lunch_needs_different_winners(families_study):
    assert _judge("no-family-wins-everywhere", families_study()).verdict == "holds"
    one = families_study({("families/saddle", "frobenius"): {0.1: 1e-9, 1.0: 1e-9}})
    assert _judge("no-family-wins-everywhere", one).verdict == "fails"
    close = families_study({("families/saddle", "frobenius"): {0.1: 1e-1, 1.0: 1.0001e-6}})
    close.runs.loc[
        (close.runs.workload == "families/saddle")
        & (close.runs.optimizer == "frobenius")
        & (close.runs.metric == "final_gap")
        & (close.runs.seed < 8),
        "value",
    ] = 1e-8
    assert _judge("no-family-wins-everywhere", close).verdict != "holds"


@pytest.mark.parametrize(("ellipse", "verdict"), [("frobenius", "holds"), ("spectral", "holds in part")])
def test_expected_families_have_to_win_on_every_toy(families_study, ellipse, verdict):
    expected = {"ellipse": [ellipse], "saddle": ["spectral", "diagonal"]}
    assert _judge("expected-families-win", families_study(), expected=expected).verdict == verdict


def test_a_geometric_autocorrelation_predicts_the_best_candidate(concept_study):
    assert _judge("decay-rate-predicts-choice", concept_study(rho={"late": 0.2})).verdict == "holds"


def test_another_autocorrelation_does_not(concept_study):
    study = concept_study()
    scores = study.runs.metric == "score_debiased"
    study.runs.loc[scores & (study.runs.optimizer == "momentum-0.5"), "value"] = 100.0
    assert _judge("decay-rate-predicts-choice", study).verdict == "fails"


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
    found = _judge("stationary-over-memories", _with_long_memory(concept_study()), still)
    assert found.verdict == "holds"
    assert "of 0.99 (100 steps) in 2 of 2 workloads" in found.evidence
    assert (
        _judge("stationary-over-memories", _with_long_memory(concept_study(rho={"late": 0.2})), still).verdict
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
    found = _judge("stationary-over-memories", _with_long_memory(concept_study()), study)
    assert found.verdict == "holds in part"
    assert words in found.evidence


def test_a_change_within_the_shortest_distance_measured_is_not_compared_with_shorter_memories(
    concept_study, diagnostics_study
):
    study = diagnostics_study(fall=0.5)
    study.runs.loc[study.runs.metric.str.startswith("kpss"), "value"] = 5.0
    found = _judge("stationary-over-memories", _with_long_memory(concept_study(rho={"late": 0.2})), study)
    assert found.verdict == "fails"
    assert "of 0.9 (10 steps) not resolved" in found.evidence
    assert "perceptron at most 20" in found.evidence


@pytest.mark.parametrize(("noise", "verdict"), [({16: 20.0, 512: 0.0}, "holds"), ({16: 0.0, 512: 0.0}, "fails")])
def test_noise_in_the_self_term_is_told_from_its_effect_on_the_choice(concept_study, noise, verdict):
    assert _judge("self-term-lowers-choice", concept_study(noise=noise)).verdict == verdict


BASELINES = ["first-order", "quasi-newton"]


@pytest.mark.parametrize(
    ("digits", "verdict"), [(2.0, "holds"), (1.1, "holds in part"), (1.0, "holds in part"), (0.5, "fails")]
)
def test_outperforming_means_a_significant_lead_over_every_baseline(transfer_study, digits, verdict):
    study = transfer_study({("prior-test", "pop"): digits})  # the baselines gain 0.7, 1 and 1.2
    found = _judge("policy-outperforms", study, collection="prior-test", groups=BASELINES)
    assert found.verdict == verdict
    assert "on 24 functions" in found.evidence
    assert "[" in found.evidence


def test_only_the_groups_of_the_claim_have_to_be_beaten(transfer_study):
    study = transfer_study({("prior-test", "pop"): 1.1})
    found = _judge("policy-outperforms", study, collection="prior-test", groups=["first-order"])
    assert found.verdict == "holds"
    assert "beats 2 of 2; ADAM: +0" in found.evidence


def test_an_optimizer_that_is_not_beaten_is_named_with_its_lead(transfer_study):
    study = transfer_study({("prior-test", "pop"): 1.1})
    found = _judge("policy-outperforms", study, collection="prior-test", groups=BASELINES)
    assert "beats 2 of 3; LBFGS: -0" in found.evidence


def test_the_benchmark_is_judged_over_its_smooth_functions(transfer_study):
    found = _judge("policy-outperforms", transfer_study(), collection="vlse", groups=BASELINES)
    assert "on 6 functions" in found.evidence


@pytest.mark.parametrize(("digits", "verdict"), [(2.0, "holds"), (1.6, "holds in part"), (1.0, "fails")])
def test_a_policy_that_stalls_beyond_its_horizon_does_not_keep_ahead(transfer_study, digits, verdict):
    # L-BFGS gains 1.6, 1.9 and 2.4 digits in 2, 4 and 10 horizons
    stalls = ("pop",) if digits < 2 else ()
    study = transfer_study({("prior-test", "pop"): digits + 0.1}, stalls=stalls)
    found = _judge("policy-outperforms-beyond-horizon", study, groups=BASELINES, multiples=[2, 4, 10])
    assert found.verdict == verdict
    assert "10 times the horizon" in found.evidence


@pytest.mark.parametrize(("digits", "verdict"), [(2.0, "holds"), (0.2, "fails")])
def test_more_dimensions_are_judged_one_by_one(transfer_study, digits, verdict):
    study = transfer_study({("prior-8d", "pop"): digits})
    found = _judge("policy-outperforms-in-dimensions", study, policy="pop", groups=BASELINES, dimensions=[8])
    assert found.verdict == verdict
    both = _judge("policy-outperforms-in-dimensions", study, policy="pop", groups=BASELINES, dimensions=[2, 8])
    assert both.verdict == ("holds" if verdict == "holds" else "holds in part")


@pytest.mark.parametrize(
    ("rule", "settings", "absent"),
    [
        ("policy-outperforms", {"collection": "prior-16d"}, "prior-16d"),
        ("policy-outperforms-in-dimensions", {"policy": "pop", "dimensions": [8, 32]}, "32 dimensions"),
        ("policy-outperforms-beyond-horizon", {"multiples": [20]}, "20 times the horizon"),
    ],
)
def test_a_case_that_the_scale_leaves_out_is_not_run(transfer_study, rule, settings, absent):
    found = _judge(rule, transfer_study(), groups=BASELINES, **settings)
    assert found == ("not run", f"{absent} is not among the runs")


@pytest.mark.parametrize(("digits", "verdict"), [(1.0, "holds"), (2.0, "fails"), (3.0, "fails")])
def test_an_ablation_has_to_be_worse_on_the_benchmark(policy_study, digits, verdict):
    found = _judge("ablation-is-worse", policy_study({"scaling-none": digits}), policy="scaling-none")
    assert found.verdict == verdict
    assert "scaling no scaling less standard, 7 functions" in found.evidence


FEW = ("adagrad", "rmsprop", "l2l", "psd", "psd-bregman")  # optimizers of the made-up study that are enough here
FASTEST = {"optimizer": "psd", "figure": "fig1"}


@pytest.mark.parametrize(
    ("speeds", "verdict"),
    [
        ({"psd": 5.0}, "holds"),
        ({"psd": 5.0, ("fig1-grey", "psd"): 3.9}, "holds in part"),
        ({"psd": 4.0}, "fails"),  # as fast as AdaGrad
        ({"psd": 5.0, "psd-bregman": 6.0}, "holds"),  # a variant does not compete
        ({"psd": 5.0, "l2l": 6.0}, "fails"),
    ],
)
def test_the_fastest_has_a_smaller_area_than_every_other_optimizer_in_every_panel(objectives_study, speeds, verdict):
    study = objectives_study(speeds, keep=(*FEW, "fig1-grey", "fig1-cifar10", "fig1-cifar100"))
    found = _judge("descends-fastest", study, **FASTEST)
    assert found.verdict == verdict
    assert "CIFAR-100: " in found.evidence


def test_the_hardest_other_optimizer_is_named_with_its_interval(objectives_study):
    study = objectives_study({("fig1-grey", "rmsprop"): 4.5}, keep=(*FEW, "fig1-grey"))
    found = _judge("descends-fastest", study, **FASTEST)
    assert found.evidence.startswith("area: Fashion-MNIST: -")
    assert found.evidence.endswith("% to RMSPROP")


@pytest.mark.parametrize(
    ("psd", "other", "verdict"),
    [(5.0, -0.4, "holds"), (5.0, 2.8, "holds in part"), (3.0, -0.4, "fails")],  # below 0: it ascends
)
def test_the_other_has_to_end_above_its_start_where_the_claim_says_so(objectives_study, psd, other, verdict):
    study = objectives_study({"psd": psd, "l2l": other}, keep=("adagrad", "l2l", "psd", "fig3-grey"))
    found = _judge("descends-fastest-where-other-diverges", study, optimizer="psd", figure="fig3", other="l2l")
    assert found.verdict == verdict
    assert "L2L: Fashion-MNIST 2.3" in found.evidence


def test_the_other_may_diverge_instead(objectives_study):
    study = objectives_study(diverged=(("fig3-grey", "l2l"),), seeds=2, keep=("adagrad", "l2l", "psd", "fig3-grey"))
    found = _judge("descends-fastest-where-other-diverges", study, optimizer="psd", figure="fig3", other="l2l")
    assert found.verdict == "holds"
    assert "100\N{NO-BREAK SPACE}% of the runs diverged" in found.evidence


@pytest.mark.parametrize(("psd", "verdict"), [(5.0, "holds"), (3.0, "holds in part")])
def test_progress_beyond_the_horizon_counts_beside_the_area(objectives_study, psd, verdict):
    study = objectives_study({"psd": psd}, keep=(*FEW, "fig5-grey", "fig5-cifar10"))
    found = _judge("descends-fastest-and-longer", study, optimizer="psd", figure="fig5")
    assert found.verdict == verdict
    assert "from iteration 400 to 800 it falls by: Fashion-MNIST +0." in found.evidence


def test_without_progress_beyond_the_horizon_the_claim_fails(objectives_study):
    study = objectives_study(keep=(*FEW, "fig5-grey"))
    runs = study.runs.copy()
    late = (runs.optimizer == "psd") & (runs.metric == "objective") & (runs.step > 400)
    runs.loc[late, "value"] += 1.0
    found = _judge("descends-fastest-and-longer", type(study)(runs, study.facts), optimizer="psd", figure="fig5")
    assert found.verdict == "fails"


@pytest.mark.parametrize(
    ("rule", "settings", "absent"),
    [
        ("descends-fastest", {"optimizer": "psd", "figure": "fig9"}, "fig9"),
        ("descends-fastest", {"optimizer": "absent", "figure": "fig1"}, "absent"),
        ("descends-fastest-and-longer", FASTEST, "a run beyond the trained horizon"),
        ("descends-fastest-where-other-diverges", {**FASTEST, "other": "absent"}, "absent"),
    ],
)
def test_a_panel_or_optimizer_that_the_scale_leaves_out_is_not_run(objectives_study, rule, settings, absent):
    study = objectives_study(keep=(*FEW, "fig1-grey"))
    assert _judge(rule, study, **settings) == ("not run", f"{absent} is not among the runs")


def test_a_missing_study_or_run_is_not_run(training_study):
    claim = _claim("matches-best-fixed", {"studies": ["gap-sgdm"], "optimizers": ["paper"]})
    assert judging.judge(claim, {}) == ("not run", "gap-sgdm has not been run")
    found = judging.judge(claim, {"gap-sgdm": training_study(missing=("raw/test/0.03/2",))})
    assert found.verdict == "not run"
    assert "1 of " in found.evidence


def test_an_optimizer_that_the_config_leaves_out_is_not_run(training_study):
    found = _judge("matches-best-fixed", training_study(), optimizers=["absent"])
    assert found == ("not run", "absent is not among the runs")


def test_an_unknown_rule_is_refused(training_study):
    with pytest.raises(ConfigError, match=r"rule = 'optrepro.analysis.gap.claims.guess' cannot be imported"):
        _judge("guess", training_study())


def test_every_claim_of_the_config_gets_a_verdict(
    training_study, families_study, concept_study, transfer_study, policy_study, objectives_study
):
    own = (concept_study(), families_study(), transfer_study(), policy_study({"scaling-none": 1.0}))
    own = (*own, objectives_study(keep=FEW))
    table = judging.verdicts(training_study(), training_study(adam=True), *own, folder=str(CONFIG))
    assert len(table) == len(catalogue.claims(CONFIG))
    assert set(table.verdict) <= set(words.VERDICTS)
    assert (table.evidence.str.len() > 0).all()
    judged = table[table.verdict != "not run"]
    titles = {name: paper.title for name, paper in catalogue.load(CONFIG).papers.items()}
    assert set(judged.paper) == {titles[name] for name in ("gap", "pop", "lto")}
    assert len(judged) >= 13
    assert len(judged[judged.paper == titles["lto"]]) == 5
    assert len(judged[judged.paper == titles["pop"]]) == 4  # all but one: the made-up study has no 16 and 32 dimensions


def test_claims_name_existing_exhibits_and_rules():
    known = catalogue.load(CONFIG).exhibits
    for claim in catalogue.claims(CONFIG):
        assert (claim.exhibit is None) == (claim.rule is None)
        assert claim.exhibit is None or claim.exhibit in known
        assert claim.rule is None or callable(catalogue.named(claim.rule, claim.id))


def test_claim_ids_are_unique():
    ids = [claim.id for claim in catalogue.claims(CONFIG)]
    assert len(ids) == len(set(ids))
