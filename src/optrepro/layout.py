"""Where things lie, relative to the project's folder. The workflow and the command line agree by asking here."""

from __future__ import annotations

from pathlib import Path

PUBLISHED = "published"  # the scale-like name of the committed results


def metrics(scale: str, study: str, batch: str) -> Path:
    """Tidy metrics of a batch of runs; its sidecar ``run.json`` lies beside it."""
    return Path("results", scale, "runs", study, batch, "metrics.parquet")


def policy(scale: str, study: str, batch: str) -> Path:
    """Weights that a batch of meta-training leaves."""
    return policy_beside(metrics(scale, study, batch))


def policy_beside(metrics_file: Path) -> Path:
    """Weights beside the metrics of the batch that trained them."""
    return metrics_file.with_name("policy.safetensors")


def tidy(scale: str, study: str) -> Path:
    """Tidy results of a study; the facts are beside it as ``.json``."""
    return Path("results", scale, "tidy", f"{study}.parquet")


def table(scale: str, name: str) -> Path:
    """A table of the analysis."""
    return Path("results", scale, "tables", f"{name}.parquet")


def exhibit(scale: str, name: str) -> Path:
    """Stem of an exhibit's files; the published gallery lies at the top of ``figures``."""
    return Path("figures", name) if scale == PUBLISHED else Path("figures", scale, name)


def state(key: str) -> Path:
    """Checkpoint of a job, outside every declared output: Snakemake deletes those before a job starts."""
    return Path("state", key, "checkpoint.pt")
