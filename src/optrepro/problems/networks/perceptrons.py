"""Many two-layer ReLU perceptrons in one batch: objectives to learn optimizers on, and to compare them on.

The parameters of R networks are one tensor (R, P), so that an optimizer steps all of them in a few operations. Each
network has its own inputs, (N, I): images under a random projection with unit variance in every dimension (Li and Malik
2017, arXiv 1703.00441, section 5). Values and gradients are computed in closed form, which is faster than autograd.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """The coordinates of one weight matrix or bias vector: columns `start` to `stop` of the parameters."""

    name: str
    start: int
    stop: int

    @property
    def columns(self) -> slice:
        """The columns as a slice."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Perceptrons:
    """R objectives: mean cross-entropy of a perceptron with I inputs, `hidden` ReLU units and `classes` outputs.

    Attributes:
        inputs: inputs of the examples, (R, N, I) float32.
        labels: labels of the examples, (R, N) int64.
        hidden: number of hidden units.
        classes: number of outputs.
        batch_size: number of examples in a minibatch.
        seeds: seed of each network's initial weights and minibatches; optimizers that run with equal seeds start from
            the same point and see the same minibatches.
        batch_sizes: number of different examples in the minibatches of each network, if they differ between networks.
            They divide `batch_size`, and the examples are repeated to fill the minibatch, which changes no mean.
    """

    inputs: Tensor
    labels: Tensor
    hidden: int
    classes: int
    batch_size: int
    seeds: tuple[int, ...]
    batch_sizes: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the first weights (H, I), their bias (H,), the second weights (C, H) and their bias (C,)."""
        return (self.hidden, self.inputs.shape[-1]), (self.hidden,), (self.classes, self.hidden), (self.classes,)

    @property
    def groups(self) -> tuple[Group, ...]:
        """One group per weight matrix and bias vector, in the order of the parameters."""
        sizes = [math.prod(shape) for shape in self.shapes]
        ends = accumulate(sizes)
        names = ("weight 1", "bias 1", "weight 2", "bias 2")
        return tuple(Group(n, end - size, end) for n, end, size in zip(names, ends, sizes, strict=True))

    def start(self) -> Tensor:
        """Draw initial parameters (R, P), uniform within 1 / sqrt(fan in), as for PyTorch's linear layers."""
        bounds = [1 / math.sqrt(fan_in) for fan_in in (self.inputs.shape[-1], self.hidden) for _ in range(2)]
        scale = torch.cat([torch.full((g.stop - g.start,), b) for g, b in zip(self.groups, bounds, strict=True)])
        draws = [torch.rand(len(scale), generator=_generator(seed, "start")) for seed in self.seeds]
        return ((2 * torch.stack(draws) - 1) * scale).to(self.inputs.device)

    def minibatches(self, steps: int) -> Tensor:
        """Return the indices of the examples of each step, (steps, R, B); every epoch has a new random order."""
        count, orders = self.labels.shape[-1], []
        for seed, size in zip(self.seeds, self.batch_sizes or [self.batch_size] * len(self), strict=True):
            generator = _generator(seed, "batches")
            passes = math.ceil(steps * size / count)
            drawn = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
            orders.append(drawn[: steps * size].view(steps, size).repeat(1, self.batch_size // size))
        return torch.stack(orders, 1).to(self.inputs.device)

    def evaluate(self, x: Tensor, examples: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (R,) and gradients (R, P) at points x (R, P) on the examples with indices (R, B)."""
        first = torch.arange(len(self), device=x.device)[:, None] * self.labels.shape[1]
        index = (examples + first).flatten()  # copies whole examples, in a third of the time of inputs[rows, examples]
        inputs, labels = (t.flatten(0, 1).index_select(0, index) for t in (self.inputs, self.labels))
        return self._evaluate(x, inputs.view(*examples.shape, -1), labels.view_as(examples))

    def objective(self, x: Tensor, chunk: int = 500) -> Tensor:
        """Return the true objective (R,), the mean over all N examples."""
        w1, b1, w2, b2 = self._unpack(x)
        total = x.new_zeros(len(self))
        for inputs, labels in zip(torch.split(self.inputs, chunk, 1), torch.split(self.labels, chunk, 1), strict=True):
            hidden = torch.baddbmm(b1[:, None], inputs, w1.mT).relu_()
            logits = torch.baddbmm(b2[:, None], hidden, w2.mT)
            total += F.cross_entropy(logits.mT, labels, reduction="none").sum(1)
        return total / self.labels.shape[1]

    def rows(self, rows: Sequence[int]) -> Perceptrons:
        """Select objectives by number; a number may be repeated."""
        index = list(rows)
        seeds = tuple(self.seeds[i] for i in index)
        sizes = None if self.batch_sizes is None else tuple(self.batch_sizes[i] for i in index)
        return replace(self, inputs=self.inputs[index], labels=self.labels[index], seeds=seeds, batch_sizes=sizes)

    def _unpack(self, x: Tensor) -> list[Tensor]:
        return [x[:, g.columns].view(-1, *s) for g, s in zip(self.groups, self.shapes, strict=True)]

    def _evaluate(self, x: Tensor, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        w1, b1, w2, b2 = self._unpack(x)
        hidden = torch.baddbmm(b1[:, None], inputs, w1.mT).relu_()
        log_p = torch.baddbmm(b2[:, None], hidden, w2.mT).log_softmax(-1)
        target = labels[..., None]
        value = -log_p.gather(-1, target).mean((1, 2))
        error = log_p.exp_().scatter_add_(-1, target, log_p.new_full((1, 1, 1), -1.0).expand(target.shape))
        error /= labels.shape[1]
        back = torch.bmm(error, w2) * (hidden > 0)
        gradient = torch.cat(
            [torch.bmm(back.mT, inputs).flatten(1), back.sum(1), torch.bmm(error.mT, hidden).flatten(1), error.sum(1)],
            dim=1,
        )
        return value, gradient


def project(images: Tensor, dim: int, seed: int) -> Tensor:
    """Project images (N, ...) at random to (N, dim) float32, and normalize each dimension to mean 0 and variance 1.

    Source: arXiv 1703.00441, section 5: "randomly projected and normalized"; the Gaussian matrix is chosen.
    """
    flat = images.flatten(1).float()
    matrix = torch.randn(flat.shape[1], dim, generator=_generator(seed, "projection")).to(flat.device)
    projected = flat @ matrix
    return (projected - projected.mean(0)) / projected.std(0).clamp_min(1e-12)


def _generator(seed: int, purpose: str) -> torch.Generator:
    """Return a separate generator for each purpose, so that initial weights do not depend on the number of batches."""
    offset = ("start", "batches", "projection").index(purpose)
    return torch.Generator().manual_seed((seed + offset * 0x9E3779B97F4A7C15) % 2**63)
