"""The plug is pulled: whatever is killed, the same command goes on, repeats nothing and gives the same bytes."""

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from optrepro import config
from optrepro.layout import RECORD
from optrepro.provenance import file_hash
from tests.workflow.conftest import Project

pytestmark = pytest.mark.system

KILLS = int(os.environ.get("OPTREPRO_KILLS", "20"))
SCALE = """
extends: smoke.yaml
scale: faults
studies:
  vlse:
    functions: &functions [booth, sphere, levy, rastrigin, ackley, beale]
    optimizers: {drop: [nesterov, rmsprop, adamw, adagrad, momentum, rprop]}
  vlse-surfaces: {functions: *functions, resolution: 21}
  gap-sgdm: {runs_per_job: optimizer, steps: 60, optimizers: {from: sgdm, keep: [momentum-90, raw, random-raw]}}
REMOVED
"""
TARGETS = ("vlse-gallery", "vlse-baselines", "gap-sgdm", "--cores", "2", "--configfile", "config/faults.yaml")
KEPT = ("vlse", "vlse-surfaces", "gap-sgdm")


def results(folder: Path) -> dict[str, str]:
    """Checksums of results and figures, without the records of runs and what lists their checksums."""
    places = [*folder.glob("results/faults/**/*.parquet"), *folder.glob("figures/faults/*.svg")]
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in places}


def finished(folder: Path) -> dict[str, int]:
    """The batches in the store, each with the length of its log, which grows whenever the batch runs."""
    records = [json.loads(path.read_text()) for path in folder.glob(f"state/store/*/{RECORD}")]
    return {each["batch"]: (folder / f"logs/faults/runs/{each['batch']}.log").stat().st_size for each in records}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A copy of the project in which everything ran undisturbed, and one in which nothing has run."""
    made = []
    for name in ("undisturbed", "disturbed"):
        project = Project(tmp_path_factory.mktemp(name))
        studies = config.load(project.folder / "config" / "smoke.yaml").studies
        removed = "\n".join(f"  {study}: null" for study in studies if study not in KEPT)
        (project.folder / "config" / "faults.yaml").write_text(SCALE.replace("REMOVED", removed))
        made.append(project)
    made[0].snakemake(*TARGETS)
    return made[0], made[1]


def test_killed_at_random_moments_it_ends_with_the_same_bytes_and_repeats_nothing(
    projects: tuple[Project, Project],
) -> None:
    undisturbed, project = projects
    moments = random.Random(11)
    for _ in range(KILLS):
        before = finished(project.folder)
        process = project.start("snakemake", *TARGETS, stdout=subprocess.DEVNULL)
        try:
            process.wait(timeout=moments.uniform(0.5, 12))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            assert process.returncode == 0
        after = finished(project.folder)
        assert {batch: after.get(batch) for batch in before} == before
    project.snakemake(*TARGETS)
    assert results(project.folder) == results(undisturbed.folder)
