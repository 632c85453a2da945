import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from optrepro import layout
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


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tidy results of two studies at the scale tiny."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("images", 1.0), ("boxes", 2.0)):
        path = layout.tidy("tiny", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"value": [value]}).to_parquet(path)
        facts = {"study": name, "scale": "tiny", "settings": {}, "dataset": None, "data": []}
        path.with_suffix(".json").write_text(json.dumps({**facts, "expected_runs": 0, "missing": []}))


def test_tables_are_their_functions_of_their_studies_in_their_order() -> None:
    both = TableEntry(function="made_up.analysis.scores", studies=("images", "boxes"))
    one = TableEntry(function="made_up.analysis.scores", studies=("boxes",), arguments={"figure": "fig1"})
    computed = dict(tables.compute({"both": both, "one": one}, "tiny"))
    assert {name: table.value.tolist() for name, table in computed.items()} == {"both": [1.0, 2.0], "one": [2.0]}
    assert CALLS == [(["images", "boxes"], {}), (["boxes"], {"figure": "fig1"})]


def test_further_studies_come_last_where_they_have_results() -> None:
    entry = TableEntry(function="made_up.analysis.scores", studies=("boxes",), further=("absent", "images"))
    [[_, table]] = tables.compute({"all": entry}, "tiny")
    assert CALLS == [(["boxes", "images"], {})]
    assert table.value.tolist() == [2.0, 1.0]
