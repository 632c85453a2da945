"""The controls of validation-aware selection see what they are said to see, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch

from optrepro import config, runtable
from optrepro.config import Config
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import classification, tasks, validation
from optrepro.experiments.training.classification import Training
from optrepro.experiments.training.validation import Controlled
from optrepro.studies.validation import ValidationStudy

Made = Callable[..., Training]
CONTROLLED = """
scale: tiny
seed: 7
device: cpu
studies:
  images:
    kind: validation
    dataset: [digits]
    train_examples: 64
    validation_examples: 32
    network: softmax
    batch_size: 16
    steps: 12
    evaluations: 4
    learning_rates: [0.01, 0.1]
    tuning_repetitions: 1
    test_repetitions: 2
    joined: [joined]
    doubled: [doubled]
    optimizers:
      sgd: &sgd {label: SGD, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.9}}
      joined: {<<: *sgd, group: control}
      doubled: {<<: *sgd, group: control}
"""


@pytest.fixture
def settings(tmp_path: Any) -> Config:
    (tmp_path / "tiny.yaml").write_text(CONTROLLED)
    return config.load(tmp_path / "tiny.yaml")


def of(settings: Config) -> ValidationStudy:
    study = settings.studies["images"]
    assert isinstance(study, ValidationStudy)
    return study


def surroundings(settings: Config, **more: Any) -> Context:
    return replace(Context(settings.seed, torch.device("cpu"), Checkpoint(None), dataset="digits"), **more)


@pytest.fixture
def made(settings: Config) -> Made:
    """The training of a row in a role."""

    def make(row: str, role: str = "test") -> Training:
        runs = [r for b in runtable.batches(settings, "images") for r in b.runs if (r.optimizer, r.role) == (row, role)]
        dataset, build = tasks.of(of(settings), surroundings(settings))
        return Controlled(runs, [0.1] * len(runs), of(settings), of(settings).entry(row), None, dataset, build)

    return make


def test_a_row_without_extras_is_trained_as_in_every_other_study(settings: Config) -> None:
    [batch] = [batch for batch in runtable.batches(settings, "images") if batch.optimizer == "sgd"]
    dataset, build = tasks.of(of(settings), surroundings(settings))
    plain = classification.train(of(settings), batch, surroundings(settings), dataset, build)
    pd.testing.assert_frame_equal(validation.run(of(settings), batch, surroundings(settings)), plain)


def test_joined_data_are_trained_on_in_test_runs_alone(made: Made) -> None:
    plain, tuned, tested = made("sgd"), made("joined", "tune"), made("joined")
    assert len(tuned.dataset.train) == len(plain.dataset.train) == 64
    train, held_out = tested.dataset.train, plain.dataset.validation
    assert len(train) == 96
    assert torch.equal(train.images[64:], held_out.images)
    assert torch.equal(train.labels[64:], held_out.labels)
    assert torch.equal(tested.dataset.test.images, plain.dataset.test.images)
    assert torch.equal(tested.dataset.validation.images, held_out.images)


def test_a_step_with_two_batches_has_the_mean_of_their_gradients_and_the_first_is_that_of_the_others(
    made: Made,
) -> None:
    plain, doubled = made("sgd"), made("doubled")
    images, labels = doubled._batch(doubled.dataset.train, "order")
    first = plain._batch(plain.dataset.train, "order")
    second = plain._batch(plain.dataset.train, "second order")
    assert torch.equal(images, torch.cat([first[0], second[0]], dim=1))
    _, both = doubled.models.gradients(images, labels)
    parts = [plain.models.gradients(*part)[1] for part in (first, second)]
    for r in range(2):
        for whole, a, b in zip(both[r], parts[0][r], parts[1][r], strict=True):
            torch.testing.assert_close(whole, (a + b) / 2)


def test_controls_are_rows_of_the_study(tmp_path: Any) -> None:
    (tmp_path / "wrong.yaml").write_text(CONTROLLED.replace("joined: [joined]", "joined: [adam]"))
    with pytest.raises(
        config.ConfigError, match=r"studies.images: joined: 'adam' is not one of \['doubled', 'joined',"
    ):
        config.load(tmp_path / "wrong.yaml")
