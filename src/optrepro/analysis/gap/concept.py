"""Measured gradient autocorrelation, the candidates' filters and their scores, averaged over runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from optrepro.analysis.results import StudyResults


def scores(study: StudyResults) -> pd.DataFrame:
    """All measurements in a window, averaged over the runs: one row per value.

    Columns: phase (early, middle, late; "" for filters), batch_size (0 for filters), metric (of
    `optrepro.experiments.probes.concept.measure`), candidate (NaN without one), lag, value, error (standard error from
    the blocks of the windows; NaN for filters), best (whether a score is the largest among the candidates).
    """
    keys = ["workload", "optimizer", "metric", "step"]
    runs = study.runs.assign(metric=study.runs.metric.str.removesuffix("_error"))
    is_error = study.runs.metric.str.endswith("_error")
    errors = runs[is_error].groupby(keys).value.agg(lambda e: np.sqrt((e**2).sum()) / len(e)).rename("error")
    table = runs[~is_error].groupby(keys, sort=False).value.mean().reset_index().join(errors, on=keys)
    where = table.workload.str.extract(r"^(?P<phase>\w+)/batch-(?P<batch_size>\d+)$")
    table["phase"], table["batch_size"] = where.phase.fillna(""), where.batch_size.fillna("0").astype(int)
    table["candidate"] = pd.to_numeric(table.optimizer.str.extract(r"^momentum-(.+)$")[0])
    largest = table.groupby(["workload", "metric"]).value.transform("max")
    table["best"] = table.metric.str.startswith("score_") & (table.value == largest)
    names = ["phase", "batch_size", "metric", "candidate", "step", "value", "error", "best"]
    return table[names].rename(columns={"step": "lag"})


def best_candidates(study: StudyResults) -> pd.DataFrame:
    """The candidate with the largest score, by (phase, batch_size); one column for each kind of score."""
    best = scores(study)
    best = best[best.best]
    kinds = best.metric.str.removeprefix("score_")
    return best.assign(kind=kinds).pivot_table(
        index=["phase", "batch_size"], columns="kind", values="candidate", sort=False
    )


def decay_rates(study: StudyResults) -> pd.Series:
    """The rho in [-1, 1] of the best fit R_k = R_0 rho^k, by (phase, batch_size).

    rho is the least-squares coefficient of each R_k on R_(k-1), with R_0 from the halves of the batch, which is free of
    mini-batch noise.
    """
    table = scores(study)
    rates = {}
    for key, rows in table[table.batch_size > 0].groupby(["phase", "batch_size"], sort=False):
        lagged = rows[rows.metric == "autocorrelation"].sort_values("lag").value.to_numpy()[1:]
        own = rows[rows.metric == "self_term_halves"].value.to_numpy()
        before, after = np.concatenate([own, lagged[:-1]]), lagged
        rates[key] = float(np.clip(before @ after / (before @ before), -1, 1))
    return pd.Series(rates).rename_axis(["phase", "batch_size"])


def geometric_score(momentum: ArrayLike, rho: float) -> NDArray[np.float64]:
    """The score of a momentum m for R_k = rho^k: sqrt(1 - m^2) / (1 - m rho), which is largest at m = rho.

    It is the sum over k of m^k rho^k, divided by the norm of m^k. Source: derived from the score of arXiv 2512.06370.
    """
    m = np.asarray(momentum, dtype=np.float64)
    return np.sqrt(1 - m**2) / (1 - m * rho)
