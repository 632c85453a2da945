"""The GAP exhibits and the claims, drawn from made-up studies through the catalogue."""

import importlib
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from optrepro import catalogue
from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

CONFIG = Path(__file__).parents[2] / "config"
CATALOGUE = catalogue.load(CONFIG)
EXHIBITS = ["gap-concept", "gap-families", "gap-sgdm", "gap-adam", "gap-sweep", "gap-validation", "claims"]


@pytest.fixture(scope="module")
def whole(training_study, families_study, concept_study):
    """Studies in which nothing is missing and nothing diverged."""
    made = (training_study(), training_study(adam=True), families_study(), concept_study())
    return {study.facts.study: study for study in made}


@pytest.fixture(scope="module")
def materials(whole):
    return {exhibit: _material(exhibit, whole) for exhibit in EXHIBITS}


@pytest.fixture(scope="module")
def figures(materials):
    """Every exhibit, laid out."""
    figures = {exhibit: _module(exhibit).figure(material) for exhibit, material in materials.items()}
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


def _material(exhibit, studies):
    tables = {}
    for name in CATALOGUE.exhibits[exhibit].tables:
        entry = CATALOGUE.tables[name]
        module, _, function = entry.function.rpartition(".")
        files = {"files": [CONFIG.parent / file for file in entry.files]} if entry.files else {}
        used = [studies[study] for study in entry.studies if study in studies]
        tables[name] = getattr(importlib.import_module(module), function)(*used, **files)
    facts = {name: studies[name].facts for name in CATALOGUE.studies_of(exhibit) if name in studies}
    return Material(tables, facts)


def _module(exhibit):
    return importlib.import_module(CATALOGUE.exhibits[exhibit].module)


def _shown(figure):
    """Every text of a figure."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_figure_fits_the_page_and_nothing_sticks_out(exhibit, figures):
    page, drawn = figures[exhibit].bbox_inches, figures[exhibit].get_tightbbox()
    assert page.width * 25.4 == pytest.approx(style.PAGE_WIDTH)
    assert page.height * 25.4 < 297
    assert page.x0 - 0.01 <= drawn.x0 < drawn.x1 <= page.x1 + 0.01
    assert page.y0 - 0.01 <= drawn.y0 < drawn.y1 <= page.y1 + 0.01


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_axes_with_ticks_are_labelled(exhibit, figures):
    for axes in figures[exhibit].findobj(Axes):
        assert axes.get_xlabel() or not axes.axison


@pytest.mark.parametrize("exhibit", EXHIBITS)
def test_table_has_no_holes(exhibit, materials):
    table = _module(exhibit).table(materials[exhibit])
    assert len(table) > 0
    assert not table.isna().any().any()
    assert not table.astype(str).isin(["nan", "None"]).any().any()


@pytest.mark.parametrize("exhibit", ["gap-sgdm", "gap-adam"])
def test_every_optimizer_has_a_row_in_figure_and_table(exhibit, materials, figures):
    labels = panels.row_labels(materials[exhibit].tables[f"{exhibit}-scores"])
    assert list(_module(exhibit).table(materials[exhibit]).optimizer) == labels
    assert set(labels) <= set(_shown(figures[exhibit]))


def test_always_the_smallest_is_shown_as_the_fixed_candidate_it_is(materials):
    labels = panels.row_labels(materials["gap-sgdm"].tables["gap-sgdm-scores"])
    assert [label for label in labels if "always the smallest" in label] == ["momentum 0.5 (always the smallest)"]


def test_a_rate_at_the_end_of_its_grid_is_marked(materials):
    scores = materials["gap-sgdm"].tables["gap-sgdm-scores"].copy()
    scores.loc[scores.optimizer == "raw", "on_boundary"] = True
    assert [label for label in panels.row_labels(scores) if "†" in label] == ["GAP, raw †"]


def test_a_row_far_off_is_an_arrow_and_squeezes_nobody(training_study):
    lost = tuple(f"momentum-99/test/0.03/{seed}" for seed in range(8))
    study = training_study(diverged=lost)
    figure = _module("gap-sgdm").figure(_material("gap-sgdm", {"gap-sgdm": study}))
    assert "◂ 0" in _shown(figure)
    accuracy = next(axes for axes in figure.findobj(Axes) if axes.get_title("left") == "Test accuracy")
    low, high = accuracy.get_xlim()
    assert high - low < 20


def test_sweep_marks_the_best_fixed_cell_and_counts_the_runs_of_each_approach(materials, figures):
    table = _module("gap-sweep").table(materials["gap-sweep"])
    sgdm = table[table.study == "gap-sgdm"]
    assert sgdm[sgdm["best cell of the fixed sweep"] == "yes"].optimizer.tolist() == ["momentum 0.9"]
    assert set(sgdm["cost of the row (runs)"]) == {9}
    # three candidates, three rates, three seeds, in both panels
    assert _shown(figures["gap-sweep"]).count("27 runs") == 2


def test_sweep_says_where_runs_diverged(training_study, whole):
    some = tuple(f"momentum-99/tune/0.1/{seed}" for seed in range(3))
    study = training_study(diverged=(*some, "raw/tune/0.1/0"))
    shown = _shown(_module("gap-sweep").figure(_material("gap-sweep", {**whole, "gap-sgdm": study})))
    assert shown.count("div.") == 1
    assert sum(text.endswith("*") for text in shown) == 1


@pytest.mark.parametrize("exhibit", ["gap-sgdm", "gap-sweep", "gap-validation", "claims"])
def test_a_missing_run_marks_the_figure_as_partial(training_study, whole, exhibit):
    study = training_study(missing=("raw/test/0.03/2",))
    figure = _module(exhibit).figure(_material(exhibit, {**whole, "gap-sgdm": study}))
    assert figure.get_suptitle().startswith("PARTIAL: 1 of ")


def test_a_failed_claim_is_printed_as_failed(materials, figures):
    failed = int((materials["claims"].tables["claims"].verdict == "fails").sum())
    assert failed > 0
    shown = _shown(figures["claims"])
    assert shown.count("✕ fails") == failed
    assert sum(int(text.split()[1]) for text in shown if text.startswith("✕") and text[2:].isdigit()) == failed
    assert (_module("claims").table(materials["claims"]).verdict == "fails").sum() == failed
