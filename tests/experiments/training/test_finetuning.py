"""Fine-tuning: tuned by the right criterion, resumed bit for bit, the same batches for all optimizers."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from optrepro import runtable
from optrepro.config import Config
from optrepro.experiments.base import data
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import finetuning, tasks
from optrepro.experiments.training.classification import Training
from optrepro.problems.data import texts
from optrepro.problems.data.texts import Question
from optrepro.problems.networks import gpt, lora
from optrepro.studies.finetuning import FineTuningStudy

Tiny = Callable[..., Config]
ROWS = {"language": ("gpt", "python-docs", "python-source"), "vision": ("vit", "digits", "digits")}


def context_of(settings: Config, study: str, folder: Path) -> Context:
    row, pretrained_on, dataset = ROWS[study]
    pretraining: Any = settings.studies["pretraining"]
    read = data.load(pretraining.backbones[row].task, pretrained_on, settings.seed, "cpu")
    weights = folder / "policy.safetensors"
    lora.save(tasks.transformer(pretraining.backbones[row].architecture, read, seed=1), weights)
    cpu = torch.device("cpu")
    return Context(settings.seed, cpu, Checkpoint(None), dataset=dataset, weights=weights, studies=settings.studies)


def study_of(settings: Config, study: str) -> FineTuningStudy:
    entry = settings.studies[study]
    assert isinstance(entry, FineTuningStudy)
    return entry


def carry_out(settings: Config, study: str, name: str, folder: Path, **context: Any) -> pd.DataFrame:
    batch = next(batch for batch in runtable.batches(settings, study) if batch.name == name)
    return finetuning.run(study_of(settings, study), batch, replace(context_of(settings, study, folder), **context))


@pytest.mark.parametrize(
    ("study", "metric", "best"),
    [("language", "validation_loss", np.argmin), ("vision", "validation_accuracy", np.argmax)],
)
def test_test_runs_take_the_rate_with_the_lowest_loss_of_text_and_the_highest_accuracy_of_images(
    study: str, metric: str, best: Any, tiny_gap: Tiny, tmp_path: Path
) -> None:
    results = carry_out(tiny_gap(f"studies.{study}.learning_rates=[1.0e-7, 0.01, 3.0]"), study, "adamw", tmp_path)
    tuning = results[(results.role == "tune") & (results.metric == metric)].groupby("learning_rate").value.mean()
    assert tuning.nunique() > 1
    [rate] = results[results.role == "test"].learning_rate.unique()
    assert rate == tuning.index[int(best(tuning))]


@pytest.mark.parametrize("study", ROWS)
@pytest.mark.parametrize("optimizer", ["adamw", "gap"])
def test_a_killed_and_resumed_fine_tuning_equals_an_uninterrupted_one_bit_for_bit(
    study: str, optimizer: str, tiny_gap: Tiny, tmp_path: Path
) -> None:
    settings = tiny_gap()
    expected = carry_out(settings, study, optimizer, tmp_path)
    stops = {2, 6, 9, 17}

    def stop(done: int, total: int, what: str) -> None:
        if done in stops:
            stops.remove(done)
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(5):
        torch.manual_seed(len(stops))
        try:
            keeper = Checkpoint(tmp_path / "state.pt")
            resumed = carry_out(settings, study, optimizer, tmp_path, checkpoint=keeper, progress=stop)
        except Interrupted:
            continue
    assert not stops
    pd.testing.assert_frame_equal(resumed, expected)


def test_runs_of_one_seed_see_the_same_batches_whatever_their_optimizer(tiny_gap: Tiny, tmp_path: Path) -> None:
    settings = tiny_gap()
    study, context = study_of(settings, "language"), context_of(settings, "language", tmp_path)
    dataset, build = tasks.of(study, context)
    seen = []
    for batch in runtable.batches(settings, "language"):
        runs = [run for run in batch.runs if run.role == "test"][:1]
        training = Training(runs, [0.01], study, study.entry(runs[0].optimizer), None, dataset, build)
        seen.append(training._batch(dataset.train, "order"))
    (images, labels), (others, their_labels) = seen
    assert torch.equal(images, others)
    assert torch.equal(labels, their_labels)


def test_the_first_loss_is_that_of_the_backbone_and_training_lowers_it(tiny_gap: Tiny, tmp_path: Path) -> None:
    settings = tiny_gap("studies.language.steps=60", "studies.language.learning_rates=[1.0e-9, 0.01]")
    results = carry_out(settings, "language", "adamw", tmp_path)
    final = results[(results.role == "tune") & (results.metric == "validation_loss")].set_index("learning_rate").value
    context = context_of(settings, "language", tmp_path)
    dataset, _ = tasks.of(study_of(settings, "language"), context)
    pretraining: Any = settings.studies["pretraining"]
    backbone = tasks.transformer(pretraining.backbones["gpt"].architecture, dataset, seed=1)
    with torch.no_grad():
        logits = backbone(dataset.validation.images)
    start = torch.nn.functional.cross_entropy(logits.flatten(0, 1), dataset.validation.labels.flatten())
    assert final[1e-9] == pytest.approx(float(start), rel=1e-4)
    assert final[0.01] < final[1e-9] - 0.02


ASKING = ("download=true", "studies.language.task.corpus=[gsm8k]")  # which is planned with, and nothing is loaded


@pytest.fixture
def asking(tiny_gap: Tiny, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A study of a language model that answers five made-up questions, two at a time; some are answered right."""
    digits = [f"{n}\n#### {n % 2}" for n in range(5)]
    monkeypatch.setattr(texts, "questions", lambda name, count: [Question(each[0], each[1:]) for each in digits])
    monkeypatch.setattr(finetuning, "TOGETHER", 2)

    def odd_ones_are_right(module: Any, asked: Any, **settings: Any) -> int:
        assert not module.training
        assert len(asked) <= 2
        return sum(question.answer.endswith("1") for question in asked)

    monkeypatch.setattr(gpt, "exact_matches", odd_ones_are_right)
    return tiny_gap(*ASKING, "studies.language.task.exact_match=5")


def test_questions_are_asked_at_the_end_of_test_runs_alone(asking: Config, tmp_path: Path) -> None:
    results = carry_out(asking, "language", "adamw", tmp_path)
    told = results[results.metric == "exact_match"]
    assert told.role.tolist() == ["test", "test"]
    assert told.step.unique().tolist() == [6]
    assert told.value.tolist() == [2 / 5, 2 / 5]


def test_answers_are_kept_where_a_time_slice_ends_and_no_question_is_asked_twice(
    asking: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = carry_out(asking, "language", "adamw", tmp_path)
    answer, asked, resumed, slices = gpt.exact_matches, [], None, 0

    def noted(module: Any, questions: Any, **settings: Any) -> int:
        asked.extend(question.prompt for question in questions)
        return answer(module, questions, **settings)

    monkeypatch.setattr(gpt, "exact_matches", noted)
    while resumed is None:
        keeper = Checkpoint(tmp_path / "state.pt", time_slice=0)
        slices += 1
        with suppress(Interrupted):
            resumed = carry_out(asking, "language", "adamw", tmp_path, checkpoint=keeper)
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
    assert asked == [*"01234"] * 2
    runs = expected.drop_duplicates("run")
    assert slices == 6 * len(runs) + 3 * (runs.role == "test").sum() + 1


def test_the_tuned_model_answers_by_generation(tiny_gap: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Question("1 + 1?", " #### 2")] * 2
    monkeypatch.setattr(texts, "questions", lambda name, count: asked)
    settings = tiny_gap(*ASKING, "studies.language.task.exact_match=2", "studies.language.precision=bfloat16")
    results = carry_out(settings, "language", "adamw", tmp_path)
    assert results[results.metric == "exact_match"].value.between(0, 1).all()
