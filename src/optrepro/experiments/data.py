"""The data set of a study: the same examples for every optimizer, chosen by the scale's seed."""

from __future__ import annotations

import torch

from optrepro.config import ImageData
from optrepro.problems import archives, datasets
from optrepro.problems.datasets import Dataset
from optrepro.runtable import derive_seed


def load(study: ImageData, name: str, seed: int, device: torch.device | str) -> Dataset:
    """Training, validation and test examples of a study, on a device.

    A set that is smaller than the study asks for gives a quarter of its training files to validation and the rest to
    training, so that a study made for 60,000 images runs on 1,797 too. Raises: see `datasets.load`.
    """
    train, _ = archives.archive(name).examples
    validation_examples = min(study.validation_examples, train // 4)
    rest = train - validation_examples
    return datasets.load(
        name,
        device=device,
        train_examples=None if study.train_examples is None else min(study.train_examples, rest),
        validation_examples=validation_examples,
        labels=study.labels,
        seed=derive_seed(seed, name, "subset"),
    )
