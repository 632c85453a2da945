"""Successive halving: what is kept goes on where it stopped, as if it had been trained without a pause."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from optrepro import config, runtable
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.meta import halve_pop, train_pop

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def halving(tiny_halving):
    return config.load(tiny_halving)


def arguments(settings, checkpoint=None):
    [batch] = runtable.batches(settings, "search")
    context = Context(settings.seed, torch.device("cpu"), checkpoint or Checkpoint(None))
    return settings.studies["search"], batch, context


@pytest.fixture(scope="module")
def table(halving):
    return halve_pop.run(*arguments(halving))


def of(table, metric):
    return table[table.metric == metric].pivot(index="optimizer", columns="step", values="value")


def test_half_of_the_candidates_go_on_at_each_rung_and_one_is_left(table):
    scores, kept = of(table, "rung_score"), of(table, "kept")
    assert scores.columns.tolist() == [1, 2, 4]
    assert scores.count().tolist() == [4, 2, 1]
    assert kept.sum().tolist() == [2, 1, 1]
    for end, following in ((1, 2), (2, 4)):
        going = kept[end] == 1
        assert set(scores.index[going]) == set(scores[following].dropna().index)
        assert scores[end][going].min() >= scores[end][kept[end] == 0].max()


def test_a_candidate_that_is_kept_is_trained_as_without_a_pause(halving, table):
    study, batch, context = arguments(halving)
    best = of(table, "kept")[4].idxmax()
    whole = train_pop._Training(
        study.trainings(),
        replace(batch, optimizer=best, runs=tuple(run for run in batch.runs if run.optimizer == best)),
        context,
        0,
    )
    [finished] = whole.run({"done": []})["done"]
    own = table[(table.optimizer == best) & ~table.metric.isin(["rung_score", "kept"])]
    wide = own.pivot(index="step", columns="metric", values="value")
    expected = pd.DataFrame(finished["history"]).set_index("step")
    assert wide.index.tolist() == [8, 16, 24, 32]
    pd.testing.assert_frame_equal(wide, expected[wide.columns], check_names=False)


def test_a_halving_that_is_stopped_after_every_iteration_ends_the_same(halving, table, tmp_path):
    attempts = 0
    while True:
        attempts += 1
        try:
            resumed = halve_pop.run(*arguments(halving, Checkpoint(tmp_path / "checkpoint.pt", time_slice=0)))
            break
        except Interrupted:
            continue
    assert attempts == 4 + 2 + 2 + 1  # one for each iteration of each candidate, and one for the end
    pd.testing.assert_frame_equal(resumed, table)


def test_the_better_half_is_rounded_up_and_what_has_no_score_goes_first():
    assert halve_pop.best_half({"a": 1.0, "b": 3.0, "c": 2.0}) == ["b", "c"]
    assert halve_pop.best_half({"a": -np.inf, "b": 0.5}) == ["b"]
    assert halve_pop.best_half({"a": 1.0, "b": 1.0}) == ["a"]


def test_the_scale_has_the_prior_and_the_network_of_the_long_training():
    own = config.load(ROOT / "config" / "halving.yaml").studies["pop-halving"]
    long = config.load(ROOT / "config" / "gpu.yaml").studies["pop-training"]
    assert (own.prior, own.network) == (long.prior, long.network)
