"""Optimizers for PyTorch, each a `torch.optim.Optimizer`; they need torch, and safetensors to read learned weights."""

from optrepro.optimizers.aligned_mean import AlignedMeanAdam, AlignedMeanAdamW, AlignedMeanSGD
from optrepro.optimizers.cautious import CautiousAdamW
from optrepro.optimizers.conjugate_gradient import ConjugateGradient
from optrepro.optimizers.controls import MeanAdam, MeanAdamW, MeanSGD, RandomAdam, RandomAdamW, RandomSGD
from optrepro.optimizers.gap import GapAdam, GapAdamW, GapSGD
from optrepro.optimizers.l2l import L2L
from optrepro.optimizers.polyak import Polyak
from optrepro.optimizers.pop import POP
from optrepro.optimizers.predicted_step import PredictedStepDescent

__all__ = [
    "L2L",
    "POP",
    "AlignedMeanAdam",
    "AlignedMeanAdamW",
    "AlignedMeanSGD",
    "CautiousAdamW",
    "ConjugateGradient",
    "GapAdam",
    "GapAdamW",
    "GapSGD",
    "MeanAdam",
    "MeanAdamW",
    "MeanSGD",
    "Polyak",
    "PredictedStepDescent",
    "RandomAdam",
    "RandomAdamW",
    "RandomSGD",
]
