import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from optrepro import provenance
from optrepro.catalogue import Choice
from optrepro.exhibits import report

WHY = "A long reason that no table may cut short; " * 5 + "so it is told."
CHOICES = [Choice(path="studies.*.epochs", value=164, standing="prior-art", why=WHY)]


class Page(HTMLParser):
    """The ids of the sections, the targets of the links, and the sources of the images."""

    def __init__(self, text: str):
        super().__init__()
        self.sections: list[str | None] = []
        self.links: list[str | None] = []
        self.images: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "section":
            self.sections.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given["src"] or "")


def exhibit(folder: Path, name: str, caption: str = "All of it.", cell: str = "0.90") -> Path:
    sidecar = folder / f"{name}.json"
    files = [sidecar.with_suffix(".png"), sidecar.with_suffix(".csv")]
    files[0].write_bytes(f"image of {name}".encode())
    files[1].write_text(f"optimizer,accuracy\nNA,{cell}\n")
    provenance.write_sidecar(sidecar, files, [], exhibit=name, title=f"Title of {name}", caption=caption)
    return sidecar


@pytest.fixture
def text(tmp_path: Path) -> str:
    """A page of two exhibits, the second one first."""
    out = tmp_path / "folder" / "report.html"
    report.write([exhibit(tmp_path, "second"), exhibit(tmp_path, "first")], CHOICES, out)
    return out.read_text()


def test_the_page_has_every_exhibit_in_the_order_given_and_the_ledger(text: str) -> None:
    page = Page(text)
    assert page.sections == ["second", "first", "fidelity"]
    assert page.links == ["#second", "#first", "#fidelity"]
    assert text.count("Title of first") == 3  # link, heading, text for who cannot see the image


def test_the_images_are_part_of_the_page(text: str) -> None:
    prefix = "data:image/png;base64,"
    assert all(source.startswith(prefix) for source in Page(text).images)
    images = [base64.b64decode(source.removeprefix(prefix)) for source in Page(text).images]
    assert images == [b"image of second", b"image of first"]


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    assert not re.search(r"https?://|<script|<link", text)


def test_the_numbers_stand_as_they_were_written(text: str) -> None:
    assert text.count("<td>0.90</td>") == 2
    assert text.count("<td>NA</td>") == 2


def test_the_ledger_is_told_in_full(text: str) -> None:
    assert WHY in text
    for part in ("studies.*.epochs", "164", "prior-art"):
        assert f"<td>{part}</td>" in text


def test_what_an_exhibit_says_cannot_break_the_page(tmp_path: Path) -> None:
    sidecar = exhibit(tmp_path, "first", caption="<script>1 < 2 & 3</script>", cell="<b>bold</b>")
    report.write([sidecar], CHOICES, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "&lt;script&gt;1 &lt; 2 &amp; 3&lt;/script&gt;" in text
    assert "<td>&lt;b&gt;bold&lt;/b&gt;</td>" in text


def test_equal_exhibits_make_equal_pages(text: str, tmp_path: Path) -> None:
    report.write([tmp_path / "second.json", tmp_path / "first.json"], CHOICES, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == text
