"""The one tuning protocol: every optimizer tries equally many learning rates, on seeds that no test uses."""

from __future__ import annotations

import pandas as pd


def tuned_learning_rate(results: pd.DataFrame, metric: str, failed: float, lowest: bool = False) -> float:
    """Return the learning rate with the highest (or lowest) mean of `metric` at the last step of the tuning runs.

    A diverged run counts as `failed`; of equally good rates the smallest wins.

    Args:
        results: tidy rows of one optimizer (on one workload).
        metric: metric to maximize (or minimize).
        failed: value of a run that diverged or lacks the metric.
        lowest: whether lower is better.

    Raises: ValueError if there is no tuning run.
    """
    scores = tuning_scores(results, metric, failed)
    return float(scores.index[int(scores.argmin() if lowest else scores.argmax())])


def tuning_scores(results: pd.DataFrame, metric: str, failed: float) -> pd.Series:
    """Return the mean of `metric` at the last step per learning rate (ascending); diverged runs count as `failed`."""
    runs = results[results.role == "tune"]
    if runs.empty:
        raise ValueError("results holds no tuning run; choosing a learning rate needs at least one")
    diverged = runs[runs.metric == "diverged"].run
    final = runs[(runs.metric == metric) & ~runs.run.isin(diverged)].sort_values("step").groupby("run").value.last()
    rates = runs.groupby("run").learning_rate.first()
    return final.reindex(rates.index).fillna(failed).groupby(rates).mean().sort_index()
