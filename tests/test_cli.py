import csv
import json
import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import optrepro
from optrepro import __main__ as command
from optrepro import cli, config, layout, provenance, runtable
from optrepro.analysis.results import StudyResults
from optrepro.evaluations import Evaluation
from optrepro.exhibits.material import Material
from optrepro.experiments import evaluate
from optrepro.experiments.descent.minimize import OPTIMIZERS
from optrepro.optimizers import _pop_policy as policy
from optrepro.optimizers.pop import WEIGHTS

ROOT = Path(__file__).parents[1]
CATALOGUE = """
tables:
  scores: {function: made_up.scores, studies: [images]}
exhibits:
  comparison: {title: Comparison, module: optrepro.exhibits.made_up, tables: [scores], caption: All.}
"""
CHOICES = "- {path: studies.*.epochs, value: 3, standing: chosen, why: It is quick.}"


def scores(study: StudyResults) -> pd.DataFrame:
    final = study.runs[(study.runs.metric == "test_accuracy") & (study.runs.step == study.runs.step.max())]
    return final.groupby("optimizer").value.mean().reset_index()


def figure(material: Material) -> Figure:
    page = Figure(figsize=(2, 1))
    page.subplots().plot(material.tables["scores"].value)
    return page


@pytest.fixture(autouse=True)
def project(tmp_path: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the tiny scale as the one that is run, and a catalogue of one table and one exhibit."""
    folder = tmp_path / "project"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "tiny.yaml").write_text(tiny_file.read_text())
    (folder / "config" / "exhibits.yaml").write_text(CATALOGUE)
    (folder / "config" / "fidelity.yaml").write_text(CHOICES)
    module = ModuleType("made_up")
    module.scores, module.figure = scores, figure
    module.table = lambda material: material.tables["scores"]
    for name in ("made_up", "optrepro.exhibits.made_up"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.setenv("OPTREPRO_CONFIG", "config/tiny.yaml")
    monkeypatch.chdir(folder)
    return folder


def call(*arguments: object, status: int = 0) -> str:
    """What the command prints on standard output."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return result.stdout


def test_the_version_is_printed() -> None:
    assert call("--version") == f"{optrepro.__version__}\n"


def test_without_a_verb_the_verbs_are_listed() -> None:
    text = CliRunner().invoke(cli.app, []).output
    assert all(
        verb in text for verb in ("plan", "check", "run", "work", "status", "table", "exhibit", "site", "verify")
    )


def test_the_plan_is_the_run_table() -> None:
    rows = list(csv.DictReader(StringIO(call("plan"))))
    expected = {run.id: run for run in runtable.table(config.load("config/tiny.yaml"))}
    assert [row["run"] for row in rows] == list(expected)
    for row in rows:
        run = expected[row["run"]]
        assert row["learning_rate"] == ("tuned" if run.role == "test" else str(run.learning_rate))
        assert (row["study"], row["role"], row["seed"]) == (run.study, run.role, str(run.seed))


def test_overrides_may_be_repeated() -> None:
    rows = call("plan", "--set", "studies.boxes=null", "--set", "studies.images.test_repetitions=1").splitlines()
    assert len(rows) == 1 + 3 * (4 + 1)


def test_check_writes_the_config_whole_as_jobs_read_it() -> None:
    call("check", "--set", "seed=8", "--out", "results/config.json")
    assert config.load("results/config.json") == config.load("config/tiny.yaml", ["seed=8"])


def test_from_check_to_exhibit_and_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "source_hash", lambda *modules: "0123456789ab")
    resolved = Path("results/config.json")
    call("check", "--out", resolved)
    call("work", "images", "--config", resolved)
    call("table", "scores", "--scale", "tiny")
    assert pd.read_parquet(layout.table("tiny", "scores")).optimizer.tolist() == ["gap", "random", "sgd"]
    stem = layout.exhibit("tiny", "comparison")
    call("exhibit", "comparison", "--scale", "tiny")
    assert call("verify", "tiny") == "comparison: ok\n"
    Path(f"{stem}.svg").write_text("edited")
    assert call("verify", "tiny", status=1) == "comparison: altered (comparison.svg)\n"
    assert call("publish", "tiny").splitlines() == [
        "results/published/tidy/images.parquet",
        "results/published/tidy/images.json",
    ]


def test_a_run_takes_the_results_that_it_needs_from_the_store() -> None:
    call("run", "images", "gap")
    call("run", "images", "random")
    assert set(pd.read_parquet(layout.metrics("tiny", "images", "random")).optimizer) == {"random"}


def test_the_status_tells_what_is_done_what_failed_and_what_the_rest_will_take() -> None:
    call("work", "images", "boxes", "--set", "studies.images.optimizers.gap.settings.momentum=[0.5]", status=1)
    lines = {line.split()[0]: line.split()[1:] for line in call("status").splitlines()}
    assert lines["images"][:4] == ["3", "1", "0", "0"]


@pytest.mark.parametrize(("complete", "minutes", "status"), [(True, 0, 0), (False, 0, 1), (False, 5, 75)])
def test_an_evaluation_says_what_is_on_record_and_whether_it_is_over(
    complete: bool, minutes: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"weights": {"pop": "ab" * 32}, "collections": {}, "packages": {}, "commits": ("one",)}
    looked = Evaluation(study="boxes", scale="tiny", complete=complete, problems={"all": 3}, cpu_hours=1.5, **facts)
    monkeypatch.setattr(evaluate, "evaluate", lambda config, studies, *rest: [looked])
    said = call("evaluate", "boxes", "--minutes", minutes, status=status)
    size = "3 problems" if complete else "not complete"
    assert said == f"boxes: scale tiny, {size}, weights pop abababababab, 1.50 CPU hours\n"


def test_what_evaluates_no_policy_is_not_evaluated() -> None:
    result = CliRunner().invoke(cli.app, ["evaluate", "boxes"])
    assert isinstance(result.exception, config.ConfigError)
    assert "study = 'boxes' is not allowed: it evaluates no policy" in str(result.exception)


def test_a_halving_prints_its_candidates_the_best_first_and_writes_the_table(tiny_halving: Path) -> None:
    call("halve", "search", "--config", tiny_halving, "--minutes", 1e-6, status=75)
    printed = call("halve", "search", "--config", tiny_halving).splitlines()
    assert printed[-1] == "results/tiny-halving/tables/search.csv"
    table = pd.read_csv(printed[-1])
    assert list(table.columns[1:3]) == ["ppo.learning_rate", "network.history"]
    assert table.rungs.tolist() == [3, 2, 1, 1]
    assert table.best.tolist() == [True, False, False, False]
    assert table.functions.tolist() == [32, 16, 8, 8]
    assert table["score at 4"].count() == 1
    assert printed[2].startswith(f"| {table.candidate[0]} ")


def test_what_is_no_halving_is_not_halved() -> None:
    result = CliRunner().invoke(cli.app, ["halve", "boxes", "--config", "config/tiny.yaml"])
    assert isinstance(result.exception, config.ConfigError)
    assert "study = 'boxes' is not allowed: it is of the kind functions" in str(result.exception)


def test_what_no_config_asks_for_is_pruned_from_the_store() -> None:
    call("run", "images", "sgd")
    [kept] = layout.store().iterdir()
    call("run", "images", "sgd", "--set", "studies.images.steps=4")
    [removed] = set(layout.store().iterdir()) - {kept}
    assert call("store", "prune", "--dry-run").split() == [str(removed)]
    assert call("store", "prune").split() == [str(removed)]
    assert list(layout.store().iterdir()) == [kept]


def test_progress_is_a_plain_line_where_there_is_no_terminal() -> None:
    result = CliRunner().invoke(cli.app, ["run", "images", "sgd"])
    assert result.stderr.splitlines() == ["sgd: 24/24"]


def test_a_job_whose_minutes_are_over_exits_with_75_and_can_go_on() -> None:
    call("run", "images", "sgd", "--minutes", 1e-9, status=75)
    assert not layout.metrics("tiny", "images", "sgd").exists()
    call("run", "images", "sgd")
    record = json.loads(layout.metrics("tiny", "images", "sgd").with_name("run.json").read_text())
    assert record["attempts"] == 2


def test_the_schema_is_printed_as_it_is_checked_in() -> None:
    checked_in = (ROOT / "workflow" / "schemas" / "config.schema.json").read_text()
    assert call("schema") == checked_in
    call("schema", "--out", "schema.json")
    assert Path("schema.json").read_text() == checked_in


def test_the_data_sets_are_listed_with_what_is_at_hand() -> None:
    lines = dict(line.split(maxsplit=1) for line in call("data", "list").splitlines())
    assert lines["digits"] == "at hand"
    assert lines["mnist"] == "not at hand"


def test_an_embedded_data_set_needs_no_fetching_and_has_an_empty_list_of_files() -> None:
    call("data", "fetch", "digits", "--out", "results/data/digits.sha256")
    assert Path("results/data/digits.sha256").read_text() == ""


def test_minimize_prints_the_progress_and_ends_with_the_best_point_and_its_regret() -> None:
    lines = call("minimize", "--function", "booth", "--optimizer", "lbfgs", "--budget", 20).splitlines()
    assert lines[0] == "L-BFGS on Booth, 2-D; minimum 0"
    table = [[float(cell) for cell in line.split()] for line in lines[2:-2]]
    steps, values, best, regrets = zip(*table, strict=True)
    assert steps[:5] == (1, 2, 3, 5, 7)
    assert list(best) == sorted(best, reverse=True)
    assert best[0] == values[0] == pytest.approx(regrets[0], rel=1e-2)
    assert lines[-2] == "stopped after 14 evaluations: the point no longer changes, or a value was not finite"
    assert re.fullmatch(r"best point \(1, 3\): value \S+e-\d+, regret \S+e-\d+, evaluation \d+", lines[-1])


def test_minimize_starts_where_the_seed_says_and_steps_at_the_rate_given() -> None:
    sphere = ("minimize", "--function", "sphere", "--dim", 3, "--budget", 5)
    first = call(*sphere, "--optimizer", "adam")
    assert first == call(*sphere, "--optimizer", "torch.optim.Adam", "--lr", 0.05)
    assert first != call(*sphere, "--optimizer", "adam", "--seed", 1)
    assert first != call(*sphere, "--optimizer", "adam", "--lr", 0.1)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "pop"])
def test_minimize_knows_the_usual_optimizers_by_name(name: str) -> None:
    text = call("minimize", "--function", "sphere", "--optimizer", name)
    first, last = (float(text.splitlines()[i].split()[3]) for i in (2, -2 if "stopped" not in text else -3))
    assert last < 0.9 * first


def test_minimize_runs_a_policy_from_a_file() -> None:
    policy.save(policy.Policy(policy.PolicySettings(width=8, smallest=0.01)), "mine.safetensors")
    text = call("minimize", "--function", "levy", "--dim", 4, "--optimizer", "mine.safetensors", "--budget", 10)
    assert text.startswith("POP on Levy, 4-D; minimum 0\n")
    assert len(text.splitlines()) == 2 + 6 + 1  # evaluations 1, 2, 3, 5, 7 and 10


@pytest.mark.skipif(not (WEIGHTS / "pop.safetensors").exists(), reason="the shipped policy is not made yet")
def test_minimize_takes_the_shipped_policy_where_nothing_else_is_said() -> None:
    last = call("minimize", "--function", "sphere").splitlines()[-1]
    assert float(last.partition("regret ")[2].partition(",")[0]) < 1e-2


@pytest.mark.parametrize(("function", "dim"), [("rosenbrock", 2), ("forrester", 1), ("hartmann6", 6)])
def test_minimize_draws_the_trajectory(function: str, dim: int) -> None:
    text = call("minimize", "--function", function, "--dim", dim, "--optimizer", "adam", "--out", "new/picture.png")
    assert text.endswith("\nnew/picture.png\n")
    assert Path("new/picture.png").read_bytes().startswith(b"\x89PNG")


MISTAKES = {
    "a scale file that is not there": (["plan", "--config", "nowhere.yaml"], "nowhere.yaml does not exist"),
    "a value that is not allowed": (["plan", "--set", "seed=-1"], "override seed=-1: seed = -1 is not allowed."),
    "a misspelt data set": (["plan", "--set", "studies.images.dataset=[minst]"], "unknown data set 'minst'"),
    "an override of the wrong form": (["plan", "--set", "seed"], "override 'seed' is not of the form"),
    "a setting that an optimizer refuses": (
        ["check", "--set", "studies.boxes.settings.alpha=1"],
        "studies.boxes.optimizers.sgd: settings = {'alpha': 1} are not allowed for torch.optim.SGD",
    ),
    "an unknown study": (
        ["run", "image", "sgd"],
        "study = 'image' is not one of ['boxes', 'images',",
    ),
    "an unknown batch": (
        ["run", "images", "sdg"],
        "batch = 'sdg' is not one of ['sgd', 'gap', 'random']",
    ),
    "an unknown study to work on": (["work", "image"], "study = 'image' is not one of ['boxes', 'images',"),
    "results that were not made yet": (
        ["run", "images", "random"],
        "images/random needs the results of images/gap; run them first",
    ),
    "weights for a batch that uses none": (
        ["run", "images", "sgd", "--weights", "mine.safetensors"],
        "weights = 'mine.safetensors' is not allowed: images/sgd uses no trained weights",
    ),
    "an unknown table": (["table", "score"], "table = 'score' is not one of ['scores']"),
    "an unknown exhibit": (["exhibit", "x"], "exhibit = 'x' is not one of ['comparison']"),
    "an unknown data set": (["data", "fetch", "minst"], "data set = 'minst' is not one of ['cifar10',"),
    "a misspelt function": (
        ["minimize", "--function", "rosenbrok"],
        "name = 'rosenbrok' is not a function of VLSE; nearest: rosenbrock",
    ),
    "a dimension that a function has not": (["minimize", "--function", "booth", "--dim", "3"], "dim = 3 is not a dim"),
    "a misspelt optimizer": (
        ["minimize", "--function", "booth", "--optimizer", "adan"],
        "optimizer = 'adan' is unknown (nearest: adam, adamw",
    ),
    "a class without a rate": (
        ["minimize", "--function", "booth", "--optimizer", "torch.optim.NAdam"],
        "optimizer = 'torch.optim.NAdam' needs a learning rate; set --lr",
    ),
    "a class that is none": (
        ["minimize", "--function", "booth", "--optimizer", "torch.optim.Adan", "--lr", "1"],
        "class = 'torch.optim.Adan' cannot be imported",
    ),
    "a policy that is not there": (
        ["minimize", "--function", "booth", "--optimizer", "mine.safetensors"],
        "policy = 'mine.safetensors' is no file",
    ),
    "a rate of zero": (["minimize", "--function", "booth", "--lr", "0"], "lr = 0.0 is not allowed"),
    "a budget of nothing": (
        ["minimize", "--function", "booth", "--optimizer", "adam", "--budget", "0"],
        "budget = 0 is not allowed; it must be at least 1",
    ),
    "a picture of an unknown kind": (
        ["minimize", "--function", "booth", "--out", "x.gif"],
        "out = 'x.gif' is not allowed: it must end in .png, .svg, .pdf",
    ),
    "a scale without results": (["publish", "nowhere"], "results/nowhere/tidy holds no tidy results"),
}


def run_entry_point(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["optrepro", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.entry_point()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run_entry_point(arguments, monkeypatch)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert status == 2


def test_the_installed_command_reports_a_mistake_without_a_traceback() -> None:
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "optrepro", "plan", "--set", "studies.boxes.budgt=3"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: override studies.boxes.budgt=3: studies.boxes.budgt is not a key of the config; did you mean budget?\n"
    )


def test_a_package_that_is_not_installed_is_one_line_that_names_it_and_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def entry_point() -> None:
        raise ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet")

    monkeypatch.setattr(cli, "entry_point", entry_point)
    with pytest.raises(SystemExit) as caught:
        command.main()
    assert caught.value.code == 2
    expected = "error: pyarrow is not installed; the command needs an extra: pip install 'optrepro[experiments]'\n"
    assert capsys.readouterr().err == expected


def test_a_module_of_ours_that_is_missing_is_no_matter_of_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_point() -> None:
        raise ModuleNotFoundError("No module named 'optrepro.nothing'", name="optrepro.nothing")

    monkeypatch.setattr(cli, "entry_point", entry_point)
    with pytest.raises(ModuleNotFoundError):
        command.main()


@pytest.mark.parametrize("verb", ["plan", "--help"])
def test_looking_at_the_plan_does_not_wait_for_torch(verb: str) -> None:
    code = "import sys; from optrepro import cli; cli.app(standalone_mode=False); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code, verb]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_class_is_checked_and_what_cannot_be_judged_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "resume         ok" in call("check-optimizer", "torch.optim.NAdam", "--settings", '{"betas": [0.8, 0.9]}')
    assert "fails" in call("check-optimizer", "torch.nn.Linear", status=1)
    for options, fault in (
        (["NAdam"], "It must be a file and a class"),
        (["torch.optim.NAdam", "--settings", "0.9"], "it is a mapping"),
        (["torch.optim.NAdam", "--learning-rates", "0.1,0.1"], "they are distinct numbers above 0"),
        (["torch.optim.NAdam", "--add", "mine"], "it is a scale file"),
    ):
        with pytest.raises(config.ConfigError, match=fault):
            cli.app(["judge", *options], standalone_mode=False)
