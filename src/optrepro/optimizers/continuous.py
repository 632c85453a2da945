"""GAP without candidates: the momentum that maximizes the score on an interval, from a sketch of the gradients.

A filter's score is its inner product with the gradient autocorrelation, so it needs no buffer of its own: the
autocorrelation of the gradients tells the score of every momentum. It is estimated here from a small random projection
of the gradient, and only the one buffer that moves the parameters is kept.
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
MEMORY = 0.05  # of the state of torch's optimizer: what the sketch may take
DOUBT = 3.0  # standard errors by which a score must exceed 0
TINY = 1e-30
START = 0.9  # momentum before anything is known of the gradients: the usual one
# What is kept once for all parameters, in the state of one of them: always, and where the momentum moves. Numbers in
# float64 have the shape (1,): compiled code would take those of the shape () for Python's (torch 2.13).
COUNTERS = ("chosen", "age", "counted", "counts")
ESTIMATE = ("began", "looked", "products", "squares", "weight", "sketches")


@dataclass(frozen=True)
class ContinuousRule:
    """Settings of the estimate and its maximizer, see `ContinuousSGD`."""

    select: str = "global"
    score: str = "debiased"
    lags: int = 16
    decay: float = 0.99
    smoothing: float = 0.9
    every: int = 16
    rest: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.select == "global", "select", self.select, '"global": a sketch for each parameter takes too much')
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
    """Parameters of a group that one call may work on, of each this rank's part.

    Attributes:
        owners: the parameters themselves.
        state: by name, what is shaped like the parameters.
        step: for Adam, the number of their step, from 1.
        product: for Adam, that of all beta1 that they have seen, (1,) in float64.
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
    """What is made from the parameters and the ranks that hold them, and kept beside the state.

    Attributes:
        params: all parameters that the optimizer has.
        counts: whether this rank sketches its part of each parameter; of replicas only one rank does.
        groups: the process groups over which sketches are summed.
        grid, filters: the momenta at which the score is evaluated, and their filters.
        lags: 0 ... lags, (lags + 1,).
        columns: of the last `every` sketches, for each lag the number of the one before it, (every, lags + 1).
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
    """The record's numbers on the host, so that no step waits to read them."""

    def __init__(self, record: State) -> None:
        self.tensor = record["age"]
        self.age, self.counted = int(record["age"]), int(record["counted"])
        self.momentum = float(record["chosen"])
        self.began, self.looked = (int(record[name]) if name in record else 0 for name in ("began", "looked"))
        self.version = self.tensor._version

    def tells(self, record: State) -> bool:
        """Whether the record still is the one that was read, and nobody else has changed it."""
        return record["age"] is self.tensor and self.tensor._version == self.version

    def tick(self) -> None:
        """Count a step."""
        self.age += 1
        self.tensor.add_(1)
        self.version = self.tensor._version


class Continuous(BaseOptimizer):
    """The momentum as a number that moves: what the forms for SGD and Adam share."""

    rule: ContinuousRule
    family: ClassVar[str]  # the setting that holds the interval
    buffers: ClassVar[tuple[str, ...]]  # what a parameter's state holds that is shaped like it
    numbers: ClassVar[tuple[str, ...]] = ()  # what it holds else
    couples_weight_decay: ClassVar[bool] = True
    _layout: Layout | None = None
    _clock: Clock | None = None
    _home: Tensor | None = None
    _homeless: State | None = None
    _settled_in: State | None = None
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
        """`step` asks for nothing but the gradients."""
        return None

    @property
    def interval(self) -> tuple[float, float]:
        """The smallest and the largest momentum."""
        return self._interval(self.param_groups[0])

    @property
    def momentum(self) -> Tensor:
        """The momentum of the last step, () in float64 on the device of the first parameter."""
        return self._record()["chosen"][0].clone()

    @property
    def autocorrelation(self) -> Tensor:
        """The estimate of R_0 ... R_lags, (lags + 1,), as of the last look; NaN for lags without products so far."""
        record = self._record()
        if "products" not in record:
            return torch.full((self.rule.lags + 1,), math.nan, dtype=torch.float64, device=record["chosen"].device)
        return record["products"] / record["weight"]

    @property
    def selection(self) -> dict[str, Tensor]:
        """The momentum as if it were the nearest of 0.5, 0.9 and 0.99, in the form of `GapSGD.selection`.

        Bins are (0, 0.766), (0.766, 0.968) and (0.968, 1), which is where the score of `GapSGD` passes from one
        candidate to the next. `last`: the bin, (), -1 before the first step; `counts`: steps in each bin, (3,).
        """
        record = self._record()
        age = record["age"]
        last = torch.where(age > 0, place_of(record["chosen"]), -1)
        return {"last": last, "counts": record["counts"] + counts_of(record["chosen"], age - record["counted"])}

    @property
    def sketch(self) -> Sketch | None:
        """What the gradients are seen through; None before the first step, and for a single momentum."""
        return None if self._layout is None else self._layout.sketch

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the closure's loss, or None. RuntimeError for sparse gradients."""
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

    # What a kind of optimizer says.

    def _momenta(self, group: Group) -> Sequence[float]:
        """The momenta or beta1 that a group lists."""
        raise NotImplementedError

    def _update(self, part: Part, momentum: Number) -> None:
        """Update the buffers, and move the parameters."""
        raise NotImplementedError

    def _sample(self, grads: list[Tensor | None], parts: list[Part], sketch: Sketch) -> Tensor:
        """The sampled coordinates of what the autocorrelation is measured of.

        Args:
            grads: of each parameter, this rank's part; None where there is none.
        """
        sample = sketch.sample(grads)
        if self.couples_weight_decay and any(group["weight_decay"] != 0 for group in self.param_groups):
            decays = self._of_each(signed_decay)
            params = [None if grad is None else local(p) for p, grad in zip(self._all_params(), grads, strict=True)]
            sample = sample + sketch.sample(params) * sketch.spread(decays)
        return sample

    def _of_each(self, value_of: Callable[[Group], float]) -> list[float]:
        """A number for each parameter, from the settings of its group."""
        return [value for group in self.param_groups for value in [value_of(group)] * len(group["params"])]

    # The parameters' state.

    def _init_group(self, group: Group | None, separate: bool, *columns: list[Tensor]) -> None:
        """Fill the columns with a group's parameters that have a gradient, their gradients and their state.

        Without a group there is one column, for the record. What does not exist yet is made. The compiler calls a
        method of this name instead of compiling it.

        Args:
            separate: give every parameter numbers of its own, which compiled code changes in place.
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
        """The numbers in the state of parameters before their first step. All of equal history hold the same."""
        return {}

    def _parts(self, group: Group, params: list[Tensor], grads: list[Tensor], *state: list[Tensor]) -> list[Part]:
        """Count a step of the parameters, and divide them into lists that one call may work on."""
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
        """Count a step of parameters of equal history: all of a group, or some that leave others behind."""
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
        """The number of the step of parameters of equal history, and the tensor that is to hold Adam's product."""
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
        """The momentum of this step, with its gradients; on a CPU a float, elsewhere a tensor () in float32."""
        if self._clock is None or not self._clock.tells(record):
            self._clock = Clock(record)
        clock = self._clock
        clock.tick()
        momentum = record["chosen"]
        if self._moves:
            place = (clock.age - 1 - clock.began) % (self.rule.window + self.rule.rest)
            if place < self.rule.window:
                self._watch(record, clock, place, parts)
        elif (fixed := float(self.interval[0])) != clock.momentum:  # a scheduler cycles it
            self._count(record, clock)
            momentum.fill_(fixed)
            clock.momentum = fixed
        return momentum.item() if momentum.device.type == "cpu" else momentum[0].float()

    def _watch(self, record: State, clock: Clock, place: int, parts: list[Part]) -> None:
        """Sketch this gradient; every `every` steps, update the estimate."""
        lags, every, sketches = self.rule.lags, self.rule.every, record["sketches"]
        if place == 0:
            sketches.zero_()  # nothing is known of the steps before
        sketches[lags + place % every].copy_(self._sketched(parts))
        if (place + 1) % every == 0:
            self._count(record, clock)
            for name, value in self._look(record, sketches, place + 1, clock.age - clock.looked).items():
                record[name].copy_(value)
            sketches[:lags] = sketches[every:].clone()
            clock.looked = clock.age
            record["looked"].fill_(clock.age)

    def _observe_compiled(self, record: State, parts: list[Part]) -> Tensor:
        """The same for compiled code, which computes at every step what some steps ask for, and keeps it in those."""
        rule, momentum, age = self.rule, record["chosen"], record["age"] + 1
        new = {
            "age": age,
            "counted": record["age"].clone(),
            "counts": record["counts"] + counts_of(momentum, record["age"] - record["counted"]),
        }
        if self._moves:
            lags, every = rule.lags, rule.every
            place = (record["age"] - record["began"]) % (rule.window + rule.rest)
            is_watched = place < rule.window
            is_looked_at = is_watched & ((place + 1) % every == 0)
            is_row = torch.arange(rule.window, device=age.device) == lags + place % every
            sketches = torch.where(place == 0, 0.0, record["sketches"])
            sketches = torch.where((is_row & is_watched)[:, None], self._sketched(parts), sketches)
            found = self._look(record, sketches, place + 1, (age - record["looked"]).double()) | {"looked": age}
            for name, value in found.items():
                new[name] = torch.where(is_looked_at, value, record[name])
            moved_up = torch.cat([sketches[every:], sketches[lags:]])
            new["sketches"] = torch.where(is_looked_at, moved_up, sketches)
        else:
            new["chosen"] = torch.full_like(momentum, self.interval[0])
        for name, value in new.items():
            record[name].copy_(value)
        return new.get("chosen", momentum)[0]

    def _sketched(self, parts: list[Part]) -> Tensor:
        """The sketch of this step's gradients, (width,): the sum of those of all ranks' parts."""
        layout = cast(Layout, self._layout)
        grads = [param.grad for param in self._all_params()]
        if layout.groups or self._has_shards:
            grads = [
                local_gradient(param) if counts and param.grad is not None else None
                for param, counts in zip(self._all_params(), layout.counts, strict=True)
            ]
        return total(layout.sketch.fold(self._sample(grads, parts, layout.sketch)), layout.groups)

    def _look(self, record: State, sketches: Tensor, known: int | Tensor, elapsed: int | Tensor) -> State:
        """What is new in the record once the last sketches are taken into the autocorrelation.

        Of the first gradients of a window few are known before them, so that long lags have fewer products.

        Args:
            known: sketches in this window, with those of the last `every` steps.
            elapsed: steps since the last look.
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
        new["chosen"] = self._settled(new, record["chosen"], elapsed)
        return new

    def _settled(self, estimate: State, momentum: Tensor, elapsed: int | Tensor) -> Tensor:
        """The smoothed maximizer of the score, `elapsed` steps after the last."""
        layout, (low, high) = cast(Layout, self._layout), self.interval
        products = estimate["products"] if self.rule.score == "paper" else estimate["products"][1:]
        best, index = (layout.filters @ products).max(0)
        # Were the gradients uncorrelated, any score would have this variance.
        variance = estimate["squares"] / self.rule.lags
        is_beyond_doubt = best * best.abs() > DOUBT**2 * variance
        target = torch.where(is_beyond_doubt, layout.grid.index_select(0, index[None]), low)
        return (target + (momentum - target) * self.rule.smoothing**elapsed).clamp(low, high)

    def _count(self, record: State, clock: Clock) -> None:
        """Count the steps before this one, since the last count; all of them had the present momentum."""
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
        """What is known so far. Changes nothing."""
        for state in self.state.values():
            if "chosen" in state:
                return cast(State, state)
        return self._homeless or self._fresh_record()

    def _ready_record(self) -> State:
        """The record, in its place and such that the sketches fit the parameters."""
        home, layout = self._home, self._layout
        if layout is not None:
            params = self._all_params()
            if len(params) != len(layout.params) or not all(map(operator.is_, params, layout.params)):
                self._forget_layout()  # who removes or replaces parameters says nothing of it
                self._forget_estimate()
            elif home is not None and self.state.get(home) is self._settled_in:
                return cast(State, self._settled_in)
        record = self._placed_record()
        if self._moves:
            self._arrange(record)
        self._settled_in = record
        return record

    def _placed_record(self) -> State:
        """The record, which is put into the state of the first parameter that has one."""
        home = self._home
        if home is None or "chosen" not in self.state.get(home, ()):
            with_state = [param for param in self._all_params() if self.state.get(param)]
            self._home = home = next(
                (param for param in with_state if "chosen" in self.state[param]),
                with_state[0] if with_state else None,
            )
        if home is None:  # a rank without parameters takes part in the sums all the same
            self._homeless = record = self._homeless or self._fresh_record()
            return record
        record = cast(State, self.state[home])
        names = self._record_names(self.param_groups[0])
        if any(name not in record for name in names):
            made = self._homeless or self._fresh_record()
            record.update({name: made[name] for name in names if name not in record})
            self._homeless = None
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
        """Make the sketch, and have all ranks and the record fit it."""
        if self._layout is None:
            self._layout = self._made_layout(record["chosen"].device)
            self._agree(record, self._layout.groups)
        shape = self.rule.window, self._layout.sketch.width
        if record["sketches"].shape != shape:
            record["sketches"] = torch.zeros(shape, dtype=torch.float32, device=record["chosen"].device)
            record["began"].copy_(record["age"])
            self._clock = None

    def _made_layout(self, device: torch.device) -> Layout:
        """What the parameters and the ranks that hold them ask for."""
        params, everyone = self._all_params(), resolve(self.process_group)
        spread = [holders(param, everyone) for param in params]
        groups = tuple(dict.fromkeys(group for over in spread for group in over))
        if not groups and everyone is not None and not are_replicas(params, everyone):
            groups, spread = (everyone,), [(everyone,)] * len(params)
        # Of replicas the first rank's counts.
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

    def _agree(self, record: State, groups: Sequence[ProcessGroup]) -> None:
        """Have the ranks go on from the record of the one that has taken the most steps; others had no parameters."""
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
        """Add parameters, with settings of their own where given; what is known of fewer parameters is forgotten."""
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
        self._layout = self._clock = self._home = self._has_shards = self._settled_in = None
        if self.param_groups:
            self._listed = len(self._momenta(self.param_groups[0]))

    # Saving and loading.

    def _state_names(self, group: Group) -> dict[str, bool]:
        return {name: name in self.buffers for name in (*self.buffers, *self.numbers, *self._record_names(group))}

    def _check_state(self, param: Tensor, group: Group, state: State, key: object) -> None:
        names = self._record_names(group)
        is_whole = not any(name in state for name in names)  # of the parameters one has the record
        super()._check_state(param, group, {**dict.fromkeys(names, param), **state} if is_whole else state, key)
        if "products" in state:
            found = len(state["products"]) - 1
            require(found == self.rule.lags, "lags of state_dict", found, f"the optimizer's, {self.rule.lags}")

    def _translated(self, group: Group, saved: Group, states: list[State]) -> Group:
        require(self.family in saved, f"{self.family} of state_dict", None, "there")
        if "lr_modulation" not in saved:  # of torch's optimizer, whose buffer is ours
            for state in states:
                self._adopt(state, saved)
            saved = {**saved, self.family: group[self.family]}
        now = super()._translated(group, saved, states)
        self._check_settings(now)
        return now

    def _adopt(self, state: State, saved: Group) -> None:
        """Make the state of a parameter in torch's optimizer one of ours."""

    def _take_over(self, prepared: dict[str, Any]) -> None:
        super()._take_over(prepared)
        for group in self.param_groups:  # of equal numbers all parameters of a group hold the same tensors again
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
    r"""SGD whose momentum is, at every step, the one on an interval that suits the gradients' autocorrelation.

    With :math:`R_k = E\langle g_n, g_{n-k}\rangle`, the momentum is the smoothed maximizer of

    .. math:: J(m) = \sum_{k=1}^{K} m^k R_k \Big/ \sqrt{\textstyle\sum_{k=1}^{K} m^{2k}},

    the inner product of the heavy-ball filter, at unit norm, with the autocorrelation. By Cauchy-Schwarz it is largest
    at :math:`m = \rho` where :math:`R_k \propto \rho^k`, whatever K is. :math:`R_0`, which mini-batch noise inflates,
    is in neither part. If no momentum has a positive score, the smallest is taken. Then
    :math:`b \leftarrow m_n b + g`, :math:`p \leftarrow p - \eta b` with the present momentum :math:`m_n`.

    `GapSGD(..., candidates="continuous")` makes this class.

    Args:
        params, lr: as in `GapSGD`.
        momentum: the interval, from the smallest to the largest of the numbers given, in [0, 1). A single number is
            `torch.optim.SGD`, bit for bit its plain step on a CPU; a scheduler may cycle it.
        select: ``"global"``.
        score: ``"debiased"``, as above; ``"paper"`` has the sums begin at k = 0.
        lags: K, at least 2.
        decay: weight of the past in the average over steps that estimates :math:`R_k`, per step, in (0, 1].
        smoothing: share of the past in the momentum, per step, in [0, 1).
        every: steps between two looks at the estimate. Until the first look the momentum is 0.9, or what of the
            interval is nearest to it.
        rest: gradients are observed in windows of lags + every steps; in so many steps between two windows the momentum
            stays. Long lags have fewer products in a window, and so less of a say.
        seed: of the sketch; two optimizers of equal seeds and parameters measure alike.
        weight_decay: coupled; it enters the gradient that is measured and applied.
        maximize, foreach: as in `torch.optim.SGD`.
        dampening, nesterov, lr_modulation: off; there for those who pass the settings of `GapSGD`.
        process_group: the ranks that train this model together, where torch.distributed is used: ``"world"``, all; a
            process group; or None, this process by itself. Where they hold shards, each sketches its own, and the
            sketches are summed, so that all take the same momentum.

    Gradients are seen through a `Sketch`; a parameter without a gradient counts as one whose gradient is 0, and its
    buffer and value stay as they are. A sketch that is not finite counts as 0, and one longer than 100 times the median
    of its window is cut to that, so that a spike is forgotten.

    Shape: parameters of any shape and floating dtype; state is one buffer shaped like the parameter, and for all of
        them together signs, 32 sketches and a few numbers, at most 5 % of the buffers and 128 bytes from some 12,000
        elements on, and at most 0.2 MB. (A table of 20 KB is shared by all optimizers of a process.) The sketches and
        numbers lie in the state of the first parameter that has one. On an accelerator no step waits.
    Raises: ValueError for a setting outside its range or complex parameters, and for nesterov, dampening or
        lr_modulation; RuntimeError for sparse gradients. `FullyShardedDataParallel.optim_state_dict` cannot save the
        sketches: use `fully_shard`, or this rank's own `state_dict`.
    Source: the principle is that of arXiv 2512.06370; estimate and maximizer are chosen here.
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
        if cast(Any, state) == {"momentum_buffer": None}:  # of steps without momentum
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
                momentum=max(momentum, TINY),  # at 0 the kernel would leave the buffer as it is
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
    r"""Adam whose beta1 is, at every step, the one on an interval that suits the gradients' autocorrelation.

    As `ContinuousSGD`, with :math:`R_k = E\langle P^{1/2} g_n, P^{1/2} g_{n-k}\rangle`,
    :math:`P = 1/(\sqrt{\hat v} + \epsilon)`. The first moment is :math:`m \leftarrow \beta_n m + (1 - \beta_n) g`,
    and its bias correction :math:`1 - \prod_n \beta_n`, over the steps of the parameter.

    `GapAdam(..., candidates="continuous")` makes this class.

    Args:
        params, lr: as in `GapAdam`.
        betas: pairs (beta1, beta2) with a common beta2, whose smallest and largest beta1 are the ends of the interval.
            A single pair is `torch.optim.Adam`, bit for bit its plain step on a CPU; a scheduler may cycle it.
        select, score, lags, decay, smoothing, every, rest, seed: as in `ContinuousSGD`.
        eps, maximize, foreach: as in `torch.optim.Adam`.
        weight_decay: coupled, 0 by default.
        lr_modulation, process_group: as in `ContinuousSGD`.

    Shape: as `ContinuousSGD`; state is a first and a second moment.
    Raises, source: as `ContinuousSGD`.
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
        # The step lies on the host, so that nothing waits to read it.
        return {
            "step": torch.zeros((), dtype=torch.float32),
            "beta1_product": torch.ones(1, dtype=torch.float64, device=device),
        }

    def _sample(self, grads: list[Tensor | None], parts: list[Part], sketch: Sketch) -> Tensor:
        gradient = super()._sample(grads, parts, sketch)
        squares: list[Tensor | None] = [None] * len(grads)
        corrections: list[Number] = [1.0] * len(grads)  # where there is no gradient, any will do
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
            step = step.double()  # in float32 1 - 0.999^step has four digits
        if not self.couples_weight_decay and group["weight_decay"] != 0:
            scale_(params, 1 - lr * group["weight_decay"])
        if isinstance(momentum, Tensor):  # there is no lerp with a weight that the host does not know
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
        # torch corrects by its present beta1, which a scheduler may cycle; here by all that there were.
        correction = 1 - product[0] if self._moves else 1 - momentum**step
        if isinstance(correction, Tensor) and correction.device.type == "cpu" and not torch.compiler.is_compiling():
            correction = correction.item()
        if isinstance(correction, Tensor) or isinstance(lr, Tensor):
            torch._foreach_mul_(denominators, on(params[0].device, correction))
            descend(params, list(torch._foreach_div(exp_avgs, denominators)), lr)
        else:
            torch._foreach_addcdiv_(params, exp_avgs, denominators, value=-(lr / correction))

    def _update_fused(self, part: Part, beta1: float, beta2: float, product: float) -> None:
        """One pass over memory. Rescaled, because the kernel assumes a constant beta1."""
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
    """Gradients of what is minimized, with coupled weight decay."""
    group, grads = part.group, part.grads
    if group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    if couples_weight_decay and group["weight_decay"] != 0:
        grads = list(torch._foreach_add(grads, part.params, alpha=group["weight_decay"]))
    return grads


def beta2_of(group: Group) -> float:
    """The one beta2 of a group."""
    betas = group["betas"]
    return cast(float, betas[1] if isinstance(betas[0], float) else betas[0][1])


def signed_decay(group: Group) -> float:
    """The part of the parameters that coupled weight decay adds to their gradients."""
    decay: float = group["weight_decay"]
    return -decay if group["maximize"] else decay


def on(device: torch.device, number: Number) -> Number:
    """The number, on a device if it is a tensor."""
    return number.to(device) if isinstance(number, Tensor) else number
