"""Imitation of a classic optimizer: the start of guided policy search, and a baseline for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optrepro.metalearning.lto import supervision
from optrepro.metalearning.lto.settings import ImitationSettings
from optrepro.metalearning.lto.step_trainer import StepTrainer
from optrepro.metalearning.lto.supervision import Recorder
from optrepro.optimizers._learned import Columns, Memory
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.networks.perceptrons import Perceptrons


class AdaGrad:
    """AdaGrad (Duchi et al. 2011) as a step rule.

    Args:
        rate: learning rate.
        warmup: number of steps over which the rate grows to its value, linearly; 0 is none.
    """

    def __init__(self, rate: float, warmup: int = 0):
        self.rate, self.warmup = rate, warmup

    def begin(self, x: Tensor, groups: Columns) -> Memory:
        """Return memory with the sum of squared gradients, (R, P), and the number of steps."""
        return {"squares": torch.zeros_like(x), "time": torch.zeros((), dtype=torch.int64)}

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """See `StepRule`."""
        squares, time = torch.addcmul(memory["squares"], gradient, gradient), memory["time"] + 1
        rate = self.rate * min(1.0, int(time) / max(self.warmup, 1))
        return -rate * gradient / (squares.sqrt() + 1e-10), {"squares": squares, "time": time}


class Trainer(StepTrainer[ImitationSettings, StepPolicy]):
    """Trains a policy to imitate AdaGrad on the states that the policy visits.

    The method is dataset aggregation (Ross et al. 2011), but each iteration uses only its own data: the policy acts,
    and is regressed on the actions that AdaGrad would have taken, with the policy's own warm-up.

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
        settings: ImitationSettings,
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
        """Run one rollout and its regression. Returns ``mismatch``, the error of the actions relative to their size."""
        s = self.settings
        source = supervision.generator(self.seed, self.iteration)
        sequences = self._record(self.objectives(self.iteration), source)
        mismatch = supervision.regress(
            self.rule, self.optimizer, sequences, s.epochs, s.sequences, s.max_grad_norm, source
        )
        self.iteration += 1
        return {"mismatch": mismatch}

    @torch.no_grad()
    def _record(self, problems: Perceptrons, source: torch.Generator) -> list[supervision.Sequences]:
        s = self.settings
        recorder = Recorder(self.rule, problems, self.horizon, s.coordinates, source)
        teacher, groups = AdaGrad(s.teacher_rate, self.rule.settings.warmup), supervision.columns(problems)
        x, examples = problems.start(), problems.minibatches(self.horizon)
        teacher_memory, own = teacher.begin(x, groups), self.rule.begin(x, groups)
        targets: list[list[Tensor]] = [[] for _ in groups]
        for batch in examples:
            value, gradient = problems.evaluate(x, batch)
            recorder.note(x, value, gradient)
            target, teacher_memory = teacher.step(teacher_memory, x, value, gradient)
            for i, kept in enumerate(targets):
                kept.append(recorder.at(i, target))
            if self.iteration == 0:
                x = x + target
            else:
                step, own = self.rule.step(own, x, value, gradient)
                x = x + step
        stacked = [torch.stack(target) for target in targets]
        return [recorder.sequences(i, t, _precision(t)) for i, t in enumerate(stacked)]


def _precision(target: Tensor) -> Tensor:
    """Return the inverse mean square of the targets (T, N) per step, (T, 1), so that errors count relative to it."""
    return 1 / target.square().mean(-1, keepdim=True).clamp_min(1e-20)
