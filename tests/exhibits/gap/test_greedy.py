"""The exhibit gap-greedy, drawn from a made-up study through the catalogue."""

import pytest
from matplotlib.axes import Axes
from tests.exhibits import drawing

from optrepro.exhibits import captions


@pytest.fixture(scope="module")
def material(greedy_study):
    return drawing.material("gap-greedy", {"gap-greedy": greedy_study(noise=0.1)})


def test_every_workload_and_rate_has_a_row_of_panels(material):
    figure = drawing.module("gap-greedy").figure(material)
    figure.draw_without_rendering()
    assert len(figure.findobj(Axes)) == 3 * 4
    titles = [axes.get_title("left") for axes in figure.findobj(Axes) if axes.get_title("left")]
    promises = material.tables["gap-promises"].groupby(["workload", "learning_rate"], sort=False).share.max()
    names = [f"{name}, learning rate {rate}" for name in ("Perceptron", "CNN") for rate in (0.01, 0.1)]
    found = [f"{name}:\nat most {100 * most:.0f} % is realized" for name, most in zip(names, promises, strict=True)]
    assert titles == found
    assert {"1/8", "8", "momentum 0.99", "one drawn at random"} <= set(drawing.shown(figure))
    drawing.assert_fits_the_page(figure)
    drawing.assert_axes_are_labelled(figure)


def test_the_table_has_promises_choices_and_noise_and_no_holes(material):
    table = drawing.module("gap-greedy").table(material)
    drawing.assert_is_whole(table)
    rows = set(table.row)
    assert {"momentum 0.9, 10 steps", "paper, 1 step", "batches in the score: 1/8"} <= rows
    assert "Scale: laptop." in captions.caption("", material)
