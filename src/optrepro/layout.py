"""Paths of all outputs, relative to the project's folder; both the workflow and the command line use them."""

from __future__ import annotations

from pathlib import Path

PUBLISHED = "published"  # the scale-like name of the committed results
RESERVED = (PUBLISHED, "data")  # folders below `results` that belong to no scale: the committed results, and checksums


def metrics(scale: str, study: str, batch: str) -> Path:
    """Tidy metrics of a batch of runs; the sidecar ``run.json`` is beside them."""
    return Path("results", scale, "runs", study, batch, "metrics.parquet")


def weights(scale: str, study: str, batch: str) -> Path:
    """Weights that a batch of training runs saves."""
    return weights_beside(metrics(scale, study, batch))


def weights_beside(metrics_file: Path) -> Path:
    """Weights that are saved beside the metrics of the batch that trained them."""
    return metrics_file.with_name("policy.safetensors")


def tidy(scale: str, study: str) -> Path:
    """Tidy results of a study; the facts are beside it as ``.json``."""
    return Path("results", scale, "tidy", f"{study}.parquet")


def table(scale: str, name: str) -> Path:
    """A table of the analysis."""
    return Path("results", scale, "tables", f"{name}.parquet")


def exhibit(scale: str, name: str) -> Path:
    """Path of an exhibit's files without suffix; the published exhibits are at the top of ``figures``."""
    return Path("figures", name) if scale == PUBLISHED else Path("figures", scale, name)


def state(key: str) -> Path:
    """Checkpoint of a job. It is not a declared output, because Snakemake deletes outputs before a job starts."""
    return Path("state", key, "checkpoint.pt")
