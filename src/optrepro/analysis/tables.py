"""Tables of the catalogue, which are computed from the tidy results of their studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

import pandas as pd

from optrepro import layout
from optrepro.analysis.results import read_study
from optrepro.catalogue import TableEntry, named


def compute(entries: Mapping[str, TableEntry], scale: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Call the functions of tables on the tidy results of a scale, each of which is read once.

    Args:
        entries: the tables' entries in the catalogue, by name.
        scale: the scale, or ``published``.

    Yields: name and table.
    """
    read = cache(read_study)
    for name, entry in entries.items():
        function = named(entry.function, "table function")
        there = [study for study in entry.further if layout.tidy(scale, study).exists()]
        studies = [read(layout.tidy(scale, study)) for study in (*entry.studies, *there)]
        yield name, function(*studies, **entry.arguments)
