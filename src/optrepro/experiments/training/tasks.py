"""Builds what a study trains: its data set, and networks from scratch or backbones with adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import nn

from optrepro.experiments.base import data
from optrepro.experiments.base.context import Context
from optrepro.experiments.training import replicas
from optrepro.experiments.training.replicas import Models
from optrepro.problems.data.images import Dataset
from optrepro.problems.data.texts import Tokenizer
from optrepro.problems.networks import classic, gpt, vit
from optrepro.problems.networks import lora as adapters
from optrepro.seeds import derive_seed
from optrepro.studies.base import Run
from optrepro.studies.data import LanguageTask, VisionTask
from optrepro.studies.finetuning import FineTuningStudy
from optrepro.studies.pretraining import Architecture, PretrainingStudy
from optrepro.studies.recipe import Recipe
from optrepro.studies.training import TrainingStudy

Build = Callable[[Sequence[Run]], Models]
HUB_IMAGES = 128  # images at once in an evaluation; few, because hub models scale them to 224 x 224 pixels


def of(study: TrainingStudy | FineTuningStudy, context: Context) -> tuple[Dataset, Build]:
    """Return the data set of a study, and a function that builds the models of runs; equal seeds give equal models.

    Raises: see `data.load`; for a backbone ValueError if its file does not fit, ConnectionError if the hub cannot be
    reached.
    """
    assert context.dataset is not None
    if isinstance(study, FineTuningStudy):
        return _fine_tuning(study, context)
    dataset = data.load(study, context.dataset, context.seed, context.device)

    def network(run: Run) -> nn.Module:
        seed = derive_seed(run.seed, "weights")
        made = classic.build(study.network, dataset.input_shape, dataset.classes, seed=seed, **study.network_settings)
        if study.network == "resnet18" or (context.device.type == "cuda" and not classic.stackable(study.network)):
            # Fast in bfloat16 on a GPU; on a CPU ResNet-18's steps take a quarter less time.
            made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return made.to(context.device)

    def build(runs: Sequence[Run]) -> Models:
        return replicas.build(study.network, [network(run) for run in runs], bfloat16=study.precision == "bfloat16")

    return dataset, build


def stackable(study: Recipe) -> bool:
    """Whether the study's runs are trained together, in one stacked program."""
    return isinstance(study, TrainingStudy) and classic.stackable(study.network)


def tokenizer_of(study: FineTuningStudy) -> Tokenizer | None:
    """Return the tokenizer of the study's hub model; None stands for bytes, which our own backbones read."""
    if study.hub is None or not isinstance(study.task, LanguageTask):
        return None
    assert study.revision is not None
    return gpt.from_hub(study.hub, study.revision)[1]


def transformer(architecture: Architecture, dataset: Dataset, seed: int) -> nn.Module:
    """Build a transformer with fresh weights for a data set: GPT-2 for tokens, a ViT for images."""
    width, layers, heads = architecture.width, architecture.layers, architecture.heads
    if architecture.patch is None:
        return gpt.gpt(dataset.classes, dataset.input_shape[0], width, layers, heads, seed)
    return vit.vit(dataset.input_shape, dataset.classes, architecture.patch, width, layers, heads, seed)


def _fine_tuning(study: FineTuningStudy, context: Context) -> tuple[Dataset, Build]:
    assert context.dataset is not None
    dataset = data.load(study.task, context.dataset, context.seed, context.device, tokenizer_of(study))
    head = vit.HEAD if isinstance(study.task, VisionTask) else None
    backbone = _backbone(study, dataset, context, head)

    def adapted(run: Run) -> nn.Module:
        seed, lora = derive_seed(run.seed, "weights"), study.lora
        own = deepcopy(backbone)
        return adapters.lora(own, lora.rank, lora.alpha, lora.targets, seed=seed, head=head).to(context.device)

    def build(runs: Sequence[Run]) -> Models:
        chunk = HUB_IMAGES if study.hub and head else replicas.CHUNK
        return replicas.Adapted([adapted(run) for run in runs], study.precision == "bfloat16", chunk)

    return dataset, build


def _backbone(study: FineTuningStudy, dataset: Dataset, context: Context, head: str | None) -> nn.Module:
    """Load the pretrained transformer with a fresh head for the new classes."""
    if study.hub is not None:
        assert study.revision is not None
        if isinstance(study.task, LanguageTask):
            return gpt.from_hub(study.hub, study.revision)[0]
        return vit.from_hub(study.hub, study.revision, dataset.classes)
    assert study.backbone is not None
    assert context.weights is not None
    source, _, row = study.backbone.partition("/")
    pretraining = context.studies[source]
    assert isinstance(pretraining, PretrainingStudy)
    fresh = transformer(pretraining.backbones[row].architecture, dataset, seed=0)  # load() replaces all but the head
    return adapters.load(fresh, context.weights, head)
