"""Tables of the catalogue, which are computed from the tidy results of their studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from optrepro.analysis.results import read_study
from optrepro.catalogue import TableEntry, named


def compute(entry: TableEntry, tidy: Sequence[Path]) -> pd.DataFrame:
    """Call the entry's function on its studies.

    Args:
        entry: the table's entry in the catalogue.
        tidy: parquet files of its studies, in the entry's order; the facts are beside them.
    """
    function = named(entry.function, "table function")
    studies = [read_study(path) for path in tidy]
    table: pd.DataFrame = function(*studies, **entry.arguments)
    return table
