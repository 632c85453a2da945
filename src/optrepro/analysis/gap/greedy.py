"""What the score promises against what comes of it, and what noise in the score costs.

The tables are computed from the tidy results of `optrepro.experiments.training.greedy`. Intervals are Student's t
intervals over the seeds, at 95 %; what several forks of a run tell is averaged first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd

from optrepro.analysis import columns
from optrepro.analysis.results import StudyResults
from optrepro.studies.greedy import FORKS

AT = ["workload", "learning_rate", "horizon"]  # what tells the forks of a table apart
MEASURES = ("test_accuracy", "probe_loss")
# What each score makes of the promise of a candidate's step, by its momentum.
SCORES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"paper": lambda momentum: (1 - momentum**2) ** 0.5, "raw": lambda momentum: 1.0}
)


def promises(study: StudyResults) -> pd.DataFrame:
    """How much of its promised drop in loss each candidate realizes, at each horizon.

    Columns: workload, learning_rate, horizon (steps), candidate (momentum); promised and realized (nats, means over all
    forks); share, _low, _high (realized over promised: sums over the forks of a seed); forks (their number).
    """
    rows = []
    place: Any
    for place, own in _forks(study).groupby([*AT, "candidate"], sort=False):
        sums = own.groupby("seed")[["promised", "realized"]].sum()
        rows.append(
            {
                **dict(zip([*AT, "candidate"], place, strict=True)),
                "promised": own.promised.mean(),
                "realized": own.realized.mean(),
                **columns.interval("share", sums.realized / sums.promised),
                "forks": len(own),
            }
        )
    return pd.DataFrame(rows)


def outcomes(study: StudyResults) -> pd.DataFrame:
    """Whether the candidate of the largest score at a fork ends lowest, by score and horizon.

    Columns: workload, learning_rate, horizon, score; lowest, _low, _high (share of the forks at which it does), best
    (the candidate with the largest mean drop over all forks of the row, which a sweep would pick), best_lowest (the
    share of that one), candidates (their number: a draw is right at one in so many forks); drop, _low, _high (mean drop
    of the taken candidate, nats), gain, _low, _high (that drop minus the one of `best`, paired), most (mean drop of the
    candidate that ends lowest at each fork); smallest (share of the forks at which it took the smallest candidate) and
    forks (their number).
    """
    rows = []
    place: Any
    for place, own in _forks(study).groupby(AT, sort=False):
        drops = own.pivot(index=["seed", "step"], columns="candidate", values="realized").dropna()
        first = own.pivot(index=["seed", "step"], columns="candidate", values="first").loc[drops.index]
        best = drops.mean().idxmax()
        for score, factor in SCORES.items():
            taken = first.mul([factor(float(momentum)) for momentum in first.columns]).idxmax(axis=1)
            own_drop = pd.Series([drops.at[fork, momentum] for fork, momentum in taken.items()], index=drops.index)
            by_seed = pd.DataFrame(
                {"lowest": taken == drops.idxmax(axis=1), "drop": own_drop, "gain": own_drop - drops[best]}
            )
            means = by_seed.astype(float).groupby("seed").mean()
            rows.append(
                {
                    **dict(zip(AT, place, strict=True)),
                    "score": score,
                    **columns.interval("lowest", means.lowest),
                    "best": best,
                    "best_lowest": (drops.idxmax(axis=1) == best).mean(),
                    "candidates": drops.shape[1],
                    **columns.interval("drop", means["drop"]),
                    **columns.interval("gain", means.gain),
                    "most": drops.max(axis=1).mean(),
                    "smallest": (taken == drops.columns.min()).mean(),
                    "forks": len(drops),
                }
            )
    table = pd.DataFrame(rows)
    ends = ["lowest_low", "lowest_high"]
    return table.assign(**table[ends].clip(0, 1))  # a t interval of few seeds may reach beyond what a share can be


def noise(study: StudyResults) -> pd.DataFrame:
    """The regret of the rule whose score is computed from fewer and from more examples.

    Columns: workload, learning_rate, batches (examples of the score over those of a step); for test_accuracy and
    probe_loss (the loss on part of the training data) at the end: the mean with _low and _high, best_ (the fixed
    candidate with the best mean) and regret_ with _low and _high, paired over the seeds: by how much that candidate is
    better; smallest (share of the smallest candidate among the choices) and seeds.
    """
    rows = []
    for (workload, rate), own in _ends(study).groupby(["workload", "learning_rate"], sort=False):
        values = {name: own.pivot(index="seed", columns="optimizer", values=name) for name in MEASURES}
        smallest = own.groupby("optimizer").smallest.mean()
        scores = {name: float(name.removeprefix("score-")) for name in smallest.index if name.startswith("score-")}
        for name, batches in sorted(scores.items(), key=lambda pair: pair[1]):
            row = {"workload": workload, "learning_rate": rate, "batches": batches}
            for measure, table in values.items():
                sign = 1 if measure == "test_accuracy" else -1
                best = str((sign * table.drop(columns=list(scores)).mean()).idxmax())
                row |= columns.interval(measure, table[name].dropna())
                row |= {f"best_{measure}": best}
                row |= columns.interval(f"regret_{measure}", (sign * (table[best] - table[name])).dropna())
            rows.append({**row, "smallest": smallest[name], "seeds": values["probe_loss"][name].count()})
    return pd.DataFrame(rows)


def _forks(study: StudyResults) -> pd.DataFrame:
    """One row per fork, candidate and horizon: promised, realized, and first, the promise of the first step alone."""
    runs = study.runs[study.runs.optimizer == FORKS]
    parts = runs.metric.str.extract(r"^(?P<kind>promised|realized)\[(?P<candidate>[^\]]+)\]@(?P<horizon>\d+)$")
    table = runs.join(parts).dropna(subset="kind")
    table = table.assign(candidate=table.candidate.astype(float), horizon=table.horizon.astype(int))
    fork = ["workload", "learning_rate", "seed", "step", "candidate"]
    wide = table.pivot(index=[*fork, "horizon"], columns="kind", values="value").reset_index()
    first = wide[wide.horizon == 1].set_index(fork).promised.rename("first")
    order = {workload: i for i, workload in enumerate(table.workload.unique())}
    in_order = wide.sort_values("workload", key=lambda names: names.map(order), kind="stable")
    return in_order.join(first, on=fork)


def _ends(study: StudyResults) -> pd.DataFrame:
    """One row per finished run of the other rows: its measures at the end, and the share of its smallest candidate."""
    runs = study.runs[study.runs.optimizer != FORKS]
    keys = ["workload", "learning_rate", "optimizer", "seed"]
    wide = runs.pivot_table(index=keys, columns="metric", values="value", aggfunc="last", sort=False).reset_index()
    chosen = wide.filter(regex="^chosen")
    return wide.assign(smallest=wide["chosen[0]"] / chosen.sum(axis=1))
