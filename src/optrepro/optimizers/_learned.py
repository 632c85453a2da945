"""Shared parts of the learned optimizers: the step rule, its files, and the optimizer that applies it."""

from __future__ import annotations

import hashlib
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

from optrepro.damage import DamagedFileError
from optrepro.optimizers import _coordinates
from optrepro.optimizers._base import Group, require
from optrepro.optimizers._closure import ClosureOptimizer, Look, move
from optrepro.optimizers._coordinates import Coordinates

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

WEIGHTS = Path(__file__).parent / "weights"
CHECKSUMS = "SHA256SUMS"  # list in the folder of the weights, as sha256sum writes it
SPIKE = 1e12  # chosen: a gradient this many times larger than all before it is skipped once
# An LSTM evaluates about this many gate values per call: on a CPU they fit its cache, elsewhere they fill the device.
GATES, GATES_ELSEWHERE = 3 << 17, 1 << 24

LARGEST = 1e300  # Losses are clamped to this, so that the difference of two stays in the range of float64.

Memory = dict[str, Tensor]
Columns = Sequence[tuple[int, int]]
Numbers = MutableMapping[str, Tensor]


class Now(NamedTuple):
    """The objective at the current iterate.

    Attributes:
        time: number of steps before this one.
        x: the iterate, (n,).
        before: the loss at the previous step.
        value: the loss.
        gradient: the gradient of the loss, (n,).
        columns: start and end of each parameter's coordinates.
    """

    time: int
    x: Tensor
    before: float
    value: float
    gradient: Tensor
    columns: Columns


class StepRule(Protocol):
    """A rule, learned or not, that predicts steps for R independent objectives of P coordinates in one batch.

    While autograd records, no memory is changed in place, so that a rule can be unrolled and differentiated.
    """

    def begin(self, x: Tensor, groups: Columns) -> Memory:
        """Create the memory before the first step.

        Args:
            x: the starting points, (R, P).
            groups: start and end column of each weight matrix or vector.
        """
        ...

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """Predict a step (R, P) from values (R,) and gradients (R, P) at x (R, P); return it and the new memory."""
        ...


def lstm_cell(weight: Tensor, bias: Tensor, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM on n sequences; returns the new hidden and cell states, (h, n) each.

    Each sequence is a column, so that the gates are contiguous slices. On a CPU this is 5 times faster than
    `nn.LSTMCell`, which stores sequences as rows, if h is small and n is large.

    Args:
        weight: (4 h, m + h), with the gates in the order input, forget, output, candidate.
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
    """The LSTM of `lstm_cell`, in place and without autograd, for calls on one chunk of sequences after another.

    It equals `lstm_cell` up to rounding: tanh(z) is computed as 1 - 2 sigmoid(-2 z), in a fifth of the time on a CPU.

    Args:
        weight: as in `lstm_cell`.
        bias: as in `lstm_cell`.
        most: the largest number of sequences in one call.
    """

    def __init__(self, weight: Tensor, bias: Tensor, most: int) -> None:
        weight, bias, self.cells = weight.detach(), bias.detach(), len(weight) // 4
        factor = torch.ones_like(bias)
        factor[3 * self.cells :] = -2  # the candidate gate needs sigmoid(-2 z)
        self.weight, self.bias = factor * weight, factor * bias
        self.seen = weight.new_empty(weight.shape[1], most)
        self.gates = weight.new_empty(len(weight), most)

    def inputs(self, count: int) -> Tensor:
        """The buffer for the inputs of the next `count` sequences, (m, count)."""
        return self.seen[: len(self.seen) - self.cells, :count]

    def step(self, hidden: Tensor, cell: Tensor) -> None:
        """Update the states (h, count) with the inputs, in place."""
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
    """Save a rule's weights, its `settings` and a model card to a safetensors file."""
    write(rule, path, "rule", {"rule": type(rule).__name__, **described(rule, card)})


def load(kind: type[Rule], settings: Callable[..., Any], path: Path | str) -> tuple[Rule, dict[str, object]]:
    """Load a rule and its model card from a file written by `save`.

    Args:
        kind: class of the rule.
        settings: class of the rule's settings.
        path: the file.

    Raises: FileNotFoundError if there is no such file; ValueError if it holds no rule of this kind.
    """

    def make(facts: dict[str, Any]) -> Rule:
        if facts["rule"] != kind.__name__:
            raise KeyError(facts["rule"])
        return kind(settings(**facts["settings"]))

    return read(make, path, "rule", kind.__name__)


def described(rule: nn.Module, card: dict[str, object] | None) -> dict[str, object]:
    """A rule's settings and model card in the form in which files store them."""
    return {"settings": asdict(rule.settings), "card": card or {}}  # type: ignore[call-overload]


def write(rule: nn.Module, path: Path | str, entry: str, facts: dict[str, object]) -> None:
    """Save a rule's weights to a safetensors file, with `facts` as JSON under one entry of its metadata."""
    weights = {name: value.detach().cpu().contiguous() for name, value in rule.state_dict().items()}
    save_file(weights, path, {entry: json.dumps(facts)})  # one entry, because several have no fixed order in the file


def read(
    make: Callable[[dict[str, Any]], Rule], path: Path | str, entry: str, what: str
) -> tuple[Rule, dict[str, object]]:
    """Load a rule and its model card from a file written by `write`.

    Args:
        make: builds the rule from the facts in the file.
        path: the file.
        entry: the metadata entry that holds the facts.
        what: name of the kind of rule, for error messages.

    Raises: FileNotFoundError if there is no such file; DamagedFileError, a ValueError, if it holds no such rule, or is
    not the file that `CHECKSUMS` beside it names.
    """
    path = Path(path)
    _compare_checksum(path)
    try:
        with safe_open(str(path), "pt") as file:
            facts = json.loads((file.metadata() or {})[entry])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng([]):  # a second faster than torch.device("meta"), whose kernels must be imported
            rule = make(facts)
        rule.load_state_dict(weights, assign=True)
        card: dict[str, object] = facts["card"]
    except FileNotFoundError:
        raise
    except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, OSError) as error:
        reason = f"it holds no {what} of this version ({type(error).__name__}: {error})"
        raise DamagedFileError(path, reason, "name another file, or train it again", "cannot be used") from None
    return rule.eval(), card


def _compare_checksum(path: Path) -> None:
    """Compare a file with the list of checksums in its folder, as for the shipped weights: safetensors has none."""
    listing = path.with_name(CHECKSUMS)
    if not path.is_file() or not listing.is_file():
        return
    listed = dict(line.split()[::-1] for line in listing.read_text().splitlines())
    if path.name in listed and hashlib.sha256(path.read_bytes()).hexdigest() != listed[path.name]:
        raise DamagedFileError(path, f"its sha256 is not the one in {CHECKSUMS} beside it", "install the package again")


def find(rule: str | Path) -> Path:
    """The file of the weights shipped under a name, or the file at a path.

    Raises: FileNotFoundError if there is no such name or file; ValueError for anything but a name or a path.
    """
    allowed = "the name of a shipped policy, a path or a policy"
    require(isinstance(rule, str | Path), "policy", rule, allowed)
    shipped = WEIGHTS / f"{rule}.safetensors"
    path = shipped if shipped.is_file() else Path(rule)
    if not path.is_file():
        names = sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))
        raise FileNotFoundError(f"policy = {str(rule)!r} is no file, and no shipped policy; those are {names}")
    return path


def blocks(rows: int, columns: int, gates: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Split a matrix (rows, columns) into blocks for an LSTM with this many gate values per element; see `GATES`.

    A block is either part of one row or several whole rows, so it is contiguous among the elements in order.
    """
    most = max((GATES if device.type == "cpu" else GATES_ELSEWHERE) // gates, 1)
    if columns > most:
        parts = [slice(start, min(start + most, columns)) for start in range(0, columns, most)]
        return [(slice(row, row + 1), part) for row in range(rows) for part in parts]
    whole = most // max(columns, 1)
    return [(slice(row, min(row + whole, rows)), slice(0, columns)) for row in range(0, rows, whole)]


SPIKES = ("largest_gradient", "spiked")


def new_numbers(names: Sequence[str]) -> dict[str, Tensor]:
    """Zeros under these names, int64 for ``time`` and ``spiked`` and float64 for all others."""
    whole = ("time", "spiked")
    return {name: torch.zeros((), dtype=torch.int64 if name in whole else torch.float64) for name in names}


def accepted(numbers: Numbers, largest: float) -> bool:
    """Whether to take a step with gradients of this largest absolute value; updates the numbers named in `SPIKES`.

    A gradient more than `SPIKE` times larger than all before it is skipped, but never two in a row.
    """
    before = float(numbers["largest_gradient"])
    is_spike = 0 < before < largest / SPIKE and not numbers["spiked"]
    numbers["spiked"].fill_(int(is_spike))
    if not is_spike:
        numbers["largest_gradient"].fill_(max(before, largest))
    return not is_spike


class LearnedOptimizer(ClosureOptimizer):
    """An optimizer whose steps are predicted by a rule from losses, gradients and iterates, for each coordinate.

    All elements of all parameters are the coordinates of one objective. `step` needs a closure and calls it once. A
    step is skipped, and the state left unchanged, if the loss or a gradient is not finite. It is also skipped, once, if
    a gradient is 1e12 times larger than all before it. Elements with a gradient of 0, and parameters without a
    gradient, do not move.

    Args:
        params: parameters, or parameter groups with their own `lr`.
        rule: the rule that predicts the steps.
        lr: factor on the predicted steps; the rule was trained for 1.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. The loss is averaged over them.

    Shape: parameters of any shape and real floating dtype, all on one device; the arithmetic is in float32. The state
        of a parameter of shape (*s) consists of float32 tensors (*s) and (*s, cells), and of scalars () for the whole
        problem. `fully_shard` shards it like the parameter. Training with `FullyShardedDataParallel` works, but its
        ``optim_state_dict`` cannot save tensors with more dimensions than the parameter.
    Raises: ValueError for a setting that is not allowed, complex parameters, a missing closure, a loss that is not
        one number or a state that does not fit; RuntimeError for sparse gradients.
    """

    needs = "loss"  # what `step` needs beside the gradients
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
        """The number by which losses and gradients are divided before the rule sees them."""
        return 1.0

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule}
