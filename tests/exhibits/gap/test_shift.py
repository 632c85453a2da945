"""The exhibit gap-shift, drawn from made-up studies through the catalogue."""

import pytest
from tests.exhibits import drawing

from optrepro.exhibits import captions
from optrepro.exhibits.gap import shift


@pytest.fixture(scope="module")
def studies(shift_study):
    return {f"gap-shift-{name}": shift_study(name) for name in ("data", "batch", "noise")}


@pytest.fixture(scope="module")
def whole(studies):
    return drawing.material("gap-shift", studies)


@pytest.fixture(scope="module")
def figure(whole):
    figure = shift.figure(whole)
    figure.draw_without_rendering()
    return figure


def test_every_shift_has_a_column_and_every_optimizer_a_row(figure, whole):
    texts = drawing.shown(figure)
    assert {"Labels moved on by one class", "Batch size 128 to 16", "40 % random labels"} <= set(texts)
    assert set(whole.tables["gap-shift-scores"].label) <= set(texts)


def test_a_row_far_behind_is_an_arrow(figure):
    assert drawing.shown(figure).count("◂ -16") == 3


def test_the_table_has_a_row_for_each_shift_and_optimizer_without_holes(whole):
    table = shift.table(whole)
    assert len(table) == 3 * 7
    drawing.assert_is_whole(table)


def test_the_table_says_which_candidate_is_best_in_which_phase_and_who_recovers(whole):
    table = shift.table(whole)
    first = table[table["shift"] == "labels moved on by one class"].set_index("optimizer")
    assert first["before: difference to best fixed (points)"]["momentum 0.9"] == "best fixed"
    assert first["after: difference to best fixed (points)"]["momentum 0.9"].startswith("-3.9")
    assert first["recovery (steps)"]["momentum 0.9"] == "> 20"
    assert first["recovery (steps)"]["GAP, raw"] == "20"
    assert first["choices before (%)"]["GAP, raw"] == "0.5: 90, 0.9: 10, 0.99: 0"
    assert first["choices after (%)"]["GAP, raw"] == "0.5: 20, 0.9: 30, 0.99: 50"
    assert first["choices after (%)"]["momentum 0.9"] == first["choices after (%)"]["mean of the buffers"] == "–"


def test_the_table_says_where_another_candidate_is_best_in_the_test_runs(shift_study, studies):
    other = shift_study("data", tuning={"momentum-50": (0.74, 0.76), "momentum-90": (0.70, 0.72)})
    table = shift.table(drawing.material("gap-shift", studies | {"gap-shift-data": other}))
    for name, tuning, test in (
        ("labels moved on by one class", ["before, after, overall", "–"], ["after", "before, overall"]),
        ("40 % random labels", ["after", "before, overall"], ["after", "before, overall"]),
    ):
        fixed = table[(table["shift"] == name) & (table.group == "fixed")][:2]  # momentum 0.5 and 0.9
        assert fixed["best fixed in tuning"].tolist() == tuning
        assert fixed["best fixed in test runs"].tolist() == test
    assert set(table[table.group == "dynamic"]["best fixed in tuning"]) == {"–"}


def test_a_missing_run_marks_the_figure_as_partial(shift_study, studies):
    partial = studies | {"gap-shift-noise": shift_study("noise", missing=(("raw", 0),))}
    texts = drawing.shown(shift.figure(drawing.material("gap-shift", partial)))
    assert any(text.startswith("PARTIAL: 1 of") for text in texts)


def test_the_caption_counts_what_diverged(shift_study, studies):
    some = studies | {"gap-shift-data": shift_study("data", diverged=(("raw", 0), ("mean", 1)))}
    caption = captions.caption(drawing.CATALOGUE.exhibits["gap-shift"].caption, drawing.material("gap-shift", some))
    assert "Diverged test runs: 2." in caption
    assert "8 paired test seeds" in caption
