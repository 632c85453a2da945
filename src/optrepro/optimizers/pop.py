"""POP: gradient descent whose learning rates a meta-learned policy chooses, for each coordinate and at each step."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from optrepro.optimizers._switching import require
from optrepro.optimizers.policy import Policy, Trajectory, load

WEIGHTS = Path(__file__).parent / "weights"


class POP(Optimizer):
    r"""Prior-fitted optimization policy: it needs no learning rate, only to know how large the space is.

    All elements of all parameters are the coordinates of one problem in a box, :math:`u = (x - l) / e` with lower
    corner :math:`l` and edges :math:`e`. From the values and gradients met so far the policy chooses a learning rate
    :math:`\alpha_i` for each coordinate, and :math:`u_i \leftarrow u_i - \alpha_i\, g_i / |g_i|`. What it chooses does
    not change when the loss is scaled or shifted, nor when the box is.

    Args:
        params: parameters, or groups of them with `lr` and `bounds` of their own.
        lr: without bounds, the edge of an imagined box around the start, the one thing to set: about twice the
            distance that a parameter may have to travel. Steps are not projected into this box. With bounds, a factor
            on the steps, where 1 is what the policy was trained for. In both cases a schedule of `lr` shrinks the
            steps, and leaves the box as it was.
        bounds: lower and upper bound, numbers or tensors that can be expanded to each parameter. Before each
            evaluation and after each step the parameters are projected into them.
        policy: the name of a shipped policy, a file that `optrepro.optimizers.policy.save` wrote, or a `Policy`.

    `step` needs a closure, which it calls once. Where loss or gradient are not finite, no step is taken and nothing is
    remembered. Elements whose gradient is zero, or whose parameter has none, stay where they are. If the parameters
    are changed between steps, the change counts as part of the last step. A group that is added later starts a new
    problem.

    Shape: parameters of any shape and real floating dtype, all on one device. The arithmetic of the trajectory is in
        float64. A Transformer remembers history x width x layers x 2 x 4 bytes for each element: 8 KiB with the sizes
        that are default, so 0.8 GB for a network of 100,000 weights.
    Raises: ValueError for a setting that is not allowed, complex parameters, a missing closure, a loss that is not one
        number, and parameters that changed their size; FileNotFoundError for an unknown policy; RuntimeError for
        sparse gradients.
    Source: arXiv 2602.15473; what happens without bounds is chosen (fidelity: ``code.optimizers.pop``).
    """

    needs = "loss"  # of each step, beside the gradients

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        bounds: tuple[float | Tensor, float | Tensor] | None = None,
        policy: str | Path | Policy = "pop",
    ) -> None:
        self.policy = policy if isinstance(policy, Policy) else self.from_pretrained(policy)
        self._problem: _Problem | None = None
        super().__init__(params, {"lr": lr, "bounds": bounds})

    @staticmethod
    def from_pretrained(policy: str | Path = "pop") -> Policy:
        """The policy shipped under a name, or stored in a file; FileNotFoundError, or ValueError if it holds none."""
        shipped = WEIGHTS / f"{policy}.safetensors"
        path = shipped if shipped.is_file() else Path(policy)
        if not path.is_file():
            names = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
            raise FileNotFoundError(f"policy = {str(policy)!r} is no file, and no shipped policy; those are {names}")
        return load(path)[0]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with settings of their own where given; a ValueError for one that is not allowed."""
        group = {**self.defaults, **param_group}
        require(group["lr"] >= 0, "lr", group["lr"], "at least 0")
        _require_box(group["bounds"])
        # The rate at which the policy's steps are taken as they are. A rate of 0 gives no box a size.
        group["unit"] = 1.0 if group["bounds"] is not None else float(group["lr"]) or 1.0
        super().add_param_group(group)
        try:
            for param in self.param_groups[-1]["params"]:
                _require_fit(param, group["bounds"])
        except ValueError:
            self.param_groups.pop()
            raise
        self._problem = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure, take one step, and return the closure's loss, which is that before the step.

        Args:
            closure: clears the gradients, evaluates the loss, calls ``backward()`` and returns the loss.
        """
        if closure is None:
            raise ValueError(
                "closure = None is not allowed: POP looks at the loss, so step needs a function that returns it"
            )
        self._project()
        with torch.enable_grad():
            loss = closure()
        value, gradient = _number(loss), self._each(_gradient)
        if not (value.isfinite() & gradient.isfinite().all()):
            return loss
        x = self._each(lambda param, group: param)
        if self._problem is None:
            self._problem = self._begin(x)
        action = self._problem.decide(x, value.to(x.device), gradient, self.policy)
        factor = self._each(lambda param, group: torch.as_tensor(group["lr"] / group["unit"]))
        self._write(self._problem.moved(x, action, factor))
        self._project()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The groups' settings and, as ``problem``, all that the policy has seen; its weights are not in it."""
        return {**super().state_dict(), "problem": self._problem and self._problem.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict` of an optimizer with the same policy, bit for bit."""
        super().load_state_dict(state_dict)
        saved = deepcopy(state_dict["problem"])
        device = self.param_groups[0]["params"][0].device
        self._problem = saved and _Problem.of(saved, self.policy, device)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "policy": self.policy, "_problem": self._problem}

    def _begin(self, x: Tensor) -> _Problem:
        """The problem that starts at `x`, (1, D), in the box of the bounds or in an imagined one around it."""
        bounded = [group["bounds"] is not None for group in self.param_groups]
        lower = self._each(lambda param, group: _bound(group, 0, param.double() - group["unit"] / 2))
        upper = self._each(lambda param, group: _bound(group, 1, param.double() + group["unit"] / 2))
        edge = upper - lower
        self.policy.to(x.device)
        trajectory = Trajectory(self.policy.settings, (x - lower) / edge, bounded=all(bounded))
        return _Problem(lower, edge, trajectory, self.policy.begin(x.numel()))

    def _each(self, of: Callable[[Tensor, dict[str, Any]], Tensor]) -> Tensor:
        """A number for every coordinate, (1, D) float64, from a function of parameter and group."""
        parts = [
            of(param, group).to(param.device, torch.float64).expand(param.shape).reshape(-1)
            for group in self.param_groups
            for param in group["params"]
        ]
        return torch.cat(parts)[None]

    def _write(self, x: Tensor) -> None:
        """Set the parameters from `x`, (1, D)."""
        params = [param for group in self.param_groups for param in group["params"]]
        parts = torch.split(x[0], [param.numel() for param in params])
        for param, part in zip(params, parts, strict=True):
            param.copy_(part.view(param.shape))

    def _project(self) -> None:
        for group in self.param_groups:
            if group["bounds"] is not None:
                for param in group["params"]:
                    lower, upper = (torch.as_tensor(bound).to(param) for bound in group["bounds"])
                    param.copy_(param.clamp(lower, upper))


@dataclass
class _Problem:
    """The box, (1, D) float64, and what the policy has seen and remembers of the optimization in it."""

    lower: Tensor
    edge: Tensor
    trajectory: Trajectory
    memory: list[Tensor]

    def decide(self, x: Tensor, value: Tensor, gradient: Tensor, policy: Policy) -> Tensor:
        """The actions of the policy, (1, D), after value (1,) and gradient (1, D) at `x`, (1, D)."""
        if x.shape != self.edge.shape:
            raise ValueError(
                f"params have {x.numel()} elements now and had {self.edge.numel()} in the steps before: "
                "make a new POP for the changed ones"
            )
        trajectory, time = self.trajectory, self.trajectory.steps
        u = (x - self.lower) / self.edge
        # What the parameters did, not what was asked: projection, rounding and schedules came in between.
        trajectory.u, trajectory.step = u, u - trajectory.u
        features = trajectory.observe(value, gradient * self.edge)
        action = policy.step(features.flatten(0, 1), self.memory, time)[0]
        return action.view(*u.shape, *action.shape[1:])

    def moved(self, x: Tensor, action: Tensor, factor: Tensor) -> Tensor:
        """Where `x` goes with the actions, their steps multiplied by `factor`; all (1, D)."""
        here = self.trajectory.u
        there = torch.lerp(here, self.trajectory.move(action), factor)
        self.trajectory.u = here
        return torch.where(there == here, x, self.lower + self.edge * there)

    def state(self) -> dict[str, Any]:
        """Tensors and numbers alone, so that it can be loaded safely."""
        seen = {name: value for name, value in vars(self.trajectory).items() if name != "settings"}
        return {"lower": self.lower, "edge": self.edge, "trajectory": seen, "memory": self.memory}

    @classmethod
    def of(cls, state: dict[str, Any], policy: Policy, device: torch.device) -> _Problem:
        """The problem of a `state()`."""
        lower, edge = state["lower"].to(device), state["edge"].to(device)
        trajectory = Trajectory(policy.to(device).settings, torch.zeros_like(edge))
        seen = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state["trajectory"].items()}
        vars(trajectory).update(seen)
        return cls(lower, edge, trajectory, [part.to(device) for part in state["memory"]])


def _gradient(param: Tensor, group: dict[str, Any]) -> Tensor:
    if param.grad is None:
        return torch.zeros_like(param)
    if param.grad.is_sparse:
        raise RuntimeError("POP does not support sparse gradients")
    return param.grad


def _number(loss: Any) -> Tensor:
    """The loss as a tensor (1,), float64."""
    value = torch.empty(0) if loss is None else torch.as_tensor(loss).detach()
    if value.numel() != 1:
        found = "None" if loss is None else f"a loss of shape {tuple(value.shape)}"
        raise ValueError(f"closure returned {found}: it must return the loss, one number")
    return value.to(torch.float64).reshape(1)


def _bound(group: dict[str, Any], side: int, otherwise: Tensor) -> Tensor:
    return otherwise if group["bounds"] is None else torch.as_tensor(group["bounds"][side])


def _require_box(bounds: Any) -> None:
    if bounds is None:
        return
    allowed = "None or a pair (lower, upper) of finite numbers or tensors, with lower below upper"
    require(isinstance(bounds, tuple | list) and len(bounds) == 2, "bounds", bounds, allowed)
    lower, upper = map(torch.as_tensor, bounds)
    holds = lower.isfinite().all() and upper.isfinite().all() and (lower < upper).all()
    require(bool(holds), "bounds", bounds, allowed)


def _require_fit(param: Tensor, bounds: Any) -> None:
    if not param.is_floating_point():
        raise ValueError("params: POP does not support complex parameters; pass view_as_real")
    for bound in map(torch.as_tensor, bounds or ()):
        try:
            bound.expand(param.shape)
        except RuntimeError:
            shapes = f"{tuple(bound.shape)} cannot be expanded to that of a parameter, {tuple(param.shape)}"
            raise ValueError(f"bounds: the shape {shapes}") from None
