"""The whole workflow really runs at smoke scale, from scratch; afterwards nothing is left to do."""

from pathlib import Path

import pandas as pd
import pytest

from optrepro import catalogue, config, runtable
from optrepro.exhibits.render import FORMATS
from tests.workflow.conftest import ROOT, Project

pytestmark = pytest.mark.system

SMOKE = ("--configfile", "config/smoke.yaml")
EXHIBITS = catalogue.load(ROOT / "config").exhibits


def test_a_run_from_scratch_makes_every_exhibit_in_every_format(smoke: Project) -> None:
    missing = [
        f"{name}.{suffix}"
        for name in EXHIBITS
        for suffix in FORMATS
        if not (smoke.folder / "figures" / "smoke" / f"{name}.{suffix}").stat().st_size
    ]
    assert missing == []
    pages = smoke.folder / "results" / "smoke" / "site" / "papers"
    site = "".join(path.read_text() for path in pages.glob("*.html"))
    assert [name for name, entry in EXHIBITS.items() if entry.system != "all" and f'id="{name}"' not in site] == []


def test_every_run_of_the_run_table_left_a_result(smoke: Project) -> None:
    settings = config.load(ROOT / "config" / "smoke.yaml")
    expected = {run.id for run in runtable.table(settings)}
    tidy = (smoke.folder / "results" / "smoke" / "tidy").glob("*.parquet")
    present = set().union(*(pd.read_parquet(path, columns=["run"]).run for path in tidy))
    assert expected
    assert expected <= present


def test_a_second_run_does_nothing(smoke: Project) -> None:
    assert smoke.plan(*SMOKE) == {}


def test_every_system_and_every_exhibit_is_a_target_and_is_done(smoke: Project) -> None:
    systems = {entry.system for entry in EXHIBITS.values()} - {"all"}
    assert smoke.plan("figures", *systems, *EXHIBITS, *SMOKE) == {}  # an unknown target is an error


def test_verify_finds_everything_as_it_was_written(smoke: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from optrepro import verification

    monkeypatch.chdir(smoke.folder)
    findings = verification.verify("smoke", catalogue.load(Path("config")))
    assert [finding for finding in findings if finding.verdict != "ok"] == []


def test_editing_the_code_of_a_figure_redraws_that_figure_only(smoke: Project) -> None:
    module = smoke.folder / "src" / "optrepro" / "exhibits" / "gap" / "sweep.py"
    source = module.read_text()
    module.write_text(source + "\nEDITED = True\n")
    try:
        plan = smoke.plan("figures", *SMOKE)
    finally:
        module.write_text(source)
    assert plan == {"exhibit": 1, "figures": 1}


def test_touching_a_file_reruns_nothing(smoke: Project) -> None:
    for module in (smoke.folder / "src" / "optrepro").rglob("*.py"):
        module.touch()
    assert smoke.plan(*SMOKE) == {}
