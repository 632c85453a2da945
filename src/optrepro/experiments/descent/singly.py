"""Problems that can only be evaluated one by one, in box coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from optrepro.experiments.base.shared import shareable
from optrepro.experiments.descent.batched import Evaluate
from optrepro.problems.functions import bbob, cutest
from optrepro.problems.functions.problem import Problem

SOURCES = {"cutest": cutest.problems, "bbob": bbob.problems}


class Singly:
    """N problems of at most D variables with one start each, as a `batched.Suite`; a slice of it is one again."""

    def __init__(self, problems: Sequence[Problem]):
        self.problems = problems
        dims = torch.tensor([len(p.start) for p in problems])
        self.valid = torch.arange(int(dims.max())) < dims[:, None]
        self.start = torch.zeros(self.valid.shape, dtype=torch.float64)
        for row, p in enumerate(problems):
            self.start[row, : dims[row]] = torch.from_numpy((p.start - p.lower) / (p.upper - p.lower))
        self.optima = torch.tensor([p.minimum for p in problems], dtype=torch.float64)

    def __getitem__(self, rows: slice) -> Singly:
        return Singly(self.problems[rows])

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (N,) and gradients (N, D) at box coordinates `u`, (N, D)."""
        values, gradients = u.new_empty(len(u)), torch.zeros_like(u)
        for row, p in enumerate(self.problems):
            values[row], gradients[row, : len(p.start)] = self.one(row)(u[row, : len(p.start)])
        return values, gradients

    def one(self, row: int) -> Evaluate:
        """Return the function of one row alone."""
        p = self.problems[row]
        lower, width = torch.from_numpy(p.lower), torch.from_numpy(p.upper - p.lower)

        def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = p.value_and_gradient((lower + width * u).numpy())
            return torch.tensor(value, dtype=torch.float64), width * torch.from_numpy(gradient)

        return evaluate


@shareable
def of(source: str, count: int, dim: int) -> Singly:
    """Return the first problems of an outside collection, whose package is installed.

    Args:
        source: ``cutest`` or ``bbob``.
        count: number of problems; there are fewer if the collection has no more.
        dim: dimension of BBOB's functions; the largest number of variables of CUTEst's problems.

    Raises: ValueError for a dimension without problems.
    """
    return Singly(SOURCES[source](count, dim))
