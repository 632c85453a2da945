"""Tidy tables from lists of rows."""

from __future__ import annotations

from typing import Any

import pandas as pd


def frame(rows: list[list[Any]]) -> pd.DataFrame:
    columns = ["run", "study", "workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)
