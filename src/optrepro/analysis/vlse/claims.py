"""Rules for the checks on the benchmark functions."""

from __future__ import annotations

from collections.abc import Sequence

from optrepro.analysis.results import StudyResults
from optrepro.analysis.verdict import Verdict, judged, met


def reaches_optimum(study: StudyResults, *, optimizer: str, functions: Sequence[str], tolerance: float) -> Verdict:
    """Holds if the median final regret is at most `tolerance` on every function; in part on some."""
    runs = study.runs[(study.runs.optimizer == optimizer) & (study.runs.metric == "regret")]
    final = runs.sort_values("step").groupby(["workload", "seed"], observed=True).value.last()
    medians = final.groupby("workload", observed=True).median()[list(functions)]
    evidence = f"largest median final regret {medians.max():.1e}, on {medians.idxmax()}"
    return judged([met(bool(m <= tolerance)) for m in medians], evidence)
