"""Tries what a config names before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from optrepro import runtable
from optrepro.config import Comparison, Config, ConfigError, ImageData, Study, TrainingStudy
from optrepro.experiments import instances
from optrepro.problems import networks, vlse


def check(config: Config) -> None:
    """Try what the config names before anything runs: every optimizer on a parameter, every network, every data set.

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
        build = lambda: networks.build(study.network, (1, 32, 32), 10, seed=0, **study.network_settings)  # noqa: E731
        attempts.append(("network", build))
    if isinstance(study, Comparison):
        attempts += [(f"optimizers.{name}", lambda name=name: _try_optimizer(study, name)) for name in study.optimizers]
    return attempts


def _try_optimizer(study: Comparison, name: str) -> None:
    """Make an optimizer for one parameter, with as many shares as the row has candidates whose shares it repeats."""

    def make(name: str, shares: Sequence[float] | None = None) -> torch.optim.Optimizer:
        return instances.make(study.entry(name), [torch.zeros(2)], study.grid(name)[0], shares=shares)

    giver = study.optimizers[name].shares_of
    if giver is None:
        make(name)
    elif selection := getattr(make(giver), "selection", None):
        make(name, [1.0] * selection["counts"].shape[-1])
    else:
        raise ConfigError(f"shares_of = {giver!r} is not allowed: that row chooses among no candidates")
