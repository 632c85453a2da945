"""What studies train on, and what they train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optrepro.config import Config
from optrepro.experiments.base import data
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import tasks
from optrepro.experiments.training.replicas import Models
from optrepro.problems.data.images import Dataset
from optrepro.problems.networks import lora
from optrepro.runtable import batches
from optrepro.studies.base import Run
from optrepro.studies.finetuning import FineTuningStudy

Tiny = Callable[..., Config]
BACKBONES = {"language": ("gpt", "python-source"), "vision": ("vit", "digits")}


def context_of(settings: Config, study: str, folder: Path) -> Context:
    """Surroundings with the weights of a backbone that was not trained."""
    row, dataset = BACKBONES[study]
    pretraining: Any = settings.studies["pretraining"]
    task = pretraining.backbones[row].task
    read = data.load(task, {"gpt": "python-docs", "vit": "digits"}[row], 7, "cpu")
    weights = folder / "policy.safetensors"
    lora.save(tasks.transformer(pretraining.backbones[row].architecture, read, seed=1), weights)
    checkpoint = Checkpoint(None)
    cpu = torch.device("cpu")
    return Context(settings.seed, cpu, checkpoint, dataset=dataset, weights=weights, studies=settings.studies)


def made(settings: Config, study: str, folder: Path, *chosen: Run) -> tuple[Dataset, Models]:
    entry = settings.studies[study]
    assert isinstance(entry, FineTuningStudy)
    dataset, build = tasks.of(entry, context_of(settings, study, folder))
    return dataset, build(chosen)


def runs_of(settings: Config, study: str, optimizer: str, role: str) -> list[Run]:
    runs = [run for batch in batches(settings, study) for run in batch.runs]
    return [run for run in runs if (run.optimizer, run.role) == (optimizer, role)]


@pytest.mark.parametrize("study", BACKBONES)
def test_runs_of_one_seed_start_from_equal_adapters_whatever_their_optimizer(
    study: str, tiny_gap: Tiny, tmp_path: Path
) -> None:
    settings = tiny_gap()
    own, other = (runs_of(settings, study, name, "test") for name in ("adamw", "gap"))
    _, models = made(settings, study, tmp_path, own[0], other[0], own[1])
    first, same, different = models.parameters
    assert all(map(torch.equal, first, same))
    assert not all(map(torch.equal, first, different))


@pytest.mark.parametrize(("study", "head"), [("language", False), ("vision", True)])
def test_only_adapters_are_trained_and_of_images_the_new_head(
    study: str, head: bool, tiny_gap: Tiny, tmp_path: Path
) -> None:
    settings = tiny_gap()
    _, models = made(settings, study, tmp_path, *runs_of(settings, study, "adamw", "test")[:1])
    assert len(models.names) == len(models.parameters[0])
    others = [name for name in models.names if "lora_" not in name]
    assert [name.rpartition(".")[2] for name in others] == (["weight", "bias"] if head else [])


def test_a_checkpoint_of_a_fine_tuning_leaves_the_backbone_out(tiny_gap: Tiny, tmp_path: Path) -> None:
    settings = tiny_gap()
    _, models = made(settings, "language", tmp_path, *runs_of(settings, "language", "adamw", "test")[:1])
    [state] = models.state()
    trained = sum(p.numel() for p in models.parameters[0])
    assert sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point()) == trained


def test_the_halves_of_the_classes_share_no_image(tiny_gap: Tiny) -> None:
    settings = tiny_gap()
    pretraining: Any = settings.studies["pretraining"]
    finetuning: Any = settings.studies["vision"]
    halves = [data.load(task, "digits", 7, "cpu") for task in (pretraining.backbones["vit"].task, finetuning.task)]
    assert [half.classes for half in halves] == [5, 5]
    assert sum(len(half.test) for half in halves) == 360


def test_a_model_of_the_hub_that_is_out_of_reach_is_one_clear_error(
    tiny_gap: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = tiny_gap(
        "studies.vision.backbone=null", "studies.vision.hub=nobody/nothing", f"studies.vision.revision={'0a' * 20}"
    )
    with pytest.raises(ConnectionError, match=r"nobody/nothing at revision 0a0a.* is not on this machine"):
        made(settings, "vision", tmp_path, *runs_of(settings, "vision", "adamw", "test")[:1])
