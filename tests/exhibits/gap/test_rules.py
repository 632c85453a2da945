"""The exhibit gap-rules, drawn from made-up studies through the catalogue."""

import pytest
from matplotlib.axes import Axes
from tests.analysis.gap.test_rules import with_control
from tests.exhibits import drawing

JUDGED = ("gap-rules-images", "gap-rules-small-batch", "gap-rules-cnn")


@pytest.fixture
def material(training_study):
    made = {name: with_control(training_study(raw=0.88), name) for name in JUDGED}
    return drawing.material(
        "gap-rules", {**made, "gap-rules-tuning": with_control(training_study(), "gap-rules-tuning")}
    )


def test_every_workload_has_a_panel_for_each_comparison_and_titles_say_who_is_ahead(material):
    figure = drawing.module("gap-rules").figure(material)
    figure.draw_without_rendering()
    assert len(figure.findobj(Axes)) == 3 * 3 + 1
    titles = [axes.get_title("left").replace("\n", " ") for axes in figure.findobj(Axes)]
    assert titles.count("Ahead of random: raw") == 3
    assert sum("As good at all of 3 rates" in title for title in titles) == 4
    drawing.assert_fits_the_page(figure)
    drawing.assert_axes_are_labelled(figure)


def test_the_table_has_every_rate_and_the_mean_over_them_and_no_holes(material):
    table = drawing.module("gap-rules").table(material)
    drawing.assert_is_whole(table)
    own = table[(table.rule == "GAP, raw") & (table.beside == "random, its own shares")]
    assert own["learning rate"].tolist()[:4] == ["0.01", "0.03", "0.1", "mean over the rates"]
    assert set(own.verdict[:4]) == {"better"}
