"""Pieces of the pages: what a text says cannot break a page, and sections of Markdown files arrive whole."""

import re
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import Markup

from optrepro import catalogue
from optrepro.config import ConfigError
from optrepro.site import fragments

EXHIBITS = catalogue.load(Path(__file__).parents[2] / "config").exhibits
PAGE = """# Title

Before.

## One

See [two](other.md#there), [a file](src/x.py) and [the paper](https://arxiv.org/abs/1).

```bash
# no heading
```

### Inside

Deep.

## Two

After.
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("page.md").write_text(PAGE)
    return Path("page.md")


def test_what_a_text_says_is_no_markup() -> None:
    assert fragments.text("<script> & `a<b`") == "&lt;script&gt; &amp; <code>a&lt;b</code>"
    assert fragments.text("-1 by `x: -1`, lag-1") == "−1 by <code>x: -1</code>, lag-1"
    assert fragments.link("`x`", 'a"b') == '<a href="a&#34;b"><code>x</code></a>'
    table = fragments.table(pd.DataFrame({"a": ["<b>", Markup("<i>1</i>")]}, dtype=object), 'a "name"')
    assert "<td>&lt;b&gt;</td>" in table
    assert "<td><i>1</i></td>" in table
    assert 'aria-label="a &#34;name&#34;"' in table


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["0.90", "–", "1e-05"], True),
        (["-0.1 [-0.2, +0.3]", "< 0.001"], True),
        (["+1.2 % [0.1, 2.3]", "−5 †", "10,240"], True),
        (["10 of 14", "821/81/122", "25 (the sweep: 75)"], True),
        (["0.5", "momentum 0.9"], False),
        (["–", ""], False),
    ],
)
def test_columns_of_numbers_are_aligned_to_the_right_and_others_are_not(cells: list[str], numeric: bool) -> None:
    assert ("<td class=n>" in fragments.table(pd.DataFrame({"c": cells}), "t")) is numeric


def test_a_caption_is_folded_at_the_end_of_a_sentence() -> None:
    sentence = f"It has{' many' * 38} words."
    assert fragments.folded(" ".join([sentence] * 5)) == (" ".join([sentence] * 2), " ".join([sentence] * 3))
    assert fragments.folded("Short.") == ("Short.", "")
    long = "word " * 100 + "end."
    assert fragments.folded(long) == (long, "")


def test_what_is_read_of_a_caption_before_the_fold_is_short_and_explains_every_panel() -> None:
    captions = {name: " ".join(entry.caption.split()) for name, entry in EXHIBITS.items()}
    parts = {name: fragments.folded(caption) for name, caption in captions.items()}
    assert {name: n for name, (shown, _) in parts.items() if (n := len(shown.split())) > fragments.WORDS} == {}
    panel = re.compile(r"\b(?:Above|Below|Left|Middle|Right|Last)\b[,:]")
    assert {name: found for name, (_, rest) in parts.items() if (found := panel.findall(rest))} == {}


def test_a_section_ends_at_the_next_heading_of_its_level_and_its_own_begin_at_level_2(page: Path) -> None:
    found = fragments.section(page, "One", "guides/one.md", {})
    assert "## Inside" in found.splitlines()
    assert "# no heading" in found.splitlines()
    assert "Before." not in found
    assert "After." not in found


def test_links_lead_to_the_pages_that_stand_for_files_and_other_files_are_only_named(page: Path) -> None:
    found = fragments.section(page, "One", "guides/one.md", {"other.md": "reference/other.md"})
    assert "See [two](../reference/other.md#there), a file and [the paper](https://arxiv.org/abs/1)." in found


def test_a_file_is_taken_whole_below_its_title(page: Path) -> None:
    found = fragments.section(page, None, "guides/one.md", {})
    assert found.startswith("Before.")
    assert "## Two" in found.splitlines()


def test_a_link_that_the_site_shows_in_full_is_the_section_that_it_leads_to_and_others_stay_links() -> None:
    mark = "<!-- the site shows it in full -->"
    text = f"[One](../../page.md#one) {mark}\n\n[All](../other.md) {mark}\n\nSee [two](../../page.md#two)."
    found = fragments.in_full(text, Path("docs/guides/here.md")).split("\n\n")
    assert found == [
        '{{ section("page.md", "One") }}',
        '{{ section("docs/other.md") }}',
        "See [two](../../page.md#two).",
    ]


def test_a_file_with_several_titles_keeps_them(page: Path) -> None:
    page.write_text("# One\n\nFirst.\n\n# Two\n\nSecond.\n")
    assert fragments.section(page, None, "guides/one.md", {}).splitlines()[::2] == [
        "## One",
        "First.",
        "## Two",
        "Second.",
    ]


def test_a_section_that_is_not_there_is_an_error_that_names_it(page: Path) -> None:
    with pytest.raises(ConfigError, match=r"page\.md has no heading 'Three'; the page guides/one\.md"):
        fragments.section(page, "Three", "guides/one.md", {})
