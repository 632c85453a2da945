"""Optimizers to install and use: each a `torch.optim.Optimizer`, importing torch and nothing else."""

from optrepro.optimizers.cautious import CautiousAdamW
from optrepro.optimizers.controls import MeanAdam, MeanAdamW, MeanSGD, RandomAdam, RandomAdamW, RandomSGD
from optrepro.optimizers.gap import GapAdam, GapAdamW, GapSGD
from optrepro.optimizers.polyak import Polyak

__all__ = [
    "CautiousAdamW",
    "GapAdam",
    "GapAdamW",
    "GapSGD",
    "MeanAdam",
    "MeanAdamW",
    "MeanSGD",
    "Polyak",
    "RandomAdam",
    "RandomAdamW",
    "RandomSGD",
]
