"""The data set of a study: the same examples for every optimizer, chosen by the scale's seed."""

from __future__ import annotations

from pathlib import Path

import torch

from optrepro.config import ImageData
from optrepro.problems import datasets
from optrepro.problems.datasets import Dataset
from optrepro.runtable import derive_seed


def load(
    study: ImageData, name: str, seed: int, data_dir: Path | None, device: torch.device | str
) -> Dataset:
    """Training, validation and test examples of a study, on a device. Raises: see `datasets.load`."""
    return datasets.load(
        name,
        data_dir=data_dir,
        device=device,
        train_examples=study.train_examples,
        validation_examples=study.validation_examples,
        labels=study.labels,
        seed=derive_seed(seed, name, "subset"),
    )
