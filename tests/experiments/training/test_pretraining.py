"""A backbone: trained, resumed bit for bit, and left as weights."""

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
from optrepro.experiments.base import data
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import pretraining, tasks
from optrepro.problems.networks import lora
from optrepro.studies.pretraining import POINTS, PretrainingStudy

Tiny = Callable[..., Config]
DATA = {"gpt": "python-docs", "vit": "digits"}


def carry_out(settings: Config, row: str, out: Path, **context: Any) -> pd.DataFrame:
    study = settings.studies["pretraining"]
    assert isinstance(study, PretrainingStudy)
    batch = next(batch for batch in runtable.batches(settings, "pretraining") if batch.name == row)
    cpu = torch.device("cpu")
    surroundings = Context(settings.seed, cpu, Checkpoint(None), dataset=DATA[row], policy=out)
    return pretraining.run(study, batch, replace(surroundings, **context))


@pytest.mark.parametrize("row", DATA)
def test_a_backbone_learns_and_leaves_its_weights(row: str, tiny_gap: Tiny, tmp_path: Path) -> None:
    settings, out = tiny_gap(), tmp_path / "policy.safetensors"
    curve = carry_out(settings, row, out)
    losses = curve[curve.metric == "validation_loss"].value.tolist()
    assert len(losses) == POINTS
    assert losses[-1] < losses[0]

    study: Any = settings.studies["pretraining"]
    dataset = data.load(study.backbones[row].task, DATA[row], settings.seed, "cpu")
    model = lora.load(tasks.transformer(study.backbones[row].architecture, dataset, seed=3), out)
    with torch.no_grad():
        logits = model.eval()(dataset.validation.images)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), dataset.validation.labels.flatten())
    assert float(loss) == pytest.approx(losses[-1], rel=1e-5)


def test_a_killed_and_resumed_pretraining_equals_an_uninterrupted_one(tiny_gap: Tiny, tmp_path: Path) -> None:
    settings, whole, resumed = tiny_gap(), tmp_path / "whole.safetensors", tmp_path / "resumed.safetensors"
    expected = carry_out(settings, "gpt", whole)

    def stop(done: int, total: int, what: str) -> None:
        if done == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        carry_out(settings, "gpt", resumed, checkpoint=Checkpoint(tmp_path / "state.pt"), progress=stop)
    assert not resumed.exists()
    again = carry_out(settings, "gpt", resumed, checkpoint=Checkpoint(tmp_path / "state.pt"))
    pd.testing.assert_frame_equal(again, expected)
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_pretraining_that_diverges_leaves_no_weights(tiny_gap: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "policy.safetensors"
    with pytest.raises(FloatingPointError, match="lower its learning_rate"):
        carry_out(tiny_gap("studies.pretraining.backbones.gpt.learning_rate=1.0e+20"), "gpt", out)
    assert not out.exists()
