"""The mean of the candidates' steps, weighted by the evidence that a longer memory is better aligned.

GAP takes one candidate at each step, by one step's alignment: with mini-batches a noisy and short-sighted choice. Here
the candidates' steps are averaged, as in aggregated momentum, and neighbours are weighted by the odds that the longer
memory descends faster, as far as the alignment of the last steps tells it from chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._switching import (
    AdamSettings,
    Block,
    Index,
    Record,
    Rule,
    SGDSettings,
    SwitchingAdam,
    SwitchingSGD,
    require,
    vector,
)
from optrepro.optimizers.gap import Alignment


@dataclass(frozen=True)
class EvidenceRule(Rule):
    """Settings of the weights, see `AlignedMeanSGD`."""

    decay: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.decay < 1, "decay", self.decay, "in [0, 1)")


class AlignedMean(Alignment):
    """The rule: weights by the odds that each candidate gains over the one before it."""

    rule: EvidenceRule

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        numbers = (rows, self._candidate_count)
        zeros = torch.zeros(numbers, dtype=torch.float64, device=device)
        gains = zeros[:, 1:]
        fresh = {"counts": zeros, "weights": zeros, "mean_gain": gains, "mean_square": gains, "seen": zeros[:, 0]}
        return super()._fresh_record(rows, device) | fresh

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        scores = self._scores(blocks, rows, past["last"].device).double()
        gain, decay = scores[:, 1:] - scores[:, :-1], self.rule.decay
        mean = decay * past["mean_gain"] + (1 - decay) * gain
        square = decay * past["mean_square"] + (1 - decay) * gain**2
        # The first step has no past: all candidates are equal in it, and it says nothing.
        seen = past["seen"] + 1
        steps = (seen - 1).clamp(max=(1 + decay) / (1 - decay))[:, None]
        weight = (1 - decay**seen)[:, None]
        statistic = mean / (square * weight).sqrt().clamp(min=torch.finfo(torch.float64).tiny) * steps.sqrt()
        log_odds = torch.special.log_ndtr(statistic) - torch.special.log_ndtr(-statistic)
        weights = pad(log_odds.cumsum(-1), (1, 0)).softmax(-1)
        return {
            "last": weights.argmax(-1),
            "scores": scores,
            "weights": weights,
            "mean_gain": mean,
            "mean_square": square,
            "seen": seen,
        }

    def _shares(self, new: Record) -> Tensor:
        return new["weights"] if self._candidate_count > 1 else torch.ones_like(new["counts"])

    def _decisions(self, new: Record) -> Sequence[Index]:
        return new["weights"].unbind()

    def _apply(self, block: Block, index: Index) -> None:
        if isinstance(index, int):  # a single candidate
            super()._apply(block, index)
            return
        rows = block.state[self.buffers]
        steps = index.to(rows.device) * vector(self._rates(block), rows.device)
        moment = torch.mv(rows.t(), steps.to(rows.dtype))
        if block.group.get("nesterov"):
            momenta = vector(block.group[self.family], rows.device)
            moment = torch.mv(rows.t(), (steps * momenta).to(rows.dtype)) + block.gradient * steps.sum()
        self._descend(block, moment, 1.0)


class AlignedMeanSGD(AlignedMean, SwitchingSGD):
    r"""SGD that steps with a mean of candidate momenta, weighted by evidence of alignment.

    Every candidate :math:`m_j`, ascending, keeps its buffer :math:`b_j \leftarrow m_j b_j + g`. At each step
    :math:`d_j = \langle g, b_{j+1} - b_j\rangle` is how much faster the loss falls along the next candidate's step; the
    gradient's alignment with itself cancels in it. :math:`t_j` is the mean of :math:`d_j` over its root mean square,
    both exponential averages, times the root of their effective number of steps: were there no gain, about a standard
    normal variable. The step is :math:`-\eta \sum_j w_j b_j`, with the odds :math:`w_{j+1} / w_j = \Phi(t_j) /
    \Phi(-t_j)`, :math:`\Phi` the normal distribution function, and weights that sum to 1.

    Without evidence (all t are 0) this is the mean of the candidates, `controls.MeanSGD`; gradients that keep their
    direction lead to the largest momentum, gradients that turn against the buffers to the smallest. It is not always
    alignment that makes it good: on a perceptron random switching with its shares, and the mean, are ahead of it.

    Args:
        params, lr, momentum: as in `gap.GapSGD`; candidates in ascending order.
        select: weights for all parameters (``"global"``), or for each by itself (``"per_parameter"``).
        decay: of the averages, in [0, 1); they remember (1 + decay) / (1 - decay) steps.
        **settings: as in `gap.GapSGD`.

    `selection`: `counts` are sums of weights, `last` is the candidate of the largest.

    Shape: as `gap.GapSGD`. A gradient that is not finite leaves the weights not finite: the run has diverged.
    Raises: as `gap.GapSGD`, and ValueError for candidates that do not ascend.
    Source: chosen. The buffers are those of arXiv 2512.06370, their mean is arXiv 1804.00325's.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.5, 0.9, 0.99),
        select: str = "per_parameter",
        *,
        decay: float = 0.8,
        **settings: Unpack[SGDSettings],
    ) -> None:
        super().__init__(params, lr, momentum, EvidenceRule(select, decay=decay), **settings)

    def _checked(self, group: dict[str, object]) -> dict[str, object]:
        group = super()._checked(group)
        momentum = cast(tuple[float, ...], group["momentum"])
        require(list(momentum) == sorted(momentum), "momentum", momentum, "in ascending order")
        return group


class AlignedMeanAdam(AlignedMean, SwitchingAdam):
    r"""Adam that steps with a mean of candidate beta1, weighted by evidence of alignment.

    As `AlignedMeanSGD`, with :math:`d_j = \langle g, P (\hat m_{j+1} - \hat m_j)\rangle` of the bias-corrected first
    moments and Adam's preconditioner P. Here the gradient's alignment with itself does not cancel, since averages with
    a short memory hold more of the newest gradient: it is part of the step, and of its effect.

    Args:
        params, lr, betas: as in `gap.GapAdam`; candidates in ascending order of beta1.
        select, decay: as in `AlignedMeanSGD`.
        **settings: as in `gap.GapAdam`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] | Sequence[tuple[float, float]] = ((0.5, 0.999), (0.9, 0.999), (0.99, 0.999)),
        select: str = "per_parameter",
        *,
        decay: float = 0.8,
        **settings: Unpack[AdamSettings],
    ) -> None:
        super().__init__(params, lr, betas, EvidenceRule(select, decay=decay), **settings)

    def _checked(self, group: dict[str, object]) -> dict[str, object]:
        group = super()._checked(group)
        betas = cast(tuple[tuple[float, float], ...], group["betas"])
        require(list(betas) == sorted(betas), "betas", betas, "in ascending order of beta1")
        return group


class AlignedMeanAdamW(AlignedMeanAdam):
    """`AlignedMeanAdam` with decoupled weight decay, 0.01 by default."""

    couples_weight_decay = False
    default_weight_decay = 0.01
