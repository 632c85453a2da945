"""The choices of each rule: candidates by time and tensor, and whether the choice is constant."""

from __future__ import annotations

import numpy as np
import pandas as pd

from optrepro.analysis.results import StudyResults

ROW = ["workload", "optimizer", "layer"]  # keys of a row of the summary
NEARLY = 0.99  # share of the choices from which on a rule counts as almost constant


def choices(study: StudyResults) -> pd.DataFrame:
    """Counts of choices over all runs: workload, optimizer, layer, candidate, step, count (since the previous point).

    The layer is a tensor's name, or "all" if all tensors have the same choice; the candidate is a momentum or beta1.
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

    The layer is "all" for all choices of a rule; further rows are for single tensors if each has its own choice.
    """
    counts = _with_all(choices(study)).groupby([*ROW, "candidate"], sort=False)["count"].sum()
    return (counts / counts.groupby(ROW).transform("sum")).rename("share").reset_index()


def summary(study: StudyResults) -> pd.DataFrame:
    """Summary of the choices of the whole training: workload, optimizer, layer (as in `shares`), memory, constant.

    memory is the geometric mean of the memory 1 / (1 - candidate) over the choices, in steps; constant is the text of
    `statement`.
    """
    memory = _memory(_with_all(choices(study)), ROW)
    constant = shares(study).set_index("candidate").groupby(ROW, sort=False).share.agg(statement).rename("constant")
    return pd.concat([memory, constant], axis=1).reset_index()


def statement(shares: pd.Series) -> str:
    """A text that says whether one candidate (the index) has all choices or almost all.

    It is "always 0.5", or "0.5, but for 0.3 %" for at least `NEARLY` of the choices, else "no".
    """
    top, most = shares.idxmax(), shares.max()
    if most == 1:
        return f"always {top:g}"
    return f"{top:g}, but for {100 * (1 - most):.1g} %" if most >= NEARLY else "no"


def _with_all(table: pd.DataFrame) -> pd.DataFrame:
    """`choices` for the layer "all", then for each tensor."""
    return pd.concat([table.assign(layer="all"), table[table.layer != "all"]], ignore_index=True)


def _memory(table: pd.DataFrame, by: list[str]) -> pd.Series:
    """Geometric mean of the memory 1 / (1 - candidate) over the choices, in steps."""
    logs = pd.Series(-np.log(1 - table.candidate.to_numpy(dtype=np.float64)), index=table.index)
    weights = table["count"]
    keys = [table[name] for name in by]
    sums = (logs * weights).groupby(keys, sort=False).sum() / weights.groupby(keys, sort=False).sum()
    return pd.Series(np.exp(sums.to_numpy()), index=sums.index, name="memory")
