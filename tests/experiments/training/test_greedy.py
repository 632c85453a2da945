"""The forks keep what they promise, and the scores read as many examples as they are said to."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from optrepro import config, runtable
from optrepro.config import Config
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context, no_progress
from optrepro.experiments.training import greedy
from optrepro.studies.greedy import GreedyStudy

GREEDY = """
scale: tiny
seed: 7
device: cpu
studies:
  images:
    kind: training
    dataset: [digits]
    train_examples: 320
    validation_examples: 32
    network: softmax
    batch_size: 16
    steps: 20
    schedule: constant
    learning_rates: [0.1]
    tuning_repetitions: 1
    test_repetitions: 1
    optimizers:
      m5: {label: a, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.5}}
      m9: {label: b, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.9}}
      paper: {label: c, class: optrepro.optimizers.gap.GapSGD, settings: {score: paper}}
      random: {label: d, class: optrepro.optimizers.controls.RandomSGD}
      adam: {label: e, class: optrepro.optimizers.controls.RandomAdam}
  fork:
    kind: greedy
    workloads: {softmax: {study: images, learning_rates: [0.001, 0.05]}}
    memory: 0.9
    horizons: [1, 3]
    points: 2
    score_batches: [0.125, 1, 2]
    probe_examples: 300
    repetitions: 2
"""
Carried = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(GREEDY)
    return path


@pytest.fixture(scope="module")
def carry_out(file: Path) -> Carried:
    def run(*overrides: str, checkpoint: Checkpoint | None = None, progress: Any = no_progress) -> pd.DataFrame:
        settings: Config = config.load(file, overrides)
        study = settings.studies["fork"]
        assert isinstance(study, GreedyStudy)
        [batch] = runtable.batches(settings, "fork")
        context = Context(settings.seed, torch.device("cpu"), checkpoint or Checkpoint(None), progress=progress)
        return greedy.run(study, batch, replace(context, datasets={"softmax": "digits"}, studies=settings.studies))

    return run


@pytest.fixture(scope="module")
def results(carry_out: Carried) -> pd.DataFrame:
    return carry_out()


def test_a_short_step_keeps_its_promise_on_the_data_it_was_made_on(carry_out: Carried) -> None:
    """With all probes in one batch, and a rate so small that the loss is straight."""
    whole = ("studies.images.train_examples=32", "studies.images.batch_size=32", "studies.fork.probe_examples=32")
    results = carry_out(*whole, "studies.fork.workloads.softmax.learning_rates=[0.0001]")
    forks = results[(results.optimizer == "forks") & (results.step < 20)]
    forks = forks.set_index(["seed", "step", "metric"]).value.unstack()
    for momentum in ("0.5", "0.9", "0.99"):
        for horizon in (1, 3):
            promised, realized = (forks[f"{kind}[{momentum}]@{horizon}"] for kind in ("promised", "realized"))
            assert (promised > 0).all()
            pd.testing.assert_series_equal(realized, promised, rtol=0.1, check_names=False)


def test_forks_leave_the_training_as_it_was(results: pd.DataFrame) -> None:
    """The run between the forks is the fixed candidate's, whose accuracy it ends with."""
    end = results[(results.metric == "test_accuracy") & (results.step == 20)]
    by_row = end.set_index(["optimizer", "learning_rate", "seed"]).value
    assert by_row["forks"].to_dict() == pytest.approx(by_row["m9"].to_dict())


def test_every_candidate_is_forked_at_each_point(results: pd.DataFrame) -> None:
    forks = results[(results.optimizer == "forks") & results.metric.str.startswith("realized")]
    assert sorted(forks.step.unique()) == [6, 11]
    assert set(forks.groupby(["learning_rate", "seed", "step"]).size()) == {6}


def test_the_score_of_the_step_s_own_batch_is_the_paper_s(carry_out: Carried, results: pd.DataFrame) -> None:
    """Its run is that of the rule itself, and with other examples in the score the choices are others."""
    plain = carry_out("studies.images.optimizers.paper.group=fixed")
    rows = {
        name: plain[plain.optimizer == name].set_index(["learning_rate", "seed", "metric"]).value
        for name in ("paper", "score-0.125", "score-1", "score-2")
    }
    pd.testing.assert_series_equal(rows["score-1"], rows["paper"], rtol=1e-4)
    chosen = {name: of[of.index.get_level_values("metric").str.startswith("chosen")] for name, of in rows.items()}
    assert not chosen["score-1"].equals(chosen["score-0.125"])
    assert not chosen["score-1"].equals(chosen["score-2"])


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    carry_out: Carried, results: pd.DataFrame, tmp_path: Path
) -> None:
    stops = {6, 11, 12, 30, 70}

    def stop(done: int, total: int, what: str) -> None:
        if done in stops:
            stops.remove(done)
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(6):
        try:
            resumed = carry_out(checkpoint=Checkpoint(tmp_path / "state.pt"), progress=stop)
        except Interrupted:
            continue
    assert not stops
    pd.testing.assert_frame_equal(resumed, results)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("studies.fork.memory=0.7", r"memory = 0.7 is not one of the candidates \[0.5, 0.9, 0.99\]"),
        ("studies.fork.forked=adam", "forked = 'adam' is not allowed: it must draw one of several values of momentum"),
        ("studies.images.optimizers.paper.settings.score=raw", "score = 'raw' is not allowed; it must be 'paper'"),
    ],
)
def test_rows_that_cannot_be_forked_or_scored_are_refused(carry_out: Carried, override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        carry_out(override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("studies.fork.workloads.softmax.study=fork", "study = 'fork' is not one of ['images']"),
        (
            "studies.fork.scored=raw",
            "studies.fork.scored = 'raw' is not one of ['adam', 'm5', 'm9', 'paper', 'random']",
        ),
        ("studies.fork.horizons=[1,19]", "2 forks of 19 steps do not fit into 20 steps"),
        ("studies.fork.horizons=[2,3]", "horizons: [2, 3] must hold 1, the step that the score is about"),
        ("studies.fork.score_batches=[1.5]", "must hold parts of a batch, up to 1, and whole numbers of batches"),
    ],
)
def test_an_error_in_the_settings_is_one_line(file: Path, override: str, said: str) -> None:
    with pytest.raises(config.ConfigError) as error:
        config.load(file, (override,))
    assert said in str(error.value)
    assert "\n" not in str(error.value)
