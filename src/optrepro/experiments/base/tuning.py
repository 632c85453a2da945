"""The one tuning protocol: every optimizer is tried at as many learning rates, on seeds that no test uses."""

from __future__ import annotations

import pandas as pd


def tuned_learning_rate(results: pd.DataFrame, metric: str, failed: float, lowest: bool = False) -> float:
    """The learning rate with the highest (or lowest) mean of `metric` at the last step of the tuning runs.

    A diverged run counts as `failed`; among equals the smaller rate wins.

    Args:
        results: tidy rows of the tuning runs of one optimizer (on one workload).
        metric: what to maximize (or minimize).
        failed: the value of a run that diverged, or that has no such metric.
        lowest: whether less is better.

    Raises: ValueError if there is no tuning run.
    """
    scores = tuning_scores(results, metric, failed)
    return float(scores.index[int(scores.argmin() if lowest else scores.argmax())])


def tuning_scores(results: pd.DataFrame, metric: str, failed: float) -> pd.Series:
    """Mean of `metric` at the last step for each learning rate (ascending), diverged runs counted as `failed`."""
    runs = results[results.role == "tune"]
    if runs.empty:
        raise ValueError("there are no tuning runs to choose a learning rate from")
    diverged = runs[runs.metric == "diverged"].run
    final = runs[(runs.metric == metric) & ~runs.run.isin(diverged)].sort_values("step").groupby("run").value.last()
    rates = runs.groupby("run").learning_rate.first()
    return final.reindex(rates.index).fillna(failed).groupby(rates).mean().sort_index()
