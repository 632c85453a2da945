"""Rollouts of step rules on many perceptrons at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optrepro.optimizers._learned import StepRule
from optrepro.problems.networks.perceptrons import Perceptrons


@torch.no_grad()
def roll_out(rule: StepRule, problems: Perceptrons, record: Sequence[int]) -> Tensor:
    """Run a rule, and return the true objectives (len(record), R) at the iterations in `record`; 0 is the start."""
    x, columns = problems.start(), [(g.start, g.stop) for g in problems.groups]
    memory, curve, due = rule.begin(x, columns), [], set(record)
    examples = problems.minibatches(record[-1])
    for iteration in range(record[-1] + 1):
        if iteration in due:
            curve.append(problems.objective(x))
        if iteration < record[-1]:
            value, gradient = problems.evaluate(x, examples[iteration])
            step, memory = rule.step(memory, x, value, gradient)
            x = x + step
    return torch.stack(curve)


def area(curve: Tensor, record: Sequence[int]) -> Tensor:
    """Return the mean objective (R,) along curves (len(record), R), by the trapezoid rule."""
    times = torch.tensor(record, dtype=curve.dtype, device=curve.device)
    return torch.trapezoid(curve, times, dim=0) / (times[-1] - times[0])
