"""Jobs: a batch of runs from the config to its files, and a study's batches gathered into one tidy table."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from optrepro import layout, provenance, runtable
from optrepro.config import Config, ConfigError, DiagnosticsStudy, FineTuningStudy, MetaTraining, Study
from optrepro.experiments import tidy
from optrepro.experiments.checkpoint import Checkpoint
from optrepro.experiments.context import Context, Progress, empty_results
from optrepro.problems import archives
from optrepro.runtable import Batch


def run_batch(
    config: Config,
    batch: Batch,
    out: Path,
    earlier: Sequence[Path] = (),
    weights: Path | None = None,
    time_slice: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Carry out a batch of runs: write its tidy metrics to `out` and the sidecar ``run.json`` beside it.

    Args:
        config: the config of the scale.
        batch: runs from `runtable.batches`.
        out: the parquet file.
        earlier: metrics files of the batches that this one needs.
        weights: file of the trained policy that this batch uses.
        time_slice: seconds after which the job saves its state and stops, to be started again.
        progress: called with (done, total, what).

    Raises: what the study's runs raise; a diverged run raises nothing, it is recorded.
    """
    study = config.studies[batch.study]
    task = runtable.task_of(study)
    datasets = runtable.datasets_of(study, config)
    own = datasets.get(batch.name.partition(".")[0])  # of the workload that the batch is named after
    dataset = own if task is None else runtable.dataset_of(task, config)
    files = _files(runtable.data_of(study, config))
    source = provenance.source_hash(*runtable.source_modules(config, batch))
    read = [*earlier, *([weights] if weights else [])]
    inputs = [provenance.file_hash(path) for path in [*read, *files.values()]]
    device = _device(config.device, study)
    key = runtable.fingerprint([batch.settings, [run.id for run in batch.runs], source, inputs, device.type])
    attempts = _count_attempt(layout.state(key).parent)
    checkpoint = Checkpoint(layout.state(key), time_slice=time_slice)
    context = Context(
        seed=config.seed,
        device=device,
        checkpoint=checkpoint,
        dataset=dataset,
        datasets=datasets,
        studies=config.studies,
        earlier=tidy.read(earlier) if earlier else empty_results(),
        weights=weights,
    )
    written = [out]
    if isinstance(study, MetaTraining):
        written.append(layout.policy_beside(out))
        context = replace(context, policy=written[-1])
        out.parent.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        context = replace(context, progress=progress)
    started = time.monotonic()
    results = importlib.import_module(f"optrepro.experiments.{study.kind}").run(study, batch, context)
    tidy.write(results, out)
    provenance.write_sidecar(
        out.parent / "run.json",
        outputs=written,
        inputs=read,
        config=batch.settings,
        source=source,
        git=provenance.git_state(),
        seed=config.seed,
        seeds={run.id: run.seed for run in batch.runs},
        dataset=datasets or dataset,
        hub_models=_hub_models(study, batch, config),
        data=dict(zip(files, inputs[len(read) :], strict=True)),
        environment=provenance.environment(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        attempts=attempts,
        wall_seconds=round(time.monotonic() - started, 2),
        peak_memory_mib=round(provenance.peak_memory_mib(), 1),
    )
    checkpoint.clear()  # not before the results are written
    _forget(layout.state(key).parent)


def _files(names: Sequence[str]) -> dict[str, Path]:
    """The files of data sets by their names, which begin with the data set's where there are several."""
    several = len(names) > 1
    return {
        f"{name}/{path.name}" if several else path.name: path
        for name in names
        if not archives.archive(name).embedded
        for path in archives.locate(name).files
    }


def _hub_models(study: Study, batch: Batch, config: Config) -> dict[str, str]:
    """The model of the hub that a batch fine-tunes, if any, with its revision."""
    if isinstance(study, DiagnosticsStudy):
        study = config.studies[study.workloads[batch.name].study]
    if isinstance(study, FineTuningStudy) and study.hub is not None and study.revision is not None:
        return {study.hub: study.revision}
    return {}


def _device(name: str, study: Study) -> torch.device:
    if name == "cuda" and not getattr(study, "gpu", False):
        name = "cpu"  # such a job asks the cluster for no GPU, so it may land where there is none
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but torch finds no GPU here; use device=auto or device=cpu")
    return torch.device(name)


def _count_attempt(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    counter = folder / "attempts"
    attempts = int(counter.read_text()) + 1 if counter.exists() else 1
    counter.write_text(str(attempts))
    return attempts


def _forget(folder: Path) -> None:
    (folder / "attempts").unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()
