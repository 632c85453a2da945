"""The wheel holds the library and the command, and asks for torch and safetensors alone."""

import email
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGES = "".join((ROOT / page).read_text() for page in ("README.md", "docs/guides/use.md"))
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGES, re.MULTILINE | re.DOTALL)
LIGHT = {"torch", "safetensors"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_only(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"optrepro"}
    assert wheel.stat().st_size < 5_000_000
    assert "optrepro/py.typed" in zipfile.ZipFile(wheel).namelist()


def test_every_module_and_every_trained_policy_is_in_the_wheel(wheel: Path) -> None:
    source = ROOT / "src"
    files = [*source.rglob("optrepro/**/*.py"), *source.rglob("optrepro/**/weights/*")]
    modules = {path.relative_to(source).as_posix() for path in files}
    assert any(name.endswith(".safetensors") for name in modules)
    assert modules <= set(zipfile.ZipFile(wheel).namelist())


def test_optimizers_and_command_work_from_the_unpacked_wheel(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import optrepro, torch; from optrepro.optimizers import POP, GapSGD;"
        "from optrepro.problems.functions import vlse;"
        "p = torch.nn.Parameter(torch.ones(2)); p.grad = torch.ones(2); GapSGD([p], lr=0.1).step();"
        "POP([p]).step(lambda: (p * p).sum());"
        "assert vlse.get('ackley', dim=2)(torch.zeros(2)).abs() < 1e-6; print(optrepro.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert python("-c", code).startswith(str(tmp_path / "site"))
    assert python("-m", "optrepro", "--version").strip() == wheel.name.split("-")[1]


# --- The light install ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def requirements(wheel: Path) -> list[Requirement]:
    """What the wheel's metadata asks for, all extras included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]


def of_extra(requirements: Iterable[Requirement], extra: str) -> set[str]:
    """What an extra asks for; of no extra what everybody gets."""
    return {r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})}


def with_all_they_need(names: Iterable[str]) -> set[str]:
    """Installed packages, and the installed ones of those that they ask for."""
    todo, seen = [canonicalize_name(name) for name in names], set()
    while todo:
        name = todo.pop()
        try:
            asked = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # torch's CUDA build pins packages that its CPU build has no use for
        if name not in seen:
            seen.add(name)
            plain = [r for r in map(Requirement, asked) if r.marker is None or r.marker.evaluate({"extra": ""})]
            todo += [canonicalize_name(requirement.name) for requirement in plain]
    return seen


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment in which the wheel was installed, without a network.

    Torch, safetensors and what these two need are links to the ones at hand. If the wheel asked for anything else,
    the installation would fail.
    """
    folder = tmp_path_factory.mktemp("light")
    venv.create(folder, symlinks=True)
    commands = folder / ("Scripts" if os.name == "nt" else "bin")
    site = next(folder.glob("lib*/**/site-packages"))
    for name in with_all_they_need(LIGHT):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(installed.locate_file(top))).resolve())
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--python", commands / "python"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", wheel], check=True, capture_output=True)
    return commands


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command in a folder, without the variables that would lead Python elsewhere."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_torch_and_safetensors_are_all_that_everybody_gets(requirements: list[Requirement]) -> None:
    assert of_extra(requirements, "") == LIGHT


@pytest.mark.parametrize(
    ("extra", "held"),
    [("workflow", "experiments"), ("slurm", "workflow"), ("benchmarks", "workflow"), ("dev", "experiments")],
)
def test_an_extra_holds_the_one_that_it_builds_on(extra: str, held: str, requirements: list[Requirement]) -> None:
    assert LIGHT < of_extra(requirements, held) < of_extra(requirements, extra)


def test_nothing_of_the_extras_is_there_in_a_light_install(
    light: Path, requirements: list[Requirement], tmp_path: Path
) -> None:
    extras = {canonicalize_name(requirement.name) for requirement in requirements} - with_all_they_need(LIGHT)
    modules = [
        module
        for module, names in packages_distributions().items()
        if {canonicalize_name(name) for name in names} <= extras and module.isidentifier()
    ]
    assert {"numpy", "pandas", "typer", "yaml", "pytest"} <= set(modules)
    code = "import sys; from importlib.util import find_spec; print([m for m in sys.argv[1:] if find_spec(m)])"
    done = run(light / "python", "-c", code, *modules, folder=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_optimizers_import_torch_safetensors_and_the_standard_library_alone(light: Path, tmp_path: Path) -> None:
    code = (
        "import sys, torch, safetensors.torch; before = set(sys.modules); import optrepro.optimizers;"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(optrepro.__file__, *sorted(new - set(sys.stdlib_module_names) - {'torch', 'safetensors'}))"
    )
    done = run(light / "python", "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    file, *names = done.stdout.split()
    assert Path(file).is_relative_to(light.parent)
    assert names == ["optrepro"]


def test_the_examples_of_the_readme_run_in_a_light_install(light: Path, tmp_path: Path) -> None:
    each = f"for code in {EXAMPLES!r}: exec(code, {{'__name__': '__main__'}}); print('\\n--')"
    done = run(light / "python", "-c", each, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split("\n--\n")[:-1]
    assert len(printed) == len(EXAMPLES) > 0
    assert all(printed)


@pytest.mark.parametrize("command", [["optrepro", "plan"], ["python", "-m", "optrepro", "plan"]], ids=" ".join)
def test_the_command_says_in_one_line_which_extra_it_needs(command: list[str], light: Path, tmp_path: Path) -> None:
    done = run(light / command[0], *command[1:], folder=tmp_path)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.endswith("the command needs an extra: pip install 'optrepro[experiments]'")
