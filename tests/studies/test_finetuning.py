from collections.abc import Callable

import pytest

from optrepro import runtable
from optrepro.config import Config
from optrepro.problems.data import archives
from optrepro.studies.base import data_of
from tests.studies.runs import ids_by_row, rows

Tiny = Callable[..., Config]


def test_the_source_of_a_diagnosis_is_that_of_the_rules_it_records(tiny_gap: Tiny) -> None:
    settings = tiny_gap("studies.language.optimizers.gap.class=optrepro.optimizers.controls.RandomAdamW")
    for batch in runtable.batches(settings, "diagnostics"):
        modules = runtable.source_modules(settings, batch)
        assert modules == [
            "optrepro.experiments.training.diagnostics",
            "optrepro.optimizers.controls",
            "optrepro.optimizers.gap",
        ]


# Pretraining, fine-tuning, shifts and diagnostics

NEVER: set[str] = set()
GAP_CHANGES = {  # override -> study -> its rows whose runs get new ids
    "studies.pretraining.backbones.gpt.steps=21": {
        "pretraining": {"gpt"},
        "language": {"adamw", "gap"},
        "diagnostics": {"gpt.adamw", "gpt.gap"},
    },
    "studies.pretraining.backbones.gpt.label=other": {},
    "studies.pretraining.gpu=true": {},
    "studies.language.lora.rank=3": {"language": {"adamw", "gap"}, "diagnostics": {"gpt.adamw", "gpt.gap"}},
    "studies.language.task.context=8": {"language": {"adamw", "gap"}, "diagnostics": {"gpt.adamw", "gpt.gap"}},
    "studies.language.task.corpus=[gsm8k, python-source]": {},
    "studies.language.optimizers.gap.settings.score=raw": {"language": {"gap"}, "diagnostics": {"gpt.gap"}},
    "studies.language.test_repetitions=3": {},
    "studies.vision.task.classes=all": {"vision": {"adamw", "gap"}},
    "studies.shift.shift=inputs": {"shift": {"sgd", "gap"}, "diagnostics": {"softmax.sgd", "softmax.gap"}},
    "studies.diagnostics.lags=3": {"diagnostics": {"softmax.sgd", "softmax.gap", "gpt.adamw", "gpt.gap"}},
    "studies.diagnostics.workloads.gpt.learning_rate=0.1": {"diagnostics": {"gpt.adamw", "gpt.gap"}},
    "studies.diagnostics.workloads.gpt.rules=[]": {},
    "studies.diagnostics.repetitions=3": {},
}


@pytest.mark.parametrize(("override", "changed"), GAP_CHANGES.items(), ids=GAP_CHANGES)
def test_runs_get_new_ids_under_a_change_of_what_determines_them_and_no_other(
    override: str, changed: dict[str, set[str]], tiny_gap: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand = archives.at_hand
    monkeypatch.setattr(archives, "at_hand", lambda name, *rest: "nothing" not in name and at_hand(name))
    before, after = tiny_gap(), tiny_gap(override)
    for study in after.studies:
        old, new = ids_by_row(before, study), ids_by_row(after, study)
        for name, own in new.items():
            assert old[name] & own == (NEVER if name in changed.get(study, NEVER) else old[name]), (study, name)


def test_fine_tuning_and_its_diagnostics_wait_for_the_weights_of_the_backbone(tiny_gap: Tiny) -> None:
    settings = tiny_gap()
    weights = {(b.study, b.name): b.weights for study in settings.studies for b in runtable.batches(settings, study)}
    needing = {name for name, giver in weights.items() if giver == ("pretraining", "gpt")}
    assert needing == {
        ("language", "adamw"),
        ("language", "gap"),
        ("diagnostics", "gpt"),
    }
    assert weights["shift", "sgd"] is None
    assert weights["diagnostics", "softmax"] is None


@pytest.mark.parametrize("size", ["1", "study"])
def test_jobs_of_every_size_take_the_weights(size: str, tiny_gap: Tiny) -> None:
    batches = runtable.batches(tiny_gap(f"studies.vision.runs_per_job={size}"), "vision")
    assert {batch.weights for batch in batches} == {("pretraining", "vit")}


def test_a_model_of_the_hub_needs_no_weights_and_names_the_workload(tiny_gap: Tiny) -> None:
    settings = tiny_gap(
        "studies.vision.backbone=null", "studies.vision.hub=owner/some-vit", f"studies.vision.revision={'0a' * 20}"
    )
    batches = runtable.batches(settings, "vision")
    assert {batch.weights for batch in batches} == {None}
    assert {run.workload for batch in batches for run in batch.runs} == {"digits/some-vit"}


def test_another_revision_of_a_model_of_the_hub_makes_other_runs(tiny_gap: Tiny) -> None:
    hub = ["studies.vision.backbone=null", "studies.vision.hub=owner/some-vit"]
    ids = [
        {run.id for run in rows(tiny_gap(*hub, f"studies.vision.revision={digit * 40}"), study="vision")}
        for digit in "ab"
    ]
    assert not ids[0] & ids[1]


def test_optimizers_of_a_fine_tuning_and_rows_of_a_diagnosis_share_their_seeds(tiny_gap: Tiny) -> None:
    settings = tiny_gap()
    for study, workload in (("language", None), ("diagnostics", "gpt")):
        runs = [r for r in rows(settings, study=study, role="test") if workload in (None, r.workload)]
        seeds = {(run.optimizer, run.repetition): run.seed for run in runs}
        assert seeds["adamw", 0] == seeds["gap", 0] != seeds["adamw", 1]
        assert study == "diagnostics" or seeds["adamw", 1] == seeds["gap", 1]


def test_a_study_reads_the_data_of_its_tasks_each_once(tiny_gap: Tiny) -> None:
    settings = tiny_gap("studies.diagnostics.workloads.vit={study: vision, follow: adamw, learning_rate: 0.1}")
    read = {name: data_of(study, settings) for name, study in settings.studies.items()}
    assert read == {
        "pretraining": ["python-docs", "digits"],
        "language": ["python-source"],
        "vision": ["digits"],
        "shift": ["digits"],
        "diagnostics": ["digits", "python-source"],
    }
