"""Gradient descent with Polyak's step length: an oracle that knows the minimum."""

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
    r"""Gradient descent whose step length needs the minimum :math:`f^*` and nothing else.

    .. math:: x \leftarrow x - \frac{f(x) - f^*}{\lVert \nabla f(x) \rVert^2} \nabla f(x)

    A scalar loss, or a number, makes all parameters one problem. A loss of shape (...,) makes the parameters of shape
    (..., dim) one problem for every element of the loss. A problem stays where it is if its gradient is zero, if its
    loss is not above the minimum, or if its loss or gradient is not finite. Parameters without a gradient stay, too.

    Args:
        params: parameters to optimize, in one group, as they share one step length.
        optimum: the minimum, a float or a tensor that broadcasts to the loss, on the device of the parameters.
        lr: factor on the step, at least 0; 1 is Polyak's. Schedulers and training programs expect one.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. Their mean loss is looked at. The ranks must hold the same parameters, or
            shards of `fully_shard` or `FullyShardedDataParallel`, and these a scalar loss.

    Shape: the shape of every parameter starts with the loss's shape; real floating dtypes, all on one device. There is
        no state beside `optimum`.
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
        """Add the one group there may be; ValueError for a second one or for parameters that cannot be optimized."""
        if self.param_groups:
            raise ValueError("params = several groups; Polyak takes one, as all parameters share one step length.")
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
        # Divides by the norm twice: one over its square overflows where the function is almost flat.
        inverse = torch.where(norm > 0, 1 / norm, 0)
        moves = above.isfinite() & norm.isfinite()
        for param, gradient in rows.items():
            step = torch.where(moves, lr * above * inverse * (gradient * inverse), 0)
            local(param).sub_(step.view(local(param).shape))


def _value(loss: Any) -> Tensor:
    """The loss, or losses, in float64."""
    if loss is None:
        raise ValueError("closure returned None: it must return the loss")
    return torch.as_tensor(loss).detach().double()


def _mean(value: Tensor, coordinates: Coordinates) -> Tensor:
    for group in coordinates.partners:
        value = gathered(value, group).mean(0)
    return value


def _above(loss: Tensor, optimum: float | Tensor) -> Tensor:
    """How far the loss lies above the minimum; 0 where rounding puts it below."""
    if isinstance(optimum, Tensor):
        try:
            optimum = optimum.to(loss).expand(loss.shape)
        except RuntimeError:
            shapes = f"{tuple(optimum.shape)}, which must broadcast to the loss's shape {tuple(loss.shape)}"
            raise ValueError(f"optimum has shape {shapes}.") from None
    return (loss - optimum).clamp_min(0)


def _norm(rows: dict[Tensor, Tensor], like: Tensor, coordinates: Coordinates) -> Tensor:
    """The norm of each problem's gradient (..., 1) over all parameters and ranks, from rows (..., n) of each parameter.

    What is squared is divided by the largest before: the squares themselves might leave the range of numbers.
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
        raise ValueError(f"loss has the shape {tuple(problems)}: where parameters are sharded it must be one number")
    if param.shape[: len(problems)] != problems:
        raise ValueError(f"params: shape {tuple(param.shape)} must start with the loss's shape {tuple(problems)}.")
