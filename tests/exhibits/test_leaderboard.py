"""The exhibit leaderboard, drawn from made-up studies."""

import pytest
from matplotlib.patches import Rectangle

from optrepro.exhibits import captions, leaderboard, style
from tests.exhibits import drawing
from tests.made_up import leaderboard as made_up


@pytest.fixture(scope="module")
def material():
    return drawing.material("leaderboard", made_up.studies(diverged=(("language", "last"),)))


@pytest.fixture(scope="module")
def figure(material):
    figure = leaderboard.figure(material)
    figure.draw_without_rendering()
    return figure


@pytest.mark.filterwarnings("error")
def test_it_fits_its_page_is_labelled_and_its_table_has_no_holes(figure, material):
    drawing.assert_fits_the_page(figure)
    drawing.assert_axes_are_labelled(figure)
    drawing.assert_is_whole(leaderboard.table(material))
    assert style.svg(leaderboard.figure(material), "x") == style.svg(leaderboard.figure(material), "x")
    assert "Diverged test runs: 1." in captions.caption("It shows.", material)


def test_rows_stand_in_the_order_of_the_average_ranks_with_ours_in_bold(figure):
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["Best", "AdamW", "Close", "Last"]
    assert [label.get_fontweight() for label in labels] == ["bold", "normal", "normal", "normal"]


def test_cells_hold_rank_and_score_and_mark_ends_of_grids(figure):
    texts = drawing.shown(figure)
    assert {"1", "2", "3", "4"} <= set(texts)
    assert sum(text.endswith("†") for text in texts) == 4  # `last` on all tasks but functions


def test_a_frame_stands_where_nothing_tells_a_row_from_the_first(figure, material):
    places = material.tables["leaderboard-places"]
    frames = [
        patch
        for patch in figure.findobj(Rectangle)
        if patch.get_edgecolor()[:3] == pytest.approx((0xB2 / 255, 0x18 / 255, 0x2B / 255))
    ]
    assert len(frames) == places.beside_first.sum()


def test_the_table_has_all_tasks_and_then_the_average(material):
    table = leaderboard.table(material)
    assert len(table) == 4 * 6
    assert table.iloc[0].tolist()[:3] == ["functions (digits)", "1", "AdamW"]
    last = table[table.task == "all, average rank"].set_index("optimizer")
    assert last.loc["Last", "diverged"] == "1"
    assert last.loc["Best", "step / AdamW's"] == "2"
