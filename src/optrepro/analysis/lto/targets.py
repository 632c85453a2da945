"""The targets for Predicted Step Descent, which are those of this project and not the paper's, on tidy results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pandas as pd

from optrepro.analysis.lto import panels
from optrepro.analysis.results import StudyResults
from optrepro.analysis.targets import Measured, Measures, compare
from optrepro.analysis.verdict import interval_of, signed
from optrepro.conventions import PSD

L2L = "l2l"
LATE = 2 / 3  # share of the training after which validation is looked at


def table(*studies: StudyResults, targets: Mapping[str, Any]) -> pd.DataFrame:
    """One row per target: the columns of `optrepro.analysis.targets.compare`."""
    return compare(StepMeasures(studies), targets)


class StepMeasures(Measures):
    """On the panels of the figures, for the policy that ships."""

    def area(self) -> Measured:
        """Panels in which its area is the best or equivalent."""
        return self._reached("area")

    def final(self) -> Measured:
        """Panels in which its final objective is the best or equivalent."""
        return self._reached("final")

    def ended_above(self) -> Measured:
        """Runs that end above their start."""
        scores = panels.scores(self._study("lto"))
        runs = scores[scores.optimizer == PSD].repetitions.sum()
        lost, overshot = self._own.lost, self._own.overshot
        return Measured(lost, f"{lost or 'none'} of {runs}; {overshot or 'none'} overshot and recovered")

    def progress(self) -> Measured:
        """Panels longer than the trained horizon in which the objective does not fall beyond it (95 % interval)."""
        beyond = panels.progress(self._study("lto"))
        own = beyond[beyond.optimizer == PSD] if len(beyond) else beyond
        if own.empty:
            raise KeyError("runs beyond the trained horizon have no results")
        falls = [f"{row['dataset']} {signed(interval_of(row, 'progress'))}" for row in own.to_dict("records")]
        span = f"{own.trained.iloc[0]} to {own.end.iloc[0]}"
        return Measured(int((own.progress_low <= 0).sum()), f"fall from {span}: {', '.join(falls)}")

    def l2l_jumps(self) -> Measured:
        """Largest over smallest area of L2L's validations in the last third of its training, less 1."""
        logged = panels.metatraining(self._study("lto-training"))
        areas = logged[(logged.optimizer == L2L) & (logged.metric == "area")]
        if areas.empty:
            raise KeyError("L2L's validations have no results")
        late = areas[areas.step >= LATE * areas.step.max()].value
        words = f"{late.min():.3f} to {late.max():.3f} in {len(late)} validations"
        return Measured(late.max() / late.min() - 1, words)

    def rates(self) -> Measured:
        """Classic optimizers whose tuned learning rate is an end of its grid."""
        tuned = panels.tuned(self._study("lto"))
        classic = tuned[tuned.group.isin(panels.CLASSIC)]
        edges = [str(label) for label in classic.label[~classic.interior.astype(bool)]]
        words = f"{len(edges) or 'none'} of {len(classic)}"
        return Measured(len(edges), f"{words}: {', '.join(edges)}" if edges else words)

    def seeds(self) -> Measured:
        """Smallest number of training seeds of a row of the ablation."""
        table = panels.ablation(self._study("lto-ablation"))
        return Measured(int(table.seeds.min()), f"{table.seeds.min()} for each of {len(table)} rows")

    @cached_property
    def _own(self) -> Any:
        """The policy's row of the summary. Raises: KeyError if there is none."""
        summary = panels.summary(self._study("lto")).set_index("optimizer")
        if PSD not in summary.index:
            raise KeyError(f"{PSD} has no results")
        return summary.loc[PSD]

    def _reached(self, measure: str) -> Measured:
        counts = {verdict: int(self._own[f"{measure}_{verdict}"]) for verdict in panels.VERDICTS}
        words = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
        reached = counts["best"] + counts["equivalent"]
        return Measured(reached, f"{reached} of {self._own.panels} ({words})")
