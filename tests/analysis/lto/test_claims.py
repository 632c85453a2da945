import pandas as pd
import pytest
from tests.analysis.judge import judge

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
def test_the_fastest_is_lower_than_every_other_optimizer_in_every_panel(objectives_study, speeds, verdict):
    study = objectives_study(speeds, keep=(*FEW, "fig1-grey", "fig1-cifar10", "fig1-cifar100"))
    found = judge("descends-fastest", study, **FASTEST)
    assert found.verdict == verdict
    assert found.evidence.count("CIFAR-100 ") == 2  # by area and by final objective


def test_the_hardest_other_optimizer_is_named_with_its_interval(objectives_study):
    study = objectives_study({("fig1-grey", "rmsprop"): 4.5}, keep=(*FEW, "fig1-grey"))
    found = judge("descends-fastest", study, **FASTEST)
    assert found.evidence.startswith("area, % below the best other: Fashion-MNIST +")
    assert found.evidence.endswith("(RMSPROP)")


def test_the_final_objective_counts_beside_the_area(objectives_study):
    study = objectives_study({"psd": 5.0}, keep=(*FEW, "fig1-grey"))
    last = study.runs.step == study.runs.step[study.runs.role == "test"].max()
    study.runs.loc[last & (study.runs.optimizer == "psd"), "value"] *= 1.2
    assert judge("descends-fastest", study, **FASTEST).verdict == "holds in part"


@pytest.mark.parametrize(
    ("psd", "other", "verdict"),
    [(5.0, -0.4, "holds"), (5.0, 2.8, "holds in part"), (3.0, -0.4, "fails")],  # below 0: it ascends
)
def test_the_other_has_to_end_above_its_start_where_the_claim_says_so(objectives_study, psd, other, verdict):
    study = objectives_study({"psd": psd, "l2l": other}, keep=("adagrad", "l2l", "psd", "fig3-grey"))
    found = judge("descends-fastest-where-other-diverges", study, optimizer="psd", figure="fig3", other="l2l")
    assert found.verdict == verdict
    assert "L2L: Fashion-MNIST 2.3" in found.evidence


def test_the_other_may_diverge_instead(objectives_study):
    keep = ("adagrad", "l2l", "psd", "fig3-grey")
    study = objectives_study({"psd": 5.0}, diverged=(("fig3-grey", "l2l"),), seeds=2, keep=keep)
    third = study.runs[study.runs.seed == 0].assign(seed=2, run=lambda runs: runs.run + "/again")
    study = type(study)(pd.concat([study.runs, third], ignore_index=True), study.facts)
    found = judge("descends-fastest-where-other-diverges", study, optimizer="psd", figure="fig3", other="l2l")
    assert found.verdict == "holds"
    assert "100\N{NO-BREAK SPACE}% of the runs diverged" in found.evidence


@pytest.mark.parametrize(("psd", "verdict"), [(5.0, "holds"), (3.0, "holds in part")])
def test_progress_beyond_the_horizon_counts_beside_the_area(objectives_study, psd, verdict):
    study = objectives_study({"psd": psd}, keep=(*FEW, "fig5-grey", "fig5-cifar10"))
    found = judge("descends-fastest-and-longer", study, optimizer="psd", figure="fig5")
    assert found.verdict == verdict
    assert "from iteration 400 to 800 it falls by: Fashion-MNIST +0." in found.evidence


def test_without_progress_beyond_the_horizon_the_claim_fails(objectives_study):
    study = objectives_study(keep=(*FEW, "fig5-grey"))
    runs = study.runs.copy()
    late = (runs.optimizer == "psd") & (runs.metric == "objective") & (runs.step > 400)
    runs.loc[late, "value"] += 1.0
    found = judge("descends-fastest-and-longer", type(study)(runs, study.facts), optimizer="psd", figure="fig5")
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
    assert judge(rule, study, **settings) == ("not run", f"{absent} is not among the runs")
