"""Pieces of the pages: tables and texts as HTML, and sections of the project's own Markdown files."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup, escape

from optrepro.config import ConfigError

# A number, maybe with its unit, and with its interval, a remark in brackets, what it is a part of, or a mark behind it.
NUMBER = re.compile(
    r"[<>≤≥±]?\s*[-+−]?\d[\d,.]*([eE][-+]?\d+)?\s*[%×]?\s*(\[[^]]*\]|\([^)]*\)|of \d+|(/\d+)+|±.*)?\s*[†‡*]*"
)
WORDS = 90  # of a caption, before the rest is folded
NOTHING = ("", "–", "-", "nan", "NaN")


def text(plain: str) -> Markup:
    """A plain text as HTML, in which `code` in backticks is set as code; HTML stays as it is."""
    return plain if isinstance(plain, Markup) else Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(plain))))


def folded(caption: str) -> tuple[str, str]:
    """The sentences that a caption begins with, `WORDS` words at most unless the first is longer, and all others."""
    sentences = re.split(r"(?<=[.:?]) (?=[A-Z0-9])", caption)
    lengths = list(itertools.accumulate(len(sentence.split()) for sentence in sentences))
    shown = max(1, sum(length <= WORDS for length in lengths))
    return " ".join(sentences[:shown]), " ".join(sentences[shown:])


def link(label: str, address: str) -> Markup:
    """A link whose label is a plain text."""
    return Markup('<a href="{}">{}</a>').format(address, text(label))


def heading(plain: str) -> str:
    """A plain text as a heading of Markdown, whose signs have no meaning."""
    return re.sub(r"([\\`*_<>{}\[\]$#|~])", r"\\\1", " ".join(plain.split()))


def raw(markup: str) -> str:
    """HTML within Markdown, as it is."""
    return f"```{{raw}} html\n{markup}\n```"


def table(frame: pd.DataFrame, name: str, anchors: Sequence[str] = ()) -> str:
    """A data frame of texts as an HTML table that scrolls by itself; columns of numbers are aligned to the right.

    Args:
        frame: the table; cells that are `Markup` are HTML already.
        name: what a screen reader calls it.
        anchors: of each row, the name by which links lead to it; none without.
    """
    classes = [" class=n" if _numeric(frame[column]) else "" for column in frame]
    head = "".join(f'<th scope="col"{kind}>{text(str(c))}</th>' for c, kind in zip(frame, classes, strict=True))
    rows = (
        "".join(f"<td{kind}>{text(value)}</td>" for value, kind in zip(row, classes, strict=True))
        for row in frame.itertuples(index=False, name=None)
    )
    ids = [f' id="{escape(anchor)}"' for anchor in anchors] or [""] * len(frame)
    body = "\n".join(f"<tr{anchor}>{cells}</tr>" for anchor, cells in zip(ids, rows, strict=True))
    return (
        f'<div class="numbers" role="region" tabindex="0" aria-label="{escape(name)}">\n'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n</div>"
    )


def _numeric(column: pd.Series) -> bool:
    values = [value for value in map(str.strip, column) if value not in NOTHING]
    return bool(values) and all(NUMBER.fullmatch(value) for value in values)


def in_full(markdown: str, page: Path) -> str:
    """The source of a page, in which links that the site shows in full have become calls of `section`.

    Such a link stands alone in its line, with ``<!-- the site shows it in full -->`` behind it, so that the page can be
    read in the repository too. Its label is the heading of the section; without an anchor it is about the whole file.

    Args:
        page: the file of the page, relative to the project's folder; links lead from there.
    """

    def call(found: re.Match[str]) -> str:
        file = posixpath.normpath((page.parent / found[2]).as_posix())
        return f'{{{{ section("{file}", "{found[1]}") }}}}' if found[3] else f'{{{{ section("{file}") }}}}'

    return re.sub(
        r"^\[([^\]]+)\]\(([^)#\s]+)(#\S*)?\) <!-- the site shows it in full -->$", call, markdown, flags=re.MULTILINE
    )


def section(file: Path, title: str | None, here: str, pages: Mapping[str, str]) -> str:
    """A section of a Markdown file, or all of it below its title, with the highest headings inside made level 2.

    Args:
        file: the file, relative to the project's folder.
        title: heading of the section; None: all below the first heading, or with it if others have its level.
        here: the page that takes it in, relative to the site; links lead from there.
        pages: the pages of the site, by the files whose place they take. A link to any other file keeps only its text.

    Raises: ConfigError if the file has no such heading.
    """
    lines = list(_with_levels(file.read_text()))
    start, level = next(
        ((i, each) for i, (line, each) in enumerate(lines) if each and title in (None, line.lstrip("#").strip())),
        (-1, 0),
    )
    if start < 0:
        raise ConfigError(f"{file} has no heading {title!r}; the page {here} of the site takes it in")
    end = len(lines)
    if title is not None:
        end = next((i for i in range(start + 1, len(lines)) if 0 < lines[i][1] <= level), end)
    several = title is None and [each for _, each in lines].count(level) > 1
    taken = lines[start if several else start + 1 : end]
    shift = 2 - min((each for _, each in taken if each), default=2)
    shifted = "\n".join("#" * (each + shift) + line[each:] if each else line for line, each in taken)
    return linked(re.sub(r"<!--.*?-->\n?", "", shifted), file, here, pages).strip()


def _with_levels(markdown: str) -> Iterator[tuple[str, int]]:
    """The lines with the levels of their headings; 0 for other lines, and in blocks of code."""
    fence = ""
    for line in markdown.splitlines():
        if mark := re.match(r"\s*(```+|~~~+)", line):
            fence = "" if fence and line.strip().startswith(fence) else fence or mark[1]
        level = 0 if fence else len(line) - len(line.lstrip("#"))
        yield line, level if line[level : level + 1] == " " else 0


def linked(markdown: str, file: Path, here: str, pages: Mapping[str, str]) -> str:
    """Markdown of a file with links that lead from the page `here` of the site: see `section`."""

    def link(found: re.Match[str]) -> str:
        label, address, anchor = found[1], found[2], found[3] or ""
        if "://" in address:
            return found[0]
        target = posixpath.normpath((file.parent / address).as_posix())
        if target not in pages:
            return label
        return f"[{label}]({os.path.relpath(pages[target], posixpath.dirname(here) or '.')}{anchor})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]*)?\)", link, markdown)
