"""Supervised training of recurrent step policies: recorded sequences, and the regression on target actions."""

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
    """Inputs of the policy at N sampled coordinates of one group over T steps, and target actions.

    Attributes:
        seen: inputs, (T, INPUTS, N).
        units: units of the outputs, (T, outputs, N).
        target: target actions, (T, N).
        precision: weights of the squared errors, expandable to (T, N).
        network: index of the policy's network for this group.
    """

    seen: Tensor
    units: Tensor
    target: Tensor
    precision: Tensor
    network: int


class Recorder:
    """Records the policy's inputs at sampled coordinates of each group, whichever rule acts.

    Args:
        policy: policy whose inputs are recorded.
        problems: R objectives.
        steps: length of the trajectories, T.
        coordinates: number of sampled coordinates of each group in each objective, at most the size of the group.
        generator: generator that samples them.
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
        """Record the inputs at an iterate."""
        seen, units, self.memory = observe(self.policy.settings, self.memory, x, value, gradient)
        for i in range(len(self.columns)):
            self.seen[i].append(self.at(i, seen))
            self.units[i].append(self.at(i, units))

    def at(self, group: int, values: Tensor) -> Tensor:
        """Select the sampled coordinates of a group, (..., R, P) -> (..., N)."""
        index = self.columns[group].expand(*values.shape[:-1], -1)
        return values.gather(-1, index).flatten(-2)

    def sequences(self, group: int, target: Tensor, precision: Tensor) -> Sequences:
        """Return the sequences of a group, with targets (T, N)."""
        network = group if self.policy.settings.networks > 1 else 0
        return Sequences(torch.stack(self.seen[group]), torch.stack(self.units[group]), target, precision, network)


def columns(problems: Perceptrons) -> list[tuple[int, int]]:
    """Return the first and last column of each group, as step rules take them."""
    return [(g.start, g.stop) for g in problems.groups]


def unroll(policy: StepPolicy, network: int, seen: Tensor, units: Tensor) -> Tensor:
    """Return the mean actions (T, N) of one network on inputs (T, INPUTS, N) with units (T, outputs, N)."""
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
    """Regress the policy on the targets, by back-propagation through time over whole sequences.

    Args:
        policy: policy to train.
        optimizer: optimizer of its weights.
        sequences: sequences of every group.
        epochs: number of passes over the sequences.
        size: number of sequences in a minibatch; all are of one network.
        max_grad_norm: norm to which larger gradients are scaled down.
        generator: generator of the order of the sequences.

    Returns the mismatch in the last epoch: root mean square error relative to the root mean square target.
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
    """Return the generator of an iteration; it depends only on seed and iteration, so no state has to be saved."""
    digest = hashlib.sha256(f"{seed}/{iteration}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
