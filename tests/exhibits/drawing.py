"""What tests of exhibits share: the way from made-up studies to an exhibit, and what holds for each of them."""

import functools
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from optrepro import catalogue
from optrepro.analysis.results import StudyResults
from optrepro.exhibits import style
from optrepro.exhibits.material import Material

ROOT = Path(__file__).parents[2]
CATALOGUE = catalogue.load(ROOT / "config")
A4_HEIGHT = 297  # mm
SMALLEST_FONT = 7  # points
SLACK = 1.5  # points by which the boxes of texts, which have margins, may overlap
GREY = 0.12  # largest difference of the channels of a colour that counts as grey
MOST_COLOURS = 6  # of curves in a panel


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


@functools.lru_cache(maxsize=1)  # one drawing answers all that is asked of a finished figure
def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that a figure draws; those of hidden ticks and of ticks outside an axis are none of them."""
    texts, draw = [], Text.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: (texts.append(text), draw(text, renderer)))
        figure.draw_without_rendering()
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def small_texts(figure: Figure) -> list[str]:
    """The texts that are smaller than 7 pt where the figure is as wide as a page."""
    return [text.get_text() for text in drawn_texts(figure) if text.get_fontsize() < SMALLEST_FONT]


def overlapping_texts(figure: Figure) -> list[tuple[str, str]]:
    """The pairs of texts whose boxes overlap by more than `SLACK` both ways; of slanted texts, boxes say nothing."""
    texts = [text for text in drawn_texts(figure) if text.get_rotation() % 90 == 0]
    boxes = np.array([Text.get_window_extent(text).extents for text in texts]) * 72 / figure.dpi
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    pairs = np.argwhere(np.triu((high - low > SLACK).all(axis=-1), k=1))
    return [(texts[i].get_text(), texts[j].get_text()) for i, j in pairs]


def pale_texts(figure: Figure) -> list[tuple[str, float]]:
    """The texts that are hard to read on what is behind them, with their contrast, of which 4.5 is asked."""
    texts = drawn_texts(figure)
    figure.set_layout_engine("none")  # what is drawn without the texts stays where it is
    boxes = [Text.get_window_extent(text) for text in texts]
    for text in texts:
        text.set_alpha(0)  # its plate stays
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    page = np.asarray(canvas.buffer_rgba())[::-1, :, :3] / 255
    contrasts = []
    for text, box in zip(texts, boxes, strict=True):
        behind = page[max(int(box.y0), 0) : int(box.y1) + 1, max(int(box.x0), 0) : int(box.x1) + 1].reshape(-1, 3)
        contrasts.append((text.get_text(), style.contrast(text.get_color(), np.median(behind, axis=0))))
    return [(text, contrast) for text, contrast in contrasts if contrast < style.READABLE]


def colours_of_curves(axes: Axes) -> set[str]:
    """The colours, apart from greys and black, of the curves in a panel."""
    curves = (line for line in axes.lines if line.get_visible() and len(line.get_xdata()) > 2)
    colours = {to_hex(line.get_color()) for line in curves}
    return {colour for colour in colours if np.ptp(to_rgb(colour)) > GREY}


def assert_has_minus_signs(figure: Figure) -> None:
    """No number of a saved figure has a hyphen for a minus sign."""
    texts = [text.get_text() for text in drawn_texts(figure)]
    assert [text for text in texts if style.typeset(text) != text] == []


def assert_is_whole(table: pd.DataFrame) -> None:
    """A table has rows, and no cell is missing or says "nan" or "None"."""
    assert len(table) > 0
    assert not table.isna().any(axis=None)
    assert not table.astype(str).isin(["nan", "None"]).any(axis=None)
