"""Tables in Parquet files, of which a damaged one is found: by the checksums of its pages and the names in its end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from optrepro.damage import DamagedFileError, reading


def read(path: Path) -> pd.DataFrame:
    """The table in a file. Raises: FileNotFoundError; DamagedFileError for a damaged file, or one of another kind."""
    from pyarrow import parquet

    with reading(path, "a table in Parquet"):
        table = parquet.read_table(path, page_checksum_verification=True)
        # The end of the file has no checksum, but holds the names of the columns twice.
        described = (table.schema.pandas_metadata or {}).get("columns")
        if described is not None and [column["name"] for column in described] != table.column_names:
            raise DamagedFileError(path, f"its columns {table.column_names} are not those that were written")
        frame: pd.DataFrame = table.to_pandas()
        return frame
