"""The input of the analysis: the tidy results of a study and the facts that describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import pandas as pd

from optrepro import damage, parquet, provenance


@dataclass(frozen=True)
class Facts:
    """Facts about a study that tables and captions need besides its runs.

    Args:
        study: id of the study.
        scale: scale of the study.
        settings: resolved config of the study (labels, groups, grids, repetitions, ...).
        dataset: data set used, or None.
        data: one record per file that was read (name, sha256, examples, official), or empty.
        expected_runs: number of runs in the run table, including tuning (0: the study has no run table).
        missing: ids of runs without results.
        datasets: title of the data set of each workload, for studies with several.
        criterion: criterion of tuning on validation data: the highest accuracy or the lowest loss.
    """

    study: str
    scale: str
    settings: Mapping[str, Any]
    dataset: str | None
    data: tuple[Mapping[str, Any], ...]
    expected_runs: int
    missing: tuple[str, ...]
    datasets: Mapping[str, str] = field(default_factory=dict)
    criterion: Literal["accuracy", "loss"] = "accuracy"

    @property
    def optimizers(self) -> Mapping[str, Mapping[str, Any]]:
        """Config entries of the optimizers (label, group, settings, ...), in the order of the config."""
        optimizers: Mapping[str, Mapping[str, Any]] = self.settings.get("optimizers", {})
        return optimizers

    def label(self, optimizer: str) -> str:
        """The name of an optimizer in figures and tables."""
        return str(self.optimizers[optimizer]["label"])


@dataclass(frozen=True, eq=False)
class StudyResults:
    """The tidy runs of a study (columns: `optrepro.experiments.base.tidy.COLUMNS`) and its facts."""

    runs: pd.DataFrame
    facts: Facts


Further = ParamSpec("Further")
Result = TypeVar("Result")


def once_per_study(
    function: Callable[Concatenate[StudyResults, Further], Result],
) -> Callable[Concatenate[StudyResults, Further], Result]:
    """A function of a study, and of further arguments that can be hashed, whose results are kept with the study.

    The tables of a study have steps in common, which are taken once. All share the result, so none may change it.
    """
    found: WeakKeyDictionary[StudyResults, dict[Any, Result]] = WeakKeyDictionary()

    def remembering(study: StudyResults, /, *args: Further.args, **kwargs: Further.kwargs) -> Result:
        known, key = found.setdefault(study, {}), (args, tuple(sorted(kwargs.items())))
        if key not in known:
            known[key] = function(study, *args, **kwargs)
        return known[key]

    update_wrapper(remembering, function)
    return remembering


def read_facts(path: Path) -> Facts:
    """Read facts from the JSON file beside tidy results. Raises: DamagedFileError if it is not as it was written."""
    found = damage.record(provenance.verified(path, _sidecar(path)))
    with damage.reading(path, "the facts of a study"):
        return Facts(**{**found, "data": tuple(found["data"]), "missing": tuple(found["missing"])})


def read_study(tidy: Path) -> StudyResults:
    """Read a study from ``<study>.parquet`` and the ``<study>.json`` beside it.

    Raises: DamagedFileError if one of them is not as it was written.
    """
    runs = parquet.read(provenance.verified(tidy, _sidecar(tidy)))
    return StudyResults(runs, read_facts(tidy.with_suffix(".json")))


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".sidecar.json")
