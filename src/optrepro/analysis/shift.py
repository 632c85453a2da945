"""The settling test: training in which something changes sharply after half of the steps, before and after.

Accuracies are those of the test data in force. A run that diverged counts with accuracy 0 from then on. Each optimizer
keeps the learning rate that it was tuned to, by validation accuracy at the end of training through the same shift.

The best fixed candidate of a phase is the one with the highest mean validation accuracy in that phase, in the runs that
are reported. It may be another one before than after: a sweep that knew of the shift, which favours the fixed ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import comparison
from optrepro.analysis.intervals import mean_interval
from optrepro.analysis.results import StudyResults

PHASES = ("before", "after", "overall")  # accuracy at the half, at the end, and the mean over the curve


def scores(*studies: StudyResults) -> pd.DataFrame:
    """One row per study and optimizer, in the order of the config.

    Columns: study, shift (in words), optimizer, label, group, value (momentum of a fixed candidate), learning_rate,
    on_boundary; for each of PHASES the accuracy (``before``, ...), ``_reference`` (the best fixed candidate of that
    phase) and ``_difference``, paired over the seeds, to it (NaN for itself), all with ``_low`` and ``_high``
    (Student's t, 95 %); recovery, the median number of steps after the shift until a run reaches the accuracy again
    that the best fixed candidate had with that seed before the shift (infinite if half of the runs do not), recovered,
    the share of the runs that do, and remaining, the steps there are; seeds, diverged, tuning_diverged.
    """
    return pd.concat([_scores(study) for study in studies], ignore_index=True)


def curves(*studies: StudyResults) -> pd.DataFrame:
    """`comparison.curves` of every study, and a column with its id."""
    return pd.concat([comparison.curves(study).assign(study=study.facts.study) for study in studies], ignore_index=True)


def choices(*studies: StudyResults) -> pd.DataFrame:
    """The share of choices that each candidate got: study, optimizer, candidate, before and after the shift."""
    return pd.concat([_choices(study) for study in studies], ignore_index=True)


def _scores(study: StudyResults) -> pd.DataFrame:
    test, validation = (_phases(study, f"{split}_accuracy") for split in ("test", "validation"))
    tuned = comparison.tuned_cells(study)
    fixed = [key for key in tuned.index if study.facts.optimizers[key]["group"] == "fixed"]
    references: dict[str, str] = {phase: str(validation[phase].mean()[fixed].idxmax()) for phase in PHASES if fixed}
    reached = _recovery(study, test["before"].get(references.get("before")))
    rows = []
    for key in tuned.index:
        row: dict[str, Any] = {"study": study.facts.study, "shift": in_words(study.facts.settings)}
        row |= {"optimizer": key, **_facts(study, key), **tuned.loc[key, ["learning_rate", "on_boundary"]]}
        for phase in PHASES:
            values = test[phase]
            difference = comparison.paired_difference(values, key, references.get(phase))
            row |= _interval(phase, values[key].dropna()) | {f"{phase}_reference": references.get(phase)}
            row |= _interval(f"{phase}_difference", difference)
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


def _phases(study: StudyResults, metric: str) -> dict[str, pd.DataFrame]:
    """By phase: a metric of the test runs, seeds by optimizers."""
    curve = _curve(study, metric)
    half = _half(study)
    columns = {"before": curve[half], "after": curve[curve.columns.max()], "overall": curve.mean(axis=1)}
    return {phase: values.unstack("optimizer") for phase, values in columns.items()}


def _curve(study: StudyResults, metric: str) -> pd.DataFrame:
    """An accuracy of the test runs, (optimizer, seed) by step; 0 from where a run diverged."""
    runs = study.runs[study.runs.role == "test"]
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
    curve = _curve(study, "test_accuracy")
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


def _facts(study: StudyResults, key: str) -> dict[str, Any]:
    entry = study.facts.optimizers[key]
    return {"label": entry["label"], "group": entry["group"], "value": comparison.candidate_of(entry)}


def _interval(name: str, values: Any) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), mean_interval(values), strict=True))
