"""What learned optimizers have in common: the rule that predicts steps, its files, and the optimizer around it."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optrepro.optimizers import _coordinates
from optrepro.optimizers._base import Group, require
from optrepro.optimizers._closure import ClosureOptimizer, Look, move
from optrepro.optimizers._coordinates import Coordinates

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WEIGHTS = Path(__file__).parent / "weights"
SPIKE = 1e12  # chosen: a gradient so many times as large as all before is an accident
# Numbers that an LSTM's gates are at once: few enough for a CPU's cache, many where each call has to be worth it.
GATES, GATES_ELSEWHERE = 3 << 17, 1 << 24

LARGEST = 1e300  # of losses in their unit, so that differences of two stay in the range of float64

Memory = dict[str, Tensor]
Columns = Sequence[tuple[int, int]]
Numbers = MutableMapping[str, Tensor]


class Now(NamedTuple):
    """What an optimizer meets at its present iterate.

    Attributes:
        time: steps before this one.
        x: the iterate, (n,).
        before: the loss at the step before.
        value: the loss.
        gradient: its gradient, (n,).
        columns: first and last coordinate of each parameter.
    """

    time: int
    x: Tensor
    before: float
    value: float
    gradient: Tensor
    columns: Columns


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


class Cells:
    """The LSTM of `lstm_cell` in place and in few passes, for some sequences after the others; records no gradients.

    Equal to `lstm_cell` but for rounding: tanh(z) = 1 - 2 sigmoid(-2 z) takes a fifth of the time of tanh on a CPU.

    Args:
        weight: as of `lstm_cell`.
        bias: likewise.
        most: the largest number of sequences it is called with.
    """

    def __init__(self, weight: Tensor, bias: Tensor, most: int) -> None:
        weight, bias, self.cells = weight.detach(), bias.detach(), len(weight) // 4
        factor = torch.ones_like(bias)
        factor[3 * self.cells :] = -2  # the candidate is what sigmoid(-2 z) is made of
        self.weight, self.bias = factor * weight, factor * bias
        self.seen = weight.new_empty(weight.shape[1], most)
        self.gates = weight.new_empty(len(weight), most)

    def inputs(self, count: int) -> Tensor:
        """Where the inputs of the next `count` sequences are to be written, (m, count)."""
        return self.seen[: len(self.seen) - self.cells, :count]

    def step(self, hidden: Tensor, cell: Tensor) -> None:
        """Bring the states (h, count) to those after the inputs, in place."""
        seen, gates = self.seen[:, : hidden.shape[1]], self.gates[:, : hidden.shape[1]]
        seen[-self.cells :] = hidden
        torch.addmm(self.bias, self.weight, seen, out=gates)
        enter, keep, leave, candidate = torch.split(gates.sigmoid_(), self.cells)
        entering = torch.addcmul(enter, enter, candidate, value=-2, out=candidate)
        torch.addcmul(entering, cell, keep, out=cell)
        squashed = torch.mul(cell, -2, out=candidate).sigmoid_()
        torch.addcmul(leave, leave, squashed, value=-2, out=hidden)


Rule = TypeVar("Rule", bound=nn.Module)


def save(rule: nn.Module, path: Path | str, card: dict[str, object] | None = None) -> None:
    """Write a rule's weights, its `settings` and a model card to a safetensors file."""
    write(rule, path, "rule", {"rule": type(rule).__name__, **described(rule, card)})


def load(kind: type[Rule], settings: Callable[..., Any], path: Path | str) -> tuple[Rule, dict[str, object]]:
    """The rule in a file that `save` wrote, and its model card.

    Raises: FileNotFoundError; ValueError if the file holds no such rule.
    """

    def make(facts: dict[str, Any]) -> Rule:
        if facts["rule"] != kind.__name__:
            raise KeyError(facts["rule"])
        return kind(settings(**facts["settings"]))

    return read(make, path, "rule", kind.__name__)


def described(rule: nn.Module, card: dict[str, object] | None) -> dict[str, object]:
    """A rule's settings and its model card, as files hold them."""
    return {"settings": asdict(rule.settings), "card": card or {}}  # type: ignore[call-overload]


def write(rule: nn.Module, path: Path | str, entry: str, facts: dict[str, object]) -> None:
    """Write a rule's weights to a safetensors file, and facts about it under one entry of its metadata."""
    weights = {name: value.detach().cpu().contiguous() for name, value in rule.state_dict().items()}
    save_file(weights, path, {entry: json.dumps(facts)})  # one entry: several would be written in no fixed order


def read(
    make: Callable[[dict[str, Any]], Rule], path: Path | str, entry: str, what: str
) -> tuple[Rule, dict[str, object]]:
    """What `write` wrote: the rule that is made from the facts, with the weights of the file, and its model card.

    Raises: FileNotFoundError; ValueError if the file holds none.
    """
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads((file.metadata() or {})[entry])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.device("meta"):  # weights that are not there draw no random numbers
            rule = make(facts)
        rule.load_state_dict(weights, assign=True)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"path = {str(path)!r} holds no {what} of this version: {reason}") from None
    return rule.eval(), facts["card"]


def find(rule: str | Path) -> Path:
    """The file of the weights shipped under a name, or the file itself.

    Raises: FileNotFoundError if it is neither; ValueError for what names no file.
    """
    allowed = "the name of a shipped policy, a path or a policy"
    require(isinstance(rule, str | Path), "policy", rule, allowed)
    shipped = WEIGHTS / f"{rule}.safetensors"
    path = shipped if shipped.is_file() else Path(rule)
    if not path.is_file():
        names = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
        raise FileNotFoundError(f"policy = {str(rule)!r} is no file, and no shipped policy; those are {names}")
    return path


def chunks(vector: Tensor, gates: int) -> list[slice]:
    """Pieces of a vector (n,) that are worked on one after the other, with so many gates for each coordinate."""
    most = (GATES if vector.device.type == "cpu" else GATES_ELSEWHERE) // gates
    return [slice(start, min(start + most, len(vector))) for start in range(0, len(vector), most)]


SPIKES = ("largest_gradient", "spiked")


def new_numbers(names: Sequence[str]) -> dict[str, Tensor]:
    """Zeros by name: counts for ``time`` and ``spiked``, else float64."""
    whole = ("time", "spiked")
    return {name: torch.zeros((), dtype=torch.int64 if name in whole else torch.float64) for name in names}


def accepted(numbers: Numbers, largest: float) -> bool:
    """Whether a step is taken with gradients of this largest absolute value; notes it in the numbers of `SPIKES`.

    A gradient `SPIKE` times as large as all before is left out, but not two in a row: then it is no accident.
    """
    before = float(numbers["largest_gradient"])
    is_spike = 0 < before < largest / SPIKE and not numbers["spiked"]
    numbers["spiked"].fill_(int(is_spike))
    if not is_spike:
        numbers["largest_gradient"].fill_(max(before, largest))
    return not is_spike


class LearnedOptimizer(ClosureOptimizer):
    """An optimizer whose steps a rule predicts from losses, gradients and iterates, coordinate by coordinate.

    All elements of all parameters are the coordinates of one objective, and each parameter is a group of them.

    Args:
        params: parameters, or groups of them with an `lr` of their own.
        rule: predicts the steps.
        lr: factor on the predicted steps; 1 is what the rule was trained for.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. Their mean loss is looked at.

    `step` needs a closure, which it calls once. Where loss or gradient are not finite, or a gradient is 1e12 times as
    large as all before and the last was not, no step is taken and nothing is remembered of them. Elements whose
    gradient is 0, or whose parameter has none, stay where they are.

    Shape: parameters of any shape and real floating dtype, all on one device; the arithmetic is in float32. State of a
        parameter of shape (*s) is tensors (*s) and (*s, cells), float32, and numbers () of the whole. Under
        `fully_shard` it is sharded as the parameter is; `FullyShardedDataParallel` trains, but its
        ``optim_state_dict`` cannot take tensors of more dimensions than the parameter has.
    Raises: ValueError for a setting that is not allowed, complex parameters, a missing closure, a loss that is not
        one number or a state that does not fit; RuntimeError for sparse gradients.
    """

    needs = "loss"  # of each step, beside the gradients
    couples = False

    def __init__(
        self,
        params: ParamsT,
        rule: Any,
        lr: float | Tensor = 1.0,
        *,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        self.rule: Any = rule
        super().__init__(params, {"lr": lr}, process_group)

    def _checked(self, group: Group) -> Group:
        require(group["lr"] >= 0, "lr", group["lr"], "at least 0")
        return group

    def _begin(self, coordinates: Coordinates) -> _coordinates.Memory:
        self.rule.to(coordinates.device)
        tables = {
            name: torch.zeros((*shape, coordinates.size), dtype=torch.float32, device=coordinates.device)
            for name, shape in self._table_shapes().items()
        }
        return _coordinates.Memory(coordinates, tables, new_numbers(self._number_names()))

    def _table_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = self.rule.table_shapes()
        return shapes

    def _number_names(self) -> tuple[str, ...]:
        return ("time", "value", *SPIKES)

    def _take(self, loss: Any, closure: Callable[[], Any]) -> None:
        look = self._look(loss)
        if not look.is_finite:
            return
        memory = self._remembered()
        if not accepted(memory.numbers, look.largest):
            return
        coordinates, numbers = memory.coordinates, memory.numbers
        unit = self._unit(numbers, look)
        value = min(max(look.loss / unit, -LARGEST), LARGEST)
        gradient = coordinates.gradient(torch.float32, 1 / unit)
        step = self.rule.advance(
            memory.tables,
            Now(
                int(numbers["time"]),
                coordinates.values(torch.float32),
                float(numbers["value"]),
                value,
                gradient,
                coordinates.vectors.bounds,
            ),
        )
        numbers["time"] += 1
        numbers["value"].fill_(value)
        move(coordinates, step, [group["lr"] for group in self.param_groups for _ in group["params"]])

    def _unit(self, numbers: Numbers, look: Look) -> float:
        """The unit in which the rule is told losses and gradients."""
        return 1.0

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule}
