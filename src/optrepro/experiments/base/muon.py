"""Muon as people use it: orthogonalized momentum for matrices, AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, as in torch.optim.Muon
ITERATIONS = 5
MOMENTUM = 0.95
SIZE = 0.2  # root mean square of AdamW's updates, to which those of matrices are scaled


class MuonAdamW(torch.optim.AdamW):
    """Muon for parameters of two or more dimensions, AdamW for vectors and scalars, both with one learning rate.

    A matrix of m x n steps along the orthogonalized Nesterov momentum times 0.2 sqrt(max(m, n)), as `torch.optim.Muon`
    with ``adjust_lr_fn="match_rms_adamw"`` does, which takes matrices alone. Kernels of a convolution are matrices with
    one row for each output.

    Args:
        params: parameters, or groups of them.
        lr, betas, weight_decay: see `torch.optim.AdamW`; learning rate and weight decay are those of matrices too.

    Source: arXiv 2502.16982, section 2.2.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.1
    ):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; a closure is evaluated once, before it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        withheld = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim >= 2 and parameter.grad is not None:
                    self._step_matrix(parameter, parameter.grad, group["lr"], group["weight_decay"])
                    withheld.append((parameter, parameter.grad))
                    parameter.grad = None
        super().step()
        for parameter, gradient in withheld:
            parameter.grad = gradient
        return loss

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # torch's AdamW looks for it in every state that it loads
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        update = orthogonalized(gradient.lerp(momentum, MOMENTUM).flatten(1))
        parameter.mul_(1 - rate * decay)
        parameter.sub_(update.view_as(parameter), alpha=rate * SIZE * max(update.shape) ** 0.5)


def orthogonalized(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthonormal rows or columns, (m, n), by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    x: Tensor = matrix / matrix.norm().clamp_min(1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
