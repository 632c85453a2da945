"""What every optimizer of this package promises of its settings, its parameters and its state."""

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
# Settings of torch's optimizers that have no meaning here, and that a checkpoint of theirs brings along.
FOREIGN = ("fused", "capturable", "differentiable", "amsgrad", "decoupled_weight_decay")


class BaseOptimizer(Optimizer):
    """An optimizer whose state holds tensors of its parameters, and nothing else.

    Whatever a subclass keeps beside `state` to step faster is made from it, and made anew after `_forget_layout`.
    `state_dict` gives every tensor a storage of its own. A state that does not fit is refused before anything changes.

    Args:
        params: parameters, or groups of them with settings of their own.
        defaults: settings of groups that have none of their own.
        process_group: ranks that train the model together, see `_ranks.resolve`.
    """

    def __init__(
        self,
        params: ParamsT,
        defaults: Group,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        resolve(process_group)  # a setting that is not allowed is refused here
        self.process_group = process_group
        super().__init__(params, defaults)

    # What a kind of optimizer says.

    def _checked(self, group: Group) -> Group:
        """The settings of a group in their usual form, or a ValueError."""
        return group

    def _check_params(self, group: Group) -> None:
        """Raise a ValueError for parameters that the optimizer cannot move."""
        if any(not param.is_floating_point() for param in group["params"]):
            name = type(self).__name__
            raise ValueError(f"params: {name} does not support complex parameters; pass torch.view_as_real of them")

    def _translated(self, group: Group, saved: Group, states: list[State]) -> Group:
        """The settings that a group has after loading `saved`; may rename what the states of its parameters hold.

        Raises: ValueError for a checkpoint that cannot be taken over.
        """
        return {**_settings(group), **saved}

    def _state_names(self, group: Group) -> dict[str, bool]:
        """Names of all tensors in the state of a parameter: whether they are shaped like it, in its precision."""
        raise NotImplementedError

    def _forget_layout(self) -> None:
        """Have everything that is kept beside `state` made anew from it."""

    # What users call.

    @torch._disable_dynamo  # type: ignore[attr-defined]
    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, with settings of their own where given.

        Raises: ValueError for a setting out of its range, or for parameters that cannot be optimized; the optimizer is
            then as it was.
        """
        super().add_param_group(self._checked({**self.defaults, **param_group}))
        try:
            self._check_params(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise
        self._forget_layout()

    def state_dict(self) -> dict[str, Any]:
        """The state as torch's, every tensor contiguous and in a storage of its own, as file formats ask for."""
        packed, seen = super().state_dict(), set[int]()
        packed["state"] = {key: _apart(state, seen) for key, state in packed["state"].items()}
        return packed

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict`, bit for bit. It is copied, so that two optimizers never share a tensor.

        Raises: ValueError for a state that does not fit; the optimizer is then as it was.
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
        """A copy of the dictionaries with all settings and names as this optimizer has them."""
        saved_groups = [dict(group) for group in state_dict["param_groups"]]
        states = {key: dict(state) for key, state in state_dict["state"].items()}
        if len(saved_groups) != len(self.param_groups):
            found = f"{len(saved_groups)} parameter groups, and the optimizer has {len(self.param_groups)}"
            raise ValueError(f"state_dict has {found}: they must be as many")
        for position, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            if len(saved["params"]) != len(group["params"]):
                found = f"{len(saved['params'])} parameters, and the optimizer's has {len(group['params'])}"
                raise ValueError(f"group {position} of state_dict has {found}: they must be as many")
            if saved.get("amsgrad"):
                raise ValueError("state_dict has amsgrad = True: such a state cannot be taken over")
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
        """Copies of what was saved; torch has cast all of it to the parameters' precision, which is right for some."""
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
        # A process group belongs to its process.
        return {**super().__getstate__(), "state": state, "process_group": None if group is None else "world"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget_layout()

    def _all_params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]


def evaluate(closure: Callable[[], Any]) -> Any:
    """The closure's loss, with gradients recorded."""
    with torch.enable_grad():
        return closure()


def refuse_sparse(params: Iterable[Tensor], optimizer: object) -> None:
    """Raise a RuntimeError if the gradient of any parameter is sparse, before any of them is moved."""
    for param in params:
        if param.grad is not None and param.grad.layout is not torch.strided:
            raise RuntimeError(f"{type(optimizer).__name__} does not support sparse gradients")


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names the setting, its value and what is allowed."""
    if not condition:
        raise ValueError(f"{name} = {value!r} is not allowed: it must be {allowed}")


def _settings(group: Group) -> Group:
    return {name: value for name, value in group.items() if name != "params"}


def _apart(state: Any, seen: set[int]) -> Any:
    """The state with tensors that none of those in `seen` shares a storage with; they are added to these."""
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
