"""Candidate filters: reading and checking the settings `momentum` and `betas`, and the norm of each filter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from optrepro.optimizers._base import Group, require


class Candidate(NamedTuple):
    """A filter of the gradients with the output new * gradient + old * previous buffer.

    Attributes:
        new: weight of the newest gradient.
        old: weight of the previous buffer.
        norm: Euclidean norm of the impulse response in the steady state.
    """

    new: float
    old: float
    norm: float


def with_norm(decay: float, fresh: float, new: float, old: float) -> Candidate:
    """The candidate for the buffer h <- decay * h + fresh * gradient, whose taps are fresh * decay^k."""
    return Candidate(new, old, math.hypot(new, old * fresh / math.sqrt(1 - decay**2)))


def momenta(group: Group) -> tuple[float, ...]:
    """The setting `momentum`, one number or several, as a tuple."""
    momentum = group["momentum"]
    if isinstance(momentum, tuple):
        return momentum
    return tuple(momentum) if isinstance(momentum, Sequence) else (momentum,)


def pairs(group: Group) -> tuple[tuple[float, float], ...]:
    """The setting `betas`, one pair or several, as a tuple of pairs."""
    betas = group["betas"]
    if isinstance(betas, tuple) and betas and isinstance(betas[0], tuple):
        return betas
    return (tuple(betas),) if betas and not isinstance(betas[0], Sequence) else tuple(map(tuple, betas))


def check_momentum(group: Group) -> None:
    """Raise a ValueError unless every momentum lies in [0, 1)."""
    for i, value in enumerate(momenta(group)):
        require(0 <= value < 1, f"momentum[{i}]", value, "in [0, 1)")


def check_betas(group: Group) -> None:
    """Raise a ValueError unless every beta lies in [0, 1) and all pairs have the same beta2."""
    betas = cast(tuple[Any, ...], pairs(group))
    for i, pair in enumerate(betas):
        require(isinstance(pair, Sequence) and len(pair) == 2, f"betas[{i}]", pair, "a pair (beta1, beta2)")
        for j, beta in enumerate(pair):
            require(0 <= beta < 1, f"betas[{i}][{j}]", beta, "in [0, 1)")
        common = f"equal to betas[0][1] = {betas[0][1]}: the candidates share one second moment"
        require(pair[1] == betas[0][1], f"betas[{i}][1] (beta2)", pair[1], common)


def refuse_cycled(group: Group, family: str, count: int) -> None:
    """Raise a ValueError if a scheduler has overwritten a list of candidates with a single value.

    `OneCycleLR` and `CyclicLR` do so by default. A single candidate may be cycled, as in torch's optimizers.
    """
    value = group[family]
    is_whole = isinstance(value, Sequence) and len(value) == count
    if family == "betas" and is_whole:
        is_whole = all(isinstance(pair, Sequence) for pair in value)
    if count > 1 and not is_whole:
        raise ValueError(
            f"{family} = {value!r} is not allowed: there are {count} candidates, and a scheduler or a script has "
            f"overwritten them; pass cycle_momentum=False to OneCycleLR or CyclicLR"
        )
