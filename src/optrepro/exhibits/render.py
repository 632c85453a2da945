"""Write the files of an exhibit: figure (SVG, PNG), table (CSV, Markdown, LaTeX), and sidecar."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from optrepro import parquet, provenance
from optrepro.analysis.results import read_facts
from optrepro.catalogue import ExhibitEntry
from optrepro.exhibits import captions, style
from optrepro.exhibits.material import Material

FORMATS = ("svg", "png", "csv", "md", "tex")


def render(name: str, entry: ExhibitEntry, tables: Sequence[Path], facts: Sequence[Path], stem: Path) -> None:
    """Draw an exhibit: ``<stem>.svg/.png/.csv/.md/.tex`` and the sidecar ``<stem>.json``.

    Args:
        name: id of the exhibit.
        entry: its entry in the catalogue.
        tables: parquet files, named as the entry names its tables.
        facts: JSON files of the studies, named by study.
        stem: path of the outputs without suffix.
    """
    material = Material(
        tables={path.stem: parquet.read(path) for path in tables},
        facts={path.stem: read_facts(path) for path in facts},
    )
    exhibit = importlib.import_module(entry.module)
    caption = captions.caption(entry.caption, material)
    stem.parent.mkdir(parents=True, exist_ok=True)
    style.save(exhibit.figure(material), stem)
    outputs = [stem.with_suffix(f".{suffix}") for suffix in FORMATS]
    _write_table(exhibit.table(material), name, f"{entry.title}. {caption}", stem)
    provenance.write_sidecar(
        stem.with_suffix(".json"),
        outputs=outputs,
        inputs=[*tables, *facts, *(path.with_suffix(".parquet") for path in facts)],
        exhibit=name,
        title=entry.title,
        caption=caption,
        source=provenance.source_hash(entry.module, "optrepro.exhibits.render"),
    )


def _write_table(table: pd.DataFrame, name: str, caption: str, stem: Path) -> None:
    table.to_csv(stem.with_suffix(".csv"), index=False, lineterminator="\n")
    markdown = style.typeset(table.to_markdown(index=False, disable_numparse=True))
    stem.with_suffix(".md").write_text(f"{caption}\n\n{markdown}\n")
    latex = table.to_latex(index=False, escape=True, caption=_escape(caption), label=f"tab:{name}", longtable=True)
    stem.with_suffix(".tex").write_text(style.typeset(latex))


def _escape(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text
