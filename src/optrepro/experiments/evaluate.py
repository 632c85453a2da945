"""Evaluates learned optimizers on collections of problems, and records each look at them: see `evaluations`."""

from __future__ import annotations

import inspect
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optrepro import evaluations, layout, parquet, provenance
from optrepro.config import Config, ConfigError
from optrepro.evaluations import Evaluation
from optrepro.experiments import work
from optrepro.experiments.jobs import Jobs
from optrepro.experiments.work import Report
from optrepro.problems.functions.outside import version
from optrepro.studies.transfer import TransferStudy


def evaluate(
    config: Config,
    studies: Sequence[str],
    workers: int = 1,
    seconds: float | None = None,
    again: bool = False,
    report: Report = print,
) -> list[Evaluation]:
    """Run studies of the kind transfer, and record which weights they looked at; return what the record says then.

    An evaluation is entered before its first run, so that nobody looks at a part of it in secret. It may be stopped and
    goes on with the next call.

    Args:
        config: the config of the scale.
        studies: names of studies.
        workers: number of jobs at the same time.
        seconds: time after which no job starts, and those that run save their state and stop.
        again: whether a study may be evaluated that was evaluated with other weights of the same policy.
        report: called with one line for each thing that happens.

    Raises: ConfigError if a study evaluates no policy, a package or trained weights are missing, the code is not
    committed, or a study was evaluated with other weights and `again` is not set.
    """
    ends = None if seconds is None else time.monotonic() + seconds
    planned = [_planned(config, study) for study in studies]
    entered = [evaluations.enter(each, again) for each in planned]
    return [_carry_out(config, each, workers, ends, report) for each in entered]


def _planned(config: Config, study_id: str) -> Evaluation:
    """The evaluation of a study as it would be entered. Raises: see `evaluate`."""
    study = config.studies[study_id]
    if not isinstance(study, TransferStudy):
        allowed = [name for name, each in config.studies.items() if isinstance(each, TransferStudy)]
        raise ConfigError(f"study = {study_id!r} is not allowed: it evaluates no policy on collections as {allowed} do")
    versions = {package: version(package) for package in study.packages()}
    if absent := [package for package, found in versions.items() if found is None]:
        raise ConfigError(f"{study_id} needs the package {absent[0]!r}, which is not installed")
    git = provenance.git_state()
    if git["dirty"]:
        raise ConfigError("src, config or workflow has changes; commit them first, because the record names a commit")
    return Evaluation(
        study=study_id,
        scale=config.scale,
        weights=_weights(config, study_id, study),
        collections={name: entry.model_dump(mode="json") for name, entry in study.collections.items()},
        packages={package: str(found) for package, found in versions.items()},
        commits=(str(git["commit"]),),
    )


def _weights(config: Config, study_id: str, study: TransferStudy) -> dict[str, str]:
    """SHA-256 of the weights of each learned row. Raises: ConfigError if some have not been trained."""
    found, hashes = Jobs(config), {}
    for name in (name for name, row in study.optimizers.items() if row.learned):
        batch = found.batch((study_id, name))
        job = found.job(batch)
        if job is None:
            raise ConfigError(
                f"{study_id}/{name} needs the weights of {study.optimizers[name].trained}; train it first"
            )
        hashes[name] = provenance.file_hash(job.weights or _shipped(study, name))
    return hashes


def _shipped(study: TransferStudy, name: str) -> Path:
    """The file of a learned row that no study trains: that of its setting `policy`, or of its class's own."""
    from optrepro.experiments.base.factory import optimizer_class
    from optrepro.optimizers._learned import find

    row = study.entry(name)
    default = inspect.signature(optimizer_class(row.class_)).parameters["policy"].default
    return find(row.settings.get("policy", default))


def _carry_out(config: Config, entered: Evaluation, workers: int, ends: float | None, report: Report) -> Evaluation:
    """Run what is left of an evaluation, and record its CPU time, and at the end the number of its problems."""
    before = _cpu_hours()
    complete = False
    try:
        left = None if ends is None else max(0.0, ends - time.monotonic())
        complete = entered.study in work.work(config, [entered.study], workers, left, report).collected
    finally:  # a piece that is stopped has cost time, too
        changes: dict[str, Any] = {
            "cpu_hours": round(entered.cpu_hours + _cpu_hours() - before, 5),
            "complete": complete,
        }
        if complete:
            changes["problems"] = _problems(layout.tidy(config.scale, entered.study), entered)
        entered = evaluations.update(entered, changes)
    return entered


def _problems(tidy: Path, entered: Evaluation) -> dict[str, int]:
    """The number of problems of each collection on which there are test runs; on the benchmark, of its functions."""
    runs = parquet.read(tidy)
    tested = runs[(runs.role == "test") & (runs.metric == "regret")][["workload", "seed"]].drop_duplicates()
    counts = {}
    for name, settings in entered.collections.items():
        benchmark = settings["source"] == "vlse"
        own = tested[tested.workload.str.startswith(f"{name}/") if benchmark else tested.workload == name]
        counts[name] = int(own.workload.nunique() if benchmark else len(own))
    return counts


def _cpu_hours() -> float:
    """CPU time of the processes that this one has started and waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) / 3600
