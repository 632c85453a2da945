"""The leaderboard: the same optimizers on several tasks, their places on each of them and over all.

All scores are such that higher is better: test accuracy, negative test loss, or the mean over the smooth functions of
-log10 of the normalized regret. A diverged test run has accuracy 0; one without a loss puts its optimizer last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import benchmark, columns, comparison, rankings
from optrepro.analysis.intervals import holm, sign_flip_test
from optrepro.analysis.results import StudyResults
from optrepro.conventions import ALPHA, FLOOR

YARDSTICK = "adamw"  # chosen: the optimizer that all others are compared with


def values(study: StudyResults) -> pd.DataFrame:
    """What is compared, problems (smooth functions, or seeds) by optimizers; higher is better."""
    if "functions" not in study.facts.settings:
        return comparison.test_scores(study)
    table = benchmark.scores(study)
    smooth = table[table.smooth.astype(bool)]
    digits = smooth.assign(digits=-np.log10(smooth.regret.clip(lower=FLOOR)))
    return digits.pivot(index="function", columns="optimizer", values="digits")


def places(*studies: StudyResults) -> pd.DataFrame:
    """One row per task (the study) and optimizer, in the order of the configs.

    Columns: task, optimizer, label, group; problems (number of seeds or functions); score, score_low, score_high (mean
    and 95 % interval over them); rank (1 is best, of equal ones all have the mean; by the score, on functions by the
    average rank over them); learning_rate (tuned; on functions the median) and on_edge (share of the functions, or 0 or
    1, on which an end of the grid was best in tuning); behind, behind_low, behind_high (paired difference to the first
    of the task, at most 0 in the mean but on functions; missing for that one) and beside_first (whether the interval
    holds 0); difference, difference_low, difference_high, p, p_holm (paired, to `YARDSTICK`; Wilcoxon's test over
    functions or the sign-flip test over seeds; p_holm is missing where no seeds could make it 5 %); diverged and
    tuning_diverged (numbers of runs).
    """
    return pd.concat([_places(study) for study in studies], ignore_index=True)


def overall(*studies: StudyResults) -> pd.DataFrame:
    """One row per optimizer that is on all tasks, by average rank: label, group, average_rank, _low, _high, and the
    columns of `rankings.summary`. The interval is Student's t over the tasks, within the possible ranks.
    """
    table = places(*studies)
    ranks = table.pivot(index="task", columns="optimizer", values="rank").dropna(axis=1)
    summary = rankings.summary(ranks)
    keys = map(str, ranks)
    rows = [{**columns.names(studies[0], key), **columns.interval("average_rank", ranks[key])} for key in keys]
    joined = pd.DataFrame(rows).merge(summary.drop(columns="rank"), on="optimizer")
    ends = ["average_rank_low", "average_rank_high"]
    joined[ends] = joined[ends].clip(1, ranks.shape[1])
    return joined.sort_values(["average_rank", "label"], ignore_index=True)


def _places(study: StudyResults) -> pd.DataFrame:
    """The rows of `places` for one study."""
    scores = values(study)
    functions = "functions" in study.facts.settings
    scores = scores[columns.in_order(study.facts.optimizers, scores)]
    means = scores.mean(skipna=False).fillna(-np.inf)
    order = rankings.average_ranks(-scores.dropna()) if functions else -means
    first = str(order.idxmin())
    tuned: Any = _tuned_on_functions(study) if functions else _tuned_on_networks(study)
    rows = []
    for key in map(str, scores):
        own = scores[key].dropna()
        behind = columns.interval("behind", comparison.paired_difference(scores, key, first))
        pairs = comparison.paired_difference(scores, key, YARDSTICK if YARDSTICK in scores else None)
        test = rankings.wilcoxon(pd.Series(pairs))[1] if functions and pairs else sign_flip_test(pairs)
        rows.append(
            {
                "task": study.facts.study,
                **columns.names(study, key),
                "problems": len(own),
                **columns.interval("score", own),
                **tuned.loc[key].to_dict(),
                **behind,
                "beside_first": key == first or behind["behind_low"] <= 0 <= behind["behind_high"],
                **columns.interval("difference", pairs),
                "p": test,
            }
        )
    table = pd.DataFrame(rows)
    table["rank"] = table.optimizer.map(order.rank())
    attainable = functions or table.p.count() * 2.0 ** (1 - table.problems.max()) <= ALPHA
    table["p_holm"] = holm(table.p.tolist()) if attainable else np.nan
    return table


def _tuned_on_functions(study: StudyResults) -> pd.DataFrame:
    """By optimizer: learning_rate, on_edge, diverged, tuning_diverged."""
    groups = benchmark.scores(study).groupby("optimizer", sort=False)
    return groups.agg(
        learning_rate=("learning_rate", "median"),
        on_edge=("on_edge", "mean"),
        diverged=("diverged", "sum"),
        tuning_diverged=("tuning_diverged", "sum"),
    )


def _tuned_on_networks(study: StudyResults) -> pd.DataFrame:
    """By optimizer: learning_rate, on_edge, diverged, tuning_diverged."""
    cells = comparison.tuned_cells(study)
    runs = study.runs[study.runs.metric == "diverged"]
    table = pd.DataFrame({"learning_rate": cells.learning_rate, "on_edge": cells.on_boundary.astype(float)})
    for column, role in (("diverged", "test"), ("tuning_diverged", "tune")):
        counts = runs[runs.role == role].groupby("optimizer").run.nunique()
        table[column] = counts.reindex(table.index, fill_value=0)
    return table
