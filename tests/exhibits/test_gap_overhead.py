"""The exhibit gap-overhead, drawn from a made-up study."""

import pytest
from matplotlib.lines import Line2D
from matplotlib.text import Text

from optrepro.analysis import overhead
from optrepro.exhibits import gap_overhead, style
from optrepro.exhibits.material import Material


@pytest.fixture(scope="module")
def material(overhead_study):
    study = overhead_study()
    return Material({"gap-overhead": overhead.ratios(study)}, {"gap-overhead": study.facts})


@pytest.fixture(scope="module")
def figure(material):
    figure = gap_overhead.figure(material)
    figure.draw_without_rendering()
    return figure


def test_figure_fits_the_page_and_nothing_sticks_out(figure):
    page, drawn = figure.bbox_inches, figure.get_tightbbox()
    assert page.width * 25.4 == pytest.approx(style.PAGE_WIDTH)
    assert page.x0 - 0.01 <= drawn.x0 < drawn.x1 <= page.x1 + 0.01
    assert page.y0 - 0.01 <= drawn.y0 < drawn.y1 <= page.y1 + 0.01


def test_every_optimizer_and_network_is_named(figure):
    texts = {text.get_text() for text in figure.findobj(Text)}
    assert {"GAP, paper", "GAP, continuous", "torch, foreach", "perceptron", "GPT", "memory"} <= texts


def test_ratios_are_drawn_where_they_are(figure):
    drawn = {round(float(line.get_xdata()[0]), 6) for line in figure.findobj(Line2D) if len(line.get_xdata())}
    assert {1.0, 2.0, 1.2, 2.5, 1.3} <= drawn  # the unit, the ratios, the targets


def test_table_has_a_row_for_each_network_and_optimizer(material):
    table = gap_overhead.table(material)
    assert len(table) == len(material.tables["gap-overhead"])
    assert table.iloc[0]["step / torch's foreach"].startswith("1.00")
