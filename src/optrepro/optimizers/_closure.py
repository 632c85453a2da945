"""The base class of optimizers that use the loss: they need a closure, and skip steps that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from optrepro.optimizers._base import BaseOptimizer, Group, State, evaluate, refuse_sparse
from optrepro.optimizers._coordinates import Coordinates, Memory
from optrepro.optimizers._ranks import gathered, local, local_gradient, resolve

Loss = TypeVar("Loss")


class Look(NamedTuple):
    """The loss, averaged over ranks, and the largest absolute gradient element on any rank."""

    loss: float
    largest: float

    @property
    def is_finite(self) -> bool:
        """Whether both numbers are finite, so that a step can be taken."""
        return math.isfinite(self.loss) and math.isfinite(self.largest)


class ClosureOptimizer(BaseOptimizer):
    """An optimizer whose step needs a closure and treats all elements of all parameters as one problem.

    If the loss or a gradient is not finite on any rank, the step is skipped and the state stays unchanged.
    """

    purpose = "looks at the loss"
    couples = True  # whether the step of a coordinate depends on the others

    _coordinates: Coordinates | None = None
    _memory: Memory | None = None
    _is_checked = False

    # Methods that subclasses override.

    def _begin(self, coordinates: Coordinates) -> Memory:
        """Create the state before the first step."""
        raise NotImplementedError

    def _table_shapes(self) -> dict[str, tuple[int, ...]]:
        """For each state tensor whose leading dimensions are the parameter's, the dimensions that follow."""
        raise NotImplementedError

    def _number_names(self) -> tuple[str, ...]:
        """Names of the scalars that belong to the whole problem."""
        return ()

    def _prepare(self) -> None:
        """Called before the closure is evaluated."""

    def _take(self, loss: Any, closure: Callable[[], Any]) -> None:
        """Take a step after the closure has returned this loss."""
        raise NotImplementedError

    # Public methods.

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure, take one step, and return the loss before the step.

        Args:
            closure: clears the gradients, evaluates the loss, calls ``backward()`` and returns the loss.

        Raises: ValueError without a closure. The exception is a call in which all gradients are zero or None: it only
            creates the state, as tools that save checkpoints require.
        """
        params = self._all_params()
        if closure is None:
            refuse_sparse(params, self)
            if any(bool(local_gradient(param).any()) for param in params if param.grad is not None):
                name = type(self).__name__
                why = f"{name} {self.purpose}, so step needs a function that computes gradients and returns the loss"
                raise ValueError(f"closure = None is not allowed: {why}")
            self._remembered()
            return None
        self._check_ranks(self._laid_out())
        self._prepare()
        loss = evaluate(closure)
        refuse_sparse(params, self)
        self._take(loss, closure)
        return loss

    # Shared by all subclasses.

    def _laid_out(self) -> Coordinates:
        """The order of the coordinates, rebuilt if parameters were replaced or moved to another device."""
        params = self._all_params()
        if self._coordinates is None or not self._coordinates.fit(params):
            group = resolve(self.process_group)
            # The old memory describes the old coordinates. `_remembered` restores what the parameters' state holds.
            self._coordinates, self._memory = Coordinates(params, group), None
        return self._coordinates

    def _remembered(self) -> Memory:
        """The memory behind the parameters' state; created, or restored from the state, if needed."""
        coordinates = self._laid_out()
        memory = self._memory
        if memory is None or not memory.is_attached(self.state):
            for param in coordinates.params:
                if self.state.get(param):
                    self._check_shapes(param)
            memory = self._begin(coordinates)
            memory.restore(self.state)
            memory.attach(self.state)
            self._memory = memory
        return memory

    def _check_shapes(self, param: Tensor) -> None:
        for name, further in self._table_shapes().items():
            found = self.state[param].get(name)
            if found is not None and found.shape != (*param.shape, *further):
                before = tuple(found.shape[: found.ndim - len(further)])
                raise ValueError(
                    f"params: one now has the shape {tuple(param.shape)} and had {before} in earlier steps: "
                    f"create a new {type(self).__name__} for the changed parameters"
                )

    def _look(self, loss: Any) -> Look:
        """The loss and the largest gradient element, made equal on all ranks."""
        coordinates = self._laid_out()
        value, largest = number(loss), coordinates.largest()
        for group in coordinates.partners:
            facts = torch.tensor([value, largest], dtype=torch.float64, device=coordinates.device)
            everyone = gathered(facts, group)
            value, largest = torch.stack([everyone[:, 0].mean(), everyone[:, 1].max()]).tolist()
        return Look(value, largest)

    def _mean_loss(self, loss: Any) -> float:
        """The loss averaged over the ranks."""
        coordinates, value = self._laid_out(), number(loss)
        for group in coordinates.partners:
            facts = torch.tensor([value], dtype=torch.float64, device=coordinates.device)
            value = float(gathered(facts, group).mean())
        return value

    def _check_ranks(self, coordinates: Coordinates) -> None:
        if self.couples and not self._is_checked and not coordinates.are_shared():
            name = type(self).__name__
            raise ValueError(
                f"params differ between the ranks, and {name} uses all of them in one decision: shard the model with "
                "torch.distributed.fsdp.fully_shard, or pass process_group=None if each rank trains its own model"
            )
        self._is_checked = True

    # State.

    def _state_names(self, group: Group) -> dict[str, bool]:
        return dict.fromkeys([*self._table_shapes(), *self._number_names()], False)

    def _check_state(self, param: Tensor, group: Group, state: State, key: object) -> None:
        super()._check_state(param, group, state, key)
        for name, further in {**self._table_shapes(), **dict.fromkeys(self._number_names(), ())}.items():
            shape = further if name in self._number_names() else (*param.shape, *further)
            if tuple(state[name].shape) != tuple(shape):
                shapes = f"{tuple(state[name].shape)}, and it must be {tuple(shape)}"
                raise ValueError(f"state of parameter {key}: {name} has the shape {shapes}")

    def _forget_layout(self) -> None:
        self._coordinates, self._memory, self._is_checked = None, None, False


def number(loss: Any) -> float:
    """The loss as a float.

    Raises: ValueError if it is None or not a single number.
    """
    value = torch.empty(0) if loss is None else torch.as_tensor(loss)
    if value.numel() != 1:
        found = "None" if loss is None else f"a loss of shape {tuple(value.shape)}"
        raise ValueError(f"closure returned {found}: it must return the loss, one number")
    return float(value.detach())


def move(coordinates: Coordinates, step: Tensor, rates: Sequence[float | Tensor]) -> None:
    """Add a step (n,) to the parameters that have a gradient, each part multiplied by its parameter's rate."""
    for param, part, rate in zip(coordinates.params, coordinates.split(step), rates, strict=True):
        if param.grad is not None:
            local(param).add_(part * rate)
