"""L2L, learning to learn by gradient descent by gradient descent: a recurrent network predicts every step.

Source: Andrychowicz et al. 2016, arXiv 1606.04474. arXiv 1703.00441 compares with it under the name L2LBGDBGD.
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
    blocks,
    find,
    load,
    lstm_cell,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class L2LSettings:
    """Settings of an `L2LPolicy`, stored with its weights.

    Attributes:
        cells: number of cells in each of the two LSTM layers (20 in the paper's section 3.1).
        preprocessing: p in the paper's appendix A; gradients above exp(-p) enter as their logarithm and sign.
        scale: factor on the output, so that an untrained network takes small steps (0.1 in the paper's section 3.1).
    """

    cells: int = 20
    preprocessing: float = 10.0
    scale: float = 0.1


class L2LPolicy(nn.Module):
    """Two LSTM layers and a linear output that map the gradient of a coordinate to its step.

    All coordinates share the weights, which are initialized uniformly within 1 / sqrt(cells) as in `torch.nn.LSTM`.

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
        """Hidden and cell states of zero, (cells, R P) float32, for x (R, P); `groups` is not used."""
        zero = torch.zeros(self.settings.cells, x.numel(), dtype=torch.float32, device=x.device)
        return {name: zero.clone() for name in self.table_shapes()}

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """Predict a step (R, P) from the gradient (R, P) alone; return it and the new memory."""
        if not torch.is_grad_enabled():
            return self._advance(memory, gradient.reshape(-1)).view_as(gradient), memory
        inputs = log_sign(gradient.reshape(-1), self.settings.preprocessing)
        hidden_1, cell_1 = lstm_cell(self.first, self.first_bias, inputs, memory["hidden_1"], memory["cell_1"])
        hidden_2, cell_2 = lstm_cell(self.second, self.second_bias, hidden_1, memory["hidden_2"], memory["cell_2"])
        step = self.settings.scale * torch.addmm(self.out_bias, self.out, hidden_2).view_as(gradient)
        return step, {"hidden_1": hidden_1, "cell_1": cell_1, "hidden_2": hidden_2, "cell_2": cell_2}

    def table_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names of the state tensors, with their shape for one coordinate."""
        return dict.fromkeys(("hidden_1", "cell_1", "hidden_2", "cell_2"), (self.settings.cells,))

    @torch.no_grad()
    def advance(self, memory: Memory, now: Now) -> Tensor:
        """The step (n,) that `step` predicts for a single objective; the memory is updated in place."""
        return self._advance(memory, now.gradient).mul_(now.gradient != 0)

    def _advance(self, memory: Memory, gradients: Tensor) -> Tensor:
        """Return the steps (n,) on gradients (n,), and update the memory in place.

        The coordinates are processed in chunks, so that no tensor (4 cells, n) is ever allocated.
        """
        settings, step = self.settings, torch.empty_like(gradients)
        parts = [columns for _, columns in blocks(1, len(step), 4 * settings.cells, step.device)]
        most = max(part.stop - part.start for part in parts)
        first = Cells(self.first, self.first_bias, most)
        second = Cells(self.second, self.second_bias, most)
        out, bias = settings.scale * self.out, settings.scale * self.out_bias
        for part in parts:
            gradient = gradients[part]
            seen = first.inputs(len(gradient))
            torch.abs(gradient, out=seen[0]).clamp_min_(math.exp(-settings.preprocessing)).log_()
            seen[0].div_(settings.preprocessing)
            torch.mul(gradient, math.exp(settings.preprocessing), out=seen[1]).clamp_(-1, 1)
            hidden_1, cell_1, hidden_2, cell_2 = (memory[name][:, part] for name in self.table_shapes())
            first.step(hidden_1, cell_1)
            second.inputs(len(gradient)).copy_(hidden_1)
            second.step(hidden_2, cell_2)
            step[part] = torch.addmm(bias, out, hidden_2)[0]
        return step


def log_sign(gradient: Tensor, p: float) -> Tensor:
    """Encode a gradient by two inputs of order 1 over many decades, (n,) -> (2, n).

    They are (log |g| / p, sign g) if |g| >= exp(-p), else (-1, exp(p) g).

    Source: arXiv 1606.04474, appendix A.
    """
    size = gradient.abs()
    logarithm = size.clamp_min(math.exp(-p)).log_().div_(p)
    return torch.stack([logarithm, (gradient * math.exp(p)).clamp_(-1, 1)])


class L2L(LearnedOptimizer):
    r"""Optimizer learned by gradient descent: a coordinate-wise LSTM that was trained through unrolled optimization.

    The LSTM sees the logarithm and the sign of a coordinate's gradient, and predicts the coordinate's step:
    :math:`x \leftarrow x + \mathrm{lr} \cdot 0.1\, m(\nabla f, h)`. The coordinates share the weights, and each has
    its own state h. The steps depend on the unit of the loss. `step` needs a closure; when it skips a step is described
    in `LearnedOptimizer`.

    Args:
        params: parameters, or parameter groups with their own `lr`.
        lr: factor on the predicted steps; the rule was trained for 1.
        policy: the name of a shipped rule, a file that `optrepro.optimizers._learned.save` wrote, or an `L2LPolicy`.
        process_group: see `LearnedOptimizer`.

    Shape: as `LearnedOptimizer`. The state of a parameter of shape (*s) is ``hidden_1``, ``cell_1``, ``hidden_2`` and
        ``cell_2``, (*s, cells) float32. It takes 16 x cells bytes per coordinate: 320 with the sizes of the paper, so
        32 MB for a network of 100,000 weights.
    Raises: as `LearnedOptimizer`, and FileNotFoundError for an unknown policy.
    Source: arXiv 1606.04474. The model card of the shipped rule says how it was trained.
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
        """Load the rule shipped under a name or stored in a file.

        Raises: FileNotFoundError for an unknown policy; ValueError if the file holds no such rule.
        """
        return load(L2LPolicy, L2LSettings, find(policy))[0]


def _uniform(cells: int, *shape: int) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape, dtype=torch.float32) - 1) / math.sqrt(cells))
