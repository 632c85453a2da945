"""L2L: learning to learn by gradient descent by gradient descent, a recurrent network that predicts every step.

Source: Andrychowicz et al. 2016, arXiv 1606.04474 (L2LBGDBGD in arXiv 1703.00441, which compares with it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._learned import (
    Cells,
    Columns,
    LearnedOptimizer,
    Memory,
    Now,
    chunks,
    find,
    load,
    lstm_cell,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


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
        zero = torch.zeros(self.settings.cells, x.numel(), dtype=torch.float32, device=x.device)
        return {name: zero.clone() for name in self.table_shapes()}

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """A step (R, P) and the memory after it, from the gradient (R, P) alone."""
        inputs = log_sign(gradient.reshape(-1), self.settings.preprocessing)
        hidden_1, cell_1 = lstm_cell(self.first, self.first_bias, inputs, memory["hidden_1"], memory["cell_1"])
        hidden_2, cell_2 = lstm_cell(self.second, self.second_bias, hidden_1, memory["hidden_2"], memory["cell_2"])
        step = self.settings.scale * torch.addmm(self.out_bias, self.out, hidden_2).view_as(gradient)
        return step, {"hidden_1": hidden_1, "cell_1": cell_1, "hidden_2": hidden_2, "cell_2": cell_2}

    def table_shapes(self) -> dict[str, tuple[int, ...]]:
        """What is remembered of a coordinate, by name."""
        return dict.fromkeys(("hidden_1", "cell_1", "hidden_2", "cell_2"), (self.settings.cells,))

    @torch.no_grad()
    def advance(self, memory: Memory, now: Now) -> Tensor:
        """The step (n,) of a single objective, as `step` predicts it, with the memory brought forward in place.

        Works through the coordinates in pieces: neither its time nor its memory is that of tensors (4 cells, n).
        """
        settings, step = self.settings, torch.empty_like(now.gradient)
        parts = chunks(step, 4 * settings.cells)
        most = max((part.stop - part.start for part in parts), default=0)
        first = Cells(self.first, self.first_bias, most)
        second = Cells(self.second, self.second_bias, most)
        out, bias = settings.scale * self.out, settings.scale * self.out_bias
        for part in parts:
            gradient = now.gradient[part]
            seen = first.inputs(len(gradient))
            torch.abs(gradient, out=seen[0]).clamp_min_(math.exp(-settings.preprocessing)).log_()
            seen[0].div_(settings.preprocessing)
            torch.mul(gradient, math.exp(settings.preprocessing), out=seen[1]).clamp_(-1, 1)
            hidden_1, cell_1, hidden_2, cell_2 = (memory[name][:, part] for name in self.table_shapes())
            first.step(hidden_1, cell_1)
            second.inputs(len(gradient)).copy_(hidden_1)
            second.step(hidden_2, cell_2)
            predicted = torch.addmm(bias, out, hidden_2)[0]
            torch.mul(predicted, gradient != 0, out=step[part])
        return step


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
        process_group: see `LearnedOptimizer`.

    Else as `LearnedOptimizer`: `step` needs a closure. The input has an absolute size: on losses in other units the
    steps are others. State of a parameter of shape (*s): ``hidden_1``, ``cell_1``, ``hidden_2`` and ``cell_2``,
    (*s, cells) float32. A coordinate is remembered in 16 x cells bytes: 320 with the sizes of the paper, so 32 MB for a
    network of 100,000 weights.
    Raises: as `LearnedOptimizer`, and FileNotFoundError for an unknown policy.
    Source: arXiv 1606.04474; how the shipped rule was trained: its model card.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        policy: str | Path | L2LPolicy = "l2l",
        *,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        rule = policy if isinstance(policy, L2LPolicy) else self.from_pretrained(policy)
        super().__init__(params, rule, lr, process_group=process_group)

    @staticmethod
    def from_pretrained(policy: str | Path = "l2l") -> L2LPolicy:
        """The rule shipped under a name, or stored in a file; FileNotFoundError, or ValueError if it holds none."""
        return load(L2LPolicy, L2LSettings, find(policy))[0]


def _uniform(cells: int, *shape: int) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape, dtype=torch.float32) - 1) / math.sqrt(cells))
