"""The table of a successive halving: what each candidate was, how far it came, and its score at each rung."""

from __future__ import annotations

from typing import Any

import pandas as pd

from optrepro.analysis.results import StudyResults
from optrepro.studies import kinds


def table(study: StudyResults) -> pd.DataFrame:
    """One row per candidate, the best first: those that came further, then by the score at their last rung.

    Columns: candidate, those of the grid, functions (trained on), rungs (reached), best (whether it is the last one
    left), and for each rung the best validation score so far (``score at N`` iterations; NaN beyond what it reached).
    """
    settings: Any = kinds.study(study.facts.settings)
    runs = study.runs
    scores = runs[runs.metric == "rung_score"].pivot(index="optimizer", columns="step", values="value")
    kept = runs[(runs.metric == "kept") & (runs.step == scores.columns.max())].set_index("optimizer").value
    seen = runs[runs.metric == "score"].groupby("optimizer", observed=True).step.max()
    rows = []
    for name, values in settings.candidates().items():
        own = scores.loc[name]
        rows.append(
            {
                "candidate": name,
                **{key: str(value) for key, value in values.items()},
                "functions": int(seen[name]),
                "rungs": int(own.count()),
                "best": bool(kept.get(name, 0)),
                **{f"score at {end:,}": score for end, score in own.items()},
            }
        )
    found = pd.DataFrame(rows)
    last = found.filter(like="score at").ffill(axis=1).iloc[:, -1]
    return (
        found.assign(last=last).sort_values(["rungs", "last"], ascending=False, ignore_index=True).drop(columns="last")
    )
