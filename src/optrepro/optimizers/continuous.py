"""GAP without candidates: the momentum that maximizes the score on an interval, from a sketch of the gradients.

The score of a filter is its inner product with the autocorrelation of the gradients. An estimate of the autocorrelation
therefore gives the score of every momentum, and no momentum needs a buffer of its own. It is estimated from a small
random projection of the gradients, and only the buffer that moves the parameters is stored.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar, cast, overload

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._autocorrelation import EDGES, bounded, counts_of, decayed, filters, lagged_products, place_of
from optrepro.optimizers._base import BaseOptimizer, Group, State, evaluate, refuse_sparse, require
from optrepro.optimizers._candidates import check_betas, check_momentum, momenta, pairs, refuse_cycled
from optrepro.optimizers._kernels import Number, descend, fits_kernel_of_cpu, scale_
from optrepro.optimizers._ranks import (
    are_replicas,
    gathered,
    holders,
    is_distributed,
    local,
    local_gradient,
    resolve,
    total,
)
from optrepro.optimizers.sketch import Sketch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    ProcessGroupSetting = ProcessGroup | Literal["world"] | None

Loss = TypeVar("Loss")
MEMORY = 0.05  # The sketch may take this share of the memory of the buffers.
DOUBT = 3.0  # A score must exceed 0 by this many standard errors.
TINY = 1e-30
START = 0.9  # momentum before the first estimate, the usual value
# The record is stored once for all parameters, in the state of one of them. It holds the counters and, if the momentum
# varies, the estimate. Scalars in float64 have the shape (1,), because compiled code would treat a tensor () as a
# Python number (torch 2.13).
COUNTERS = ("chosen", "age", "counted", "counts")
ESTIMATE = ("began", "looked", "products", "squares", "weight", "sketches")


@dataclass(frozen=True)
class ContinuousRule:
    """Settings of the estimate and its maximizer; see `ContinuousSGD`."""

    select: str = "global"
    score: str = "debiased"
    lags: int = 16
    decay: float = 0.99
    smoothing: float = 0.9
    every: int = 16
    rest: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = '"global": a sketch for each parameter takes too much memory'
        require(self.select == "global", "select", self.select, allowed)
        require(self.score in ("paper", "debiased"), "score", self.score, '"paper" or "debiased"')
        require(self.lags >= 2, "lags", self.lags, "at least 2")
        require(0 < self.decay <= 1, "decay", self.decay, "in (0, 1]")
        require(0 <= self.smoothing < 1, "smoothing", self.smoothing, "in [0, 1)")
        require(self.every >= 1, "every", self.every, "at least 1")
        require(self.rest >= 0, "rest", self.rest, "at least 0")

    @property
    def window(self) -> int:
        """Length of an observation window; long enough that its last estimate has samples at every lag."""
        return self.lags + self.every


class Part(NamedTuple):
    """Parameters of a group that are updated in one call.

    Attributes:
        group: the settings of the parameters.
        owners: the parameters.
        params: this rank's shards of the parameters.
        grads: this rank's shards of the gradients.
        state: this rank's shards of the buffers, by name.
        step: for Adam, the number of the parameters' step, counted from 1.
        product: for Adam, the product of the beta1 of all steps so far, (1,) in float64.
    """

    group: Group
    owners: list[Tensor]
    params: list[Tensor]
    grads: list[Tensor]
    state: dict[str, list[Tensor]]
    step: Number
    product: Tensor | None


@dataclass
class Layout:
    """Objects that follow from the parameters and from the ranks that hold them, cached beside the state.

    Attributes:
        params: all parameters of the optimizer.
        sketch: the random projection of the gradients.
        counts: whether this rank sketches its shard of each parameter; only one of several replicas does.
        groups: the process groups over which sketches are summed.
        grid: the momenta at which the score is evaluated.
        filters: the taps of their filters.
        lags: the numbers 0 ... lags, (lags + 1,).
        columns: for each of the last `every` sketches and each lag, the index of the earlier sketch,
            (every, lags + 1).
    """

    params: list[Tensor]
    sketch: Sketch
    counts: list[bool]
    groups: tuple[ProcessGroup, ...]
    grid: Tensor
    filters: Tensor
    lags: Tensor
    columns: Tensor


class Clock:
    """Copies of the record's counters as Python numbers, so that no step waits to read them."""

    def __init__(self, record: State) -> None:
        self.tensor = record["age"]
        self.age, self.counted = int(record["age"]), int(record["counted"])
        self.momentum = float(record["chosen"])
        self.began, self.looked = (int(record[name]) if name in record else 0 for name in ("began", "looked"))
        self.version = self.tensor._version

    def is_current(self, record: State) -> bool:
        """Whether these copies are still up to date: the record is the same object and was not changed elsewhere."""
        return record["age"] is self.tensor and self.tensor._version == self.version

    def tick(self) -> None:
        """Count a step."""
        self.age += 1
        self.tensor.add_(1)
        self.version = self.tensor._version


class Continuous(BaseOptimizer):
    """Base class of the forms for SGD and Adam whose momentum varies continuously."""

    rule: ContinuousRule
    family: ClassVar[str]  # name of the setting that gives the interval
    buffers: ClassVar[tuple[str, ...]]  # names of the state tensors shaped like the parameter
    numbers: ClassVar[tuple[str, ...]] = ()  # names of the scalars in a parameter's state
    couples_weight_decay: ClassVar[bool] = True
    _layout: Layout | None = None
    _clock: Clock | None = None
    _home: Tensor | None = None
    _unplaced: State | None = None
    _placed: State | None = None
    _has_shards: bool | None = None
    _is_mixed: bool = False
    _listed: int = 0

    def __init__(
        self, params: ParamsT, defaults: Group, rule: ContinuousRule, process_group: ProcessGroupSetting
    ) -> None:
        self.rule = rule
        super().__init__(params, defaults, process_group)

    @property
    def needs(self) -> None:
        """`step` requires nothing beside the gradients."""
        return None

    @property
    def interval(self) -> tuple[float, float]:
        """The smallest and largest momentum."""
        return self._interval(self.param_groups[0])

    @property
    def momentum(self) -> Tensor:
        """The momentum of the last step, () in float64 on the device of the first parameter."""
        return self._record()["chosen"][0].clone()

    @property
    def autocorrelation(self) -> Tensor:
        """The current estimate of R_0 ... R_lags, (lags + 1,); NaN for lags without samples so far."""
        record = self._record()
        if "products" not in record:
            return torch.full((self.rule.lags + 1,), math.nan, dtype=torch.float64, device=record["chosen"].device)
        return record["products"] / record["weight"]

    @property
    def selection(self) -> dict[str, Tensor]:
        """The momenta of the steps in three bins, in the form of `GapSGD.selection`.

        The bins are (0, 0.766), (0.766, 0.968) and (0.968, 1). At their boundaries the score of `GapSGD` passes from
        one of the candidates 0.5, 0.9 and 0.99 to the next.

        Returns:
            `last`: the bin of the last step, (); -1 before the first step.
            `counts`: number of steps in each bin, (3,).
        """
        record = self._record()
        age = record["age"]
        last = torch.where(age > 0, place_of(record["chosen"]), -1)
        return {"last": last, "counts": record["counts"] + counts_of(record["chosen"], age - record["counted"])}

    @property
    def sketch(self) -> Sketch | None:
        """The random projection of the gradients; None before the first step, and for a single momentum."""
        return None if self._layout is None else self._layout.sketch

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the closure's loss, or None without a closure.

        Raises: RuntimeError for sparse gradients.
        """
        loss = None if closure is None else evaluate(closure)
        refuse_sparse(self._all_params(), self)
        for group in self.param_groups:
            refuse_cycled(group, self.family, self._listed)
        parts: list[Part] = []
        is_compiling, width = torch.compiler.is_compiling(), 2 + len(self.buffers) + len(self.numbers)
        for group in self.param_groups:
            columns: list[list[Tensor]] = [[] for _ in range(width)]
            self._init_group(group, is_compiling, *columns)
            parts += self._parts(group, *columns)
        if not parts and resolve(self.process_group) is None:
            return loss
        if is_compiling:
            kept: list[Tensor] = []
            self._init_group(None, True, kept)
            record = dict(zip(self._record_names(self.param_groups[0]), kept, strict=True))
            momentum: Number = self._observe_compiled(record, parts)
        else:
            momentum = self._observe(self._ready_record(), parts)
        for part in parts:
            self._update(part, momentum if self._moves else self._momenta(part.group)[0])
        return loss

    # Methods that subclasses override.

    def _momenta(self, group: Group) -> Sequence[float]:
        """The values of momentum or beta1 that a group lists."""
        raise NotImplementedError

    def _update(self, part: Part, momentum: Number) -> None:
        """Update the buffers, and move the parameters."""
        raise NotImplementedError

    def _sample(self, grads: list[Tensor | None], parts: list[Part], sketch: Sketch) -> Tensor:
        """The sampled coordinates of the vector whose autocorrelation is estimated.

        Args:
            grads: this rank's shard of each parameter's gradient, or None.
            parts: the parameters that have a gradient, with their state.
            sketch: the sketch that does the sampling.
        """
        sample = sketch.sample(grads)
        if self.couples_weight_decay and any(group["weight_decay"] != 0 for group in self.param_groups):
            decays = self._of_each(signed_decay)
            params = [None if grad is None else local(p) for p, grad in zip(self._all_params(), grads, strict=True)]
            sample = sample + sketch.sample(params) * sketch.spread(decays)
        return sample

    def _of_each(self, value_of: Callable[[Group], float]) -> list[float]:
        """The value of each parameter's group, in a list over all parameters."""
        return [value for group in self.param_groups for value in [value_of(group)] * len(group["params"])]

    # The parameters' state.

    def _init_group(self, group: Group | None, separate: bool, *columns: list[Tensor]) -> None:
        """Fill the columns with a group's parameters that have a gradient, their gradients and their state.

        Missing state is created. torch.compile does not compile a method of this name but calls it.

        Args:
            group: the parameter group; None fills a single column with the record.
            separate: whether every parameter needs its own scalars, since compiled code changes them in place.
            columns: one list each for the parameters, the gradients and every state tensor.
        """
        if group is None:
            record = self._ready_record()
            columns[0].extend(record[name] for name in self._record_names(self.param_groups[0]))
            return
        if self._has_shards is None:
            everyone = self._all_params()
            self._has_shards = any(map(is_distributed, everyone))
            self._is_mixed = len({(param.device, param.dtype) for param in everyone}) > 1
        params, grads, *of_state = columns
        named = list(zip(self.buffers + self.numbers, of_state, strict=True))
        numbers: dict[torch.device, State] = {}
        seen: set[int] = set()
        for param in group["params"]:
            grad = param.grad
            if grad is None:
                continue
            state = self.state.get(param)
            if not state:
                if param.device not in numbers:
                    numbers[param.device] = self._fresh_numbers(param.device)
                state = self.state.setdefault(param, {})
                state.update({name: torch.zeros_like(param) for name in self.buffers} | numbers[param.device])
            if separate:
                for name in self.numbers:
                    if id(state[name]) in seen:
                        state[name] = state[name].clone()
                    seen.add(id(state[name]))
            params.append(param)
            grads.append(grad)
            for name, column in named:
                column.append(state[name])

    def _fresh_numbers(self, device: torch.device) -> State:
        """The scalars in a parameter's state before its first step. Parameters of equal history share the tensors."""
        return {}

    def _parts(self, group: Group, params: list[Tensor], grads: list[Tensor], *state: list[Tensor]) -> list[Part]:
        """Count a step of the parameters, and divide them into parts that are updated in one call."""
        if not params:
            return []
        alone = torch.compiler.is_compiling() or group["foreach"] is False
        histories = [id(step) for step in state[len(self.buffers)]] if self.numbers else [0] * len(params)
        if not alone and not self._is_mixed and histories.count(histories[0]) == len(histories):
            return [self._part(group, len(params) == len(group["params"]), params, grads, *state)]
        lists: dict[Any, list[int]] = {}
        for i, param in enumerate(params):
            lists.setdefault(i if alone else (histories[i], param.device, param.dtype), []).append(i)
        columns = (params, grads, *state)
        return [
            self._part(group, False, *([column[i] for i in members] for column in columns))
            for members in lists.values()
        ]

    def _part(
        self, group: Group, is_whole: bool, owners: list[Tensor], grads: list[Tensor], *state: list[Tensor]
    ) -> Part:
        """Count a step of parameters with equal history; `is_whole` if they are all parameters of the group."""
        params, buffers, numbers = owners, state[: len(self.buffers)], state[len(self.buffers) :]
        if self._has_shards:
            params, grads = [local(param) for param in owners], [local_gradient(param) for param in owners]
            buffers = tuple([local(buffer) for buffer in column] for column in buffers)
        named = dict(zip(self.buffers, buffers, strict=True))
        step, product = self._counted(owners, is_whole, *numbers) if numbers else (0.0, None)
        return Part(group, owners, params, grads, named, step, product)

    def _counted(
        self, owners: list[Tensor], is_whole: bool, steps: list[Tensor], products: list[Tensor]
    ) -> tuple[Number, Tensor | None]:
        """Count a step of parameters with equal history; return its number and the tensor for the product of beta1."""
        step, product = steps[0], products[0]
        if torch.compiler.is_compiling():
            return step.add_(1), product
        if is_whole and step.device.type == "cpu":
            step.add_(1)
        else:
            step, product = step.cpu() + 1, product.clone()
            for owner in owners:
                self.state[owner].update(step=step, beta1_product=product)
        return step.item(), product

    # The momentum.

    def _observe(self, record: State, parts: list[Part]) -> Number:
        """Observe the gradients, and return the momentum of this step: a float on a CPU, else a float32 tensor ()."""
        if self._clock is None or not self._clock.is_current(record):
            self._clock = Clock(record)
        clock = self._clock
        clock.tick()
        momentum = record["chosen"]
        if self._moves:
            place = (clock.age - 1 - clock.began) % (self.rule.window + self.rule.rest)
            if place < self.rule.window:
                self._add_sketch(record, clock, place, parts)
        elif (fixed := float(self.interval[0])) != clock.momentum:  # a scheduler has changed the momentum
            self._count(record, clock)
            momentum.fill_(fixed)
            clock.momentum = fixed
        return momentum.item() if momentum.device.type == "cpu" else momentum[0].float()

    def _add_sketch(self, record: State, clock: Clock, place: int, parts: list[Part]) -> None:
        """Sketch this gradient; every `every` steps, update the estimate."""
        lags, every, sketches = self.rule.lags, self.rule.every, record["sketches"]
        if place == 0:
            sketches.zero_()  # The steps before a window were not observed.
        sketches[lags + place % every].copy_(self._sketched(parts))
        if (place + 1) % every == 0:
            self._count(record, clock)
            for name, value in self._updated_estimate(record, sketches, place + 1, clock.age - clock.looked).items():
                record[name].copy_(value)
            sketches[:lags] = sketches[every:].clone()
            clock.looked = clock.age
            record["looked"].fill_(clock.age)

    def _observe_compiled(self, record: State, parts: list[Part]) -> Tensor:
        """`_observe` for compiled code, which computes the estimate at every step but stores it only when it is due."""
        rule, momentum, age = self.rule, record["chosen"], record["age"] + 1
        new = {
            "age": age,
            "counted": record["age"].clone(),
            "counts": record["counts"] + counts_of(momentum, record["age"] - record["counted"]),
        }
        if self._moves:
            lags, every = rule.lags, rule.every
            place = (record["age"] - record["began"]) % (rule.window + rule.rest)
            is_observed = place < rule.window
            is_due = is_observed & ((place + 1) % every == 0)
            is_row = torch.arange(rule.window, device=age.device) == lags + place % every
            sketches = torch.where(place == 0, 0.0, record["sketches"])
            sketches = torch.where((is_row & is_observed)[:, None], self._sketched(parts), sketches)
            elapsed = (age - record["looked"]).double()
            found = self._updated_estimate(record, sketches, place + 1, elapsed) | {"looked": age}
            for name, value in found.items():
                new[name] = torch.where(is_due, value, record[name])
            moved_up = torch.cat([sketches[every:], sketches[lags:]])
            new["sketches"] = torch.where(is_due, moved_up, sketches)
        else:
            new["chosen"] = torch.full_like(momentum, self.interval[0])
        for name, value in new.items():
            record[name].copy_(value)
        return new.get("chosen", momentum)[0]

    def _sketched(self, parts: list[Part]) -> Tensor:
        """The sketch of this step's gradients, summed over the ranks' shards, (width,)."""
        layout = cast(Layout, self._layout)
        grads = [param.grad for param in self._all_params()]
        if layout.groups or self._has_shards:
            grads = [
                local_gradient(param) if counts and param.grad is not None else None
                for param, counts in zip(self._all_params(), layout.counts, strict=True)
            ]
        return total(layout.sketch.fold(self._sample(grads, parts, layout.sketch)), layout.groups)

    def _updated_estimate(self, record: State, sketches: Tensor, known: int | Tensor, elapsed: int | Tensor) -> State:
        """Add the last sketches to the estimate of the autocorrelation, and return the new entries of the record.

        The first gradients of a window have few predecessors, so long lags have fewer samples.

        Args:
            record: the record.
            sketches: the sketches of the window, newest last.
            known: number of gradients observed in this window.
            elapsed: number of steps since the last estimate.
        """
        every, forget = self.rule.every, self.rule.decay**elapsed
        layout = cast(Layout, self._layout)
        unit, square = bounded(sketches, record["products"][:1] / record["weight"][:1])
        rows = lagged_products(unit, layout.columns).double() * square
        new = {
            "products": decayed(rows.sum(0), record["products"], forget),
            "squares": decayed(rows[:, 1:].square().sum(), record["squares"], forget * forget),
            "weight": decayed((known - layout.lags).clamp_(0, every), record["weight"], forget),
        }
        new["chosen"] = self._smoothed_maximizer(new, record["chosen"], elapsed)
        return new

    def _smoothed_maximizer(self, estimate: State, momentum: Tensor, elapsed: int | Tensor) -> Tensor:
        """The smoothed maximizer of the score, `elapsed` steps after the last estimate."""
        layout, (low, high) = cast(Layout, self._layout), self.interval
        products = estimate["products"] if self.rule.score == "paper" else estimate["products"][1:]
        best, index = (layout.filters @ products).max(0)
        # the variance of every score if the gradients were uncorrelated
        variance = estimate["squares"] / self.rule.lags
        is_beyond_doubt = best * best.abs() > DOUBT**2 * variance
        target = torch.where(is_beyond_doubt, layout.grid.index_select(0, index[None]), low)
        return (target + (momentum - target) * self.rule.smoothing**elapsed).clamp(low, high)

    def _count(self, record: State, clock: Clock) -> None:
        """Add the steps since the last count, without this one, to the bin of the momentum that all of them used."""
        steps = clock.age - 1 - clock.counted
        if steps:
            record["counts"].add_(counts_of(record["chosen"], steps))
            record["counted"].fill_(clock.age - 1)
            clock.counted = clock.age - 1

    # The record.

    @property
    def _moves(self) -> bool:
        return self._listed > 1

    def _interval(self, group: Group) -> tuple[float, float]:
        listed = self._momenta(group)
        return min(listed), max(listed)

    def _record_names(self, group: Group) -> tuple[str, ...]:
        return COUNTERS + (ESTIMATE if len(self._momenta(group)) > 1 else ())

    def _record(self) -> State:
        """The record, or a fresh one before the first step; the state is not changed."""
        for state in self.state.values():
            if "chosen" in state:
                return cast(State, state)
        return self._unplaced or self._fresh_record()

    def _ready_record(self) -> State:
        """The record, stored in the state and with sketches that fit the parameters."""
        home, layout = self._home, self._layout
        if layout is not None:
            params = self._all_params()
            if len(params) != len(layout.params) or not all(map(operator.is_, params, layout.params)):
                self._forget_layout()  # parameters were removed or replaced without notice
                self._forget_estimate()
            elif home is not None and self.state.get(home) is self._placed:
                return cast(State, self._placed)
        record = self._placed_record()
        if self._moves:
            self._arrange(record)
        self._placed = record
        return record

    def _placed_record(self) -> State:
        """The record, stored in the state of the first parameter that has a state."""
        home = self._home
        if home is None or "chosen" not in self.state.get(home, ()):
            with_state = [param for param in self._all_params() if self.state.get(param)]
            self._home = home = next(
                (param for param in with_state if "chosen" in self.state[param]),
                with_state[0] if with_state else None,
            )
        if home is None:  # A rank without parameters still takes part in the sums.
            self._unplaced = record = self._unplaced or self._fresh_record()
            return record
        record = cast(State, self.state[home])
        names = self._record_names(self.param_groups[0])
        if any(name not in record for name in names):
            made = self._unplaced or self._fresh_record()
            record.update({name: made[name] for name in names if name not in record})
            self._unplaced = None
        return record

    def _fresh_record(self) -> State:
        params, (low, high), lags = self._all_params(), self.interval, self.rule.lags
        device = local(params[0]).device if params else torch.device("cpu")
        record = {
            "chosen": torch.full((1,), min(max(START, low), high), dtype=torch.float64, device=device),
            "age": torch.zeros((), dtype=torch.int64, device=device),
            "counted": torch.zeros((), dtype=torch.int64, device=device),
            "counts": torch.zeros(len(EDGES) + 1, dtype=torch.int64, device=device),
        }
        if self._moves:
            record["began"] = torch.zeros((), dtype=torch.int64, device=device)
            record["looked"] = torch.zeros((), dtype=torch.int64, device=device)
            record["products"] = torch.zeros(lags + 1, dtype=torch.float64, device=device)
            record["squares"] = torch.zeros(1, dtype=torch.float64, device=device)
            record["weight"] = torch.zeros(lags + 1, dtype=torch.float64, device=device)
            record["sketches"] = torch.zeros(0, 0, dtype=torch.float32, device=device)
        return record

    def _arrange(self, record: State) -> None:
        """Create the sketch if needed, and make the record fit it, on all ranks alike."""
        if self._layout is None:
            self._layout = self._made_layout(record["chosen"].device)
            self._synchronize(record, self._layout.groups)
        shape = self.rule.window, self._layout.sketch.width
        if record["sketches"].shape != shape:
            record["sketches"] = torch.zeros(shape, dtype=torch.float32, device=record["chosen"].device)
            record["began"].copy_(record["age"])
            self._clock = None

    def _made_layout(self, device: torch.device) -> Layout:
        """Create the layout for the current parameters and ranks."""
        params, everyone = self._all_params(), resolve(self.process_group)
        spread = [holders(param, everyone) for param in params]
        groups = tuple(dict.fromkeys(group for over in spread for group in over))
        if not groups and everyone is not None and not are_replicas(params, everyone):
            groups, spread = (everyone,), [(everyone,)] * len(params)
        # Only the first rank sketches a parameter that is replicated over a group.
        counts = [all(group in over or dist.get_rank(group) == 0 for group in groups) for over in spread]
        sizes = [local(param).numel() if mine else 0 for param, mine in zip(params, counts, strict=True)]
        memory = len(self.buffers) * sum(local(p).nbytes for p, mine in zip(params, counts, strict=True) if mine)
        size, seed = sum(sizes), self.rule.seed
        if groups:
            numbers = total(torch.tensor([size, memory], dtype=torch.float64, device=device), groups)
            size, memory = (int(number) // math.prod(map(dist.get_world_size, groups)) for number in numbers.tolist())
            for group in groups:
                seed = (seed * dist.get_world_size(group) + dist.get_rank(group) + 1) % 2**62
        memory_of_sketch = MEMORY * memory - 16 * (self.rule.lags + 8)
        sketch = Sketch(sizes, memory_of_sketch, self.rule.window, seed, device, size)
        low, high = self.interval
        lags = torch.arange(self.rule.lags + 1, device=device)
        columns = torch.arange(self.rule.lags, self.rule.window, device=device)[:, None] - lags
        grid, taps = filters(low, high, len(lags) - (self.rule.score == "debiased"), device)
        return Layout(params, sketch, counts, groups, grid, taps, lags, columns)

    def _synchronize(self, record: State, groups: Sequence[ProcessGroup]) -> None:
        """Copy the record of the rank that has taken the most steps to all ranks; the others had no parameters."""
        names = [name for name in self._record_names(self.param_groups[0]) if name != "sketches"]
        for group in groups:
            rows = gathered(torch.cat([record[name].double().flatten() for name in names]), group)
            ages = rows[:, names.index("age")]
            if ages.min() < ages.max():
                best = torch.split(rows[ages.argmax()], [record[name].numel() for name in names])
                for name, value in zip(names, best, strict=True):
                    record[name].copy_(value.view_as(record[name]))
                record["sketches"] = record["sketches"].new_zeros(0, 0)

    # Settings.

    def add_param_group(self, param_group: Group) -> None:
        """Add a parameter group, with its own settings where given, and discard the estimate of the autocorrelation."""
        super().add_param_group(param_group)
        self._forget_estimate()

    def _forget_estimate(self) -> None:
        record = next((state for state in self.state.values() if "products" in state), None)
        if record is not None:
            for name in ("products", "squares", "weight"):
                record[name].zero_()
            record["sketches"] = record["sketches"].new_zeros(0, 0)

    def _checked(self, group: Group) -> Group:
        self._check_settings(group)
        own, first = self._interval(group), self._interval(self.param_groups[0] if self.param_groups else group)
        require(own == first, self.family, group[self.family], f"on the interval of the first group, {first}")
        return group

    def _check_settings(self, group: Group) -> None:
        for name in ("lr", "weight_decay"):
            require(group[name] >= 0, name, group[name], "at least 0")
        for name in ("nesterov", "dampening", "lr_modulation"):
            require(not group.get(name), name, group.get(name), 'off with candidates="continuous"')
        require(len(self._momenta(group)) > 0, self.family, group[self.family], "at least one number")

    def _forget_layout(self) -> None:
        self._layout = self._clock = self._home = self._has_shards = self._placed = None
        if self.param_groups:
            self._listed = len(self._momenta(self.param_groups[0]))

    # Saving and loading.

    def _state_names(self, group: Group) -> dict[str, bool]:
        return {name: name in self.buffers for name in (*self.buffers, *self.numbers, *self._record_names(group))}

    def _check_state(self, param: Tensor, group: Group, state: State, key: object) -> None:
        names = self._record_names(group)
        is_whole = not any(name in state for name in names)  # Only one parameter's state holds the record.
        super()._check_state(param, group, {**dict.fromkeys(names, param), **state} if is_whole else state, key)
        if "products" in state:
            found = len(state["products"]) - 1
            require(found == self.rule.lags, "lags of state_dict", found, f"that of the optimizer, {self.rule.lags}")

    def _translated(self, group: Group, saved: Group, states: list[State]) -> Group:
        require(self.family in saved, f"{self.family} of state_dict", None, "present")
        if "lr_modulation" not in saved:  # a checkpoint of torch's optimizer, which has the same buffers
            for state in states:
                self._adopt(state, saved)
            saved = {**saved, self.family: group[self.family]}
        now = super()._translated(group, saved, states)
        self._check_settings(now)
        return now

    def _adopt(self, state: State, saved: Group) -> None:
        """Convert a parameter's state from that of torch's optimizer, in place."""

    def _take_over(self, prepared: dict[str, Any]) -> None:
        super()._take_over(prepared)
        for group in self.param_groups:  # Parameters of a group with equal scalars share the tensors again.
            held: dict[Any, State] = {}
            for param in group["params"]:
                state = self.state.get(param)
                if self.numbers and state and "step" in state:
                    numbers = {name: state[name] for name in self.numbers}
                    numbers["step"] = numbers["step"].cpu().float()
                    key = (param.device, *(number.item() for number in numbers.values()))
                    state.update(held.setdefault(key, numbers))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "rule": self.rule}


class ContinuousSGD(Continuous):
    r"""SGD whose momentum follows the autocorrelation of the gradients and varies continuously on an interval.

    With :math:`R_k = E\langle g_n, g_{n-k}\rangle`, the momentum is the smoothed maximizer of

    .. math:: J(m) = \sum_{k=1}^{K} m^k R_k \Big/ \sqrt{\textstyle\sum_{k=1}^{K} m^{2k}},

    the inner product of the heavy-ball filter, at unit norm, with the autocorrelation. If :math:`R_k \propto \rho^k`,
    then by Cauchy-Schwarz it is largest at :math:`m = \rho` for every K. The sums leave out :math:`R_0`, which
    mini-batch noise inflates. If no momentum has a clearly positive score, the smallest momentum is taken. The step is
    :math:`b \leftarrow m_n b + g`, :math:`p \leftarrow p - \eta b` with the current momentum :math:`m_n`.

    The autocorrelation is estimated from a `Sketch` of the gradients. A parameter without a gradient counts as one with
    a gradient of 0; neither it nor its buffer changes. A sketch that is not finite counts as 0, and a sketch longer
    than 100 times the median of its window is shortened to that length, so that a spike is soon forgotten.

    `GapSGD(..., candidates="continuous")` returns an object of this class.

    Args:
        params, lr: as in `GapSGD`.
        momentum: the interval, from the smallest to the largest of the given numbers, in [0, 1). With a single number
            the class equals ``torch.optim.SGD(..., foreach=False)``, bit for bit on a CPU, and a scheduler may cycle
            it.
        select: ``"global"``.
        candidates: ``"continuous"``.
        score: ``"debiased"`` is the score above; ``"paper"`` begins the sums at k = 0.
        lags: K, at least 2.
        decay: decay per step of the average that estimates :math:`R_k`, in (0, 1].
        smoothing: decay per step of the momentum's distance from the maximizer, in [0, 1).
        every: number of steps between two estimates. Before the first estimate the momentum is 0.9, or the nearest end
            of the interval.
        rest: number of steps between two observation windows, during which the momentum does not change. A window has
            lags + every steps. Long lags have fewer samples in a window and so a smaller weight.
        seed: seed of the sketch. Two optimizers with equal seeds and parameters make the same estimates.
        weight_decay: coupled; it enters the gradient that is observed and applied.
        maximize, foreach: as in `torch.optim.SGD`.
        dampening, nesterov, lr_modulation: must be off; accepted so that settings of `GapSGD` can be passed on.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. Each rank sketches its shards, and the sketches are summed, so that all
            ranks use the same momentum.

    Shape: parameters of any shape and floating dtype. The state is one buffer shaped like the parameter and, in the
        state of the first parameter, the record shared by all: 32 sketches and a few numbers. Together with the signs
        of the sketch it takes at most 5 % of the buffers plus 128 bytes from about 12,000 elements on, and never more
        than 0.2 MB. All optimizers of a process share a table of 20 KB. No step waits for an accelerator.
    Raises: ValueError for a setting outside its range, complex parameters, nesterov, dampening or lr_modulation;
        RuntimeError for sparse gradients. `FullyShardedDataParallel.optim_state_dict` cannot save the sketches: use
        `fully_shard`, or this rank's own `state_dict`.
    Source: the principle is that of arXiv 2512.06370; the estimate and its maximizer are chosen.
    """

    family = "momentum"
    buffers = ("momentum_buffer",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float | Sequence[float] = (0.0, 0.99),
        select: str = "global",
        *,
        candidates: str = "continuous",
        score: str = "debiased",
        lags: int = 16,
        decay: float = 0.99,
        smoothing: float = 0.9,
        every: int = 16,
        rest: int = 32,
        seed: int = 0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        lr_modulation: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        process_group: ProcessGroupSetting = "world",
    ) -> None:
        require(candidates == "continuous", "candidates", candidates, '"continuous"')
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "lr_modulation": lr_modulation,
            "maximize": maximize,
            "foreach": foreach,
        }
        rule = ContinuousRule(select, score, lags, decay, smoothing, every, rest, seed)
        super().__init__(params, defaults, rule, process_group)

    def _momenta(self, group: Group) -> Sequence[float]:
        return momenta(group)

    def _check_settings(self, group: Group) -> None:
        super()._check_settings(group)
        check_momentum(group)

    def _adopt(self, state: State, saved: Group) -> None:
        if cast(Any, state) == {"momentum_buffer": None}:  # torch's state after steps without momentum
            state.clear()

    def _update(self, part: Part, momentum: Number) -> None:
        group, params, grads, buffers = part.group, part.params, part.grads, part.state["momentum_buffer"]
        lr = group["lr"]
        if self._moves and not isinstance(momentum, Tensor) and fits_kernel_of_cpu(params, grads, buffers):
            torch._fused_sgd_(
                params,
                grads,
                buffers,
                weight_decay=group["weight_decay"],
                momentum=max(momentum, TINY),  # With 0 the kernel would not update the buffer.
                lr=float(lr),
                dampening=0.0,
                nesterov=False,
                maximize=group["maximize"],
                is_first_step=False,
            )
            return
        scale_(buffers, on(params[0].device, momentum))
        torch._foreach_add_(buffers, objectives(part, self.couples_weight_decay))
        descend(params, buffers, lr)


class ContinuousAdam(Continuous):
    r"""Adam whose beta1 follows the autocorrelation of the gradients and varies continuously on an interval.

    The rule is that of `ContinuousSGD` with :math:`R_k = E\langle P^{1/2} g_n, P^{1/2} g_{n-k}\rangle` and
    :math:`P = 1/(\sqrt{\hat v} + \epsilon)`. The first moment is :math:`m \leftarrow \beta_n m + (1 - \beta_n) g`, and
    its bias correction is :math:`1 - \prod_n \beta_n` over the parameter's steps.

    `GapAdam(..., candidates="continuous")` returns an object of this class.

    Args:
        params, lr: as in `GapAdam`.
        betas: pairs (beta1, beta2) with a common beta2; the smallest and largest beta1 are the ends of the interval.
            With a single pair the class equals ``torch.optim.Adam(..., foreach=False)``, bit for bit on a CPU, and a
            scheduler may cycle it.
        select, candidates, score, lags, decay, smoothing, every, rest, seed: as in `ContinuousSGD`.
        eps, maximize, foreach: as in `torch.optim.Adam`.
        weight_decay: coupled, 0 by default.
        lr_modulation, process_group: as in `ContinuousSGD`.

    Shape: as `ContinuousSGD`; the buffers are a first and a second moment.
    Raises: as `ContinuousSGD`, and ValueError for pairs that differ in beta2.
    Source: as `ContinuousSGD`.
    """

    family = "betas"
    buffers = ("exp_avg", "exp_avg_sq")
    numbers = ("step", "beta1_product")
    default_weight_decay: ClassVar[float] = 0.0

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] | Sequence[tuple[float, float]] = ((0.0, 0.999), (0.99, 0.999)),
        select: str = "global",
        *,
        candidates: str = "continuous",
        score: str = "debiased",
        lags: int = 16,
        decay: float = 0.99,
        smoothing: float = 0.9,
        every: int = 16,
        rest: int = 32,
        seed: int = 0,
        eps: float = 1e-8,
        weight_decay: float | None = None,
        lr_modulation: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        process_group: ProcessGroupSetting = "world",
    ) -> None:
        require(candidates == "continuous", "candidates", candidates, '"continuous"')
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": self.default_weight_decay if weight_decay is None else weight_decay,
            "lr_modulation": lr_modulation,
            "maximize": maximize,
            "foreach": foreach,
        }
        rule = ContinuousRule(select, score, lags, decay, smoothing, every, rest, seed)
        super().__init__(params, defaults, rule, process_group)

    def _momenta(self, group: Group) -> Sequence[float]:
        return [beta for beta, _ in pairs(group)]

    def _check_settings(self, group: Group) -> None:
        check_betas(group)
        require(group["eps"] >= 0, "eps", group["eps"], "at least 0")
        super()._check_settings(group)

    def _adopt(self, state: State, saved: Group) -> None:
        if "step" in state and "exp_avg" in state:
            state["step"] = torch.as_tensor(state["step"])
            state["beta1_product"] = saved["betas"][0] ** state["step"].double().view(1)

    def _fresh_numbers(self, device: torch.device) -> State:
        # The step count is on the CPU, so that reading it makes no step wait.
        return {
            "step": torch.zeros((), dtype=torch.float32),
            "beta1_product": torch.ones(1, dtype=torch.float64, device=device),
        }

    def _sample(self, grads: list[Tensor | None], parts: list[Part], sketch: Sketch) -> Tensor:
        gradient = super()._sample(grads, parts, sketch)
        squares: list[Tensor | None] = [None] * len(grads)
        corrections: list[Number] = [1.0] * len(grads)  # has no effect without a gradient
        places = {param: i for i, param in enumerate(self._all_params())}
        for part in parts:
            correction = 1 - beta2_of(part.group) ** part.step
            for owner, exp_avg_sq in zip(part.owners, part.state["exp_avg_sq"], strict=True):
                place = places[owner]
                if grads[place] is not None:
                    squares[place], corrections[place] = exp_avg_sq, correction
        beta2 = sketch.spread(self._of_each(beta2_of))
        exp_avg_sq = sketch.sample(squares) * beta2 + gradient.square() * (1 - beta2)
        eps = sketch.spread(self._of_each(lambda group: cast(float, group["eps"])))
        denominator = (exp_avg_sq / sketch.spread(corrections)).sqrt_() + eps
        return gradient / denominator.sqrt_().clamp_(min=TINY)

    def _update(self, part: Part, momentum: Number) -> None:
        group, product = part.group, cast(Tensor, part.product)
        product.mul_(on(product.device, momentum))
        beta2 = beta2_of(group)
        exp_avgs, exp_avg_sqs = part.state.values()
        fits = self._moves and fits_kernel_of_cpu(part.params, part.grads, exp_avgs, exp_avg_sqs)
        if not isinstance(momentum, Tensor) and fits:
            self._update_fused(part, momentum, beta2, product.item())
            return
        params, grads, step, lr = part.params, objectives(part, self.couples_weight_decay), part.step, group["lr"]
        if isinstance(step, Tensor):
            step = step.double()  # in float32, 1 - 0.999^step has only four correct digits
        if not self.couples_weight_decay and group["weight_decay"] != 0:
            scale_(params, 1 - lr * group["weight_decay"])
        if isinstance(momentum, Tensor):  # there is no foreach lerp whose weight is a tensor ()
            beta = on(params[0].device, momentum)
            torch._foreach_mul_(exp_avgs, beta / (1 - beta))
            torch._foreach_add_(exp_avgs, grads)
            torch._foreach_mul_(exp_avgs, 1 - beta)
        else:
            torch._foreach_lerp_(exp_avgs, grads, 1 - momentum)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
        denominators = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_div_(denominators, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(denominators, group["eps"])
        # A single beta1 is corrected as in torch; one that varies needs the product over all steps.
        correction = 1 - product[0] if self._moves else 1 - momentum**step
        if isinstance(correction, Tensor) and correction.device.type == "cpu" and not torch.compiler.is_compiling():
            correction = correction.item()
        if isinstance(correction, Tensor) or isinstance(lr, Tensor):
            torch._foreach_mul_(denominators, on(params[0].device, correction))
            descend(params, list(torch._foreach_div(exp_avgs, denominators)), lr)
        else:
            torch._foreach_addcdiv_(params, exp_avgs, denominators, value=-(lr / correction))

    def _update_fused(self, part: Part, beta1: float, beta2: float, product: float) -> None:
        """Update in one pass over memory; lr and decay are rescaled, because the kernel assumes a constant beta1."""
        group, step = part.group, cast(float, part.step)
        ratio = (1 - product) / (1 - beta1**step)
        kernel, decay = torch._fused_adam_, group["weight_decay"]
        if not self.couples_weight_decay:
            kernel, decay = torch._fused_adamw_, decay * ratio
        exp_avgs, exp_avg_sqs = part.state.values()
        kernel(
            part.params,
            part.grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            [torch.full((), step, dtype=torch.float32)] * len(part.params),
            lr=float(group["lr"]) / ratio,
            beta1=beta1,
            beta2=beta2,
            weight_decay=decay,
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )


class ContinuousAdamW(ContinuousAdam):
    """`ContinuousAdam` with decoupled weight decay, 0.01 by default; a single pair is `torch.optim.AdamW`."""

    couples_weight_decay = False
    default_weight_decay = 0.01


def objectives(part: Part, couples_weight_decay: bool) -> list[Tensor]:
    """Gradients of the minimized objective, including coupled weight decay."""
    group, grads = part.group, part.grads
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    if couples_weight_decay and group["weight_decay"] != 0:
        grads = list(torch._foreach_add(grads, part.params, alpha=group["weight_decay"]))
    return grads


def beta2_of(group: Group) -> float:
    """The common beta2 of a group."""
    betas = group["betas"]
    return cast(float, betas[1] if isinstance(betas[0], float) else betas[0][1])


def signed_decay(group: Group) -> float:
    """The coefficient of the parameters in their gradients under coupled weight decay, negative if maximizing."""
    decay: float = group["weight_decay"]
    return -decay if group["maximize"] else decay


def on(device: torch.device, number: Number) -> Number:
    """Move the number to a device if it is a tensor."""
    return number.to(device) if isinstance(number, Tensor) else number
