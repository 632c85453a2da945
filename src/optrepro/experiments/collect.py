"""Gathers a study's batches into one tidy table, with the facts that describe the study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optrepro import provenance, runtable
from optrepro.config import Config, FineTuningStudy, ImageData, ObjectivesStudy, Recipe, Study, Task
from optrepro.experiments.base import data, tidy
from optrepro.experiments.training import tasks
from optrepro.problems.data import archives
from optrepro.runtable import MissingRunsError


def collect(config: Config, study_id: str, metrics: Sequence[Path], out: Path) -> None:
    """Gather a study's runs into one tidy table `out`, with the study's facts beside it as JSON.

    Raises: MissingRunsError in a strict scale if a run of the run table is missing; ValueError for a run that is not
    in it.
    """
    study = config.studies[study_id]
    results = tidy.read(metrics)
    expected = [run.id for batch in runtable.batches(config, study_id) for run in batch.runs]
    present = set(results.run)
    if strangers := sorted(present - set(expected)) if expected else []:
        raise ValueError(f"{study_id}: results of runs that are not in the run table, such as {strangers[0]}")
    missing = [run for run in expected if run not in present]
    if missing and config.strict:
        few = ", ".join(missing[:5])
        raise MissingRunsError(f"{study_id}: {len(missing)} of {len(expected)} runs left no result, such as {few}")
    tidy.write(results, out)
    facts = {
        "study": study_id,
        "scale": config.scale,
        "settings": study.model_dump(mode="json", by_alias=True),
        **_data_facts(study, config),
        **({"criterion": study.criterion} if isinstance(study, Recipe) else {}),
        "expected_runs": len(expected),
        "missing": missing,
    }
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    outputs = [out, out.with_suffix(".json")]
    provenance.write_sidecar(out.with_suffix(".sidecar.json"), outputs=outputs, inputs=metrics)


def _data_facts(study: Study, config: Config) -> dict[str, Any]:
    if isinstance(study, ObjectivesStudy):
        return _facts_of_several(study, config)
    if readers := runtable.tasks_of(study, config):
        return _facts_of_workloads(readers, config)
    task = runtable.task_of(study)
    if task is None:
        return {"dataset": None, "data": []}
    tokenizer = tasks.tokenizer_of(study) if isinstance(study, FineTuningStudy) else None
    dataset = tasks.load(task, runtable.dataset_of(task, config), config.seed, "cpu", tokenizer)
    return {"dataset": dataset.description, "data": [asdict(record) for record in dataset.provenance]}


def _facts_of_workloads(readers: Mapping[str, ImageData | Task], config: Config) -> dict[str, Any]:
    names = {workload: runtable.dataset_of(task, config) for workload, task in readers.items()}
    loaded = {workload: tasks.load(task, names[workload], config.seed, "cpu") for workload, task in readers.items()}
    return {
        "dataset": ", ".join(dict.fromkeys(dataset.description for dataset in loaded.values())),
        "data": [asdict(record) for record in dict.fromkeys(r for each in loaded.values() for r in each.provenance)],
        "datasets": {workload: archives.archive(name).title for workload, name in names.items()},
    }


def _facts_of_several(study: ObjectivesStudy, config: Config) -> dict[str, Any]:
    titles = {name: archives.archive(name).title for name in runtable.data_of(study, config)}
    records = [asdict(record) for name in titles for record in data.images(name, "cpu").provenance]
    return {
        "dataset": f"{', '.join(titles.values())} (at most {study.examples:,} random training images in a run)",
        "data": records,
        "datasets": {workload: titles[name] for workload, name in runtable.datasets_of(study, config).items()},
    }
