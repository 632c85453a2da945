"""GAP without candidates: the momentum that maximizes the score on an interval, from a sketch of the gradients.

A filter's score is its inner product with the gradient autocorrelation, so it needs no buffer of its own: the
autocorrelation of the gradients tells the score of every momentum. It is estimated here from a small random projection
of the gradient, and only the one buffer that moves the parameters is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Unpack, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._switching import (
    AdamSettings,
    Group,
    Number,
    Record,
    Rule,
    SGDSettings,
    SwitchingAdam,
    SwitchingSGD,
    require,
)
from optrepro.optimizers.gap import GapAdam, GapAdamW, GapSGD, GreedyAlignment
from optrepro.optimizers.sketch import Sketch

MEMORY = 0.05  # of the state of torch's optimizer: what the sketch may take
DOUBT = 3.0  # standard errors by which a score must exceed 0
TINY = 1e-30
START = 0.9  # momentum before anything is known of the gradients: the usual one
POINTS = 128  # momenta at which the score is evaluated, closer together towards 1
# Where the rule would pass from one to the next of the momenta 0.5, 0.9 and 0.99, were they its candidates.
EDGES = (0.766, 0.968)


@dataclass(frozen=True)
class ContinuousRule(Rule):
    """Settings of the estimate and its maximizer, see `ContinuousSGD`."""

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
    def spell(self) -> int:
        """Steps whose gradients are watched one after the other: in the last look every lag has products."""
        return self.lags + self.every


class Continuous(GreedyAlignment):
    """The momentum as a number that moves: what the forms for SGD and Adam share."""

    rule: ContinuousRule  # type: ignore[assignment]
    _sketch: Sketch | None = None

    @property
    def needs(self) -> None:
        """`step` asks for nothing but the gradients."""
        return None

    @property
    def interval(self) -> tuple[float, float]:
        """The smallest and the largest momentum."""
        momenta = self._momenta(self.param_groups[0])
        return min(momenta), max(momenta)

    @property
    def momentum(self) -> Tensor:
        """The momentum of the last step, () in float64 on the device of the first parameter."""
        return cast(Tensor, self._record()["momentum"])

    @property
    def autocorrelation(self) -> Tensor:
        """The estimate of R_0 ... R_lags, (lags + 1,), as of the last look; NaN for lags of no products so far."""
        record = self._record()
        if "sketches" not in record:
            return torch.full((self.rule.lags + 1,), math.nan, device=record["momentum"].device)
        return cast(Tensor, record["products"] * self.sketch.stride / record["weight"])

    @property
    def selection(self) -> Record:
        """The momentum as if it were the nearest of 0.5, 0.9 and 0.99, in the form of `GapSGD.selection`.

        Bins are (0, 0.766), (0.766, 0.968) and (0.968, 1), which is where the score of `GapSGD` passes from one
        candidate to the next. `last`: the bin, (), -1 before the first step; `counts`: steps in each bin, (3,).
        """
        record = self._record()
        self._count(record, record["age"])
        last = torch.bucketize(record["momentum"], _edges(record["momentum"].device))
        return {"last": last if record["age"] else torch.full_like(last, -1), "counts": record["counts"]}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step; returns the closure's loss, or None. RuntimeError for sparse gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lists = [(group, params) for group in self.param_groups for params in self._lists(group)]
        momentum = self._observe()
        for group, params in lists:
            self._update(group, params, cast(list[Tensor], [param.grad for param in params]), momentum)
        return loss

    # What a kind of optimizer says.

    def _momenta(self, group: Group) -> Sequence[float]:
        raise NotImplementedError

    def _state_size(self) -> int:
        """Bytes of the state that torch's optimizer would have."""
        raise NotImplementedError

    def _fresh_state(self, param: Tensor) -> dict[str, Any]:
        """The state of a parameter before its first step."""
        raise NotImplementedError

    def _history(self, state: dict[str, Any]) -> object:
        """Parameters of equal history are worked on in one call."""
        return None

    def _sample(self, sketch: Sketch, params: list[Tensor], groups: list[Group]) -> Tensor:
        """The sampled coordinates of what the autocorrelation is measured of."""
        sample = sketch.sample([param.grad for param in params])
        if self.couples_weight_decay and any(group["weight_decay"] for group in groups):
            signed = [-group["weight_decay"] if group["maximize"] else group["weight_decay"] for group in groups]
            decays = [0.0 if param.grad is None else decay for param, decay in zip(params, signed, strict=True)]
            sample += sketch.sample(params) * sketch.spread(decays)
        return sample

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor], momentum: Number) -> None:
        """Update the buffers, and move the parameters."""
        raise NotImplementedError

    def _lists(self, group: Group) -> list[list[Tensor]]:
        """Parameters that have a gradient, in lists that one call may work on. Counts a step of each."""
        lists: dict[Any, list[Tensor]] = {}
        for i, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            if param.grad.is_sparse:
                raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")
            state = self.state[param]
            if not state:
                state.update(self._fresh_state(param))
            state["step"] += 1
            key = i if group["foreach"] is False else (param.device, param.dtype, self._history(state))
            lists.setdefault(key, []).append(param)
        return list(lists.values())

    def _objectives(self, group: Group, params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        """Gradients of what is minimized, with coupled weight decay."""
        if group["maximize"]:
            grads = list(torch._foreach_neg(grads))
        if self.couples_weight_decay and group["weight_decay"] != 0:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        return grads

    # The momentum.

    def _observe(self) -> Number:
        """The momentum of this step, with its gradients; on a CPU a float, elsewhere a tensor () in float32."""
        record = self._record()
        record["age"] += 1
        if self._moves:
            if "sketches" not in record:
                self._start(record)
            place = record["place"]
            if place < self.rule.spell:
                self._watch(record, place)
            record["place"] = (place + 1) % (self.rule.spell + self.rule.rest)
        momentum: Tensor = record["momentum"]
        return momentum.item() if momentum.device.type == "cpu" else momentum.float()

    def _all_params(self) -> tuple[list[Tensor], list[Group]]:
        """Every parameter, and its group."""
        params = [param for group in self.param_groups for param in group["params"]]
        return params, [group for group in self.param_groups for _ in group["params"]]

    @property
    def sketch(self) -> Sketch:
        """What the gradients are seen through."""
        if self._sketch is None:
            params, _ = self._all_params()
            rows, small = self.rule.spell, 16 * (self.rule.lags + 8)
            memory = MEMORY * self._state_size() - small
            self._sketch = Sketch([param.numel() for param in params], memory, rows, self.rule.seed, params[0].device)
        return self._sketch

    def _start(self, record: dict[str, Any]) -> None:
        """Begin anew with no sketches."""
        device = self.sketch.signs.device
        record["sketches"] = torch.zeros(self.rule.spell, self.sketch.width, device=device)
        record["products"] = torch.zeros(self.rule.lags + 1, device=device)
        record["squares"] = torch.zeros((), device=device)
        record["weight"] = torch.zeros(self.rule.lags + 1, device=device)
        record.update(place=0, looked=record["age"] - 1)

    def _watch(self, record: dict[str, Any], place: int) -> None:
        """Sketch the gradients of a step of a spell, and look at the estimate at every so many of them."""
        lags, every, sketches = self.rule.lags, self.rule.every, record["sketches"]
        if place == 0:
            sketches.zero_()  # nothing is known of the steps before
        params, groups = self._all_params()
        self.sketch.fold(self._sample(self.sketch, params, groups), out=sketches[lags + place % every])
        if (place + 1) % every == 0:
            self._refresh(record, place + 1)
            sketches[:lags] = sketches[every:].clone()

    def _refresh(self, record: dict[str, Any], known: int) -> None:
        """Take the last sketches into the autocorrelation, and move the momentum towards its maximizer.

        Of the first gradients of a spell few are known before them, so that long lags have fewer products.
        """
        lags, every, sketches = self.rule.lags, self.rule.every, record["sketches"]
        elapsed, record["looked"] = record["age"] - record["looked"], record["age"]
        # A row of the product holds a sketch's inner products with all; those with itself and the ones before it lie
        # one place further right in each row.
        rows = (sketches[lags:] @ sketches.T).as_strided((every, lags + 1), (lags + every + 1, 1))
        counts = (known - torch.arange(lags + 1, device=rows.device)).clamp(0, every)
        forget = self.rule.decay**elapsed
        record["products"] = torch.add(rows.sum(0).flip(0), record["products"], alpha=forget)
        record["squares"] = torch.add(rows[:, :lags].square().sum(), record["squares"], alpha=forget**2)
        record["weight"] = torch.add(counts, record["weight"], alpha=forget)
        self._settle(record, elapsed)

    def _count(self, record: dict[str, Any], age: int) -> None:
        """Count the steps until then, since the last count; all of them had the present momentum."""
        momentum, steps = record["momentum"], age - record["counted"]
        if steps:
            place = torch.bucketize(momentum, _edges(momentum.device))[None]
            record["counts"] = record["counts"].index_add(0, place, torch.full_like(place, steps))
            record["counted"] = age

    def _settle(self, record: dict[str, Any], elapsed: int) -> None:
        """The smoothed maximizer of the score, so many steps after the last."""
        products = record["products"] if self.rule.score == "paper" else record["products"][1:]
        low, high = self.interval
        grid, filters = _filters(low, high, len(products), products.device)
        best, index = (filters @ products).max(0)
        # Were the gradients uncorrelated, any score would have this variance.
        variance = record["squares"] / self.rule.lags
        beyond_doubt = best * best.abs() > DOUBT**2 * variance
        target = torch.where(beyond_doubt, grid.index_select(0, index[None])[0], low)
        keep = self.rule.smoothing**elapsed
        self._count(record, record["age"] - 1)
        record["momentum"] = torch.lerp(target, record["momentum"], keep).clamp_(low, high)

    def _record(self) -> dict[str, Any]:
        record = self.state["selection"]  # type: ignore[index]
        if not record:
            device = self.param_groups[0]["params"][0].device
            low, high = self.interval
            start = torch.full((), min(max(START, low), high), dtype=torch.float64, device=device)
            record["momentum"] = start
            record["counts"] = torch.zeros(len(EDGES) + 1, dtype=torch.int64, device=device)
            record.update(age=0, counted=0)
        return cast(dict[str, Any], record)

    @property
    def _moves(self) -> bool:
        low, high = self.interval
        return high > low

    # Settings.

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, with settings of their own where given; sketches of fewer parameters are forgotten."""
        super().add_param_group(param_group)
        self._sketch = None
        self.state.get("selection", {}).pop("sketches", None)  # type: ignore[call-overload]

    def _checked(self, group: Group) -> Group:
        group = super()._checked(group)
        for name in ("nesterov", "dampening", "lr_modulation"):
            require(not group.get(name), name, group.get(name), 'off with candidates="continuous"')
        momenta, own = (self._momenta(g) for g in (self.param_groups[0] if self.param_groups else group, group))
        same = (min(own), max(own)) == (min(momenta), max(momenta))
        require(same, self.family, group[self.family], f"on the interval of the first group, {momenta}")
        return group

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._sketch = None


class ContinuousSGD(Continuous, GapSGD):
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
            `torch.optim.SGD` bit for bit on the CPU.
        select: ``"global"``.
        score: ``"debiased"``, as above; ``"paper"`` has the sums begin at k = 0.
        lags: K, at least 2.
        decay: weight of the past in the average over steps that estimates :math:`R_k`, per step, in (0, 1].
        smoothing: share of the past in the momentum, per step, in [0, 1).
        every: steps between two looks at the estimate. Until the first look the momentum is 0.9, or what of the
            interval is nearest to it.
        rest: gradients are watched in spells of lags + every steps; in so many steps between two spells the momentum
            stays. Long lags have fewer products in a spell, and so less of a say.
        seed: of the sketch; two optimizers of equal seeds and parameters measure alike.
        **settings: weight_decay (coupled), maximize and foreach, see `SwitchingSGD`.

    Gradients are seen through a `Sketch`; a parameter without a gradient counts as one whose gradient is 0, and its
    buffer and value stay as they are.

    Shape: parameters of any shape and floating dtype; state is one buffer shaped like the parameter, and for all of
        them together signs, 32 sketches and a few numbers, at most 5 % of the buffers from some 8,000 elements on and
        at most 0.2 MB. (A table of 10 KB is shared by all optimizers of a process.) On an accelerator no step waits.
    Raises: as `GapSGD`, and ValueError for nesterov, dampening or lr_modulation.
    Source: the principle is that of arXiv 2512.06370; estimate and maximizer are chosen here.
    """

    buffers = "momentum_buffer"

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
        **settings: Unpack[SGDSettings],
    ) -> None:
        rule = ContinuousRule(select, score, lags, decay, smoothing, every, rest, seed)
        SwitchingSGD.__init__(self, params, lr, momentum, rule, **settings)

    def _momenta(self, group: Group) -> Sequence[float]:
        return cast(Sequence[float], group["momentum"])

    def _state_size(self) -> int:
        return sum(param.nbytes for param in self._all_params()[0])

    def _fresh_state(self, param: Tensor) -> dict[str, Any]:
        return {"step": 0, "momentum_buffer": torch.zeros_like(param)}

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor], momentum: Number) -> None:
        buffers = [self.state[param]["momentum_buffer"] for param in params]
        if not isinstance(momentum, Tensor) and _fits_kernel(params, grads, buffers):
            torch._fused_sgd_(
                params,
                grads,
                buffers,
                weight_decay=group["weight_decay"],
                momentum=max(momentum, TINY),  # at 0 the kernel would leave the buffer as it is
                lr=float(group["lr"]),
                dampening=0.0,
                nesterov=False,
                maximize=group["maximize"],
                is_first_step=False,
            )
            return
        torch._foreach_mul_(buffers, _on(params[0].device, momentum))
        torch._foreach_add_(buffers, self._objectives(group, params, grads))
        torch._foreach_add_(params, buffers, alpha=-group["lr"])


class ContinuousAdam(Continuous, GapAdam):
    r"""Adam whose beta1 is, at every step, the one on an interval that suits the gradients' autocorrelation.

    As `ContinuousSGD`, with :math:`R_k = E\langle P^{1/2} g_n, P^{1/2} g_{n-k}\rangle`,
    :math:`P = 1/(\sqrt{\hat v} + \epsilon)`. The first moment is :math:`m \leftarrow \beta_n m + (1 - \beta_n) g`,
    and its bias correction :math:`1 - \prod_n \beta_n`, over the steps of the parameter.

    `GapAdam(..., candidates="continuous")` makes this class.

    Args:
        params, lr: as in `GapAdam`.
        betas: pairs (beta1, beta2) with a common beta2, whose smallest and largest beta1 are the ends of the interval.
            A single pair is `torch.optim.Adam` bit for bit on the CPU.
        select, score, lags, decay, smoothing, every, rest, seed: as in `ContinuousSGD`.
        **settings: eps, weight_decay (coupled), maximize and foreach, see `SwitchingAdam`.

    Shape: as `ContinuousSGD`; state is a first and a second moment.
    Raises, source: as `ContinuousSGD`.
    """

    buffers = "exp_avg"

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
        **settings: Unpack[AdamSettings],
    ) -> None:
        rule = ContinuousRule(select, score, lags, decay, smoothing, every, rest, seed)
        SwitchingAdam.__init__(self, params, lr, betas, rule, **settings)

    def _momenta(self, group: Group) -> Sequence[float]:
        return [beta for beta, _ in group["betas"]]

    def _state_size(self) -> int:
        return 2 * sum(param.nbytes for param in self._all_params()[0])

    def _fresh_state(self, param: Tensor) -> dict[str, Any]:
        zeros = {name: torch.zeros_like(param) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": 0, **zeros, "beta1_product": _one(param.device)}

    def _history(self, state: dict[str, Any]) -> object:
        # All that have seen the same beta1 hold the same tensor.
        return state["step"], id(state["beta1_product"])

    def _sample(self, sketch: Sketch, params: list[Tensor], groups: list[Group]) -> Tensor:
        gradient = super()._sample(sketch, params, groups)
        states = [{} if param.grad is None else self.state[param] for param in params]
        beta2 = sketch.spread([group["betas"][0][1] for group in groups])
        exp_avg_sq = sketch.sample([state.get("exp_avg_sq") for state in states]) * beta2
        exp_avg_sq += gradient.square() * (1 - beta2)
        ages = [state.get("step") or max(s.get("step", 1) for s in states) for state in states]
        corrections = [1 - group["betas"][0][1] ** age for group, age in zip(groups, ages, strict=True)]
        denominator = (exp_avg_sq / sketch.spread(corrections)).sqrt_().add_(sketch.spread([g["eps"] for g in groups]))
        return gradient / denominator.sqrt_().clamp_(min=TINY)

    def _update(self, group: Group, params: list[Tensor], grads: list[Tensor], momentum: Number) -> None:
        states = [self.state[param] for param in params]
        step, product = states[0]["step"], states[0]["beta1_product"] * _on(params[0].device, momentum)
        for state in states:
            state["beta1_product"] = product
        exp_avgs = [state["exp_avg"] for state in states]
        exp_avg_sqs = [state["exp_avg_sq"] for state in states]
        if not isinstance(momentum, Tensor) and _fits_kernel(params, grads, exp_avgs):
            self._update_fused(group, params, grads, exp_avgs, exp_avg_sqs, momentum, step, product.item())
            return
        lr, (_, beta2) = group["lr"], group["betas"][0]
        grads = self._objectives(group, params, grads)
        if not self.couples_weight_decay and group["weight_decay"] != 0:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        # There is no lerp with a weight that the host does not know.
        beta = _on(params[0].device, momentum)
        torch._foreach_mul_(exp_avgs, beta / (1 - beta))
        torch._foreach_add_(exp_avgs, grads)
        torch._foreach_mul_(exp_avgs, 1 - beta)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)
        denominators = torch._foreach_sqrt(exp_avg_sqs)
        correction = (1 - product).float()
        torch._foreach_mul_(denominators, correction / (1 - beta2**step) ** 0.5)
        torch._foreach_add_(denominators, correction * group["eps"])
        torch._foreach_addcdiv_(params, exp_avgs, denominators, value=-lr)

    def _update_fused(
        self,
        group: Group,
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        beta: float,
        step: int,
        product: float,
    ) -> None:
        """One pass over memory. The kernel's bias correction is that of a constant beta1; it is made the right one."""
        ratio = (1 - product) / (1 - beta**step) if self._moves else 1.0
        kernel, decay = torch._fused_adam_, group["weight_decay"]
        if not self.couples_weight_decay:
            kernel, decay = torch._fused_adamw_, decay * ratio
        kernel(
            params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            [],
            [torch.tensor(float(step))] * len(params),
            lr=float(group["lr"]) / ratio,
            beta1=beta,
            beta2=group["betas"][0][1],
            weight_decay=decay,
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; it is copied, so that two optimizers never share a buffer."""
        super().load_state_dict(state_dict)
        # torch gives each parameter a tensor of its own, in the parameter's precision.
        saved = {
            key: state_dict["state"][key]["beta1_product"]
            for key in state_dict["state"]
            if "beta1_product" in state_dict["state"][key]
        }
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        shared: dict[tuple[torch.device, float], Tensor] = {}
        for key, param in zip(keys, params, strict=True):
            if key in saved:
                product = saved[key].to(param.device, torch.float64, copy=True)
                self.state[param]["beta1_product"] = shared.setdefault((param.device, product.item()), product)


class ContinuousAdamW(ContinuousAdam, GapAdamW):
    """`ContinuousAdam` with decoupled weight decay, 0.01 by default; a single pair is `torch.optim.AdamW`."""


FORMS: dict[type, type] = {GapSGD: ContinuousSGD, GapAdam: ContinuousAdam, GapAdamW: ContinuousAdamW}


def _fits_kernel(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor]) -> bool:
    """Whether a CPU's fused kernel, which goes through memory in order, finds the same coordinates everywhere."""
    return params[0].device.type == "cpu" and all(
        param.dtype == grad.dtype
        and (
            (param.is_contiguous() and grad.is_contiguous() and buffer.is_contiguous())  # quicker to ask
            or param.stride() == grad.stride() == buffer.stride()
        )
        for param, grad, buffer in zip(params, grads, buffers, strict=True)
    )


def _on(device: torch.device, number: Number) -> Number:
    return number.to(device) if isinstance(number, Tensor) else number


@lru_cache(maxsize=16)
def _filters(low: float, high: float, lags: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Momenta on the interval, (points,) in float64, evenly in log(1 - m), and their filters' taps, (points, lags)."""
    grid = 1 - torch.logspace(math.log10(1 - low), math.log10(1 - high), POINTS, dtype=torch.float64)
    grid[0], grid[-1] = low, high
    filters = normalize(grid[:, None] ** torch.arange(lags), dim=1)
    return grid.to(device), filters.float().to(device)


@lru_cache(maxsize=16)
def _one(device: torch.device) -> Tensor:
    return torch.ones((), dtype=torch.float64, device=device)


@lru_cache(maxsize=16)
def _edges(device: torch.device) -> Tensor:
    return torch.tensor(EDGES, dtype=torch.float64, device=device)
