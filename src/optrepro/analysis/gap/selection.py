"""Which candidate each rule takes, when, and for which tensor; and whether it ever takes another one."""

from __future__ import annotations

import numpy as np
import pandas as pd

from optrepro.analysis.results import StudyResults

ROW = ["workload", "optimizer", "layer"]  # what a row of a summary stands for
NEARLY = 0.99  # share of the choices from which on a rule counts as constant but for a few


def choices(study: StudyResults) -> pd.DataFrame:
    """Counts of choices, over all runs: workload, optimizer, layer, candidate, step, count (since the point before).

    The layer is a tensor's name, or all where one choice serves all; the candidate is a momentum or beta1.
    """
    runs = study.runs
    parts = runs.metric.str.extract(r"^(?P<kind>chosen|candidate)\[(?P<k>\d+)\](?:@(?P<layer>.+))?$")
    table = runs.join(parts)
    keys = ["workload", "optimizer"]
    momenta = table[table.kind == "candidate"].groupby([*keys, "k"]).value.first().rename("candidate")
    taken = table[table.kind == "chosen"].groupby([*keys, "layer", "step", "k"], sort=False).value.sum()
    counts = taken.rename("count").reset_index().join(momenta, on=[*keys, "k"])
    return counts[[*ROW, "candidate", "step", "count"]]


def shares(study: StudyResults) -> pd.DataFrame:
    """Shares over the whole training: workload, optimizer, layer, candidate, share.

    The layer is all, for all choices of a rule, and after these a tensor's name, where a rule chooses for each.
    """
    counts = _with_all(choices(study)).groupby([*ROW, "candidate"], sort=False)["count"].sum()
    return (counts / counts.groupby(ROW).transform("sum")).rename("share").reset_index()


def summary(study: StudyResults) -> pd.DataFrame:
    """The choices of the whole training in brief: workload, optimizer, layer (as in `shares`), memory and constant.

    memory: geometric mean of the memory 1 / (1 - candidate) of the choices, in steps. constant: see `statement`.
    """
    memory = _memory(_with_all(choices(study)), ROW)
    constant = shares(study).set_index("candidate").groupby(ROW, sort=False).share.agg(statement).rename("constant")
    return pd.concat([memory, constant], axis=1).reset_index()


def course(study: StudyResults) -> pd.DataFrame:
    """The mean memory of the choices since the point before, as in `summary`: workload, optimizer, step, memory."""
    return _memory(choices(study), ["workload", "optimizer", "step"]).reset_index()


def statement(shares: pd.Series) -> str:
    """In words whether one candidate (the index) has all of the choices, or all but a few.

    Always 0.5: "always 0.5"; almost always: "0.5, but for 0.3 %"; else: "no".
    """
    top, most = shares.idxmax(), shares.max()
    if most == 1:
        return f"always {top:g}"
    return f"{top:g}, but for {100 * (1 - most):.1g} %" if most >= NEARLY else "no"


def _with_all(table: pd.DataFrame) -> pd.DataFrame:
    """`choices`, once for the layer all, then of each tensor."""
    return pd.concat([table.assign(layer="all"), table[table.layer != "all"]], ignore_index=True)


def _memory(table: pd.DataFrame, by: list[str]) -> pd.Series:
    """Geometric mean of the memory 1 / (1 - candidate) of the choices, in steps."""
    logs = pd.Series(-np.log(1 - table.candidate.to_numpy(dtype=np.float64)), index=table.index)
    weights = table["count"]
    keys = [table[name] for name in by]
    sums = (logs * weights).groupby(keys, sort=False).sum() / weights.groupby(keys, sort=False).sum()
    return pd.Series(np.exp(sums.to_numpy()), index=sums.index, name="memory")
