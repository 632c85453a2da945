import gc
import json
import weakref
from pathlib import Path

import pandas as pd
import pytest

from optrepro.analysis.results import Facts, StudyResults, once_per_study, read_facts, read_study
from optrepro.damage import DamagedFileError

RECORD = {
    "study": "images",
    "scale": "tiny",
    "settings": {"optimizers": {"sgd": {"label": "SGD"}, "adam": {"label": "Adam"}}},
    "dataset": "digits",
    "data": [{"file": "digits.csv", "official": True}],
    "expected_runs": 3,
    "missing": ["0123456789"],
}


@pytest.fixture
def tidy(tmp_path: Path) -> Path:
    path = tmp_path / "images.parquet"
    pd.DataFrame({"run": ["a"], "value": [0.5]}).to_parquet(path)
    path.with_suffix(".json").write_text(json.dumps(RECORD))
    return path


def test_a_study_is_its_runs_with_the_facts_beside_them(tidy: Path) -> None:
    study = read_study(tidy)
    assert study.runs.to_dict("list") == {"run": ["a"], "value": [0.5]}
    assert study.facts == read_facts(tidy.with_suffix(".json"))


def test_facts_are_those_of_the_file(tidy: Path) -> None:
    assert read_facts(tidy.with_suffix(".json")) == Facts(
        study="images",
        scale="tiny",
        settings=RECORD["settings"],
        dataset="digits",
        data=({"file": "digits.csv", "official": True},),
        expected_runs=3,
        missing=("0123456789",),
    )


def test_optimizers_keep_the_order_of_the_config_and_their_labels(tidy: Path) -> None:
    facts = read_study(tidy).facts
    assert list(facts.optimizers) == ["sgd", "adam"]
    assert facts.label("adam") == "Adam"


def test_a_study_without_optimizers_has_none(tidy: Path) -> None:
    tidy.with_suffix(".json").write_text(json.dumps({**RECORD, "settings": {}}))
    assert read_study(tidy).facts.optimizers == {}


def test_a_fact_that_is_unknown_or_missing_is_an_error(tidy: Path) -> None:
    for record in ({**RECORD, "more": 1}, {k: v for k, v in RECORD.items() if k != "scale"}):
        tidy.with_suffix(".json").write_text(json.dumps(record))
        with pytest.raises(DamagedFileError, match=r"images\.json is damaged"):
            read_study(tidy)


def test_a_step_is_taken_once_for_each_study_and_argument_and_forgotten_with_the_study(tidy: Path) -> None:
    taken = []

    @once_per_study
    def step(study: StudyResults, name: str, scale: float = 1.0) -> str:
        taken.append((name, scale))
        return f"{name} of {study.facts.study}"

    first, second = read_study(tidy), read_study(tidy)
    assert [step(first, "mean"), step(first, "mean"), step(first, "mean", scale=2.0)] == ["mean of images"] * 3
    assert taken == [("mean", 1.0), ("mean", 2.0)]
    step(second, "mean")
    assert len(taken) == 3
    there = weakref.ref(first)
    del first
    gc.collect()
    assert there() is None
