r"""Static optimizer families, and the operator with the largest learning power in each budget set.

An update :math:`u = Q g` lowers the loss at the expected rate :math:`E\langle g, u\rangle = \mathrm{Tr}(Q\Sigma)`, the
*learning power* of :math:`Q` at the gradient moment :math:`\Sigma = E[g g^\top]`. A family is a convex set :math:`C` of
positive semidefinite operators; its optimal operator maximizes the learning power over :math:`C`.

Three functions describe the set, and satisfy `Tr(Q Sigma) <= gauge(Q) * polar(Sigma)` (generalized Cauchy-Schwarz):

- the gauge of `C`, the smallest `t >= 0` with `Q` in `t C`;
- the gauge of its polar `{Sigma : Tr(Q Sigma) <= 1 for every Q in C}`, which is the support function of `C`;
- the learning power of the optimal operator, which attains the support function.

On the null space of `Sigma` many operators are optimal. Every family returns one that is zero there, so a zero `Sigma`
gives the zero operator.

Shape: `Sigma` and `Q` are (..., d, d), real and symmetric; leading dimensions are a batch.
Source: arXiv 2512.06370v1 (names of the families and what they recover); the closed forms are derived.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


def learning_power(operator: Tensor, sigma: Tensor) -> Tensor:
    """Return Tr(Q Sigma), the expected drop in loss per unit of time, (..., d, d) and (..., d, d) -> (...)."""
    return torch.einsum("...ij,...ji->...", operator, sigma)


class Family(ABC):
    """A budget set C of positive semidefinite operators."""

    @abstractmethod
    def optimal(self, sigma: Tensor) -> Tensor:
        """Return the operator in C with the largest learning power, (..., d, d) -> (..., d, d).

        Raises: ValueError if `sigma` is not square, not symmetric or not positive semidefinite.
        """

    @abstractmethod
    def gauge(self, operator: Tensor) -> Tensor:
        """Return the smallest t >= 0 with `operator` in t C, (..., d, d) -> (...); inf if no multiple of C contains it.

        Raises: ValueError if `operator` is not square or not symmetric.
        """

    @abstractmethod
    def polar(self, sigma: Tensor) -> Tensor:
        """Return the gauge of the polar of C in closed form, (..., d, d) -> (...). Raises: as `optimal`."""

    def power(self, sigma: Tensor) -> Tensor:
        """Return the learning power of `optimal`, (..., d, d) -> (...); it equals `polar`. Raises: as `optimal`."""
        return learning_power(self.optimal(sigma), sigma)


@dataclass(frozen=True, eq=False)
class Frobenius(Family):
    r"""All :math:`Q \succeq 0` with :math:`\lVert Q\rVert_F \le \sqrt{B}`.

    Optimal: :math:`\sqrt{B}\,\Sigma/\lVert\Sigma\rVert_F`.

    Args:
        budget: B > 0, square of the largest Frobenius norm.
    """

    budget: float

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)

    def optimal(self, sigma: Tensor) -> Tensor:
        """sqrt(B) Sigma / ||Sigma||_F."""
        _check_moment("sigma", sigma)
        # Division by the largest entry keeps the squares in the norm from underflowing.
        shape = _divide(sigma, sigma.abs().amax((-2, -1), keepdim=True))
        return math.sqrt(self.budget) * _divide(shape, _norm(shape)[..., None, None])

    def gauge(self, operator: Tensor) -> Tensor:
        """||Q||_F / sqrt(B)."""
        return _on_cone(operator, _norm(operator) / math.sqrt(self.budget))

    def polar(self, sigma: Tensor) -> Tensor:
        """sqrt(B) ||Sigma||_F."""
        _check_moment("sigma", sigma)
        return math.sqrt(self.budget) * _norm(sigma)


@dataclass(frozen=True, eq=False)
class Spectral(Family):
    r"""All :math:`0 \preceq Q \preceq \tau I` with :math:`\mathrm{Tr}\,Q \le B`.

    Optimal: the leading eigenvectors of `Sigma` get the eigenvalue tau each until the budget is spent, and the next
    one gets the remainder. If eigenvalues of `Sigma` are tied at that border, every basis of their space is optimal,
    and the eigensolver's is used: the power is unique, the operator is not.

    Args:
        budget: B > 0, largest trace.
        cap: tau > 0, largest eigenvalue.
    """

    budget: float
    cap: float

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)
        _check_positive("cap", self.cap)

    def optimal(self, sigma: Tensor) -> Tensor:
        """Return V diag(q) V^T with q = tau, ..., tau, remainder, 0, ..., 0 in order of falling eigenvalues."""
        values, vectors = _check_moment("sigma", sigma)
        return (vectors * (self._shares(values) * (values > 0)).unsqueeze(-2)) @ vectors.mT

    def gauge(self, operator: Tensor) -> Tensor:
        """max(lambda_max(Q) / tau, Tr Q / B)."""
        _check_symmetric("operator", operator)
        largest = torch.linalg.eigvalsh(operator)[..., -1]
        trace = operator.diagonal(dim1=-2, dim2=-1).sum(-1)
        return _on_cone(operator, torch.maximum(largest / self.cap, trace / self.budget))

    def polar(self, sigma: Tensor) -> Tensor:
        """Return sum_i q_i lambda_i(Sigma), with q as in `optimal`."""
        values, _ = _check_moment("sigma", sigma)
        return (self._shares(values) * values).sum(-1)

    def _shares(self, values: Tensor) -> Tensor:
        """Return the eigenvalues q of the optimal operator, (d,), for ascending eigenvalues of Sigma."""
        rank = torch.arange(values.shape[-1] - 1, -1, -1, dtype=values.dtype, device=values.device)
        return (self.budget - self.cap * rank).clamp(0, self.cap)


@dataclass(frozen=True, eq=False)
class Lyapunov(Family):
    r"""All :math:`Q \succeq 0` with :math:`\mathrm{Tr}(Q M Q) \le B`.

    Optimal: the solution of the Lyapunov equation :math:`M Q + Q M \propto \Sigma` on the boundary of the budget. The
    paper's case is :math:`M = \Sigma`, which bounds the mean square of the update:
    :math:`Q = \sqrt{B/\mathrm{Tr}\,\Sigma}\,I` on the range of `Sigma`, gradient descent with a normalized rate. Here
    the metric is separate, because the set has a polar only if it does not depend on `Sigma`.

    Args:
        budget: B > 0, largest mean square of an update.
        metric: M, (..., d, d), symmetric positive semidefinite; `Sigma` must vanish on its null space.

    Raises: ValueError for a metric that is not symmetric positive semidefinite; `optimal` and `polar` also raise it if
    `Sigma` has power on the metric's null space, where the learning power is unbounded.
    """

    budget: float
    metric: Tensor

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)
        _check_moment("metric", self.metric)

    def optimal(self, sigma: Tensor) -> Tensor:
        """Return sqrt(B) X / sqrt(Tr(X Sigma)) with (M X + X M)/2 = Sigma."""
        shape, norm = self._solve(sigma)
        return math.sqrt(self.budget) * _divide(shape, norm[..., None, None])

    def gauge(self, operator: Tensor) -> Tensor:
        """sqrt(Tr(Q M Q) / B)."""
        square = learning_power(operator @ operator, self.metric)
        return _on_cone(operator, (square / self.budget).clamp_min(0).sqrt())

    def polar(self, sigma: Tensor) -> Tensor:
        """Return sqrt(B Tr(X Sigma)), with X as in `optimal`."""
        return math.sqrt(self.budget) * self._solve(sigma)[1]

    def _solve(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the solution of (M Q + Q M)/2 = Sigma on the range of M, and its norm Tr(Q M Q)^(1/2)."""
        _check_moment("sigma", sigma)
        values, vectors = _check_moment("metric", self.metric)
        rotated = vectors.mT @ sigma @ vectors
        mean = (values.unsqueeze(-1) + values.unsqueeze(-2)) / 2
        outside = torch.where(mean > 0, 0, rotated).abs().amax((-2, -1))
        if (outside > _tolerance(sigma) * sigma.abs().amax((-2, -1))).any():
            raise ValueError("sigma must vanish on the null space of metric, where the learning power is unbounded")
        solution = _divide(rotated, mean)
        return vectors @ solution @ vectors.mT, (solution * rotated).sum((-2, -1)).clamp_min(0).sqrt()


@dataclass(frozen=True, eq=False)
class Diagonal(Family):
    r"""All :math:`Q = \mathrm{diag}(q)`, :math:`q \ge 0`, with :math:`\sum_i c_i q_i^2 \le B`.

    Optimal: :math:`q_i \propto \sigma_i^2 / c_i` with :math:`\sigma_i^2 = \Sigma_{ii}`. The cost
    :math:`c_i = \sigma_i^3` gives :math:`q_i \propto 1/\sigma_i`, as in Adam and AdaGrad; :math:`c_i = \sigma_i^2`
    gives the same rate to all coordinates, as in SGD.

    Args:
        budget: B > 0, largest weighted sum of squares.
        cost: c, (..., d), positive.
    """

    budget: float
    cost: Tensor

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)
        if not (self.cost > 0).all():
            raise ValueError(f"cost has the entry {self.cost.min().item()}; every entry must be positive")

    def optimal(self, sigma: Tensor) -> Tensor:
        """Return diag(q) with q = sqrt(B) (sigma^2 / c) / sqrt(sum_i sigma_i^4 / c_i)."""
        _check_moment("sigma", sigma)
        moment = sigma.diagonal(dim1=-2, dim2=-1)
        shape = _divide(moment, moment.amax(-1, keepdim=True)) / self.cost
        norm = (self.cost * shape**2).sum(-1, keepdim=True).sqrt()
        return torch.diag_embed(math.sqrt(self.budget) * _divide(shape, norm))

    def gauge(self, operator: Tensor) -> Tensor:
        """sqrt(sum_i c_i q_i^2 / B)."""
        q = operator.diagonal(dim1=-2, dim2=-1)
        on_diagonal = (operator == torch.diag_embed(q)).all(-1).all(-1)
        size = ((self.cost * q**2).sum(-1) / self.budget).sqrt()
        return _on_cone(operator, torch.where(on_diagonal, size, torch.inf))

    def polar(self, sigma: Tensor) -> Tensor:
        """sqrt(B sum_i sigma_i^4 / c_i)."""
        _check_moment("sigma", sigma)
        return (self.budget * (sigma.diagonal(dim1=-2, dim2=-1) ** 2 / self.cost).sum(-1)).sqrt()


def _norm(matrix: Tensor) -> Tensor:
    """Return the Frobenius norm, (..., d, d) -> (...)."""
    return matrix.square().sum((-2, -1)).sqrt()


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} = {value} is not allowed; it must be positive")


def _check_symmetric(name: str, matrix: Tensor) -> None:
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has the shape {tuple(matrix.shape)}; it must be square, (..., d, d)")
    difference = (matrix - matrix.mT).abs().amax((-2, -1))
    # "not <=" also catches NaN
    if not (difference <= _tolerance(matrix) * matrix.abs().amax((-2, -1))).all():
        raise ValueError(f"{name} is not symmetric: it differs from its transpose by {difference.max().item():.3g}")


def _check_moment(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return ascending eigenvalues (zero if they are rounding) and eigenvectors of a positive semidefinite matrix."""
    _check_symmetric(name, matrix)
    values, vectors = torch.linalg.eigh(matrix)
    largest = values.abs().amax(-1, keepdim=True)
    if (values < -_tolerance(matrix) * largest).any():
        raise ValueError(f"{name} is not positive semidefinite: it has the eigenvalue {values.min().item():.3g}")
    rounding = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * largest
    return torch.where(values > rounding, values, 0), vectors


def _on_cone(operator: Tensor, size: Tensor) -> Tensor:
    """Return `size` where the operator is positive semidefinite, and inf elsewhere."""
    _check_symmetric("operator", operator)
    values = torch.linalg.eigvalsh(operator)
    inside = values[..., 0] >= -_tolerance(operator) * values.abs().amax(-1)
    return torch.where(inside, size, torch.inf)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the quotient, and 0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1), 0)


def _tolerance(matrix: Tensor) -> float:
    """Return the relative size that counts as rounding, half the digits of the type."""
    return float(torch.finfo(matrix.dtype).eps ** 0.5)
