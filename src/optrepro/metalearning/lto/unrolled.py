"""Truncated back-propagation through unrolled training: learns a step rule by the gradient of the losses it reaches.

A rollout of the rule is cut into stretches of `unroll` steps. After each stretch, the rule's weights take a step of
Adam on the mean loss of the stretch, and the rollout continues with the rule's memory, detached from the graph.

Gradients of the objective are treated as inputs of the rule that do not depend on its weights, so second derivatives
are dropped. The derivative of the loss by a step is then the sum of the gradients after it, which the rollout has
already computed, and only the rule has to be differentiated.

Source: Andrychowicz et al. 2016, arXiv 1606.04474, section 2; the settings name the sources of the extensions.
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
    """The iterate (R, P) of a rollout, with its value (R,) and gradient (R, P) on a minibatch."""

    x: Tensor
    value: Tensor
    gradient: Tensor


class Trainer(StepTrainer[UnrolledSettings, L2LPolicy]):
    """Trains a step rule by truncated back-propagation. Random numbers depend only on the seed and the objectives.

    Args:
        settings: settings of the training.
        horizon: number of steps of a rollout.
        policy: settings of the rule to train.
        objectives: returns the new objectives of an iteration.
        seed: seed of the weights and of the coordinates' units.
        device: device of the training.
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
        """Run one rollout with its updates. Returns ``loss``, the mean minibatch objective, and ``learning_rate``.

        A rollout ends at a loss that is not finite; its stretch makes no update, and the reported loss is not finite.
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
        """Step on each of the minibatches (U, R, B), then update the rule. Returns losses (U, R), point and memory."""
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
        """Draw the units of the coordinates x, (R, P)."""
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
    """Return the derivatives of a stretch's mean loss by each of its steps, (U, R, P).

    A step moves all later iterates, so its derivative is the sum of theirs.

    Args:
        values: value after each step, (U, R).
        gradients: gradient after each step, (U, R, P).
        logarithm: whether the loss is the logarithm of the objective.
    """
    weighted = gradients / values[..., None] if logarithm else gradients
    return weighted.flip(0).cumsum(0).flip(0) / values.numel()
