"""Runs one batch: from its settings in the config to its result files."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from optrepro import layout, provenance, runtable
from optrepro.config import Config, ConfigError
from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.experiments.base.context import Context, Progress, empty_results
from optrepro.problems.data import archives
from optrepro.seeds import fingerprint
from optrepro.studies.base import Batch, Study, data_of, datasets_of


def run_batch(
    config: Config,
    batch: Batch,
    out: Path,
    earlier: Sequence[Path] = (),
    weights: Path | None = None,
    time_slice: float | None = None,
    progress: Progress | None = None,
) -> None:
    """Run a batch, and write its tidy metrics to `out` and the sidecar ``run.json`` beside it.

    Args:
        config: the config of the scale.
        batch: a batch from `runtable.batches`.
        out: path of the parquet file.
        earlier: metrics files of the batches that this one needs.
        weights: file of the trained policy that this batch uses.
        time_slice: seconds after which the job saves its state and exits, to be restarted.
        progress: called with (done, total, label).

    Raises: whatever the study's runs raise. A diverged run is recorded and raises nothing.
    """
    study = config.studies[batch.study]
    datasets = datasets_of(study, config)
    dataset = datasets.pop("", None)  # the key "" stands for a data set that all workloads share
    files = _files(data_of(study, config))
    source = provenance.source_hash(*runtable.source_modules(config, batch))
    read = [*earlier, *([weights] if weights else [])]
    inputs = [provenance.file_hash(path) for path in [*read, *files.values()]]
    device = _device(config.device, study)
    key = fingerprint([batch.settings, [run.id for run in batch.runs], source, inputs, device.type])
    attempts = _count_attempt(layout.state(key).parent)
    checkpoint = Checkpoint(layout.state(key), time_slice=time_slice)
    context = Context(
        seed=config.seed,
        device=device,
        checkpoint=checkpoint,
        # Without a shared data set, the batch is named after its workload, which has its own.
        dataset=dataset or datasets.get(batch.name.partition(".")[0]),
        datasets=datasets,
        studies=config.studies,
        earlier=tidy.read(earlier) if earlier else empty_results(),
        weights=weights,
    )
    written = [out]
    if study.trained_rows():
        written.append(layout.weights_beside(out))
        context = replace(context, policy=written[-1])
        out.parent.mkdir(parents=True, exist_ok=True)
    if progress is not None:
        context = replace(context, progress=progress)
    started = time.monotonic()
    results = importlib.import_module(study.runner).run(study, batch, context)
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
        hub_models=study.hub_models(batch, config),
        data=dict(zip(files, inputs[len(read) :], strict=True)),
        environment=provenance.environment(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        attempts=attempts,
        wall_seconds=round(time.monotonic() - started, 2),
        peak_memory_mib=round(provenance.peak_memory_mib(), 1),
    )
    checkpoint.clear()  # only after the results are written
    _forget(layout.state(key).parent)


def _files(names: Sequence[str]) -> dict[str, Path]:
    """Files of the data sets by file name, with the data set's name in front if there are several."""
    several = len(names) > 1
    return {
        f"{name}/{path.name}" if several else path.name: path
        for name in names
        if not archives.archive(name).embedded
        for path in archives.locate(name).files
    }


def _device(name: str, study: Study) -> torch.device:
    if name == "cuda" and not study.wants_gpu:
        name = "cpu"  # such a job requests no GPU from the cluster, so its node may have none
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda' is not allowed here, because torch finds no GPU; use 'auto' or 'cpu'")
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
