"""Meta-trains step rules on new objectives in each iteration, with validation on fixed objectives of other images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from torch import Tensor, nn

from optrepro.experiments.base import data
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import metric_rows
from optrepro.metalearning.lto import guided_policy_search, imitation, mirror_descent, rollouts, unrolled
from optrepro.optimizers import _learned
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.networks.perceptrons import Perceptrons
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.learner import LearnerStudy

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

    `step` is the number of iterations. ``area``, the mean true objective along the trajectories of the validation
    problems, decides which weights are best; ``final`` is the mean objective at their ends. The trainer's metrics
    appear as means since the previous validation.
    """
    assert context.policy is not None
    job = _Learning(study, batch, context)
    with context.checkpoint.listening():
        job.learn()
    _learned.save(job.best_rule(), context.policy, job.card())
    return job.rows()


def attempts(study: LearnerStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield attempts to build the network of every rule."""
    for name, row in study.learners.items():
        recipe = study.recipe(name)
        make: Callable[[], object] = partial(StepPolicy, StepPolicySettings(**recipe.policy.model_dump()))
        if row.method == "unrolled":
            make = partial(L2LPolicy, L2LSettings(**recipe.l2l.model_dump()))
        yield f"learners.{name}", make


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
        self.state: dict[str, Any] = {"best": np.inf, "stale": 0, "weights": None, "history": [], "since": []}

    def learn(self) -> None:
        """Learn from the checkpoint until the last iteration, or until validation stops improving."""
        if (saved := self.context.checkpoint.load()) is not None:
            self.state = saved["state"]
            self.trainer.load_state_dict(saved["trainer"])
        elif self.context.weights is not None:
            rule = self.trainer.rule
            start, _ = _learned.load(type(rule), type(rule.settings), self.context.weights)
            rule.load_state_dict(start.state_dict())
        every = self.row.validate_every or self.study.validate_every
        # Each iteration runs before a save, so that even the shortest time slice makes progress.
        while not self.trainer.done and self.state["stale"] < self.study.patience:
            self.state["since"].append(self.trainer.iterate())
            if self.trainer.iteration % every == 0 or self.trainer.done:
                self._validate()
            self.context.progress(
                self.trainer.iteration,
                self.trainer.settings.iterations,
                f"{self.batch.name} area {self.state['best']:.4f}",
            )
            self.context.checkpoint.step(lambda: {"state": self.state, "trainer": self.trainer.state_dict()})

    def best_rule(self) -> nn.Module:
        """Return the rule with the best weights."""
        self.trainer.rule.load_state_dict(self.state["weights"])
        return cast(nn.Module, self.trainer.rule)

    def rows(self) -> pd.DataFrame:
        """Return the rows of the meta-training; iterations may report different metrics."""
        history = self.state["history"]
        parts = []
        for metric in dict.fromkeys(key for validated in history for key in validated if key != "step"):
            having = [each for each in history if metric in each]
            values, steps = [each[metric] for each in having], [each["step"] for each in having]
            parts.append(metric_rows(self.run, np.nan, metric, values, seed=self.run.repetition, step=steps))
        return pd.concat(parts, ignore_index=True)

    def card(self) -> dict[str, object]:
        """Return the model card of the weights."""
        best = min(self.state["history"], key=lambda validated: validated["area"])
        return {
            "method": self.row.method,
            "trained_on": self.images.description,
            "started_from": self.row.start,
            "iterations": best["step"],
            "device": self.context.device.type,
            "seed": self.run.seed,
            "config_hash": self.batch.settings,
            "validation": {key: round(best[key], 4) for key in ("area", "final")},
            **self.recipe.used(self.row.method),
        }

    def _validate(self) -> None:
        """Validate the rule, and keep its weights if they are the best so far."""
        area, final = self._measure()
        validated = {"step": self.trainer.iteration, "area": area, "final": final, **_means(self.state["since"])}
        self.state["history"].append(validated)
        self.state["since"] = []
        self.state["stale"] += 1
        if area < self.state["best"] or self.state["weights"] is None:
            weights: dict[str, Tensor] = self.trainer.rule.state_dict()
            kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.state.update(best=area, stale=0, weights=kept)

    def _measure(self) -> tuple[float, float]:
        """Return the mean objective along the validation trajectories, and at their ends."""
        steps = self.study.objective.steps
        record = sorted({round(steps * i / (POINTS - 1)) for i in range(POINTS)})
        curve = rollouts.roll_out(self.trainer.rule, self.validation, record).nan_to_num(nan=np.inf, posinf=np.inf)
        return float(rollouts.area(curve, record).mean()), float(curve[-1].mean())

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
        return data.objectives(self.images.train, self.images.classes, objective, objective.examples, seeds)

    def _validation(self) -> Perceptrons:
        """Draw the fixed validation objectives, which all rules of the study share."""
        objective, images = self.study.objective, self.images
        seeds = [derive_seed(self.context.seed, "meta-validation", i) for i in range(self.study.validation_problems)]
        return data.objectives(images.validation, images.classes, objective, objective.examples, seeds)


def _means(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the reports that have it."""
    keys = dict.fromkeys(key for report in reports for key in report)
    return {key: float(np.mean([report[key] for report in reports if key in report])) for key in keys}
