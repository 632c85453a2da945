"""What the README and its companions say is there, runs, and is complete."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from optrepro import catalogue, config, manual
from optrepro.cli import app, data_app, store_app
from optrepro.settings import Model
from optrepro.site import readme

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/guides/use.md",
    "docs/guides/rerun.md",
    "docs/guides/judge.md",
    "docs/guides/extend.md",
    "docs/reference/speed.md",
    "CONTRIBUTING.md",
    "config/README.md",
    "data/README.md",
    "figures/README.md",
    "profiles/README.md",
    "results/README.md",
]
CONFIG_PAGE = (ROOT / "config/README.md").read_text()
README = (ROOT / "README.md").read_text()
USE = (ROOT / "docs/guides/use.md").read_text()
CATALOGUE = catalogue.load(ROOT / "config")
PUBLISHED = (ROOT / "figures/claims.md").exists()
GENERATED = ("figures/", "results/")  # what a run or the publication of results makes


def blocks(text, language):
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text, heading):
    """What stands under a heading, up to the next one."""
    return re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)[1]


def table_rows(text):
    """The cells of each row of the Markdown tables in a text, headers and rules left out."""
    tables = re.findall(r"^\|.*\n\|[-| :]+\n((?:\|.*\n)*)", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for body in tables for line in body.splitlines()]


def commands(text, program):
    """The words of each command of a program in the code blocks for a shell."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line[:1] == [program]]


def workflow_rules():
    text = "".join(path.read_text() for path in (ROOT / "workflow").rglob("*Snakefile"))
    text += "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    return set(re.findall(r"^rule (\w+):", text, re.MULTILINE)) | set(re.findall(r"^use rule \w+ as (\w+)", text, re.M))


def models(base):
    """The package's models."""
    own = [model for model in base.__subclasses__() if model.__module__.startswith("optrepro.")]
    return [*own, *(model for each in own for model in models(each))]


# --- Links, files, commands -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    relative = [link for link in links if "://" not in link and (PUBLISHED or not link.startswith(GENERATED))]
    assert [link for link in relative if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page):
    """Inline code that reads like a path, from the project's folder, the page's, or the package's."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    names = re.findall(r"`((?:\.\./)?[\w./-]+(?:\.(?:py|md|ya?ml|txt|smk|toml|cff)|/))`", text)
    named = [name for name in names if not name.startswith((*GENERATED, "laptop/", "published/", "mine."))]
    papers = [path.parent for path in (ROOT / "config").glob("*/paper.yaml")]
    roots = [ROOT, (ROOT / page).parent, ROOT / "src/optrepro", ROOT / "src/optrepro/experiments", *papers]
    assert [name for name in named if not any(root.joinpath(name).exists() for root in roots)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_program_exists(page):
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    apps = {"data": data_app, "store": store_app}
    groups = {
        group: {command.name or command.callback.__name__ for command in each.registered_commands}
        for group, each in apps.items()
    }
    for _, verb, *rest in commands((ROOT / page).read_text(), "optrepro"):
        assert verb in verbs or rest[0] in groups[verb]


@pytest.mark.parametrize("page", PAGES)
def test_every_target_stands_first_and_exists(page):
    targets = {*workflow_rules(), *CATALOGUE.exhibits, *(entry.system for entry in CATALOGUE.exhibits.values())}
    lines = commands((ROOT / page).read_text(), "snakemake")
    inline = [shlex.split(code) for code in re.findall(r"`(snakemake [^`<]+)`", (ROOT / page).read_text())]
    for line in [*lines, *inline]:
        before_options = line[1:] if line[1:2] and not line[1].startswith("-") else []
        assert all(word in targets for word in before_options[:1]), line
        values = {line[i + 1] for i, word in enumerate(line[:-1]) if word.startswith("--")}
        assert [word for word in line[2:] if not word.startswith("-") and word not in values] == [], line


@pytest.mark.parametrize("page", PAGES)
def test_every_goal_of_make_exists(page):
    goals = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = [goal for _, *rest in commands((ROOT / page).read_text(), "make") for goal in rest]
    assert [goal for goal in asked if goal not in goals] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_scale_file_that_is_shown_is_a_valid_config(page, tmp_path):
    shown = [block for block in blocks((ROOT / page).read_text(), "yaml") if "extends:" in block]
    for block in shown:
        content = yaml.safe_load(block)
        path = tmp_path / f"{content['scale']}.yaml"
        parents = [content["extends"]] if isinstance(content["extends"], str) else content["extends"]
        path.write_text(yaml.safe_dump({**content, "extends": [str(ROOT / "config" / parent) for parent in parents]}))
        assert config.load(path).scale == content["scale"]


# --- README.md ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [*blocks(README, "python"), *blocks(USE, "python")])
def test_the_code_for_users_of_the_optimizers_runs(code, capsys):
    with torch.random.fork_rng(devices=[]):
        exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


@pytest.mark.skipif(not PUBLISHED, reason="the example reads published results, and there are none yet")
def test_the_example_of_reading_results_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (code,) = blocks((ROOT / "results/README.md").read_text(), "python")
    exec(compile(code, "results/README.md", "exec"), {})
    assert "momentum-90" in capsys.readouterr().out


def test_the_readme_shows_one_figure_of_the_gallery():
    (shown,) = re.findall(r"!\[[^\]]+\]\(figures/([\w-]+)\.png\)", README)
    assert shown in CATALOGUE.exhibits


def test_the_readme_is_short_enough_to_be_read_to_the_end():
    assert len(README.encode()) < 12_000


def test_the_graph_of_the_rules_has_those_of_the_workflow():
    (graph,) = blocks((ROOT / "CONTRIBUTING.md").read_text(), "mermaid")
    nodes = set(re.findall(r"\b[a-z_]+\b", re.sub(r"\(?\[.*?\]\)?|-- .*? -->|flowchart LR", " ", graph)))
    # The rules of studies and statistics are made in loops, one for the results of each job.
    assert nodes - {"config", "published", "store", "study", "statistics"} == workflow_rules()


@pytest.mark.skipif(not PUBLISHED, reason="figures/claims.md is drawn from published results, and there are none yet")
@pytest.mark.parametrize("page", readme.PAGES)
def test_numbers_verdicts_and_lists_are_those_of_the_published_exhibits(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / page).read_text()
    assert readme.insert(text, Path("config")) == text  # else: optrepro readme


# --- config/README.md -----------------------------------------------------------------------------------------------


def test_the_tables_of_keys_are_those_that_the_command_writes():
    assert manual.insert(CONFIG_PAGE) == CONFIG_PAGE


def test_every_field_of_the_config_is_explained_by_sentences_that_end_in_a_full_stop():
    fields = {f"{model.__name__}.{name}": f for model in models(Model) for name, f in model.model_fields.items()}
    assert len(fields) > 300
    assert [name for name, field in fields.items() if not re.match(r"[A-Z`].*\.$", field.description or "")] == []


def test_every_file_of_the_config_folder_is_explained():
    table = section(CONFIG_PAGE, "Config: what to run")
    files = [path.name for path in (ROOT / "config").glob("*.yaml")]
    folders = [f"{paper}/" for paper in CATALOGUE.papers]
    of_a_paper = [f"gap/{path.name}" for path in (ROOT / "config/gap").glob("*.yaml")]
    assert [name for name in (*files, *folders, *of_a_paper) if f"`{name}`" not in table] == []
