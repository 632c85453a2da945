import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from optrepro.exhibits import series


def test_names_that_would_overlap_are_moved_apart_and_the_others_stay():
    assert series.apart([0.2, 0.5, 0.9], 0.1) == pytest.approx([0.2, 0.5, 0.9])
    assert series.apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert series.apart([], 0.1) == []


@pytest.mark.parametrize("heights", [[-0.5, 0.0, 0.01], [0.97, 0.98, 1.5], [0.1, 0.1, 0.1, 0.8, 0.81]])
def test_names_stay_in_their_order_in_the_panel_and_apart(heights):
    moved = np.array(series.apart(heights, 0.08))
    assert (np.diff(moved) > 0.08 - 1e-9).all()
    assert moved.min() > -1e-9
    assert moved.max() < 1 + 1e-9


def test_names_stand_at_the_values_where_curves_end_on_a_logarithmic_axis_too():
    axes = Figure().subplots()
    axes.set(yscale="log", ylim=(1, 100))
    series.name_ends(axes, [("high", 100, "red"), ("middle", 10, "blue")])
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("middle", 0.5), ("high", 1.0)]
    assert to_hex(axes.texts[0].get_color()) == to_hex("blue")


def test_those_named_first_have_a_colour_and_then_the_best():
    quality = pd.Series({"a": 1.0, "b": 3.0, "policy": 0.0, "c": 2.0, "d": np.nan})
    assert series.foremost(quality, ["policy", "absent"], 2) == ["policy", "b", "c"]


def test_words():
    assert series.short("POP (2-D, as the paper)") == "POP (2-D)"
    assert series.short("POP (shipped)") == "POP (shipped)"
    assert series.listed(["Adam", "Rprop", "L-BFGS"]) == "Adam, Rprop and L-BFGS"
    assert [series.listed(["Adam"]), series.listed([])] == ["Adam", "none"]
