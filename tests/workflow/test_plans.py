"""Plans of the workflow at every scale, what a change makes it do again, and mistakes that stop it."""

import json
import re

import pytest
import yaml

from optrepro import catalogue, config, layout, runtable
from tests.workflow.conftest import ROOT, TIDY, Project

SMOKE = ("--configfile", "config/smoke.yaml")
PAPER = ("--configfile", "config/paper.yaml")
EXHIBITS = catalogue.load(ROOT / "config").exhibits
RUNNING = {"runs", "collect", "data"}


MINI = (TIDY, "--configfile", "config/mini.yaml")
CHANGES = {
    "optimizers.momentum-90.settings.momentum=0.91": {"runs": 1, "collect": 1},
    # the control that repeats the shares of the changed row follows it
    "optimizers.raw.settings.momentum=[0.5,0.9]": {"runs": 2, "collect": 1},
    "steps=5": {"runs": 3, "collect": 1},
    "optimizers.momentum-90.label=heavy": {"collect": 1},
    "optimizers.nadam={label: NAdam, class: torch.optim.NAdam}": {"runs": 1, "collect": 1},
}


def test_without_a_change_nothing_reruns(mini: Project) -> None:
    assert mini.plan(*MINI) == {}


@pytest.mark.parametrize(("change", "jobs"), CHANGES.items(), ids=CHANGES)
def test_a_change_reruns_what_it_concerns_and_what_follows(mini: Project, change: str, jobs: dict[str, int]) -> None:
    assert mini.plan(*MINI, "--config", f"set={json.dumps([f'studies.gap-sgdm.{change}'])}") == jobs


def test_redrawing_starts_at_committed_results_and_runs_nothing(project: Project) -> None:
    plan = project.plan("redraw", "--forceall")
    assert plan["published_exhibit"] == len(EXHIBITS)
    assert RUNNING.isdisjoint(plan)


@pytest.mark.parametrize(("arguments", "scale"), [((), "laptop"), (PAPER, "paper")], ids=["a bare call", "paper"])
def test_a_plan_holds_every_batch_and_every_exhibit_of_its_scale(
    project: Project, arguments: tuple[str, ...], scale: str
) -> None:
    plan = project.plan(*arguments)
    settings = config.load(ROOT / "config" / f"{scale}.yaml")
    batches = sum(len(runtable.batches(settings, study)) for study in settings.studies)
    assert plan["runs"] + plan["meta_training"] == batches
    assert plan["exhibit"] == len(EXHIBITS)


def test_every_data_set_of_a_study_is_fetched_before_its_runs_and_weights_are_trained(project: Project) -> None:
    def plan(batch: str) -> dict[str, int]:
        return project.plan(f"results/paper/runs/lto/{batch}/metrics.parquet", *PAPER)

    assert plan("adam") == {"data": 4, "runs": 1}
    assert plan("psd-bregman") == {"data": 4, "runs": 1, "meta_training": 2}  # it begins with the imitation


@pytest.mark.parametrize("profile", ["default", "gpu", "slurm"])
def test_under_every_profile_the_jobs_of_a_study_ask_for_a_gpu_where_its_settings_do(
    project: Project, profile: str
) -> None:
    settings = config.load(ROOT / "config" / "paper.yaml")
    last = {study: runtable.batches(settings, study)[-1].name for study in settings.studies}
    targets = [str(layout.metrics("paper", study, batch)) for study, batch in last.items()]
    output = project.snakemake(*targets, "--workflow-profile", f"profiles/{profile}", *PAPER, "--dry-run")
    # The lines that describe a job are indented; two of them hold its study and its resources.
    asked = set(re.findall(r"study=([\w-]+), batch=.*\n(?:    .*\n)*?    resources: .*\bgpu=(\d)", output))
    assert asked == {(name, str(int(getattr(study, "gpu", False)))) for name, study in settings.studies.items()}


def test_profiles_say_how_to_run_and_never_what() -> None:
    for path in (ROOT / "profiles").glob("*/profile.yaml"):
        assert "config" not in yaml.safe_load(path.read_text())


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
