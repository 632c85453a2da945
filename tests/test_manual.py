"""The tables of the config's keys: what they say of types, and where their links lead."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, create_model

from optrepro import cli, config, manual
from optrepro.catalogue import ChoiceEntry
from optrepro.settings import Count, DottedPath, Model, Name, Positive, Range, Share, TrainedRow
from optrepro.studies.kinds import KINDS

HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "boolean"),
        (str, "text"),
        (Any, "any value"),
        (Name, "name"),
        (DottedPath, "import path"),
        (TrainedRow | None, "study/row, or null"),
        (Count, "integer, 1 or more"),
        (Positive, "number above 0"),
        (Share, "number in [0, 1]"),
        (Annotated[float, Field(gt=0, lt=1)], "number in (0, 1)"),
        (Annotated[float, Field(lt=-1)], "number below -1"),
        (Annotated[int, Field(le=3)], "integer, 3 or less"),
        (Annotated[int, Field(ge=2, multiple_of=2)], "integer, 2 or more, a multiple of 2"),
        (Range, "list of 2 numbers above 0"),
        (tuple[Name, ...], "list of names"),
        (Literal["fine", "coarse"], "`fine`, `coarse`"),
        (Count | Literal["all"], "integer, 1 or more, or `all`"),
        (dict[str, Any], "mapping"),
        (dict[Name, Count], "mapping of names to integers, 1 or more"),
        (dict[Literal["a", "b"], Share], "mapping of `a`, `b` to numbers in [0, 1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the other ids would hold addresses
)
def test_a_type_is_said_in_words(annotation: Any, words: str) -> None:
    model = create_model("Made", __base__=Model, key=(annotation, ...))
    [row] = [line for line in manual._Manual()._table(model).splitlines() if line.startswith("| `key` |")]
    assert row.split(" | ")[1] == words


def test_every_kind_has_one_section_in_the_order_of_the_kinds() -> None:
    headings = HEADING.findall(manual.text())
    assert [heading for heading in headings if heading.startswith("Kind ")] == [f"Kind `{name}`" for name in KINDS]
    assert len(headings) == len(set(map(anchor, headings)))


def test_every_link_leads_to_a_section() -> None:
    text = manual.text()
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= set(map(anchor, HEADING.findall(text)))


def test_every_model_of_the_schema_has_its_keys_in_a_table() -> None:
    definitions, sections, text = config.schema()["$defs"], manual._Manual().sections, manual.text()
    assert set(definitions) <= {model.__name__ for model in sections}
    keys = {key for definition in definitions.values() for key in definition["properties"]}
    assert [key for key in keys if f"| `{key}` |" not in text] == []


def test_keys_that_kinds_share_are_in_one_table() -> None:
    assert manual.text().count("| `test_repetitions` |") == 1
    assert "It also has the keys of [recipe](#shared-keys-recipe) and [image data]" in manual.text()


def test_a_bar_in_a_sentence_does_not_end_its_cell() -> None:
    model = create_model("Made", __base__=Model, key=(Annotated[int, Field(description="KL(p | q).")], 3))
    assert manual._Manual()._table(model).endswith("| `key` | integer | `3` | KL(p \\| q). |")


def test_a_docstring_with_a_list_stays_one() -> None:
    assert "\n- `stated` in" in manual._Manual()._section(ChoiceEntry, 2)


def test_the_command_writes_between_the_markers_of_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{manual.BEGIN}\nold\n{manual.END}\n\nafter\n")
    cli.manual_(page)
    assert page.read_text() == f"before\n\n{manual.BEGIN}\n{manual.text()}{manual.END}\n\nafter\n"
    cli.manual_(None)
    assert capsys.readouterr().out == manual.text()


def test_a_page_without_markers_is_left_as_it_is(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("all mine\n")
    with pytest.raises(config.ConfigError, match=r"page\.md: the page has no <!-- keys --> with an <!-- /keys -->"):
        cli.manual_(page)
    assert page.read_text() == "all mine\n"
