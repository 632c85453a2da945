"""Tidy results: one long table of runs, written so that equal results give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable
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


def metric_rows(run: Run, rate: float, metric: str, value: Any, seed: Any = 0, step: Any = 0) -> pd.DataFrame:
    """Make tidy rows of one metric; `value`, `seed` and `step` are broadcast against each other."""
    value, seed, step = np.broadcast_arrays(np.atleast_1d(value), seed, step)
    return pd.DataFrame(
        {
            "run": run.id,
            "study": run.study,
            "workload": run.workload,
            "optimizer": run.optimizer,
            "role": run.role,
            "learning_rate": rate,
            "seed": seed.ravel(),
            "step": step.ravel(),
            "metric": metric,
            "value": _rounded(value.ravel().astype(np.float64)),
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
