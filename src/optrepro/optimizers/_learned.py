"""What learned optimizers have in common: the rule that predicts steps, its files, and the optimizer around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, ParamsT

from optrepro.optimizers._switching import require

WEIGHTS = Path(__file__).parent / "weights"

Memory = dict[str, Tensor]
Columns = Sequence[tuple[int, int]]


class StepRule(Protocol):
    """A rule, learned or not, that predicts steps for R objectives of P coordinates side by side.

    Nothing couples the objectives. Where gradients are recorded no memory is changed in place, so that a rule can be
    unrolled and differentiated.
    """

    def begin(self, x: Tensor, groups: Columns) -> Memory:
        """The memory before the first step; x (R, P), and the columns of each weight matrix or vector."""
        ...

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """A step (R, P) and the memory after it, from values (R,) and gradients (R, P) at x (R, P)."""
        ...


def lstm_cell(weight: Tensor, bias: Tensor, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM on n sequences: the new hidden and cell states, (h, n) each.

    Sequences are columns: the gates are then contiguous slices, which is 5 times faster on a CPU than `nn.LSTMCell`
    on rows when h is small and n large.

    Args:
        weight: (4 h, m + h), gates in the order input, forget, output, candidate.
        bias: (4 h, 1).
        inputs: (m, n).
        hidden: (h, n).
        cell: (h, n).
    """
    size = len(cell)
    gates = torch.addmm(bias, weight, torch.cat([inputs, hidden]))
    if torch.is_grad_enabled():
        through, candidate = torch.split(gates, [3 * size, size])
        enter, keep, leave = torch.split(through.sigmoid(), size)
        cell = keep * cell + enter * candidate.tanh()
        return leave * cell.tanh(), cell
    gates[: 3 * size].sigmoid_()
    gates[3 * size :].tanh_()
    enter, keep, leave, candidate = torch.split(gates, size)
    cell = (keep * cell).addcmul_(enter, candidate)
    return cell.tanh().mul_(leave), cell


def save(rule: nn.Module, path: Path | str, card: dict[str, object] | None = None) -> None:
    """Write a rule's weights, its `settings` and a model card to a safetensors file."""
    weights = {name: value.detach().cpu().contiguous() for name, value in rule.state_dict().items()}
    facts = {"rule": type(rule).__name__, "settings": asdict(rule.settings), "card": card or {}}  # type: ignore[call-overload]
    save_file(weights, path, {"rule": json.dumps(facts)})  # one entry: several would be written in no fixed order


Rule = TypeVar("Rule", bound=nn.Module)


def load(kind: type[Rule], settings: Callable[..., Any], path: Path | str) -> tuple[Rule, dict[str, object]]:
    """The rule in a file that `save` wrote, and its model card.

    Raises: FileNotFoundError; ValueError if the file holds no such rule.
    """
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads((file.metadata() or {})["rule"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["rule"] != kind.__name__:
            raise KeyError(facts["rule"])
        rule = kind(settings(**facts["settings"]))
        rule.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"path = {str(path)!r} holds no {kind.__name__} of this version: {reason}") from None
    return rule.eval(), facts["card"]


def find(rule: str | Path) -> Path:
    """The file of the weights shipped under a name, or the file itself; FileNotFoundError if it is neither."""
    shipped = WEIGHTS / f"{rule}.safetensors"
    path = shipped if shipped.is_file() else Path(rule)
    if not path.is_file():
        names = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
        raise FileNotFoundError(f"policy = {str(rule)!r} is no file, and no shipped policy; those are {names}")
    return path


class LearnedOptimizer(Optimizer):
    """An optimizer whose steps a rule predicts from losses, gradients and iterates, coordinate by coordinate.

    All elements of all parameters are the coordinates of one objective, and each parameter is a group of them.

    Args:
        params: parameters, or groups of them with an `lr` of their own.
        rule: predicts the steps.
        lr: factor on the predicted steps; 1 is what the rule was trained for.

    `step` needs a closure, which it calls once. Where loss or gradient are not finite, no step is taken and nothing is
    remembered. Elements of parameters without a gradient stay where they are, though the rule sees a gradient of zero.
    A group that is added later starts a new memory.

    Shape: parameters of any shape and real floating dtype, all on one device; the arithmetic is in float32.
    Raises: ValueError for a setting that is not allowed, complex parameters, a missing closure or a loss that is not
        one number; RuntimeError for sparse gradients.
    """

    needs = "loss"  # of each step, beside the gradients

    def __init__(self, params: ParamsT, rule: Any, lr: float | Tensor = 1.0) -> None:
        self.rule: Any = rule
        self._memory: Memory | None = None
        super().__init__(params, {"lr": lr})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with an `lr` of their own where given; a ValueError for one that is not allowed."""
        lr = param_group.get("lr", self.defaults["lr"])
        require(lr >= 0, "lr", lr, "at least 0")
        super().add_param_group(param_group)
        if any(not p.is_floating_point() for p in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise ValueError(f"params: {type(self).__name__} does not support complex parameters; pass view_as_real")
        self._memory = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure, take one step, and return the closure's loss, which is that before the step.

        Args:
            closure: clears the gradients, evaluates the loss, calls ``backward()`` and returns the loss.
        """
        name = type(self).__name__
        if closure is None:
            raise ValueError(
                f"closure = None is not allowed: {name} looks at the loss, so step needs a function that returns it"
            )
        with torch.enable_grad():
            loss = closure()
        params = [(p, group["lr"]) for group in self.param_groups for p in group["params"]]
        value, gradient = _number(loss), _flat([_gradient(p, name) for p, _ in params])
        if not (value.isfinite() & gradient.isfinite().all()):
            return loss
        x = _flat([p for p, _ in params])
        if self._memory is None:
            self.rule.to(x.device)
            self._memory = self.rule.begin(x, _columns([p.numel() for p, _ in params]))
        predicted, self._memory = self.rule.step(self._memory, x, value.to(x.device), gradient)
        for (p, lr), part in zip(params, torch.split(predicted[0], [p.numel() for p, _ in params]), strict=True):
            if p.grad is not None:
                p.add_(part.view_as(p) * lr)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The groups' settings and, as ``memory``, all that the rule remembers; its weights are not in it."""
        return {**super().state_dict(), "memory": self._memory}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict` of an optimizer with the same rule, bit for bit."""
        super().load_state_dict(state_dict)
        device = self.param_groups[0]["params"][0].device
        saved = deepcopy(state_dict["memory"])
        self._memory = saved and {name: value.to(device) for name, value in saved.items()}
        self.rule.to(device)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule, "_memory": self._memory}


def _columns(sizes: Sequence[int]) -> list[tuple[int, int]]:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """All elements in one row, (1, P) float32."""
    return torch.cat([t.reshape(-1).float() for t in tensors])[None]


def _gradient(param: Tensor, name: str) -> Tensor:
    if param.grad is None:
        return torch.zeros_like(param)
    if param.grad.is_sparse:
        raise RuntimeError(f"{name} does not support sparse gradients")
    return param.grad


def _number(loss: Any) -> Tensor:
    """The loss as a tensor (1,), float32."""
    value = torch.empty(0) if loss is None else torch.as_tensor(loss).detach()
    if value.numel() != 1:
        found = "None" if loss is None else f"a loss of shape {tuple(value.shape)}"
        raise ValueError(f"closure returned {found}: it must return the loss, one number")
    return value.float().reshape(1)
