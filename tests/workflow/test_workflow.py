"""The workflow really runs: from scratch at smoke scale, and as plans at the others."""

import json
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from optrepro import catalogue, config, runtable
from optrepro.exhibits.render import FORMATS
from tests.workflow.conftest import ROOT, Project

SMOKE = ("--configfile", "config/smoke.yaml")
EXHIBITS = catalogue.load(ROOT / "config").exhibits
RUNS_NOTHING = {"check", "runs", "collect", "data"}


def test_a_run_from_scratch_makes_every_exhibit_in_every_format(smoke: Project) -> None:
    missing = [
        f"{name}.{suffix}"
        for name in EXHIBITS
        for suffix in FORMATS
        if not (smoke.folder / "figures" / "smoke" / f"{name}.{suffix}").stat().st_size
    ]
    assert missing == []
    report = (smoke.folder / "results" / "smoke" / "report.html").read_text()
    assert all(f'id="{name}"' in report for name in EXHIBITS)


def test_every_run_of_the_run_table_left_a_result(smoke: Project) -> None:
    settings = config.load(ROOT / "config" / "smoke.yaml")
    expected = {run.id for run in runtable.table(settings)}
    tidy = (smoke.folder / "results" / "smoke" / "tidy").glob("*.parquet")
    present = set().union(*(pd.read_parquet(path, columns=["run"]).run for path in tidy))
    assert expected
    assert expected <= present


def test_a_second_run_does_nothing(smoke: Project) -> None:
    assert smoke.plan(*SMOKE) == {}


def test_verify_finds_everything_as_it_was_written(smoke: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from optrepro import verification

    monkeypatch.chdir(smoke.folder)
    findings = verification.verify("smoke", catalogue.load(Path("config")))
    assert [finding for finding in findings if finding.verdict != "ok"] == []


def test_editing_the_code_of_a_figure_redraws_that_figure_only(smoke: Project) -> None:
    module = smoke.folder / "src" / "optrepro" / "exhibits" / "gap_sweep.py"
    source = module.read_text()
    module.write_text(source + "\n# edited\n")
    try:
        plan = smoke.plan("figures", *SMOKE)
    finally:
        module.write_text(source)
    assert plan == {"exhibit": 1, "figures": 1}


def test_touching_a_file_reruns_nothing(smoke: Project) -> None:
    for module in (smoke.folder / "src" / "optrepro").rglob("*.py"):
        module.touch()
    assert smoke.plan(*SMOKE) == {}


def test_changing_one_optimizers_setting_reruns_that_one_and_what_follows(smoke: Project) -> None:
    override = "studies.gap-sgdm.optimizers.momentum-90.settings.momentum=0.91"
    plan = smoke.plan("gap-sgdm", *SMOKE, "--config", f"set={override}")
    assert plan["runs"] == 1
    assert plan["collect"] == 1
    assert plan["exhibit"] == 1


def test_changing_a_label_reruns_no_training(smoke: Project) -> None:
    override = "studies.gap-sgdm.optimizers.momentum-90.label=heavy"
    plan = smoke.plan("gap-sgdm", *SMOKE, "--config", f"set={override}")
    assert "runs" not in plan
    assert plan["exhibit"] == 1


def test_a_new_optimizer_joins_by_config_alone(smoke: Project) -> None:
    override = "studies.gap-sgdm.optimizers.nadam={label: NAdam, class: torch.optim.NAdam}"
    plan = smoke.plan("gap-sgdm", *SMOKE, "--config", json.dumps({"set": [override]})[1:-1].replace('"set": ', "set="))
    assert plan["runs"] == 1


@pytest.mark.parametrize("target", ["figures", "gap", "vlse", *EXHIBITS])
def test_targets_are_planned_and_done(smoke: Project, target: str) -> None:
    assert smoke.plan(target, *SMOKE) == {}


def test_redrawing_starts_at_committed_results_and_runs_nothing(project: Project) -> None:
    plan = project.plan("redraw", "--forceall")
    assert plan["published_exhibit"] == len(EXHIBITS)
    assert RUNS_NOTHING.isdisjoint(plan)


def test_a_bare_call_plans_the_laptop_scale(project: Project) -> None:
    plan = project.plan()
    settings = config.load(ROOT / "config" / "laptop.yaml")
    assert plan["runs"] == sum(len(runtable.batches(settings, study)) for study in settings.studies)
    assert plan["exhibit"] == len(EXHIBITS)


@pytest.mark.parametrize("profile", ["default", "gpu", "slurm"])
def test_profiles_plan_the_paper_scale_with_a_gpu_where_it_is_asked_for(project: Project, profile: str) -> None:
    output = project.snakemake(
        "--profile", f"profiles/{profile}", "--configfile", "config/paper.yaml", "--dry-run", check=False
    )
    jobs = output.split("rule ")
    training = [job for job in jobs if job.startswith("runs:") and "study=gap-" in job and "resnet" not in job]
    asking = [job for job in training if "gpu=1" in job]
    settings = config.load(ROOT / "config" / "paper.yaml")
    expected = sum(len(runtable.batches(settings, study)) for study in ("gap-sgdm", "gap-adam"))
    assert len(asking) == expected, output[-3000:]


def test_profiles_say_how_to_run_and_never_what() -> None:
    for path in (ROOT / "profiles").glob("*/profile.yaml"):
        assert "config" not in yaml.safe_load(path.read_text())


def test_planning_at_paper_scale_takes_less_than_a_minute(project: Project) -> None:
    # The figure of speed is in benchmarks/; this only catches a plan that has become quadratic.
    started = time.monotonic()
    project.plan("--configfile", "config/paper.yaml")
    assert time.monotonic() - started < 60


def test_a_wrong_value_is_one_clear_error_before_anything_runs(project: Project) -> None:
    output = project.snakemake("--dry-run", "--config", "set=studies.vlse.budget=-1", check=False)
    assert "studies.vlse.budget = -1 is not allowed" in output
    assert "Traceback" not in output


def test_a_setting_that_an_optimizer_refuses_stops_the_first_job(project: Project) -> None:
    override = "studies.gap-sgdm.optimizers.paper.settings.momentum=[0.5,1.2]"
    output = project.snakemake("gap-sgdm", "--cores", "1", *SMOKE, "--config", f"set={override}", check=False)
    assert "studies.gap-sgdm.optimizers.paper" in output
    assert "1.2" in output
    assert not (project.folder / "results" / "smoke" / "runs").exists()
