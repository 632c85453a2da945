"""Meta-training of step rules: learned on new objectives in each iteration, watched on fixed ones of other images."""

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

POINTS = 41  # of the curve whose mean is the score of a validation


class Trainer(Protocol):
    """A way to learn a rule: each iteration takes new objectives, and reports numbers."""

    settings: Any
    rule: Any
    iteration: int

    @property
    def done(self) -> bool:
        """Whether the learning has its length."""
        ...

    def iterate(self) -> dict[str, float]:
        """One iteration; what it reports."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        ...


METHODS: dict[str, Callable[..., Trainer]] = {
    "imitation": imitation.Trainer,
    "mirror": mirror_descent.Trainer,
    "bregman": guided_policy_search.Trainer,
    "unrolled": unrolled.Trainer,
}


def run(study: LearnerStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Learn a rule and write the weights of its best validation to `context.policy`; tidy rows.

    With `step` the number of iterations: ``area``, mean over the validation problems of the mean true objective along
    the trajectory, the lowest of which decides; ``final``, the mean objective at its end; and means over the iterations
    since the last validation of what the trainer reports.
    """
    assert context.policy is not None
    job = _Learning(study, batch, context)
    with context.checkpoint.listening():
        job.learn()
    _learned.save(job.best_rule(), context.policy, job.card())
    return job.rows()


def attempts(study: LearnerStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Try to build the network of every rule."""
    for name, row in study.learners.items():
        recipe = study.recipe(name)
        make: Callable[[], object] = partial(StepPolicy, StepPolicySettings(**recipe.policy.model_dump()))
        if row.method == "unrolled":
            make = partial(L2LPolicy, L2LSettings(**recipe.l2l.model_dump()))
        yield f"learners.{name}", make


class _Learning:
    """The learning of one rule."""

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
        """Learn to the end, or until validation stops improving, from where the checkpoint says."""
        if (saved := self.context.checkpoint.load()) is not None:
            self.state = saved["state"]
            self.trainer.load_state_dict(saved["trainer"])
        elif self.context.weights is not None:
            rule = self.trainer.rule
            start, _ = _learned.load(type(rule), type(rule.settings), self.context.weights)
            rule.load_state_dict(start.state_dict())
        every = self.row.validate_every or self.study.validate_every
        # An iteration comes before the checkpoint, so that the shortest time slice gets somewhere.
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
        """The rule with the weights that are kept."""
        self.trainer.rule.load_state_dict(self.state["weights"])
        return cast(nn.Module, self.trainer.rule)

    def rows(self) -> pd.DataFrame:
        """Rows of the learning; an iteration need not report what others do."""
        history = self.state["history"]
        parts = []
        for metric in dict.fromkeys(key for told in history for key in told if key != "step"):
            told = [each for each in history if metric in each]
            values, steps = [each[metric] for each in told], [each["step"] for each in told]
            parts.append(metric_rows(self.run, np.nan, metric, values, seed=self.run.repetition, step=steps))
        return pd.concat(parts, ignore_index=True)

    def card(self) -> dict[str, object]:
        """What people should know who use the weights."""
        best = min(self.state["history"], key=lambda told: told["area"])
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
        """Take the rule's measure, and keep its weights if they are the best so far."""
        area, final = self._measure()
        told = {"step": self.trainer.iteration, "area": area, "final": final, **_means(self.state["since"])}
        self.state["history"].append(told)
        self.state["since"] = []
        self.state["stale"] += 1
        if area < self.state["best"] or self.state["weights"] is None:
            weights: dict[str, Tensor] = self.trainer.rule.state_dict()
            kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.state.update(best=area, stale=0, weights=kept)

    def _measure(self) -> tuple[float, float]:
        """Means over the validation problems of the mean objective along the trajectory, and at its end."""
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
        """The objectives of an iteration; the same for all rules of the study, if they have as many."""
        objective = self.recipe.objective
        seeds = [derive_seed(self.run.seed, "learning", iteration, i) for i in range(objective.problems)]
        return data.objectives(self.images.train, self.images.classes, objective, objective.examples, seeds)

    def _validation(self) -> Perceptrons:
        """The fixed objectives, which are the study's for every row."""
        objective, images = self.study.objective, self.images
        seeds = [derive_seed(self.context.seed, "meta-validation", i) for i in range(self.study.validation_problems)]
        return data.objectives(images.validation, images.classes, objective, objective.examples, seeds)


def _means(reports: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each number over the reports that have it."""
    keys = dict.fromkeys(key for report in reports for key in report)
    return {key: float(np.mean([report[key] for report in reports if key in report])) for key in keys}
