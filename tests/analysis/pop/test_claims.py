import pytest
from tests.analysis.judge import judge

from optrepro.analysis.results import StudyResults
from optrepro.catalogue import Margin

BASELINES = ["first-order", "quasi-newton"]
DISTRIBUTION = {"collection": "prior-test", "groups": BASELINES}
ABLATION = {"policy": "scaling-none", "margin": Margin(improvement=0.01, digits=0.1)}


@pytest.mark.parametrize(
    ("digits", "verdict"), [(2.0, "holds"), (1.1, "holds in part"), (1.0, "holds in part"), (0.5, "fails")]
)
def test_outperforming_means_a_significant_lead_over_every_baseline(transfer_study, digits, verdict):
    study = transfer_study({("prior-test", "pop"): digits})  # the baselines gain 0.7, 1 and 1.2
    found = judge("policy-outperforms", study, collection="prior-test", groups=BASELINES)
    assert found.verdict == verdict
    assert found.evidence.startswith("24 functions; ")
    assert "[" in found.evidence


def test_only_the_groups_of_the_claim_have_to_be_beaten(transfer_study):
    study = transfer_study({("prior-test", "pop"): 1.1})
    found = judge("policy-outperforms", study, collection="prior-test", groups=["first-order"])
    assert found.verdict == "holds"
    assert "beats 2 of 2; ADAM: +0" in found.evidence


def test_an_optimizer_that_is_not_beaten_is_named_with_its_lead(transfer_study):
    study = transfer_study({("prior-test", "pop"): 1.1})
    found = judge("policy-outperforms", study, collection="prior-test", groups=BASELINES)
    assert "beats 2 of 3; LBFGS: -0" in found.evidence


def test_the_benchmark_is_judged_over_its_smooth_functions(transfer_study):
    found = judge("policy-outperforms", transfer_study(), collection="vlse", groups=BASELINES)
    assert found.evidence.startswith("6 functions; ")


@pytest.mark.parametrize(("digits", "verdict"), [(2.0, "holds"), (1.6, "holds in part"), (1.0, "fails")])
def test_a_policy_that_stalls_beyond_its_horizon_does_not_keep_ahead(transfer_study, digits, verdict):
    # L-BFGS gains 1.6, 1.9 and 2.4 digits in 2, 4 and 10 horizons
    stalls = ("pop",) if digits < 2 else ()
    study = transfer_study({("prior-test", "pop"): digits + 0.1}, stalls=stalls)
    found = judge("policy-outperforms-beyond-horizon", study, groups=BASELINES, multiples=[2, 4, 10])
    assert found.verdict == verdict
    assert "10 times the horizon" in found.evidence


@pytest.mark.parametrize(("digits", "verdict"), [(2.0, "holds"), (0.2, "fails")])
def test_more_dimensions_are_judged_one_by_one(transfer_study, digits, verdict):
    study = transfer_study({("prior-8d", "pop"): digits})
    found = judge("policy-outperforms-in-dimensions", study, policy="pop", groups=BASELINES, dimensions=[8])
    assert found.verdict == verdict
    both = judge("policy-outperforms-in-dimensions", study, policy="pop", groups=BASELINES, dimensions=[2, 8])
    assert both.verdict == ("holds" if verdict == "holds" else "holds in part")


def _lost_after(study: StudyResults, evaluations: int) -> StudyResults:
    """The study in which POP is back at its start after so many evaluations."""
    lost = (study.runs.optimizer == "pop") & (study.runs.metric == "regret") & (study.runs.step > evaluations)
    return StudyResults(study.runs.assign(value=study.runs.value.where(~lost, 1e9)), study.facts)


@pytest.mark.parametrize(("after", "verdict"), [(500, "holds"), (200, "holds in part"), (1, "fails")])
def test_a_collection_of_others_is_judged_at_each_budget_in_every_class(outside_study, after, verdict):
    study = _lost_after(outside_study("pop-bbob"), after)
    found = judge("first-on-collection", study, group="first-order", significance=0.01)
    assert found.verdict == verdict
    assert found.evidence.startswith("48 problems; 50 evaluations: first in ")


def test_a_collection_whose_package_was_missing_is_not_run(outside_study):
    found = judge("first-on-collection", outside_study(installed=False), group="first-order", significance=0.01)
    assert found == ("not run", "pop-cutest: 2 of 2 runs are missing")


@pytest.mark.parametrize(
    ("rule", "settings", "absent"),
    [
        ("policy-outperforms", {"collection": "prior-16d"}, "prior-16d"),
        ("policy-outperforms-in-dimensions", {"policy": "pop", "dimensions": [8, 32]}, "32 dimensions"),
        ("policy-outperforms-beyond-horizon", {"multiples": [20]}, "20 times the horizon"),
    ],
)
def test_a_case_that_the_scale_leaves_out_is_not_run(transfer_study, rule, settings, absent):
    found = judge(rule, transfer_study(), groups=BASELINES, **settings)
    assert found == ("not run", f"{absent} is not among the runs")


@pytest.mark.parametrize(("digits", "verdict"), [(1.0, "holds"), (2.0, "fails"), (3.0, "fails")])
def test_an_ablation_has_to_be_worse_on_the_benchmark(policy_study, digits, verdict):
    found = judge("ablation-is-worse", policy_study({"scaling-none": digits}, seeds=3), **ABLATION)
    assert found.verdict == verdict
    assert "standard less scaling no scaling, 7 functions" in found.evidence


def test_one_training_decides_nothing_about_how_policies_are_trained(policy_study):
    found = judge("ablation-is-worse", policy_study({"scaling-none": 1.0}), **ABLATION)
    assert found == ("undecided", "pop-ablation has 1 training seed; a verdict needs 3")


def test_regret_counts_beside_improvement(transfer_study):
    study = transfer_study({("prior-test", "pop"): 2.0})
    assert judge("policy-outperforms", study, **DISTRIBUTION).verdict == "holds"
    # on half of the functions L-BFGS gains five digits more, which hardly show in its improvement
    deep = (study.runs.optimizer == "lbfgs") & (study.runs.metric == "regret") & (study.runs.step > 1)
    deep &= study.runs.seed % 2 == 0
    study = StudyResults(study.runs.assign(value=study.runs.value.where(~deep, study.runs.value / 1e5)), study.facts)
    found = judge("policy-outperforms", study, **DISTRIBUTION)
    assert found.verdict == "holds in part"
    assert "improvement 0.990, beats 3 of 3" in found.evidence
    assert "digits 2.069, beats 2 of 3" in found.evidence
