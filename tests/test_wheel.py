"""The wheel holds the library and the command, and nothing else."""

import os
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_only(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"optrepro"}
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
        "import optrepro, torch; from optrepro.optimizers import POP, GapSGD; from optrepro.problems import vlse;"
        "p = torch.nn.Parameter(torch.ones(2)); p.grad = torch.ones(2); GapSGD([p], lr=0.1).step();"
        "POP([p]).step(lambda: (p * p).sum());"
        "assert vlse.get('ackley', dim=2)(torch.zeros(2)).abs() < 1e-6; print(optrepro.__file__)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert python("-c", code).startswith(str(tmp_path / "site"))
    assert python("-m", "optrepro", "--version").strip() == version("optrepro")
