"""Carries out one job: from its settings in the config to its files in the store."""

from __future__ import annotations

import importlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch
from filelock import FileLock

from optrepro import layout, provenance
from optrepro.config import Config
from optrepro.experiments import jobs
from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context, empty_results
from optrepro.experiments.base.progress import Progress
from optrepro.experiments.jobs import Job
from optrepro.store import Entry, Store
from optrepro.studies.base import datasets_of


def carry_out(
    config: Config, job: Job, store: Store, time_slice: float | None = None, progress: Progress | None = None
) -> Entry:
    """Run a job, unless the store has its results already, and put its metrics and its record there.

    A job that stopped early resumes from its state. If two processes are given the same job, the second one waits for
    the first and takes its results.

    Args:
        config: the config of the scale.
        job: the job.
        store: where the results go.
        time_slice: seconds after which the job saves its state and exits, to be restarted.
        progress: called with (done, total, label).

    Raises: whatever the study's runs raise. A diverged run is recorded and raises nothing.
    """
    folder = layout.state(job.key)
    layout.lock(job.key).parent.mkdir(parents=True, exist_ok=True)
    with FileLock(layout.lock(job.key)):  # the system frees it when the process ends, however it ends
        if (entry := store.get(job.key)) is not None:
            return entry
        folder.mkdir(parents=True, exist_ok=True)
        files = _run(config, job, folder, time_slice, progress)
        entry = store.put(job.key, files)
        shutil.rmtree(folder)  # only after the results are in the store
        return entry


def _run(config: Config, job: Job, folder: Path, time_slice: float | None, progress: Progress | None) -> list[Path]:
    """Run a job in a folder; return the files that it leaves there."""
    batch, study = job.batch, config.studies[job.batch.study]
    attempts = _count_attempt(folder)
    metrics, record, *weights = (folder / name for name in jobs.files_of(config, batch))
    datasets = datasets_of(study, config)
    dataset = datasets.pop("", None)  # the key "" stands for a data set that all workloads share
    device = torch.device(job.device)
    context = Context(
        seed=config.seed,
        device=device,
        checkpoint=Checkpoint(folder / "checkpoint.pt", time_slice=time_slice),
        # Without a shared data set, the batch is named after its workload, which has its own.
        dataset=dataset or datasets.get(batch.name.partition(".")[0]),
        datasets=datasets,
        studies=config.studies,
        earlier=tidy.read(job.earlier) if job.earlier else empty_results(),
        weights=job.weights,
        policy=weights[0] if weights else None,
    )
    if progress is not None:
        context = replace(context, progress=progress)
    started = time.monotonic()
    tidy.write(importlib.import_module(study.runner).run(study, batch, context), metrics)
    provenance.write_sidecar(
        record,
        outputs=[metrics, *weights],
        inputs=job.inputs,
        batch="/".join(batch.address),
        key=job.key,
        config=batch.settings,
        source=job.source,
        git=provenance.git_state(),
        seed=config.seed,
        seeds={run.id: run.seed for run in batch.runs},
        dataset=datasets or dataset,
        hub_models=study.hub_models(batch, config),
        data=job.data,
        environment=provenance.environment(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        attempts=attempts,
        wall_seconds=round(time.monotonic() - started, 2),
        peak_memory_mib=round(provenance.peak_memory_mib(), 1),
    )
    return [metrics, record, *weights]


def _count_attempt(folder: Path) -> int:
    counter = folder / "attempts"
    try:
        attempts = int(counter.read_text()) + 1
    except (FileNotFoundError, ValueError):  # none, or damaged: then what follows counts anew
        attempts = 1
    counter.write_text(str(attempts))
    return attempts
