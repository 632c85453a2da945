"""Collects a study's batches in one tidy table, with the facts that describe the study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from optrepro import provenance, runtable
from optrepro.config import Config
from optrepro.experiments.base import data, tidy
from optrepro.problems.data import archives
from optrepro.runtable import MissingRunsError
from optrepro.studies.base import Study, datasets_of


def collect(config: Config, study_id: str, metrics: Sequence[Path], out: Path) -> list[Path]:
    """Collect a study's runs in one tidy table `out`, and write the study's facts and a sidecar beside it.

    Returns: the files that were written.

    Raises: MissingRunsError at a strict scale if a run of the run table is missing; ValueError for a run that is not
    in the run table.
    """
    study = config.studies[study_id]
    results = tidy.read(metrics)
    expected = [run.id for batch in runtable.batches(config, study_id) for run in batch.runs]
    present = set(results.run)
    if unknown := sorted(present - set(expected)) if expected else []:
        raise ValueError(f"{study_id}: the results have runs that are not in the run table, such as {unknown[0]}")
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
        **study.facts(),
        "expected_runs": len(expected),
        "missing": missing,
    }
    out.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    outputs, sidecar = [out, out.with_suffix(".json")], out.with_suffix(".sidecar.json")
    provenance.write_sidecar(sidecar, outputs=outputs, inputs=metrics)
    return [*outputs, sidecar]


def _data_facts(study: Study, config: Config) -> dict[str, Any]:
    """Descriptions and files of the data sets, and their titles where each workload has its own."""
    names = datasets_of(study, config)
    if not names:
        return {"dataset": None, "data": []}
    runner = import_module(study.runner)
    load = partial(runner.load, study) if hasattr(runner, "load") else data.load
    described = {}  # sorted by data set, so that only one is in memory at a time
    for reading in sorted(study.readings(config), key=lambda reading: names[reading.workload]):
        dataset = load(reading.reader, names[reading.workload], config.seed, "cpu")
        described[reading.workload] = dataset.description, dataset.provenance
    loaded = [described[workload] for workload in names]
    titles = {workload: archives.archive(name).title for workload, name in names.items() if workload}
    descriptions = list(dict.fromkeys(description for description, _ in loaded))
    return {
        "dataset": study.data_in_words(list(dict.fromkeys(titles.values())), descriptions),
        "data": [asdict(record) for record in dict.fromkeys(record for _, records in loaded for record in records)],
        **({"datasets": titles} if titles else {}),
    }
