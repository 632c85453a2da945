import ast
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import optrepro
from optrepro import provenance, source

Write = Callable[[str, str], None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """A package in the place of ours: a function writes the source of a module, named by its path."""
    folder = tmp_path / "package"
    monkeypatch.setattr(provenance, "PACKAGE", folder)

    def write(path: str, text: str) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        source.tree.cache_clear()

    write("__init__.py", "")
    write("group/__init__.py", "")
    write("group/deep.py", "x = 1")
    write("leaf.py", "x = 1")
    write("other.py", "x = 1")
    yield write
    source.tree.cache_clear()


IMPORTS = {
    "leaf.py": [
        "import optrepro.leaf",
        "import optrepro.leaf as short",
        "from optrepro import leaf",
        "from optrepro.leaf import x",
    ],
    "group/deep.py": [
        "import optrepro.group.deep",
        "from optrepro.group import deep",
        "from optrepro.group.deep import x",
    ],
    "group/__init__.py": ["from optrepro.group import x", "import optrepro.group"],
}


@pytest.mark.parametrize(("file", "statement"), [(file, s) for file, all_ in IMPORTS.items() for s in all_])
@pytest.mark.parametrize("place", ["{}", "def f():\n    {}", "if True:\n    {}"], ids=["top", "function", "branch"])
def test_the_hash_changes_with_an_imported_module_however_it_is_imported(
    file: str, statement: str, place: str, package: Write
) -> None:
    package("top.py", place.format(statement))
    before = provenance.source_hash("optrepro.top")
    package(file, "x = 2")
    assert provenance.source_hash("optrepro.top") != before


def test_the_hash_changes_with_the_module_itself(package: Write) -> None:
    before = provenance.source_hash("optrepro.leaf")
    package("leaf.py", "x = 2")
    assert provenance.source_hash("optrepro.leaf") != before


def test_the_hash_changes_with_a_module_at_the_end_of_a_chain(package: Write) -> None:
    package("top.py", "import optrepro.middle")
    package("middle.py", "import optrepro.leaf")
    before = provenance.source_hash("optrepro.top")
    package("leaf.py", "x = 2")
    assert provenance.source_hash("optrepro.top") != before


@pytest.mark.parametrize("file", ["other.py", "__init__.py", "group/__init__.py"])
def test_the_hash_does_not_change_with_what_is_not_imported(file: str, package: Write) -> None:
    package("top.py", "import optrepro.leaf\nfrom optrepro.group import deep\nfrom other import x\nimport numpy")
    before = provenance.source_hash("optrepro.top")
    package(file, "x = 2")
    assert provenance.source_hash("optrepro.top") == before


def test_a_change_in_one_of_the_modules_that_import_each_other_changes_the_hashes_of_all(package: Write) -> None:
    package("a.py", "import optrepro.b\nx = 1")
    package("b.py", "def f():\n    import optrepro.c, optrepro.leaf\nx = 2")
    package("c.py", "from optrepro.a import x as y")
    names = ["optrepro.a", "optrepro.b", "optrepro.c"]
    before = [provenance.source_hash(name) for name in names]
    assert len(set(before)) == 3
    for file in ("a.py", "b.py", "c.py", "leaf.py"):
        text = (provenance.PACKAGE / file).read_text()
        package(file, text + "\nz = 3")
        assert all(provenance.source_hash(name) != old for name, old in zip(names, before, strict=True)), file
        package(file, text)
        assert [provenance.source_hash(name) for name in names] == before


def test_the_hash_does_not_depend_on_the_order_of_the_modules(package: Write) -> None:
    names = ["optrepro.leaf", "optrepro.other"]
    assert provenance.source_hash(*names) == provenance.source_hash(*reversed(names))


def test_the_hash_tells_what_comes_from_which_module(package: Write) -> None:
    package("top.py", "from optrepro import leaf, other\ny = leaf.x - other.x")
    package("other.py", "x = 2")
    before = provenance.source_hash("optrepro.top")
    package("leaf.py", "x = 2")
    package("other.py", "x = 1")
    assert provenance.source_hash("optrepro.top") != before


def test_an_unknown_module_is_an_error_that_names_it(package: Write) -> None:
    with pytest.raises(ValueError, match=r"optrepro\.nowhere is not a module of optrepro"):
        provenance.source_hash("optrepro.nowhere")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of our package whose source can be edited."""
    folder = tmp_path / "optrepro"
    shutil.copytree(provenance.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    source.tree.cache_clear()
    yield folder
    source.tree.cache_clear()


def edit(files: Iterator[Path]) -> None:
    for file in files:
        file.write_text(file.read_text() + "\nEDITED = True\n")
    source.tree.cache_clear()


@pytest.mark.parametrize(
    "part", ["experiments", "metalearning", "optimizers", "problems/networks", "problems/functions", "cli.py"]
)
def test_editing_what_runs_leaves_every_exhibit_alone(part: str, copy: Path) -> None:
    """Their captions ask the kinds of studies, which know the settings of all that runs and nothing else of it."""
    paths = (path.relative_to(copy).with_suffix("") for path in (copy / "exhibits").rglob("*.py"))
    modules = [".".join(["optrepro", *path.parts]) for path in paths if path.name != "__init__"]
    before = provenance.source_hash(*modules)
    running = (path for path in copy.rglob("*.py") if path.name != "settings.py")
    edit(path for path in running if path.relative_to(copy).as_posix().startswith(part))
    assert provenance.source_hash(*modules) == before


def test_editing_how_a_table_is_computed_leaves_every_exhibit_alone(copy: Path) -> None:
    modules = [f"optrepro.exhibits.{path.stem}" for path in (copy / "exhibits").glob("*.py")]
    before = provenance.source_hash(*modules)
    edit(path for path in (copy / "analysis").rglob("*.py") if path.name != "results.py")
    assert provenance.source_hash(*modules) == before


def test_editing_the_looks_redraws_an_exhibit_and_trains_nothing(copy: Path) -> None:
    exhibit, training = (
        provenance.source_hash("optrepro.exhibits.render"),
        provenance.source_hash("optrepro.experiments.training.classification"),
    )
    edit((copy / "exhibits").glob("style.py"))
    assert provenance.source_hash("optrepro.exhibits.render") != exhibit
    assert provenance.source_hash("optrepro.experiments.training.classification") == training


def test_editing_one_optimizer_leaves_the_runs_of_the_others_alone(copy: Path) -> None:
    gap, polyak = (provenance.source_hash(f"optrepro.optimizers.{name}") for name in ("gap", "polyak"))
    edit((copy / "optimizers").glob("gap.py"))
    assert provenance.source_hash("optrepro.optimizers.gap") != gap
    assert provenance.source_hash("optrepro.optimizers.polyak") == polyak


def test_the_hash_covers_every_module_that_importing_loads() -> None:
    code = "import json, sys, {0}; print(json.dumps([n for n, m in sys.modules.items() if n.startswith('optrepro.')]))"
    tree = source.tree(provenance.PACKAGE)
    for module in ("optrepro.exhibits.render", "optrepro.experiments.training.classification"):
        command = [sys.executable, "-c", code.format(module)]
        loaded = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        modules = {name for name in loaded if tree.path(name).name != "__init__.py"}
        assert modules <= tree.closure(module)


def test_packages_only_document_and_re_export_so_their_source_need_not_count() -> None:
    for path in provenance.PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text()).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            dunder = isinstance(node, ast.Assign) and all(str(t.id).startswith("__") for t in node.targets)
            assert docstring or dunder or isinstance(node, ast.ImportFrom | ast.Import), path


def test_a_files_hash_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert provenance.file_hash(path) == hashlib.sha256(b"content").hexdigest()


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with one commit."""
    package = tmp_path / "src" / "optrepro"
    package.mkdir(parents=True)
    (package / "module.py").write_text("x = 1")
    (tmp_path / "notes.txt").write_text("1")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    monkeypatch.setattr(provenance, "PACKAGE", package)
    return tmp_path


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert provenance.git_state() == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize(("file", "dirty"), [("src/optrepro/module.py", True), ("notes.txt", False)])
def test_a_checkout_is_dirty_if_source_was_edited(file: str, dirty: bool, checkout: Path) -> None:
    (checkout / file).write_text("x = 2")
    assert provenance.git_state()["dirty"] is dirty


def test_outside_a_checkout_commit_and_dirty_flag_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_state() == {"commit": None, "dirty": None}


def test_without_git_commit_and_dirty_flag_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state() == {"commit": None, "dirty": None}


def test_the_environment_names_the_versions_in_use() -> None:
    environment = provenance.environment()
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["packages"]["optrepro"] == optrepro.__version__


def versions_after(*statements: str) -> str:
    """What a process of its own records after these statements, as JSON."""
    code = "; ".join(["import json", *statements, "from optrepro import provenance"])
    code += "; print(json.dumps(provenance.environment()['packages']))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_environment_names_what_this_process_has_imported_and_nothing_else() -> None:
    names = {
        "yaml": "pyyaml",
        "cma": "cma",
        "sklearn": "scikit-learn",
        "numpy": "numpy",
        "huggingface_hub": "huggingface-hub",
    }
    few, more = json.loads(versions_after()), json.loads(versions_after(*(f"import {name}" for name in names)))
    assert not few.keys() & names.values()
    assert more.keys() >= set(names.values())
    assert all(version == importlib.metadata.version(name) for name, version in more.items() if name != "optrepro")


def test_a_package_that_is_imported_in_part_or_late_is_named_too() -> None:
    assert "scipy" in json.loads(versions_after("from scipy.special import erf"))
    assert "peft" in json.loads(
        versions_after("import optrepro.problems.networks.lora as a", "import peft.tuners.lora")
    )


def test_the_order_of_imports_does_not_change_the_record() -> None:
    assert versions_after("import numpy", "import yaml") == versions_after("import yaml", "import numpy")


def test_the_record_agrees_with_the_metadata_of_every_distribution() -> None:
    owners = importlib.metadata.packages_distributions()
    slow = {name for package, names in owners.items() if package in sys.modules for name in names}
    expected = {re.sub(r"[-_.]+", "-", name).lower() for name in slow} | {"optrepro"}
    assert set(provenance.imported_versions()) == expected


def test_the_peak_memory_is_that_of_a_process_with_torch() -> None:
    assert 50 < provenance.peak_memory_mib() < 50_000


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    """The sidecar of a result that was made from one input in another folder."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "data.csv").write_text("1")
    (tmp_path / "out" / "result.csv").write_text("2")
    path = tmp_path / "out" / "run.json"
    provenance.write_sidecar(
        path, outputs=[tmp_path / "out" / "result.csv"], inputs=[tmp_path / "in" / "data.csv"], seed=3
    )
    return path


def test_a_sidecar_holds_facts_and_hashes_by_relative_name(sidecar: Path) -> None:
    assert json.loads(sidecar.read_text()) == {
        "outputs": {"result.csv": hashlib.sha256(b"2").hexdigest()},
        "inputs": {"../in/data.csv": hashlib.sha256(b"1").hexdigest()},
        "seed": 3,
    }


def test_what_was_just_written_agrees_with_its_sidecar(sidecar: Path) -> None:
    assert provenance.check_sidecar(sidecar) == {}


def test_results_may_be_moved_together(sidecar: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    assert provenance.check_sidecar(tmp_path / "elsewhere" / "run.json") == {}


def test_an_edited_result_is_altered(sidecar: Path) -> None:
    sidecar.with_name("result.csv").write_text("3")
    assert provenance.check_sidecar(sidecar) == {"result.csv": "altered"}


def test_a_deleted_result_is_missing(sidecar: Path) -> None:
    sidecar.with_name("result.csv").unlink()
    assert provenance.check_sidecar(sidecar) == {"result.csv": "missing"}


def test_a_result_is_stale_if_an_input_changed(sidecar: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "data.csv").write_text("9")
    assert provenance.check_sidecar(sidecar) == {"../in/data.csv": "stale"}


def test_an_input_that_is_not_kept_is_no_fault(sidecar: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "data.csv").unlink()
    assert provenance.check_sidecar(sidecar) == {}
