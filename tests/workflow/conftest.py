"""A copy of the project in a temporary folder, in which the workflow really runs."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from optrepro import config

ROOT = Path(__file__).parents[2]
TIDY = "results/mini/tidy/gap-sgdm.parquet"
PARTS = (
    *("Snakefile", "workflow", "profiles", "config", "src", "docs", "environment.yml", "results/published"),
    *("README.md", "CONTRIBUTING.md", "data/README.md", "results/README.md"),  # the site takes in sections of them
)


class Project:
    """The copy, and snakemake in it. The copy's own source is what its jobs import."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {k: v for k, v in os.environ.items() if k != "OPTREPRO_DATA"}
        self.environment |= {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"}
        for part in PARTS:
            source, target = ROOT / part, folder / part
            if source.is_dir():
                made = ("tables", "site") if part.startswith("results") else ()
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", *made))
            else:
                target.parent.mkdir(exist_ok=True)
                shutil.copy(source, target)

    def start(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Start a command in the copy, in a process group of its own."""
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **more}
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, start_new_session=True, **pipes
        )

    def call(self, *command: str, check: bool = True, **more: Any) -> str:
        """Run a command in the copy; return all that it prints."""
        process = self.start(*command, **more)
        printed, _ = process.communicate()
        if check and process.returncode != 0:
            raise AssertionError(printed[-8000:])
        return printed

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run snakemake; return all that it prints."""
        return self.call("snakemake", *arguments, check=check)

    def plan(self, *arguments: str) -> dict[str, int]:
        """Number of jobs of each rule that a dry run would carry out."""
        output = self.snakemake(*arguments, "--dry-run", "--quiet", "host")
        lines = output.partition("Job stats:")[2].partition("\n\n")[0].splitlines()
        rows = [line.split() for line in lines if line.strip() and not line.startswith(("job", "---"))]
        return {name: int(count) for name, count in rows if name != "total"}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which nothing has run."""
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which the whole workflow has run at smoke scale, from scratch."""
    project = Project(tmp_path_factory.mktemp("smoke"))
    project.snakemake("--cores", "2", "--configfile", "config/smoke.yaml")
    return project


MINI = """
extends: smoke.yaml
scale: mini
studies:
  gap-adam: null
  gap-concept: null
  gap-diagnostics: null
  gap-families: null
  gap-greedy: null
  gap-rules-tuning: null
  gap-rules-images: null
  gap-rules-small-batch: null
  gap-rules-cnn: null
  gap-validation-sgd: null
  vlse: null
  vlse-surfaces: null
  gap-sgdm: {runs_per_job: optimizer, steps: 4, test_repetitions: 2, optimizers: {KEEP}}
"""
KEPT = ("momentum-90", "raw", "random-raw")


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which three optimizers of one study have run, each in a job of its own."""
    project = Project(tmp_path_factory.mktemp("mini"))
    optimizers = config.load(ROOT / "config" / "smoke.yaml").studies["gap-sgdm"].optimizers
    removed = ", ".join(f"{name}: null" for name in optimizers if name not in KEPT)
    (project.folder / "config" / "mini.yaml").write_text(MINI.replace("KEEP", removed))
    project.snakemake(TIDY, "--cores", "2", "--configfile", "config/mini.yaml")
    return project
