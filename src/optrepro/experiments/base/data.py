"""The data of a study: the same examples for every optimizer, chosen by the scale's seed; and objectives on images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from optrepro.problems.data import archives, images, texts
from optrepro.problems.data.images import Dataset, Split
from optrepro.problems.data.texts import Tokenizer
from optrepro.problems.networks.perceptrons import Perceptrons, project
from optrepro.seeds import derive_seed
from optrepro.studies.base import Reader
from optrepro.studies.data import ImageData, LanguageTask, VisionTask
from optrepro.studies.learner import ObjectiveConfig
from optrepro.studies.objectives import Panel

_COARSE = ("cifar100",)  # data sets that have coarse labels beside their own


def load(
    reader: Reader, name: str, seed: int, device: torch.device | str, tokenizer: Tokenizer | None = None
) -> Dataset:
    """What settings ask for of a data set, on a device: the same examples for every optimizer.

    A set of images that is smaller than asked for gives a quarter of its training files to validation and the rest to
    training, so that a study made for 60,000 images runs on 1,797 too; one without coarse labels gives its own.

    Args:
        reader: the settings.
        name: the data set in use.
        seed: root of the seeds of a scale.
        device: where the tensors live.
        tokenizer: of texts; by default bytes.

    Raises: TypeError for other settings; see `images.load` and `texts.load`.
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
        raise TypeError(f"{type(reader).__name__} is no settings of images or text")
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
    """All training images of a data set, none of them held out. Raises: see `images.load`."""
    return images.load(name, device=device, seed=0)  # a seed without effect: nothing is drawn


def objectives(
    split: Split, classes: int, objective: ObjectiveConfig, examples: int, seeds: Sequence[int]
) -> Perceptrons:
    """One perceptron for each seed, on a random subset of the images under a random projection of its own.

    Args:
        split: the images.
        classes: their number of classes.
        objective: sizes of the perceptrons and of their minibatches.
        examples: size of a subset; all images where there are not so many.
        seeds: each decides a subset, a projection, the initial weights and the minibatches.
    """
    size, device = min(examples, len(split)), split.images.device
    subsets = [_subset(len(split), size, seed).to(device) for seed in seeds]
    inputs = [project(split.images[s], objective.inputs, seed) for s, seed in zip(subsets, seeds, strict=True)]
    labels = [split.labels[subset] for subset in subsets]
    return Perceptrons(
        torch.stack(inputs), torch.stack(labels), objective.hidden, classes, objective.batch_size, tuple(seeds)
    )


def _subset(count: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, "subset"))
    return torch.randperm(count, generator=generator)[:size]
