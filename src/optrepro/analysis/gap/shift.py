"""The settling test: training in which something changes sharply after half of the steps, before and after.

Accuracies are those of the test data in force. A run that diverged counts with accuracy 0 from then on. Each optimizer
keeps the learning rate that it was tuned to, by validation accuracy at the end of training through the same shift: the
question is how well it learns what comes after. Before the shift another rate may be better.

The best fixed candidate of a phase is the one with the highest mean validation accuracy in that phase, in the tuning
runs at its tuned rate. It may be another one before than after: a sweep that knew of the shift, which favours the fixed
ones. As tuning seeds are few, the one that the same rule picks in the runs that are reported stands beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import columns, comparison
from optrepro.analysis.results import StudyResults

PHASES = ("before", "after", "overall")  # accuracy at the half, at the end, and the mean over the curve


def scores(*studies: StudyResults) -> pd.DataFrame:
    """One row per study and optimizer, in the order of the config.

    Columns: study, shift (in words), optimizer, label, group, value (momentum of a fixed candidate), learning_rate,
    on_boundary; for each of PHASES the accuracy (``before``, ...) and its ``_difference``, paired over the seeds, to
    ``_reference`` (NaN for itself), both with ``_low`` and ``_high`` (Student's t, 95 %); ``_reference``, the best
    fixed candidate of that phase in the tuning runs, and ``_hindsight``, the one in the test runs, both on validation
    data; recovery, the median number of steps after the shift until a run reaches the accuracy again that the reference
    had with that seed before the shift (infinite if half of the runs do not), recovered, the share of the runs that do,
    and remaining, the steps there are; seeds, diverged, tuning_diverged.
    """
    return pd.concat([_scores(study) for study in studies], ignore_index=True)


def curves(*studies: StudyResults) -> pd.DataFrame:
    """`comparison.curves` of every study, and a column with its id."""
    return pd.concat([comparison.curves(study).assign(study=study.facts.study) for study in studies], ignore_index=True)


def choices(*studies: StudyResults) -> pd.DataFrame:
    """The share of choices that each candidate got: study, optimizer, candidate, before and after the shift."""
    return pd.concat([_choices(study) for study in studies], ignore_index=True)


def _scores(study: StudyResults) -> pd.DataFrame:
    test = _phases(study, "test", "test_accuracy")
    references, hindsight = (_best_fixed(study, role) for role in ("tune", "test"))
    tuned = comparison.tuned_cells(study)
    reached = _recovery(study, test["before"].get(references.get("before")))
    rows = []
    for key in tuned.index:
        row: dict[str, Any] = {"study": study.facts.study, "shift": in_words(study.facts.settings)}
        row |= {**comparison.names(study, key), **tuned.loc[key, ["learning_rate", "on_boundary"]]}
        for phase in PHASES:
            values = test[phase]
            difference = comparison.paired_difference(values, key, references.get(phase))
            row |= columns.interval(phase, values[key].dropna())
            row |= columns.interval(f"{phase}_difference", difference)
            row |= {f"{phase}_reference": references.get(phase), f"{phase}_hindsight": hindsight.get(phase)}
        rows.append(row | reached[key] | {"seeds": int(test["after"][key].count())})
    table = pd.DataFrame(rows)
    for role, column in (("test", "diverged"), ("tune", "tuning_diverged")):
        runs = study.runs[(study.runs.role == role) & (study.runs.metric == "diverged")]
        table[column] = table.optimizer.map(runs.groupby("optimizer").run.nunique()).fillna(0).astype(int)
    return table


def in_words(settings: Any) -> str:
    """What changes in a study, from its config."""
    words = {
        "classes": "labels moved on by one class",
        "inputs": "pixels permuted",
        "batch_size": f"batch size {settings['batch_size']} to {settings['shifted_to']:g}",
        "label_noise": f"{100 * settings['shifted_to']:g} % random labels",
    }
    return words[settings["shift"]]


def _best_fixed(study: StudyResults, role: str) -> dict[str, str]:
    """By phase: the fixed candidate with the highest mean validation accuracy in the runs of a role; empty if none."""
    fixed = [key for key, entry in study.facts.optimizers.items() if entry["group"] == "fixed"]
    phases = _phases(study, role, "validation_accuracy").items()
    means = {phase: values.mean().reindex(fixed).dropna() for phase, values in phases}
    return {phase: str(own.idxmax()) for phase, own in means.items() if len(own)}


def _phases(study: StudyResults, role: str, metric: str) -> dict[str, pd.DataFrame]:
    """By phase: an accuracy of the runs of a role, seeds by optimizers."""
    curve = _curve(study, role, metric)
    half = _half(study)
    phases = {"before": curve[half], "after": curve[curve.columns.max()], "overall": curve.mean(axis=1)}
    return {phase: values.unstack("optimizer") for phase, values in phases.items()}


def _curve(study: StudyResults, role: str, metric: str) -> pd.DataFrame:
    """An accuracy of the runs of a role at the tuned rates, (optimizer, seed) by step; 0 from where a run diverged."""
    tuned = study.runs[study.runs.role == "test"].groupby("optimizer").learning_rate.first()
    runs = study.runs[(study.runs.role == role) & (study.runs.learning_rate == study.runs.optimizer.map(tuned))]
    curve = runs[runs.metric == metric].pivot_table(index=["optimizer", "seed"], columns="step", values="value")
    diverged = pd.MultiIndex.from_frame(runs[runs.metric == "diverged"][["optimizer", "seed"]])
    curve = curve.reindex(curve.index.union(diverged))
    curve.loc[diverged] = curve.loc[diverged].fillna(comparison.FAILED_ACCURACY)
    return curve


def _half(study: StudyResults) -> int:
    """The step of the shift: the last one of the first phase."""
    return int(study.facts.settings["steps"]) // 2


def _recovery(study: StudyResults, level: pd.Series | None) -> dict[str, dict[str, float]]:
    """By optimizer: recovery, recovered and remaining, see `scores`; `level` is the accuracy to reach, by seed."""
    half, steps = _half(study), int(study.facts.settings["steps"])
    curve = _curve(study, "test", "test_accuracy")
    later = curve[[step for step in curve.columns.astype(int) if step > half]]
    found: dict[str, dict[str, float]] = {}
    for key, own in later.groupby("optimizer"):
        steps_taken = []
        for seed, values in own.droplevel("optimizer").iterrows():
            wanted = np.nan if level is None else float(level.get(seed, np.nan))
            reached = values.index[values >= wanted]
            if wanted == wanted:
                steps_taken.append(float(reached[0] - half) if len(reached) else np.inf)
        # of an even number of runs the later one in the middle, since infinite steps have no mean
        median = float(np.quantile(steps_taken, 0.5, method="higher")) if steps_taken else np.nan
        share = float(np.isfinite(steps_taken).mean()) if steps_taken else np.nan
        found[str(key)] = {"recovery": median, "recovered": share, "remaining": steps - half}
    return found


def _choices(study: StudyResults) -> pd.DataFrame:
    table = comparison.choices(study).dropna(subset="share")  # what averages its candidates has counts of 0
    table = table.sort_values(["optimizer", "candidate", "step"], kind="stable")
    steps = table.groupby(["optimizer", "candidate"], sort=False).step
    lengths = table.step - steps.shift().fillna(0)
    phase = np.where(table.step <= _half(study), "before", "after")
    weighted = table.assign(phase=phase, taken=table.share * lengths, lengths=lengths)
    sums = weighted.groupby(["optimizer", "candidate", "phase"], sort=False)[["taken", "lengths"]].sum()
    shares = (sums.taken / sums.lengths).unstack("phase").reindex(columns=["before", "after"])
    return shares.reset_index().rename_axis(columns=None).assign(study=study.facts.study)
