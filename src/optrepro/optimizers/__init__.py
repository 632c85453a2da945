"""Optimizers to install and use: each a `torch.optim.Optimizer`, importing torch, and safetensors to read a policy."""

from optrepro.optimizers.cautious import CautiousAdamW
from optrepro.optimizers.controls import MeanAdam, MeanAdamW, MeanSGD, RandomAdam, RandomAdamW, RandomSGD
from optrepro.optimizers.gap import GapAdam, GapAdamW, GapSGD
from optrepro.optimizers.polyak import Polyak
from optrepro.optimizers.pop import POP

__all__ = [
    "POP",
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
