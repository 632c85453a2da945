"""Controls for GAP: optimizers with the same candidates and buffers that make no use of alignment.

A gain may be credited to alignment only if GAP beats both a random choice with the same shares and the mean of the
candidates' steps.
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
    """Rule that draws the candidate of each step, independently of the gradients."""

    rule: RandomRule
    _stream: tuple[torch.Generator, int, int] | None = None  # generator, number of draws so far, rows per draw

    def _checked(self, group: Group) -> Group:
        group, shares = super()._checked(group), self.rule.shares
        if shares is not None:
            count = self._candidate_count
            require(len(shares) == count, "shares", shares, f"one for each candidate, {count}")
        return group

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        # The seed and the number of draws determine the generator's position.
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
        """Draw a candidate for each row; a new generator first repeats the draws of the earlier steps."""
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
    """Rule that chooses nothing and takes the plain mean of the candidates' steps."""

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
        return [1.0]  # `_moments` has applied the candidates' rates


class RandomSGD(RandomChoice, SwitchingSGD):
    """SGD that draws its momentum at random at every step.

    The number of draws is part of the state, so that a resumed run continues the same sequence.

    Args:
        params, lr, momentum: as in `GapSGD`.
        select: ``"global"`` (one draw for all parameters) or ``"per_parameter"``.
        seed: seed of the draws. They are made on the CPU, and so are the same on every device.
        shares: unnormalized probabilities of the candidates, at least 0; None is uniform.
        **settings: as in `GapSGD`.

    Shape: as `GapSGD`.
    Raises: as `GapSGD`, and ValueError for shares that are negative, all 0 or not one for each candidate.
    Source: chosen.
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
    """Adam that draws its beta1 at random at every step; the arguments are those of `GapAdam` and `RandomSGD`."""

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
    """SGD that steps with the mean of the candidates' updates, known as aggregated momentum.

    Nothing is chosen, so in `selection` `last` stays at -1 and `counts` at 0.

    Args:
        params, lr, momentum, **settings: as in `GapSGD`.

    Shape: as `GapSGD`.
    Raises: as `GapSGD`.
    Source: arXiv 1804.00325.
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
    """Adam that steps with the mean of the candidates' bias-corrected updates; the arguments are those of `GapAdam`."""

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
    """The rule with its shares as a tuple, so that rules can be compared and pickled."""
    return RandomRule(select, seed, None if shares is None else tuple(shares))
