"""What holds for every exhibit of the catalogue, asked of the published results."""

import importlib
import json
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes

from optrepro import catalogue, layout
from optrepro.analysis import results, tables
from optrepro.exhibits import captions, style
from optrepro.exhibits.material import Material
from tests.exhibits import drawing

ROOT = Path(__file__).parents[2]
CATALOGUE = catalogue.load(ROOT / "config")
TABLES: dict[str, pd.DataFrame] = {}

every_exhibit = pytest.mark.parametrize("exhibit", CATALOGUE.published())
first_of_each_module = {CATALOGUE.exhibits[name].module: name for name in reversed(CATALOGUE.published())}.values()


def material_of(exhibit: str) -> Material:
    """The published results of an exhibit; each table is computed once."""
    new = {name: CATALOGUE.tables[name] for name in CATALOGUE.exhibits[exhibit].tables if name not in TABLES}
    TABLES.update(tables.compute(new, layout.PUBLISHED))
    facts = {
        study: results.read_facts(layout.tidy(layout.PUBLISHED, study).with_suffix(".json"))
        for study in CATALOGUE.studies_of(exhibit)
    }
    return Material({name: TABLES[name] for name in CATALOGUE.exhibits[exhibit].tables}, facts)


@pytest.mark.filterwarnings("error")  # a layout that does not fit is only a warning
@every_exhibit
def test_it_fits_its_page_is_legible_and_labelled_and_the_same_each_time_and_its_table_has_no_holes(
    exhibit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    entry, material = CATALOGUE.exhibits[exhibit], material_of(exhibit)
    module = importlib.import_module(entry.module)
    figure = module.figure(material)
    drawn = style.svg(figure, exhibit)
    if exhibit in first_of_each_module:
        assert style.svg(module.figure(material), exhibit) == drawn
    drawing.assert_fits_the_page(figure)
    drawing.assert_axes_are_labelled(figure)
    assert drawing.small_texts(figure) == []
    assert drawing.overlapping_texts(figure) == []
    assert max(len(drawing.colours_of_curves(axes)) for axes in figure.findobj(Axes)) <= drawing.MOST_COLOURS
    drawing.assert_has_minus_signs(figure)
    drawing.assert_is_whole(module.table(material))
    assert drawing.pale_texts(figure) == []
    assert "Scale: " in captions.caption(entry.caption, material)


@every_exhibit
def test_the_committed_figure_is_drawn_from_the_published_results(
    exhibit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sidecar = json.loads(layout.exhibit(layout.PUBLISHED, exhibit).with_suffix(".json").read_text())
    drawn = importlib.import_module(CATALOGUE.exhibits[exhibit].module).table(material_of(exhibit))
    committed = pd.read_csv(layout.exhibit(layout.PUBLISHED, exhibit).with_suffix(".csv"), dtype=str)
    assert sidecar["title"] == CATALOGUE.exhibits[exhibit].title
    pd.testing.assert_frame_equal(committed.fillna(""), _as_written(drawn).fillna(""), check_dtype=False)


def test_an_exhibit_is_left_out_of_the_gallery_only_while_a_study_of_it_has_no_published_results() -> None:
    there = {path.stem for path in layout.tidy(layout.PUBLISHED, "gap-sgdm").parent.glob("*.parquet")}
    complete = [name for name in CATALOGUE.exhibits if set(CATALOGUE.studies_of(name)) <= there]
    assert complete == CATALOGUE.published()


def _as_written(table: pd.DataFrame) -> pd.DataFrame:
    from io import StringIO

    return pd.read_csv(StringIO(table.to_csv(index=False)), dtype=str)
