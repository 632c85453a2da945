"""What tests of exhibits share: the way from made-up studies to an exhibit, and what holds for each of them."""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from optrepro import catalogue
from optrepro.analysis.results import StudyResults
from optrepro.exhibits import style
from optrepro.exhibits.material import Material

ROOT = Path(__file__).parents[2]
CATALOGUE = catalogue.load(ROOT / "config")
A4_HEIGHT = 297  # mm


def material(exhibit: str, studies: Mapping[str, StudyResults]) -> Material:
    """What the catalogue hands an exhibit, made from studies by id.

    Raises: KeyError for a study of the exhibit that is not there; the claims alone take whatever there is.
    """
    used = [name for name in CATALOGUE.studies_of(exhibit) if name in studies or exhibit != "claims"]
    tables = {}
    for name in CATALOGUE.exhibits[exhibit].tables:
        entry = CATALOGUE.tables[name]
        path, _, function = entry.function.rpartition(".")
        arguments = {**entry.arguments, **({"folder": str(ROOT / "config")} if entry.judges else {})}
        made = [studies[study] for study in entry.studies if study in used]
        made += [studies[study] for study in entry.further if study in studies]
        tables[name] = getattr(importlib.import_module(path), function)(*made, **arguments)
    return Material(tables, {name: studies[name].facts for name in used})


def module(exhibit: str) -> ModuleType:
    """The module of an exhibit, with its ``figure`` and ``table``."""
    return importlib.import_module(CATALOGUE.exhibits[exhibit].module)


def shown(figure: Figure) -> list[str]:
    """Every text of a figure that is not blank."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


def assert_fits_the_page(figure: Figure) -> None:
    """A figure, laid out, is as wide as a page, no higher than A4, and nothing sticks out of it by 0.01 in."""
    page, drawn = figure.bbox_inches, figure.get_tightbbox()
    assert page.width * 25.4 == pytest.approx(style.PAGE_WIDTH)
    assert page.height * 25.4 < A4_HEIGHT
    assert page.x0 - 0.01 <= drawn.x0 < drawn.x1 <= page.x1 + 0.01
    assert page.y0 - 0.01 <= drawn.y0 < drawn.y1 <= page.y1 + 0.01


def assert_axes_are_labelled(figure: Figure) -> None:
    """All axes whose x-axis has numbers say what they are; ranks stand on top, below a title that says so."""
    for axes in figure.findobj(Axes):
        ticks = [label.get_text() for label in axes.get_xticklabels() if label.get_visible()]
        numbers = [text for text in ticks if re.search(r"\d", text)]
        assert axes.get_xlabel() or not axes.axison or not numbers or axes.xaxis.get_ticks_position() == "top"


def assert_is_whole(table: pd.DataFrame) -> None:
    """A table has rows, and no cell is missing or says "nan" or "None"."""
    assert len(table) > 0
    assert not table.isna().any(axis=None)
    assert not table.astype(str).isin(["nan", "None"]).any(axis=None)
