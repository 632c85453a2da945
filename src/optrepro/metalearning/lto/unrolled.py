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
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optrepro.metalearning.lto.settings import UnrolledSettings
from optrepro.metalearning.lto.step_trainer import StepTrainer
from optrepro.optimizers._learned import Memory
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.problems.networks.perceptrons import Perceptrons


class Met(NamedTuple):
    """What a rollout meets at an iterate: the iterate (R, P), its value (R,) and gradient (R, P) on a minibatch."""

    x: Tensor
    value: Tensor
    gradient: Tensor


class Trainer(StepTrainer[UnrolledSettings, L2LPolicy]):
    """Truncated back-propagation, a rollout at a time. All randomness is derived from the seed and the objectives.

    Args:
        settings: see `UnrolledSettings`.
        horizon: number of steps of a rollout.
        policy: of the rule that is trained.
        objectives: the objectives of an iteration, new ones for each.
        seed: of the weights and units.
        device: where all of it happens.
    """

    def __init__(
        self,
        settings: UnrolledSettings,
        horizon: int,
        policy: L2LSettings,
        objectives: Callable[[int], Perceptrons],
        seed: int,
        device: torch.device | str = "cpu",
    ):
        super().__init__(settings, horizon, lambda: L2LPolicy(policy), objectives, seed, device)

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
            return self.horizon
        share = self.iteration / (s.curriculum * s.iterations)
        growth: float = (self.horizon / s.first_horizon) ** share
        return min(self.horizon, math.ceil(s.first_horizon * growth))

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
