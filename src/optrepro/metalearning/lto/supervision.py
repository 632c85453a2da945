"""Supervised training of recurrent step policies: recorded sequences, and the regression on target actions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from optrepro.optimizers._learned import Columns, Memory
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
        self.columns = [
            torch.stack([torch.randperm(g.stop - g.start, generator=generator)[:coordinates] + g.start for _ in x])
            for g in problems.groups
        ]
        self.columns = [c.to(x.device) for c in self.columns]
        self.sizes = [c.shape[1] for c in self.columns]
        self.sampled = torch.cat(self.columns, 1)
        self.memory = begin(policy, x, columns(problems), self.sampled)
        self.seen: list[Tensor] = []
        self.units: list[Tensor] = []

    def note(self, x: Tensor, value: Tensor, gradient: Tensor) -> None:
        """Record the inputs at an iterate."""
        sampled = x.gather(1, self.sampled), value, gradient.gather(1, self.sampled)
        seen, units, self.memory = observe(self.policy.settings, self.memory, *sampled)
        self.seen.append(seen)
        self.units.append(units)

    def at(self, group: int, values: Tensor) -> Tensor:
        """Select the sampled coordinates of a group, (..., R, P) -> (..., N)."""
        index = self.columns[group].expand(*values.shape[:-1], -1)
        return values.gather(-1, index).flatten(-2)

    def sequences(self, group: int, target: Tensor, precision: Tensor) -> Sequences:
        """Return the sequences of a group, with targets (T, N)."""
        network = group if self.policy.settings.networks > 1 else 0
        start = sum(self.sizes[:group])
        mine = slice(start, start + self.sizes[group])
        seen, units = (torch.stack([x[..., mine].flatten(1) for x in steps]) for steps in (self.seen, self.units))
        return Sequences(seen, units, target, precision, network)


def columns(problems: Perceptrons) -> list[tuple[int, int]]:
    """Return the first and last column of each group, as step rules take them."""
    return [(g.start, g.stop) for g in problems.groups]


def begin(policy: StepPolicy, x: Tensor, groups: Columns, sampled: Tensor) -> Memory:
    """Return the memory, before the first step from x (R, P), for the coordinates of the columns `sampled`, (R, N)."""
    memory = policy.begin(x, groups)
    return {**memory, **{name: memory[name].gather(1, sampled) for name in policy.settings.tables}}


def unroll(policy: StepPolicy, network: int, seen: Tensor, units: Tensor) -> Tensor:
    """Return the mean actions (T, N) of one network on inputs (T, INPUTS, N) with units (T, outputs, N)."""
    net = cast(Network, policy.networks[network])
    hidden: Tensor = _Lstm.apply(net.weight, net.bias, seen)  # type: ignore[no-untyped-call]
    return ((net.out @ hidden + net.out_bias) * units).sum(1)


class _Lstm(torch.autograd.Function):
    """The LSTM of `lstm_cell` over whole sequences from a state of zero, with its gradient in closed form.

    The tensors of one step stay in the cache, in place. tanh(z) is 2 sigmoid(2 z) - 1, which is faster.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
        """Return the hidden states (T, h, N) for inputs (T, m, N)."""
        steps, inputs, count = seen.shape
        size = len(weight) // 4
        double = torch.ones_like(bias)
        double[3 * size :] = 2  # the candidate's
        into, recurrent = torch.split(double * weight, [inputs, size], 1)
        gates = seen.new_empty(steps, 4 * size, count)
        # The first of these states is the one before the first step.
        cells, hidden = (seen.new_zeros(steps + 1, size, count) for _ in range(2))
        squashed = seen.new_empty(steps, size, count)
        for t, gate in enumerate(gates):
            torch.addmm(double * bias, into, seen[t], out=gate).addmm_(recurrent, hidden[t]).sigmoid_()
            enter, keep, leave, candidate = torch.split(gate, size)
            candidate.mul_(2).sub_(1)
            torch.mul(keep, cells[t], out=cells[t + 1]).addcmul_(enter, candidate)
            torch.mul(cells[t + 1], 2, out=squashed[t]).sigmoid_().mul_(2).sub_(1)
            torch.mul(leave, squashed[t], out=hidden[t + 1])
        ctx.save_for_backward(weight, seen, gates, cells, squashed, hidden)
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_hidden: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of weight and bias; the inputs have none."""
        weight, seen, gates, cells, squashed, hidden = ctx.saved_tensors
        steps, size, _ = squashed.shape
        back = weight[:, -size:].mT.contiguous()
        by_weight, by_bias = torch.zeros_like(weight), weight.new_zeros(len(weight), 1)
        by_into, by_recurrent = by_weight[:, :-size], by_weight[:, -size:]
        by_gate, by_cell = torch.zeros_like(gates[0]), torch.zeros_like(cells[0])
        by_enter, by_keep, by_leave, by_candidate = torch.split(by_gate, size)
        for t in range(steps - 1, -1, -1):
            enter, keep, leave, candidate = torch.split(gates[t], size)
            opened, squash = gates[t, : 3 * size], squashed[t]
            by_state = torch.addmm(by_hidden[t], back, by_gate)
            by_cell.addcmul_(by_state, torch.addcmul(leave, leave * squash, squash, value=-1))
            torch.addcmul(opened, opened, opened, value=-1, out=by_gate[: 3 * size])  # the slope of a sigmoid
            by_enter.mul_(candidate)
            by_keep.mul_(cells[t])
            by_leave.mul_(squash).mul_(by_state)
            torch.addcmul(enter, enter * candidate, candidate, value=-1, out=by_candidate).mul_(by_cell)
            by_gate.view(4, size, -1)[:2].mul_(by_cell)
            by_cell.mul_(keep)
            by_into.addmm_(by_gate, seen[t].mT)
            by_recurrent.addmm_(by_gate, hidden[t].mT)
            by_bias.add_(by_gate.sum(1, keepdim=True))
        return by_weight, by_bias, None


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
