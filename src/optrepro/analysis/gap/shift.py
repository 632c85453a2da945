"""Training with an abrupt shift after half of the steps: accuracy before and after it, and recovery.

Accuracies are on the test data of the current phase. A diverged run counts with accuracy 0 from its divergence on. Each
optimizer has one learning rate, tuned by validation accuracy at the end of training with the same shift, since the
question is how well it learns after the shift; before it, another rate may be better.

The best fixed candidate of a phase has the highest mean validation accuracy in that phase, in the tuning runs at its
tuned rate. It may differ between phases, which favours the fixed candidates, because a practitioner does not know the
shift. As there are few tuning seeds, the candidate that is best in the test runs is reported too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from optrepro.analysis import columns, comparison
from optrepro.analysis.results import StudyResults

PHASES = ("before", "after", "overall")  # accuracy before the shift, at the end, and the mean over the curve


def scores(*studies: StudyResults) -> pd.DataFrame:
    """One row per study and optimizer, in the order of the config.

    Columns: study, shift (in words), optimizer, label, group, value (momentum of a fixed candidate), learning_rate,
    on_boundary; for each of PHASES the accuracy (``before``, ...) and its ``_difference`` to ``_reference``, paired
    over the seeds (NaN for the reference itself), both with ``_low`` and ``_high`` (Student's t, 95 %);
    ``_reference``, the best fixed candidate of that phase in the tuning runs, and ``_hindsight``, that in the test
    runs, both on validation data; recovery, the median number of steps after the shift until a run reaches the
    accuracy that the reference had with the same seed before the shift (infinite if half of the runs do not reach it),
    recovered, the share of runs that reach it, and remaining, the number of steps after the shift; seeds, diverged,
    tuning_diverged.
    """
    return pd.concat([_scores(study) for study in studies], ignore_index=True)


def curves(*studies: StudyResults) -> pd.DataFrame:
    """The columns of `comparison.curves` for every study, and study."""
    return pd.concat([comparison.curves(study).assign(study=study.facts.study) for study in studies], ignore_index=True)


def choices(*studies: StudyResults) -> pd.DataFrame:
    """Share of each candidate among the choices: study, optimizer, candidate, before and after (the shift)."""
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
    """The shift in words, from a study's config."""
    words = {
        "classes": "labels moved on by one class",
        "inputs": "pixels permuted",
        "batch_size": f"batch size {settings['batch_size']} to {settings['shifted_to']:g}",
        "label_noise": f"{100 * settings['shifted_to']:g} % random labels",
    }
    return words[settings["shift"]]


def _best_fixed(study: StudyResults, role: str) -> dict[str, str]:
    """By phase, the fixed candidate with the highest mean validation accuracy in the runs of a role, if any."""
    fixed = [key for key, entry in study.facts.optimizers.items() if entry["group"] == "fixed"]
    phases = _phases(study, role, "validation_accuracy").items()
    means = {phase: values.mean().reindex(fixed).dropna() for phase, values in phases}
    return {phase: str(own.idxmax()) for phase, own in means.items() if len(own)}


def _phases(study: StudyResults, role: str, metric: str) -> dict[str, pd.DataFrame]:
    """By phase, an accuracy of the runs of a role: seeds by optimizers."""
    curve = _curve(study, role, metric)
    half = _half(study)
    phases = {"before": curve[half], "after": curve[curve.columns.max()], "overall": curve.mean(axis=1)}
    return {phase: values.unstack("optimizer") for phase, values in phases.items()}


def _curve(study: StudyResults, role: str, metric: str) -> pd.DataFrame:
    """An accuracy in the runs of a role at the tuned rates, (optimizer, seed) by step; 0 after a run diverged."""
    tuned = study.runs[study.runs.role == "test"].groupby("optimizer").learning_rate.first()
    runs = study.runs[(study.runs.role == role) & (study.runs.learning_rate == study.runs.optimizer.map(tuned))]
    curve = runs[runs.metric == metric].pivot_table(index=["optimizer", "seed"], columns="step", values="value")
    diverged = pd.MultiIndex.from_frame(runs[runs.metric == "diverged"][["optimizer", "seed"]])
    curve = curve.reindex(curve.index.union(diverged))
    curve.loc[diverged] = curve.loc[diverged].fillna(comparison.FAILED_ACCURACY)
    return curve


def _half(study: StudyResults) -> int:
    """The last step before the shift."""
    return int(study.facts.settings["steps"]) // 2


def _recovery(study: StudyResults, level: pd.Series | None) -> dict[str, dict[str, float]]:
    """By optimizer, the columns recovery, recovered and remaining of `scores`; `level` is the target, by seed."""
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
        # for an even number of runs the upper median, since infinite values cannot be averaged
        median = float(np.quantile(steps_taken, 0.5, method="higher")) if steps_taken else np.nan
        share = float(np.isfinite(steps_taken).mean()) if steps_taken else np.nan
        found[str(key)] = {"recovery": median, "recovered": share, "remaining": steps - half}
    return found


def _choices(study: StudyResults) -> pd.DataFrame:
    table = comparison.choices(study).dropna(subset="share")  # rules that average their candidates have counts of 0
    table = table.sort_values(["optimizer", "candidate", "step"], kind="stable")
    steps = table.groupby(["optimizer", "candidate"], sort=False).step
    lengths = table.step - steps.shift().fillna(0)
    phase = np.where(table.step <= _half(study), "before", "after")
    weighted = table.assign(phase=phase, taken=table.share * lengths, lengths=lengths)
    sums = weighted.groupby(["optimizer", "candidate", "phase"], sort=False)[["taken", "lengths"]].sum()
    shares = (sums.taken / sums.lengths).unstack("phase").reindex(columns=["before", "after"])
    return shares.reset_index().rename_axis(columns=None).assign(study=study.facts.study)
