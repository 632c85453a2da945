"""What CONTRIBUTING promises: a paper, a kind of study, an exhibit and an optimizer come from outside the package."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.workflow.conftest import Project

pytestmark = pytest.mark.system

FILES = {
    "toy/paper.yaml": "title: A paper about dice\nposition: 9\n",
    "toy/studies.yaml": """
studies:
  toy-dice: {kind: toys.DiceStudy, throws: 50, dice: {coin: 2, cube: 6}}
  toy-boxes:
    kind: functions
    functions: [booth, sphere]
    budget: 10
    tuning_starts: 2
    starts: 2
    learning_rates: [0.01, 0.1]
    optimizers:
      sign: {label: sign descent, class: toys.SignDescent}
      adam: {label: Adam, class: torch.optim.Adam}
""",
    "toy/exhibits.yaml": """
tables:
  toy-means: {function: toys.means, studies: [toy-dice]}
exhibits:
  toy-means: {title: What the dice show, module: toys, tables: [toy-means], caption: The mean of each die.}
""",
    "toy/claims.yaml": "[]\n",
    "toys.yaml": "extends: [toy]\nscale: toys\n",
}


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project beside which the toys lie; everything of theirs has run."""
    project = Project(tmp_path_factory.mktemp("outside"))
    shutil.copy(Path(__file__).with_name("toys.py"), project.folder / "src" / "toys.py")
    for paper in ("gap", "pop", "lto", "vlse", "peers"):
        shutil.rmtree(project.folder / "config" / paper)
    (project.folder / "config" / "exhibits.yaml").unlink()
    for name, text in FILES.items():
        path = project.folder / "config" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    project.snakemake("--cores", "2", "--configfile", "config/toys.yaml")
    return project


def test_a_kind_from_outside_runs_to_its_exhibit(outside: Project) -> None:
    tidy = pd.read_parquet(outside.folder / "results/toys/tidy/toy-dice.parquet")
    assert tidy.groupby("optimizer").size().to_dict() == {"coin": 50, "cube": 50}
    drawn = pd.read_csv(outside.folder / "figures/toys/toy-means.csv")
    assert drawn["mean"].tolist() == tidy.groupby("optimizer").value.mean().tolist()
    caption = json.loads((outside.folder / "figures/toys/toy-means.json").read_text())["caption"]
    assert "50 throws of each die." in caption


def test_an_optimizer_from_outside_is_tuned_and_tested_like_the_others(outside: Project) -> None:
    tidy = pd.read_parquet(outside.folder / "results/toys/tidy/toy-boxes.parquet")
    counts = tidy.groupby(["optimizer", "role"]).run.nunique()
    assert counts["sign", "tune"] == counts["adam", "tune"] == 4
    assert counts["sign", "test"] == counts["adam", "test"] == 2


def test_what_has_run_is_not_run_again(outside: Project) -> None:
    assert outside.plan("--configfile", "config/toys.yaml") == {}
