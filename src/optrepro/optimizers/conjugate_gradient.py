"""Nonlinear conjugate gradient with the Polak-Ribière+ update, with or without a line search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._switching import require

DECREASE = 1e-4  # share of the predicted decrease that a step must reach (Nocedal and Wright 2006, section 3.1)
HALVINGS = 10  # chosen: a line search that has found nothing then gives up


class ConjugateGradient(Optimizer):
    r"""Nonlinear conjugate gradient, Polak-Ribière+.

    .. math:: d_t = -g_t + \beta_t d_{t-1}, \qquad
        \beta_t = \max\left(0, \frac{\langle g_t, g_t - g_{t-1} \rangle}{\langle g_{t-1}, g_{t-1} \rangle}\right),
        \qquad x \leftarrow x + \alpha d_t

    It starts again from :math:`d_t = -g_t` wherever :math:`\beta_t` is cut off at zero, and where the direction is not
    one of descent. With minibatches the two gradients of :math:`\beta_t` come from different ones.

    Args:
        params: parameters to optimize, in one group, as they share one direction.
        lr: the step length alpha; with a line search the first one that it tries.
        line_search: None, or ``"armijo"``: alpha is halved until the closure's loss decreases by 1e-4 of what its slope
            predicts, ten times at most; if it never does, the parameters stay and the direction is forgotten.

    `step` needs a closure. It is called once, and with a line search once more for every length tried; it must
    evaluate the same minibatch within a step.

    Shape: parameters of any shape and real floating dtype, all on one device. State: the last gradient and direction.
    Raises: ValueError for a setting that is not allowed, a second parameter group, complex parameters or a missing
        closure; RuntimeError for sparse gradients.
    Source: Polak and Ribière 1969; Nocedal and Wright, Numerical Optimization, 2nd edition 2006, equation 5.44 (the
        update), 5.45 (cut off at zero) and algorithm 3.1 (backtracking).
    """

    def __init__(self, params: ParamsT, lr: float = 0.01, line_search: Literal["armijo"] | None = None) -> None:
        require(lr > 0, "lr", lr, "positive")
        require(line_search in (None, "armijo"), "line_search", line_search, "None or 'armijo'")
        super().__init__(params, {"lr": lr, "line_search": line_search})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group there may be; ValueError for a second one or for complex parameters."""
        if self.param_groups:
            raise ValueError("params = several groups; ConjugateGradient takes one, as they share one direction.")
        super().add_param_group(param_group)
        if any(p.is_complex() for p in self.param_groups[0]["params"]):
            raise ValueError("params: ConjugateGradient does not support complex parameters; pass view_as_real.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step and return the loss before it.

        Args:
            closure: clears the gradients, evaluates the loss, calls ``backward()`` and returns the loss.
        """
        if closure is None:
            raise ValueError("closure = None is not allowed: ConjugateGradient evaluates the loss in every step.")
        evaluate = torch.enable_grad()(closure)
        loss = evaluate()
        group = self.param_groups[0]
        gradient = _flat([_gradient(p) for p in group["params"]])
        direction, slope = self._direction(gradient)
        if group["line_search"] is None:
            self._move(group["lr"] * direction)
        elif not self._backtrack(evaluate, float(loss), direction, slope):
            direction = torch.zeros_like(direction)
        self._memory.update(gradient=gradient, direction=direction)
        return loss

    @property
    def _memory(self) -> dict[str, Any]:
        """State of the whole, kept under the first parameter so that it is saved and moved as torch's is."""
        state: dict[str, Any] = self.state[self.param_groups[0]["params"][0]]
        return state

    def _direction(self, gradient: Tensor) -> tuple[Tensor, float]:
        """The next direction, and the slope along it."""
        if not self._memory:
            return -gradient, -float(gradient @ gradient)
        last = self._memory["gradient"]
        # A last gradient of zero gives an infinite or undefined beta, which is no direction of descent.
        beta = ((gradient @ (gradient - last)) / (last @ last)).clamp_min(0)
        direction = beta * self._memory["direction"] - gradient
        slope = float(gradient @ direction)
        if not slope < 0:
            return -gradient, -float(gradient @ gradient)
        return direction, slope

    def _backtrack(self, evaluate: Callable[[], Any], loss: float, direction: Tensor, slope: float) -> bool:
        """Go along the direction to the first length that decreases the loss enough; False, and back, if none does."""
        params = self.param_groups[0]["params"]
        start, length = [p.clone() for p in params], self.param_groups[0]["lr"]
        for _ in range(HALVINGS + 1):
            self._move(length * direction)
            if float(evaluate()) <= loss + DECREASE * length * slope:
                return True
            torch._foreach_copy_(params, start)
            length /= 2
        return False

    def _move(self, step: Tensor) -> None:
        params = self.param_groups[0]["params"]
        for p, part in zip(params, torch.split(step, [p.numel() for p in params]), strict=True):
            p.add_(part.view_as(p))


def _flat(tensors: list[Tensor]) -> Tensor:
    """All elements in one vector."""
    return torch.cat([t.reshape(-1) for t in tensors])


def _gradient(param: Tensor) -> Tensor:
    if param.grad is None:
        return torch.zeros_like(param)
    if param.grad.is_sparse:
        raise RuntimeError("ConjugateGradient does not support sparse gradients.")
    return param.grad
