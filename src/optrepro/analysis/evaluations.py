"""How often the collections of a study were looked at, by the record of evaluations."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from optrepro import evaluations
from optrepro.analysis.results import StudyResults

COLUMNS = ["study", "scale", "problems", "complete", "weights", "commits", "packages", "cpu_hours", "words"]


def of(study: StudyResults, record: str) -> pd.DataFrame:
    """One row per evaluation on record of the study, in their order; empty if there is none.

    Columns: study, scale, problems (0 before the end), complete, weights (row and SHA-256), commits, packages,
    cpu_hours, words (all of it in short).

    Args:
        study: the study.
        record: file of the record.
    """
    own = [each for each in evaluations.read(Path(record)) if each.study == study.facts.study]
    rows = [
        {
            "study": each.study,
            "scale": each.scale,
            "problems": sum(each.problems.values()),
            "complete": each.complete,
            "weights": ", ".join(f"{row} {sha}" for row, sha in each.weights.items()),
            "commits": ", ".join(each.commits),
            "packages": ", ".join(f"{package} {version}" for package, version in each.packages.items()),
            "cpu_hours": each.cpu_hours,
            "words": each.in_words(),
        }
        for each in own
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
