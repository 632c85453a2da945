"""Tidy results: one long table of runs, written so that equal results give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from optrepro import parquet
from optrepro.studies.base import Run

COLUMNS = {
    "run": "str",  # id in the run table
    "study": "str",
    "workload": "str",  # data set and network, or function
    "optimizer": "str",  # key in the config
    "role": "str",  # tune or test
    "learning_rate": "float64",
    "seed": "int32",  # repetition, or index of the starting point
    "step": "int32",
    "metric": "str",
    "value": "float64",
}


class Row(NamedTuple):
    """One row of the tidy table."""

    run: str
    study: str
    workload: str
    optimizer: str
    role: str
    learning_rate: float
    seed: int
    step: int
    metric: str
    value: float


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Make the tidy table of rows."""
    return pd.DataFrame(list(rows), columns=list(COLUMNS))


class Rows(NamedTuple):
    """Rows of one run and metric that differ in seed, step and value alone."""

    run: Run
    rate: float
    metric: str
    seed: NDArray[np.int64]
    step: NDArray[np.int64]
    value: NDArray[np.float64]


def metric_rows(run: Run, rate: float, metric: str, value: Any, seed: Any = 0, step: Any = 0) -> Rows:
    """Make tidy rows of one metric; `value`, `seed` and `step` are broadcast against each other."""
    value, seed, step = (np.ravel(each) for each in np.broadcast_arrays(np.atleast_1d(value), seed, step))
    return Rows(run, rate, metric, seed.astype(np.int64), step.astype(np.int64), _rounded(value.astype(np.float64)))


def joined(parts: Iterable[Rows]) -> pd.DataFrame:
    """Make the tidy table of rows of several runs and metrics. A table of each part would take most of the time."""
    parts = list(parts)
    lengths = [len(part.value) for part in parts]

    def repeated(of_part: Callable[[Rows], str | float]) -> NDArray[Any]:
        each = [of_part(part) for part in parts]
        return np.repeat(np.array(each, dtype=object if each and isinstance(each[0], str) else None), lengths)

    def in_a_row(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return pd.DataFrame(
        {
            "run": repeated(lambda part: part.run.id),
            "study": repeated(lambda part: part.run.study),
            "workload": repeated(lambda part: part.run.workload),
            "optimizer": repeated(lambda part: part.run.optimizer),
            "role": repeated(lambda part: part.run.role),
            "learning_rate": repeated(lambda part: part.rate),
            "seed": in_a_row("seed"),
            "step": in_a_row("step"),
            "metric": repeated(lambda part: part.metric),
            "value": in_a_row("value"),
        }
    )


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to 13 significant bits, about four digits; the trailing zero bits halve the file size."""
    mantissa, exponent = np.frexp(values)
    rounded: NDArray[np.float64] = np.ldexp(np.round(mantissa * 2**13) / 2**13, exponent)
    return rounded


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a tidy table as parquet. Rows keep their order, and the file holds no time stamp.

    Raises: ValueError if a column is missing or unknown.
    """
    if set(table.columns) != set(COLUMNS):
        raise ValueError(f"table has the columns {list(table.columns)}; a tidy table must have {list(COLUMNS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(table[list(COLUMNS)].astype(COLUMNS), path)


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write any table as parquet with settings that depend only on the table."""
    floats = [name for name in table.columns if pd.api.types.is_float_dtype(table[name])]
    others = [name for name in table.columns if name not in floats]
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(
        path,
        index=False,
        engine="pyarrow",
        compression="zstd",
        use_dictionary=others,
        # Splitting floats into byte streams groups similar exponents, which halves the compressed size.
        use_byte_stream_split=floats,
        write_page_checksum=True,
    )


def read(paths: Iterable[Path]) -> pd.DataFrame:
    """Read the rows of several tidy files, in the order of the files. Raises: see `parquet.read`."""
    return pd.concat([parquet.read(path) for path in paths], ignore_index=True)
