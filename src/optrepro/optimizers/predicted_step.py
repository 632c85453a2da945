"""Predicted Step Descent: a recurrent policy predicts the step of every coordinate.

Source: Li and Malik 2017, arXiv 1703.00441.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optrepro.optimizers import _coordinates, _learned
from optrepro.optimizers._base import require
from optrepro.optimizers._closure import Look
from optrepro.optimizers._coordinates import Coordinates
from optrepro.optimizers._learned import Cells, Columns, LearnedOptimizer, Memory, Now, Numbers, blocks, lstm_cell

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

INPUTS = 5  # number of network inputs that encode the three features
MEMORY = 0.9  # chosen: decay of the gradient's running mean
SMALL = 1e-12  # chosen: added to the root of the sum of squared gradients
START = 2.3  # the usual first loss in meta-training, about log 10 for ten classes
MAX = torch.finfo(torch.float32).max
TABLES = ("x", "size", "moved", "squares", "mean")
SIZE = "start"  # the table of `sizes`
UNITS = 1e-30, 1e30  # bounds on the unit of the loss, well within the range of float32


@dataclass(frozen=True)
class StepPolicySettings:
    """Settings of a `StepPolicy`, stored with its weights.

    Attributes:
        cells: number of LSTM cells (128 in the paper).
        networks: 1, for a network shared by all coordinates, or the number of weight matrices and bias vectors, for one
            network each.
        output: meaning of the network's output. ``step`` is one number, the step itself (the paper's). ``normalized``
            is two numbers, the coefficients of the gradient and of its running mean, both divided by the root of the
            sum of squared gradients (chosen; a constant first coefficient gives AdaGrad).
        scale: factor on the output.
        warmup: number of steps over which the factor grows from a small one, linearly; 0 is none (chosen).
        relative: whether the factor is relative to the size of the initial weights, see `sizes` (chosen).
        steadiness: whether `steadiness` is a further input of the network (chosen).
    """

    cells: int = 16
    networks: int = 1
    output: Literal["step", "normalized"] = "step"
    scale: float = 0.01
    warmup: int = 0
    relative: bool = False
    steadiness: bool = False

    def __post_init__(self) -> None:
        require(self.cells >= 1, "cells", self.cells, "at least 1")
        require(self.networks >= 1, "networks", self.networks, "at least 1")
        require(self.output in ("step", "normalized"), "output", self.output, "step or normalized")
        require(self.scale > 0, "scale", self.scale, "positive")
        require(self.warmup >= 0, "warmup", self.warmup, "at least 0")

    @property
    def tables(self) -> tuple[str, ...]:
        """What the policy remembers of a coordinate, one number each, beside the LSTM's states."""
        return (*TABLES, SIZE) if self.relative else TABLES

    @property
    def inputs(self) -> int:
        """Number of inputs of the network."""
        return INPUTS + self.steadiness

    def factor(self, time: int) -> float:
        """The factor on the output after so many steps, but for the size of the initial weights."""
        return self.scale * min(1.0, (time + 1) / max(self.warmup, 1))


class Place(NamedTuple):
    """Where R objectives are: number of steps before this one, iterates (R, n), changes (R,) and gradients (R, n).

    The change is the first input of the network, which all coordinates of an objective share.
    """

    time: int
    x: Tensor
    change: Tensor
    gradient: Tensor


class StepPolicy(nn.Module):
    r"""The recurrent policy: one LSTM layer, shared over the coordinates of a group, on the observation features.

    The mean action is :math:`\Delta x_t = \sum_k (w_k^\top h_t + b_k)\, u_{t,k}`. The units :math:`u_{t,k}` follow from
    the settings and contain the scale. `inputs` encodes the features by logarithm and sign.

    Args:
        settings: size and form of the policy.

    Source: arXiv 1703.00441, section 4; the units of the output and the encoding of the features are chosen.
    """

    def __init__(self, settings: StepPolicySettings):
        super().__init__()
        self.settings = settings
        self.networks = nn.ModuleList(Network(settings) for _ in range(settings.networks))

    def begin(self, x: Tensor, groups: Columns) -> Memory:
        """See `StepRule`.

        Raises: ValueError if there are several networks and another number of groups.
        """
        self._check(len(groups))
        shared = self.settings.networks == 1
        memory = {
            "time": torch.zeros((), dtype=torch.int64),
            "groups": torch.tensor([(0, x.shape[1])] if shared else list(groups)),
            "value": x.new_zeros(len(x)),
            **{name: torch.zeros_like(x) for name in TABLES},
            "x": x.clone(),
        }
        if self.settings.relative:
            memory[SIZE] = sizes(x, groups)
        for i, (start, stop) in enumerate(memory["groups"].tolist()):
            memory[f"hidden{i}"] = x.new_zeros(self.settings.cells, len(x) * (stop - start))
            memory[f"cell{i}"] = torch.zeros_like(memory[f"hidden{i}"])
        return memory

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """See `StepRule`."""
        if not torch.is_grad_enabled():
            return self._step_in_place(memory, x, value, gradient)
        seen, units, memory = observe(self.settings, memory, x, value, gradient)
        parts = []
        for i, (start, stop) in enumerate(memory["groups"].tolist()):
            network = cast(Network, self.networks[i])
            mine = seen[..., start:stop].flatten(1)
            hidden, cell = network.cell(mine, memory[f"hidden{i}"], memory[f"cell{i}"])
            memory[f"hidden{i}"], memory[f"cell{i}"] = hidden, cell
            out = network.head(hidden).view(-1, len(x), stop - start)
            parts.append((out * units[..., start:stop]).sum(0))
        return torch.cat(parts, 1), memory

    def _step_in_place(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """The same step but for rounding; tables of the memory are updated in place."""
        step, time = torch.empty_like(x), int(memory["time"])
        change = relative_change(value, memory["value"]).tanh() if time else torch.zeros_like(value)
        for i, (start, stop) in enumerate(memory["groups"].tolist()):
            tables = {name: memory[name][:, start:stop] for name in self.settings.tables}
            tables |= {name: memory[f"{name}{i}"] for name in ("hidden", "cell")}
            at = Place(time, x[:, start:stop], change, gradient[:, start:stop])
            cast(Network, self.networks[i]).advance(self.settings, tables, at, step[:, start:stop])
        return step, {**memory, "time": memory["time"] + 1, "value": value}

    def table_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names of the state tensors, with their shape for one coordinate."""
        states = dict.fromkeys(("hidden", "cell"), (self.settings.cells,))
        return {**dict.fromkeys(self.settings.tables, ()), **states}

    @torch.no_grad()
    def advance(self, memory: Memory, now: Now) -> Tensor:
        """The step (n,) that `step` predicts for a single objective; the memory is updated in place.

        The coordinates are processed in chunks, so that no tensor (4 cells, n) is ever allocated.

        Raises: ValueError if there are several networks and another number of parameters.
        """
        step, shared = torch.empty_like(now.gradient), self.settings.networks == 1
        self._check(len(now.columns))
        value = torch.tensor([[now.value], [now.before]], dtype=torch.float64, device=step.device)
        change = relative_change(*value).tanh().float() if now.time else torch.zeros_like(value[0]).float()
        for i, (start, stop) in enumerate([(0, len(step))] if shared else now.columns):
            tables = {name: table[..., start:stop] for name, table in memory.items()}
            tables |= {name: tables[name][None] for name in self.settings.tables}
            at = Place(now.time, now.x[None, start:stop], change, now.gradient[None, start:stop])
            cast(Network, self.networks[i]).advance(self.settings, tables, at, step[None, start:stop])
        return step.mul_(now.gradient != 0)

    def _check(self, groups: int) -> None:
        if self.settings.networks not in (1, groups):
            found = f"{self.settings.networks} networks, one for each tensor"
            raise ValueError(f"the policy has {found}, and there are {groups} tensors: the numbers must be equal")


class Network(nn.Module):
    """An LSTM layer and its linear output; every column is a sequence."""

    def __init__(self, settings: StepPolicySettings):
        super().__init__()
        cells, outputs = settings.cells, 1 if settings.output == "step" else 2
        bound = 1 / math.sqrt(cells)
        weight = torch.empty(4 * cells, settings.inputs + cells, dtype=torch.float32)
        self.weight = nn.Parameter(weight.uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(4 * cells, 1, dtype=torch.float32))
        self.out = nn.Parameter(torch.empty(outputs, cells, dtype=torch.float32).uniform_(-bound, bound) / 10)
        self.out_bias = nn.Parameter(torch.zeros(outputs, 1, dtype=torch.float32))
        with torch.no_grad():
            self.bias[cells : 2 * cells] = 1.0  # The forget gates are open initially.
            if settings.output == "normalized":
                self.out_bias[0] = 1.0  # The untrained policy is close to AdaGrad.

    def cell(self, inputs: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Update the hidden and cell states (h, n) with inputs (INPUTS, n)."""
        return lstm_cell(self.weight, self.bias, inputs, hidden, cell)

    def head(self, hidden: Tensor) -> Tensor:
        """The outputs (outputs, n) for hidden states (h, n)."""
        return torch.addmm(self.out_bias, self.out, hidden)

    def advance(self, settings: StepPolicySettings, memory: Memory, at: Place, step: Tensor) -> None:
        """Write the steps of this network's coordinates, (R, n), into `step`, and update their memory in place.

        The memory holds the states ``hidden`` and ``cell``, (cells, R n), and the settings' `tables`, (R, n).
        """
        parts = blocks(step.shape[0], step.shape[1], 4 * settings.cells, step.device)
        most = max(_area(rows, columns) for rows, columns in parts)
        cells = Cells(self.weight, self.bias, most)
        factor = settings.factor(at.time)
        out, bias = factor * self.out, factor * self.out_bias
        start = 0
        for part in parts:
            rows, stop = part[0], start + _area(*part)
            gradient, tables = at.gradient[part], {name: memory[name][part] for name in settings.tables}
            seen = cells.inputs(stop - start).view(settings.inputs, *gradient.shape)
            seen[0] = at.change[rows, None]
            _look(at.time, at.x[part], gradient, tables, seen[1:INPUTS])
            squares = tables["squares"].addcmul_(gradient, gradient).clamp_max_(MAX)
            mean = tables["mean"].mul_(MEMORY).add_(gradient, alpha=1 - MEMORY)
            if settings.steadiness:
                seen[INPUTS] = steadiness(mean, squares, at.time)
            hidden = memory["hidden"][:, start:stop]
            cells.step(hidden, memory["cell"][:, start:stop])
            given = torch.addmm(bias, out, hidden).view(len(out), *gradient.shape)
            here = step[part]
            if settings.output == "step":
                here.copy_(given[0])
            else:
                torch.mul(given[0], gradient, out=here).addcmul_(given[1], mean)
                here.div_(squares.sqrt().add_(SMALL)).neg_()
            if settings.relative:
                here.mul_(tables[SIZE])
            start = stop


def _area(rows: slice, columns: slice) -> int:
    area: int = (rows.stop - rows.start) * (columns.stop - columns.start)
    return area


def observe(
    settings: StepPolicySettings, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor, Memory]:
    """The network's inputs (inputs, R, P), the units of its outputs (outputs, R, P) and the new memory.

    A step is the sum of the outputs, each times its unit.
    """
    time = int(memory["time"])
    psi = features(memory, x, value, gradient)
    squares = torch.addcmul(memory["squares"], gradient, gradient)
    mean = torch.lerp(memory["mean"], gradient, 1 - MEMORY)
    if settings.output == "step":
        units = torch.ones_like(x)[None]
    else:
        units = torch.stack([gradient, mean]) / -(squares.sqrt() + SMALL)
    units = settings.factor(time) * units * (memory[SIZE] if settings.relative else 1)
    later = {
        **memory,
        "time": memory["time"] + 1,
        "value": value,
        "x": x,
        "size": gradient.abs(),
        "moved": (x - memory["x"]).abs() if time else memory["moved"],
        "squares": squares,
        "mean": mean,
    }
    seen = inputs(psi)
    if settings.steadiness:
        seen = torch.cat([seen, steadiness(mean, squares, time)[None]])
    return seen, units, later


def steadiness(mean: Tensor, squares: Tensor, time: int) -> Tensor:
    """How steady the gradient of each coordinate is, from 0 to 1: 1/2 if it does not change, less the more it varies.

    It is m / (m + r) with the size m of the running mean and the root r of the mean square of all gradients.

    Args:
        mean: running mean of the gradient, which begins with 0, (...).
        squares: sum of the squared gradients, (...).
        time: number of gradients before the last one.
    """
    size = mean.abs() / (1 - MEMORY ** (time + 1))
    return size / (size + (squares / (time + 1)).sqrt() + SMALL)


def sizes(x: Tensor, groups: Columns) -> Tensor:
    """The size of the weights of each coordinate's tensor, (R, P); see `sizes_of`."""
    squares = torch.stack([x[:, start:stop].square().sum(1) for start, stop in groups], 1)
    counts = torch.tensor([stop - start for start, stop in groups], device=x.device)
    return sizes_of(squares, counts).repeat_interleave(counts, 1)


def sizes_of(squares: Tensor, counts: Tensor) -> Tensor:
    """The sizes (R, G) of G tensors of weights: their root mean squares.

    The initial weights of a layer tell how many inputs it has, and so how long steps may be. A tensor of zeros gets the
    root mean square over all tensors, and one among nothing but zeros gets 1.

    Args:
        squares: sum of the squares of each tensor, (R, G).
        counts: number of elements of each tensor, (G,).
    """
    own = (squares / counts.clamp_min(1)).sqrt()
    everywhere = (squares.sum(1, keepdim=True) / counts.sum().clamp_min(1)).sqrt()
    return own.where(own > 0, everywhere.where(everywhere > 0, 1.0))


def features(memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
    r"""The observation features :math:`\Psi_t` of each coordinate, (3, R, P).

    They are the change of the objective over its last value, the gradient over one plus its last size, and the size of
    the last step but one over a tenth plus that of the last step. Features that need an iterate before the first are 0.

    Source: arXiv 1703.00441, section 4.
    """
    if int(memory["time"]) == 0:
        nothing = torch.zeros_like(x)
        return torch.stack([nothing, gradient / (gradient.abs() + 1), nothing])
    change = relative_change(value, memory["value"])
    moved = (x - memory["x"]).abs()
    before = memory["moved"] if int(memory["time"]) > 1 else moved
    return torch.stack([change[:, None].expand_as(x), gradient / (memory["size"] + 1), before / (moved + 0.1)])


def relative_change(value: Tensor, before: Tensor) -> Tensor:
    """Relative change of a value, clamped to finite numbers; 0 if it does not change."""
    change = torch.where(value == before, 0, (value - before) / before)
    return change.clamp(-torch.finfo(change.dtype).max, torch.finfo(change.dtype).max)


def inputs(psi: Tensor) -> Tensor:
    """Encode the features (3, ...) as network inputs of order 1, (INPUTS, ...).

    A hyperbolic tangent bounds the change. The other two features span decades and enter as their logarithm, which is 0
    for e^-14 and less and 1 for 1. The gradient g also enters as its sign and as g / (|g| + e^-7) (chosen).
    """
    change, gradient, ratio = psi
    sizes = (1 + torch.stack([gradient, ratio]).abs().clamp_min(1e-12).log() / 14).clamp_min(0)
    near = gradient / (gradient.abs() + math.exp(-7))
    return torch.cat([change.tanh()[None], sizes, near[None], gradient.sign()[None]])


def _look(time: int, x: Tensor, gradient: Tensor, tables: Memory, seen: Tensor) -> None:
    """Write all network inputs except the change, (INPUTS - 1, R, m), into `seen`; see `features` and `inputs`.

    The gradients' sizes, the iterates and the steps in the tables, (R, m), are updated in place.
    """
    size, last, moved = (tables[name] for name in ("size", "x", "moved"))
    scratch, ratio, psi, sign = seen
    if time:
        torch.div(gradient, torch.add(size, 1, out=scratch), out=psi)
        torch.sub(x, last, out=scratch).abs_().clamp_max_(MAX)
        if time == 1:
            moved.copy_(scratch)  # The first step has no predecessor.
        torch.div(moved, scratch + 0.1, out=ratio)
        moved.copy_(scratch)
    else:
        torch.div(gradient, torch.abs(gradient, out=scratch).add_(1), out=psi)
        ratio.zero_()
    torch.abs(gradient, out=size)
    last.copy_(x)
    torch.sign(gradient, out=sign)
    torch.abs(psi, out=scratch)
    psi.div_(scratch + math.exp(-7))
    seen[:2].clamp_min_(1e-12).log_().div_(14).add_(1).clamp_min_(0)


class PredictedStepDescent(LearnedOptimizer):
    r"""Predicted Step Descent: a meta-learned recurrent policy predicts the step of every coordinate.

    It needs no learning rate. The shipped policy was meta-trained on small perceptrons with mini-batches; see its model
    card. Losses and gradients are divided by a unit in which the first loss is 2.3, as in meta-training, so no step
    depends on the unit of the loss (chosen). `step` needs a closure; when it skips a step is described in
    `LearnedOptimizer`.

    Args:
        params: parameters, or parameter groups with their own `lr`.
        lr: factor on the predicted steps; the policy was trained for 1, and a schedule may change it.
        policy: the name of a shipped policy, a file that meta-training wrote, or a `StepPolicy`.
        process_group: see `LearnedOptimizer`.

    Shape: as `LearnedOptimizer`. The state of a parameter of shape (*s) is ``hidden`` and ``cell``, (*s, cells), and
        (*s) each: the iterate ``x``, the gradient's absolute value ``size``, the size of the last step ``moved``, the
        sum of ``squares`` of the gradients and their running ``mean``, all float32; with ``relative`` also the size of
        the initial weights, ``start``. It takes 8 x cells + 20 or 24 bytes per coordinate: 84 with the shipped policy.
    Raises: as `LearnedOptimizer`, FileNotFoundError for an unknown policy, and ValueError where a policy with
        ``relative`` cannot know the size of a tensor: for flat parameters that join several, and for ranks that hold
        different parameters.
    Source: Li and Malik 2017, arXiv 1703.00441; `StepPolicy` lists the differences.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        policy: str | Path | StepPolicy = "psd",
        *,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        rule: Any = policy if isinstance(policy, StepPolicy) else self.from_pretrained(policy)
        super().__init__(params, rule, lr, process_group=process_group)
        self.couples = rule.settings.relative

    def _begin(self, coordinates: Coordinates) -> _coordinates.Memory:
        memory = super()._begin(coordinates)
        if self.rule.settings.relative:
            if any(len(getattr(param, "_fqns", ())) > 1 for param in coordinates.params):
                raise ValueError(
                    f"params join several tensors, and {type(self).__name__} needs the size of each: pass "
                    "use_orig_params=True to FullyShardedDataParallel, or use torch.distributed.fsdp.fully_shard"
                )
            squares, counts = coordinates.squares()
            found = sizes_of(squares[None], counts)[0].float().tolist()
            for size, (start, stop) in zip(found, coordinates.vectors.bounds, strict=True):
                memory.tables[SIZE][start:stop] = size
        return memory

    def _number_names(self) -> tuple[str, ...]:
        return (*super()._number_names(), "unit")

    def _unit(self, numbers: Numbers, look: Look) -> float:
        if not numbers["time"]:
            unit = abs(look.loss) / START or 1.0
            numbers["unit"].fill_(min(max(unit, UNITS[0]), UNITS[1]))
        return float(numbers["unit"])

    @staticmethod
    def from_pretrained(policy: str | Path = "psd") -> StepPolicy:
        """Load the policy shipped under a name or stored in a file.

        Raises: FileNotFoundError for an unknown policy; ValueError if the file holds no such policy.
        """
        return _learned.load(StepPolicy, StepPolicySettings, _learned.find(policy))[0]
