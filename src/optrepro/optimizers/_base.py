"""The base class of this package's optimizers: how settings are checked, and how state is saved and loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from optrepro.optimizers._ranks import local, resolve
from optrepro.optimizers._vectors import own

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Group = dict[str, Any]
State = dict[str, Tensor]
# Settings without a meaning here, which a checkpoint of one of torch's optimizers brings along.
FOREIGN = ("fused", "capturable", "differentiable", "amsgrad", "decoupled_weight_decay")


class BaseOptimizer(Optimizer):
    """An optimizer whose whole state is tensors, stored per parameter.

    A subclass may keep further objects beside `state` to step faster. They are derived from the state, and
    `_forget_layout` discards them. `state_dict` gives every tensor its own storage. Loading a state that does not fit
    raises an error and leaves the optimizer unchanged.

    Args:
        params: parameters, or parameter groups with their own settings.
        defaults: settings for groups that do not give their own.
        process_group: the ranks that train the model together; see `_ranks.resolve`.
    """

    def __init__(
        self,
        params: ParamsT,
        defaults: Group,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        resolve(process_group)  # raises an error for a setting that is not allowed
        self.process_group = process_group
        super().__init__(params, defaults)

    # Methods that subclasses override.

    def _checked(self, group: Group) -> Group:
        """Return the group's settings in their usual form, or raise a ValueError."""
        return group

    def _check_params(self, group: Group) -> None:
        """Raise a ValueError for parameters that the optimizer cannot optimize."""
        if any(not param.is_floating_point() for param in group["params"]):
            name = type(self).__name__
            raise ValueError(f"params: {name} does not support complex parameters; pass torch.view_as_real(parameter)")

    def _translated(self, group: Group, saved: Group, states: list[State]) -> Group:
        """Return the group's settings after loading `saved`; may also convert the states of its parameters in place.

        Raises: ValueError for a checkpoint that cannot be loaded.
        """
        return {**_settings(group), **saved}

    def _state_names(self, group: Group) -> dict[str, bool]:
        """Map the name of each state tensor to whether it has the parameter's shape and dtype."""
        raise NotImplementedError

    def _forget_layout(self) -> None:
        """Discard everything that is derived from `state`, so that it is built again."""

    # Public methods.

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def add_param_group(self, param_group: Group) -> None:
        """Add a parameter group, with its own settings where given.

        Raises: ValueError for a setting outside its range or parameters that cannot be optimized. The optimizer is then
            unchanged.
        """
        super().add_param_group(self._checked({**self.defaults, **param_group}))
        try:
            self._check_params(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise
        self._forget_layout()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as torch does, with every tensor contiguous and in its own storage, ready for any format."""
        packed, seen = super().state_dict(), set[int]()
        packed["state"] = {key: _apart(state, seen) for key, state in packed["state"].items()}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict`, bit for bit. The tensors are copied, so two optimizers never share one.

        Raises: ValueError for a state that does not fit. The optimizer is then unchanged.
        """
        before = self.state, self.param_groups
        prepared = self._prepared(state_dict)
        try:
            super().load_state_dict(prepared)
            self._take_over(prepared)
        except Exception:
            self.state, self.param_groups = before
            self._forget_layout()
            raise

    def _prepared(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Check a `state_dict` and return a copy in which settings and names are those of this optimizer."""
        saved_groups = [dict(group) for group in state_dict["param_groups"]]
        states = {key: dict(state) for key, state in state_dict["state"].items()}
        if len(saved_groups) != len(self.param_groups):
            found = f"{len(saved_groups)} parameter groups, and the optimizer has {len(self.param_groups)}"
            raise ValueError(f"state_dict has {found}: the numbers must be equal")
        for position, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            if len(saved["params"]) != len(group["params"]):
                found = f"{len(saved['params'])} parameters, and the optimizer's group has {len(group['params'])}"
                raise ValueError(f"group {position} of state_dict has {found}: the numbers must be equal")
            if saved.get("amsgrad"):
                raise ValueError("state_dict has amsgrad = True: such a state cannot be loaded")
            members = [states[key] for key in saved["params"] if states.get(key)]
            kept = {name: value for name, value in saved.items() if name not in FOREIGN}
            saved_groups[position] = group_now = self._translated(group, kept, members)
            for param, key in zip(group["params"], saved["params"], strict=True):
                if states.get(key):
                    self._check_state(param, group_now, states[key], key)
        return {**state_dict, "param_groups": saved_groups, "state": states}

    def _check_state(self, param: Tensor, group: Group, state: State, key: object) -> None:
        expected, found = self._state_names(group), set(state)
        if found != set(expected):
            raise ValueError(
                f"state of parameter {key} holds {sorted(map(str, found))}, and {type(self).__name__} needs "
                f"{sorted(expected)}: was it saved by another optimizer, or with other settings?"
            )
        for name, is_like in expected.items():
            if is_like and state[name].shape != param.shape:
                shapes = f"{tuple(state[name].shape)}, and the parameter {tuple(param.shape)}"
                raise ValueError(f"state of parameter {key}: {name} has the shape {shapes}: they must be equal")

    def _take_over(self, prepared: dict[str, Any]) -> None:
        """Copy the saved tensors in their own dtype: torch has cast all of them to the parameters' dtype."""
        keys = [key for group in prepared["param_groups"] for key in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        names = [self._state_names(group) for group in self.param_groups for _ in group["params"]]
        for key, param, likes in zip(keys, params, names, strict=True):
            for name, value in prepared["state"].get(key, {}).items():
                dtype = param.dtype if likes[name] else value.dtype
                self.state[param][name] = value.detach().to(param.device, dtype, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        state = defaultdict(dict, {param: _compact(state) for param, state in self.state.items()})
        group = self.process_group
        # A process group cannot leave its process.
        return {**super().__getstate__(), "state": state, "process_group": None if group is None else "world"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_layout()

    def _all_params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]


def evaluate(closure: Callable[[], Any]) -> Any:
    """Evaluate the closure with gradients enabled, and return its loss."""
    with torch.enable_grad():
        return closure()


def refuse_sparse(params: Iterable[Tensor], optimizer: object) -> None:
    """Raise a RuntimeError if any gradient is sparse."""
    for param in params:
        if param.grad is not None and param.grad.layout is not torch.strided:
            raise RuntimeError(f"{type(optimizer).__name__} does not support sparse gradients")


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise a ValueError with the setting, its value and what is allowed, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} = {value!r} is not allowed: it must be {allowed}")


def _settings(group: Group) -> Group:
    return {name: value for name, value in group.items() if name != "params"}


def _apart(state: Any, seen: set[int]) -> Any:
    """Return the state with every tensor in its own storage; `seen` collects the addresses of all tensors so far."""
    if not isinstance(state, dict):
        return state
    apart = dict(state)
    for name, value in state.items():
        if isinstance(value, Tensor):
            apart[name] = value = own(value.contiguous())
            if value.numel() and local(value).data_ptr() in seen:
                apart[name] = value = value.clone()
            seen.add(local(value).data_ptr())
    return apart


def _compact(state: Any) -> Any:
    if not isinstance(state, dict):
        return state
    return {name: own(value) if isinstance(value, Tensor) else value for name, value in state.items()}
