from dataclasses import replace

import numpy as np
import pytest

from optrepro.analysis.gap import ablation
from optrepro.analysis.results import StudyResults

SETTINGS = {
    "paper": {"score": "paper"},
    "paper-each": {"score": "paper", "select": "per_parameter"},
    "debiased": {"score": "debiased", "self_term": "halves"},
    "raw": {"score": "raw"},
    "validation": {"score": "raw", "score_ema": 0.9},
}


@pytest.fixture
def study(training_study):
    """A made-up study whose row "validation" stands for raw with a smoothed score."""
    return _with_settings(training_study())


def _with_settings(study: StudyResults, **settings) -> StudyResults:
    entries = dict(study.facts.optimizers)
    for key, own in {**SETTINGS, **settings}.items():
        entries[key] = {**entries[key], "settings": own}
    return StudyResults(study.runs, replace(study.facts, settings={**study.facts.settings, "optimizers": entries}))


def _sized(study: StudyResults, name: str, size: int) -> StudyResults:
    settings = {**study.facts.settings, "batch_size": size}
    return StudyResults(study.runs, replace(study.facts, study=name, settings=settings))


def test_a_row_varies_the_setting_that_its_score_alone_does_not_have(study):
    table = ablation.variants(study).set_index("optimizer").varied
    assert table["raw"] == table["debiased"] == "score"
    assert table["paper-each"] == "one choice per tensor"
    assert table["validation"] == "smoothing of the score"
    assert table["momentum-50"] == "fixed"
    assert table["mean"] == "control"


def test_a_variant_is_compared_with_its_own_score_alone(study):
    table = ablation.variants(study).set_index("optimizer")
    assert table.base[["paper-each", "validation", "raw"]].tolist() == ["paper", "raw", "raw"]
    assert table.base_difference["validation"] == pytest.approx(0.01, abs=0.003)  # 0.87 - 0.86
    assert table.difference["validation"] == pytest.approx(0.03, abs=0.003)  # to momentum 0.9, at 0.84
    assert np.isnan(table.base_difference["raw"])
    assert np.isnan(table.base_difference["mean"])


def test_a_row_that_varies_two_things_is_an_error(study):
    two = _with_settings(study, validation={"score": "raw", "score_ema": 0.9, "hysteresis": 1.0})
    with pytest.raises(ValueError, match="varies smoothing of the score and hysteresis; a row of an ablation"):
        ablation.variants(two)


def test_the_share_of_the_smallest_candidate_stands_beside_the_scores(study):
    table = ablation.variants(study).set_index("optimizer").smallest
    assert table[["paper", "raw"]].tolist() == pytest.approx([0.98, 0.2])
    assert np.isnan(table["mean"])


def test_studies_are_told_apart_by_name_or_by_batch_size(training_study, study):
    both = ablation.variants(study, _with_settings(training_study(adam=True)))
    assert both.groupby("study", sort=False).size().to_dict() == {"gap-sgdm": 12, "gap-adam": 12}
    sizes = ablation.batch_sizes(_sized(study, "gap-batch-16", 16), _sized(study, "gap-batch-64", 64))
    assert sizes.groupby("study").batch_size.first().to_dict() == {"gap-batch-16": 16, "gap-batch-64": 64}
    assert sizes[sizes.optimizer == "raw"].smallest.tolist() == pytest.approx([0.2, 0.2])


def test_rules_of_other_classes_stand_for_themselves(study):
    entries = dict(study.facts.optimizers)
    for key, own in {"paper": {"select": "global"}, "paper-each": {"select": "per_parameter"}}.items():
        entries[key] = {**entries[key], "class": "optrepro.optimizers.aligned_mean.AlignedMeanSGD", "settings": own}
    settings = {**study.facts.settings, "optimizers": entries}
    table = ablation.variants(StudyResults(study.runs, replace(study.facts, settings=settings))).set_index("optimizer")
    assert table.varied[["paper", "paper-each"]].tolist() == ["score", "one choice per tensor"]
    assert table.base["paper-each"] == "paper"
