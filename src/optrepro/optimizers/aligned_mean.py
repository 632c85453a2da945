"""The mean of the candidates' steps, weighted by the evidence that a longer memory is better aligned.

GAP takes one candidate at each step and decides by the alignment of that step alone, which is noisy with mini-batches.
Here the candidates' steps are averaged, as in aggregated momentum. Neighbouring candidates are weighted by the odds
that the longer memory descends faster, judged by the alignment over the last steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import Group, require
from optrepro.optimizers._candidates import momenta, pairs
from optrepro.optimizers._kernels import Number
from optrepro.optimizers._switching import (
    AdamSettings,
    Block,
    Bundle,
    Record,
    Rule,
    SGDSettings,
    SwitchingAdam,
    SwitchingSGD,
    vector,
    views_of,
)
from optrepro.optimizers.gap import Alignment

TOLERATED = 1000.0  # A gain is clamped to this multiple of its root mean square, so that an outlier is soon forgotten.
SETTLED = 5  # The clamp begins after this many steps, when the root mean square is known.


@dataclass(frozen=True)
class EvidenceRule(Rule):
    """Settings of the weights, see `AlignedMeanSGD`."""

    decay: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.decay < 1, "decay", self.decay, "in [0, 1)")


class AlignedMean(Alignment):
    """Rule that weights each candidate by the odds that it gains over the candidate before it."""

    rule: EvidenceRule

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        count = self._candidate_count
        gains = {"mean_gain": zeros(rows, count - 1), "mean_square": zeros(rows, count - 1)}
        weights = {"counts": zeros(rows, count), "weights": zeros(rows, count), "seen": zeros(rows)}
        return super()._fresh_record(rows, device) | weights | gains

    def _needs_self_term(self, group: Group) -> bool:
        # If the newest gradient has the same weight in every candidate's step, R_0 cancels in the scores' differences.
        plain = self.couples_weight_decay and not self.depends_on_age
        return not plain or bool(group["nesterov"] or group["lr_modulation"] or group["dampening"])

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        decay, scores = self.rule.decay, self._scores(blocks, rows, past["last"].device)
        gain = bounded(scores.diff(dim=-1), past, decay)
        mean = torch.lerp(gain, past["mean_gain"], decay)
        square = torch.lerp(gain.square(), past["mean_square"], decay)
        seen = past["seen"] + 1
        # In the first step all candidates are equal, so it is no evidence.
        steps = (seen - 1).clamp_(max=(1 + decay) / (1 - decay))
        scale = (square * (1 - decay**seen)[:, None]).sqrt_().clamp_(min=torch.finfo(torch.float64).tiny)
        statistic = mean / scale * steps.sqrt_()[:, None]
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
        if self._candidate_count == 1:
            return torch.ones_like(new["last"], dtype=torch.float64)[:, None]
        return new["weights"]

    def _decisions(self, new: Record) -> Sequence[Any]:
        weights = new["weights"]
        wide = any(bundle.dtype is torch.float64 for bundle in cast(list[Bundle], self._bundles))
        return (weights if wide else weights.float()).unbind()

    def _apply(self, blocks: list[Block], choice: Sequence[Any]) -> None:
        group = blocks[0].group
        if self._candidate_count == 1 or not self._have_one_rate(group) or group["nesterov"]:
            super()._apply(blocks, choice)
            return
        # p <- p - lr B^T w in one pass over memory
        rate = group["lr"]
        for block in blocks:
            params = self._params([block])
            for i, param, rows, weights in zip(
                range(block.first, block.last), params, self._parts(block), self._choice_of(block, choice), strict=True
            ):
                vectors, weights = block.bundle.vectors, weights.to(rows.device, rows.dtype)
                flat = vectors.flat(i, param)
                if isinstance(rate, Tensor) or torch.compiler.is_compiling():
                    flat.addmv_(rows.t(), weights * -rate)
                else:
                    flat.addmv_(rows.t(), weights, alpha=-rate)
                if not vectors.is_view(i, param):
                    param.copy_(vectors.shaped(i, flat))

    def _parts(self, block: Block) -> Sequence[Tensor]:
        """The buffers of each parameter of a block, (candidates, n of the parameter)."""
        return block.bundle.parts[self.buffers][block.first : block.last]

    def _moments(self, block: Block, choice: Sequence[Any]) -> list[Tensor]:
        if self._candidate_count == 1:
            return super()._moments(block, choice)
        parts, device = self._parts(block), block.grad.device
        weights = [weight.to(device) for weight in choice]
        if not self._have_one_rate(block.group):
            gains = vector(self._gains(block), device) * block.group["lr"]
            weights = [weight * gains for weight in weights]
        moments = [weighted_sum(rows, weight) for rows, weight in zip(parts, weights, strict=True)]
        shaped = block.bundle.vectors.shaped
        if not block.group.get("nesterov"):
            return [shaped(i, moment) for i, moment in enumerate(moments, block.first)]
        decays = vector(momenta(block.group), device)
        looked_ahead = [weighted_sum(rows, weight * decays) for rows, weight in zip(parts, weights, strict=True)]
        moments = [shaped(i, moment) for i, moment in enumerate(looked_ahead, block.first)]
        gradients = views_of(block, self._gradient(block))
        for moment, gradient, weight in zip(moments, gradients, weights, strict=True):
            moment.add_((gradient * weight.sum()).to(moment.dtype))
        return moments

    def _rates_of(self, block: Block, choice: Sequence[Any]) -> list[Number]:
        if self._candidate_count == 1:
            return super()._rates_of(block, choice)
        # If the candidates have rates of their own, `_moments` has put them into the weights.
        return [block.group["lr"] if self._have_one_rate(block.group) else 1.0] * len(choice)


def bounded(gain: Tensor, past: Record, decay: float) -> Tensor:
    """Clamp the gains (rows, gains) to `TOLERATED` root mean squares; a gain of overflowed scores becomes 0."""
    seen = past["seen"][:, None]
    most = TOLERATED * (past["mean_square"] / (1 - decay**seen)).sqrt_()
    most = most.masked_fill_((seen < SETTLED) | (most == 0), math.inf)
    return gain.clamp(-most, most).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum (n,) of rows (k, n) with weights (k,)."""
    if rows.dtype.itemsize >= 4:
        return torch.mv(rows.t(), weights.to(rows.dtype))
    return (rows * weights[:, None]).sum(0).to(rows.dtype)


class AlignedMeanSGD(AlignedMean, SwitchingSGD):
    r"""SGD that steps with a mean of candidate momenta, weighted by evidence of alignment.

    Every candidate :math:`m_j`, in ascending order, keeps its buffer :math:`b_j \leftarrow m_j b_j + g`. The gain
    :math:`d_j = \langle g, b_{j+1} - b_j\rangle` measures how much faster the loss falls along the next candidate's
    step; the gradient's alignment with itself cancels in it. The statistic :math:`t_j` is the mean of :math:`d_j` over
    its root mean square, both exponential averages, times the root of their effective number of steps. Without any
    true gain it is about standard normal. The step is :math:`-\eta \sum_j w_j b_j`, where the weights sum to 1 and
    have the odds :math:`w_{j+1} / w_j = \Phi(t_j) / \Phi(-t_j)`; :math:`\Phi` is the normal distribution function.

    Without evidence, when all :math:`t_j` are 0, this is the plain mean of the candidates, `controls.MeanSGD`.
    Gradients that keep their direction lead to the largest momentum, gradients that oppose the buffers to the smallest.
    Alignment does not always explain its results: on a perceptron, random switching with the same shares and the plain
    mean both do better.

    A gain is clamped to 1000 times its root mean square from the sixth step on, and a gain that overflowed counts as
    0, so that one enormous gradient is soon forgotten. In `selection`, `counts` are sums of weights, and `last` is the
    candidate of the largest weight.

    Args:
        params, lr, momentum: as in `gap.GapSGD`; candidates in ascending order.
        select: ``"global"`` (one set of weights for all parameters) or ``"per_parameter"``.
        decay: decay of the averages, in [0, 1); their effective number of steps is (1 + decay) / (1 - decay).
        **settings: as in `gap.GapSGD`.

    Shape: as `gap.GapSGD`.
    Raises: as `gap.GapSGD`, and ValueError for candidates that are not in ascending order.
    Source: chosen, including the clamp. The buffers are those of arXiv 2512.06370, and their mean is that of arXiv
        1804.00325.
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

    def _checked(self, group: Group) -> Group:
        listed = momenta(group)
        require(list(listed) == sorted(listed), "momentum", listed, "in ascending order")
        return super()._checked(group)


class AlignedMeanAdam(AlignedMean, SwitchingAdam):
    r"""Adam that steps with a mean of candidate beta1, weighted by evidence of alignment.

    The rule is that of `AlignedMeanSGD` with :math:`d_j = \langle g, P (\hat m_{j+1} - \hat m_j)\rangle`, where the
    first moments are bias-corrected and P is Adam's preconditioner. The gradient's alignment with itself does not
    cancel here: averages with a shorter memory give the newest gradient more weight, and that is part of their step.

    Args:
        params, lr, betas: as in `gap.GapAdam`; candidates in ascending order of beta1.
        select, decay: as in `AlignedMeanSGD`.
        **settings: as in `gap.GapAdam`.

    Shape: as `gap.GapAdam`.
    Raises: as `gap.GapAdam`, and ValueError for candidates that are not in ascending order.
    Source: chosen, as `AlignedMeanSGD`.
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

    def _checked(self, group: Group) -> Group:
        listed = pairs(group)
        require(list(listed) == sorted(listed), "betas", listed, "in ascending order of beta1")
        return super()._checked(group)


class AlignedMeanAdamW(AlignedMeanAdam):
    """`AlignedMeanAdam` with decoupled weight decay, 0.01 by default."""

    couples_weight_decay = False
    default_weight_decay = 0.01
