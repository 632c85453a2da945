"""The workflow on a real SLURM of one node: its results are a local run's, whatever becomes of its jobs meanwhile."""

import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.cluster.slurm import NODE, Slurm, wait_for
from tests.workflow.conftest import ROOT, Project

pytestmark = [pytest.mark.system, pytest.mark.cluster]

PROFILE = ("--workflow-profile", "profiles/slurm")
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5")  # the profile waits for longer
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


def forget(project: Project, *folders: str) -> None:
    """Delete results, and the store, so that everything must run again."""
    for folder in (*folders, "state"):
        shutil.rmtree(project.folder / folder)


class SlowStudy:
    """A study of two jobs, each of which asks for a GPU, in a copy of the project beside a cluster."""

    def __init__(self, project: Project, cluster: Slurm, pace: Path):
        self.project, self.cluster, self.pace = project, cluster, pace
        project.environment["OPTREPRO_TEST_PACE"] = str(pace)

    def start(self, *arguments: str) -> None:
        """Start the workflow, and wait until both jobs train."""
        with (self.pace / "output").open("w") as output:
            self.workflow = self.project.start("snakemake", *SLOW, *QUICK, *arguments, stdout=output)
        wait_for("both jobs train", lambda: len(set(self.steps())) == len(ROWS) or self.workflow.poll() is not None)
        assert self.workflow.poll() is None, (self.pace / "output").read_text()

    def finish(self) -> tuple[int, str]:
        """Let the steps take no more time than they need; the status of the workflow and what it printed."""
        (self.pace / "hurry").touch()
        status = self.workflow.wait(timeout=400)
        return status, (self.pace / "output").read_text()

    def steps(self) -> list[str]:
        """The process of every step so far."""
        path = self.pace / "steps"
        return path.read_text().split() if path.exists() else []

    def attempts(self) -> list[int]:
        """How many attempts the job of each row took."""
        folder = self.project.folder / "results/slow/runs/slow"
        return [json.loads((folder / row / "run.json").read_text())["attempts"] for row in ROWS]

    def result(self) -> bytes:
        """The study's tidy table."""
        return (self.project.folder / TIDY).read_bytes()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """A SLURM of one node."""
    if reason := slurm.missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path, for sockets
    try:
        with ExitStack() as stack:
            try:
                running = stack.enter_context(slurm.start(folder))
            except TimeoutError as error:
                pytest.skip(f"SLURM does not start here: {error}")
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def copy(cluster: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project with the slow study, beside the cluster."""
    project = Project(tmp_path_factory.mktemp("cluster"))
    config = project.folder / "config"
    (config / "slow").mkdir()
    (config / "slow/paper.yaml").write_text("title: A study that takes its time\nposition: 9\n")
    (config / "slow/studies.yaml").write_text(STUDY)
    (config / "slow/exhibits.yaml").write_text("tables: {}\nexhibits: {}\n")
    (config / "slow/claims.yaml").write_text("[]\n")
    (config / "slow.yaml").write_text("extends: [slow]\nscale: slow\n")
    shutil.copy(Path(__file__).with_name("slow.py"), project.folder / "src")
    project.environment |= cluster.variables
    return project


@pytest.fixture(scope="module")
def undisturbed(copy: Project) -> bytes:
    """The results of the slow study, run here and without a pause."""
    copy.snakemake(*SLOW, *LOCAL)
    return (copy.folder / TIDY).read_bytes()


@pytest.fixture
def slow(copy: Project, undisturbed: bytes, cluster: Slurm, tmp_path: Path) -> Iterator[SlowStudy]:
    """The study, not run yet."""
    forget(copy, "results/slow")
    study = SlowStudy(copy, cluster, tmp_path)
    yield study
    if study.workflow.poll() is None:  # the test has failed
        study.workflow.terminate()
        study.workflow.wait()
    copy.environment.pop("OPTREPRO_TEST_PACE")


def tables(project: Project) -> dict[str, bytes]:
    """The result tables of the smoke scale, by their paths."""
    folder = project.folder / "results/smoke"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_the_page_on_clusters_shows_the_command_that_is_tested() -> None:
    assert shlex.join(("snakemake", "vlse-gallery", *PROFILE, *SMOKE)) in (ROOT / "profiles/README.md").read_text()


def test_an_exhibit_has_the_numbers_of_a_local_run_and_only_its_runs_are_jobs(copy: Project, cluster: Slurm) -> None:
    copy.snakemake("vlse-gallery", *SMOKE, *LOCAL)
    local = tables(copy)
    forget(copy, "results/smoke", "figures/smoke")
    copy.snakemake("vlse-gallery", *PROFILE, *SMOKE, *QUICK)
    assert (copy.folder / "figures/smoke/vlse-gallery.svg").exists()
    assert tables(copy) == local
    comments = cluster("squeue", "--noheader", "--states=completed", "--format=%k").split()
    assert {comment.partition("_wildcards_")[0] for comment in comments} == {"rule_batch"}


def test_a_cancelled_job_is_reported_and_the_next_call_goes_on_where_it_was(
    slow: SlowStudy, undisturbed: bytes
) -> None:
    slow.start(*PROFILE, "--retries", "0")
    cancelled, _ = slow.cluster.jobs("running")
    slow.cluster("scancel", cancelled)
    wait_for("the job is cancelled", lambda: cancelled in slow.cluster.jobs("cancelled"))
    status, output = slow.finish()
    assert status == 1
    assert f"SLURM-job '{cancelled}' failed, SLURM status is: 'CANCELLED'" in output
    assert slow.project.plan(*SLOW, *PROFILE)["batch"] == 1
    slow.project.snakemake(*SLOW, *PROFILE, *QUICK)
    assert sorted(slow.attempts()) == [1, 2]
    assert slow.result() == undisturbed
    assert len(slow.steps()) == STEPS


def test_a_job_that_its_time_limit_ends_is_tried_again_and_goes_on(slow: SlowStudy, undisturbed: bytes) -> None:
    slow.start(*PROFILE, "--set-resources", "batch:runtime=1", "batch:slice_minutes=0")
    jobs = set(slow.cluster.jobs("running"))
    wait_for("the time is up", lambda: jobs <= set(slow.cluster.jobs("timeout")))
    status, output = slow.finish()
    assert status == 0, output
    assert "SLURM status is: 'TIMEOUT'" in output
    assert min(slow.attempts()) >= 2
    assert slow.result() == undisturbed
    assert len(slow.steps()) == STEPS


def test_two_jobs_have_a_gpu_each_and_run_again_when_their_node_was_down(slow: SlowStudy, undisturbed: bytes) -> None:
    slow.start("--profile", "profiles/slurm")  # so that the default profile, with its limit of one GPU, is mixed in
    jobs = slow.cluster.jobs("running")
    assert len(jobs) == len(ROWS)
    assert all("gres:gpu:1" in slow.cluster("scontrol", "show", "job", job) for job in jobs)
    slow.cluster("scontrol", "update", f"nodename={NODE}", "state=down", "reason=test")
    wait_for("both jobs wait", lambda: set(jobs) <= set(slow.cluster.jobs("pending")))
    slow.cluster("scontrol", "update", f"nodename={NODE}", "state=resume")
    status, output = slow.finish()
    assert status == 0, output
    assert "SLURM status is" not in output  # SLURM runs them again, and the workflow sees no failure
    assert slow.attempts() == [2, 2]
    assert slow.result() == undisturbed
