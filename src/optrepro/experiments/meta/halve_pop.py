"""Successive halving: trains candidates to the end of a rung, keeps the better half, and lets those go on.

Source: K. Jamieson and A. Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, AISTATS
2016. Rungs by powers of two, and the best validation score so far as the criterion, are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Row
from optrepro.experiments.meta import train_pop
from optrepro.studies.base import Batch, Scale
from optrepro.studies.halving import HalvingStudy

State = dict[str, Any]


def run(study: HalvingStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Train candidates rung by rung. Returns tidy rows.

    - The validation rows of each candidate are those of `train_pop.run`, as far as it was trained.
    - At the end of each rung that a candidate reached, with the iteration as `step`: ``rung_score``, its best
      validation score so far, and ``kept``, whether it went on, or at the last rung whether it is the best.
    """
    trainings, ends = study.trainings(), study.ends()
    with context.checkpoint.listening():
        state: State = context.checkpoint.load() or {
            "alive": list(trainings.policies),
            "reached": {},  # by candidate, the end of the last rung that it was trained to
            "trained": {},
            "rungs": [],
        }
        for rung in range(len(state["rungs"]), len(ends)):
            for name in state["alive"]:
                if state["reached"].get(name) != ends[rung]:
                    state["trained"][name] = _trained(study, batch, context, state, name, ends[rung])
                    state["reached"][name] = ends[rung]
                    context.checkpoint.step(lambda: state)
            scores = {name: state["trained"][name]["training"]["best"] for name in state["alive"]}
            state["alive"] = best_half(scores) if rung < len(ends) - 1 else best_half(scores)[:1]
            state["rungs"].append({"end": ends[rung], "scores": scores, "kept": state["alive"]})
    return tidy.frame(_rows(batch, state))


def prepare(study: HalvingStudy, batches: Sequence[Batch], scale: Scale) -> None:
    """Sample the validation functions."""
    train_pop.prepare(study.trainings(), batches, scale)


def attempts(study: HalvingStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield attempts to build the network of every candidate."""
    return train_pop.attempts(study.trainings())


def best_half(scores: dict[str, float]) -> list[str]:
    """The better half of the candidates, rounded up, in their order; of equal ones the first."""
    ranked = sorted(scores, key=lambda name: -scores[name])[: (len(scores) + 1) // 2]
    return [name for name in scores if name in ranked]


class _Reached(Exception):
    """A candidate is at the end of its rung; the argument is the state of its training."""


class _UntilEnd(Checkpoint):
    """The checkpoint of a candidate's training: saves the state of all, and ends the training with its rung."""

    def __init__(self, whole: Checkpoint, wrap: Callable[[State], State], end: int):
        super().__init__(None)
        self.whole, self.wrap, self.end = whole, wrap, end

    def step(self, state: Callable[[], State]) -> None:
        """Stop at the end of the rung, or save if a save is due."""
        mine = state()
        if mine["training"]["trainer"]["iteration"] >= self.end:
            raise _Reached(mine)
        self.whole.step(lambda: self.wrap(mine))


def _trained(study: HalvingStudy, batch: Batch, context: Context, state: State, name: str, end: int) -> State:
    """The state of a candidate's training at the end of a rung, from where it stopped."""

    def wrap(mine: State) -> State:
        return {**state, "trained": {**state["trained"], name: mine}}

    until_end = replace(context, checkpoint=_UntilEnd(context.checkpoint, wrap, end))
    try:
        _training(study, batch, until_end, name).run(state["trained"].get(name) or {"done": []})
    except _Reached as reached:
        found: State = reached.args[0]
        return found
    raise AssertionError(f"{name} ended before its rung")


def _training(study: HalvingStudy, batch: Batch, context: Context, name: str) -> train_pop._Training:
    own = replace(batch, optimizer=name, runs=tuple(run for run in batch.runs if run.optimizer == name))
    return train_pop._Training(study.trainings(), own, context, 0)


def _rows(batch: Batch, state: State) -> Iterator[Row]:
    for run in batch.runs:
        head = (run.id, run.study, run.workload, run.optimizer, run.role, float("nan"), 0)
        for validated in state["trained"][run.optimizer]["training"]["history"]:
            for metric in (name for name in validated if name != "step"):
                yield Row(*head, int(validated["step"]), metric, validated[metric])
        for rung in (each for each in state["rungs"] if run.optimizer in each["scores"]):
            yield Row(*head, rung["end"], "rung_score", rung["scores"][run.optimizer])
            yield Row(*head, rung["end"], "kept", float(run.optimizer in rung["kept"]))
