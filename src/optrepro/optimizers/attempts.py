"""Three attempts at one rule that is as good as the best fixed momentum everywhere, and ahead of mixing at random.

None of them is among the optimizers of the package: one ships when it wins on workloads that it was not made on, which
the exhibit gap-rules decides. They step with a weighted mean of the candidates' buffers, as `aligned_mean` does, and
differ in where the weights come from. Each judges the buffers by the gradient of a batch that is in none of them yet:
all of that batch is held out for them until the step, so that no example is lost to training.

What is tuned has no default: config/gap holds what was tried, and what is judged.

They know plain SGD on one rank: no dampening, Nesterov, `lr_modulation` or sums over ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import Group, require
from optrepro.optimizers._candidates import momenta
from optrepro.optimizers._switching import Block, Record, Rule, SwitchingOptimizer, SwitchingSGD, vector
from optrepro.optimizers.aligned_mean import AlignedMean, EvidenceRule
from optrepro.optimizers.gap import AlignmentRule, GreedyAlignment, dot, inner_products, summed_by_row, together, zero

LEAST, MOST = 3.0, 99.0  # ends of the window of `NoiseWindowSGD`, in effective steps; a decay of 0.5 and of 0.98
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class RegretRule(EvidenceRule):
    """Settings of the weights by regret, see `RegretSGD`; `decay` is that of the sums of regret."""

    horizon: float = 1.0
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.horizon >= 1, "horizon", self.horizon, "at least 1")
        require(self.eta > 0, "eta", self.eta, "above 0")


@dataclass(frozen=True)
class NoiseRule(AlignmentRule, EvidenceRule):
    """Settings of the window, see `NoiseWindowSGD`; `decay` is that of the averages that measure the noise."""

    score: str = "debiased"
    self_term: str = "halves"
    decay: float = 0.9
    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.factor > 0, "factor", self.factor, "above 0")


@dataclass(frozen=True)
class MemoryRule(EvidenceRule):
    """Settings of the choice by the drop over a memory, see `OwnMemorySGD`."""

    judge: str = "next"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.judge in ("next", "same"), "judge", self.judge, '"next" or "same"')


class Attempt(AlignedMean):
    """Rule that weights the candidates' steps by measurements of its own, and keeps numbers of its own beside them."""

    kept: ClassVar[tuple[str, ...]]  # what the record holds for each candidate, beside the weights
    once: ClassVar[tuple[str, ...]] = ()  # and once for all of them

    def _measure(self, block: Block, gradient: Tensor, part: slice) -> Tensor:
        """Measurements on a part of the block, before its buffers are updated; they are summed over the parts of a row.

        Returns: one number for each column of `_measured`, in float32 at least.
        """
        raise NotImplementedError

    def _checked(self, group: Group) -> Group:
        listed = momenta(group)
        require(list(listed) == sorted(listed), "momentum", listed, "in ascending order")
        return super()._checked(group)

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        each = {name: zeros(rows, self._candidate_count) for name in ("counts", "weights", *self.kept)}
        return SwitchingOptimizer._fresh_record(self, rows, device) | each | {name: zeros(rows) for name in self.once}

    def _align(self, block: Block, gradient: Tensor) -> None:
        if self._candidate_count > 1:
            for row, part in _parts(block, self.rule):
                block.found.append((row, zero(gradient.device), self._measure(block, gradient, part)))

    def _measured(self, blocks: list[Block], rows: list[int], device: torch.device) -> Tensor:
        """The measurements of this step, summed for each row, (rows, columns) in float64; overflown ones are 0."""
        found = [measured for block in blocks for measured in block.found]
        values = together([value for _, _, value in found], device)
        return summed_by_row(values, [row for row, _, _ in found], rows).nan_to_num(0.0, 0.0, 0.0)


class RegretSGD(Attempt, SwitchingSGD):
    r"""SGD that weights candidate momenta exponentially by the regret of not having taken them alone.

    Every candidate :math:`m_j` keeps its buffer :math:`b_j \leftarrow m_j b_j + g`, and its lead
    :math:`e_j \leftarrow (1 - 1/h)\,e_j + b_j - \sum_i w_i b_i`: how much farther it would have gone by itself, in
    units of the learning rate, over a horizon of about h steps. The gradient g of the next batch, which is in none of
    the leads, then says what that would have been worth there: :math:`r_j = \langle g, e_j\rangle` is the regret, to
    first order; for a convex loss it is an upper bound. The weights are those of exponential weights with a learning
    rate for each expert, :math:`w_j \propto \exp(\eta R_j / \sqrt{V_j})`, where :math:`R_j` and :math:`V_j` are sums of
    the regrets and of their squares, in which the past fades.

    Without regret, as in the first step, this is the plain mean of the candidates, `controls.MeanSGD`. Gradients that
    turn at each step lead to the largest momentum, whose steps are then the shortest.

    Args:
        params, lr: as in `gap.GapSGD`.
        momentum: candidates in [0, 1), in ascending order. A single one gives `torch.optim.SGD`.
        select: ``"global"`` (one set of weights for all parameters) or ``"per_parameter"``.
        horizon: number of steps h that the leads go back, at least 1; 1 is the last step alone.
        eta: sharpness of the weights, above 0.
        decay: by how much the sums of regret fade in a step, in [0, 1).
        weight_decay: coupled, as in `torch.optim.SGD`.

    Shape: parameters of any shape and floating dtype; the state is a buffer and a lead per candidate, shaped like the
        parameter.
    Raises: ValueError for a setting outside its range; RuntimeError for sparse gradients.
    Source: chosen, after the exponential weights of arXiv 1402.2044, whose rates are those of each expert.
    """

    rule: RegretRule
    kept = ("regret", "square")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.5, 0.9, 0.99),
        select: str = "per_parameter",
        *,
        horizon: float,
        eta: float,
        decay: float,
        weight_decay: float = 0.0,
    ) -> None:
        rule = RegretRule(select, decay=decay, horizon=horizon, eta=eta)
        super().__init__(params, lr, momentum, rule, weight_decay=weight_decay, process_group=None)

    def _state_rows(self, group: Group) -> dict[str, int]:
        leads = {"lead": self._candidate_count} if self._candidate_count > 1 else {}
        return super()._state_rows(group) | leads

    def _measure(self, block: Block, gradient: Tensor, part: slice) -> Tensor:
        return inner_products(block.state["lead"][:, part], gradient[part])

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        regret = self._measured(blocks, rows, past["last"].device)
        summed = self.rule.decay * past["regret"] + regret
        square = self.rule.decay * past["square"] + regret.square()
        weights = (self.rule.eta * summed / square.clamp(min=TINY).sqrt()).softmax(-1)
        return {"last": weights.argmax(-1), "weights": weights, "regret": summed, "square": square}

    def _apply(self, blocks: list[Block], choice: Sequence[Any]) -> None:
        super()._apply(blocks, choice)
        if self._candidate_count == 1:
            return
        for block in blocks:
            leads = block.bundle.parts["lead"][block.first : block.last]
            for lead, rows, weights in zip(leads, self._parts(block), self._choice_of(block, choice), strict=True):
                step = weights.to(rows.device, rows.dtype) @ rows
                lead.mul_(1 - 1 / self.rule.horizon).add_(rows).sub_(step)


class NoiseWindowSGD(Attempt, GreedyAlignment, SwitchingSGD):
    r"""The aligned mean whose evidence is averaged over a window that grows with the noise of the gradient.

    Gains :math:`d_j`, statistics :math:`t_j` and weights are those of `aligned_mean.AlignedMeanSGD`. There the averages
    have a fixed decay. Here their effective number of steps is a multiple of the noise scale, counted in batches:
    :math:`N = c\,(\lVert g\rVert^2 - s) / s`, where :math:`s = \langle g_a, g_b\rangle` for the halves of the batch is
    free of noise, and both are averaged over the last steps. So many batches have to be averaged until the noise of
    their mean gradient is as large as the gradient. N is kept between `LEAST` and `MOST`, and is `MOST` where s is not
    above 0.

    Args:
        params, lr, momentum, weight_decay: as in `RegretSGD`.
        select: as in `RegretSGD`; each tensor with weights of its own has a window of its own.
        factor: the multiple c, above 0.
        decay: decay of the averages that measure the noise, in [0, 1).

    `step` takes the gradient of one half of the batch as ``half_grads``, as in `gap.GapSGD`.

    Shape, Raises: as `RegretSGD`; the state is one buffer per candidate. Also ValueError for missing ``half_grads``.
    Source: chosen; the noise scale is that of arXiv 1812.06162.
    """

    rule: NoiseRule
    kept = ("gain", "square")  # in the last column nothing: there is one gain less than candidates
    once = ("mass", "seen", "signal", "power")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.5, 0.9, 0.99),
        select: str = "per_parameter",
        *,
        factor: float,
        decay: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        rule = NoiseRule(select, factor=factor, decay=decay)
        SwitchingSGD.__init__(self, params, lr, momentum, rule, weight_decay=weight_decay, process_group=None)

    def _measure(self, block: Block, gradient: Tensor, part: slice) -> Tensor:
        own, half = gradient[part], cast(Tensor, block.probe)[part]
        drops = inner_products(block.state[self.buffers][:, part], own)
        return torch.cat([drops, torch.stack([dot(half, 2 * own - half), dot(own, own)])])

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        measured = self._measured(blocks, rows, past["last"].device)
        drops, signal, power = measured[:, :-2], measured[:, -2], measured[:, -1]
        signal, power = self.rule.decay * past["signal"] + signal, self.rule.decay * past["power"] + power
        window = self._window(signal, power)
        decay, seen = (window - 1) / (window + 1), past["seen"] + 1
        # the drop that each buffer after its update predicts, less |g|^2, which they share
        gain = pad((drops * vector(momenta(blocks[0].group), drops.device)).diff(dim=-1), (0, 1))
        gains = decay[:, None] * past["gain"] + gain
        squares = decay[:, None] * past["square"] + gain.square()
        mass = decay * past["mass"] + 1
        steps = torch.minimum(seen - 1, window)  # in the first step all candidates are equal, so it is no evidence
        statistic = gains / (squares * mass[:, None]).clamp(min=TINY).sqrt() * steps.sqrt()[:, None]
        log_odds = (torch.special.log_ndtr(statistic) - torch.special.log_ndtr(-statistic))[:, :-1]
        weights = pad(log_odds.cumsum(-1), (1, 0)).softmax(-1)
        noise = {"mass": mass, "seen": seen, "signal": signal, "power": power}
        return {"last": weights.argmax(-1), "weights": weights, "gain": gains, "square": squares, **noise}

    def _window(self, signal: Tensor, power: Tensor) -> Tensor:
        """The effective number of steps, (rows,), from |g|^2 without noise and with it, (rows,) each."""
        scale = self.rule.factor * (power - signal) / signal.clamp(min=TINY)
        return torch.where(signal > 0, scale, MOST).clamp(LEAST, MOST)


class OwnMemorySGD(Attempt, SwitchingSGD):
    r"""SGD with the momentum whose steps have lowered the loss most, each judged over its own memory.

    Every candidate :math:`m` keeps its buffer :math:`b_m \leftarrow m\,b_m + g`, and the mean :math:`D_m` of the drops
    :math:`\langle g_k, b_{m,k-1}\rangle` of its last steps, which the gradient of the next batch measures. The mean has
    the weights :math:`m^0, m^1, ...` of the buffer itself, and so goes back :math:`1/(1 - m)` steps. The step is taken
    with the candidate of the largest mean.

    Args:
        params, lr, momentum, select, weight_decay: as in `RegretSGD`.
        judge: the batch whose gradient measures the drop of a step: the ``"next"`` one, or the ``"same"`` one. The
            latter is the drop that the raw score of `gap.GapSGD` predicts, :math:`\langle g_k, b_{m,k}\rangle`, less
            :math:`\lVert g_k\rVert^2`, which all candidates share.

    Shape, Raises: as `RegretSGD`; the state is one buffer per candidate.
    Source: chosen.
    """

    rule: MemoryRule
    kept = ("drop", "mass")
    once = ("seen",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.5, 0.9, 0.99),
        select: str = "per_parameter",
        *,
        judge: str,
        weight_decay: float = 0.0,
    ) -> None:
        rule = MemoryRule(select, judge=judge)
        super().__init__(params, lr, momentum, rule, weight_decay=weight_decay, process_group=None)

    def _measure(self, block: Block, gradient: Tensor, part: slice) -> Tensor:
        return inner_products(block.state[self.buffers][:, part], gradient[part])

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        device = past["last"].device
        decays = vector(momenta(blocks[0].group), device)
        differ = (past["seen"] > 1)[:, None]  # after the first step all buffers are equal, so it is no evidence
        measured = self._measured(blocks, rows, device) * (1 if self.rule.judge == "next" else decays)
        drop, mass = decays * past["drop"] + differ * measured, decays * past["mass"] + differ
        best = (drop / mass.clamp(min=1)).argmax(-1)
        weights = one_hot(best, self._candidate_count).double()
        return {"last": best, "weights": weights, "drop": drop, "mass": mass, "seen": past["seen"] + 1}


def _parts(block: Block, rule: Rule) -> Iterator[tuple[int, slice]]:
    """The row of the record that each part of the block's vectors belongs to, and the part."""
    if rule.select == "global":
        yield 0, slice(None)
        return
    positions, members = block.bundle.positions, range(block.first, block.last)
    if len(members) == 1:
        yield positions[block.first], slice(None)
        return
    bounds = block.bundle.vectors.bounds
    start = bounds[block.first][0]
    for i in members:
        yield positions[i], slice(bounds[i][0] - start, bounds[i][1] - start)
