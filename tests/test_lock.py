"""constraints.txt, environment.yml and pyproject.toml name the same packages, in versions that fit."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"[A-Za-z0-9._-]+==[0-9A-Za-z.]+")
CONDA_NAMES = {"pytorch": "torch", "python-build": "build"}  # where conda-forge has another name than PyPI
NOT_PYPI = {"python", "pip"}


def direct_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    named = [Requirement(text) for group in (project["dependencies"], *extras) for text in group]
    return [requirement for requirement in named if requirement.name != project["name"]]  # an extra may hold another


def lock_lines():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def locked():
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lock_lines())}


def conda():
    """Versions by PyPI name, from both sections of environment.yml."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    pins = [entry.split("=") for entry in entries if isinstance(entry, str) and entry not in NOT_PYPI]
    pins += [entry.split("==") for entry in by_pip if not entry.startswith("-e")]
    return {canonicalize_name(CONDA_NAMES.get(name, name)): v for name, v in pins if name not in NOT_PYPI}


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=str)
def test_every_direct_dependency_is_locked_within_its_bounds(requirement):
    version = locked().get(canonicalize_name(requirement.name))
    assert version is not None, f"constraints.txt does not pin {requirement.name}"
    assert requirement.specifier.contains(version)


@pytest.mark.parametrize("requirement", direct_dependencies(), ids=str)
def test_every_direct_dependency_is_in_the_conda_environment(requirement):
    assert canonicalize_name(requirement.name) in conda()


def test_the_conda_environment_has_the_locked_versions():
    versions = locked()
    assert conda() == {name: versions.get(name) for name in conda()}


def test_the_conda_environment_has_a_python_that_the_project_supports():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (python,) = (entry.split("=")[1] for entry in entries if isinstance(entry, str) and entry.startswith("python="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python)


def test_the_lock_is_pins_alone_without_address_path_or_local_version():
    assert [line for line in lock_lines() if not PIN.fullmatch(line)] == []


def test_the_lock_is_sorted_and_pins_nothing_twice():
    names = [canonicalize_name(line.split("==")[0]) for line in lock_lines()]
    assert names == sorted(set(names))


def test_the_lock_says_how_to_refresh_it():
    header = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("#")]
    assert any("pip freeze" in line for line in header)
