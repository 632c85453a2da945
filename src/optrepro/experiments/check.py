"""Tries what a config names before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from optrepro import runtable
from optrepro.config import (
    Comparison,
    Config,
    ConfigError,
    FineTuningStudy,
    ImageData,
    LanguageTask,
    LearnerStudy,
    ObjectivesStudy,
    OptimizerConfig,
    OverheadStudy,
    PolicyStudy,
    PretrainingStudy,
    Study,
    Task,
    TrainingStudy,
    TransferStudy,
)
from optrepro.experiments.base import factory
from optrepro.experiments.descent import derivative_free, transfer
from optrepro.experiments.probes import overhead
from optrepro.optimizers._learned import LearnedOptimizer
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.optimizers.policy import Policy, PolicySettings
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.data import archives
from optrepro.problems.functions import shifted, vlse
from optrepro.problems.networks import classic


def check(config: Config) -> None:
    """Try what the config names before anything runs: optimizers on a parameter, networks, functions, data sets.

    Raises: ConfigError with one line for each thing that is wrong.
    """
    problems = []
    for study_id, study in config.studies.items():
        for key, attempt in _attempts(study, config):
            try:
                attempt()
            except (ValueError, TypeError, FileNotFoundError) as error:
                problems.append(f"studies.{study_id}.{key}: {error}")
    if problems:
        raise ConfigError("\n".join(problems))


def _attempts(study: Study, config: Config) -> list[tuple[str, Any]]:
    """Pairs of a key and a function that raises if what stands there cannot be used."""
    attempts: list[tuple[str, Any]] = []
    if isinstance(study, ImageData):
        attempts.append(("dataset", lambda: runtable.dataset_of(study, config)))
    if hasattr(study, "functions"):
        attempts += [("functions", lambda name=name: vlse.get(name)) for name in study.functions]
    if isinstance(study, TrainingStudy):
        build = lambda: classic.build(study.network, (1, 32, 32), 10, seed=0, **study.network_settings)  # noqa: E731
        attempts.append(("network", build))
    if isinstance(study, FineTuningStudy):
        attempts.append(("task", lambda: _try_task(study.task, config)))
    if isinstance(study, PretrainingStudy):
        backbones = study.backbones.items()
        attempts += [(f"backbones.{name}.task", lambda row=row: _try_task(row.task, config)) for name, row in backbones]
    if isinstance(study, OverheadStudy):
        attempts += _overhead_attempts(study)
    if isinstance(study, PolicyStudy):
        attempts += [(f"policies.{name}", lambda name=name: _try_network(study, name)) for name in study.policies]
    if isinstance(study, LearnerStudy):
        attempts += [(f"learners.{name}", lambda name=name: _try_rule(study, name)) for name in study.learners]
    if isinstance(study, TransferStudy):
        attempts += _transfer_attempts(study)
    if isinstance(study, ObjectivesStudy):
        places = {"tuning": study.tuning, **{f"panels.{name}": panel for name, panel in study.panels.items()}}
        attempts += [(f"{k}.dataset", lambda panel=p: runtable.dataset_of(panel, config)) for k, p in places.items()]
    if isinstance(study, Comparison):
        attempts += [(f"optimizers.{name}", lambda name=name: _try_row(study, name)) for name in study.optimizers]
    return attempts


def _transfer_attempts(study: TransferStudy) -> list[tuple[str, Any]]:
    shifts = {name: c for name, c in study.collections.items() if c.source not in ("prior", "vlse")}
    return [
        *((f"references.{name}", lambda row=row: _try_reference(row.method)) for name, row in study.references.items()),
        *((f"collections.{name}", lambda c=c: shifted.get(c.source, 0, 1, c.dim)) for name, c in shifts.items()),
    ]


def _overhead_attempts(study: OverheadStudy) -> list[tuple[str, Any]]:
    timed = [(name, key, row) for name, family in study.families.items() for key, row in overhead.timed(family).items()]
    return [
        *((f"networks.{name}", lambda each=each: overhead.build(each)) for name, each in study.networks.items()),
        *(
            (f"families.{name}.optimizers.{key}", lambda row=row: factory.make(row, [torch.zeros(2)], 1.0))
            for name, key, row in timed
        ),
    ]


def _try_task(task: Task, config: Config) -> None:
    name, wanted = runtable.dataset_of(task, config), "text" if isinstance(task, LanguageTask) else "image"
    if archives.archive(name).modality != wanted:
        there = [name for name, archive in archives.ARCHIVES.items() if archive.modality == wanted]
        raise ConfigError(f"{name!r} does not fit the modality {task.modality}; there are {there}")


def _try_reference(method: str) -> None:
    if method not in derivative_free.METHODS:
        raise ConfigError(f"method = {method!r} is unknown; there are {sorted(derivative_free.METHODS)}")


def _try_network(study: PolicyStudy, name: str) -> None:
    Policy(PolicySettings(**study.entry(name)[1].model_dump()))


def _try_rule(study: LearnerStudy, name: str) -> None:
    recipe = study.recipe(name)
    if study.learners[name].method == "unrolled":
        L2LPolicy(L2LSettings(**recipe.l2l.model_dump()))
    else:
        StepPolicy(StepPolicySettings(**recipe.policy.model_dump()))


def _try_row(study: Comparison, name: str) -> None:
    row = study.entry(name)
    if isinstance(study, TransferStudy) and row.group == "policy":
        _try_policy(row)
    elif isinstance(study, ObjectivesStudy) and row.group == "policy":
        _try_learned(row)
    else:
        _try_optimizer(study, name)


def _try_policy(row: OptimizerConfig) -> None:
    if row.trained is not None:
        transfer.require_pop(row)  # its weights are not there yet
    else:
        transfer.policy_of(row)


def _try_learned(row: OptimizerConfig) -> None:
    if not issubclass(factory.optimizer_class(row.class_), LearnedOptimizer):
        raise ConfigError(f"class = {row.class_!r} is not allowed: rows of the group policy are learned optimizers")
    if row.trained is None:  # else its weights are not there yet
        factory.make(row, [torch.zeros(2)], 1.0)


def _try_optimizer(study: Comparison, name: str) -> None:
    """Make an optimizer for one parameter, with as many shares as the row has candidates whose shares it repeats."""

    def make(name: str, shares: Sequence[float] | None = None) -> torch.optim.Optimizer:
        return factory.make(study.entry(name), [torch.zeros(2)], study.grid(name)[0], shares=shares)

    giver = study.optimizers[name].shares_of
    if giver is None:
        make(name)
    elif selection := getattr(make(giver), "selection", None):
        make(name, [1.0] * selection["counts"].shape[-1])
    else:
        raise ConfigError(f"shares_of = {giver!r} is not allowed: that row chooses among no candidates")
