"""Slow reference versions of this package's optimizers: plain loops in the papers' notation, for reading and testing.

A step has three parts. First, every candidate gets a score J, the alignment of the gradient g with the step that the
candidate would take. Then a rule turns the scores into weights w, one for each candidate. Finally the parameter p moves
by the weighted mean of the candidates' steps. GAP gives all weight to the largest score; the aligned mean divides it.

`SGD` and `Adam` with the rule `Greedy` correspond to `GapSGD` and `GapAdam`, with `Evidence` to `AlignedMeanSGD` and
`AlignedMeanAdam`, and with `Continuous` to `ContinuousSGD` and `ContinuousAdam`. Nesterov, dampening, smoothing,
hysteresis, the other scores and the protection against overflow are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Scores = list[list[float]]  # for each parameter tensor, the scores or weights of its candidates


class Greedy:
    """GAP: all weight goes to the candidate of the largest score.

    Args:
        select: ``"global"`` adds up the scores of all tensors; with ``"per_parameter"`` each tensor chooses by itself.
    """

    def __init__(self, select: str = "global") -> None:
        self.select = select

    def weights(self, scores: Scores) -> Scores:
        """The weights of the candidates, for each tensor."""
        rows = [total(scores)] * len(scores) if self.select == "global" else scores
        return [[float(j == row.index(max(row))) for j in range(len(row))] for row in rows]


class Evidence:
    """The aligned mean: w_(j+1) / w_j = Phi(t_j) / Phi(-t_j), where t_j is the evidence that j + 1 gains over j.

    t is the mean gain over its root mean square, times the root of the effective number of averaged steps.

    Args:
        select: as in `Greedy`.
        decay: decay of the averages.
    """

    def __init__(self, select: str = "per_parameter", decay: float = 0.8) -> None:
        self.select, self.decay, self.n = select, decay, 0
        self.mean: dict[tuple[int, int], float] = {}
        self.square: dict[tuple[int, int], float] = {}

    def weights(self, scores: Scores) -> Scores:
        """The weights of the candidates, for each tensor."""
        self.n += 1
        if self.select == "global":
            return [self._row(0, total(scores))] * len(scores)
        return [self._row(i, row) for i, row in enumerate(scores)]

    def _row(self, i: int, score: list[float]) -> list[float]:
        steps = min(self.n - 1, (1 + self.decay) / (1 - self.decay))
        log_weights = [0.0]
        for j in range(len(score) - 1):
            d = score[j + 1] - score[j]
            mean = self.mean[i, j] = self.decay * self.mean.get((i, j), 0.0) + (1 - self.decay) * d
            square = self.square[i, j] = self.decay * self.square.get((i, j), 0.0) + (1 - self.decay) * d**2
            t = mean / math.sqrt(square * (1 - self.decay**self.n)) * math.sqrt(steps) if square > 0 else 0.0
            log_phi = torch.special.log_ndtr(torch.tensor([t, -t], dtype=torch.float64))
            log_weights.append(log_weights[-1] + float(log_phi[0] - log_phi[1]))
        return torch.tensor(log_weights, dtype=torch.float64).softmax(0).tolist()


class Continuous:
    """The momentum on an interval that maximizes J(m) = sum_k m^k R_k / sqrt(sum_k m^(2k)), R_k = E <g_n, g_(n-k)>.

    Gradients are observed in windows of lags + every steps, with `rest` steps between two windows. In a window the
    momentum is updated every `every` steps. `ContinuousSGD` observes sketches of the gradients instead, and agrees with
    this class if the sketch is exact.
    """

    def __init__(
        self,
        low: float,
        high: float,
        lags: int = 16,
        decay: float = 0.99,
        smoothing: float = 0.9,
        every: int = 16,
        rest: int = 32,
        points: int = 128,
        doubt: float = 3.0,
    ) -> None:
        self.low, self.high, self.lags, self.decay, self.smoothing = low, high, lags, decay, smoothing
        self.every, self.rest, self.doubt = every, rest, doubt
        self.grid = [1 - (1 - low) ** (1 - i / (points - 1)) * (1 - high) ** (i / (points - 1)) for i in range(points)]
        self.m, self.n, self.looked = min(max(0.9, low), high), 0, 0
        self.R, self.variance = [0.0] * (lags + 1), 0.0  # exponentially weighted sums over steps
        self.window: list[Tensor] = []

    def momentum(self, g: Tensor) -> float:
        """Observe the gradient (n,), and return the momentum of this step."""
        place = self.n % (self.lags + self.every + self.rest)
        self.n += 1
        if place == 0:
            self.window = []
        if place < self.lags + self.every:
            self.window.append(g)
            if len(self.window) % self.every == 0:
                self._look()
        return self.m

    def _look(self) -> None:
        elapsed, self.looked = self.n - self.looked, self.n
        self.R = [self.decay**elapsed * R for R in self.R]
        self.variance *= self.decay ** (2 * elapsed)
        for i in range(len(self.window) - self.every, len(self.window)):
            for k in range(min(self.lags, i) + 1):
                product = dot(self.window[i], self.window[i - k])
                self.R[k] += product
                self.variance += product**2 / self.lags if k > 0 else 0.0
        J, m = max((self._score(m), m) for m in self.grid)
        chance = self.doubt * math.sqrt(self.variance)  # `doubt` standard errors of J for uncorrelated gradients
        target = self.low if chance >= J else m
        self.m = target + (self.m - target) * self.smoothing**elapsed

    def _score(self, m: float) -> float:
        taps = [m ** (k - 1) for k in range(1, self.lags + 1)]  # R_0 is left out, because mini-batch noise inflates it
        return sum(tap * R for tap, R in zip(taps, self.R[1:], strict=True)) / math.hypot(*taps)


class SGD:
    """b_m <- m b_m + g for every candidate m; p <- p - lr sum_m w_m b_m."""

    def __init__(
        self,
        params: Sequence[Tensor],
        lr: float,
        momentum: Sequence[float] = (),
        rule: Greedy | Evidence | Continuous | None = None,
        score: str = "paper",
        weight_decay: float = 0.0,
    ) -> None:
        self.params, self.lr, self.candidates, self.score, self.weight_decay = params, lr, momentum, score, weight_decay
        self.rule = rule or Greedy()
        self.b = [[torch.zeros_like(p) for _ in momentum or (None,)] for p in params]
        self.previous = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> Scores:
        """Take a step with these gradients; return each tensor's weights, or the momentum."""
        gs = [g + self.weight_decay * p for g, p in zip(grads, self.params, strict=True)]
        if isinstance(self.rule, Continuous):
            self.candidates, weights = [self.rule.momentum(join(gs))], [[1.0]] * len(gs)
        else:
            weights = self.rule.weights([self._scores(i, g) for i, g in enumerate(gs)])
        for i, (p, g) in enumerate(zip(self.params, gs, strict=True)):
            self.b[i] = [m * b + g for m, b in zip(self.candidates, self.b[i], strict=True)]
            for w, b in zip(weights[i], self.b[i], strict=True):
                p -= self.lr * w * b
        self.previous = gs
        return [[m] for m in self.candidates] if isinstance(self.rule, Continuous) else weights

    def _scores(self, i: int, g: Tensor) -> list[float]:
        """J(m) = c_m (R_0 + m <g, b_m>), where c_m is the inverse norm of the filter, or 1 for the score "raw"."""
        R_0 = dot(g, self.previous[i] if self.score == "debiased" else g)
        c = [1.0 if self.score == "raw" else math.sqrt(1 - m**2) for m in self.candidates]
        return [c_m * (R_0 + m * dot(g, b)) for c_m, m, b in zip(c, self.candidates, self.b[i], strict=True)]


class Adam:
    """m_beta <- beta m_beta + (1 - beta) g for every candidate beta; p <- p - lr sum_beta w_beta P m_beta.

    P = 1 / (sqrt(v) + eps) with a common second moment v. v is always corrected for its bias; m_beta is corrected in
    the step but not in the score.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        lr: float,
        betas: Sequence[tuple[float, float]] = ((0.0, 0.999),),
        rule: Greedy | Evidence | Continuous | None = None,
        score: str = "paper",
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self.params, self.lr, self.score, self.weight_decay, self.eps = params, lr, score, weight_decay, eps
        self.candidates, self.beta2 = [beta for beta, _ in betas], betas[0][1]
        self.rule, self.n = rule or Greedy(), 0
        self.m = [[torch.zeros_like(p) for _ in betas] for p in params]
        self.v, self.previous = ([torch.zeros_like(p) for p in params] for _ in range(2))
        self.bias = [1.0] * len(betas)  # the product of all beta

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor]) -> Scores:
        """Take a step with these gradients and decoupled weight decay; return each tensor's weights, or beta1."""
        self.n += 1
        self.v = [self.beta2 * v + (1 - self.beta2) * g**2 for v, g in zip(self.v, grads, strict=True)]
        P = [1 / ((v / (1 - self.beta2**self.n)).sqrt() + self.eps) for v in self.v]
        if isinstance(self.rule, Continuous):
            root = join([P_i.sqrt() * g for P_i, g in zip(P, grads, strict=True)])
            self.candidates, weights = [self.rule.momentum(root)], [[1.0]] * len(grads)
        else:
            weights = self.rule.weights([self._scores(i, g, P[i]) for i, g in enumerate(grads)])
        self.bias = [beta * bias for beta, bias in zip(self.candidates, self.bias, strict=True)]
        for i, (p, g) in enumerate(zip(self.params, grads, strict=True)):
            self.m[i] = [beta * m + (1 - beta) * g for beta, m in zip(self.candidates, self.m[i], strict=True)]
            p *= 1 - self.lr * self.weight_decay
            for w, m, bias in zip(weights[i], self.m[i], self.bias, strict=True):
                p -= self.lr * w * P[i] * m / (1 - bias)
        self.previous = list(grads)
        return [[beta] for beta in self.candidates] if isinstance(self.rule, Continuous) else weights

    def _scores(self, i: int, g: Tensor, P: Tensor) -> list[float]:
        """J(beta) = c_beta ((1 - beta) R_0 + beta <g, P m_beta>); c_beta is the inverse norm, or corrects the bias."""
        R_0 = dot(P * g, self.previous[i] if self.score == "debiased" else g)
        is_raw = self.score == "raw"
        c = [1 / (1 - beta**self.n) if is_raw else math.sqrt((1 + beta) / (1 - beta)) for beta in self.candidates]
        return [
            c_beta * ((1 - beta) * R_0 + beta * dot(P * g, m))
            for c_beta, beta, m in zip(c, self.candidates, self.m[i], strict=True)
        ]


def dot(x: Tensor, y: Tensor) -> float:
    """The inner product of two tensors."""
    return float((x * y).sum())


def join(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate the flattened tensors, (n,)."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def total(scores: Scores) -> list[float]:
    """The sum over all tensors, for each candidate."""
    return [sum(column) for column in zip(*scores, strict=True)]
