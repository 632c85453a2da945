"""Which candidate each rule takes, when, and for which tensor; and whether it ever takes another one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from optrepro.analysis.results import StudyResults

NEARLY = 0.99  # share of the choices from which on a rule counts as constant but for a few


def choices(study: StudyResults) -> pd.DataFrame:
    """Shares of the candidates by workload, rule, tensor and time, over all runs.

    Columns: workload, optimizer, layer (a tensor's name, or all where one choice serves all), candidate (momentum or
    beta1), step, count (choices since the point before), share (of the candidate in these).
    """
    runs = study.runs
    parts = runs.metric.str.extract(r"^(?P<kind>chosen|candidate)\[(?P<k>\d+)\](?:@(?P<layer>.+))?$")
    table = runs.join(parts)
    keys = ["workload", "optimizer"]
    momenta = table[table.kind == "candidate"].groupby([*keys, "k"]).value.first().rename("candidate")
    taken = table[table.kind == "chosen"].groupby([*keys, "layer", "step", "k"], sort=False).value.sum()
    counts = taken.rename("count").reset_index().join(momenta, on=[*keys, "k"])
    counts["share"] = counts["count"] / counts.groupby([*keys, "layer", "step"])["count"].transform("sum")
    return counts[["workload", "optimizer", "layer", "candidate", "step", "count", "share"]]


def summary(table: pd.DataFrame, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """Shares over the whole training: a row for each workload, rule and further column, a column for each candidate.

    The column constant is a statement: "always 0.5", "0.5, but for 0.3 %", or "no".
    """
    keys = ["workload", "optimizer", *by]
    counts = table.groupby([*keys, "candidate"], sort=False)["count"].sum().unstack("candidate").sort_index(axis=1)
    shares = counts.div(counts.sum(axis=1), axis=0)
    order = table[keys].drop_duplicates()
    shares["constant"] = [statement(row) for _, row in shares.iterrows()]
    return order.merge(shares.reset_index(), on=keys)


def statement(shares: pd.Series) -> str:
    """In words whether one candidate (the index) has all of the choices, or all but a few."""
    top, most = shares.idxmax(), shares.max()
    if most == 1:
        return f"always {top:g}"
    return f"{top:g}, but for {100 * (1 - most):.1g} %" if most >= NEARLY else "no"


def memory(table: pd.DataFrame, by: list[str]) -> pd.Series:
    """Geometric mean of the memory 1 / (1 - candidate) of the choices, in steps."""
    logs = pd.Series(-np.log(1 - table.candidate.to_numpy(dtype=np.float64)), index=table.index)
    weights = table["count"]
    keys = [table[name] for name in by]
    sums = (logs * weights).groupby(keys, sort=False).sum() / weights.groupby(keys, sort=False).sum()
    return pd.Series(np.exp(sums.to_numpy()), index=sums.index, name="memory")
