"""Columns and rows that several tables of the analysis share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import ArrayLike

from optrepro.analysis.intervals import mean_interval
from optrepro.analysis.results import StudyResults


def in_order(order: Iterable[str], present: Iterable[Any]) -> list[str]:
    """The keys of `order` that are in `present`, in their order."""
    there = set(present)
    return [key for key in order if key in there]


def names(study: StudyResults, key: str) -> dict[str, str]:
    """Columns that name an optimizer of the config: optimizer, label, group."""
    entry = study.facts.optimizers[key]
    return {"optimizer": key, "label": str(entry["label"]), "group": str(entry["group"])}


def interval(name: str, values: ArrayLike) -> dict[str, float]:
    """Columns of the mean of `values` and its 95 % interval: name, name_low, name_high."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), mean_interval(values), strict=True))


def record(differences: Any) -> dict[str, int]:
    """Columns that count the differences above, equal to and below 0: wins, ties, losses."""
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return {"wins": wins, "ties": len(differences) - wins - losses, "losses": losses}
