"""A newcomer beside the rows of a scale that was run before."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from optrepro import config
from optrepro.experiments import work
from optrepro.newcomers import addition, judgement, page, tasks
from optrepro.newcomers.judgement import Judgement
from optrepro.newcomers.target import parse
from optrepro.newcomers.tasks import KEY
from optrepro.settings import ConfigError

SCALE = """
scale: before
seed: 7
device: cpu
studies:
  vlse:
    kind: functions
    functions: [sphere, booth, beale, matyas]
    budget: 12
    tuning_starts: 2
    starts: 18
    learning_rates: [0.01, 0.1]
    optimizers:
      adam: {label: Adam, class: torch.optim.Adam}
      sgd: {label: SGD, class: torch.optim.SGD, learning_rates: [0.001, 0.01]}
  gap-sgdm:
    kind: training
    dataset: [digits]
    train_examples: 64
    validation_examples: 32
    network: softmax
    batch_size: 16
    steps: 12
    evaluations: 4
    learning_rates: [0.01, 0.1]
    tuning_repetitions: 2
    test_repetitions: 7
    optimizers:
      momentum-90: {label: momentum, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.9}}
      momentum-50: {label: less momentum, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.5}}
"""
Judge = Callable[..., Judgement]


def quiet(line: str) -> None:
    """Print nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose scale ``before`` has been run."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "before.yaml").write_text(SCALE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("OPTREPRO_DATA", raising=False)
        outcome = work.work(config.load(folder / "before.yaml"), ["vlse", "gap-sgdm"], report=quiet)
    assert outcome.collected == ["vlse", "gap-sgdm"]
    return folder


@pytest.fixture
def judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A function that judges a class beside the rows of the scale ``before``."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)

    def function(name: str, on: tuple[str, ...] = ("functions", "images"), **options: object) -> Judgement:
        return judgement.judge(parse(name), on, scale="before", report=quiet, **options)  # type: ignore[arg-type]

    return function


def test_a_class_that_is_a_row_already_ties_with_that_row_everywhere(judge: Judge) -> None:
    functions = judge("torch.optim.Adam", ("functions",)).standings["functions"]
    images = judge("torch.optim.SGD", ("images",), settings={"momentum": 0.9}).standings["images"]
    for standing, peer, count in ((functions, "adam", 4), (images, "momentum-90", 7)):
        pair = standing.pairs.set_index("peer").loc[peer]
        assert (pair.wins, pair.ties, pair.losses, pair.difference) == (0, count, 0, 0)
        places = standing.scores.set_index("optimizer")["rank"]
        assert places[KEY] == places[peer]


def test_the_row_that_is_run_again_gives_the_published_values(judge: Judge) -> None:
    machine = judge("torch.optim.NAdam").machine
    assert list(machine) == ["functions", "images"]
    assert all("gives all" in found for found in machine.values())


def test_a_second_judgement_runs_nothing_and_writes_the_same_bytes_as_one_from_nothing(
    judge: Judge, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> dict[str, bytes]:
        found = judge("torch.optim.NAdam")
        files = [*judgement.write(found, folder / "out"), page.write(found, folder / "out" / "judgement.html")]
        return {path.name: path.read_bytes() for path in files}

    first = written()
    with monkeypatch.context() as patch:
        patch.setattr(work._Shift, "_fork", None)  # no job may start
        assert written() == first
    shutil.rmtree(folder / "results" / "judge-nadam")
    monkeypatch.setenv("OPTREPRO_STATE", str(tmp_path))
    assert written() == first  # from nothing again
    assert not re.search(rb"<script|<link|src=|href=\"http|url\(http", first["judgement.html"])


def test_a_class_of_a_file_has_fewer_starts_which_its_peers_share(judge: Judge, folder: Path) -> None:
    (folder / "plain_own.py").write_text("import torch\nclass Own(torch.optim.Adam):\n    pass\n")
    found = judge("plain_own.py:Own", ("functions",))
    standing = found.standings["functions"]
    assert found.plan.notes["functions"] == ["16 of 18 starts, for its runs cannot share a tensor as torch's do"]
    starts = standing.study.runs[standing.study.runs.metric == "regret"].groupby("optimizer").seed.nunique()
    assert dict(starts) == {"adam": 16, "sgd": 16, KEY: 16}
    assert standing.pairs.set_index("peer").ties["adam"] == 4


def test_more_tuning_than_the_others_had_is_said(judge: Judge) -> None:
    found = judge("torch.optim.NAdam", ("images",), budget=2)
    standing = found.standings["images"]
    tuned = standing.study.runs[(standing.study.runs.role == "tune")].groupby("optimizer").learning_rate.nunique()
    assert (tuned[KEY], tuned["momentum-90"]) == (4, 2)
    assert found.plan.notes["images"] == ["tuned over 4 learning rates, the others over 2"]


def test_faults_that_a_reader_must_know_are_warnings(judge: Judge) -> None:
    standing = judge("torch.optim.SGD", ("images",), rates=[1e-9, 1e-8]).standings["images"]
    assert any("learning rate of the grid" in warning for warning in standing.warnings)
    assert standing.own["rank"] == 3


def test_what_cannot_run_is_left_out_with_the_reason(judge: Judge) -> None:
    found = judge("torch.optim.LBFGS")
    assert list(found.standings) == ["functions"]
    assert "closure" in found.left_out["images"]
    assert "left out, images:" in judgement.text(found)


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("torch.nn.Linear", {}, "torch.nn.Linear cannot be judged: import: Linear is not a subclass"),
        ("torch.optim.NAdam", {"on": ("pictures",)}, "on = 'pictures' is not one of functions, images"),
        ("torch.optim.NAdam", {"on": ("images",), "rates": [1, 2, 3]}, "give at most 2, or --budget 2"),
        ("torch.optim.NAdam", {"on": ("vision",)}, "gap-vit.parquet does not exist; optrepro work gap-vit"),
        ("torch.optim.NAdam", {"settings": {"beta": 1}}, "settings.beta is not an argument of NAdam"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, object], fault: str
) -> None:
    monkeypatch.setattr(work, "work", None)
    with pytest.raises(ConfigError, match=fault.replace(".", r"\.")) as error:
        judge(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "length", "rates"),
    [
        ([0.1, 0.001, 0.01], 3, (0.001, 0.01, 0.1)),
        ([0.01, 0.1], 5, (0.001, 0.01, 0.1, 1.0, 10.0)),
        ([0.01], 3, (0.00316, 0.01, 0.0316)),
    ],
)
def test_a_grid_is_as_long_as_everybodys(given: list[float], length: int, rates: tuple[float, ...]) -> None:
    assert tasks.grid(given, length) == rates


def test_a_row_that_is_added_makes_a_scale_that_runs_it(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "before.yaml").write_text(SCALE)
    path = tmp_path / "mine.yaml"
    addition.check(path, budget=1)
    found = judge("torch.optim.NAdam", ("functions",), settings={"betas": [0.8, 0.99]})
    addition.write(found, path, "before.yaml")
    rows = config.load(path).studies["vlse"].optimizers  # type: ignore[attr-defined]
    assert list(rows) == ["adam", "sgd", "nadam"]
    assert rows["nadam"].settings == {"betas": [0.8, 0.99]}
    with pytest.raises(ConfigError, match="the file exists"):
        addition.check(path, budget=1)
    with pytest.raises(ConfigError, match="budget = 2"):
        addition.check(tmp_path / "other.yaml", budget=2)


def test_settings_of_a_study_that_the_class_does_not_take_are_left_to_the_other_row() -> None:
    common = {"weight_decay": 0.01, "maximize": False}
    assert tasks._strange(parse("torch.optim.Rprop"), common) == ["weight_decay"]
    assert tasks._strange(parse("torch.optim.AdamW"), common) == []
    study = {"settings": common, "optimizers": {"adamw": {"settings": {"maximize": True}}, "newcomer": {}}}
    said = tasks._without(study, "adamw", ["weight_decay"])
    assert said == "without weight_decay = 0.01, which the others have and the class does not take"
    assert study["settings"] == {"maximize": False}
    assert study["optimizers"]["adamw"]["settings"] == {"weight_decay": 0.01, "maximize": True}
    assert study["optimizers"]["newcomer"] == {}
