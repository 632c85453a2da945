r"""State features of coordinates, computed step by step with bounded memory.

Guiding policies act on these states, in meta-training only. The inputs of the recurrent policy are defined in
`optrepro.optimizers.predicted_step`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from optrepro.metalearning.lto.settings import StateKind

STRIDE, RECENT = 5, 3  # steps between the averages that features compare; steps in an average
COMPACT_LAGS, MEMORY = 4, 0.9  # number of gradient averages in the compact state; decay of its exponential average


class Averages:
    """Means over the last three steps, at lags of 0, 5, ..., 5 * (lags - 1) steps.

    A ring buffer holds the means of the last 5 (lags - 1) + 1 steps.
    """

    def __init__(self, lags: int):
        self.lags, self.steps = lags, 0
        self._recent: list[Tensor] = []
        self._ring: Tensor | None = None

    def add(self, value: Tensor) -> None:
        """Add the next value; all values have the same shape."""
        size = STRIDE * (self.lags - 1) + 1
        self._recent = [*self._recent[-(RECENT - 1) :], value]
        if self._ring is None:
            self._ring = value.new_zeros(size, *value.shape)
        self._ring[self.steps % size] = torch.stack(self._recent).mean(0)
        self.steps += 1

    def at(self, lags: Tensor) -> Tensor:
        """Return the averages `lags` strides ago, (len(lags), ...); they are 0 before the first step."""
        assert self._ring is not None
        times = self.steps - 1 - STRIDE * lags
        picked = self._ring[(times % len(self._ring)).to(self._ring.device)]
        return picked * _column(times >= 0, picked)


class Phi:
    r"""The state features :math:`\Phi_t`: 25 changes of the objective, 26 gradients and 25 ratios of step lengths.

    Bars denote averages over the last three steps. The features are, in this order:

    .. math::
        (\bar f_{t-5i} - \bar f_{t-5(i+1)}) / \bar f_{t-5(i+1)}, \quad i = 0..24 \\
        \bar g_{t-5i} / (|\bar g_{\max(t-5(i+1),\, t \bmod 5)}| + 1), \quad i = 0..25 \\
        |\bar x_{\max(t-5(i+1),\, t \bmod 5 + 5)} - \bar x_{\max(t-5(i+2),\, t \bmod 5)}| /
        (|\bar x_{t-5i} - \bar x_{t-5(i+1)}| + 0.1), \quad i = 0..24

    A feature with a negative time index is 0. The memory holds 131 averages of iterates and gradients.

    Source: arXiv 1703.00441, section 4.
    """

    COUNT, SIZE = 25, 76

    def __init__(self) -> None:
        lags = self.COUNT + 2
        self.values, self.gradients, self.iterates = Averages(lags), Averages(lags), Averages(lags)

    def observe(self, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Return features (76, R, P), given the next iterates x (R, P), their values (R,) and gradients (R, P)."""
        for averages, new in ((self.values, value), (self.gradients, gradient), (self.iterates, x)):
            averages.add(new)
        last = (self.values.steps - 1) // STRIDE  # lag of the first average with the same remainder, t mod 5
        i = torch.arange(self.COUNT + 1)
        f, before = self.values.at(i[:-1]), self.values.at(i[:-1] + 1)
        change = torch.where(_column(i[:-1] + 1 <= last, f), (f - before) / before, 0)
        g, earlier = self.gradients.at(i), self.gradients.at((i + 1).clamp_max(last))
        size = g / (earlier.abs() + 1)
        i = i[:-1]
        # Ratios are only defined if last >= 1, and then no lag is negative.
        second, third = (i + 1).clamp_max(max(last - 1, 0)), (i + 2).clamp_max(last)
        moved = (self.iterates.at(second) - self.iterates.at(third)).abs()
        latest = (self.iterates.at(i) - self.iterates.at(i + 1)).abs()
        ratio = torch.where(_column(i + 1 <= last, moved), moved / (latest + 0.1), 0)
        return torch.cat([change[..., None].expand(-1, *x.shape), size, ratio])


class Compact:
    """A small state (chosen), with which a linear policy can act like plain, momentum or AdaGrad descent.

    The features are gradient averages at lags of 0, 5, 10 and 15 steps; the last step; the gradient and its exponential
    average, both divided by the root of the sum of squared gradients; and the relative change of the averaged objective
    over 5 steps. Undefined features are 0.
    """

    SIZE = COMPACT_LAGS + 4

    def __init__(self) -> None:
        self.values, self.gradients = Averages(2), Averages(COMPACT_LAGS)
        self.x: Tensor | None = None
        self.squares: Tensor | None = None
        self.mean: Tensor | None = None

    def observe(self, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        """Return features (8, R, P), given the next iterates x (R, P), their values (R,) and gradients (R, P)."""
        self.values.add(value)
        self.gradients.add(gradient)
        step = torch.zeros_like(x) if self.x is None else x - self.x
        self.x = x
        self.squares = gradient.square() if self.squares is None else self.squares + gradient.square()
        now, before = self.values.at(torch.arange(2))
        change = torch.where(before == 0, 0, (now - before) / before)[:, None].expand_as(x)
        self.mean = torch.lerp(torch.zeros_like(x) if self.mean is None else self.mean, gradient, 1 - MEMORY)
        normalized = torch.stack([gradient, self.mean]) / (self.squares.sqrt() + 1e-12)
        averages = self.gradients.at(torch.arange(COMPACT_LAGS))
        return torch.cat([averages, step[None], normalized, change[None]])


def state_features(kind: StateKind) -> Phi | Compact:
    """Return a new stream of state features; `kind` is ``phi`` or ``compact``."""
    if kind not in ("phi", "compact"):
        raise ValueError(f"state = {kind!r} is not allowed; it must be 'phi' or 'compact'")
    return Phi() if kind == "phi" else Compact()


def _column(mask: Tensor, like: Tensor) -> Tensor:
    """Reshape a mask of the first dimension so that it broadcasts over the others."""
    return mask.view(-1, *[1] * (like.dim() - 1)).to(like.device)
