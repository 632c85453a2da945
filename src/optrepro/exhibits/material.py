"""The input of an exhibit: its tables and the facts of their studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from optrepro.analysis.results import Facts


@dataclass(frozen=True)
class Material:
    """The tables of an exhibit by name, and the facts of its studies by id.

    An exhibit is a module with ``figure(material) -> matplotlib.figure.Figure`` and
    ``table(material) -> pandas.DataFrame``, the numbers in the figure as formatted text.
    """

    tables: Mapping[str, pd.DataFrame]
    facts: Mapping[str, Facts]

    def missing_runs(self) -> tuple[int, int]:
        """Number of missing runs of the studies, and number of expected ones."""
        facts = self.facts.values()
        return sum(len(each.missing) for each in facts), sum(each.expected_runs for each in facts)
