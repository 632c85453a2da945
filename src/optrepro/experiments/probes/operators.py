r"""Static optimizer families: the operator of largest learning power inside a budget set.

An update :math:`u = Q g` lowers the loss at the expected rate :math:`E\langle g, u\rangle = \mathrm{Tr}(Q\Sigma)`, the
*learning power* of :math:`Q` at the gradient moment :math:`\Sigma = E[g g^\top]`. A family is a convex set :math:`C` of
positive semidefinite operators; its optimal operator maximizes the learning power over :math:`C`.

Three functions of the set belong together, and `Tr(Q Sigma) <= gauge(Q) * polar(Sigma)` ties them (Cauchy-Schwarz):

- the gauge of `C`, the smallest `t >= 0` with `Q` in `t C`;
- the gauge of its polar `{Sigma : Tr(Q Sigma) <= 1 for every Q in C}`, which is the support function of `C`;
- the learning power of the optimal operator, at which the support function is attained.

Where `Sigma` has no power, many operators are optimal. Every family returns one that is zero there; so a zero `Sigma`
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
    """Tr(Q Sigma), (..., d, d) and (..., d, d) -> (...): the expected drop in loss per unit of time."""
    return torch.einsum("...ij,...ji->...", operator, sigma)


class Family(ABC):
    """A budget set of positive semidefinite operators, and the operator of largest learning power inside it."""

    @abstractmethod
    def optimal(self, sigma: Tensor) -> Tensor:
        """The operator of largest learning power, (..., d, d) -> (..., d, d).

        Raises: ValueError if `sigma` is not square, not symmetric or not positive semidefinite.
        """

    @abstractmethod
    def gauge(self, operator: Tensor) -> Tensor:
        """The smallest t >= 0 with `operator` in t C, (..., d, d) -> (...); inf where no multiple of C contains it.

        Raises: ValueError if `operator` is not square or not symmetric.
        """

    @abstractmethod
    def polar(self, sigma: Tensor) -> Tensor:
        """The gauge of the polar of C, in closed form, (..., d, d) -> (...). Raises: as `optimal`."""

    def power(self, sigma: Tensor) -> Tensor:
        """The learning power that `optimal` attains, (..., d, d) -> (...); equal to `polar`. Raises: as `optimal`."""
        return learning_power(self.optimal(sigma), sigma)


@dataclass(frozen=True, eq=False)
class Frobenius(Family):
    r"""All :math:`Q \succeq 0` with :math:`\lVert Q\rVert_F \le \sqrt{B}`.

    Optimal: :math:`\sqrt{B}\,\Sigma/\lVert\Sigma\rVert_F`.

    Args:
        budget: B > 0, the square of the largest Frobenius norm.
    """

    budget: float

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)

    def optimal(self, sigma: Tensor) -> Tensor:
        """sqrt(B) Sigma / ||Sigma||_F."""
        _check_moment("sigma", sigma)
        # the division by the largest entry keeps the squares in the norm from underflowing
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

    Optimal: the leading eigenvectors of `Sigma` get the eigenvalue tau each until the budget is spent, the next one
    gets the remainder. Where eigenvalues of `Sigma` are tied across that border, every basis of the tied space is
    optimal and the eigensolver's is taken: the power is unique, the operator is not.

    Args:
        budget: B > 0, the largest trace.
        cap: tau > 0, the largest eigenvalue.
    """

    budget: float
    cap: float

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)
        _check_positive("cap", self.cap)

    def optimal(self, sigma: Tensor) -> Tensor:
        """V diag(q) V^T with q = tau, ..., tau, remainder, 0, ..., 0 by falling eigenvalue."""
        values, vectors = _check_moment("sigma", sigma)
        return (vectors * (self._shares(values) * (values > 0)).unsqueeze(-2)) @ vectors.mT

    def gauge(self, operator: Tensor) -> Tensor:
        """max(lambda_max(Q) / tau, Tr Q / B)."""
        _check_symmetric("operator", operator)
        largest = torch.linalg.eigvalsh(operator)[..., -1]
        trace = operator.diagonal(dim1=-2, dim2=-1).sum(-1)
        return _on_cone(operator, torch.maximum(largest / self.cap, trace / self.budget))

    def polar(self, sigma: Tensor) -> Tensor:
        """sum_i q_i lambda_i(Sigma), q as in `optimal`."""
        values, _ = _check_moment("sigma", sigma)
        return (self._shares(values) * values).sum(-1)

    def _shares(self, values: Tensor) -> Tensor:
        """What each eigenvalue is given, (d,), for eigenvalues in ascending order."""
        rank = torch.arange(values.shape[-1] - 1, -1, -1, dtype=values.dtype, device=values.device)
        return (self.budget - self.cap * rank).clamp(0, self.cap)


@dataclass(frozen=True, eq=False)
class Lyapunov(Family):
    r"""All :math:`Q \succeq 0` with :math:`\mathrm{Tr}(Q M Q) \le B`.

    Optimal: the solution of the Lyapunov equation :math:`M Q + Q M \propto \Sigma`, on the budget's boundary. The
    paper's case is :math:`M = \Sigma`, an update of bounded mean square: :math:`Q = \sqrt{B/\mathrm{Tr}\,\Sigma}\,I`
    on the range of `Sigma`, plain gradient descent with a normalized rate. A metric of its own makes the set
    independent of `Sigma`; without that it would have no polar.

    Args:
        budget: B > 0, the largest mean square of an update.
        metric: M, (..., d, d), symmetric positive semidefinite. `Sigma` has to vanish on its null space.

    Raises: ValueError for a bad metric; from `optimal` and `polar` also where the learning power is unbounded because
    `Sigma` has power on the metric's null space.
    """

    budget: float
    metric: Tensor

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)
        _check_moment("metric", self.metric)

    def optimal(self, sigma: Tensor) -> Tensor:
        """sqrt(B) X / sqrt(Tr(X Sigma)) with (M X + X M)/2 = Sigma."""
        shape, norm = self._solve(sigma)
        return math.sqrt(self.budget) * _divide(shape, norm[..., None, None])

    def gauge(self, operator: Tensor) -> Tensor:
        """sqrt(Tr(Q M Q) / B)."""
        square = learning_power(operator @ operator, self.metric)
        return _on_cone(operator, (square / self.budget).clamp_min(0).sqrt())

    def polar(self, sigma: Tensor) -> Tensor:
        """sqrt(B Tr(X Sigma)), X as in `optimal`."""
        return math.sqrt(self.budget) * self._solve(sigma)[1]

    def _solve(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The solution of (M Q + Q M)/2 = Sigma on the range of M, and its norm Tr(Q M Q)^(1/2)."""
        _check_moment("sigma", sigma)
        values, vectors = _check_moment("metric", self.metric)
        rotated = vectors.mT @ sigma @ vectors
        mean = (values.unsqueeze(-1) + values.unsqueeze(-2)) / 2
        outside = torch.where(mean > 0, 0, rotated).abs().amax((-2, -1))
        if (outside > _tolerance(sigma) * sigma.abs().amax((-2, -1))).any():
            raise ValueError("sigma has power on the null space of metric, where the learning power is unbounded")
        solution = _divide(rotated, mean)
        return vectors @ solution @ vectors.mT, (solution * rotated).sum((-2, -1)).clamp_min(0).sqrt()


@dataclass(frozen=True, eq=False)
class Diagonal(Family):
    r"""All :math:`Q = \mathrm{diag}(q)`, :math:`q \ge 0`, with :math:`\sum_i c_i q_i^2 \le B`.

    Optimal: :math:`q_i \propto \sigma_i^2 / c_i` with :math:`\sigma_i^2 = \Sigma_{ii}`. The cost
    :math:`c_i = \sigma_i^3` gives :math:`1/\sigma_i`, the shape of Adam and AdaGrad; :math:`c_i = \sigma_i^2` gives
    one rate for all, SGD.

    Args:
        budget: B > 0, the largest weighted sum of squares.
        cost: c, (..., d), positive.
    """

    budget: float
    cost: Tensor

    def __post_init__(self) -> None:
        _check_positive("budget", self.budget)
        if not (self.cost > 0).all():
            raise ValueError(f"cost has the entry {self.cost.min().item()}; every entry must be positive")

    def optimal(self, sigma: Tensor) -> Tensor:
        """diag(q), q = sqrt(B) (sigma^2 / c) / sqrt(sum_i sigma_i^4 / c_i)."""
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
    """The Frobenius norm, (..., d, d) -> (...)."""
    return matrix.square().sum((-2, -1)).sqrt()


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} = {value} is not positive")


def _check_symmetric(name: str, matrix: Tensor) -> None:
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has the shape {tuple(matrix.shape)}; it must be square, (..., d, d)")
    difference = (matrix - matrix.mT).abs().amax((-2, -1))
    # "not <=" also catches NaN
    if not (difference <= _tolerance(matrix) * matrix.abs().amax((-2, -1))).all():
        raise ValueError(f"{name} is not symmetric: it differs from its transpose by {difference.max().item():.3g}")


def _check_moment(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues in ascending order, zero outside the numerical range, and eigenvectors of a semidefinite matrix."""
    _check_symmetric(name, matrix)
    values, vectors = torch.linalg.eigh(matrix)
    largest = values.abs().amax(-1, keepdim=True)
    if (values < -_tolerance(matrix) * largest).any():
        raise ValueError(f"{name} is not positive semidefinite: it has the eigenvalue {values.min().item():.3g}")
    rounding = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * largest
    return torch.where(values > rounding, values, 0), vectors


def _on_cone(operator: Tensor, size: Tensor) -> Tensor:
    """`size` where the operator is positive semidefinite, inf elsewhere."""
    _check_symmetric("operator", operator)
    values = torch.linalg.eigvalsh(operator)
    inside = values[..., 0] >= -_tolerance(operator) * values.abs().amax(-1)
    return torch.where(inside, size, torch.inf)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, and 0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / torch.where(denominator > 0, denominator, 1), 0)


def _tolerance(matrix: Tensor) -> float:
    """The relative size that counts as rounding: half the digits of the type."""
    return float(torch.finfo(matrix.dtype).eps ** 0.5)
