"""Paths of all outputs, relative to the project's folder; both the workflow and the command line use them."""

from __future__ import annotations

import os
from pathlib import Path

METRICS = "metrics.parquet"  # files of a batch of runs
WEIGHTS = "policy.safetensors"
RECORD = "run.json"
PUBLISHED = "published"  # the scale-like name of the committed results
RESERVED = (PUBLISHED, "data")  # folders below `results` that belong to no scale: the committed results, and checksums


def metrics(scale: str, study: str, batch: str) -> Path:
    """Tidy metrics of a batch of runs; its record is beside them, and the weights if it trains any."""
    return Path("results", scale, "runs", study, batch, METRICS)


def log(scale: str, study: str, batch: str) -> Path:
    """What a batch of runs prints."""
    return Path("logs", scale, "runs", study, f"{batch}.log")


def tidy(scale: str, study: str) -> Path:
    """Tidy results of a study; the facts are beside it as ``.json``."""
    return Path("results", scale, "tidy", f"{study}.parquet")


def table(scale: str, name: str) -> Path:
    """A table of the analysis."""
    return Path("results", scale, "tables", f"{name}.parquet")


def exhibit(scale: str, name: str) -> Path:
    """Path of an exhibit's files without suffix; the published exhibits are at the top of ``figures``."""
    return Path("figures", name) if scale == PUBLISHED else Path("figures", scale, name)


def site(scale: str) -> Path:
    """Folder of the site that shows a scale, or the published results."""
    return Path("results", scale, "site")


def state(key: str) -> Path:
    """Folder of a job that has begun; it holds no declared output, because Snakemake deletes those first."""
    return _state() / "jobs" / key


def failure(key: str) -> Path:
    """Why the last attempt of a job failed."""
    return state(key) / "failed.txt"


def lock(key: str) -> Path:
    """The file that a process locks while it works on a job."""
    return _state() / "locks" / f"{key}.lock"


def store() -> Path:
    """The store of finished jobs, which all scales share."""
    return _state() / "store"


def _state() -> Path:
    """The folder of state; the environment variable ``OPTREPRO_STATE`` moves it."""
    return Path(os.environ.get("OPTREPRO_STATE", "state"))
