"""Optimizers that carry several candidate filters and step with one of them: what GAP and its controls share.

A candidate is a causal linear filter of the gradients: a momentum for SGD, a beta1 for Adam. Every candidate keeps
its own buffer; a rule (`gap`, `controls`) says at each step which of them moves the parameters.
"""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, TypedDict, cast

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors
from torch.optim.optimizer import Optimizer, ParamsT

Index = int | Tensor  # of a candidate; a tensor of shape (1,) stays on its device, so that no step waits for it
Number = float | Tensor  # a tensor () where the compiler must not take the number for a constant
Group = dict[str, Any]
Probes = Sequence[Tensor | None]
Record = dict[str, Tensor]

PIECE = 2**17  # elements of a block for each thread of a CPU: gradient and buffers stay in second-level caches
SMALL = 2**14  # elements of a parameter whose step on a CPU takes the time of calls, not of memory


class SGDSettings(TypedDict, total=False):
    """Settings of every switching SGD, see `SwitchingSGD`."""

    dampening: float
    weight_decay: float
    nesterov: bool
    lr_modulation: bool
    maximize: bool
    foreach: bool | None


class AdamSettings(TypedDict, total=False):
    """Settings of every switching Adam, see `SwitchingAdam`."""

    eps: float
    weight_decay: float | None
    lr_modulation: bool
    maximize: bool
    foreach: bool | None


class Candidate(NamedTuple):
    """A filter, whose output is new * gradient + old * previous buffer.

    `norm` is the Euclidean norm of its impulse response in the steady state.
    """

    new: float
    old: float
    norm: float


@dataclass(frozen=True)
class Rule:
    """How a candidate is selected: once for all parameters (global), or for each parameter by itself."""

    select: str = "global"

    def __post_init__(self) -> None:
        require(self.select in ("global", "per_parameter"), "select", self.select, '"global" or "per_parameter"')


class Age(NamedTuple):
    """The number of a parameter's step, from 1, and whether it is the first."""

    step: Number
    first: bool


@dataclass
class Block:
    """Parameters that are worked on as one vector of n elements.

    One parameter; or joined, those of one group, device, dtype and age, which takes few kernels instead of many.

    Attributes:
        row: row of the selection that decides for these parameters.
        gradient: (n,), of what is minimized, with coupled weight decay.
        probe: (n,), the further gradient that a score asks for, if any.
        state: (rows, n) each, views of the parameters' state.
        denominator: (n,), Adam's sqrt(v) + eps.
        alignment: what the rule measures before the buffers are updated.
    """

    group: Group
    params: list[Tensor]
    row: int
    age: Age
    gradient: Tensor
    probe: Tensor | None
    state: dict[str, Tensor]
    denominator: Tensor | None = None
    alignment: tuple[Tensor, Tensor] | None = None

    def pieces(self) -> "Iterator[Block]":
        """The same work in parts that stay in a CPU's cache while they are measured and updated."""
        n, param = self.gradient.numel(), self.params[0]
        divisible = len(self.params) == 1 and param.device.type == "cpu" and param.is_contiguous()
        if not divisible or torch.compiler.is_compiling() or n <= (size := PIECE * torch.get_num_threads()):
            yield self
            return
        for start in range(0, n, size):
            part = slice(start, start + size)
            probe = None if self.probe is None else self.probe[part]
            state = {name: value[:, part] for name, value in self.state.items()}
            view = [param.view(-1)[part]]
            yield Block(self.group, view, self.row, self.age, self.gradient[part], probe, state)


class SwitchingOptimizer(Optimizer):
    """The order of the moves in a step, the parameters' state, and the record of the choices."""

    rule: Rule
    family: ClassVar[str]  # the setting that lists the candidates
    buffers: ClassVar[str]  # the state that holds their buffers, (candidates, *shape)
    couples_weight_decay: ClassVar[bool] = True

    def __init__(self, params: ParamsT, defaults: dict[str, Any], rule: Rule) -> None:
        self.rule = rule
        self._joined: dict[tuple[str, Tensor], tuple[list[Tensor], Tensor]] = {}
        super().__init__(params, defaults)

    # What a kind of filter says.

    def _candidates(self, group: Group) -> list[Candidate]:
        raise NotImplementedError

    def _bias_corrections(self, block: Block) -> Sequence[Number]:
        """What each candidate's output is divided by."""
        return [1.0] * len(block.group[self.family])

    def _state_rows(self, group: Group) -> dict[str, int]:
        """Leading dimension of each tensor in a parameter's state; the others are the parameter's own."""
        return {self.buffers: len(group[self.family])}

    def _precondition(self, block: Block) -> None:
        """Prepare what the scores and steps of all candidates share."""

    def _update_buffers(self, block: Block) -> None:
        raise NotImplementedError

    def _moment(self, block: Block, index: Index) -> Tensor:
        """The candidate's filtered gradient, (n,)."""
        raise NotImplementedError

    def _descend(self, block: Block, moment: Tensor, rate: Number) -> None:
        raise NotImplementedError

    # What a rule says.

    def _probe(self, group: Group, params: list[Tensor], positions: list[int], probes: Probes) -> Tensor | None:
        """What the score needs of the further gradients given to `step`, (n,)."""
        return None

    def _align(self, block: Block) -> None:
        """Measure what the choice is made from, before the buffers are updated."""

    def _choose(self, blocks: list[Block], rows: list[int], past: Record) -> Record:
        """What is new in the record of these rows: `last`, and what else the rule keeps there."""
        raise NotImplementedError

    # The step.

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the closure's loss, or None without a closure."""
        return self._step(closure)

    def _step(self, closure: Callable[[], Any] | None, probes: Probes | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        blocks = []
        for block in self._blocks(probes):
            self._precondition(block)
            self._align(block)
            self._update_buffers(block)
            blocks.append(block)
        choice = self._select(blocks) if blocks else {}
        for block in blocks:
            self._apply(block, choice[block.row])
        return loss

    def _select(self, blocks: list[Block]) -> dict[int, Index]:
        """Choose a candidate for each row that the blocks belong to, and record it."""
        record = self._record()
        rows = list(dict.fromkeys(block.row for block in blocks))
        where = None if len(rows) == len(record["last"]) else vector(rows, record["last"].device, torch.int64)
        past = {name: value if where is None else value.index_select(0, where) for name, value in record.items()}
        fixed = self._candidate_count == 1
        new = past | ({"last": torch.zeros_like(past["last"])} if fixed else self._choose(blocks, rows, past))
        new["counts"] = past["counts"] + self._shares(new)
        # Out of place: whoever holds the last record keeps it as it was.
        record.update(new if where is None else {name: record[name].index_copy(0, where, new[name]) for name in new})
        return dict.fromkeys(rows, 0) if fixed else dict(zip(rows, self._decisions(new), strict=True))

    def _shares(self, new: Record) -> Tensor:
        """The part that each candidate has in this step, (rows, candidates)."""
        return new["last"][:, None] == torch.arange(self._candidate_count, device=new["last"].device)

    def _decisions(self, new: Record) -> Sequence[Index]:
        """What `_apply` is told, for each row."""
        return indices(new["last"])

    def _apply(self, block: Block, index: Index) -> None:
        self._descend(block, self._moment(block, index), pick(self._rates(block), index))

    def _rates(self, block: Block) -> list[Number]:
        """The factor of each candidate's filtered gradient."""
        rates = [block.group["lr"] / correction for correction in self._bias_corrections(block)]
        if not block.group["lr_modulation"]:
            return rates
        return [rate * factor for rate, factor in zip(rates, self._modulations(block.group), strict=True)]

    def _modulations(self, group: Group) -> list[float]:
        """The factors that give every candidate's step the power of the first one's."""
        norms = [candidate.norm for candidate in self._candidates(group)]
        return [norms[0] / norm for norm in norms]

    # Blocks and their state.

    def _blocks(self, probes: Probes | None) -> Iterator[Block]:
        position = 0
        for group in self.param_groups:
            bundles: dict[Any, tuple[Age, list[int]]] = {}
            for i, param in enumerate(group["params"]):
                if param.grad is not None:
                    age = self._advance(param, group)
                    key = (param.device, param.dtype, age) if self._joins(param, group) else i
                    bundles.setdefault(key, (age, []))[1].append(i)
            for age, members in bundles.values():
                yield from self._block(group, position, members, age, probes).pieces()
            position += len(group["params"])

    def _joins(self, param: Tensor, group: Group) -> bool:
        # A choice per parameter needs a score per parameter, and the compiler joins kernels by itself.
        if self.rule.select == "per_parameter" or torch.compiler.is_compiling():
            return False
        if group["foreach"] is None:
            return param.device.type != "cpu" or param.numel() <= SMALL
        return bool(group["foreach"])

    def _advance(self, param: Tensor, group: Group) -> Age:
        """Count a step of the parameter, which gets its state at the first one."""
        if cast(Tensor, param.grad).is_sparse:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
        state = self.state[param]
        first = not state
        if first:
            state["step"] = torch.zeros((), dtype=torch.float64)
            for name, rows in self._state_rows(group).items():
                state[name] = param.new_zeros((rows, *param.shape))
        state["step"] += 1
        return Age(state["step"] if torch.compiler.is_compiling() else state["step"].item(), first)

    def _block(self, group: Group, position: int, members: list[int], age: Age, probes: Probes | None) -> Block:
        params, positions = [group["params"][i] for i in members], [position + i for i in members]
        return Block(
            group,
            params,
            row=positions[0] if self.rule.select == "per_parameter" else 0,
            age=age,
            gradient=self._objective(group, params, [param.grad for param in params]),
            probe=None if probes is None else self._probe(group, params, positions, probes),
            state={name: self._join(name, params) for name in self._state_rows(group)},
        )

    def _objective(self, group: Group, params: list[Tensor], grads: Probes, *, regularized: bool = True) -> Tensor:
        """The flat gradient of what is minimized; the gradients given stay as they are."""
        gradient = flatten(grads)
        if group["maximize"]:
            gradient = -gradient
        if regularized and self.couples_weight_decay and group["weight_decay"] != 0:
            gradient = gradient.add(flatten(params), alpha=group["weight_decay"])
        return gradient

    def _join(self, name: str, params: list[Tensor]) -> Tensor:
        """The parameters' state `name` side by side, (rows, n), of which each parameter's state is a view.

        Tensors that were replaced since (by `load_state_dict`, say) are joined anew.
        """
        parts = [self.state[param][name] for param in params]
        rows, sizes = parts[0].shape[0], [param.numel() for param in params]
        if len(params) == 1:
            return cast(Tensor, parts[0].view(rows, sizes[0]))
        views, joined = self._joined.get((name, params[0]), ([], params[0]))
        if len(views) != len(parts) or not all(map(operator.is_, views, parts)):
            joined = torch.cat([part.reshape(rows, size) for part, size in zip(parts, sizes, strict=True)], 1)
            columns = torch.split(joined, sizes, 1)
            views = [part.view(rows, *param.shape) for part, param in zip(columns, params, strict=True)]
            for param, view in zip(params, views, strict=True):
                self.state[param][name] = view
            self._joined[name, params[0]] = views, joined
        return joined

    # The record of the choices.

    @property
    def selection(self) -> Record:
        """The last choice and how often each candidate was chosen.

        Returns:
            `last`: index of the candidate, int64, () or, per parameter, (parameters,); -1 where none was chosen yet.
            `counts`: steps for which each was chosen, int64, (candidates,) or (parameters, candidates).
            Both lie on the device of the first parameter, and only reading their values waits for it.
        """
        record, one = self._record(), self.rule.select == "global"
        return {name: record[name][0] if one else record[name] for name in ("last", "counts")}

    def _record(self) -> Record:
        """What `selection` reads: tensors with a row for each choice that is made in a step; part of the state."""
        params = [param for group in self.param_groups for param in group["params"]]
        record = self.state["selection"]  # type: ignore[index]
        rows = len(params) if self.rule.select == "per_parameter" else 1
        missing = rows - (record["last"].shape[0] if record else 0)
        if missing:
            for name, fresh in self._fresh_record(missing, params[0].device).items():
                record[name] = torch.cat([record[name], fresh]) if name in record else fresh
        return cast(Record, record)

    def _fresh_record(self, rows: int, device: torch.device) -> Record:
        return {
            "last": torch.full((rows,), -1, device=device),
            "counts": torch.zeros((rows, self._candidate_count), dtype=torch.int64, device=device),
        }

    @property
    def _candidate_count(self) -> int:
        return len(self.param_groups[0][self.family])

    # Settings.

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, with settings of their own where given.

        Raises: ValueError for a setting out of its range, another number of candidates, or complex parameters.
        """
        super().add_param_group(self._checked({**self.defaults, **param_group}))
        if any(param.is_complex() for param in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise ValueError(f"params: {type(self).__name__} does not support complex parameters; pass view_as_real")

    def _checked(self, group: Group) -> Group:
        """The settings of a group in their usual form, or a ValueError."""
        require(group["lr"] >= 0, "lr", group["lr"], "at least 0")
        require(group["weight_decay"] >= 0, "weight_decay", group["weight_decay"], "at least 0")
        candidates = len(group[self.family])
        require(candidates > 0, self.family, group[self.family], "at least one candidate")
        if self.param_groups:
            same = f"as many candidates as in the first parameter group, {self._candidate_count}"
            require(candidates == self._candidate_count, self.family, group[self.family], same)
        return group

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; it is copied, so that two optimizers never share a buffer."""
        super().load_state_dict(deepcopy(state_dict))
        # torch moves the state of parameters only.
        device = self.param_groups[0]["params"][0].device
        record = self.state["selection"]  # type: ignore[index]
        record.update({name: value.to(device) for name, value in record.items() if isinstance(value, Tensor)})

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"rule": self.rule}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._joined = {}


class SwitchingSGD(SwitchingOptimizer):
    r"""SGD with a buffer for each candidate momentum :math:`m`: :math:`b_m \leftarrow m b_m + (1 - d) g`.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate, at least 0; a tensor () lets compiled steps follow a schedule without compiling again.
        momentum: candidates in [0, 1), or one.
        rule: how one is selected.
        dampening, weight_decay, nesterov, maximize: as in `torch.optim.SGD`. Weight decay is coupled: it enters the
            gradient that both the update and the score use.
        lr_modulation: scale each candidate's step by the norm of the first candidate's filter over its own. Under
            white gradients all steps then have the power of the first candidate's. Off by default; "chosen".
        foreach: join parameters into long vectors; None joins all on accelerators and small ones on the CPU.
            Parameters that are selected for by themselves are never joined.
    """

    family = "momentum"
    buffers = "momentum_buffers"

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
        super().__init__(params, defaults, rule)

    def _checked(self, group: Group) -> Group:
        momentum, dampening = group["momentum"], group["dampening"]
        group["momentum"] = momentum = tuple(momentum) if isinstance(momentum, Sequence) else (momentum,)
        for i, value in enumerate(momentum):
            require(0 <= value < 1, f"momentum[{i}]", value, "in [0, 1)")
        require(0 <= dampening < 1, "dampening", dampening, "in [0, 1)")
        plain = dampening == 0 and min(momentum, default=1) > 0
        require(plain or not group["nesterov"], "nesterov", True, "with momentum above 0 and no dampening only")
        return super()._checked(group)

    def _candidates(self, group: Group) -> list[Candidate]:
        if group["nesterov"]:
            return [with_norm(decay=m, fresh=1, new=1 + m, old=m * m) for m in group["momentum"]]
        fresh = 1 - group["dampening"]
        return [with_norm(decay=m, fresh=fresh if m else 1, new=fresh if m else 1, old=m) for m in group["momentum"]]

    def _update_buffers(self, block: Block) -> None:
        dampening, single = block.group["dampening"], len(block.group["momentum"]) == 1
        for momentum, buffer in zip(block.group["momentum"], block.state[self.buffers], strict=True):
            if momentum == 0 or block.age.first:  # torch dampens neither of them
                buffer.copy_(block.gradient)
            elif single or dampening != 0:  # rounds as torch.optim.SGD does
                buffer.mul_(momentum).add_(block.gradient, alpha=1 - dampening)
            else:  # the same in three passes over memory instead of five
                torch.add(block.gradient, buffer, alpha=momentum, out=buffer)

    def _moment(self, block: Block, index: Index) -> Tensor:
        buffer = pick_row(block.state[self.buffers], index)
        if not block.group["nesterov"]:
            return buffer
        momentum = pick(block.group["momentum"], index)
        if isinstance(momentum, Tensor):
            return block.gradient.addcmul(buffer, momentum)
        return block.gradient.add(buffer, alpha=momentum)

    def _descend(self, block: Block, moment: Tensor, rate: Number) -> None:
        if isinstance(rate, Tensor):
            moment, rate = moment * rate, 1.0
        torch._foreach_add_(block.params, unflatten(moment, block.params), alpha=-rate)


class SwitchingAdam(SwitchingOptimizer):
    r"""Adam with a first moment for each candidate :math:`\beta_1` and one second moment for all.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr: learning rate, as in `SwitchingSGD`.
        betas: candidates, pairs (beta1, beta2) in [0, 1) with a common beta2, or one such pair.
        rule: how one is selected.
        eps, maximize: as in `torch.optim.Adam`.
        weight_decay: None is torch's default, 0 for Adam and 0.01 for AdamW. Adam couples it: it enters the gradient
            that both the update and the score use. AdamW decays the parameters apart from the gradient.
        lr_modulation, foreach: as in `SwitchingSGD`.
    """

    family = "betas"
    buffers = "exp_avgs"
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
        super().__init__(params, defaults, rule)

    def _checked(self, group: Group) -> Group:
        betas = tuple(group["betas"])
        group["betas"] = betas = (betas,) if betas and not isinstance(betas[0], Sequence) else betas
        for i, pair in enumerate(betas):
            require(len(pair) == 2, f"betas[{i}]", pair, "a pair (beta1, beta2)")
            for j, beta in enumerate(pair):
                require(0 <= beta < 1, f"betas[{i}][{j}]", beta, "in [0, 1)")
            common = f"equal to betas[0][1] = {betas[0][1]}: the candidates share one second moment"
            require(pair[1] == betas[0][1], f"betas[{i}][1] (beta2)", pair[1], common)
        require(group["eps"] >= 0, "eps", group["eps"], "at least 0")
        return super()._checked(group)

    def _candidates(self, group: Group) -> list[Candidate]:
        return [with_norm(decay=beta, fresh=1 - beta, new=1 - beta, old=beta) for beta, _ in group["betas"]]

    def _bias_corrections(self, block: Block) -> Sequence[Number]:
        # Every candidate has seen every gradient, so its correction is right whichever was chosen before.
        return [1 - beta**block.age.step for beta, _ in block.group["betas"]]

    def _state_rows(self, group: Group) -> dict[str, int]:
        return super()._state_rows(group) | {"exp_avg_sq": 1}

    def _precondition(self, block: Block) -> None:
        beta = block.group["betas"][0][1]
        exp_avg_sq = block.state["exp_avg_sq"][0]
        exp_avg_sq.mul_(beta).addcmul_(block.gradient, block.gradient, value=1 - beta)
        block.denominator = (exp_avg_sq.sqrt() / (1 - beta**block.age.step) ** 0.5).add_(block.group["eps"])

    def _update_buffers(self, block: Block) -> None:
        for (beta, _), exp_avg in zip(block.group["betas"], block.state[self.buffers], strict=True):
            exp_avg.lerp_(block.gradient, 1 - beta)

    def _moment(self, block: Block, index: Index) -> Tensor:
        return pick_row(block.state[self.buffers], index)

    def _descend(self, block: Block, moment: Tensor, rate: Number) -> None:
        params, denominator = block.params, cast(Tensor, block.denominator)
        if isinstance(rate, Tensor):
            moment, rate = moment * rate, 1.0
        if not self.couples_weight_decay and block.group["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - block.group["lr"] * block.group["weight_decay"])
        torch._foreach_addcdiv_(params, unflatten(moment, params), unflatten(denominator, params), value=-rate)


def with_norm(decay: float, fresh: float, new: float, old: float) -> Candidate:
    """The candidate of the buffer h = decay * h + fresh * gradient, whose taps are fresh * decay^k."""
    return Candidate(new, old, math.hypot(new, old * fresh / math.sqrt(1 - decay**2)))


def flatten(tensors: Probes) -> Tensor:
    """The tensors end to end, (n,); one contiguous tensor is not copied."""
    flat = [cast(Tensor, tensor).reshape(-1) for tensor in tensors]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def unflatten(flat: Tensor, params: list[Tensor]) -> list[Tensor]:
    """Views of a flat vector, shaped like the parameters."""
    if len(params) == 1:
        return [flat.view_as(params[0])]
    return list(_unflatten_dense_tensors(flat, params))  # type: ignore[no-untyped-call]


def vector(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers on the device; through pinned memory, so that the host does not wait for the copy."""
    if isinstance(values[0], Tensor):
        return torch.stack(tuple(values)).to(device, dtype, non_blocking=True)
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def pick_row(rows: Tensor, index: Index) -> Tensor:
    """Row `index`. A tensor selects by copying, so that a row that overflowed leaves no trace in another."""
    return rows[index] if isinstance(index, int) else rows.index_select(0, index.to(rows.device))[0]


def pick(values: Sequence[Number], index: Index) -> Number:
    """Value `index`; a tensor () where the index is one, float64, which as a scalar promotes nothing."""
    if isinstance(index, int) or len(set(values)) == 1:
        return values[index if isinstance(index, int) else 0]
    make = vector if torch.compiler.is_compiling() else kept_vector
    return make(tuple(values), index.device).index_select(0, index)[0]


@lru_cache(maxsize=64)
def kept_vector(values: tuple[Number, ...], device: torch.device) -> Tensor:
    """The same numbers for all parameters, copied to the device once."""
    return vector(values, device)


def indices(choice: Tensor) -> list[Index]:
    """A choice (rows,) as one index each: read on the CPU, where it costs nothing, left on any other device."""
    if choice.device.type == "cpu" and not torch.compiler.is_compiling():
        return cast(list[Index], choice.tolist())
    return list(torch.split(choice, 1))


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names the setting, its value and what is allowed."""
    if not condition:
        raise ValueError(f"{name} = {value!r} is not allowed: it must be {allowed}")
