r"""The gradient autocorrelation :math:`R_k = E\langle g_n, g_{n-k}\rangle`, and the score of a momentum against it.

A filter :math:`u_n = \sum_k q_k g_{n-k}` lowers the loss at the expected rate :math:`\sum_k q_k R_k`; the greedy rule
takes, among filters of equal norm, the one with the largest inner product. All of it assumes that gradients are
wide-sense stationary over the window of the estimate.

Source: arXiv 2512.06370 (principle); the estimators are the standard ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize


def windowed(gradients: Tensor, lags: int) -> Tensor:
    """The unbiased estimate of R_0 ... R_lags from a window of gradients, (..., n, d) -> (..., lags + 1).

    The n - k products of lag k are divided by n - k, not by n: large lags do not shrink, at the price of variance.

    Raises: ValueError unless 0 <= lags < n.
    """
    count = gradients.shape[-2]
    if not 0 <= lags < count:
        raise ValueError(f"lags = {lags} is not in [0, {count}); a window of n gradients has n - 1 lags")
    products = [
        torch.einsum("...nd,...nd->...", gradients[..., k:, :], gradients[..., : count - k, :]) for k in range(lags + 1)
    ]
    divisors = torch.arange(count, count - lags - 1, -1, device=gradients.device)
    return torch.stack(products, dim=-1) / divisors


class StreamingAutocorrelation:
    """The autocorrelation of a stream of gradients, as an exponential average per lag.

    Memory is the last `lags` + 1 gradients; a step costs one matrix-vector product and never waits for the device.

    Args:
        lags: the largest lag, at least 0.
        decay: weight of the past, in (0, 1]. 1 weighs every product alike, which is `windowed` over the whole stream.

    Raises: ValueError for arguments out of range, and from `update` for a gradient of another shape than the first.
    """

    def __init__(self, lags: int, decay: float) -> None:
        if lags < 0:
            raise ValueError(f"lags = {lags} is negative")
        if not 0 < decay <= 1:
            raise ValueError(f"decay = {decay} is not in (0, 1]")
        self.lags = lags
        self.decay = decay
        self._count = 0
        self._ring: Tensor | None = None
        self._sums: Tensor | None = None
        self._weights = [0.0] * (lags + 1)

    def update(self, gradient: Tensor) -> Tensor:
        """Takes the next gradient, (..., d); returns its products with itself and the past ones, (..., lags + 1).

        A product that reaches back before the first gradient is 0.
        """
        if self._ring is None or self._sums is None:
            self._ring = gradient.new_zeros((self.lags + 1, *gradient.shape))
            self._sums = gradient.new_zeros((*gradient.shape[:-1], self.lags + 1))
        if gradient.shape != self._ring.shape[1:]:
            raise ValueError(f"gradient has the shape {tuple(gradient.shape)}; before: {tuple(self._ring.shape[1:])}")
        slot = self._count % (self.lags + 1)
        self._ring[slot] = gradient
        by_slot = torch.einsum("...d,k...d->...k", gradient, self._ring)
        # the gradient of k steps ago lies k slots back, round the ring
        products = by_slot.flip(-1).roll(slot + 1, -1)
        self._sums = self.decay * self._sums + products
        self._weights = [self.decay * w + (self._count >= k) for k, w in enumerate(self._weights)]
        self._count += 1
        return products

    def value(self) -> Tensor:
        """The estimate of R_0 ... R_lags, (..., lags + 1); NaN at lags that the stream has not reached.

        Raises: ValueError before the first gradient.
        """
        if self._sums is None:
            raise ValueError("there is no autocorrelation before the first gradient")
        weights = torch.tensor(self._weights, dtype=self._sums.dtype, device=self._sums.device)
        return self._sums / weights


def momentum_filter(momentum: float, lags: int) -> Tensor:
    """The filter of heavy-ball momentum cut after `lags`, (lags + 1,) in float64: momentum^k, scaled to unit norm.

    Raises: ValueError for a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum} is not in [0, 1)")
    powers = momentum ** torch.arange(lags + 1, dtype=torch.float64)
    return normalize(powers, dim=0)


def scores(autocorrelation: Tensor, candidates: Sequence[float]) -> Tensor:
    """The inner product of every candidate's unit-norm filter with R_0 ... R_K, (..., K + 1) -> (..., candidates).

    Raises: ValueError for a candidate outside [0, 1).
    """
    filters = torch.stack([momentum_filter(momentum, autocorrelation.shape[-1] - 1) for momentum in candidates])
    return torch.einsum("...k,jk->...j", autocorrelation, filters.to(autocorrelation))
