"""A damaged file is named, with what to do, and what it holds is never used; or the damage changed nothing.

Another kind of file is another subclass of `Kind` in `KINDS`, or another line of `READERS` for a command.
"""

import ast
import gzip
import hashlib
import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn

from optrepro import cli, damage, evaluations, layout, parquet, provenance
from optrepro.analysis.results import StudyResults, read_facts
from optrepro.damage import DamagedFileError
from optrepro.evaluations import Evaluation
from optrepro.exhibits.material import Material
from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint
from optrepro.optimizers import _learned
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.data import archives
from optrepro.problems.networks import lora
from optrepro.site import build
from optrepro.store import Store
from tests.faults.damage import DAMAGES

ROOT = Path(__file__).parents[2]
SEEDS = range(2)
FACTS = {
    "study": "images",
    "scale": "tiny",
    "settings": {"kind": "surfaces", "functions": ["sphere"], "resolution": 8},
    "dataset": "digits",
    "data": [],
    "expected_runs": 0,
    "missing": [],
}


def runs() -> pd.DataFrame:
    """A tidy table of 40 rows."""
    return tidy.frame(
        tidy.Row(f"run-{i // 10}", "images", "digits", ("sgd", "adam")[i % 2], "test", 0.1, i, 9, "loss", 1 / (1 + i))
        for i in range(40)
    )


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, dict) and any(isinstance(value, torch.Tensor) for value in one.values()):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# --- Files that are read by functions --------------------------------------------------------------------------------


class Kind:
    """A kind of file: how it is made and how it is read."""

    flips = True  # whether a single flipped bit is found, too

    def make(self, folder: Path) -> Path:
        raise NotImplementedError

    def read(self, path: Path) -> Any:
        raise NotImplementedError


class ParquetTable(Kind):
    def make(self, folder: Path) -> Path:
        tidy.write(runs(), folder / "table.parquet")
        return folder / "table.parquet"

    def read(self, path: Path) -> Any:
        return parquet.read(path)


class FactsInJson(Kind):
    def make(self, folder: Path) -> Path:
        path = folder / "images.json"
        path.write_text(json.dumps(FACTS))
        provenance.write_sidecar(folder / "images.sidecar.json", [path], [])
        return path

    def read(self, path: Path) -> Any:
        return read_facts(path)


class SidecarInJson(Kind):
    flips = False  # a flipped letter of a caption is a letter

    def make(self, folder: Path) -> Path:
        (folder / "figure.svg").write_text("figure")
        provenance.write_sidecar(folder / "figure.json", [folder / "figure.svg"], [])
        return folder / "figure.json"

    def read(self, path: Path) -> Any:
        return damage.record(path, "outputs", "inputs")


class ShippedWeights(Kind):
    def make(self, folder: Path) -> Path:
        for name in ("psd.safetensors", _learned.CHECKSUMS):
            shutil.copy(_learned.WEIGHTS / name, folder)
        return folder / "psd.safetensors"

    def read(self, path: Path) -> Any:
        return dict(_learned.load(StepPolicy, StepPolicySettings, path)[0].state_dict())


class RecordOfEvaluations(Kind):
    flips = False  # a flipped letter of a name is a letter

    def make(self, folder: Path) -> Path:
        given = {"weights": {"pop": "ab" * 32}, "collections": {}, "packages": {}, "commits": ("abc",)}
        evaluations.write([Evaluation(study="transfer", scale="tiny", **given)], folder / "evaluations.json")
        return folder / "evaluations.json"

    def read(self, path: Path) -> Any:
        return evaluations.read(path)


class EntryOfTheStore(Kind):
    def make(self, folder: Path) -> Path:
        (folder / "metrics.parquet").write_bytes(bytes(range(256)))
        return Store(folder / "store").put("key", [folder / "metrics.parquet"]).path("metrics.parquet")

    def read(self, path: Path) -> Any:
        entry = Store(path.parents[1]).get("key")
        if entry is None:  # the store has named it and set it aside, so that its job runs again
            raise DamagedFileError(path, "it was set aside")
        return entry.path(path.name).read_bytes()


class BackboneWeights(Kind):
    flips = False  # safetensors has no checksum; the sidecar of the batch that trained them has

    def make(self, folder: Path) -> Path:
        save_file({"weight": torch.arange(12.0).reshape(3, 4)}, folder / "policy.safetensors")
        return folder / "policy.safetensors"

    def read(self, path: Path) -> Any:
        try:
            return dict(lora.load(nn.Linear(4, 3, bias=False), path).state_dict())
        except ValueError as error:  # readable, and of another shape
            raise error if isinstance(error, DamagedFileError) else DamagedFileError(path, str(error)) from None


KINDS = {
    kind.__name__: kind()
    for kind in (
        ParquetTable,
        FactsInJson,
        SidecarInJson,
        RecordOfEvaluations,
        ShippedWeights,
        EntryOfTheStore,
        BackboneWeights,
    )
}
CASES = [
    (name, how, seed)
    for name, kind in KINDS.items()
    for how in DAMAGES
    for seed in SEEDS
    if kind.flips or how not in ("flip", "zeros")
]


@pytest.mark.parametrize(("name", "how", "seed"), CASES)
def test_a_damaged_file_is_named_with_what_to_do_or_reads_as_it_was(
    name: str, how: str, seed: int, tmp_path: Path
) -> None:
    kind = KINDS[name]
    path = kind.make(tmp_path)
    before, chance = kind.read(path), Random(f"{name} {how} {seed}")
    path.write_bytes(DAMAGES[how](path.read_bytes(), chance))
    try:
        after = kind.read(path)
    except DamagedFileError as error:
        line = str(error)
    else:
        assert how in ("flip", "zeros")
        assert equal(before, after)
        return
    assert line.startswith(f"{path} is damaged: ")
    assert "\n" not in line
    assert len(line.replace(str(path.parent), "folder")) <= 290


def test_of_300_flipped_bits_none_changes_a_table_unseen(tmp_path: Path) -> None:
    path = KINDS["ParquetTable"].make(tmp_path)
    whole, before, found = path.read_bytes(), runs(), 0
    for seed in range(300):
        path.write_bytes(DAMAGES["flip"](whole, Random(seed)))
        try:
            assert equal(parquet.read(path).astype(tidy.COLUMNS), before.astype(tidy.COLUMNS)), seed
        except DamagedFileError:
            found += 1
    assert found > 100


@pytest.mark.parametrize("place", ["/dev/null", "."])
def test_what_is_no_file_of_a_table_is_named_with_the_reason(place: str) -> None:
    with pytest.raises(DamagedFileError, match=f"{place} is damaged: it is not a file and so not a table in Parquet"):
        parquet.read(Path(place))


# --- Checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_checkpoint_is_set_aside_and_the_job_starts_anew(
    how: str, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "state" / "checkpoint.pt"
    state = {"step": torch.tensor(3), "weights": torch.arange(50.0)}
    Checkpoint(path).save(state)
    damaged = DAMAGES[how](path.read_bytes(), Random(f"{how} {seed}"))
    path.write_bytes(damaged)
    torch.manual_seed(seed)
    random.seed(seed)
    before = torch.get_rng_state(), random.getstate()
    if (loaded := Checkpoint(path).load()) is not None:
        assert how in ("flip", "zeros")  # between the parts of the file, where nothing is
        assert equal(loaded, state)
        return
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert not path.exists()
    assert path.with_name("checkpoint.pt.damaged").read_bytes() == damaged
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path} is damaged: ")
    assert line.endswith("it was set aside as checkpoint.pt.damaged, and the job starts from its beginning")
    assert Checkpoint(path).load() is None


# --- Archives of data ------------------------------------------------------------------------------------------------


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an archive called mnist, which was downloaded; a download is a copy of what is official."""
    contents = {file: Random(file).randbytes(400) for file in archives.ARCHIVES["mnist"].files}
    served = {file: gzip.compress(data, mtime=0) for file, data in contents.items()}

    def digests(files: dict[str, bytes]) -> dict[str, str]:
        return {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}

    def download(file: str, sha256: str, wanted: archives.Archive, folder: Path, progress: bool) -> None:
        (folder / file).write_bytes(served[file])

    small = replace(archives.ARCHIVES["mnist"], contents=digests(contents), downloads=digests(served))
    monkeypatch.setitem(archives.ARCHIVES, "mnist", small)
    monkeypatch.setattr(archives, "_download", download)
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    archives.fetch("mnist", tmp_path)
    return tmp_path / small.folder


@pytest.mark.parametrize("how", [*DAMAGES, "missing"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_or_missing_file_of_an_archive_is_named_set_aside_and_fetched_again(
    how: str, seed: int, made_up: Path, tmp_path: Path
) -> None:
    chance = Random(f"{how} {seed}")
    path = chance.choice(sorted(made_up.glob("*.gz")))
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[how](whole, chance))
    faults = [str(fault) for fault in archives.refresh("mnist", tmp_path)]
    located = archives.locate("mnist", tmp_path)
    assert all(archives.read(file, located).official for file in located.files)
    if faults:
        [fault] = faults
        assert fault.startswith(f"{path} is ")
        assert path.read_bytes() == whole
        assert path.with_name(f"{path.name}.damaged").exists() == (how != "missing")
    else:  # the header of a gzip file holds a time and the name of a system
        assert how in ("flip", "zeros")


@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_without_downloads_no_other_data_take_the_place_of_damaged_ones(
    how: str, made_up: Path, tmp_path: Path
) -> None:
    path = next(made_up.glob("t10k-images*.gz"))
    path.write_bytes(DAMAGES[how](path.read_bytes()[20:], Random(0)))
    located = archives.locate("mnist", tmp_path)
    with pytest.raises(DamagedFileError, match=rf"{path.name} is damaged: .*set aside as {path.name}\.damaged"):
        archives.read(path, located)
    with pytest.raises(FileNotFoundError, match=rf"{path.name} is missing, but SHA256SUMS names it"):
        archives.first_at_hand(["mnist", "digits"], download=False, data_dir=tmp_path)


def test_a_damaged_file_that_was_handed_over_stays_where_it_is(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTREPRO_DATA", str(tmp_path))
    path = next(made_up.glob("t10k-images*.gz"))
    path.write_bytes(b"damaged")
    with pytest.raises(DamagedFileError, match=rf"{path.name} is damaged: .*copy it there again"):
        list(archives.refresh("mnist", tmp_path / "downloads"))
    assert path.read_bytes() == b"damaged"


def test_a_damaged_list_of_checksums_condemns_no_official_file(made_up: Path, tmp_path: Path) -> None:
    listing = made_up / "SHA256SUMS"
    listing.write_text(listing.read_text().replace("a", "b"))
    assert list(archives.refresh("mnist", tmp_path)) == []


# --- Results, through the command line -------------------------------------------------------------------------------

TIDY, FIGURE = layout.tidy("tiny", "images"), layout.exhibit("tiny", "comparison")
SCORES = layout.table("tiny", "scores")
COMMANDS = {
    "table": ["table", "scores", "--scale", "tiny"],
    "exhibit": ["exhibit", "comparison", "--scale", "tiny"],
    "site": ["site", "--scale", "tiny"],
    "verify": ["verify", "tiny"],
}
READERS = [  # a file, the command that reads it, and whether a flipped bit is always found
    (f"{TIDY}", "table", True),
    (f"{TIDY.with_suffix('.json')}", "table", True),
    (f"{TIDY.with_suffix('.sidecar.json')}", "table", False),
    (f"{SCORES}", "exhibit", False),
    (f"{TIDY.with_suffix('.json')}", "exhibit", True),
    (f"{TIDY.with_suffix('.json')}", "site", True),
    (f"{FIGURE}.json", "site", False),
    (f"{FIGURE}.csv", "site", True),
    (f"{FIGURE}.svg", "site", True),
    (f"{FIGURE}.json", "verify", False),
    (f"{TIDY.with_suffix('.sidecar.json')}", "verify", False),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the results of one study, a table, an exhibit and the site."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "config").mkdir()
    (folder / "config" / "exhibits.yaml").write_text(
        "tables: {scores: {function: fault_scores.scores, studies: [images]}}\n"
        "exhibits: {comparison: {title: C, module: optrepro.exhibits.fault_scores, tables: [scores], caption: All.}}\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        tidy.write(runs(), TIDY)
        TIDY.with_suffix(".json").write_text(json.dumps(FACTS))
        outputs = [TIDY, TIDY.with_suffix(".json")]
        provenance.write_sidecar(TIDY.with_suffix(".sidecar.json"), outputs, [])
        _install(patch)
        for command in COMMANDS.values():
            assert _run(command, patch) == 0
    return folder


def _scores(study: StudyResults) -> pd.DataFrame:
    return study.runs.groupby("optimizer").value.mean().reset_index()


def _figure(material: Material) -> Figure:
    page = Figure(figsize=(2, 1))
    page.subplots().plot(material.tables["scores"].value)
    return page


def _install(patch: pytest.MonkeyPatch) -> None:
    """The made-up modules of the catalogue, whose code has no hash."""
    module = ModuleType("fault_scores")
    module.scores, module.figure = _scores, _figure
    module.table = lambda material: material.tables["scores"]
    for name in ("fault_scores", "optrepro.exhibits.fault_scores"):
        patch.setitem(sys.modules, name, module)
    patch.setattr(provenance, "source_hash", lambda *modules: "0123456789ab")
    patch.setattr(build, "write", lambda found, docs, source: None)  # everything has been read before
    patch.setattr(build, "_sphinx", lambda source, out: out.mkdir() or "")


def _run(arguments: list[str], patch: pytest.MonkeyPatch) -> int:
    patch.setattr(sys, "argv", ["optrepro", *arguments])
    try:
        cli.entry_point()
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(("file", "command", "always"), READERS)
def test_a_command_that_reads_a_damaged_file_says_so_in_one_line_with_status_2(
    file: str,
    command: str,
    always: bool,
    how: str,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(results, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    _install(monkeypatch)
    path = Path(file)
    path.write_bytes(DAMAGES[how](path.read_bytes(), Random(f"{file} {how}")))
    status = _run(COMMANDS[command], monkeypatch)
    told = capsys.readouterr()
    if status == 0 or (command == "verify" and status == 1):  # changed and legible: verify calls it altered
        assert not always
        assert how in ("flip", "zeros")
        return
    assert status == 2
    [line] = [line for line in (told.out + told.err).splitlines() if "damaged" in line]
    named = str(path if "sidecar" not in path.name else path.parent / "images")
    assert named in line
    assert "delete it and run again" in line or "restore it" in line
    assert len(line) <= 300
    assert "Traceback" not in told.err


def test_a_job_whose_checkpoint_is_damaged_gives_the_results_of_a_fresh_one(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ["run", "images", "sgd", "--config", str(tiny_file)]
    contents = []
    for name in ("fresh", "damaged"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if name == "damaged":
            assert _run([*job, "--minutes", "1e-9"], monkeypatch) == 75
            [path] = Path("state").rglob("checkpoint.pt")
            path.write_bytes(path.read_bytes()[:-100])
        assert _run(job, monkeypatch) == 0
        contents.append(layout.metrics("tiny", "images", "sgd").read_bytes())
    assert contents[0] == contents[1]
    assert "checkpoint.pt is damaged: " in capsys.readouterr().err


# --- No pickles ------------------------------------------------------------------------------------------------------


def _unsafe(call: ast.Call) -> bool:
    """Whether a call may run code that a file holds."""
    function = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if function == "torch.load":
        return given.get("weights_only") != "True"
    if function == "yaml.load":
        return "_Loader" not in [*map(ast.unparse, call.args[1:]), *given.values()]
    if given.get("allow_pickle", "False") != "False":
        return True
    module, _, name = function.rpartition(".")
    loaders = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pd", "pandas")
    return (module in loaders and name in ("load", "loads", "open", "Unpickler", "read_pickle")) or name in (
        "unsafe_load",
        "full_load",
    )


@pytest.mark.parametrize(
    "text", ["torch.load(p)", "torch.load(p, weights_only=False)", "pickle.load(f)", "joblib.load(p)"]
)
def test_what_is_looked_for_is_found(text: str) -> None:
    assert _unsafe(ast.parse(text, mode="eval").body)  # type: ignore[arg-type]


def test_nothing_in_the_package_loads_a_pickle() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    calls = [
        (file, each) for file in files for each in ast.walk(ast.parse(file.read_bytes())) if isinstance(each, ast.Call)
    ]
    assert len(calls) > 1000
    assert [f"{file.relative_to(ROOT)}:{call.lineno}" for file, call in calls if _unsafe(call)] == []
