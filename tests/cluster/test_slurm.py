"""The workflow on a real SLURM of one node: its results are a local run's, whatever becomes of its jobs meanwhile."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.cluster.slurm import NODE, Slurm, wait_for
from tests.workflow.conftest import Project

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(bool(slurm.missing()), reason=f"no SLURM: {slurm.missing()}")]

# The README's way, but with a question after 2 seconds where that waits 20.
SLURM = (
    "--workflow-profile",
    "profiles/slurm",
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--latency-wait",
    "5",
)
LOCAL = ("--cores", "2")
SMOKE = ("--configfile", "config/smoke.yaml")
TIDY = "results/slow/tidy/slow.parquet"
SLOW = (TIDY, "--configfile", "config/slow.yaml")
ROWS = ("left", "right")
STEPS = len(ROWS) * 3 * 150
STUDY = """
studies:
  slow:
    kind: training
    dataset: [digits]
    train_examples: null
    validation_examples: 300
    network: perceptron
    network_settings: {hidden: 8}
    batch_size: 32
    steps: 150
    learning_rates: [0.1]
    tuning_repetitions: 1
    test_repetitions: 2
    gpu: true
    optimizers:
      left: {label: left, class: slow.SlowSGD, settings: {momentum: 0.5}}
      right: {label: right, class: slow.SlowSGD, settings: {momentum: 0.9}}
"""


class OnCluster:
    """A copy of the project beside a cluster: a slow study with two jobs, each of which asks for a GPU."""

    def __init__(self, project: Project, cluster: Slurm, pace: Path):
        self.project, self.cluster, self.pace = project, cluster, pace
        project.environment |= cluster.variables | {"OPTREPRO_TEST_PACE": str(pace)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the slow study, and wait until both jobs train."""
        workflow = self.project.start(*SLOW, *SLURM, *arguments)
        try:
            wait_for("both jobs train", lambda: len(set(self.steps())) == len(ROWS) or workflow.poll() is not None)
        except TimeoutError:
            workflow.kill()
            raise AssertionError(workflow.communicate()[0]) from None
        assert workflow.poll() is None, workflow.communicate()[0]
        return workflow

    def hurry(self) -> None:
        """Let the steps take no more time than they need."""
        (self.pace / "hurry").touch()

    def steps(self) -> list[str]:
        """The process of every step so far."""
        path = self.pace / "steps"
        return path.read_text().split() if path.exists() else []

    def result(self) -> bytes:
        """The study's tidy table."""
        return (self.project.folder / TIDY).read_bytes()

    def attempts(self) -> list[int]:
        """How many attempts the job of each row took."""
        folder = self.project.folder / "results/slow/runs/slow"
        return [json.loads((folder / row / "run.json").read_text())["attempts"] for row in ROWS]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path, for sockets
    try:
        with slurm.start(folder) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("cluster"))
    config = project.folder / "config"
    (config / "slow").mkdir()
    (config / "slow/paper.yaml").write_text("title: A study that takes its time\nposition: 9\n")
    (config / "slow/studies.yaml").write_text(STUDY)
    (config / "slow/exhibits.yaml").write_text("tables: {}\nexhibits: {}\n")
    (config / "slow/claims.yaml").write_text("[]\n")
    (config / "slow.yaml").write_text("extends: [slow]\nscale: slow\n")
    shutil.copy(Path(__file__).with_name("slow.py"), project.folder / "src")
    return project


@pytest.fixture(scope="module")
def undisturbed(copy: Project) -> bytes:
    """The results of the slow study, run here and without a pause."""
    copy.snakemake(*SLOW, *LOCAL)
    return (copy.folder / TIDY).read_bytes()


@pytest.fixture
def slow(copy: Project, undisturbed: bytes, cluster: Slurm, tmp_path: Path) -> OnCluster:
    shutil.rmtree(copy.folder / "results/slow")
    return OnCluster(copy, cluster, tmp_path)


def tables(project: Project) -> dict[str, bytes]:
    """The result tables of the smoke scale, by their paths."""
    folder = project.folder / "results/smoke"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_an_exhibit_has_the_numbers_of_a_local_run_and_only_its_runs_are_jobs(copy: Project, cluster: Slurm) -> None:
    copy.snakemake("vlse-gallery", *SMOKE, *LOCAL)
    local = tables(copy)
    shutil.rmtree(copy.folder / "results/smoke")
    shutil.rmtree(copy.folder / "figures/smoke")
    copy.environment |= cluster.variables
    copy.snakemake("vlse-gallery", *SMOKE, *SLURM)
    assert (copy.folder / "figures/smoke/vlse-gallery.svg").exists()
    assert tables(copy) == local
    comments = cluster("squeue", "--noheader", "--states=completed", "--format=%k").split()
    assert {comment.partition("_wildcards_")[0] for comment in comments} == {"rule_runs"}


def test_two_jobs_have_a_gpu_each_and_when_one_is_cancelled_the_next_call_goes_on(
    slow: OnCluster, undisturbed: bytes
) -> None:
    workflow = slow.start("--retries", "0")
    cancelled, other = slow.cluster.jobs("running")
    assert all("gpu:1" in slow.cluster("scontrol", "show", "job", job) for job in (cancelled, other))
    slow.cluster("scancel", cancelled)
    wait_for("the job is cancelled", lambda: cancelled in slow.cluster.jobs("cancelled"))
    slow.hurry()
    output, _ = workflow.communicate()
    assert workflow.returncode == 1
    assert f"SLURM-job '{cancelled}' failed, SLURM status is: 'CANCELLED'" in output
    assert slow.project.plan(*SLOW, *SLURM)["runs"] == 1
    slow.project.snakemake(*SLOW, *SLURM)
    assert sorted(slow.attempts()) == [1, 2]
    assert slow.result() == undisturbed
    assert len(slow.steps()) == STEPS  # the second attempt went on where the first was


def test_a_job_that_its_time_limit_ends_is_tried_again_and_goes_on(slow: OnCluster, undisturbed: bytes) -> None:
    workflow = slow.start("--set-resources", "runs:runtime=1", "runs:slice_minutes=0")
    jobs = slow.cluster.jobs("running")
    wait_for("the time is up", lambda: set(jobs) <= set(slow.cluster.jobs("timeout")))
    slow.hurry()
    output, _ = workflow.communicate()
    assert workflow.returncode == 0, output
    assert "SLURM status is: 'TIMEOUT'" in output
    assert slow.attempts() == [2, 2]
    assert slow.result() == undisturbed
    assert len(slow.steps()) == STEPS


def test_jobs_of_a_node_that_goes_down_run_again_when_it_is_back(slow: OnCluster, undisturbed: bytes) -> None:
    workflow = slow.start()
    slow.cluster("scontrol", "update", f"nodename={NODE}", "state=down", "reason=test")
    wait_for("both jobs wait", lambda: len(slow.cluster.jobs("pending")) == len(ROWS))
    slow.hurry()
    slow.cluster("scontrol", "update", f"nodename={NODE}", "state=resume")
    output, _ = workflow.communicate()
    assert workflow.returncode == 0, output
    assert slow.attempts() == [2, 2]
    assert slow.result() == undisturbed
