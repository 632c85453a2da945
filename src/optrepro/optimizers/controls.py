"""Controls of GAP: the same candidates and buffers, without alignment.

Whoever credits a gain to alignment compares with a random choice of the same shares and with the mean of the buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import Group, require
from optrepro.optimizers._kernels import Number
from optrepro.optimizers._switching import (
    AdamSettings,
    Block,
    Index,
    Record,
    Rule,
    SGDSettings,
    SwitchingAdam,
    SwitchingOptimizer,
    SwitchingSGD,
    vector,
)


@dataclass(frozen=True)
class RandomRule(Rule):
    """Settings of the random choice, see `RandomSGD`."""

    seed: int = 0
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shares is not None:
            fair = min(self.shares, default=0) >= 0 and sum(self.shares) > 0
            require(fair, "shares", self.shares, "at least 0 each and not all 0")


class RandomChoice(SwitchingOptimizer):
    """The rule: draw the candidate of each step, independent of the gradients."""

    rule: RandomRule
    _stream: tuple[torch.Generator, int, int] | None = None  # and how often it has drawn, for how many rows

    def _checked(self, group: Group) -> Group:
        group, shares = super()._checked(group), self.rule.shares
        if shares is not None:
            count = self._candidate_count
            require(len(shares) == count, "shares", shares, f"one for each candidate, {count}")
        return group

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        # The seed and how often was drawn say where the generator is.
        draws = torch.zeros(rows, dtype=torch.int64, device=device)
        return super()._fresh_record(rows, device) | {"draws": draws, "seed": draws + self.rule.seed}

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        record = self._record()
        draws = self._draw(len(record["last"]))
        record["draws"] += 1
        device = past["last"].device
        return {"last": vector([draws[row] for row in rows], device, torch.int64)}

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _draw(self, rows: int) -> list[int]:
        """A candidate for each row."""
        shares = torch.tensor(self.rule.shares or [1.0] * self._candidate_count, dtype=torch.float64)
        if self._stream is None or self._stream[2] != rows:
            record = self._record()
            generator = torch.Generator().manual_seed(int(record["seed"][0]))
            past = int(record["draws"].max())
            for _ in range(past):
                torch.multinomial(shares, rows, replacement=True, generator=generator)
            self._stream = generator, past, rows
        generator, count, _ = self._stream
        self._stream = generator, count + 1, rows
        return cast(list[int], torch.multinomial(shares, rows, replacement=True, generator=generator).tolist())

    def _forget_layout(self) -> None:
        super()._forget_layout()
        self._stream = None


class MeanOfCandidates(SwitchingOptimizer):
    """The rule: no choice, the plain mean of the candidates' steps."""

    def _select(self, blocks: list[Block]) -> Sequence[Index]:
        return [0] * max(1, len(self._all_params()))

    def _moments(self, block: Block, choice: Sequence[Any]) -> list[Tensor]:
        rates, members = self._rates(block), block.last - block.first
        moments = [super(MeanOfCandidates, self)._moments(block, [j] * members) for j in range(self._candidate_count)]
        means = []
        for parts in zip(*moments, strict=True):
            steps: list[Tensor] = [part * rate for part, rate in zip(parts, rates, strict=True)]
            means.append(torch.stack(steps).mean(0).to(parts[0].dtype))
        return means

    def _rates_of(self, block: Block, choice: Sequence[Any]) -> list[Number]:
        return [1.0]  # the candidates' own are part of the mean


class RandomSGD(RandomChoice, SwitchingSGD):
    """SGD that draws its momentum at every step.

    Args:
        params, lr, momentum: as in `GapSGD`.
        select: draw once for all parameters (``"global"``) or for each by itself (``"per_parameter"``).
        seed: of the draws, which are made on the CPU and the same on every device.
        shares: weights of the candidates, at least 0, of any sum; None is uniform.
        **settings: as in `GapSGD`.

    The number of draws is part of the state, so that a run resumed from it continues them.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.5, 0.9, 0.99),
        select: str = "global",
        *,
        seed: int,
        shares: Sequence[float] | None = None,
        **settings: Unpack[SGDSettings],
    ) -> None:
        super().__init__(params, lr, momentum, random_rule(select, seed, shares), **settings)


class RandomAdam(RandomChoice, SwitchingAdam):
    """Adam that draws its beta1 at every step; arguments as in `GapAdam` and `RandomSGD`."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] | Sequence[tuple[float, float]] = ((0.5, 0.999), (0.9, 0.999), (0.99, 0.999)),
        select: str = "global",
        *,
        seed: int,
        shares: Sequence[float] | None = None,
        **settings: Unpack[AdamSettings],
    ) -> None:
        super().__init__(params, lr, betas, random_rule(select, seed, shares), **settings)


class RandomAdamW(RandomAdam):
    """`RandomAdam` with decoupled weight decay, 0.01 by default."""

    couples_weight_decay = False
    default_weight_decay = 0.01


class MeanSGD(MeanOfCandidates, SwitchingSGD):
    """SGD that steps with the mean of the candidates' updates: aggregated momentum (arXiv 1804.00325).

    Nothing is chosen, so `selection` stays at -1 and at counts of 0. Arguments as in `GapSGD`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.5, 0.9, 0.99),
        **settings: Unpack[SGDSettings],
    ) -> None:
        super().__init__(params, lr, momentum, Rule(), **settings)


class MeanAdam(MeanOfCandidates, SwitchingAdam):
    """Adam that steps with the mean of the candidates' bias-corrected updates; arguments as in `GapAdam`."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] | Sequence[tuple[float, float]] = ((0.5, 0.999), (0.9, 0.999), (0.99, 0.999)),
        **settings: Unpack[AdamSettings],
    ) -> None:
        super().__init__(params, lr, betas, Rule(), **settings)


class MeanAdamW(MeanAdam):
    """`MeanAdam` with decoupled weight decay, 0.01 by default."""

    couples_weight_decay = False
    default_weight_decay = 0.01


def random_rule(select: str, seed: int, shares: Sequence[float] | None) -> RandomRule:
    """The rule, with shares in the form in which they compare and pickle."""
    return RandomRule(select, seed, None if shares is None else tuple(shares))
