"""The workflow really runs: from scratch at smoke scale, and as plans at the others."""

import json
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from optrepro import catalogue, config, runtable
from optrepro.exhibits.render import FORMATS
from tests.workflow.conftest import ROOT, TIDY, Project

SMOKE = ("--configfile", "config/smoke.yaml")
EXHIBITS = catalogue.load(ROOT / "config").exhibits
RUNNING = {"runs", "collect", "data"}


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


MINI = (TIDY, "--configfile", "config/mini.yaml")
CHANGES = {
    "optimizers.momentum-90.settings.momentum=0.91": {"runs": 1, "collect": 1},
    # the control that repeats the shares of the changed row follows it
    "optimizers.raw.settings.momentum=[0.5,0.9]": {"runs": 2, "collect": 1},
    "steps=5": {"runs": 3, "collect": 1},
    "optimizers.momentum-90.label=heavy": {"collect": 1},
    "optimizers.nadam={label: NAdam, class: torch.optim.NAdam}": {"runs": 1, "collect": 1},
}


@pytest.mark.parametrize(("change", "jobs"), CHANGES.items(), ids=CHANGES)
def test_a_change_reruns_what_it_concerns_and_what_follows(mini: Project, change: str, jobs: dict[str, int]) -> None:
    assert mini.plan(*MINI) == {}
    assert mini.plan(*MINI, "--config", f"set={json.dumps([f'studies.gap-sgdm.{change}'])}") == jobs


@pytest.mark.parametrize("target", ["figures", "gap", "vlse", *EXHIBITS])
def test_targets_are_planned_and_done(smoke: Project, target: str) -> None:
    assert smoke.plan(target, *SMOKE) == {}


def test_redrawing_starts_at_committed_results_and_runs_nothing(project: Project) -> None:
    plan = project.plan("redraw", "--forceall")
    assert plan["published_exhibit"] == len(EXHIBITS)
    assert RUNNING.isdisjoint(plan)


def test_a_bare_call_plans_the_laptop_scale(project: Project) -> None:
    plan = project.plan()
    settings = config.load(ROOT / "config" / "laptop.yaml")
    batches = sum(len(runtable.batches(settings, study)) for study in settings.studies)
    assert plan["runs"] + plan["meta_training"] == batches
    assert plan["exhibit"] == len(EXHIBITS)


def test_every_data_set_of_a_study_is_fetched_before_its_runs_and_weights_are_trained(project: Project) -> None:
    def plan(batch: str) -> dict[str, int]:
        return project.plan(f"results/paper/runs/lto/{batch}/metrics.parquet", "--configfile", "config/paper.yaml")

    assert plan("adam") == {"data": 4, "runs": 1}
    assert plan("psd-bregman") == {"data": 4, "runs": 1, "meta_training": 2}  # it begins with the imitation


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
