"""Controls of GAP: the same candidates and buffers, without alignment.

Whoever credits a gain to alignment compares with a random choice of the same shares and with the mean of the buffers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

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
    require,
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

    def _checked(self, group: dict[str, Any]) -> dict[str, Any]:
        group, shares = super()._checked(group), self.rule.shares
        if shares is not None:
            count = len(group[self.family])
            require(len(shares) == count, "shares", shares, f"one for each candidate, {count}")
        return group

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        draws = self._draw(len(self._record()["last"]))
        return {"last": vector([draws[row] for row in rows], past["last"].device, torch.int64)}

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _draw(self, count: int) -> list[int]:
        """Candidates drawn from the generator, whose state is kept with the optimizer's."""
        generator, state = torch.Generator(), self.state["generator"]  # type: ignore[index]
        if state:
            generator.set_state(state["state"].cpu())
        else:
            generator.manual_seed(self.rule.seed)
        shares = torch.tensor(self.rule.shares or [1.0] * self._candidate_count, dtype=torch.float64)
        draws = torch.multinomial(shares, count, replacement=True, generator=generator)
        state["state"] = generator.get_state()
        return cast(list[int], draws.tolist())


class MeanOfCandidates(SwitchingOptimizer):
    """The rule: no choice, the plain mean of the candidates' steps."""

    def _select(self, blocks: list[Block]) -> dict[int, Index]:
        return dict.fromkeys((block.row for block in blocks), 0)

    def _apply(self, block: Block, index: Index) -> None:
        steps: list[Tensor] = [self._moment(block, j) * rate for j, rate in enumerate(self._rates(block))]
        self._descend(block, torch.stack(steps).mean(0), 1.0)


class RandomSGD(RandomChoice, SwitchingSGD):
    """SGD that draws its momentum at every step.

    Args:
        params, lr, momentum: as in `GapSGD`.
        select: draw once for all parameters (``"global"``) or for each by itself (``"per_parameter"``).
        seed: of the draws, which are made on the CPU and the same on every device.
        shares: weights of the candidates, at least 0, of any sum; None is uniform.
        **settings: as in `GapSGD`.

    The generator is part of the state, so that a run resumed from it continues the draws.
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
