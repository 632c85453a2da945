r"""Guided policy search on the policy's own trajectories: roll out, improve by LQG under a KL limit, regress.

The recurrent policy :math:`\pi` itself is rolled out. Around its mean trajectory, the dynamics of a coordinate are
exact, :math:`\delta x' = \delta x + \delta a`. The linear term of the cost is the coordinate's true gradient; its
curvature :math:`h_t` is shared in the group, and is the pooled slope of gradient differences on steps, times a factor.
LQG with the additional cost :math:`\nu\,KL(\psi \Vert \pi)` gives a guiding policy :math:`\psi` with gains shared in
the group and an offset for each coordinate; :math:`\nu` is chosen such that the mean divergence meets its limit. Then
:math:`\pi` is regressed on the mean actions of :math:`\psi`.

Source: after mirror-descent guided policy search (Montgomery and Levine 2016, arXiv 1607.04614), in the convolutional
form of Li and Malik 2017, arXiv 1703.00441; the models and the factor on the curvature are chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from optrepro.metalearning.lto import supervision
from optrepro.metalearning.lto.rollouts import area
from optrepro.metalearning.lto.settings import MirrorSettings
from optrepro.metalearning.lto.step_trainer import StepTrainer
from optrepro.metalearning.lto.supervision import Recorder, Sequences
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.networks.perceptrons import Perceptrons

SMOOTHING = 21  # chosen: number of steps over which sizes and slopes are averaged
POINTS = 20  # number of intervals of the reported curves


class Model(NamedTuple):
    """The model that coordinates of a group share: variance of the policy, (T,), and curvature, (T + 1,)."""

    variance: Tensor
    curvature: Tensor


class Trainer(StepTrainer[MirrorSettings, StepPolicy]):
    """Trains a recurrent policy. Random numbers depend only on the seed and the iteration.

    Args:
        settings: settings of the training.
        horizon: number of steps of a rollout.
        policy: settings of the policy to train.
        objectives: returns the new objectives of an iteration.
        seed: seed of the weights and of all random choices.
        device: device of the training.
    """

    def __init__(
        self,
        settings: MirrorSettings,
        horizon: int,
        policy: StepPolicySettings,
        objectives: Callable[[int], Perceptrons],
        seed: int,
        device: torch.device | str = "cpu",
    ):
        super().__init__(
            settings,
            horizon,
            lambda: StepPolicy(policy),
            objectives,
            seed,
            device,
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )

    def iterate(self) -> dict[str, float]:
        """Run one iteration and return its metrics.

        ``policy`` is the mean objective along the rollouts, each capped at twice its start; ``kl`` is KL(psi || pi) in
        nats per coordinate and step; ``mismatch`` is the error of the regressed actions relative to their size; every
        `measure` iterations, ``guiding`` is the mean objective of psi on the same objectives.
        """
        s = self.settings
        problems = self.objectives(self.iteration)
        source = supervision.generator(self.seed, self.iteration)
        recorder = Recorder(self.rule, problems, self.horizon, s.coordinates, source)
        scale = (s.random_scale * (2 * torch.rand(len(problems), 1, generator=source) - 1)).exp().to(self.device)
        actions, gradients, cost = self._roll_out(problems, scale, recorder, source)
        report = {"policy": cost}
        models, multipliers, sequences = [], [], []
        for i in range(len(problems.groups)):
            mine, slopes = recorder.at(i, actions).double(), recorder.at(i, gradients).double()
            model = fit(mine, slopes, s.noise, s.curvature)
            multiplier = constrain(model, slopes, s.kl)
            offset = offsets(model, slopes, multiplier)
            models.append(model)
            multipliers.append(multiplier)
            share = (problems.groups[i].stop - problems.groups[i].start) / recorder.columns[i].shape[1]
            precision = share * s.noise**2 * multiplier / model.variance[:, None]
            sequences.append(recorder.sequences(i, (mine + offset).float(), precision.float()))
            report["kl"] = report.get("kl", 0.0) + divergence(model, offset) / len(problems.groups)
        if self.iteration % s.measure == 0:
            report["guiding"] = self._guided_cost(problems, scale, models, multipliers, actions, gradients)
        report["mismatch"] = self._regress(sequences, source)
        self.iteration += 1
        return report

    @torch.no_grad()
    def _roll_out(
        self, problems: Perceptrons, scale: Tensor, recorder: Recorder, source: torch.Generator
    ) -> tuple[Tensor, Tensor, float]:
        """Return actions (T, R, P) and true gradients (T + 1, R, P) along the policy's rollouts, and their mean cost.

        Both are measured in the units `scale`, (R, 1), in which the policy sees the coordinates.
        """
        s = self.settings
        x, examples = problems.start(), problems.minibatches(self.horizon)
        count = problems.labels.shape[1]
        truth = torch.stack([torch.randperm(count, generator=source)[: s.truth] for _ in x]).to(x.device)
        memory = self.rule.begin(x, supervision.columns(problems))
        actions, gradients, values = [], [], []
        for batch in examples:
            true, slope = problems.evaluate(x, truth)
            value, gradient = problems.evaluate(x, batch)
            seen = x / scale, value, gradient * scale
            recorder.note(*seen)
            step, memory = self.rule.step(memory, *seen)
            actions.append(step)
            gradients.append(slope * scale)
            values.append(true)
            x = x + step * scale
        true, slope = problems.evaluate(x, truth)
        everywhere = torch.stack([*gradients, slope * scale])
        return torch.stack(actions), everywhere, float(_bounded(torch.stack([*values, true])).mean())

    @torch.no_grad()
    def _guided_cost(
        self,
        problems: Perceptrons,
        scale: Tensor,
        models: list[Model],
        multipliers: list[float],
        actions: Tensor,
        gradients: Tensor,
    ) -> float:
        """Return the mean objective along the mean trajectories of psi, which acts relative to those of pi."""
        x = problems.start()
        added, kept, around = torch.empty_like(actions), torch.empty_like(actions), x
        for model, multiplier, g in zip(models, multipliers, problems.groups, strict=True):
            added[..., g.columns] = offsets(model, gradients[..., g.columns].double(), multiplier).float()
            kept[..., g.columns] = riccati(model, multiplier)[0][:, None, None].float()
        record = sorted({round(self.horizon * i / POINTS) for i in range(POINTS + 1)})
        curve = []
        for t in range(self.horizon + 1):
            if t in record:
                curve.append(problems.objective(x))
            if t < self.horizon:
                step = actions[t] + added[t] - (1 - kept[t]) * (x - around) / scale
                x, around = x + step * scale, around + actions[t] * scale
        return float(area(_bounded(torch.stack(curve)), record).mean())

    def _regress(self, sequences: list[Sequences], source: torch.Generator) -> float:
        s = self.settings
        left = (1 + math.cos(math.pi * self.iteration / s.iterations)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate * (s.last_rate + (1 - s.last_rate) * left)
        # Scaled to the largest precision, because gradients are clipped at a fixed norm.
        unit = max(float(part.precision.max(0).values.mean()) for part in sequences)
        scaled = [Sequences(p.seen, p.units, p.target, p.precision / unit, p.network) for p in sequences]
        return supervision.regress(self.rule, self.optimizer, scaled, s.epochs, s.sequences, s.max_grad_norm, source)


def fit(actions: Tensor, gradients: Tensor, noise: float, curvature: float) -> Model:
    """Fit the model of a group to actions (T, N) and true gradients (T + 1, N), pooled and smoothed over time."""
    size = _smooth(actions.square().mean(-1)).clamp_min(1e-20)
    slope = _smooth(((gradients[1:] - gradients[:-1]) * actions).mean(-1)) / size
    slope = curvature * slope.clamp_min(0)
    return Model(noise**2 * size, torch.cat([slope, slope[-1:]]))


def riccati(model: Model, multiplier: float | Tensor) -> tuple[Tensor, Tensor]:
    """Run the part of the backward pass that all coordinates share.

    Returns the share of a deviation that psi keeps at each step, (T,), which is its gain plus 1; and the second
    derivative of cost-to-go and divergence by the action, (T,). For multipliers (M,), both are (T, M).
    """
    to_go = model.curvature[-1] + 0 * torch.as_tensor(multiplier, dtype=model.variance.dtype)
    kept, second = [], []
    for variance, curvature in zip(model.variance.flip(0), model.curvature[:-1].flip(0), strict=True):
        pull = multiplier / variance
        second.append(to_go + pull)
        kept.append(pull / second[-1])
        to_go = curvature + kept[-1] * to_go
    return torch.stack(kept[::-1]), torch.stack(second[::-1])


def offsets(model: Model, gradients: Tensor, multiplier: float | Tensor) -> Tensor:
    """Return psi's mean actions minus pi's, (T, ...), or (T, M, ...) for M multipliers; gradients are (T + 1, ...)."""
    kept, second = riccati(model, multiplier)
    wide = kept.ndim > 1
    kept, second = (x.reshape(*x.shape, *[1] * (gradients.ndim - 1)) for x in (kept, second))
    to_go, found = gradients[-1], []
    for t in range(len(kept) - 1, -1, -1):
        found.append(-to_go / second[t])
        to_go = (gradients[t][None] if wide else gradients[t]) + kept[t] * to_go
    return torch.stack(found[::-1])


def divergence(model: Model, offset: Tensor) -> float:
    """Return the part of KL(psi || pi) from the means, nats per coordinate and step, given offsets (T, N)."""
    return float((offset.square().mean(-1) / (2 * model.variance)).mean())


def constrain(model: Model, gradients: Tensor, limit: float) -> float:
    """Return the smallest multiplier from 1e-12 to 1e6 that keeps the mean divergence within the limit, to 0.1 %."""
    low, high = -12.0, 6.0
    for _ in range(4):
        exponents = torch.linspace(low, high, 16, dtype=gradients.dtype, device=gradients.device)
        offset = offsets(model, gradients, 10**exponents)
        met = (offset.square().mean(-1) / (2 * model.variance[:, None])).mean(0) <= limit
        first = int(met.int().argmax()) if bool(met.any()) else len(exponents) - 1
        low, high = float(exponents[max(first - 1, 0)]), float(exponents[first])
    return float(10**high)


def _bounded(curve: Tensor) -> Tensor:
    """Cap objectives (..., R) at twice their first value, so that a diverging one does not dominate the mean."""
    return torch.minimum(curve.nan_to_num(nan=torch.inf), 2 * curve[0])


def _smooth(values: Tensor) -> Tensor:
    """Return the running mean over `SMOOTHING` steps of values (T,)."""
    half = min(SMOOTHING, len(values)) // 2
    padded = F.pad(values[None, None], (half, half), mode="replicate")
    return F.avg_pool1d(padded, 2 * half + 1, 1)[0, 0]
