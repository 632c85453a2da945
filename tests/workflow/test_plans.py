"""Plans of the workflow at every scale, what a change makes it do again, and mistakes that stop it."""

import json
import re

import pytest
import yaml

from optrepro import catalogue, config, layout, runtable
from optrepro.experiments import status
from tests.workflow.conftest import ROOT, TIDY, Project

pytestmark = pytest.mark.system

SMOKE = ("--configfile", "config/smoke.yaml")
PAPER = ("--configfile", "config/paper.yaml")
CATALOGUE = catalogue.load(ROOT / "config")
EXHIBITS = CATALOGUE.exhibits
RUNNING = re.compile(r"study_.*|batch|data")


MINI = (TIDY, "--configfile", "config/mini.yaml")
CHANGES = {  # with the number of batches that are not in the store then
    "optimizers.momentum-90.settings.momentum=0.91": 1,
    "optimizers.raw.settings.momentum=[0.5,0.9]": 2,  # the control that repeats the row's shares follows it
    "steps=5": 3,
    "optimizers.momentum-90.label=heavy": 0,
    "optimizers.nadam={label: NAdam, class: torch.optim.NAdam}": 1,
}


def test_without_a_change_nothing_reruns(mini: Project) -> None:
    assert mini.plan(*MINI) == {}


@pytest.mark.parametrize(("change", "batches"), CHANGES.items(), ids=CHANGES)
def test_a_change_reruns_what_it_concerns_and_what_follows(
    mini: Project, change: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    override = f"studies.gap-sgdm.{change}"
    assert mini.plan(*MINI, "--config", f"set={json.dumps([override])}") == {"study_gap-sgdm": 1}
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(mini.folder)
    [found] = status.of(config.load("config/mini.yaml", [override]), ["gap-sgdm"])
    assert found.batches - found.done == batches


def test_redrawing_starts_at_committed_results_and_runs_nothing(project: Project) -> None:
    plan = project.plan("redraw", "--forceall")
    assert plan["published_exhibit"] == len(CATALOGUE.published())
    assert not any(map(RUNNING.fullmatch, plan))


def test_a_bare_call_plans_every_exhibit_of_the_laptop_scale_and_one_job_for_studies_of_the_same_tables(
    project: Project,
) -> None:
    plan = project.plan()
    studies = list(config.load(ROOT / "config" / "laptop.yaml").studies)
    first, *others = (study for study in studies if study.startswith("gap-batch-"))
    assert plan[f"study_{first}"] == 1
    assert not {f"study_{study}" for study in others} & set(plan)
    assert {f"study_{study}" for study in ("gap-sgdm", "gap-overhead", "pop-training", "pop")} < set(plan)
    assert plan["exhibit"] == len(EXHIBITS)
    assert "batch" not in plan


def test_on_a_cluster_each_batch_is_a_job_of_its_own(project: Project) -> None:
    plan = project.plan("--workflow-profile", "profiles/slurm", *PAPER)
    settings = config.load(ROOT / "config" / "paper.yaml")
    assert plan["batch"] == sum(len(runtable.batches(settings, study)) for study in settings.studies)
    assert {name for name in plan if name.startswith("study_")} == {
        name for name in project.plan(*PAPER) if name.startswith("study_")
    }
    assert plan["exhibit"] == len(EXHIBITS)


def test_every_data_set_of_a_study_is_fetched_before_its_runs_and_weights_are_trained(project: Project) -> None:
    def plan(batch: str) -> dict[str, int]:
        return project.plan(f"results/paper/runs/lto/{batch}/metrics.parquet", *PAPER)

    assert plan("adam") == {"data": 4, "batch": 1}
    assert plan("psd-bregman") == {"data": 4, "batch": 3}  # it begins with the imitation


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
