"""Truncated back-propagation through unrolled training: a step rule learned by the gradient of the losses it meets.

A rollout of the rule is cut into stretches of `unroll` steps. After each, the weights of the rule take a step of Adam
on the mean loss of the stretch, and the rollout goes on with what the rule remembers, but without its gradient.

Gradients of the objective are inputs of the rule that do not depend on its weights: second derivatives are dropped.
The derivative of the loss by a step is then the sum of the gradients met after it, which the rollout has at hand, and
only the rule has to be differentiated.

Source: Andrychowicz et al. 2016, arXiv 1606.04474, section 2; what else there is says so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optrepro.metalearning.lto.step_trainer import StepTrainer
from optrepro.optimizers._learned import Memory
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.problems.networks.perceptrons import Perceptrons


@dataclass(frozen=True)
class UnrolledSettings:
    """How a rule is trained.

    Attributes:
        iterations: rollouts, each on new objectives; the decay of the learning rate is made for so many.
        horizon: steps of a rollout.
        unroll: steps between two updates, through which losses are propagated back (20 in the paper).
        learning_rate: of Adam; it falls to `last_rate` of it by half a cosine.
        last_rate: share of the learning rate that is left at the end.
        max_grad_norm: gradients of the rule's weights are scaled down to it.
        first_horizon, curriculum: the first rollout has so many steps; rollouts grow to `horizon`, geometrically, over
            this share of the iterations (0: all have `horizon` steps). Source: Chen et al. 2020, arXiv 2010.09089, who
            lengthen the training by and by; the geometric growth is chosen.
        logarithm: whether the loss is the logarithm of the objective, so that late steps count as much as early ones.
        random_scale: each coordinate of an objective is measured in a unit of its own, exp(u) with u uniform within
            so much of 0. Source: Lv et al. 2017, arXiv 1703.03633, section 4.1.
    """

    iterations: int
    horizon: int
    unroll: int = 20
    learning_rate: float = 3e-3
    last_rate: float = 0.05
    max_grad_norm: float = 1.0
    first_horizon: int = 20
    curriculum: float = 0.0
    logarithm: bool = False
    random_scale: float = 0.0


class Met(NamedTuple):
    """What a rollout meets at an iterate: the iterate (R, P), its value (R,) and gradient (R, P) on a minibatch."""

    x: Tensor
    value: Tensor
    gradient: Tensor


class Trainer(StepTrainer[UnrolledSettings, L2LPolicy]):
    """Truncated back-propagation, a rollout at a time. All randomness is derived from the seed and the objectives.

    Args:
        settings: see `UnrolledSettings`.
        policy: of the rule that is trained.
        objectives: the objectives of an iteration, new ones for each.
        seed: of the weights and units.
        device: where all of it happens.
    """

    def __init__(
        self,
        settings: UnrolledSettings,
        policy: L2LSettings,
        objectives: Callable[[int], Perceptrons],
        seed: int,
        device: torch.device | str = "cpu",
    ):
        super().__init__(settings, lambda: L2LPolicy(policy), objectives, seed, device)

    def iterate(self) -> dict[str, float]:
        """One rollout with its updates; ``loss``, mean minibatch objective after its steps, and ``learning_rate``.

        A rollout ends early where a loss is not finite, which is then the loss told, and no update follows from it.
        """
        problems, horizon, rate = self.objectives(self.iteration), self._horizon(), self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        examples = problems.minibatches(horizon + 1)
        x = problems.start()
        scale = self._scale(x)
        met = Met(x, *problems.evaluate(x, examples[0]))
        memory = self.rule.begin(x, [(g.start, g.stop) for g in problems.groups])
        losses = []
        for start in range(0, horizon, self.settings.unroll):
            batches = examples[start + 1 : start + 1 + self.settings.unroll]
            loss, met, memory = self._stretch(problems, batches, scale, met, memory)
            losses.append(loss)
            if not loss.isfinite().all():
                break
        self.iteration += 1
        return {"loss": float(torch.cat(losses).mean()), "learning_rate": rate}

    def _stretch(
        self, problems: Perceptrons, batches: Tensor, scale: Tensor, met: Met, memory: Memory
    ) -> tuple[Tensor, Met, Memory]:
        """One step on each of the minibatches (U, R, B), then one of the rule's weights; the losses (U, R)."""
        steps, values, gradients = [], [], []
        for examples in batches:
            step, memory = self.rule.step(memory, met.x / scale, met.value, met.gradient * scale)
            x = met.x + scale * step.detach()
            met = Met(x, *problems.evaluate(x, examples))
            steps.append(step)
            values.append(met.value)
            gradients.append(met.gradient * scale)
        loss = torch.stack(values)
        if loss.isfinite().all():
            self._learn(steps, derivatives(loss, torch.stack(gradients), self.settings.logarithm))
        return loss, met, {name: part.detach() for name, part in memory.items()}

    def _learn(self, steps: list[Tensor], derivatives: Tensor) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(steps, list(derivatives))
        norm = nn.utils.clip_grad_norm_(self.rule.parameters(), self.settings.max_grad_norm)
        if norm.isfinite():
            self.optimizer.step()

    def _scale(self, x: Tensor) -> Tensor:
        """Units of the coordinates x, (R, P)."""
        width = self.settings.random_scale
        digest = hashlib.sha256(f"{self.seed}/units/{self.iteration}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return (width * (2 * torch.rand(x.shape, generator=generator) - 1)).exp().to(x)

    def _horizon(self) -> int:
        s = self.settings
        if self.iteration >= s.curriculum * s.iterations:
            return s.horizon
        share = self.iteration / (s.curriculum * s.iterations)
        growth: float = (s.horizon / s.first_horizon) ** share
        return min(s.horizon, math.ceil(s.first_horizon * growth))

    def _learning_rate(self) -> float:
        s = self.settings
        left = (1 + math.cos(math.pi * self.iteration / s.iterations)) / 2
        return s.learning_rate * (s.last_rate + (1 - s.last_rate) * left)


def derivatives(values: Tensor, gradients: Tensor, logarithm: bool) -> Tensor:
    """Of the mean loss of a stretch by each of its steps, (U, R, P), from values (U, R) and gradients (U, R, P) after.

    A step moves all iterates after it, so its derivative is the sum of theirs.
    """
    weighted = gradients / values[..., None] if logarithm else gradients
    return weighted.flip(0).cumsum(0).flip(0) / values.numel()
