import pandas as pd
import pytest

from optrepro.analysis.targets import COLUMNS
from optrepro.exhibits import style, targets
from optrepro.exhibits.material import Material
from tests.exhibits import drawing

LONG = "a very long account of what was measured on every single one of many functions " * 4
ROWS = [
    ("one", "ranks", "at most 1.5", "1.2", "pass", ""),
    ("two", "wins", "at least 38 of 43", LONG, "miss", "the note"),
    ("three", "CUTEst", "in each", "pop-cutest has no results", "not evaluated yet", ""),
]


@pytest.fixture
def material() -> Material:
    return Material({"pop-targets": pd.DataFrame(ROWS, columns=COLUMNS)}, {})


@pytest.mark.filterwarnings("error")
def test_each_verdict_has_a_sign_and_the_analysis_of_a_miss_is_never_cut_off(material, tmp_path):
    figure = targets.figure(material)
    style.save(figure, tmp_path / "targets")
    drawing.assert_fits_the_page(figure)
    shown = drawing.shown(figure)
    assert {"● 1", "✕ 1", "○ 1", "● pass", "✕ miss", "○ not evaluated yet", "→ the note"} <= set(shown)


def test_the_table_has_all_that_is_drawn_and_what_is_cut_off(material):
    table = targets.table(material)
    drawing.assert_is_whole(table)
    assert table.measured[1] == LONG
    assert table.analysis.tolist() == ["–", "the note", "–"]
