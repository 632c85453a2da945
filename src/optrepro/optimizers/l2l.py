"""L2L: learning to learn by gradient descent by gradient descent, a recurrent network that predicts every step.

Source: Andrychowicz et al. 2016, arXiv 1606.04474 (L2LBGDBGD in arXiv 1703.00441, which compares with it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._learned import Columns, LearnedOptimizer, Memory, find, load, lstm_cell


@dataclass(frozen=True)
class L2LSettings:
    """What defines a rule, and is stored with its weights.

    Attributes:
        cells: of each of the two LSTM layers (the paper's section 3.1 has 20).
        preprocessing: decades of the gradient that are told apart by their logarithm, p in the paper's appendix A.
        scale: factor on the output, so that an untrained network takes small steps (the paper's section 3.1 has 0.1).
    """

    cells: int = 20
    preprocessing: float = 10.0
    scale: float = 0.1


class L2LPolicy(nn.Module):
    """Two LSTM layers and a linear output, from the gradient of a coordinate to its step; shared by all coordinates.

    Weights begin uniform within 1 / sqrt(cells), as those of `torch.nn.LSTM` do.

    Args:
        settings: sizes and scales.
    """

    def __init__(self, settings: L2LSettings):
        super().__init__()
        self.settings = settings
        cells = settings.cells
        self.first, self.first_bias = _uniform(cells, 4 * cells, 2 + cells), _uniform(cells, 4 * cells, 1)
        self.second, self.second_bias = _uniform(cells, 4 * cells, 2 * cells), _uniform(cells, 4 * cells, 1)
        self.out, self.out_bias = _uniform(cells, 1, cells), _uniform(cells, 1, 1)

    def begin(self, x: Tensor, groups: Columns) -> Memory:
        """Hidden and cell states of zero, (cells, R P) float32, for x (R, P); coordinates of all groups are alike."""
        zero = torch.zeros(self.settings.cells, x.numel(), device=x.device)
        return {name: zero.clone() for name in ("hidden 1", "cell 1", "hidden 2", "cell 2")}

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """A step (R, P) and the memory after it, from the gradient (R, P) alone."""
        inputs = log_sign(gradient.reshape(-1), self.settings.preprocessing)
        hidden_1, cell_1 = lstm_cell(self.first, self.first_bias, inputs, memory["hidden 1"], memory["cell 1"])
        hidden_2, cell_2 = lstm_cell(self.second, self.second_bias, hidden_1, memory["hidden 2"], memory["cell 2"])
        step = self.settings.scale * torch.addmm(self.out_bias, self.out, hidden_2).view_as(gradient)
        return step, {"hidden 1": hidden_1, "cell 1": cell_1, "hidden 2": hidden_2, "cell 2": cell_2}


def log_sign(gradient: Tensor, p: float) -> Tensor:
    """Size and sign of a gradient as two inputs of like size over many decades, (n,) -> (2, n).

    (log |g| / p, sign g) where |g| >= exp(-p), else (-1, exp(p) g). Source: arXiv 1606.04474, appendix A.
    """
    size = gradient.abs()
    logarithm = size.clamp_min(math.exp(-p)).log_().div_(p)
    return torch.stack([logarithm, (gradient * math.exp(p)).clamp_(-1, 1)])


class L2L(LearnedOptimizer):
    r"""Optimizer learned by gradient descent: a coordinate-wise LSTM that was trained through unrolled optimization.

    Every coordinate has two LSTM layers of its own state and common weights, which see the logarithm and the sign of
    its gradient: :math:`x \leftarrow x + \mathrm{lr} \cdot 0.1\, m(\nabla f, h)`.

    Args:
        params: parameters, or groups of them with an `lr` of their own.
        lr: factor on the predicted steps; 1 is what the rule was trained for.
        policy: the name of a shipped rule, a file that `optrepro.optimizers._learned.save` wrote, or an `L2LPolicy`.

    Else as `LearnedOptimizer`: `step` needs a closure. A coordinate is remembered in 16 x cells bytes: 320 with the
    sizes of the paper, so 32 MB for a network of 100,000 weights.
    Raises: as `LearnedOptimizer`, and FileNotFoundError for an unknown policy.
    Source: arXiv 1606.04474; how the shipped rule was trained: its model card.
    """

    def __init__(self, params: ParamsT, lr: float | Tensor = 1.0, policy: str | Path | L2LPolicy = "l2l") -> None:
        super().__init__(params, policy if isinstance(policy, L2LPolicy) else self.from_pretrained(policy), lr)

    @staticmethod
    def from_pretrained(policy: str | Path = "l2l") -> L2LPolicy:
        """The rule shipped under a name, or stored in a file; FileNotFoundError, or ValueError if it holds none."""
        return load(L2LPolicy, L2LSettings, find(policy))[0]


def _uniform(cells: int, *shape: int) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape) - 1) / math.sqrt(cells))
