"""Tidy results: one long table of runs, written so that equal results are equal bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

COLUMNS = {
    "run": "str",  # id in the run table
    "study": "str",
    "workload": "str",  # data set and network, or function
    "optimizer": "str",  # key in the config
    "role": "str",  # tune or test
    "learning_rate": "float64",
    "seed": "int32",  # repetition, or index of the start
    "step": "int32",
    "metric": "str",
    "value": "float64",
}


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a tidy table as parquet. Rows keep their order; no time stamp enters the file.

    Raises: ValueError if a column is missing or unknown.
    """
    if set(table.columns) != set(COLUMNS):
        raise ValueError(f"a tidy table has the columns {list(COLUMNS)}, not {list(table.columns)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(table[list(COLUMNS)].astype(COLUMNS), path)


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write any table as parquet with settings that depend on nothing but the table."""
    floats = [name for name in table.columns if pd.api.types.is_float_dtype(table[name])]
    others = [name for name in table.columns if name not in floats]
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(
        path,
        index=False,
        engine="pyarrow",
        compression="zstd",
        use_dictionary=others,
        # Splitting the bytes of floats puts alike exponents together, and they compress to half.
        use_byte_stream_split=floats,
    )


def read(paths: Iterable[Path]) -> pd.DataFrame:
    """The rows of several tidy files, in the order of the files."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
