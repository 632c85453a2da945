"""What a step costs: medians over the turns, with distribution-free intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from optrepro.analysis.results import StudyResults

REFERENCES = {"foreach": "torch, foreach", "fused": "torch, fused"}


def ratios(study: StudyResults) -> pd.DataFrame:
    """Step time and state of each optimizer over those of torch's foreach version: one row per network and optimizer.

    Columns: network, network_label, parameters; family; optimizer, label, group (torch for its own versions), select
    (global or per_parameter); seconds (median of a step); ratio, low, high (median over the turns of the ratio within a
    turn, and its interval of at least 95 % where the turns are enough); turns; state (ratio of the bytes).
    """
    runs, settings = study.runs, study.facts.settings
    rows = []
    for (workload, key), group in runs.groupby(["workload", "optimizer"], sort=False, observed=True):
        network, family = str(workload).split("/")
        values = {str(metric): part.to_numpy(float) for metric, part in group.groupby("metric", observed=True).value}
        row = settings["families"][family]["optimizers"].get(key, {})
        turns = values["step_ratio"]
        low, high = median_interval(turns)
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
                "ratio": float(np.median(turns)),
                "low": low,
                "high": high,
                "turns": len(turns),
                "state": float(values["state_ratio"][0]),
            }
        )
    return pd.DataFrame(rows)


def median_interval(values: NDArray[np.float64] | Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The interval between two order statistics that holds the median with at least this probability.

    With fewer than 6 values there is none at 95 %: then it is their range. Source: the standard sign-test interval.
    """
    ordered, count = np.sort(np.asarray(values, float)), len(values)
    tails = 2 * stats.binom.cdf(np.arange(count // 2), count, 0.5)
    cut = max(int((tails <= 1 - level).sum()) - 1, 0)  # values left out at either end
    return float(ordered[cut]), float(ordered[-1 - cut])
