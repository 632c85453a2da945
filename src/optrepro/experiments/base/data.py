"""The images of a study: the same examples for every optimizer, chosen by the scale's seed, and objectives on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optrepro.config import ImageData, ObjectiveConfig
from optrepro.problems.data import archives
from optrepro.problems.data import images as datasets
from optrepro.problems.data.images import Dataset, Split
from optrepro.problems.networks.perceptrons import Perceptrons, project
from optrepro.runtable import derive_seed

_COARSE = ("cifar100",)  # data sets that have coarse labels beside their own


def load(study: ImageData, name: str, seed: int, device: torch.device | str) -> Dataset:
    """Training, validation and test examples of a study, on a device.

    A set that is smaller than the study asks for gives a quarter of its training files to validation and the rest to
    training, so that a study made for 60,000 images runs on 1,797 too; one without coarse labels gives its own.
    Raises: see `datasets.load`.
    """
    train, _ = archives.archive(name).examples
    validation_examples = min(study.validation_examples, train // 4)
    rest = train - validation_examples
    return datasets.load(
        name,
        device=device,
        train_examples=None if study.train_examples is None else min(study.train_examples, rest),
        validation_examples=validation_examples,
        labels=study.labels if name in _COARSE else "fine",
        seed=derive_seed(seed, name, "subset"),
    )


def images(name: str, device: torch.device | str) -> Dataset:
    """All training images of a data set, none of them held out. Raises: see `datasets.load`."""
    return datasets.load(name, device=device, seed=0)  # a seed without effect: nothing is drawn


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
