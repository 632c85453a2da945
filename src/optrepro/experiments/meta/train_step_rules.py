"""Meta-trains step rules on new objectives in each iteration, with validation on fixed objectives of other images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from optrepro.experiments.base import data
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import joined, metric_rows
from optrepro.metalearning.lto import guided_policy_search, imitation, mirror_descent, rollouts, unrolled
from optrepro.metalearning.lto.imitation import AdaGrad
from optrepro.optimizers import _learned
from optrepro.optimizers._learned import StepRule
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.networks.perceptrons import Perceptrons
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.learner import LearnerStudy, ObjectiveConfig

POINTS = 41  # number of points on the validation curve


class Trainer(Protocol):
    """A method to learn a rule; each iteration draws new objectives and reports metrics."""

    settings: Any
    rule: Any
    iteration: int

    @property
    def done(self) -> bool:
        """Whether all iterations are done."""
        ...

    def iterate(self) -> dict[str, float]:
        """Run one iteration and return its metrics."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        ...


METHODS: dict[str, Callable[..., Trainer]] = {
    "imitation": imitation.Trainer,
    "mirror": mirror_descent.Trainer,
    "bregman": guided_policy_search.Trainer,
    "unrolled": unrolled.Trainer,
}


def run(study: LearnerStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Learn a rule, and write the weights with the best validation to `context.policy`. Returns tidy rows.

    `step` is the number of iterations. ``area`` is the mean true objective along the trajectories of the validation
    problems, and ``final`` that at their ends. The area decides which weights are best, or with several settings the
    ``score`` of `LearnerStudy`, to which each setting contributes its ``score-<name>``. The trainer's metrics appear as
    means since the previous validation. The best weights so far lie beside those of the end.
    """
    assert context.policy is not None
    job = _Learning(study, batch, context)
    with context.checkpoint.listening():
        job.learn()
    job.save(context.policy)
    return job.rows()


def attempts(study: LearnerStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield attempts to build the network of every rule."""
    for name, row in study.learners.items():
        recipe = study.recipe(name)
        make: Callable[[], object] = partial(StepPolicy, StepPolicySettings(**recipe.policy.model_dump()))
        if row.method == "unrolled":
            make = partial(L2LPolicy, L2LSettings(**recipe.l2l.model_dump()))
        yield f"learners.{name}", make


class Measured(NamedTuple):
    """Mean objective along trajectories, and at their ends."""

    area: float
    final: float

    @property
    def sum(self) -> float:
        """What scores compare: how low the objective is on the way and at the end."""
        return self.area + self.final


class _Learning:
    """The meta-training of one rule."""

    def __init__(self, study: LearnerStudy, batch: Batch, context: Context):
        assert batch.optimizer is not None
        assert context.dataset is not None
        self.study, self.batch, self.context = study, batch, context
        self.row, self.recipe = study.learners[batch.optimizer], study.recipe(batch.optimizer)
        [self.run] = batch.runs
        self.images = data.load(study, context.dataset, context.seed, context.device)
        self.validation = self._validation()
        self.trainer = self._trainer()
        self.averaged: nn.Module = deepcopy(self.trainer.rule).requires_grad_(False)
        self.state: dict[str, Any] = {
            "best": np.inf,
            "stale": 0,
            "weights": None,
            "history": [],
            "since": [],
            "references": None,
            "cpu_seconds": 0.0,
        }

    def learn(self) -> None:
        """Learn from the checkpoint until the last iteration, or until validation stops improving."""
        if (saved := self.context.checkpoint.load()) is not None:
            self.state = saved["state"]
            self.trainer.load_state_dict(saved["trainer"])
            self.averaged.load_state_dict(saved["averaged"])
        elif self.context.weights is not None:
            rule = self.trainer.rule
            start, _ = _learned.load(type(rule), type(rule.settings), self.context.weights)
            rule.load_state_dict(start.state_dict())
        every = self.row.validate_every or self.study.validate_every
        # Each iteration runs before a save, so that even the shortest time slice makes progress.
        while not self.trainer.done and self.state["stale"] < self.study.patience:
            before = time.process_time()
            self.state["since"].append(self.trainer.iterate())
            self._average()
            self.state["cpu_seconds"] += time.process_time() - before
            if self.trainer.iteration % every == 0 or self.trainer.done:
                self._validate()
            self.context.progress(
                self.trainer.iteration,
                self.trainer.settings.iterations,
                f"{self.batch.name} {self.measure} {self.state['best']:.4f}",
            )
            self.context.checkpoint.step(self._saved)

    def save(self, path: Path) -> None:
        """Write the rule with the best weights, and its card."""
        best = deepcopy(self.trainer.rule)
        best.load_state_dict(self.state["weights"])
        _learned.save(best, path, self.card())

    def rows(self) -> pd.DataFrame:
        """Return the rows of the meta-training; iterations may report different metrics."""
        history = self.state["history"]
        parts = []
        for metric in dict.fromkeys(key for validated in history for key in validated if key != "step"):
            having = [each for each in history if metric in each]
            values, steps = [each[metric] for each in having], [each["step"] for each in having]
            parts.append(metric_rows(self.run, np.nan, metric, values, seed=self.run.repetition, step=steps))
        return joined(parts)

    def card(self) -> dict[str, object]:
        """Return the model card of the weights."""
        history = self.state["history"]
        best = min(history, key=lambda validated: validated[self.measure])
        thin = history[:: max(1, len(history) // 64)]
        return {
            "method": self.row.method,
            "trained_on": self.images.description,
            "started_from": self.row.start,
            "iterations": best["step"],
            "iterations_in_all": self.trainer.iteration,
            "cpu_hours": round(self.state["cpu_seconds"] / 3600, 3),
            "device": self.context.device.type,
            "seed": self.run.seed,
            "config_hash": self.batch.settings,
            "stream": {"seed": self.run.seed, "purpose": "learning"},
            "validation": {key: round(best[key], 4) for key in best if key in ("area", "final") or "score" in key},
            "validation_settings": {name: each.model_dump(mode="json") for name, each in self.settings.items()},
            "validation_curve": [[each["step"], round(each[self.measure], 4)] for each in thin],
            "averaging": self.study.averaging,
            **{name: part.model_dump(mode="json") for name, part in self.recipe.used(self.row.method).items()},
        }

    @property
    def measure(self) -> str:
        """The metric that decides which weights are best."""
        return "score" if self.study.validation else "area"

    @property
    def settings(self) -> Mapping[str, ObjectiveConfig]:
        """The settings in which rules are validated, by name."""
        return self.study.validation or {"standard": self.study.objective}

    def _saved(self) -> dict[str, Any]:
        """Return what `learn` continues from."""
        return {"state": self.state, "trainer": self.trainer.state_dict(), "averaged": self.averaged.state_dict()}

    @torch.no_grad()
    def _average(self) -> None:
        """Update the averaged weights: a plain mean in the first iterations, then an exponential one."""
        keep = min(self.study.averaging, 1 - 1 / self.trainer.iteration)
        for mean, now in zip(self.averaged.parameters(), self.trainer.rule.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)

    def _validate(self) -> None:
        """Validate the rule, also with averaged weights, and keep the better ones if they are the best so far."""
        rules = [self.trainer.rule, self.averaged] if self.study.averaging else [self.trainer.rule]
        found = [self._scores(rule) for rule in rules]
        best = min(range(len(rules)), key=lambda i: found[i][self.measure])
        validated = {"step": self.trainer.iteration, **found[best], **_means(self.state["since"])}
        self.state["history"].append(validated)
        self.state["since"] = []
        self.state["stale"] += 1
        if validated[self.measure] < self.state["best"] or self.state["weights"] is None:
            weights: dict[str, Tensor] = rules[best].state_dict()
            kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.state.update(best=validated[self.measure], stale=0, weights=kept)
            if self.context.policy_so_far is not None:
                self.save(self.context.policy_so_far)

    def _scores(self, rule: StepRule) -> dict[str, float]:
        """Return the means over all validation problems, and with several settings their scores and the worst one."""
        measured = {name: self._measure(rule, name) for name in self.settings}
        means = Measured(*np.mean(list(measured.values()), axis=0).tolist())._asdict()
        if not self.study.validation:
            return means
        if self.state["references"] is None:
            self.state["references"] = {name: self._reference(name) for name in self.settings}
        scores = {name: found.sum / self.state["references"][name] for name, found in measured.items()}
        return {**means, "score": max(scores.values()), **{f"score-{name}": score for name, score in scores.items()}}

    def _reference(self, name: str) -> float:
        """Return the sum of both measures that AdaGrad reaches in a setting at the best of its rates."""
        return min(self._measure(AdaGrad(rate), name).sum for rate in self.study.reference_rates)

    def _measure(self, rule: StepRule, name: str) -> Measured:
        """Return the means over the validation problems of a setting."""
        steps = self.settings[name].steps
        record = sorted({round(steps * i / (POINTS - 1)) for i in range(POINTS)})
        curve = rollouts.roll_out(rule, self.validation[name], record).nan_to_num(nan=np.inf, posinf=np.inf)
        return Measured(float(rollouts.area(curve, record).mean()), float(curve[-1].mean()))

    def _trainer(self) -> Trainer:
        method, recipe = self.row.method, self.recipe
        rule: Any = StepPolicySettings(**recipe.policy.model_dump())
        if method == "unrolled":
            rule = L2LSettings(**recipe.l2l.model_dump())
        return METHODS[method](
            getattr(recipe, method), recipe.objective.steps, rule, self._objectives, self.run.seed, self.context.device
        )

    def _objectives(self, iteration: int) -> Perceptrons:
        """Draw the objectives of an iteration; rules that use equally many get the same ones."""
        objective = self.recipe.objective
        seeds = [derive_seed(self.run.seed, "learning", iteration, i) for i in range(objective.problems)]
        drawn = data.objectives(self.images.train, self.images.classes, objective, objective.examples, seeds)
        return data.varied(drawn, objective)

    def _validation(self) -> dict[str, Perceptrons]:
        """Draw the fixed validation objectives of each setting, which all rules of the study share."""
        images, examples = self.images, self.study.objective.examples
        seeds = [derive_seed(self.context.seed, "meta-validation", i) for i in range(self.study.validation_problems)]

        def draw(setting: ObjectiveConfig, noise: float) -> Perceptrons:
            drawn = data.objectives(images.validation, images.classes, setting, examples, seeds)
            return data.with_label_noise(drawn, [noise] * len(seeds))

        if not self.study.validation:
            return {"standard": draw(self.study.objective, 0.0)}
        return {name: draw(setting, setting.label_noise) for name, setting in self.study.validation.items()}


def _means(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the reports that have it."""
    keys = dict.fromkeys(key for report in reports for key in report)
    return {key: float(np.mean([report[key] for report in reports if key in report])) for key in keys}
