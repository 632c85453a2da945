"""Loads the data of a study, with the same examples for every optimizer, and builds objectives on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from random import Random

import torch

from optrepro.experiments.base.shared import shareable
from optrepro.problems.data import archives, images, texts
from optrepro.problems.data.images import Dataset, Split
from optrepro.problems.data.texts import Tokenizer
from optrepro.problems.networks.perceptrons import Perceptrons, project
from optrepro.seeds import derive_seed
from optrepro.studies.base import Reader
from optrepro.studies.data import ImageData, LanguageTask, VisionTask
from optrepro.studies.learner import MetaObjective, ObjectiveConfig
from optrepro.studies.objectives import Panel

_COARSE = ("cifar100",)  # data sets with coarse labels besides the fine ones


@shareable
def load(
    reader: Reader, name: str, seed: int, device: torch.device | str, tokenizer: Tokenizer | None = None
) -> Dataset:
    """Load the examples that the settings ask for, the same ones for every optimizer.

    A data set of images that is too small uses at most a quarter of its training images for validation and the rest
    for training, so that a study made for 60,000 images also runs on 1,797. Without coarse labels the fine ones serve.

    Args:
        reader: settings of the data.
        name: name of the data set.
        seed: root seed of the scale.
        device: device of the tensors.
        tokenizer: tokenizer of texts; None reads bytes.

    Raises: TypeError for settings of another kind; see also `images.load` and `texts.load`.
    """
    drawn = derive_seed(seed, name, "subset")
    if isinstance(reader, LanguageTask):
        return texts.load(
            name,
            seed=drawn,
            context=reader.context,
            train_examples=reader.train_examples,
            validation_examples=reader.validation_examples,
            test_examples=reader.test_examples,
            tokenizer=tokenizer,
            device=device,
        )
    if isinstance(reader, Panel):
        return whole(name, device)
    if not isinstance(reader, ImageData):
        raise TypeError(f"reader = {type(reader).__name__} is not allowed; it must be settings of images or of text")
    train, _ = archives.archive(name).examples
    validation_examples = min(reader.validation_examples, train // 4)
    rest = train - validation_examples
    dataset = images.load(
        name,
        device=device,
        train_examples=None if reader.train_examples is None else min(reader.train_examples, rest),
        validation_examples=validation_examples,
        labels=reader.labels if name in _COARSE else "fine",
        seed=drawn,
    )
    return images.select_classes(dataset, reader.classes) if isinstance(reader, VisionTask) else dataset


@lru_cache(maxsize=1)
def whole(name: str, device: torch.device | str) -> Dataset:
    """Load all training images of a data set, with none held out. Raises: see `images.load`."""
    return images.load(name, device=device, seed=0)  # the seed has no effect, because nothing is drawn


def objectives(
    split: Split, classes: int, objective: ObjectiveConfig, examples: int, seeds: Sequence[int]
) -> Perceptrons:
    """Build one perceptron per seed, each on its own random subset of the images under its own random projection.

    Args:
        split: images to draw from.
        classes: number of classes.
        objective: sizes of the perceptrons and of their minibatches.
        examples: size of a subset, at most the number of images.
        seeds: each seed decides a subset, a projection, the initial weights and the minibatches.
    """
    size, device = min(examples, len(split)), split.images.device
    subsets = [_subset(len(split), size, seed).to(device) for seed in seeds]
    inputs = [project(split.images[s], objective.inputs, seed) for s, seed in zip(subsets, seeds, strict=True)]
    labels = [split.labels[subset] for subset in subsets]
    return Perceptrons(
        torch.stack(inputs), torch.stack(labels), objective.hidden, classes, objective.batch_size, tuple(seeds)
    )


def varied(problems: Perceptrons, objective: MetaObjective) -> Perceptrons:
    """Give each objective the batch size and the share of random labels that its seed draws, as far as they vary."""
    draws = [Random(derive_seed(seed, "variation")) for seed in problems.seeds]
    if objective.batch_sizes:
        problems = replace(problems, batch_sizes=tuple(draw.choice(objective.batch_sizes) for draw in draws))
    return with_label_noise(problems, [objective.label_noise * draw.random() for draw in draws])


def with_label_noise(problems: Perceptrons, shares: Sequence[float]) -> Perceptrons:
    """Draw so large a share of each objective's labels anew from all classes."""
    if not any(shares):
        return problems
    kept = []
    for labels, seed, share in zip(problems.labels, problems.seeds, shares, strict=True):
        generator = torch.Generator().manual_seed(derive_seed(seed, "label noise"))
        drawn = torch.randint(problems.classes, labels.shape, generator=generator)
        hit = torch.rand(labels.shape, generator=generator) < share
        kept.append(torch.where(hit.to(labels.device), drawn.to(labels.device), labels))
    return replace(problems, labels=torch.stack(kept))


def _subset(count: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "subset"))
    return torch.randperm(count, generator=generator)[:size]
