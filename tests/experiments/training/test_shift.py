"""The settling test: nothing differs before the shift, and after it what was asked for."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from optrepro import runtable
from optrepro.config import Config
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import classification, shift, tasks
from optrepro.experiments.training.classification import Training
from optrepro.experiments.training.shift import Shifted, shifted
from optrepro.studies.shift import ShiftStudy

Tiny = Callable[..., Config]
SHIFTS = {"classes": 0, "inputs": 0, "batch_size": 4, "label_noise": 0.5}
kinds = pytest.mark.parametrize("kind", SHIFTS)


def of(tiny_gap: Tiny, kind: str, *overrides: str) -> Config:
    return tiny_gap(f"studies.shift.shift={kind}", f"studies.shift.shifted_to={SHIFTS[kind]}", *overrides)


def study_of(settings: Config) -> ShiftStudy:
    study = settings.studies["shift"]
    assert isinstance(study, ShiftStudy)
    return study


def surroundings(settings: Config, **context: Any) -> Context:
    return replace(Context(settings.seed, torch.device("cpu"), Checkpoint(None), dataset="digits"), **context)


def carry_out(settings: Config, name: str, **context: Any) -> pd.DataFrame:
    batch = next(batch for batch in runtable.batches(settings, "shift") if batch.name == name)
    return shift.run(study_of(settings), batch, surroundings(settings, **context))


def training_of(settings: Config, make: type[Training]) -> Training:
    study, batch = study_of(settings), runtable.batches(settings, "shift")[0]
    dataset, build = tasks.of(study, surroundings(settings))
    runs = [run for run in batch.runs if run.role == "test"]
    return make(runs, [0.1] * len(runs), study, study.entry("sgd"), None, dataset, build)


@kinds
def test_the_shift_changes_only_what_comes_after_the_half(kind: str, tiny_gap: Tiny) -> None:
    settings = of(tiny_gap, kind)
    plain, own = training_of(settings, Training), training_of(settings, Shifted)
    for step in range(12):
        plain.advance()
        own.advance()
        equal = all(map(torch.equal, plain.models.parameters[0], own.models.parameters[0]))
        assert equal == (step < 6)


@kinds
def test_the_curve_at_the_half_is_of_what_was_learned_from(kind: str, tiny_gap: Tiny) -> None:
    settings = of(tiny_gap, kind, "studies.shift.learning_rates=[0.1]")
    batch = runtable.batches(settings, "shift")[0]
    study = study_of(settings)
    dataset, build = tasks.of(study, surroundings(settings))
    plain = classification.train(study, batch, surroundings(settings), dataset, build)
    own = carry_out(settings, "sgd")
    before, same = (table[(table.role == "test") & (table.step <= 6)] for table in (plain, own))
    assert set(before.step) == {3, 6}
    pd.testing.assert_frame_equal(same.reset_index(drop=True), before.reset_index(drop=True))


@kinds
def test_before_after_and_overall_are_those_of_the_curve(kind: str, tiny_gap: Tiny) -> None:
    results = carry_out(of(tiny_gap, kind), "sgd")
    tests = results[results.role == "test"]
    assert tests.run.nunique() == 2
    for _, of_run in tests.groupby("run"):
        curve = of_run[of_run.metric == "test_accuracy"].set_index("step").value
        told = of_run[of_run.metric.isin(["before", "after", "overall"])].set_index("metric").value
        assert told.to_dict() == pytest.approx({"before": curve[6], "after": curve[12], "overall": curve.mean()})
    assert not results[results.role == "tune"].metric.isin(["before", "after", "overall"]).any()


def test_tuning_runs_have_the_points_of_the_curve_on_validation_data_alone(tiny_gap: Tiny) -> None:
    results = carry_out(of(tiny_gap, "classes"), "sgd")
    points = results[results.metric == "validation_accuracy"].groupby(["role", "run"]).step.apply(list)
    assert points.tune.tolist() == points.test.tolist() == [[3, 6, 9, 12]] * 2
    assert not results[results.role == "tune"].metric.str.startswith("test").any()


def test_the_points_of_the_curve_change_nothing_that_is_trained(tiny_gap: Tiny) -> None:
    tables = [carry_out(of(tiny_gap, "classes", f"studies.shift.evaluations={n}"), "sgd") for n in (2, 12)]
    seldom, often = (table[(table.step == 12) & table.metric.str.endswith("accuracy")].value for table in tables)
    assert len(seldom) == 2 + 2 * 2
    assert seldom.tolist() == often.tolist()


def test_the_tuned_rate_is_the_best_one_at_the_end(tiny_gap: Tiny) -> None:
    results = carry_out(of(tiny_gap, "classes"), "sgd")
    tuning = results[(results.role == "tune") & (results.metric == "validation_accuracy")]
    last = tuning[tuning.step == 12].set_index("learning_rate").value
    assert set(results[results.role == "test"].learning_rate) == {last.idxmax()}
    assert last.nunique() == 2


def test_after_a_shift_of_the_classes_every_image_has_another_label(tiny_gap: Tiny) -> None:
    settings = of(tiny_gap, "classes")
    dataset, _ = tasks.of(study_of(settings), surroundings(settings))
    other = shifted(dataset, study_of(settings))
    for split in ("train", "validation", "test"):
        old, new = getattr(dataset, split), getattr(other, split)
        assert (old.labels != new.labels).all()
        assert torch.equal(old.images, new.images)


def test_after_a_shift_of_the_inputs_all_images_have_their_pixels_in_one_other_order(tiny_gap: Tiny) -> None:
    settings = of(tiny_gap, "inputs")
    dataset, _ = tasks.of(study_of(settings), surroundings(settings))
    other = shifted(dataset, study_of(settings))
    old, new = dataset.train.images.flatten(1), other.train.images.flatten(1)
    assert not torch.equal(old, new)
    assert torch.equal(old.sort().values, new.sort().values)
    assert torch.equal(shifted(dataset, study_of(settings)).test.images, other.test.images)


def test_label_noise_takes_its_share_of_the_training_labels_and_no_test_label(tiny_gap: Tiny) -> None:
    settings = of(tiny_gap, "label_noise", "studies.shift.train_examples=1000")
    dataset, _ = tasks.of(study_of(settings), surroundings(settings))
    other = shifted(dataset, study_of(settings))
    changed = (dataset.train.labels != other.train.labels).float().mean()
    assert float(changed) == pytest.approx(0.5 * 0.9, abs=0.05)  # a tenth of the random ones is right
    assert torch.equal(dataset.test.labels, other.test.labels)
    assert torch.equal(dataset.validation.labels, other.validation.labels)


def test_after_a_shift_of_the_batch_size_batches_have_it_and_passes_are_whole(tiny_gap: Tiny) -> None:
    own = training_of(of(tiny_gap, "batch_size", "studies.shift.steps=40"), Shifted)
    sizes, seen = [], []
    for _ in range(40):
        index = own._index(own.runs[0].seed, 64, "order")
        sizes.append(len(index))
        seen.append(index)
        own.step += 1
    assert sizes == [16] * 20 + [4] * 20
    assert sorted(torch.cat(seen[20:36]).tolist()) == list(range(64))


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tiny_gap: Tiny, tmp_path: Path) -> None:
    settings = of(tiny_gap, "classes")
    expected = carry_out(settings, "gap")
    stops = {3, 6, 7, 12 + 6, 12 + 8, 24}

    def stop(done: int, total: int, what: str) -> None:
        if done in stops:
            stops.remove(done)
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(7):
        try:
            resumed = carry_out(settings, "gap", checkpoint=Checkpoint(tmp_path / "state.pt"), progress=stop)
        except Interrupted:
            continue
    assert not stops
    pd.testing.assert_frame_equal(resumed, expected)
