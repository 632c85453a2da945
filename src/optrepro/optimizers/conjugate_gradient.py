"""Nonlinear conjugate gradient with the Polak-Ribière+ update, with or without a line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import Group, evaluate, require
from optrepro.optimizers._closure import ClosureOptimizer
from optrepro.optimizers._coordinates import Coordinates, Memory
from optrepro.optimizers._ranks import local

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

DECREASE = 1e-4  # share of the predicted decrease that a step must reach (Nocedal and Wright 2006, section 3.1)
HALVINGS = 10  # chosen: the line search gives up after this many halvings


class ConjugateGradient(ClosureOptimizer):
    r"""Nonlinear conjugate gradient, Polak-Ribière+.

    .. math:: d_t = -g_t + \beta_t d_{t-1}, \qquad
        \beta_t = \max\left(0, \frac{\langle g_t, g_t - g_{t-1} \rangle}{\langle g_{t-1}, g_{t-1} \rangle}\right),
        \qquad x \leftarrow x + \alpha d_t

    It restarts from :math:`d_t = -g_t` if :math:`\beta_t` is cut off at zero or if :math:`d_t` is not a descent
    direction. With mini-batches, the two gradients in :math:`\beta_t` come from different batches.

    `step` needs a closure. It is called once, and with a line search once more for every step length tried. Within a
    step it must evaluate the same mini-batch. If the loss or a gradient is not finite, the step is skipped and the
    state stays unchanged. Parameters without a gradient do not move.

    Args:
        params: parameters in a single group, since they share one direction.
        lr: the step length alpha, or with a line search the first length that it tries.
        line_search: None or ``"armijo"``. The latter halves alpha, at most ten times, until the loss decreases by at
            least 1e-4 of what the slope predicts. If it never does, the parameters stay and the direction is reset.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. The loss is averaged over them, in the line search too. The ranks must
            hold the same parameters, or shards made by `fully_shard` or `FullyShardedDataParallel`.

    Shape: parameters of any shape and real floating dtype, all on one device. The arithmetic is in the widest of their
        dtypes, and sums over elements are in float64. The state is the ``gradient`` and ``direction`` of the last step,
        shaped and sharded like the parameter.
    Raises: ValueError for a setting that is not allowed, a second parameter group, complex parameters, a missing
        closure, or parameters that differ between the ranks; RuntimeError for sparse gradients.
    Source: Polak and Ribière 1969; Nocedal and Wright, Numerical Optimization, 2nd edition 2006, equation 5.44 (the
        update), 5.45 (cut off at zero) and algorithm 3.1 (backtracking).
    """

    purpose = "evaluates the loss in every step"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.01,
        line_search: Literal["armijo"] | None = None,
        *,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        super().__init__(params, {"lr": lr, "line_search": line_search}, process_group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the only parameter group.

        Raises: ValueError for a second group or for parameters that cannot be optimized.
        """
        if self.param_groups:
            raise ValueError("params: ConjugateGradient takes a single group, because parameters share one direction")
        super().add_param_group(param_group)

    def _checked(self, group: Group) -> Group:
        require(group["lr"] > 0, "lr", group["lr"], "positive")
        require(group["line_search"] in (None, "armijo"), "line_search", group["line_search"], "None or 'armijo'")
        return group

    def _table_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"gradient": (), "direction": ()}

    def _begin(self, coordinates: Coordinates) -> Memory:
        zero = torch.zeros(coordinates.size, dtype=self._dtype(coordinates), device=coordinates.device)
        return Memory(coordinates, {"gradient": zero, "direction": zero.clone()}, {})

    def _dtype(self, coordinates: Coordinates) -> torch.dtype:
        """The widest of the parameters' dtypes."""
        dtypes = [param.dtype for param in coordinates.params]
        return reduce(torch.promote_types, dtypes) if dtypes else torch.float32

    def _take(self, loss: Any, closure: Callable[[], Any]) -> None:
        look = self._look(loss)
        if not look.is_finite:
            return
        memory = self._remembered()
        coordinates, last, direction = memory.coordinates, memory.tables["gradient"], memory.tables["direction"]
        gradient = coordinates.gradient(last.dtype)
        slope = self._turn(coordinates, gradient, last, direction)
        last.copy_(gradient)
        group = self.param_groups[0]
        # Listed before the line search, since another evaluation of the closure may give gradients to other parameters.
        moved = [
            (local(param), part)
            for param, part in zip(coordinates.params, coordinates.split(direction), strict=True)
            if param.grad is not None
        ]
        if group["line_search"] is None:
            _go(moved, group["lr"])
        elif not self._backtrack(closure, look.loss, moved, slope):
            direction.zero_()

    def _turn(self, coordinates: Coordinates, gradient: Tensor, last: Tensor, direction: Tensor) -> float:
        """Update the direction in place, and return the slope of the loss along it."""
        before = coordinates.dot(last, last)
        # In the first step, or after a gradient of zero, there is no previous direction.
        beta = max(0.0, coordinates.dot(gradient, gradient - last) / before) if before > 0 else 0.0
        direction.mul_(beta).sub_(gradient)
        for param, part in zip(coordinates.params, coordinates.split(direction), strict=True):
            if param.grad is None:
                part.zero_()
        slope = coordinates.dot(gradient, direction)
        if beta > 0 and -math.inf < slope < 0:
            return slope
        torch.neg(gradient, out=direction)
        return -coordinates.dot(gradient, gradient)

    def _backtrack(self, closure: Callable[[], Any], loss: float, moved: Moved, slope: float) -> bool:
        """Move along the direction by the first length that decreases the loss enough.

        If no length does, the parameters are restored and the result is False.
        """
        start, length = [param.clone() for param, _ in moved], float(self.param_groups[0]["lr"])
        decreased = False
        try:
            for _ in range(HALVINGS + 1):
                _go(moved, length)
                there = self._mean_loss(evaluate(closure))
                decreased = math.isfinite(there) and there <= loss + DECREASE * length * slope
                if decreased:
                    break
                _put_back(moved, start)
                length /= 2
        finally:  # also restores the parameters if the closure raises an error
            if not decreased:
                _put_back(moved, start)
        return decreased


Moved = Sequence[tuple[Tensor, Tensor]]  # this rank's shards of the parameters, and their directions


def _go(moved: Moved, length: float | Tensor) -> None:
    for param, direction in moved:
        param.add_(direction * length)


def _put_back(moved: Moved, start: Sequence[Tensor]) -> None:
    for (param, _), before in zip(moved, start, strict=True):
        param.copy_(before)
