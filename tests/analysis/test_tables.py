import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from optrepro.analysis import tables
from optrepro.analysis.results import StudyResults
from optrepro.catalogue import TableEntry

CALLS: list[tuple[list[str], dict[str, Any]]] = []


def scores(*studies: StudyResults, **named: Any) -> pd.DataFrame:
    CALLS.append(([study.facts.study for study in studies], named))
    return pd.DataFrame({"value": [study.runs.value.sum() for study in studies]})


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("made_up.analysis")
    module.scores = scores
    monkeypatch.setitem(sys.modules, module.__name__, module)
    CALLS.clear()


@pytest.fixture
def tidy(tmp_path: Path) -> list[Path]:
    paths = []
    for name, value in (("images", 1.0), ("boxes", 2.0)):
        path = tmp_path / f"{name}.parquet"
        pd.DataFrame({"value": [value]}).to_parquet(path)
        facts = {"study": name, "scale": "tiny", "settings": {}, "dataset": None, "data": []}
        path.with_suffix(".json").write_text(json.dumps({**facts, "expected_runs": 0, "missing": []}))
        paths.append(path)
    return paths


def test_a_table_is_its_function_of_its_studies_in_their_order(tidy: list[Path]) -> None:
    entry = TableEntry(function="made_up.analysis.scores", studies=("images", "boxes"))
    assert tables.compute(entry, tidy).value.tolist() == [1.0, 2.0]
    assert CALLS == [(["images", "boxes"], {})]


def test_arguments_are_handed_over_where_the_entry_names_some(tidy: list[Path]) -> None:
    entry = TableEntry(function="made_up.analysis.scores", studies=("images",), arguments={"figure": "fig1"})
    tables.compute(entry, tidy[:1])
    assert CALLS == [(["images"], {"figure": "fig1"})]
