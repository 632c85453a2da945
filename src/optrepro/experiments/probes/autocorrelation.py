r"""The gradient autocorrelation :math:`R_k = E\langle g_n, g_{n-k}\rangle`, and scores of momenta computed from it.

A filter :math:`u_n = \sum_k q_k g_{n-k}` lowers the loss at the expected rate :math:`\sum_k q_k R_k`; among filters of
equal norm, the greedy rule takes the one with the largest rate. This assumes that gradients are wide-sense stationary
over the window of the estimate.

Source: arXiv 2512.06370 (principle); the estimators are the standard ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize


def windowed(gradients: Tensor, lags: int) -> Tensor:
    """Return the unbiased estimate of R_0 ... R_lags from a window of gradients, (..., n, d) -> (..., lags + 1).

    The n - k products of lag k are divided by n - k instead of n, which avoids bias at large lags but adds variance.

    Raises: ValueError unless 0 <= lags < n.
    """
    count = gradients.shape[-2]
    if not 0 <= lags < count:
        raise ValueError(f"lags = {lags} is not in [0, {count}); n gradients have lags up to n - 1")
    products = [
        torch.einsum("...nd,...nd->...", gradients[..., k:, :], gradients[..., : count - k, :]) for k in range(lags + 1)
    ]
    divisors = torch.arange(count, count - lags - 1, -1, device=gradients.device)
    return torch.stack(products, dim=-1) / divisors


class StreamingAutocorrelation:
    """The autocorrelation of a stream of gradients, as an exponential average per lag.

    It stores the last `lags` + 1 gradients. An update is one matrix-vector product and does not wait for the device.

    Args:
        lags: largest lag, at least 0.
        decay: weight of the past, in (0, 1]. With 1 all products count equally, as in `windowed` over the stream.

    Raises: ValueError for arguments out of range; `update` raises it for a gradient of another shape than the first.
    """

    def __init__(self, lags: int, decay: float) -> None:
        if lags < 0:
            raise ValueError(f"lags = {lags} is negative; it must be at least 0")
        if not 0 < decay <= 1:
            raise ValueError(f"decay = {decay} is not in (0, 1]")
        self.lags = lags
        self.decay = decay
        self._count = 0
        self._ring: Tensor | None = None
        self._sums: Tensor | None = None
        self._weights = [0.0] * (lags + 1)

    def update(self, gradient: Tensor) -> Tensor:
        """Add the next gradient (..., d), and return its products with itself and the past ones, (..., lags + 1).

        Products with gradients before the first one are 0.
        """
        if self._ring is None or self._sums is None:
            self._ring = gradient.new_zeros((self.lags + 1, *gradient.shape))
            self._sums = gradient.new_zeros((*gradient.shape[:-1], self.lags + 1))
        if gradient.shape != self._ring.shape[1:]:
            shape = tuple(self._ring.shape[1:])
            raise ValueError(f"gradient has the shape {tuple(gradient.shape)}; it must be {shape}, as the first one")
        slot = self._count % (self.lags + 1)
        self._ring[slot] = gradient
        by_slot = torch.einsum("...d,k...d->...k", gradient, self._ring)
        # The gradient of k steps ago lies k slots back in the ring.
        products = by_slot.flip(-1).roll(slot + 1, -1)
        self._sums = self.decay * self._sums + products
        self._weights = [self.decay * w + (self._count >= k) for k, w in enumerate(self._weights)]
        self._count += 1
        return products

    def value(self) -> Tensor:
        """Return the estimate of R_0 ... R_lags, (..., lags + 1); NaN at lags that the stream has not reached.

        Raises: ValueError before the first gradient.
        """
        if self._sums is None:
            raise ValueError("there is no autocorrelation before the first gradient; call update first")
        weights = torch.tensor(self._weights, dtype=self._sums.dtype, device=self._sums.device)
        return self._sums / weights


def momentum_filter(momentum: float, lags: int) -> Tensor:
    """Return the heavy-ball filter momentum^k cut after `lags` and scaled to unit norm, (lags + 1,) float64.

    Raises: ValueError for a momentum outside [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum = {momentum} is not in [0, 1)")
    powers = momentum ** torch.arange(lags + 1, dtype=torch.float64)
    return normalize(powers, dim=0)


def scores(autocorrelation: Tensor, candidates: Sequence[float]) -> Tensor:
    """Return each candidate's score, the product of its unit-norm filter with R: (..., lags + 1) -> (..., candidates).

    Raises: ValueError for a candidate outside [0, 1).
    """
    filters = torch.stack([momentum_filter(momentum, autocorrelation.shape[-1] - 1) for momentum in candidates])
    return torch.einsum("...k,jk->...j", autocorrelation, filters.to(autocorrelation))
