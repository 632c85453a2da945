"""Continuous integration, hooks, versions and the lowest supported dependencies agree with the project."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import optrepro

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
JOBS = [(file, name, job) for file, workflow in WORKFLOWS.items() for name, job in workflow["jobs"].items()]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def pythons(job):
    """The versions of Python that a job is run on."""
    named = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    several = job.get("strategy", {}).get("matrix", {}).get("python", [])
    return [version for name in named for version in (several if "matrix.python" in name else [name])]


# Workflows


def test_the_workflows_are_those_that_the_project_promises():
    assert {(file, name) for file, name, _ in JOBS} == {
        ("tests.yml", "lint"),
        ("tests.yml", "locked"),
        ("tests.yml", "lowest"),
        ("tests.yml", "smoke"),
        ("published.yml", "verify"),
        ("release.yml", "release"),
    }
    # PyYAML reads the key `on` as the truth value.
    assert WORKFLOWS["published.yml"][True]["schedule"] == [{"cron": "17 4 * * 1"}]
    assert WORKFLOWS["release.yml"][True] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize(("file", "name", "job"), JOBS, ids=[f"{file}-{name}" for file, name, _ in JOBS])
def test_a_job_runs_on_supported_pythons_with_pinned_actions_and_a_limit(file, name, job):
    assert job["timeout-minutes"] <= 90
    assert re.fullmatch(r"ubuntu-\d\d\.04", job["runs-on"])
    supported = SpecifierSet(PROJECT["requires-python"])
    assert pythons(job)
    assert all(isinstance(version, str) and supported.contains(version) for version in pythons(job))
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@v\d+\.\d+\.\d+", action)] == []


def test_the_tests_run_on_the_lowest_supported_python_and_on_the_newest_that_is_named():
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", text)]
    (lowest,) = (spec.version for spec in SpecifierSet(PROJECT["requires-python"]))
    assert named[0] == lowest
    assert pythons(WORKFLOWS["tests.yml"]["jobs"]["locked"]) == [named[0], named[-1]]
    assert pythons(WORKFLOWS["tests.yml"]["jobs"]["lowest"]) == [lowest]


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_a_workflow_may_read_alone_and_knows_no_secret(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in str(workflow)
    writing = [name for name, job in workflow["jobs"].items() if "write" in str(job.get("permissions"))]
    assert writing in ([], ["release"])


def test_every_goal_of_make_that_a_workflow_names_is_one():
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    goals = set(re.findall(r"^([\w./-]+):", makefile, re.MULTILINE))
    commands = [step["run"] for *_, job in JOBS for step in job["steps"] if step.get("run", "").startswith("make")]
    named = {word for command in commands for word in command.split()[1:] if "=" not in word}
    assert commands
    assert named <= goals


def test_the_release_takes_its_notes_from_the_section_of_the_changelog(tmp_path):
    steps = WORKFLOWS["release.yml"]["jobs"]["release"]["steps"]
    (step,) = (step for step in steps if "> notes.md" in step.get("run", ""))
    (tmp_path / "pyproject.toml").write_text('version = "1.2.0"\n')
    sections = ["## 1.3.0 (unreleased)\nnew", "## 1.2.0 (2030-01-02)\n- it", "## 1.1.0 (2029-01-02)\nold\n"]
    (tmp_path / "CHANGELOG.md").write_text("\n".join(sections))

    def run(tag):
        environment = {"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
        return subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, check=False).returncode

    assert run("v1.2.0") == 0
    assert (tmp_path / "notes.md").read_text() == "- it\n"
    assert run("v1.3.0") != 0
    assert run("v1x2.0") != 0


# Hooks


def test_the_hooks_are_the_projects_own_linters():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    assert [hook["id"] for hook in local["hooks"]] == ["ruff", "ruff-format", "snakefmt", "schema"]
    assert {hook["language"] for hook in local["hooks"]} == {"system"}


@pytest.mark.parametrize(
    ("hook", "file", "taken"),
    [
        ("snakefmt", "Snakefile", True),
        ("snakefmt", "workflow/rules/common.smk", True),
        ("snakefmt", "workflow/schemas/config.schema.json", False),
        ("schema", "src/optrepro/config.py", True),
        ("schema", "src/optrepro/studies/base.py", True),
        ("schema", "workflow/schemas/config.schema.json", True),
        ("schema", "src/optrepro/cli.py", False),
    ],
)
def test_a_hook_takes_the_files_that_it_is_for(hook, file, taken):
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (pattern,) = (each["files"] for each in local["hooks"] if each["id"] == hook)
    assert bool(re.search(pattern, file)) is taken
    assert (ROOT / file).exists()


# Versions


def test_the_version_is_the_same_wherever_it_stands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    codemeta = json.loads((ROOT / "codemeta.json").read_text())
    (latest, day), *_ = re.findall(r"^## (\S+) \((.*)\)$", CHANGELOG, re.MULTILINE)
    assert {VERSION, optrepro.__version__, citation["version"], codemeta["version"], latest} == {VERSION}
    if day != "unreleased":
        assert {str(citation["date-released"]), codemeta["datePublished"]} == {day}
    assert PROJECT["authors"] == citation["authors"]


@pytest.mark.parametrize(
    ("schema", "pattern"), [("citation-file-format", "CITATION.cff"), ("github-workflows", ".github/workflows/*.yml")]
)
def test_what_other_programs_read_is_valid_by_its_schema(schema, pattern):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *ROOT.glob(pattern)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_codemeta_says_what_the_project_and_its_citation_say():
    codemeta = json.loads((ROOT / "codemeta.json").read_text())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert codemeta["@context"] == "https://w3id.org/codemeta/3.0"
    assert codemeta["name"] == PROJECT["name"]
    assert codemeta["description"] == PROJECT["description"]
    assert codemeta["keywords"] == PROJECT["keywords"]
    assert codemeta["license"] == f"https://spdx.org/licenses/{PROJECT['license']}"
    assert codemeta["softwareRequirements"] == [f"python{PROJECT['requires-python']}", *PROJECT["dependencies"]]
    assert [author["name"] for author in codemeta["author"]] == [author["name"] for author in citation["authors"]]
    papers = [(paper["title"], paper["identifiers"][0]["value"]) for paper in citation["references"]]
    cited = [(paper["name"], paper["identifier"]) for paper in codemeta["citation"]]
    assert cited == papers
    names = [
        [f"{person['given-names']} {person['family-names']}" for person in paper["authors"]]
        for paper in citation["references"]
    ]
    assert [
        [author["givenName"] + " " + author["familyName"] for author in paper["author"]]
        for paper in codemeta["citation"]
    ] == names


def test_releases_are_dated_newest_first_and_only_the_latest_may_be_unreleased():
    heads = re.findall(r"^## (\S+) \((.*)\)$", CHANGELOG, re.MULTILINE)
    assert len(heads) == len(re.findall("^## ", CHANGELOG, re.MULTILINE))
    dates = [date for _, date in heads if date != "unreleased"]
    assert dates == sorted(dates, reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
    assert "unreleased" not in [date for _, date in heads[1:]]
    numbers = [tuple(map(int, version.split("."))) for version, _ in heads]
    assert numbers == sorted(set(numbers), reverse=True)


def test_every_change_stands_under_a_release_and_a_system():
    sections = re.split("^## .*$", CHANGELOG, flags=re.MULTILINE)[1:]
    assert all(re.match(r"\n\n### ", section) for section in sections)


# The lowest supported versions


def bounds():
    """The lower bounds of what a user of the package needs: its dependencies, and those of the experiments."""
    named = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["experiments"]]
    requirements = [Requirement(text) for text in named]
    return {canonicalize_name(r.name): next(s.version for s in r.specifier if s.operator == ">=") for r in requirements}


def test_the_lowest_versions_are_the_lower_bounds_in_order():
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert {canonicalize_name(name): version for name, version in pins} == bounds()
    assert pins == sorted(pins)
