"""The policy of POP, which chooses a learning rate for each coordinate from the trajectory in a box so far.

`Trajectory` computes features of the values and gradients so far. They do not change when the function is scaled or
shifted, f -> a f + b with a > 0, or when the box is scaled or shifted. `Policy` maps the features of each coordinate to
a learning rate, with the same weights for all coordinates. A box coordinate is u = (x - lower) / (upper - lower).

Source: arXiv 2602.15473 (coordinate-wise, shared weights, Transformer over the trajectory, inputs scaled by bounds,
values and gradients). The features, the sizes and the parametrization of the step are chosen (fidelity:
``code.optimizers._pop_policy``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optrepro.optimizers import _learned

TINY = 1e-300
FIRST_ACTION, ACTION_SCALE = 0.8, 0.2  # The steps of an untrained policy are about a fortieth of the box.
FIRST_LOG_STD = -1.8


@dataclass(frozen=True)
class PolicySettings:
    """Settings of a policy, stored with its weights.

    Attributes:
        backbone: ``transformer`` (causal, over the last `history` evaluations) or ``gru``.
        width: width of the backbone.
        layers: number of its layers.
        heads: number of attention heads of the Transformer.
        history: number of evaluations that a layer attends to.
        horizon: number of evaluations that the policy was trained for; later ones have the time feature of the last.
        scaling: the divisor of the gradient before it is multiplied by the learning rate: ``coordinate``, its absolute
            value in that coordinate, so that the rate is a length in the box; ``norm``, its root mean square over
            coordinates; ``maximum``, the largest root mean square so far; or ``none``, 1. With ``none`` the features
            are not normalized either, so the policy is not invariant to the function's scale.
        smallest, largest: the learning rates for actions of 0 and 1.
        shortest: lower bound on the learning rates of negative actions; None is `smallest`.
        resolved: lower bound on the ratios in the features, which do not distinguish smaller ones. Above 1e-20 rounding
            has little effect.
        least_log_std, most_log_std: bounds on the log standard deviation of the actions. With less noise training is
            brittle. With more noise, where actions matter little, it learns to take long steps away from a minimum.
        second: a direction that is added to the step, times a factor in [-1, 1] that the policy chooses too: ``none``;
            ``momentum``, the last step; or ``best``, the way back to the best point so far. The last two go beyond the
            paper.
        acting: whether an optimization uses the ``mean`` of the action distribution or a ``sample``, as in training. If
            the policy relies on its noise to find other basins, the mean explores less.
    """

    backbone: Literal["transformer", "gru"] = "transformer"
    width: int = 32
    layers: int = 2
    heads: int = 2
    history: int = 16
    horizon: int = 50
    scaling: Literal["coordinate", "norm", "maximum", "none"] = "coordinate"
    smallest: float = 1e-8
    largest: float = 1.0
    shortest: float | None = None
    resolved: float = 1e-10
    least_log_std: float = -6.0
    most_log_std: float = -1.0
    second: Literal["none", "momentum", "best"] = "none"
    acting: Literal["mean", "sample"] = "mean"

    @property
    def outputs(self) -> int:
        """Number of actions per coordinate and step."""
        return 1 if self.second == "none" else 2


class Trajectory:
    """A batch of N optimizations in boxes of D coordinates: computes the policy's features and takes its steps.

    Args:
        settings: settings of the policy.
        start: initial box coordinates (N, D), float64.
        valid: mask of the coordinates that exist, (N, D); None if all exist.
        bounded: whether steps are projected into the box.
        sums: function that sums each of several tensors (N, D) over all coordinates, (N, 1) each. If the coordinates
            are spread over several processes, it sums over these too.
        horizon: planned number of evaluations; None is the number that the policy was trained for.
    """

    FEATURES = 35

    # Tensors of a problem are (N, 1), those of a coordinate (N, D).
    value: Tensor
    gradient: Tensor
    best: Tensor
    best_u: Tensor
    since: Tensor  # number of evaluations since the best value
    lowest: Tensor
    highest: Tensor
    steepest: Tensor  # largest root mean square of the gradient so far
    largest: Tensor  # largest absolute gradient of each coordinate so far
    own: Tensor  # a coordinate's share of the value, with its change and extremes as for the value
    own_change: Tensor
    own_lowest: Tensor
    own_highest: Tensor
    own_since: Tensor
    step: Tensor
    action: Tensor
    rate: Tensor

    def __init__(
        self,
        settings: PolicySettings,
        start: Tensor,
        valid: Tensor | None = None,
        bounded: bool = True,
        sums: Callable[[Sequence[Tensor]], list[Tensor]] | None = None,
        horizon: int | None = None,
    ):
        self.settings, self.u, self.bounded = settings, start, bounded
        self._sums = sums or (lambda columns: [column.sum(-1, keepdim=True) for column in columns])
        self.horizon = horizon or settings.horizon
        self.valid = torch.ones_like(start) if valid is None else valid.to(start)
        self.count = self._sums([self.valid])[0]
        self.steps = 0
        self._span = math.log10(settings.largest / settings.smallest)
        self._least = math.log10((settings.shortest or settings.smallest) / settings.smallest) / self._span

    def observe(self, value: Tensor, gradient: Tensor) -> Tensor:
        """Add the value (N,) and gradient (N, D) at `u`; return the features (N, D, FEATURES), float32."""
        value, g = value[:, None], gradient * self.valid
        size = g.abs()
        if self.steps == 0:
            self._begin(value, g)
        previous, self.value, self.gradient = (self.value, self.gradient), value, g
        met = self._meet(previous[1])
        if self.steps == 0 and self.settings.scaling != "none":
            self.steepest, self.largest = met.norm, size
        improved = value < self.best
        self.best = torch.where(improved, value, self.best)
        self.best_u = torch.where(improved, self.u, self.best_u)
        self.since = torch.where(improved, 0, self.since + 1)
        self.lowest, self.highest = torch.minimum(self.lowest, value), torch.maximum(self.highest, value)
        self._share(value - previous[0], met)
        if self.settings.scaling != "none":
            self.steepest = torch.maximum(self.steepest, met.norm)
            self.largest = torch.maximum(self.largest, size)
        scales = {"coordinate": size, "norm": met.norm, "maximum": self.steepest, "none": torch.ones_like(size)}
        self.scale = scales[self.settings.scaling].expand_as(g)
        features = self._features(size, met, *previous)
        self.steps += 1
        return features

    def move(self, action: Tensor) -> Tensor:
        """Take a step with these actions and return the new `u`.

        Args:
            action: (N, D); 0 stands for the smallest learning rate and 1 for the largest. With a second output it is
                (N, D, 2), and the second number is the factor of the added direction.
        """
        added = torch.zeros_like(self.u)
        if self.settings.second != "none":
            action, share = action.unbind(-1)
            added = share.to(self.u).clamp(-1, 1) * (
                self.step if self.settings.second == "momentum" else self.best_u - self.u
            )
        self.action = action.clamp(self._least, 1)
        self.rate = self.settings.largest * 10 ** (self._span * (self.action.to(self.u) - 1))
        moved = self.u - self.rate * self.gradient / self.scale.clamp_min(TINY) + added
        moved = moved.clamp(0, 1) if self.bounded else moved
        self.step, self.u = moved - self.u, moved
        return moved

    def _meet(self, g_before: Tensor) -> _Met:
        """Compare the gradients before and after the last step; all sums over coordinates are made in one call."""
        g, turned = self.gradient, self.gradient - g_before
        own = self.step * (g + g_before) / 2
        columns = (g.square(), own, own.abs(), self.step * turned, self.step.square(), turned.square())
        squares, *sums = self._sums([*columns, g_before.square(), g * g_before])
        return _Met(turned, own, (squares / self.count).sqrt(), *sums)

    def _share(self, change: Tensor, met: _Met) -> None:
        """Divide the change of the value among the coordinates, so that each can tell its progress from the others'.

        The shares follow from the trapezoidal rule, which is exact for quadratic functions. The remainder is divided in
        proportion to their absolute values.
        """
        left = change - met.whole
        own = met.own + left * met.own.abs() / met.spread.clamp_min(TINY)
        self.own_change, self.own = own, self.own + own
        improved = self.own < self.own_lowest
        self.own_lowest = torch.minimum(self.own_lowest, self.own)
        self.own_highest = torch.maximum(self.own_highest, self.own)
        self.own_since = torch.where(improved, 0, self.own_since + 1)

    def _begin(self, value: Tensor, g: Tensor) -> None:
        self.value, self.gradient, self.best, self.best_u = value, g, value, self.u
        self.lowest, self.highest = value, value
        self.steepest, self.largest = torch.ones_like(value), torch.ones_like(g)
        self.since = torch.zeros_like(value)
        zero = torch.zeros_like(g)
        self.own, self.own_lowest, self.own_highest, self.own_since = zero, zero, zero, zero
        self.step, self.action = zero, zero

    def _features(self, size: Tensor, met: _Met, value_before: Tensor, g_before: Tensor) -> Tensor:
        decades = partial(_decades, resolved=self.settings.resolved)
        depth = -math.log10(self.settings.resolved) / 10  # so that sign and size of a change are one feature in [-1, 1]
        g, down = self.gradient, -self.gradient.sign()
        norm, turned, along, length, bend = met.norm, met.turned, met.along, met.length, met.bend
        scaled = self.settings.scaling != "none"
        spread = (self.highest - self.lowest).clamp_min(TINY) if scaled else torch.ones_like(self.value)
        own_spread = (self.own_highest - self.own_lowest).clamp_min(TINY) if scaled else torch.ones_like(g)
        change = (self.value - value_before) / spread
        own_change = self.own_change / own_spread
        own_above = (self.own - self.own_lowest) / own_spread
        above = (self.value - self.best) / spread
        secant = self.step.abs() / turned.abs().clamp_min(TINY)
        barzilai_borwein = length / along.abs().clamp_min(TINY)
        norm_before = met.before.sqrt() * norm * self.count.sqrt()
        to_best = self.best_u - self.u
        inside = self.u.clamp(0, 1)
        ahead = torch.where(down > 0, 1 - inside, inside)
        first = float(self.steps == 0)
        time = min(self.steps / self.horizon, 1.0)
        columns = (
            size / norm.clamp_min(TINY) - 1,
            decades(size / norm.clamp_min(TINY)),
            decades(norm / self.steepest.clamp_min(TINY)),
            decades(size / self.largest.clamp_min(TINY)),
            decades(size / g_before.abs().clamp_min(TINY)),
            change,
            change.sign() * (1 + decades(change.abs()) / depth),
            own_change,
            own_change.sign() * (1 + decades(own_change.abs()) / depth),
            own_above,
            decades(own_above),
            above,
            decades(above),
            decades(own_spread / spread),
            (self.step * down).sign() * (1 + decades(self.step.abs()) / depth),
            decades(self.step.abs()),
            (g * g_before).sign(),
            met.agreement / norm_before.clamp_min(TINY),
            self._as_action(secant),
            (self.step * turned).sign(),
            self._as_action(barzilai_borwein),
            along / (length * bend).sqrt().clamp_min(TINY),
            2 * self.action - 1,
            2 * ahead - 1,
            4 * to_best * down,
            (to_best * down).sign() * (1 + decades(to_best.abs()) / depth),
            decades(to_best.abs()),
            torch.full_like(g, first),
            torch.full_like(g, 2 * time - 1),
            torch.full_like(g, 1 - math.log1p(self.steps) / math.log1p(self.horizon)).clamp_min(0),
            (self.since / self.horizon).clamp_max(1),
            (self.since == 0).to(g),
            (self.own_since / self.horizon).clamp_max(1),
            (self.own_since == 0).to(g),
            self.count.log2() / 5,
        )
        features = torch.stack([column.expand_as(g) for column in columns]).float().movedim(0, -1).contiguous()
        # Intermediate results beyond the range of float64 may give NaN, which becomes 0.
        return features.clamp_(-3, 3).nan_to_num_()

    def _as_action(self, rate: Tensor) -> Tensor:
        """The action that would give this learning rate of the unscaled gradient, mapped from [0, 1] to [-1, 1]."""
        decades = torch.log10((rate * self.scale / self.settings.largest).clamp_min(TINY))
        return (2 * (1 + decades / self._span) - 1).clamp(2 * self._least - 1.5, 1.5)


class _Met(NamedTuple):
    """The effect of the last step: `turned` and `own` for each coordinate, (N, D), and sums over them, (N, 1)."""

    turned: Tensor  # change y of the gradient
    own: Tensor  # change of the value by the trapezoidal rule
    norm: Tensor  # root mean square of the gradient
    whole: Tensor  # sum of `own`
    spread: Tensor  # sum of the absolute values of `own`
    along: Tensor  # s . y of quasi-Newton methods, where s is the step
    length: Tensor  # s . s
    bend: Tensor  # y . y
    before: Tensor  # squared norm of the last gradient
    agreement: Tensor  # inner product of the last gradient and this one


def _decades(share: Tensor, resolved: float) -> Tensor:
    """log10 of a ratio in units of ten decades, so that 1e-10 becomes -1; the ratio is clamped by `resolved`."""
    return torch.log10(share.clamp(resolved, 1 / resolved)) / 10


def noise(time: int, numbers: Tensor, outputs: int = 1) -> Tensor:
    """Standard normal numbers (rows, outputs), float64, computed by a hash of `time` and the coordinates' `numbers`.

    There is no generator whose state would have to be saved, and the numbers are the same on every device.

    Source: the hash is SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014).
    """
    which = numbers[:, None].long() * outputs + torch.arange(outputs, device=numbers.device)
    bits = _mixed(_mixed(which + 1) + time + 1)
    uniform = ((bits >> 11 & (1 << 53) - 1).double() + 0.5) / 2**53
    drawn: Tensor = torch.special.ndtri(uniform)
    return drawn


def _mixed(bits: Tensor) -> Tensor:
    bits = bits * -0x61C8864680B583EB
    bits = (bits ^ (bits >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
    bits = (bits ^ (bits >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
    return bits ^ (bits >> 31 & (1 << 33) - 1)


class Policy(nn.Module):
    """A normal distribution over the action of each coordinate, given the features of its past.

    Args:
        settings: sizes and bounds.
    """

    def __init__(self, settings: PolicySettings):
        super().__init__()
        self.settings = settings
        width = settings.width
        self.embed = nn.Linear(Trajectory.FEATURES, width)
        self.backbone = (_Transformer if settings.backbone == "transformer" else _Recurrent)(settings)
        self.head = nn.Linear(width, 2 * settings.outputs)
        # lets the action depend linearly on a feature, as a learning rate from a secant does
        self.skip = nn.Linear(Trajectory.FEATURES, settings.outputs, bias=False)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.zero_()
            self.skip.weight.zero_()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of the actions, (B, T, FEATURES) -> two tensors (B, T).

        With a second output they are two tensors (B, T, 2).
        """
        return self._distribution(features, self.backbone(self.embed(features)))

    def begin(self, rows: int) -> list[Tensor]:
        """An empty memory for `rows` coordinates, to be passed to `step`."""
        return self.backbone.begin(rows, self.head.weight)

    def step(self, features: Tensor, memory: list[Tensor], time: int) -> tuple[Tensor, Tensor]:
        """Like `forward` for evaluation `time` alone, (B, FEATURES) -> two tensors (B,); updates `memory`."""
        return self._distribution(features, self.backbone.step(self.embed(features), memory, time))

    def act(self, features: Tensor, memory: list[Tensor], time: int, numbers: Tensor) -> Tensor:
        """The actions for evaluation `time`; samples are a function of `time` and the coordinates' numbers."""
        mean, log_std = self.step(features, memory, time)
        if self.settings.acting == "mean":
            return mean
        return mean + log_std.exp() * noise(time, numbers, self.settings.outputs).view_as(mean).to(mean)

    def _distribution(self, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.head(hidden).unflatten(-1, (self.settings.outputs, 2)).unbind(-1)
        first = torch.tensor([FIRST_ACTION, 0.0][: self.settings.outputs], dtype=mean.dtype, device=mean.device)
        mean = first + ACTION_SCALE * mean + self.skip(features)
        if self.settings.second == "none":
            mean, spread = mean.squeeze(-1), spread.squeeze(-1)
        return mean, (spread + FIRST_LOG_STD).clamp(self.settings.least_log_std, self.settings.most_log_std)


class _Transformer(nn.Module):
    def __init__(self, settings: PolicySettings):
        super().__init__()
        self.layers = nn.ModuleList(_Layer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.history, self.heads, self.width = settings.history, settings.heads, settings.width
        # Attention decays with the distance in time, at a different rate in each head. No position is learned, so that
        # none is unknown beyond the trained horizon.
        self.slopes = [2.0 ** (-3 * i) for i in range(self.heads)]

    def forward(self, x: Tensor) -> Tensor:
        times = torch.arange(x.shape[1], device=x.device)
        bias = self._bias(times[:, None] - times)[None]
        for layer in self.layers:
            x = layer(x, bias)
        normed: Tensor = self.norm(x)
        return normed

    def begin(self, rows: int, like: Tensor) -> list[Tensor]:
        shape = (rows, self.heads, self.history, self.width // self.heads)
        return [like.new_zeros(shape) for _ in range(2 * len(self.layers))]

    def step(self, x: Tensor, memory: list[Tensor], time: int) -> Tensor:
        slots = torch.arange(self.history, device=x.device)
        age = (time - slots) % self.history
        bias = self._bias(torch.where(age <= time, age, -1))
        for i, layer in enumerate(self.layers):
            x = cast(_Layer, layer).step(x, bias, memory[2 * i], memory[2 * i + 1], time % self.history)
        normed: Tensor = self.norm(x)
        return normed

    def _bias(self, age: Tensor) -> Tensor:
        """The bias of each head's attention to an evaluation `age` steps ago, (heads, *age.shape)."""
        slopes = torch.tensor(self.slopes, dtype=torch.float32, device=age.device).view(-1, *[1] * age.ndim)
        return torch.where((age >= 0) & (age < self.history), -slopes * age, -math.inf)


class _Layer(nn.Module):
    def __init__(self, settings: PolicySettings):
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = self._qkv(x)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q))
        return self._finish(x, mixed.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, bias: Tensor, keys: Tensor, values: Tensor, slot: int) -> Tensor:
        q, k, v = self._qkv(x[:, None])
        keys[:, :, slot], values[:, :, slot] = k[:, :, 0], v[:, :, 0]
        # For one query, plain products are faster than F.scaled_dot_product_attention: by a fifth where coordinates are
        # the first dimension in memory, and twice where they are the last, as in an optimizer's state.
        scores = (q * keys).sum(-1) / math.sqrt(q.shape[-1]) + bias.to(q)
        mixed = (scores.softmax(-1)[..., None] * values).sum(2)
        return self._finish(x, mixed.flatten(1))

    def _qkv(self, x: Tensor) -> list[Tensor]:
        split = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        return [part.transpose(1, 2) for part in split.unbind(2)]

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out(mixed)
        added: Tensor = self.down(F.relu(self.up(self.norm_mlp(x))))
        return x + added


class _Recurrent(nn.Module):
    def __init__(self, settings: PolicySettings):
        super().__init__()
        self.gru = nn.GRU(settings.width, settings.width, settings.layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gru(x)[0]
        return out

    def begin(self, rows: int, like: Tensor) -> list[Tensor]:
        return [like.new_zeros(self.gru.num_layers, rows, self.gru.hidden_size)]

    def step(self, x: Tensor, memory: list[Tensor], time: int) -> Tensor:
        out: Tensor
        out, memory[0] = self.gru(x[:, None], memory[0])
        return out[:, 0]


def save(policy: Policy, path: Path | str, card: dict[str, object] | None = None) -> None:
    """Save a policy's weights, its settings and a model card to a safetensors file."""
    _learned.write(policy, path, "policy", _learned.described(policy, card))


def load(path: Path | str) -> tuple[Policy, dict[str, object]]:
    """Load a policy and its model card from a file written by `save`.

    Raises: FileNotFoundError if there is no such file; ValueError if it holds no policy.
    """

    def make(facts: dict[str, Any]) -> Policy:
        return Policy(PolicySettings(**facts["settings"]))

    return _learned.read(make, path, "policy", "policy")
