"""The exhibit gap-overhead, drawn from a made-up study."""

import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from tests.exhibits import drawing

from optrepro.exhibits.gap import overhead


@pytest.fixture(scope="module")
def material(overhead_study):
    study = overhead_study()
    return drawing.material("gap-overhead", {study.facts.study: study})


@pytest.fixture(scope="module")
def figure(material):
    figure = overhead.figure(material)
    figure.draw_without_rendering()
    return figure


def test_every_optimizer_is_named(figure):
    texts = set(drawing.shown(figure))
    assert {"GAP, paper", "GAP, continuous", "torch, foreach", "target: at most this"} <= texts


def test_titles_count_what_is_within_its_target_and_the_state(figure):
    assert {"GPT: 2 of 2\nwithin their targets", "Memory: a rule takes\nat most 3 times"} <= set(drawing.shown(figure))


def test_axes_say_what_the_ratios_are_to(figure):
    labels = {axes.get_xlabel() for axes in figure.findobj(Axes)}
    assert labels == {"step time (× torch foreach)", "state (× torch foreach)"}


def test_ratios_are_drawn_where_they_are(figure):
    drawn = {round(float(line.get_xdata()[0]), 6) for line in figure.findobj(Line2D) if len(line.get_xdata())}
    assert {1.0, 2.0, 1.2, 2.5, 1.3} <= drawn  # the unit, the ratios, the targets


def test_table_has_a_row_for_each_network_and_optimizer(material):
    table = overhead.table(material)
    assert len(table) == len(material.tables["gap-overhead"])
    assert table.iloc[0]["step / torch's foreach"].startswith("1.00")
