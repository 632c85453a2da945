"""What made-up studies consist of: tidy tables from lists of rows, and complete settings from those that matter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from optrepro import config
from optrepro.analysis.results import Facts
from optrepro.studies import kinds

SMOKE = Path(__file__).parents[2] / "config" / "smoke.yaml"


def frame(rows: list[list[Any]]) -> pd.DataFrame:
    """The tidy table of rows."""
    columns = ["run", "study", "workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def facts(study: str, scale: str, settings: Mapping[str, Any], *rest: Any) -> Facts:
    """Facts with complete settings."""
    return Facts(study, scale, complete(study, settings), *rest)


def complete(study: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study of the config, with those given over them; of its rows only those that are given."""
    whole = _smoke().studies[study]
    base = whole.model_dump(mode="json", by_alias=True)
    merged = _over(base, settings)
    for table in kinds.kind(base["kind"]).row_tables():
        template = next(iter(base[table].values()), {})
        if table in settings:
            merged[table] = {name: _over(template, row) for name, row in settings[table].items()}
    return merged


@cache
def _smoke() -> config.Config:
    return config.load(SMOKE)


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {key for key, value in changes.items() if isinstance(value, Mapping) and isinstance(base.get(key), Mapping)}
    both -= {"settings", "network_settings"}  # they hold what they are given
    return {**base, **changes, **{key: _over(base[key], changes[key]) for key in both}}
