"""Jobs: a batch with the files that it reads, under a key of everything that determines its results. Without torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from optrepro import layout, provenance, runtable
from optrepro.config import Config, ConfigError
from optrepro.problems.data import archives
from optrepro.problems.functions.outside import version
from optrepro.seeds import fingerprint
from optrepro.store import Entry, Store
from optrepro.studies.base import Batch, Study, data_of

Address = tuple[str, str]  # study and name of a batch


@dataclass(frozen=True)
class Job:
    """A batch that can start, because everything that it reads is there.

    Attributes:
        batch: the batch.
        earlier: metrics of the batches that it needs.
        weights: file of the trained weights that it uses, if any.
        inputs: SHA-256 of these files, by their names relative to the batch's folder in the results.
        data: SHA-256 of the files of its data sets, by name.
        source: hash of the code that it runs.
        device: ``cpu`` or ``cuda``.
        key: hash of everything that determines its results.
    """

    batch: Batch
    earlier: tuple[Path, ...]
    weights: Path | None
    inputs: dict[str, str]
    data: dict[str, str]
    source: str
    device: str
    key: str


class Jobs:
    """The jobs of a config, and their results as far as they are in the store or in the results folder of the scale."""

    def __init__(self, config: Config, store: Store | None = None):
        self.config = config
        self.store = store or Store()
        self._found: dict[Address, Entry] = {}
        self._jobs: dict[Address, Job] = {}
        self._batches: dict[str, list[Batch]] = {}

    def batches(self, study_id: str) -> list[Batch]:
        """The batches of a study, each after those that it needs."""
        if study_id not in self._batches:
            self._batches[study_id] = runtable.batches(self.config, study_id)
        return self._batches[study_id]

    def batch(self, address: Address) -> Batch:
        """The batch at an address. Raises: ConfigError if there is none."""
        study, name = address
        if study not in self.config.studies:
            raise ConfigError(f"study = {study!r} is not one of {sorted(self.config.studies)}")
        by_name = {batch.name: batch for batch in self.batches(study)}
        if name not in by_name:
            raise ConfigError(f"batch = {name!r} is not one of {list(by_name)}")
        return by_name[name]

    def needed(self, batch: Batch) -> list[Address]:
        """The batches whose results a batch reads."""
        return [*((batch.study, name) for name in batch.needs), *([batch.weights] if batch.weights else [])]

    def with_needed(self, batches: Sequence[Batch]) -> list[Batch]:
        """The batches and all that they need, directly or indirectly, each once and after those that it needs."""
        ordered: dict[Address, Batch] = {}

        def add(batch: Batch) -> None:
            if batch.address not in ordered:
                for address in self.needed(batch):
                    add(self.batch(address))
                ordered[batch.address] = batch

        for batch in batches:
            add(batch)
        return list(ordered.values())

    def finished(self, batch: Batch) -> Entry | None:
        """The results of a batch, if they and those that it needs are there."""
        if batch.address not in self._found:
            job = self.job(batch)
            entry = None if job is None else self.result_of(job)
            if entry is None:
                return None
            self._found[batch.address] = entry
        return self._found[batch.address]

    def job(self, batch: Batch, weights: Path | None = None) -> Job | None:
        """The job of a batch, or None while results are missing that it needs.

        `weights` is a file of trained weights that it uses in place of those of the config.
        """
        if batch.address not in self._jobs:
            earlier = [self.finished(self.batch((batch.study, name))) for name in batch.needs]
            if batch.weights and weights is None:
                trained = self.finished(self.batch(batch.weights))
                if trained is None:
                    return None
                weights = trained.path(layout.WEIGHTS)
            if None in earlier:
                return None
            metrics = [entry.path(layout.METRICS) for entry in earlier if entry]
            self._jobs[batch.address] = make(self.config, batch, metrics, weights)
        return self._jobs[batch.address]

    def key_of_study(self, study_id: str) -> str:
        """The key of a study's tidy results. Raises: LookupError if results of its batches are missing."""
        study = self.config.studies[study_id]
        entries = [self.finished(batch) for batch in self.batches(study_id)]
        if missing := [b.name for b, e in zip(self.batches(study_id), entries, strict=True) if e is None]:
            raise LookupError(f"{study_id}: {missing[0]} has no results")
        determinants = {
            "batches": [entry.folder.name for entry in entries if entry],
            "study": [study_id, study.model_dump(mode="json", by_alias=True)],
            "scale": [self.config.scale, self.config.strict],
            "source": provenance.source_hash("optrepro.experiments.collect"),
        }
        return fingerprint(determinants, digits=24)

    def result_of(self, job: Job) -> Entry | None:
        """The results of a job from the store, or from their place in the results, which then go to the store too."""
        entry = self.store.get(job.key)
        folder = layout.metrics(self.config.scale, *job.batch.address).parent
        if entry is None and provenance.key_of(folder / layout.RECORD) == job.key:
            entry = self.store.put(job.key, [folder / name for name in files_of(self.config, job.batch)])
        return entry


def make(config: Config, batch: Batch, earlier: Sequence[Path] = (), weights: Path | None = None) -> Job:
    """The job of a batch that reads these files. Raises: FileNotFoundError if one of them does not exist."""
    study = config.studies[batch.study]
    names = [f"../{name}/{layout.METRICS}" for name in batch.needs]
    inputs = {name: provenance.file_hash(path) for name, path in zip(names, earlier, strict=True)}
    if batch.weights and weights:
        inputs["/".join(["../..", *batch.weights, layout.WEIGHTS])] = provenance.file_hash(weights)
    data = {name: provenance.data_hash(path) for name, path in _files(data_of(study, config)).items()}
    source = provenance.source_hash(*runtable.source_modules(config, batch))
    device = device_of(config.device, study)
    determinants = {
        "settings": batch.settings,
        "runs": [run.id for run in batch.runs],
        "source": source,
        "read": [*inputs.values(), *data.values()],
        "device": device,
        # They decide the last bits of results, and Python some of the embedded texts.
        "versions": [platform.python_version(), importlib.metadata.version("torch"), *map(version, study.packages())],
    }
    key = fingerprint(determinants, digits=24)
    return Job(batch, tuple(earlier), weights, inputs, data, source, device, key)


def files_of(config: Config, batch: Batch) -> list[str]:
    """Names of the files that a batch leaves."""
    trains = bool(config.studies[batch.study].trained_rows())
    return [layout.METRICS, layout.RECORD, *([layout.WEIGHTS] if trains else [])]


def gpus() -> list[str]:
    """The NVIDIA GPUs that this process may use, found without torch."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name and name != "-1"]
    return sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))


def device_of(name: str, study: Study) -> str:
    """The kind of device that a study's jobs run on: ``cpu`` or ``cuda``.

    Raises: ConfigError if the config asks for a GPU and there is none.
    """
    if name == "cpu" or (name == "cuda" and not study.wants_gpu):
        return "cpu"  # such a job requests no GPU from the cluster, so its node may have none
    if _cuda():
        return "cuda"
    if name == "cuda":
        raise ConfigError("device = 'cuda' is not allowed here, because torch finds no GPU; use 'auto' or 'cpu'")
    return "cpu"


@cache
def _cuda() -> bool:
    if not gpus():
        return False
    # Asked in this way, CUDA is not initialized, and processes may still be forked.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    import torch

    return torch.cuda.is_available()


def _files(names: Sequence[str]) -> dict[str, Path]:
    """Files of the data sets by file name, with the data set's name in front if there are several."""
    several = len(names) > 1
    return {
        f"{name}/{path.name}" if several else path.name: path
        for name in names
        if not archives.archive(name).embedded
        for path in archives.locate(name).files
    }
