import importlib
from pathlib import Path

import pytest
import yaml

from optrepro import catalogue, config
from optrepro.config import ConfigError
from optrepro.exhibits.claims import OWN

FOLDER = Path(__file__).parents[1] / "config"
SCALES = ("smoke", "laptop", "overnight", "gpu", "paper")

EXHIBITS = """
tables:
  scores: {function: made_up.scores, studies: [images, boxes]}
  curves: {function: made_up.curves, studies: [boxes, more]}
exhibits:
  comparison:
    {title: Comparison, module: made_up.comparison, tables: [scores, curves], caption: All of it.}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A config folder with one paper."""
    for name, text in (("paper", "title: A paper\nposition: 1\n"), ("exhibits", EXHIBITS)):
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_studies_of_an_exhibit_are_those_of_its_tables_each_once_and_in_order(folder: Path) -> None:
    assert catalogue.load(folder).studies_of("comparison") == ["images", "boxes", "more"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Comparison", "tilte: Comparison", "exhibits.comparison.tilte is not a key of this file"),
        ("[scores, curves]", "[]", "exhibits.comparison.tables = [] is not allowed. It must have at least 1 item"),
        ("made_up.scores", "scores", "tables.scores.function = 'scores' is not allowed. It must be an import path"),
    ],
)
def test_an_error_names_file_key_value_and_what_is_allowed(old: str, new: str, message: str, folder: Path) -> None:
    path = folder / "mine" / "exhibits.yaml"
    path.write_text(EXHIBITS.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        catalogue.load(folder)
    assert any(line.startswith(f"{path}: {message}") for line in str(caught.value).splitlines())


def test_an_exhibit_of_a_table_that_is_not_there_is_an_error(folder: Path) -> None:
    (folder / "mine" / "exhibits.yaml").write_text(EXHIBITS.replace("[scores, curves]", "[scores, sources]"))
    with pytest.raises(
        ConfigError, match=r"exhibits\.comparison\.tables names 'sources', which is not one of \['curves"
    ):
        catalogue.load(folder)


def test_curves_of_a_table_that_the_exhibit_does_not_show_are_an_error(folder: Path) -> None:
    curves = "curves: {table: sources, x: step, y: mean, shows: the loss}, caption"
    (folder / "mine" / "exhibits.yaml").write_text(EXHIBITS.replace("caption", curves))
    with pytest.raises(ConfigError, match=r"exhibits\.comparison\.curves\.table = 'sources' .* scores, curves$"):
        catalogue.load(folder)


def test_papers_come_in_their_order_and_what_is_above_them_last(folder: Path) -> None:
    (folder / "before").mkdir()
    (folder / "before" / "paper.yaml").write_text("title: Another\nposition: 0\n")
    (folder / "exhibits.yaml").write_text(
        "exhibits:\n  all: {title: All, module: a.b, tables: [curves], caption: Both.}\n"
    )
    loaded = catalogue.load(folder)
    assert list(loaded.papers) == ["before", "mine"]
    assert {name: entry.system for name, entry in loaded.exhibits.items()} == {"comparison": "mine", "all": "all"}


def test_a_pattern_stands_for_a_table_of_each_study(folder: Path) -> None:
    (folder / "exhibits.yaml").write_text('tables:\n  "{study}-rates": {function: made_up.rates, each: [one, two]}\n')
    made = {name: entry.studies for name, entry in catalogue.load(folder).tables.items() if name.endswith("-rates")}
    assert made == {"one-rates": ("one",), "two-rates": ("two",)}


def test_a_catalogue_that_is_not_yaml_is_one_line(folder: Path) -> None:
    (folder / "mine" / "exhibits.yaml").write_text("tables: [")
    with pytest.raises(ConfigError, match=r"exhibits\.yaml is not valid YAML") as caught:
        catalogue.load(folder)
    assert "\n" not in str(caught.value)


def test_claims_and_choices_are_read_with_their_defaults(folder: Path) -> None:
    claim = {"id": "a", "statement": "s", "source": "section 1", "criterion": "c"}
    choice = {"path": "studies.*.epochs", "value": 1e-8, "standing": "chosen", "why": "w"}
    (folder / "mine" / "claims.yaml").write_text(yaml.safe_dump([claim]))
    (folder / "fidelity.yaml").write_text(yaml.safe_dump([choice]))
    [read_claim] = catalogue.claims(folder)
    [read_choice] = catalogue.choices(folder)
    assert (read_claim.id, read_claim.system, read_claim.exhibit, read_claim.rule) == ("a", "mine", None, None)
    assert (read_choice.path, read_choice.value) == ("studies.*.epochs", 1e-8)


def test_an_entry_of_the_ledger_holds_for_all_of_its_paths(folder: Path) -> None:
    entries = [{"path": ["a", "b"], "value": 1}, {"values": {"c": 2, "d": None}}]
    text = yaml.safe_dump([{**entry, "standing": "chosen", "why": "w"} for entry in entries])
    (folder / "mine" / "fidelity.yaml").write_text(text)
    read = {choice.path: choice.value for choice in catalogue.choices(folder)}
    assert read == {"a": 1, "b": 1, "c": 2, "d": None}


def test_a_table_of_claims_can_do_without_the_studies_of_unpublished_exhibits(folder: Path) -> None:
    exhibits = EXHIBITS + "  waiting: {title: W, module: a.b, tables: [curves], caption: C, published: false}\n"
    (folder / "mine" / "exhibits.yaml").write_text(exhibits)
    tested = {"comparison": ["images", "boxes"], "waiting": ["boxes", "new"]}
    claims = [
        {"id": name, "statement": "s", "source": "1", "criterion": "c", "exhibit": name, "settings": {"studies": used}}
        for name, used in tested.items()
    ]
    (folder / "mine" / "claims.yaml").write_text(yaml.safe_dump(claims))
    (folder / "exhibits.yaml").write_text("tables:\n  claims: {function: a.b, judges: true}\n")
    judges = catalogue.load(folder).tables["claims"]
    assert (judges.studies, judges.further) == (("images", "boxes"), ("new",))


def test_a_choice_of_unknown_standing_is_an_error(folder: Path) -> None:
    (folder / "fidelity.yaml").write_text("- {path: a, value: 1, standing: guessed, why: w}")
    with pytest.raises(
        ConfigError, match=r"entry 1 \('a'\): standing = 'guessed' is not allowed\. Input should be 'stated'"
    ):
        catalogue.choices(folder)


@pytest.mark.parametrize("scale", SCALES)
def test_every_exhibit_can_be_drawn_at_every_scale(scale: str) -> None:
    entries = catalogue.load(FOLDER)
    studies = config.load(FOLDER / f"{scale}.yaml").studies
    assert {study for name in entries.exhibits for study in entries.studies_of(name)} <= set(studies)


def test_every_table_belongs_to_an_exhibit() -> None:
    entries = catalogue.load(FOLDER)
    assert {table for exhibit in entries.exhibits.values() for table in exhibit.tables} == set(entries.tables)


def test_every_function_of_a_table_exists() -> None:
    for entry in catalogue.load(FOLDER).tables.values():
        module, _, name = entry.function.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name)), entry.function


def test_every_exhibit_has_a_figure_and_a_table() -> None:
    for entry in catalogue.load(FOLDER).exhibits.values():
        module = importlib.import_module(entry.module)
        assert callable(module.figure), entry.module
        assert callable(module.table), entry.module


def test_every_claim_of_a_paper_names_its_setting_and_so_does_every_part_that_is_reproduced() -> None:
    theirs = [claim for claim in catalogue.claims(FOLDER) if not claim.source.endswith(OWN)]
    assert [claim.id for claim in theirs if claim.setting is None] == []
    exhibits = catalogue.load(FOLDER).exhibits
    parts = {(entry.system, entry.reproduces) for entry in exhibits.values() if entry.reproduces is not None}
    judged = {(claim.system, exhibits[claim.exhibit].reproduces) for claim in theirs if claim.exhibit}
    assert parts - judged == set()


def test_every_claim_is_tested_by_an_exhibit_of_the_catalogue_or_says_that_it_is_not() -> None:
    exhibits = catalogue.load(FOLDER).exhibits
    for claim in catalogue.claims(FOLDER):
        assert claim.exhibit is None or claim.exhibit in exhibits, claim.id
