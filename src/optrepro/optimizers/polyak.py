"""Gradient descent with Polyak's step length, which requires the value of the minimum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import Group, require
from optrepro.optimizers._closure import ClosureOptimizer
from optrepro.optimizers._coordinates import Coordinates, Memory
from optrepro.optimizers._ranks import gathered, local, local_gradient, total

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Polyak(ClosureOptimizer):
    r"""Gradient descent whose step length is computed from the loss, the gradient and the minimum :math:`f^*`.

    .. math:: x \leftarrow x - \frac{f(x) - f^*}{\lVert \nabla f(x) \rVert^2} \nabla f(x)

    With a scalar loss all parameters form one problem. With a loss of shape (...,), parameters of shape (..., dim)
    form one independent problem for every element of the loss. A problem does not move if its gradient is zero, if its
    loss is not above the minimum, or if its loss or gradient is not finite. Parameters without a gradient do not move.

    Args:
        params: parameters in a single group, since they share one step length.
        optimum: the minimum, a float or a tensor that broadcasts to the loss, on the device of the parameters.
        lr: factor on the step, at least 0; Polyak's is 1. Schedulers and training programs expect this setting.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. The loss is averaged over them. The ranks must hold the same parameters,
            or shards made by `fully_shard` or `FullyShardedDataParallel`, which need a scalar loss.

    Shape: every parameter's shape starts with the loss's shape. Parameters have real floating dtypes and are all on one
        device. There is no state beside the setting `optimum`.
    Raises: ValueError for an optimum that is not finite or does not fit the loss, for a second parameter group, complex
        parameters, a missing closure, a parameter that does not fit the loss, or parameters that differ between the
        ranks; RuntimeError for sparse gradients.
    Source: B. T. Polyak, Minimization of unsmooth functionals, USSR Computational Mathematics and Mathematical
        Physics 9 (1969), 14-29.
    """

    purpose = "takes a step whose length depends on the loss"

    def __init__(
        self,
        params: ParamsT,
        optimum: float | Tensor = 0.0,
        lr: float | Tensor = 1.0,
        *,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        super().__init__(params, {"optimum": optimum, "lr": lr}, process_group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the only parameter group.

        Raises: ValueError for a second group or for parameters that cannot be optimized.
        """
        if self.param_groups:
            raise ValueError("params: Polyak takes a single group, because parameters share one step length")
        super().add_param_group(param_group)

    def _checked(self, group: Group) -> Group:
        require(group["lr"] >= 0, "lr", group["lr"], "at least 0")
        optimum = group["optimum"]
        is_finite = bool(torch.as_tensor(optimum).isfinite().all())
        require(is_finite, "optimum", optimum, "finite: the step needs the minimum of the loss")
        return group

    def _remembered(self) -> Memory:
        return Memory(self._laid_out(), {}, {})

    def _table_shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _take(self, loss: Any, closure: Callable[[], Any]) -> None:
        coordinates, value = self._laid_out(), _value(loss)
        lr = self.param_groups[0]["lr"]
        for param in coordinates.params:
            _require_fit(param, value.shape, bool(coordinates.shards))
        above = _above(_mean(value.to(coordinates.device), coordinates), self.param_groups[0]["optimum"]).unsqueeze(-1)
        rows = {
            param: local_gradient(param).detach().double().reshape(*value.shape, -1)
            for param in coordinates.params
            if param.grad is not None
        }
        norm = _norm(rows, above, coordinates)
        # Divide by the norm twice, because the inverse of its square overflows where the function is almost flat.
        inverse = torch.where(norm > 0, 1 / norm, 0)
        moves = above.isfinite() & norm.isfinite()
        for param, gradient in rows.items():
            step = torch.where(moves, lr * above * inverse * (gradient * inverse), 0)
            local(param).sub_(step.view(local(param).shape))


def _value(loss: Any) -> Tensor:
    """The loss, one number or several, as a float64 tensor."""
    if loss is None:
        raise ValueError("closure returned None: it must return the loss")
    return torch.as_tensor(loss).detach().double()


def _mean(value: Tensor, coordinates: Coordinates) -> Tensor:
    for group in coordinates.partners:
        value = gathered(value, group).mean(0)
    return value


def _above(loss: Tensor, optimum: float | Tensor) -> Tensor:
    """The difference of loss and minimum; 0 if rounding makes it negative."""
    if isinstance(optimum, Tensor):
        try:
            optimum = optimum.to(loss).expand(loss.shape)
        except RuntimeError:
            shapes = f"{tuple(optimum.shape)}, which must broadcast to the loss's shape {tuple(loss.shape)}"
            raise ValueError(f"optimum has shape {shapes}.") from None
    return (loss - optimum).clamp_min(0)


def _norm(rows: dict[Tensor, Tensor], like: Tensor, coordinates: Coordinates) -> Tensor:
    """The norm (..., 1) of each problem's gradient over all parameters and ranks.

    The elements are divided by the largest one before they are squared, since the squares might overflow.

    Args:
        rows: the gradient of each parameter, (..., n).
        like: a tensor (..., 1) with the dtype and device of the result.
        coordinates: the parameters and the ranks that hold them.
    """
    largest = torch.zeros_like(like)
    for gradient in rows.values():
        if gradient.shape[-1]:
            largest = torch.maximum(largest, gradient.abs().amax(-1, keepdim=True))
    for group in coordinates.shards:
        largest = gathered(largest, group).amax(0)
    divisor, squares = torch.where(largest > 0, largest, 1), torch.zeros_like(like)
    for groups in coordinates.spread:
        part = torch.zeros_like(like)
        for param, mine in zip(coordinates.params, coordinates.holders, strict=True):
            if mine == groups and param in rows:
                part += (rows[param] / divisor).square().sum(-1, keepdim=True)
        squares += total(part, groups)
    return divisor * squares.sqrt()


def _require_fit(param: Tensor, problems: torch.Size, is_sharded: bool) -> None:
    if is_sharded and problems:
        raise ValueError(f"loss has the shape {tuple(problems)}: with sharded parameters it must be one number")
    if param.shape[: len(problems)] != problems:
        raise ValueError(f"params: shape {tuple(param.shape)} must start with the loss's shape {tuple(problems)}.")
