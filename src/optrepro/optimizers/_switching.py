"""Base classes of GAP and its controls: optimizers that keep several candidate filters and step with one of them.

A candidate is a causal linear filter of the gradients: a momentum for SGD, a beta1 for Adam. Every candidate keeps
its own buffer. A rule (`gap`, `controls`, `aligned_mean`) chooses at each step which of them moves the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import BaseOptimizer, Group, State, evaluate, refuse_sparse, require
from optrepro.optimizers._candidates import (
    Candidate,
    check_betas,
    check_momentum,
    momenta,
    pairs,
    refuse_cycled,
    with_norm,
)
from optrepro.optimizers._kernels import Number, descend, scale_
from optrepro.optimizers._ranks import (
    are_replicas,
    holders,
    is_distributed,
    local,
    local_gradient,
    resolve,
)
from optrepro.optimizers._vectors import Vectors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    ProcessGroupSetting = ProcessGroup | Literal["world"] | None

Loss = TypeVar("Loss")
Index = int | Tensor  # index of a candidate; a tensor (1,) stays on its device, so that no step waits for it
Probes = Sequence[Tensor | None]
Record = dict[str, Tensor]

PIECE = 2**18  # elements that are measured and updated at a time on a CPU, so that they stay in its cache
SMALL = 2**14  # On a CPU, parameters of up to this many elements are joined: calls take longer than memory access.


class SGDSettings(TypedDict, total=False):
    """Settings of every switching SGD; see `SwitchingSGD`."""

    dampening: float
    weight_decay: float
    nesterov: bool
    lr_modulation: bool
    maximize: bool
    foreach: bool | None
    process_group: ProcessGroupSetting


class AdamSettings(TypedDict, total=False):
    """Settings of every switching Adam; see `SwitchingAdam`."""

    eps: float
    weight_decay: float | None
    lr_modulation: bool
    maximize: bool
    foreach: bool | None
    process_group: ProcessGroupSetting


@dataclass(frozen=True)
class Rule:
    """Whether a candidate is selected once for all parameters ("global") or for each one ("per_parameter")."""

    select: str = "global"

    def __post_init__(self) -> None:
        require(self.select in ("global", "per_parameter"), "select", self.select, '"global" or "per_parameter"')


class Bundle:
    """Parameters of one group, device and dtype whose state is joined into long vectors, so that few calls move them.

    Attributes:
        group: the settings of the parameters.
        params: the parameters.
        positions: indices of the parameters among all parameters of the optimizer.
        holders: groups of ranks that hold shards of the parameters.
        state: named tensors (rows, n); a parameter's entries in `Optimizer.state` are views of them.
        views: for each row of each state, views shaped like the parameters.
        parts: for each state, the columns of each parameter, (rows, n of the parameter).
        age: number of steps taken by all parameters; None if they differ.
        ages: number of steps taken by each parameter; used if `age` is None.
    """

    def __init__(
        self,
        group: Group,
        positions: list[int],
        spread_over: tuple[ProcessGroup, ...],
        rows: dict[str, int],
        states: dict[Tensor, State],
        steps: Sequence[Tensor],
    ) -> None:
        self.group, self.holders = group, spread_over
        self.positions = positions
        self.params = list(states)
        self.is_distributed = any(map(is_distributed, self.params))
        self.vectors = vectors = Vectors(self.params)
        like = local(self.params[0])
        self.dtype = like.dtype
        self.state = {name: like.new_zeros((count, vectors.size)) for name, count in rows.items()}
        self.views = {name: [vectors.views(row) for row in flat] for name, flat in self.state.items()}
        self.parts = {name: flat.split_with_sizes(vectors.sizes, 1) for name, flat in self.state.items()}
        self.entries: list[State] = [{"step": step} for step in steps]
        for name, flat in self.state.items():
            for row, row_name in zip(flat, row_names(name, len(flat)), strict=True):
                for entry, view in zip(self.entries, vectors.state_views(row), strict=True):
                    entry[row_name] = view
        for entry, state in zip(self.entries, states.values(), strict=True):
            for name, value in entry.items():
                if name in state:
                    local(value).copy_(local(state[name]))
            state.update(entry)
        self.ages = [int(step) for step in steps]
        self.age = self.ages[0] if len(set(self.ages)) == 1 else None

    def gradients(self) -> list[Tensor | None]:
        """This rank's shards of the gradients."""
        if self.is_distributed:
            return [None if param.grad is None else local_gradient(param) for param in self.params]
        return [param.grad for param in self.params]

    def runs(self, grads: Sequence[Tensor | None], by_age: bool) -> Iterator[tuple[int, int]]:
        """Ranges (first, last + 1) of consecutive parameters that have a gradient and, if `by_age`, the same age."""
        count = len(grads)
        if (self.age is not None or not by_age) and all(grad is not None for grad in grads):
            yield 0, count
            return
        first = 0
        while first < count:
            last = first
            while last < count and grads[last] is not None and (not by_age or self._have_one_age(first, last)):
                last += 1
            if last > first:
                yield first, last
            first = max(last, first + 1)

    def _have_one_age(self, first: int, last: int) -> bool:
        return self.age is not None or self.ages[first] == self.ages[last]

    def advance(self, first: int, last: int) -> None:
        """Count a step of the parameters first ... last - 1."""
        if self.age is not None and last - first == len(self.params):
            self.age += 1
            return
        if self.age is not None:
            self.ages, self.age = [self.age] * len(self.params), None
        for i in range(first, last):
            self.ages[i] += 1

    def age_of(self, member: int) -> int:
        """Number of steps that a parameter has taken."""
        return self.ages[member] if self.age is None else self.age


@dataclass(eq=False, slots=True)
class Block:
    """Consecutive parameters of a bundle that are updated as one vector of n elements in this step.

    Attributes:
        bundle: the bundle.
        first, last: range of the parameters in the bundle; `last` is excluded.
        age: number of their step, counted from 1; that of the first parameter if they differ and it does not matter.
        is_first: whether this is their first step.
        grad: the parameters' gradients, (n,).
        point: the parameters, (n,), if weight decay enters the gradient.
        probe: the additional gradient that the score requires, (n,), if any.
        state: named tensors (rows, n).
        gradient: gradient of the minimized objective, including coupled weight decay, (n,).
        scale: Adam's preconditioner P = 1 / (sqrt(v) + eps), (n,); its inverse if there is only one candidate.
        found: measurements made before the buffers are updated: the row of the selection, R_0 () and the alignment
            with the buffers, (candidates,).
    """

    bundle: Bundle
    first: int
    last: int
    age: Number
    is_first: bool
    grad: Tensor
    point: Tensor | None
    probe: Tensor | None
    state: dict[str, Tensor]
    gradient: Tensor | None = None
    scale: Tensor | None = None
    found: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)

    @property
    def group(self) -> Group:
        """The settings of the parameters."""
        return self.bundle.group

    def pieces(self, size: int) -> Sequence[Block]:
        """Divide the block into pieces of about `size` elements that fit a CPU's cache; 0 leaves it whole."""
        n = self.grad.numel()
        if not size or n <= 2 * size or self.last - self.first > 1 or self.grad.device.type != "cpu":
            return (self,)
        return [self._piece(slice(start, start + size)) for start in range(0, n, size)]

    def _piece(self, part: slice) -> Block:
        point, probe, scale = (
            None if tensor is None else tensor[part] for tensor in (self.point, self.probe, self.scale)
        )
        state = {name: value[:, part] for name, value in self.state.items()}
        grad = self.grad[part]
        bundle, first, last = self.bundle, self.first, self.last
        return Block(bundle, first, last, self.age, self.is_first, grad, point, probe, state, None, scale, self.found)


class SwitchingOptimizer(BaseOptimizer):
    """Base class that takes the steps, and keeps the parameters' state and the record of the choices.

    A step updates every candidate's buffer, chooses a candidate and moves the parameters. Subclasses for SGD and Adam
    define the filters; subclasses for a rule define the choice.
    """

    rule: Rule
    family: ClassVar[str]  # name of the setting that lists the candidates
    buffers: ClassVar[str]  # name of the state that holds their buffers
    couples_weight_decay: ClassVar[bool] = True
    depends_on_age: ClassVar[bool] = False  # whether the step depends on the parameter's number of steps
    _bundles: list[Bundle] | None = None
    _table: Record | None = None

    def __init__(
        self, params: ParamsT, defaults: Group, rule: Rule, process_group: ProcessGroupSetting = "world"
    ) -> None:
        self.rule = rule
        super().__init__(params, defaults, process_group)

    # Methods that define the filters.

    def _listed(self, group: Group) -> tuple[Any, ...]:
        """The candidates as listed in the settings."""
        raise NotImplementedError

    def _candidates(self, group: Group) -> list[Candidate]:
        raise NotImplementedError

    def _bias_corrections(self, block: Block) -> Sequence[Number]:
        """The number by which each candidate's output is divided."""
        return [1.0] * self._candidate_count

    def _state_rows(self, group: Group) -> dict[str, int]:
        """Names of the parameter-shaped state, each with its number of tensors."""
        return {self.buffers: self._candidate_count}

    def _precondition(self, block: Block, gradient: Tensor) -> None:
        """Compute what the scores and steps of all candidates share."""

    def _update_buffers(self, block: Block, gradient: Tensor) -> None:
        raise NotImplementedError

    def _moments(self, block: Block, choice: Sequence[Any]) -> list[Tensor]:
        """The chosen candidate's filtered gradient for each parameter of the block, shaped like it."""
        raise NotImplementedError

    def _descend(self, blocks: list[Block], moments: list[Tensor], rates: Number | list[Number]) -> None:
        """Move the parameters of blocks of one group and age, with one rate for all or one for each."""
        raise NotImplementedError

    # Methods that define the rule.

    def _probe(self, group: Group, params: list[Tensor], positions: list[int], probes: Probes) -> list[Tensor] | None:
        """Select these parameters' additional gradients from those passed to `step`, shaped like the parameters."""
        return None

    def _align(self, block: Block, gradient: Tensor) -> None:
        """Make the measurements for the choice, before the buffers are updated."""

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        """Choose a candidate for each row; return the new entries of the record, among them `last`."""
        raise NotImplementedError

    # The step.

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the closure's loss, or None without a closure."""
        return self._step(closure)

    def _step(self, closure: Callable[[], Any] | None, probes: Probes | None = None) -> Any:
        loss = None if closure is None else evaluate(closure)
        self._init_group(torch.compiler.is_compiling())
        blocks = self._blocks(probes)
        size = 0 if torch.compiler.is_compiling() else PIECE
        for block in blocks:
            for piece in block.pieces(size):
                gradient = self._objective(piece)
                self._precondition(piece, gradient)
                self._align(piece, gradient)
                self._update_buffers(piece, gradient)
        if blocks or self._must_agree:
            choice = self._select(blocks)
            for alike in self._batches(blocks):
                self._apply(alike, choice)
        return loss

    def _blocks(self, probes: Probes | None) -> list[Block]:
        """Count a step of the parameters that have a gradient, and divide them into blocks."""
        blocks = []
        compiling = torch.compiler.is_compiling()
        for bundle in cast(list[Bundle], self._bundles):
            grads = bundle.gradients()
            if compiling:  # Every parameter has its own bundle, and its step count is a tensor.
                if grads[0] is not None:
                    step = bundle.entries[0]["step"]
                    step.add_(1)
                    is_first = self._splits_by_age(bundle.group) and bundle.age == 0
                    if is_first:
                        bundle.age = 1
                    # float64: in float32, 1 - 0.999^step has only four correct digits
                    blocks.append(self._block(bundle, 0, 1, step.double(), is_first, grads, probes))
                continue
            for first, last in bundle.runs(grads, self._splits_by_age(bundle.group)):
                bundle.advance(first, last)
                age = bundle.age_of(first)
                blocks.append(self._block(bundle, first, last, age, age == 1, grads, probes))
        if not compiling and blocks:
            self._count_steps(blocks)
        return blocks

    def _block(
        self,
        bundle: Bundle,
        first: int,
        last: int,
        age: Number,
        is_first: bool,
        grads: list[Tensor | None],
        probes: Probes | None,
    ) -> Block:
        members = slice(first, last)
        grad = self._join(bundle, first, cast(list[Tensor], grads[members]))
        point = probe = None
        if self.couples_weight_decay and bundle.group["weight_decay"] != 0:
            point = self._join(bundle, first, [local(param) for param in bundle.params[members]])
        if probes is not None:
            given = self._probe(bundle.group, bundle.params[members], bundle.positions[members], probes)
            probe = None if given is None else self._join(bundle, first, given)
        state = self._part(bundle, first, last)
        block = Block(bundle, first, last, age, is_first, grad, point, probe, state)
        self._prepare(block)
        return block

    def _count_steps(self, blocks: list[Block]) -> None:
        if sum(block.last - block.first for block in blocks) == len(self._steps):
            self._steps.add_(1)
            return
        steps = [0.0] * len(self._steps)
        for block in blocks:
            for position in block.bundle.positions[block.first : block.last]:
                steps[position] = 1.0
        self._steps.add_(torch.tensor(steps, dtype=torch.float32))

    def _batches(self, blocks: list[Block]) -> Iterable[list[Block]]:
        """Collect blocks whose parameters move in one call: those of one group and, if it matters, one age."""
        batches: dict[Any, list[Block]] = {}
        by_age = self.depends_on_age and not torch.compiler.is_compiling()
        for block in blocks:
            batches.setdefault((id(block.bundle.group), block.age if by_age else None), []).append(block)
        if self.depends_on_age and not by_age:
            return [[block] for block in blocks]
        return batches.values()

    def _prepare(self, block: Block) -> None:
        """Allocate memory for results that the pieces of a block leave for its step."""

    def _splits_by_age(self, group: Group) -> bool:
        return self.depends_on_age

    def _join(self, bundle: Bundle, first: int, tensors: list[Tensor]) -> Tensor:
        dtype = bundle.dtype
        return bundle.vectors.join([t if t.dtype is dtype else t.to(dtype) for t in tensors], first)

    def _part(self, bundle: Bundle, first: int, last: int) -> dict[str, Tensor]:
        if last - first == len(bundle.params):
            return bundle.state
        start, end = bundle.vectors.bounds[first][0], bundle.vectors.bounds[last - 1][1]
        return {name: value[:, start:end] for name, value in bundle.state.items()}

    def _objective(self, block: Block) -> Tensor:
        """Gradient of the minimized objective, including coupled weight decay, (n,)."""
        gradient = block.grad.neg() if block.group["maximize"] else block.grad
        if block.point is not None:
            gradient = gradient.add(block.point, alpha=block.group["weight_decay"])
        block.gradient = gradient
        return gradient

    def _gradient(self, block: Block) -> Tensor:
        """The gradient of the objective; computed again if the block was divided into pieces."""
        return self._objective(block) if block.gradient is None else block.gradient

    # The choice.

    def _select(self, blocks: list[Block]) -> Sequence[Index]:
        """Choose a candidate for each row of the record, and note it there.

        Returns: a decision, in the form that `_apply` takes, for every row; 0 for rows without a choice in this step.
        """
        record, rows = self._record(), self._rows(blocks)
        count, device = len(record["last"]), record["last"].device
        where = None if rows == list(range(count)) else vector(rows, device, torch.int64)
        if self._candidate_count == 1:
            self._note(record, where, {"last": torch.zeros(len(rows), dtype=torch.int64, device=device)})
            return [0] * count
        new = self._choose(blocks, rows, rows_of(record, where))
        self._note(record, where, new)
        decisions = self._decisions(new)
        if where is None:
            return decisions
        every: list[Index] = [0] * count
        for row, decision in zip(rows, decisions, strict=True):
            every[row] = decision
        return every

    def _rows(self, blocks: list[Block]) -> list[int]:
        """The rows of the record for which a candidate is chosen in this step."""
        if self.rule.select == "global":
            return [0]
        return [block.bundle.positions[i] for block in blocks for i in range(block.first, block.last)]

    def _note(self, record: Record, where: Tensor | None, new: Record) -> None:
        """Write new entries into the rows `where` of the record, or into all rows for None, and count the choices."""
        counts, shares = record["counts"], self._shares(new)
        if where is None:
            counts.add_(shares)
            for name, value in new.items():
                record[name].copy_(value)
        else:
            counts.index_add_(0, where, shares.to(counts.dtype))
            for name, value in new.items():
                record[name].index_copy_(0, where, value)

    def _shares(self, new: Record) -> Tensor:
        """The share of each candidate in this step, (rows, candidates)."""
        return new["last"][:, None] == kept(numbered)(self._candidate_count, new["last"].device)

    def _decisions(self, new: Record) -> Sequence[Index]:
        """The decision for each row, in the form that `_apply` takes."""
        return indices(new["last"])

    def _choice_of(self, block: Block, choice: Sequence[Any]) -> list[Any]:
        """The decision for each parameter of a block."""
        if self.rule.select == "global":
            return [choice[0]] * (block.last - block.first)
        return [choice[block.bundle.positions[i]] for i in range(block.first, block.last)]

    def _apply(self, blocks: list[Block], choice: Sequence[Any]) -> None:
        """Move the parameters of blocks of one group and age."""
        moments: list[Tensor] = []
        rates: list[Number] = []
        for block in blocks:
            mine = self._choice_of(block, choice)
            moments += self._moments(block, mine)
            if self.rule.select == "per_parameter" and not self._have_one_rate(block.group):
                rates += self._rates_of(block, mine)
        self._descend(blocks, moments, rates or self._rates_of(blocks[0], self._choice_of(blocks[0], choice))[0])

    def _rates(self, block: Block) -> list[Number]:
        """The factor by which each candidate's filtered gradient is multiplied in the step."""
        rates = [block.group["lr"] / correction for correction in self._bias_corrections(block)]
        if not block.group["lr_modulation"]:
            return rates
        return [rate * factor for rate, factor in zip(rates, self._modulations(block.group), strict=True)]

    def _have_one_rate(self, group: Group) -> bool:
        """Whether the factor is the learning rate for every candidate."""
        return not group["lr_modulation"] and not self.depends_on_age

    def _rates_of(self, block: Block, choice: Sequence[Any]) -> list[Number]:
        """The factor of each parameter's chosen candidate; a single one if all are equal."""
        lr = block.group["lr"]
        if self._have_one_rate(block.group):
            return [lr]
        if self.rule.select == "global":
            choice = choice[:1]
        if isinstance(choice[0], int) and not torch.compiler.is_compiling():
            rates = self._rates(block)
            return [rates[index] for index in choice]
        # The compiler keeps a changing rate variable only if it is multiplied by tensors alone.
        gains = self._gains(block)
        return [pick(gains, index) * lr for index in choice]

    def _gains(self, block: Block) -> list[Number]:
        """The factor of each candidate's filtered gradient, divided by the learning rate."""
        gains: list[Number] = [1 / correction for correction in self._bias_corrections(block)]
        if not block.group["lr_modulation"]:
            return gains
        return [gain * factor for gain, factor in zip(gains, self._modulations(block.group), strict=True)]

    def _scratch(self, name: str, like: Tensor) -> Tensor:
        """Scratch memory (n,), reused because allocating it takes as long as writing to it."""
        key, size = (name, like.dtype, like.device), like.numel()
        memory = self._memory.get(key)
        if memory is None or memory.numel() < size:
            memory = self._memory[key] = torch.empty_like(like)
        return memory[:size]

    def _modulations(self, group: Group) -> list[float]:
        """The factors that give every candidate's step the power of the first candidate's step."""
        norms = [candidate.norm for candidate in self._candidates(group)]
        return [norms[0] / norm for norm in norms]

    def _params(self, blocks: list[Block]) -> list[Tensor]:
        """This rank's shards of the parameters."""
        params: list[Tensor] = []
        for block in blocks:
            mine = block.bundle.params[block.first : block.last]
            params += [local(param) for param in mine] if block.bundle.is_distributed else mine
        return params

    # Layout: bundles and the record, which are made from the state and reused until somebody else changes it.

    def _init_group(self, compiling: bool) -> None:
        """Make sure that every parameter with a gradient has a bundle.

        torch.compile does not compile a method of this name but calls it.

        Raises: RuntimeError for sparse gradients; ValueError for candidates that a scheduler has overwritten.
        """
        for group in self.param_groups:
            refuse_cycled(group, self.family, self._candidate_count)
        is_valid = self._bundles is not None and self._is_for_compiler is compiling
        if not is_valid or fingerprint(self.state) != self._known:
            self._forget_layout()
            self._start_layout(compiling)
        if any(param.grad is not None for _, _, param in self._waiting):
            refuse_sparse((param for _, _, param in self._waiting), self)
            self._add_bundles()
        for bundle in cast(list[Bundle], self._bundles):
            refuse_sparse(bundle.params, self)

    def _forget_layout(self) -> None:
        self._bundles = self._table = None
        self._memory: dict[Any, Tensor] = {}

    def _start_layout(self, compiling: bool) -> None:
        self._is_for_compiler = compiling
        self._known = fingerprint(self.state)
        self._bundles = []
        params = self._all_params()
        self._steps = torch.zeros(len(params), dtype=torch.float32, device="cpu")
        self._waiting = [
            (group, position, param)
            for position, (group, param) in enumerate(
                (group, param) for group in self.param_groups for param in group["params"]
            )
        ]
        # The groups of all parameters are listed, with or without a gradient, so that every rank joins every sum.
        group = resolve(self.process_group)
        self._spread: list[tuple[ProcessGroup, ...]] = [() for _ in params]
        if self._candidate_count > 1:
            self._spread = [holders(param, group) for param in params]
            plain = group if self.rule.select == "global" and not any(map(is_distributed, params)) else None
            if plain is not None and not any(self._spread) and not are_replicas(params, plain):
                self._spread = [(plain,)] * max(1, len(params))
        self._must_agree = any(self._spread)

    def _add_bundles(self) -> None:
        """Create bundles for the parameters that have their first gradient, and a record of their choices."""
        members: dict[Any, list[tuple[Group, int, Tensor]]] = {}
        left = []
        for group, position, param in self._waiting:
            # A parameter that already has state, for instance from a checkpoint, needs no gradient yet.
            if param.grad is None and not self.state.get(param):
                left.append((group, position, param))
                continue
            key: Any = position
            if self._joins(param, group):
                key = (id(group), param.device, param.dtype, is_distributed(param), self._spread[position])
            members.setdefault(key, []).append((group, position, param))
        self._waiting = left
        for found in members.values():
            group, positions = found[0][0], [position for _, position, _ in found]
            states = {param: self.state[param] for _, _, param in found}
            spread_over = self._spread[positions[0]]
            steps = [self._steps[position] for position in positions]
            if self._is_for_compiler:
                steps = [torch.zeros((), dtype=torch.float32, device=param.device) for param in states]
            bundle = Bundle(group, positions, spread_over, self._state_rows(group), states, steps)
            cast(list[Bundle], self._bundles).append(bundle)
        self._table = self._tabulate()
        self._known = fingerprint(self.state)

    def _joins(self, param: Tensor, group: Group) -> bool:
        if self._is_for_compiler:  # the compiler fuses kernels by itself
            return False
        if group["foreach"] is None:
            return param.device.type != "cpu" or param.numel() <= SMALL
        return bool(group["foreach"])

    # The record of the choices.

    @property
    def selection(self) -> Record:
        """The last choice and how often each candidate was chosen.

        Returns:
            `last`: index of the candidate, int64, () or, per parameter, (parameters,); -1 before the first choice.
            `counts`: number of steps with each candidate, int64, (candidates,) or (parameters, candidates).
            Both are on the device of the first parameter; only reading their values waits for it.
        """
        record, one = self._record(), self.rule.select == "global"
        return {name: (record[name][0] if one else record[name]).clone() for name in ("last", "counts")}

    def _record(self) -> Record:
        """The record that `selection` reads: tensors with one row for each choice in a step."""
        if self._table is not None and self._bundles is not None:
            return self._table
        return self._read_record()

    def _tabulate(self) -> Record:
        """The record as tables; every parameter's state holds the elements of its row as views ().

        A single choice for all parameters is stored in the state of each, so that any of them restores it.
        """
        record = self._read_record()
        for position, param in enumerate(self._all_params()):
            if param in self.state:
                row = 0 if self.rule.select == "global" else position
                for name, table in record.items():
                    self.state[param].update(entries_of(name, table[row]))
        return record

    def _read_record(self) -> Record:
        """Read the record from the state; rows that are not there are fresh."""
        params = self._all_params()
        rows = len(params) if self.rule.select == "per_parameter" else 1
        device = params[0].device if params else torch.device("cpu")
        record = self._fresh_record(rows, device)
        for position, param in enumerate(params):
            state = self.state.get(param)
            if state and all(name in state for name in entries_of("last", record["last"][0])):
                row = position if self.rule.select == "per_parameter" else 0
                for name, table in record.items():
                    for entry, place in entries_of(name, table[row]).items():
                        place.copy_(state[entry])
                if self.rule.select == "global":
                    break
        return record

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        return {
            "last": torch.full((rows,), -1, dtype=torch.int64, device=device),
            "counts": torch.zeros((rows, self._candidate_count), dtype=torch.int64, device=device),
        }

    @property
    def _candidate_count(self) -> int:
        return self._count

    # Settings and checkpoints.

    def _checked(self, group: Group) -> Group:
        require(group["lr"] >= 0, "lr", group["lr"], "at least 0")
        require(group["weight_decay"] >= 0, "weight_decay", group["weight_decay"], "at least 0")
        count = len(self._listed(group))
        require(count > 0, self.family, group[self.family], "at least one candidate")
        if self.param_groups:
            same = f"as many candidates as in the first parameter group, {self._candidate_count}"
            require(count == self._candidate_count, self.family, group[self.family], same)
        else:
            self._count = count
        return group

    def _check_params(self, group: Group) -> None:
        super()._check_params(group)
        chooses = self.rule.select == "per_parameter" and self._candidate_count > 1
        if chooses and any(getattr(param, "_is_flat_param", False) for param in group["params"]):
            raise ValueError(
                'select = "per_parameter" is not allowed for parameters that FullyShardedDataParallel has joined: use '
                'select="global", or pass use_orig_params=True to FullyShardedDataParallel, or use fully_shard'
            )

    def _state_names(self, group: Group) -> dict[str, bool]:
        rows = self._state_rows(group)
        names = {"step": False} | {row: True for name, count in rows.items() for row in row_names(name, count)}
        for name, table in self._fresh_record(1, torch.device("cpu")).items():
            names |= dict.fromkeys(entries_of(name, table[0]), False)
        return names

    def _translated(self, group: Group, saved: Group, states: list[State]) -> Group:
        """Also convert a state of torch's optimizer: its buffer becomes that of every candidate."""
        names = self._state_names(group)
        buffer_names = row_names(self.buffers, self._candidate_count)
        now = super()._translated(group, saved, states)
        is_foreign = "lr_modulation" not in saved
        if is_foreign:
            now[self.family] = group[self.family]
            record = {
                entry: value
                for name, table in self._fresh_record(1, torch.device("cpu")).items()
                for entry, value in entries_of(name, table[0]).items()
            }
            for state in states:
                buffer = state.pop(self.buffers, None)
                if buffer is not None:
                    state.update(dict.fromkeys(buffer_names, buffer))
                    state.setdefault("step", torch.ones((), dtype=torch.float32))
                    for name, is_like in names.items():  # state that torch's optimizer does not have
                        if is_like and name not in state:
                            state[name] = torch.zeros_like(buffer)
                if state:
                    state.update({name: value for name, value in record.items() if name in names})
        require(self.family in saved, f"{self.family} of state_dict", None, "present")
        found = len(self._listed(now))
        same = f"as many candidates as the optimizer has, {self._candidate_count}"
        require(found == self._candidate_count, f"{self.family} of state_dict", now[self.family], same)
        if self.rule.select == "global":
            self._refuse_several_records(states)
        return now

    def _refuse_several_records(self, states: list[State]) -> None:
        for state in states:
            for name in entries_of("counts", self._fresh_record(1, torch.device("cpu"))["counts"][0]):
                if name in state and not torch.equal(local(state[name]), local(states[0].get(name, state[name]))):
                    raise ValueError(
                        'state_dict was saved with select="per_parameter", but this optimizer has select="global"'
                    )

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rule": self.rule, "_count": self._count}


class SwitchingSGD(SwitchingOptimizer):
    r"""SGD with a buffer for each candidate momentum :math:`m`: :math:`b_m \leftarrow m b_m + (1 - d) g`.

    Args:
        params: parameters, or parameter groups with their own settings.
        lr: learning rate, at least 0; with a tensor () compiled steps follow a schedule without recompiling.
        momentum: one candidate or several, in [0, 1).
        rule: the rule that selects one of them.
        dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`. Weight decay is coupled: it enters the
            gradient that both the update and the score use.
        lr_modulation: multiply each candidate's step by the norm of the first candidate's filter over its own norm.
            For uncorrelated gradients all steps then have the same power. Off by default (chosen).
        foreach: join parameters into long vectors; None joins all on accelerators, and small ones on the CPU.
        process_group: the ranks that train the model together: ``"world"`` (all), None (this one alone) or a
            `torch.distributed.ProcessGroup`. A choice for all parameters uses the sum of the ranks' scores, unless the
            ranks hold the same parameters and so decide alike.
    """

    family = "momentum"
    buffers = "momentum_buffer"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float | Sequence[float],
        rule: Rule,
        *,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        lr_modulation: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        process_group: ProcessGroupSetting = "world",
    ) -> None:
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
        super().__init__(params, defaults, rule, process_group)

    def _listed(self, group: Group) -> tuple[float, ...]:
        return momenta(group)

    def _checked(self, group: Group) -> Group:
        check_momentum(group)
        dampening = group["dampening"]
        require(0 <= dampening < 1, "dampening", dampening, "in [0, 1)")
        plain = dampening == 0 and min(momenta(group), default=1) > 0
        require(plain or not group["nesterov"], "nesterov", True, "False unless momentum is above 0 and dampening is 0")
        return super()._checked(group)

    def _candidates(self, group: Group) -> list[Candidate]:
        if group["nesterov"]:
            return [with_norm(decay=m, fresh=1, new=1 + m, old=m * m) for m in momenta(group)]
        fresh = 1 - group["dampening"]
        return [with_norm(decay=m, fresh=fresh if m else 1, new=fresh if m else 1, old=m) for m in momenta(group)]

    def _splits_by_age(self, group: Group) -> bool:
        return bool(group["dampening"] != 0)  # torch does not dampen the first gradient

    def _update_buffers(self, block: Block, gradient: Tensor) -> None:
        group, buffers = block.group, block.state[self.buffers]
        decays, dampening = momenta(group), group["dampening"]
        if block.is_first and dampening != 0:
            buffers.copy_(gradient.expand_as(buffers))
        elif len(decays) == 1 or dampening != 0:  # same rounding as torch.optim.SGD
            for momentum, buffer in zip(decays, buffers, strict=True):
                if momentum == 0:
                    buffer.copy_(gradient)
                else:
                    buffer.mul_(momentum).add_(gradient, alpha=1 - dampening)
        elif min(decays) > 0 and block.bundle.dtype.itemsize >= 4:  # all candidates in one pass over memory
            torch.addcmul(gradient, buffers, kept(column)(decays, block.bundle.dtype, buffers.device), out=buffers)
        else:
            for momentum, buffer in zip(decays, buffers, strict=True):
                if momentum == 0:
                    buffer.copy_(gradient)
                else:
                    torch.add(gradient, buffer, alpha=momentum, out=buffer)

    def _moments(self, block: Block, choice: Sequence[Index]) -> list[Tensor]:
        moments = chosen_rows(block, self.buffers, choice)
        if not block.group["nesterov"]:
            return moments
        decays = momenta(block.group)
        gradients = views_of(block, self._gradient(block))
        return [
            gradient.addcmul(moment, momentum) if isinstance(momentum, Tensor) else gradient.add(moment, alpha=momentum)
            for gradient, moment, momentum in zip(gradients, moments, (pick(decays, i) for i in choice), strict=True)
        ]

    def _descend(self, blocks: list[Block], moments: list[Tensor], rates: Number | list[Number]) -> None:
        descend(self._params(blocks), moments, rates)


class SwitchingAdam(SwitchingOptimizer):
    r"""Adam with a first moment for each candidate :math:`\beta_1` and one second moment for all.

    Args:
        params: parameters, or parameter groups with their own settings.
        lr: learning rate, as in `SwitchingSGD`.
        betas: one candidate or several, pairs (beta1, beta2) in [0, 1) with a common beta2.
        rule: the rule that selects one of them.
        eps, maximize: as in `torch.optim.Adam`.
        weight_decay: None is torch's default, 0 for Adam and 0.01 for AdamW. In Adam it is coupled: it enters the
            gradient that both the update and the score use. AdamW decays the parameters separately.
        lr_modulation, foreach, process_group: as in `SwitchingSGD`.
    """

    family = "betas"
    buffers = "exp_avg"
    depends_on_age = True
    default_weight_decay: ClassVar[float] = 0.0

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float] | Sequence[tuple[float, float]],
        rule: Rule,
        *,
        eps: float = 1e-8,
        weight_decay: float | None = None,
        lr_modulation: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        process_group: ProcessGroupSetting = "world",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": self.default_weight_decay if weight_decay is None else weight_decay,
            "lr_modulation": lr_modulation,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, defaults, rule, process_group)

    def _listed(self, group: Group) -> tuple[tuple[float, float], ...]:
        return pairs(group)

    def _checked(self, group: Group) -> Group:
        check_betas(group)
        require(group["eps"] >= 0, "eps", group["eps"], "at least 0")
        return super()._checked(group)

    def _candidates(self, group: Group) -> list[Candidate]:
        return [with_norm(decay=beta, fresh=1 - beta, new=1 - beta, old=beta) for beta, _ in pairs(group)]

    def _bias_corrections(self, block: Block) -> Sequence[Number]:
        # Every candidate averages all gradients, so its correction does not depend on earlier choices.
        return [1 - beta**block.age for beta, _ in pairs(block.group)]

    def _state_rows(self, group: Group) -> dict[str, int]:
        return super()._state_rows(group) | {"exp_avg_sq": 1}

    def _prepare(self, block: Block) -> None:
        block.scale = torch.empty_like(block.state["exp_avg_sq"][0])

    def _precondition(self, block: Block, gradient: Tensor) -> None:
        beta, exp_avg_sq, scale = pairs(block.group)[0][1], block.state["exp_avg_sq"][0], cast(Tensor, block.scale)
        exp_avg_sq.mul_(beta).addcmul_(gradient, gradient, value=1 - beta)
        correction, eps = (1 - beta**block.age) ** 0.5, block.group["eps"]
        torch.sqrt(exp_avg_sq, out=scale)
        if self._candidate_count == 1:  # The step divides by this, with the same rounding as torch.optim.Adam.
            scale.div_(correction).add_(eps)
        elif isinstance(correction, Tensor):
            scale.div_(correction).add_(eps).reciprocal_()
        else:  # P, by which scores and steps are multiplied
            torch.add(
                kept(number)(eps, scale.dtype, scale.device), scale, alpha=1 / correction, out=scale
            ).reciprocal_()

    def _update_buffers(self, block: Block, gradient: Tensor) -> None:
        for (beta, _), exp_avg in zip(pairs(block.group), block.state[self.buffers].unbind(), strict=True):
            exp_avg.lerp_(gradient, 1 - beta)

    def _moments(self, block: Block, choice: Sequence[Index]) -> list[Tensor]:
        return chosen_rows(block, self.buffers, choice)

    def _descend(self, blocks: list[Block], moments: list[Tensor], rates: Number | list[Number]) -> None:
        params, group = self._params(blocks), blocks[0].group
        scales = [part for block in blocks for part in views_of(block, cast(Tensor, block.scale))]
        if not self.couples_weight_decay and group["weight_decay"] != 0:
            scale_(params, 1 - group["lr"] * group["weight_decay"])
        move = torch._foreach_addcdiv_ if self._candidate_count == 1 else torch._foreach_addcmul_
        if isinstance(rates, list) and not any(isinstance(rate, Tensor) for rate in rates):
            move(params, moments, scales, [-float(rate) for rate in rates])
        elif isinstance(rates, float | int) and not torch.compiler.is_compiling():
            move(params, moments, scales, value=-rates)
        else:
            each = rates if isinstance(rates, list) else [rates] * len(params)
            moments = [(moment * rate).to(moment.dtype) for moment, rate in zip(moments, each, strict=True)]
            move(params, moments, scales, value=-1.0)


# The state.


def fingerprint(state: dict[Tensor, State]) -> list[int]:
    """The identities of all objects in the state; they differ once a part was replaced, added or removed."""
    ids = [*map(id, state), *map(id, state.values())]
    for held in state.values():
        ids += map(id, held.values())
    return ids


def row_names(name: str, count: int) -> list[str]:
    """Names of `count` tensors of one kind in a parameter's state; a single one has the plain name."""
    return [name] if count == 1 else [f"{name}_{j}" for j in range(count)]


def entries_of(name: str, row: Tensor) -> State:
    """Views () of the elements of a row of the record, () or (k,), with their names in a parameter's state."""
    return {name: row} if row.ndim == 0 else {f"{name}_{j}": row[j] for j in range(len(row))}


# Rows and their parts.


def rows_of(record: Record, where: Tensor | None) -> Record:
    """The rows `where` of a record; the record itself for None."""
    if where is None:
        return record
    return {name: value.index_select(0, where) for name, value in record.items()}


def chosen_rows(block: Block, name: str, choice: Sequence[Index]) -> list[Tensor]:
    """The chosen row of a state for each parameter, shaped like it.

    If the choice is a tensor, the row is copied by index: unlike a sum with weights of 0, it ignores rows that are not
    finite.
    """
    views = block.bundle.views[name]
    if isinstance(choice[0], int):
        return [views[cast(int, index)][i] for i, index in enumerate(choice, block.first)]
    rows = block.state[name]
    if all(index is choice[0] for index in choice):
        return views_of(block, rows.index_select(0, choice[0].to(rows.device))[0])
    vectors, start = block.bundle.vectors, block.bundle.vectors.bounds[block.first][0]
    chosen = []
    for i, index in enumerate(cast(Sequence[Tensor], choice), block.first):
        a, b = vectors.bounds[i]
        row = rows[:, a - start : b - start].index_select(0, index.to(rows.device))[0]
        chosen.append(vectors.shaped(i, row))
    return chosen


def views_of(block: Block, flat: Tensor) -> list[Tensor]:
    """Split a vector (n,) into views shaped like the block's parameters."""
    vectors = block.bundle.vectors
    if block.last - block.first == 1:
        return [vectors.shaped(block.first, flat)]
    if block.last - block.first == len(block.bundle.params):
        return vectors.views(flat)
    start = vectors.bounds[block.first][0]
    return [
        vectors.shaped(i, flat[vectors.bounds[i][0] - start : vectors.bounds[i][1] - start])
        for i in range(block.first, block.last)
    ]


# Numbers on devices.


def vector(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Copy numbers to the device as a vector, through pinned memory, so that the host does not wait."""
    if values and isinstance(values[0], Tensor):
        return torch.stack(tuple(values)).to(device, dtype, non_blocking=True)
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def pick(values: Sequence[Number], index: Index) -> Number:
    """The value at an index; for a tensor index, a float64 tensor (), which promotes no other tensor's dtype."""
    if isinstance(index, int):
        return values[index]
    make = vector if isinstance(values[0], Tensor) else kept(vector_of)
    return make(tuple(values), index.device).index_select(0, index)[0]


def vector_of(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as a float64 tensor (k,) on the device."""
    return vector(values, device)


def number(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor ()."""
    return torch.full((), value, dtype=dtype, device=device)


def column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a column (k, 1)."""
    return vector(values, device, dtype)[:, None]


def numbered(count: int, device: torch.device) -> Tensor:
    """0 ... count - 1."""
    return torch.arange(count, device=device)


def kept(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function with its results cached; unchanged under torch.compile, which makes constants of them itself."""
    return make if torch.compiler.is_compiling() else _keeping(make)


@lru_cache(maxsize=16)
def _keeping(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lru_cache(maxsize=64)(make)


def indices(choice: Tensor) -> list[Index]:
    """Split a choice (rows,) into indices: integers on a CPU, and tensors (1,) elsewhere, so that no step waits."""
    if choice.device.type == "cpu" and not torch.compiler.is_compiling():
        return cast(list[Index], choice.tolist())
    return list(torch.split(choice, 1))
