"""Gradient descent with Polyak's step length: an oracle that knows the minimum."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class Polyak(Optimizer):
    r"""Gradient descent whose step length needs the minimum :math:`f^*` and nothing else.

    .. math:: x \leftarrow x - \frac{f(x) - f^*}{\lVert \nabla f(x) \rVert^2} \nabla f(x)

    A scalar loss makes all parameters one problem. A loss of shape (...,) makes the parameters of shape (..., dim) one
    problem for every element of the loss. A problem stays where it is if its gradient is zero, or if its loss is not
    above the minimum.

    Args:
        params: parameters to optimize, in one group, as they share one step length.
        optimum: the minimum, a float or a tensor that broadcasts to the loss, on the device of the parameters.

    Shape: the shape of every parameter starts with the loss's shape. There is no state beside `optimum`.
    Raises: ValueError for an optimum that is not finite or does not fit the loss, for a second parameter group, a
        missing closure or a parameter that does not fit the loss; RuntimeError for sparse gradients.
    Source: B. T. Polyak, Minimization of unsmooth functionals, USSR Computational Mathematics and Mathematical
        Physics 9 (1969), 14-29.
    """

    def __init__(self, params: ParamsT, optimum: float | Tensor = 0.0) -> None:
        if not torch.as_tensor(optimum).isfinite().all():
            raise ValueError(f"optimum = {optimum} is not finite; Polyak's step needs the minimum of the loss.")
        super().__init__(params, {"optimum": optimum})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one group there may be; ValueError for a second one."""
        if self.param_groups:
            raise ValueError("params = several groups; Polyak takes one, as all parameters share one step length.")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """Take one step and return the loss before it.

        Args:
            closure: evaluates the loss, calls backward (on its sum, if the loss has a shape) and returns the loss.
        """
        if closure is None:
            raise ValueError("closure = None; Polyak's step length depends on the loss, which the closure returns.")
        with torch.enable_grad():
            loss = closure()
        group = self.param_groups[0]
        params = [p for p in group["params"] if p.grad is not None]
        if params:
            gap = _gap(loss.detach(), group["optimum"]).unsqueeze(-1)
            gradients = [_rows(p, loss.shape) for p in params]
            norm = torch.linalg.vector_norm(torch.cat(gradients, dim=-1), dim=-1, keepdim=True)
            # Divides by the norm twice: one over its square overflows where the function is almost flat.
            inverse = torch.where(norm > 0, 1 / norm, 0)
            for p, gradient in zip(params, gradients, strict=True):
                p.sub_((gap * inverse * (gradient * inverse)).view_as(p))
        return loss


def _gap(loss: Tensor, optimum: float | Tensor) -> Tensor:
    """How far the loss lies above the minimum; 0 where rounding puts it below."""
    if isinstance(optimum, Tensor):
        try:
            optimum = optimum.expand(loss.shape)
        except RuntimeError:
            shapes = f"{tuple(optimum.shape)}, which must broadcast to the loss's shape {tuple(loss.shape)}"
            raise ValueError(f"optimum has shape {shapes}.") from None
    return (loss - optimum).clamp_min(0)


def _rows(p: Tensor, problems: torch.Size) -> Tensor:
    """The gradient of `p` with one row for every problem, (*problems, n)."""
    if p.shape[: len(problems)] != problems:
        raise ValueError(f"params: shape {tuple(p.shape)} must start with the loss's shape {tuple(problems)}.")
    assert p.grad is not None
    if p.grad.is_sparse:
        raise RuntimeError("Polyak does not support sparse gradients.")
    return p.grad.reshape(*problems, -1)
