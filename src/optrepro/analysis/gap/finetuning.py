"""Methods by tasks of fine-tuning: final test loss and accuracy, mean and standard deviation over seeds."""

from __future__ import annotations

import pandas as pd

from optrepro.analysis import comparison
from optrepro.analysis.results import StudyResults


def methods(*studies: StudyResults) -> pd.DataFrame:
    """One row per task, optimizer and measure, in the order of the configs.

    Columns: task (the study), optimizer, label, group, measure (test_loss, test_accuracy or exact_match), seeds, mean,
    std (over the test seeds, a diverged run with accuracy 0 or no loss), mean_low and mean_high (one standard deviation
    to each side), best (whether no other optimizer of the task has a better mean).
    """
    rows = []
    for study in studies:
        for measure in comparison.MEASURES:
            if not (study.runs.metric == measure).any():
                continue
            values = comparison.final(study, measure)
            means, spread = values.mean(), values.std()
            best = means.min() if measure == "test_loss" else means.max()
            for key in (key for key in study.facts.optimizers if key in values):
                rows.append(
                    {
                        "task": study.facts.study,
                        **comparison.names(study, key),
                        "measure": measure,
                        "seeds": values[key].count(),
                        "mean": means[key],
                        "std": spread[key],
                        "mean_low": means[key] - spread[key],
                        "mean_high": means[key] + spread[key],
                        "best": means[key] == best,
                    }
                )
    return pd.DataFrame(rows).drop(columns="value")
