"""Cost of a step in time and memory: medians over the turns, with distribution-free intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from optrepro.analysis.intervals import median_interval
from optrepro.analysis.results import StudyResults

REFERENCES = {"foreach": "torch, foreach", "fused": "torch, fused"}


def ratios(study: StudyResults) -> pd.DataFrame:
    """Step time and state relative to PyTorch's foreach version: one row per network and optimizer.

    Columns: network, network_label, parameters; family; optimizer, label, group ("torch" for PyTorch's versions),
    select (global or per_parameter); seconds (median of a step); ratio, low, high (median over the turns of the ratio
    within a turn, with its interval, see `ratio_interval`); turns; state (ratio of the bytes).
    """
    runs, settings = study.runs, study.facts.settings
    rows = []
    for (workload, key), group in runs.groupby(["workload", "optimizer"], sort=False, observed=True):
        network, family = str(workload).split("/")
        values = {str(metric): part.to_numpy(float) for metric, part in group.groupby("metric", observed=True).value}
        row = settings["families"][family]["optimizers"].get(key, {})
        turns = values["step_ratio"]
        median, low, high = ratio_interval(turns)
        rows.append(
            {
                "network": network,
                "network_label": settings["networks"][network]["label"],
                "parameters": int(values["parameters"][0]),
                "family": family,
                "optimizer": key,
                "label": row["label"] if row else REFERENCES[str(key)],
                "group": row["group"] if row else "torch",
                "select": row.get("settings", {}).get("select", "global"),
                "seconds": float(np.median(values["step_seconds"])),
                "ratio": median,
                "low": low,
                "high": high,
                "turns": len(turns),
                "state": float(values["state_ratio"][0]),
            }
        )
    return pd.DataFrame(rows)


def ratio_interval(turns: ArrayLike) -> tuple[float, float, float]:
    """Median and its interval, see `median_interval`; if there are fewer than 6 values, the interval is their range."""
    median, low, high = median_interval(turns)
    return (median, float(np.min(turns)), float(np.max(turns))) if np.isnan(low) else (median, low, high)
