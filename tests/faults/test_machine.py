"""The machine fails: full disks, folders that cannot be written, memory that runs out, two workflows, odd clocks."""

import json
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.test_kills import finished, results
from tests.workflow.conftest import Project

pytestmark = pytest.mark.system

STUDIES = ("boxes", "images")
SCALE = """
scale: faults
device: cpu
studies:
  boxes:
    kind: functions
    functions: [booth, sphere]
    budget: 40
    tuning_starts: 2
    starts: 4
    learning_rates: [0.01, 0.1]
    optimizers: &rows
      sgd: {label: SGD, class: torch.optim.SGD}
      adam: {label: Adam, class: torch.optim.Adam}
  images:
    kind: training
    dataset: [digits]
    train_examples: null
    validation_examples: 300
    network: perceptron
    network_settings: {hidden: 8}
    batch_size: 32
    steps: 20
    learning_rates: [0.01, 0.1]
    tuning_repetitions: 1
    test_repetitions: 2
    optimizers: *rows
"""
WORK = ("optrepro", "work", "--config", "config/faults.yaml", "--workers", "2")
GREEDY = """
import resource, sys
import torch
from optrepro import cli
from optrepro.experiments.descent import benchmark
from optrepro.studies import functions

def run(study, batch, context):
    if batch.name == "adam":
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        torch.zeros(2**34)
    return original(study, batch, context)

original = benchmark.run
benchmark.run = run
sys.argv = ["optrepro", *sys.argv[1:]]
cli.entry_point()
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A copy of the project with a small scale, in which nothing has run."""
    folder = tmp_path / "project"
    folder.mkdir()
    copy = Project(folder)
    (copy.folder / "config" / "faults.yaml").write_text(SCALE)
    return copy


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The results of an undisturbed run."""
    copy = Project(tmp_path_factory.mktemp("undisturbed"))
    (copy.folder / "config" / "faults.yaml").write_text(SCALE)
    copy.call(*WORK)
    return results(copy.folder)


def test_where_files_cannot_grow_the_jobs_fail_with_the_reason_and_the_same_command_mends_it(
    project: Project, expected: dict[str, str]
) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    printed = project.call(*WORK, check=False, preexec_fn=small_files)
    assert "File too large" in printed
    assert "Traceback" not in printed
    assert "0 of 2 studies are complete" in printed
    project.call(*WORK)
    assert results(project.folder) == expected


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Within the block, a file system in memory is mounted at the folder."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs the rights of root")
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_fails_the_jobs_and_room_mends_it(project: Project, expected: dict[str, str]) -> None:
    with mounted(project.folder / "state", "size=64k"):
        printed = project.call(*WORK, check=False)
    assert "No space left on device" in printed
    assert "Traceback" not in printed
    project.call(*WORK)
    assert results(project.folder) == expected


def test_results_that_cannot_be_written_are_one_line_and_what_ran_is_kept(
    project: Project, expected: dict[str, str]
) -> None:
    with mounted(project.folder / "results" / "faults", "ro"):
        printed = project.call(*WORK, check=False)
    assert "Read-only file system" in printed
    assert "Traceback" not in printed
    before = finished(project.folder)
    assert len(before) == 4
    project.call(*WORK)
    assert finished(project.folder) == before
    assert results(project.folder) == expected


def test_a_job_for_which_memory_runs_out_fails_alone(project: Project, expected: dict[str, str]) -> None:
    printed = project.call("python", "-c", GREEDY, *WORK[1:], check=False)
    assert "boxes/adam failed: RuntimeError" in printed
    assert "1 of 2 studies are complete" in printed
    assert len(finished(project.folder)) == 3
    project.call(*WORK)
    assert results(project.folder) == expected


def test_two_calls_at_once_share_the_work_and_no_batch_runs_twice(project: Project, expected: dict[str, str]) -> None:
    both = [project.start(*WORK) for _ in range(2)]
    printed = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert results(project.folder) == expected
    for record in project.folder.glob("state/store/*/run.json"):
        facts = json.loads(record.read_text())
        assert facts["attempts"] == 1
        log = (project.folder / f"logs/faults/runs/{facts['batch']}.log").read_text()
        assert log.count(": ") <= 1  # one line of progress


def test_a_second_workflow_in_one_folder_is_refused_in_one_line(project: Project) -> None:
    targets = [f"results/faults/tidy/{study}.parquet" for study in STUDIES]
    command = ("snakemake", *targets, "--cores", "2", "--configfile", "config/faults.yaml")
    first = project.start(*command)
    lock = project.folder / ".snakemake" / "optrepro.lock"
    while not lock.exists() and first.poll() is None:
        pass
    printed = project.call(*command, check=False)
    assert "Another workflow is running in this folder" in printed
    assert first.wait() == 0


def test_a_clock_that_jumps_repeats_no_run_and_changes_no_result(project: Project) -> None:
    targets = [f"results/faults/tidy/{study}.parquet" for study in STUDIES]
    command = ("snakemake", *targets, "--cores", "2", "--configfile", "config/faults.yaml")
    project.call(*command)
    before, done = results(project.folder), finished(project.folder)
    chance = random.Random(3)
    for path in [*project.folder.glob("results/**/*"), *project.folder.glob("state/**/*")]:
        moment = chance.uniform(1e9, 2.5e9)  # between 2001 and 2049
        os.utime(path, (moment, moment))
    project.call(*command)
    assert results(project.folder) == before
    assert finished(project.folder) == done
