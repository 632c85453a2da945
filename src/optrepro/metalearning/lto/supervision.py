"""What the ways to train a recurrent step policy share: recorded sequences, and the regression on target actions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from optrepro.optimizers.predicted_step import Network, StepPolicy, observe
from optrepro.problems.networks.perceptrons import Perceptrons


@dataclass(frozen=True)
class Sequences:
    """What the policy saw at N sampled coordinates of one group over T steps, and what it should have done.

    Attributes:
        seen: inputs, (T, INPUTS, N).
        units: of the outputs, (T, outputs, N).
        target: actions, (T, N).
        precision: weight of the squared errors, (T, N) or what expands to it.
        network: which of the policy's networks acts here.
    """

    seen: Tensor
    units: Tensor
    target: Tensor
    precision: Tensor
    network: int


class Recorder:
    """Keeps what the policy sees at sampled coordinates of each group, whoever acts.

    Args:
        policy: whose observations are kept.
        problems: R objectives.
        steps: length of the trajectories, T.
        coordinates: sampled of each group in each objective, fewer where there are fewer.
        generator: draws them.
    """

    def __init__(
        self, policy: StepPolicy, problems: Perceptrons, steps: int, coordinates: int, generator: torch.Generator
    ):
        self.policy, self.problems, self.steps = policy, problems, steps
        x = problems.start()
        self.memory = policy.begin(x, columns(problems))
        self.columns = [
            torch.stack([torch.randperm(g.stop - g.start, generator=generator)[:coordinates] + g.start for _ in x])
            for g in problems.groups
        ]
        self.columns = [c.to(x.device) for c in self.columns]
        self.seen: list[list[Tensor]] = [[] for _ in self.columns]
        self.units: list[list[Tensor]] = [[] for _ in self.columns]

    def note(self, x: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Keep the observations at an iterate."""
        seen, units, self.memory = observe(self.policy.settings, self.memory, x, value, gradient)
        for i in range(len(self.columns)):
            self.seen[i].append(self.at(i, seen))
            self.units[i].append(self.at(i, units))

    def at(self, group: int, values: Tensor) -> Tensor:
        """The sampled coordinates of a group in values (..., R, P): (..., N)."""
        index = self.columns[group].expand(*values.shape[:-1], -1)
        return values.gather(-1, index).flatten(-2)

    def sequences(self, group: int, target: Tensor, precision: Tensor) -> Sequences:
        """The sequences of a group, with targets (T, N)."""
        network = group if self.policy.settings.networks > 1 else 0
        return Sequences(torch.stack(self.seen[group]), torch.stack(self.units[group]), target, precision, network)


def columns(problems: Perceptrons) -> list[tuple[int, int]]:
    """First and last column of each group, as step rules take them."""
    return [(g.start, g.stop) for g in problems.groups]


def unroll(policy: StepPolicy, network: int, seen: Tensor, units: Tensor) -> Tensor:
    """Mean actions (T, N) of a network of the policy on sequences (T, INPUTS, N) with units (T, outputs, N)."""
    net = cast(Network, policy.networks[network])
    hidden = seen.new_zeros(policy.settings.cells, seen.shape[-1])
    cell, out = torch.zeros_like(hidden), []
    for inputs in seen:
        hidden, cell = net.cell(inputs, hidden, cell)
        out.append(net.head(hidden))
    return policy.settings.scale * (torch.stack(out) * units).sum(1)


def regress(
    policy: StepPolicy,
    optimizer: torch.optim.Optimizer,
    sequences: Sequence[Sequences],
    epochs: int,
    size: int,
    max_grad_norm: float,
    generator: torch.Generator,
) -> float:
    """Move the policy towards the targets, by back-propagation through time over whole sequences.

    Args:
        policy: what is trained.
        optimizer: of its weights.
        sequences: of every group.
        epochs: passes over them.
        size: sequences in a minibatch, which are all of one network.
        max_grad_norm: larger gradients are scaled down to it.
        generator: of the order.

    Returns the mismatch in the last epoch: root mean square error over that of the targets.
    """
    error, total = 0.0, 0.0
    for epoch in range(epochs):
        for part in _minibatches(sequences, size, generator):
            apart = unroll(policy, part.network, part.seen, part.units) - part.target
            optimizer.zero_grad()
            (part.precision * apart.square()).mean().backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(policy.parameters(), max_grad_norm)
            optimizer.step()
            if epoch == epochs - 1:
                error += float(apart.detach().square().sum())
                total += float(part.target.square().sum())
    return float((error / max(total, 1e-30)) ** 0.5)


def _minibatches(sequences: Sequence[Sequences], size: int, generator: torch.Generator) -> Iterator[Sequences]:
    parts: list[Sequences] = []
    for network in sorted({s.network for s in sequences}):
        mine = [s for s in sequences if s.network == network]
        seen, units, target = (torch.cat(x, -1) for x in zip(*((s.seen, s.units, s.target) for s in mine), strict=True))
        precision = torch.cat([s.precision.expand_as(s.target) for s in mine], -1)
        order = torch.randperm(target.shape[-1], generator=generator).to(target.device)
        parts += [
            Sequences(seen[..., rows], units[..., rows], target[:, rows], precision[:, rows], network)
            for rows in torch.split(order, size)
        ]
    for i in torch.randperm(len(parts), generator=generator).tolist():
        yield parts[i]


def generator(seed: int, iteration: int) -> torch.Generator:
    """The random numbers of an iteration, from the seed alone, so that no state of them has to be kept."""
    digest = hashlib.sha256(f"{seed}/{iteration}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
