"""What a study trains on and what it trains: data sets, networks from scratch, and backbones with adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from optrepro.config import (
    Architecture,
    FineTuningStudy,
    ImageData,
    LanguageTask,
    PretrainingStudy,
    Recipe,
    Task,
    TrainingStudy,
    VisionTask,
)
from optrepro.experiments import data, models
from optrepro.experiments.context import Context
from optrepro.experiments.models import Models
from optrepro.problems import adapters, language, networks, vision
from optrepro.problems.datasets import Dataset
from optrepro.problems.language import Tokenizer
from optrepro.runtable import Run, derive_seed

Build = Callable[[Sequence[Run]], Models]
HUB_IMAGES = 128  # at once in an evaluation: a model of the hub scales them up to 224 x 224 pixels


def of(study: TrainingStudy | FineTuningStudy, context: Context) -> tuple[Dataset, Build]:
    """The data set of a study, and what makes the models of runs: of equal seeds equal ones.

    Raises: see `load`; for a backbone ValueError if its file does not fit, ConnectionError if the hub is out of reach.
    """
    assert context.dataset is not None
    if isinstance(study, FineTuningStudy):
        return _fine_tuning(study, context)
    dataset = data.load(study, context.dataset, context.seed, context.device)

    def network(run: Run) -> nn.Module:
        seed = derive_seed(run.seed, "weights")
        made = networks.build(study.network, dataset.input_shape, dataset.classes, seed=seed, **study.network_settings)
        if context.device.type == "cuda" and not networks.stackable(study.network):
            made = made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # fast in bfloat16
        return made.to(context.device)

    def build(runs: Sequence[Run]) -> Models:
        return models.build(study.network, [network(run) for run in runs], bfloat16=study.precision == "bfloat16")

    return dataset, build


def stackable(study: Recipe) -> bool:
    """Whether runs are trained many at a time."""
    return isinstance(study, TrainingStudy) and networks.stackable(study.network)


def load(
    task: ImageData | Task, name: str, seed: int, device: torch.device | str, tokenizer: Tokenizer | None = None
) -> Dataset:
    """Training, validation and test examples of a task, on a device: the same for every optimizer.

    Args:
        task: what is asked for.
        name: the data set in use.
        seed: root of the seeds of a scale.
        device: where the tensors live.
        tokenizer: of texts; by default bytes.

    Raises: see `data.load` and `language.load`.
    """
    if isinstance(task, LanguageTask):
        return language.load(
            name,
            seed=derive_seed(seed, name, "subset"),
            context=task.context,
            train_examples=task.train_examples,
            validation_examples=task.validation_examples,
            test_examples=task.test_examples,
            tokenizer=tokenizer,
            device=device,
        )
    dataset = data.load(task, name, seed, device)
    if isinstance(task, VisionTask) and task.classes != "all":
        return vision.select_classes(dataset, task.classes)
    return dataset


def tokenizer_of(study: FineTuningStudy) -> Tokenizer | None:
    """What a study reads text with: None for bytes, which the backbones that are pretrained here read."""
    if study.hub is None or not isinstance(study.task, LanguageTask):
        return None
    assert study.revision is not None
    return language.hub(study.hub, study.revision)[1]


def transformer(architecture: Architecture, dataset: Dataset, seed: int) -> nn.Module:
    """A transformer with fresh weights for a data set: GPT-2 for tokens, a ViT for images."""
    width, layers, heads = architecture.width, architecture.layers, architecture.heads
    if architecture.patch is None:
        return language.gpt(dataset.classes, dataset.input_shape[0], width, layers, heads, seed)
    return vision.vit(dataset.input_shape, dataset.classes, architecture.patch, width, layers, heads, seed)


def _fine_tuning(study: FineTuningStudy, context: Context) -> tuple[Dataset, Build]:
    assert context.dataset is not None
    dataset = load(study.task, context.dataset, context.seed, context.device, tokenizer_of(study))
    head = vision.HEAD if isinstance(study.task, VisionTask) else None

    def adapted(run: Run) -> nn.Module:
        seed, lora = derive_seed(run.seed, "weights"), study.lora
        backbone = _backbone(study, dataset, context, head)
        return adapters.lora(backbone, lora.rank, lora.alpha, lora.targets, seed=seed, head=head).to(context.device)

    def build(runs: Sequence[Run]) -> Models:
        chunk = HUB_IMAGES if study.hub and head else models.CHUNK
        return models.Adapted([adapted(run) for run in runs], study.precision == "bfloat16", chunk)

    return dataset, build


def _backbone(study: FineTuningStudy, dataset: Dataset, context: Context, head: str | None) -> nn.Module:
    """A pretrained transformer, but for its head: the classes are others."""
    if study.hub is not None:
        assert study.revision is not None
        if isinstance(study.task, LanguageTask):
            return language.hub(study.hub, study.revision)[0]
        return vision.hub(study.hub, study.revision, dataset.classes)
    assert study.backbone is not None
    assert context.weights is not None
    giver, _, row = study.backbone.partition("/")
    pretraining = context.studies[giver]
    assert isinstance(pretraining, PretrainingStudy)
    fresh = transformer(pretraining.backbones[row].architecture, dataset, seed=0)  # every weight of it is replaced
    return adapters.load(fresh, context.weights, head)
