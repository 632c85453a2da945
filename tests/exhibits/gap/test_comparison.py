"""The GAP exhibits and the claims, drawn from made-up studies through the catalogue."""

import math

import pandas as pd
import pytest
from matplotlib.axes import Axes
from tests.exhibits import drawing

from optrepro.exhibits import panels, style
from optrepro.exhibits.material import Material

EXHIBITS = ["gap-concept", "gap-families", "gap-sgdm", "gap-adam", "gap-sweep", "gap-validation", "claims"]


@pytest.fixture(scope="module")
def whole(training_study, families_study, concept_study):
    """Studies in which nothing is missing and nothing diverged."""
    sgd, adam = training_study(), training_study(adam=True)
    made = {study.facts.study: study for study in (sgd, adam, families_study(), concept_study())}
    return made | {"gap-validation-sgd": sgd}


@pytest.fixture(scope="module")
def materials(whole):
    return {exhibit: drawing.material(exhibit, whole) for exhibit in EXHIBITS}


@pytest.fixture(scope="module")
def figures(materials):
    """Every exhibit, laid out."""
    figures = {exhibit: drawing.module(exhibit).figure(material) for exhibit, material in materials.items()}
    for figure in figures.values():
        figure.draw_without_rendering()
    return figures


@pytest.mark.parametrize("exhibit", ["gap-sgdm", "gap-adam"])
def test_every_optimizer_has_a_row_in_figure_and_table(exhibit, materials, figures):
    labels = panels.row_labels(materials[exhibit].tables[f"{exhibit}-scores"])
    assert list(drawing.module(exhibit).table(materials[exhibit]).optimizer) == labels
    shown = drawing.shown(figures[exhibit])
    assert all(any(label in text for text in shown) for label in materials[exhibit].tables[f"{exhibit}-scores"].label)


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
    figure = drawing.module("gap-sgdm").figure(drawing.material("gap-sgdm", {"gap-sgdm": study}))
    assert "◂ 0" in drawing.shown(figure)
    accuracy = next(axes for axes in figure.findobj(Axes) if axes.get_xlabel() == "final test accuracy (%)")
    low, high = accuracy.get_xlim()
    assert high - low < 20


def test_the_best_row_is_no_arrow_however_far_ahead(training_study):
    figure = drawing.module("gap-sgdm").figure(drawing.material("gap-sgdm", {"gap-sgdm": training_study(raw=0.99)}))
    assert not any("▸" in text for text in drawing.shown(figure) if text.startswith("9"))


def test_rows_with_the_results_of_the_picked_candidate_are_one_row_with_it(training_study):
    study = training_study()
    scores = drawing.material("gap-sgdm", {"gap-sgdm": study}).tables["gap-sgdm-scores"].copy()
    same = scores.optimizer.isin(["paper", "random"])
    scores.loc[same, ["difference", "difference_low", "difference_high"]] = 0.0
    scores.loc[same, "test_loss"] = scores.test_loss[scores.optimizer == "momentum-90"].item()
    scores.loc[scores.optimizer == "mean", ["difference", "difference_low", "difference_high"]] = 0.0  # another loss
    figure = style.page(Material({}, {}), height=120)
    panels.score_panels(figure, scores, ["test_accuracy", "difference"])
    shown = drawing.shown(figure)
    assert "momentum 0.9, also GAP, paper *" in shown
    assert "* and random switching: the same result in every seed" in shown
    assert not {"GAP, paper", "random switching"} & set(shown)
    assert "mean of the buffers" in shown


@pytest.mark.parametrize(
    ("ends", "title"),
    [
        ([(-1, 1), (0, 2)], "No rule differs\nfrom momentum 0.9"),
        ([(1, 2), (-1, 1)], "1 of 2 rules beats\nmomentum 0.9"),
        ([(1, 2), (-2, -1), (-3, -2)], "1 of 3 rules beats\nmomentum 0.9, 2 lose"),
        ([(-2, -1), (-1, 1)], "1 of 2 rules loses\nto momentum 0.9"),
    ],
)
def test_the_title_says_how_many_rules_differ_from_the_picked_candidate(ends, title):
    rows = [("momentum-90", "momentum 0.9", "fixed", math.nan, math.nan)]
    rows += [(f"rule-{i}", f"rule {i}", "dynamic", low, high) for i, (low, high) in enumerate(ends)]
    rows += [("mean", "mean of the buffers", "control", 5, 6)]
    columns = ["optimizer", "label", "group", "difference_low", "difference_high"]
    assert panels.finding(pd.DataFrame(rows, columns=columns).assign(reference="momentum-90")) == title


def test_sweep_marks_the_best_fixed_cell_and_counts_the_runs_of_each_approach(materials, figures):
    table = drawing.module("gap-sweep").table(materials["gap-sweep"])
    sgdm = table[table.study == "gap-sgdm"]
    assert sgdm[sgdm["best cell of the fixed sweep"] == "yes"].optimizer.tolist() == ["momentum 0.9"]
    assert set(sgdm["cost of the row (runs)"]) == {9}
    # three candidates, three rates, three seeds, in both panels
    assert drawing.shown(figures["gap-sweep"]).count("27 runs") == 2


def test_sweep_says_where_runs_diverged(training_study, whole):
    some = tuple(f"momentum-99/tune/0.1/{seed}" for seed in range(3))
    study = training_study(diverged=(*some, "raw/tune/0.1/0"))
    material = drawing.material("gap-sweep", {**whole, "gap-sgdm": study})
    shown = drawing.shown(drawing.module("gap-sweep").figure(material))
    assert shown.count("div.") == 1
    assert sum(text.endswith("*") for text in shown) == 1


@pytest.mark.parametrize("exhibit", ["gap-sgdm", "gap-sweep", "gap-validation", "claims"])
def test_a_missing_run_marks_the_figure_as_partial(training_study, whole, exhibit):
    study = training_study(missing=("raw/test/0.03/2",))
    shown = "gap-validation-sgd" if exhibit == "gap-validation" else "gap-sgdm"
    figure = drawing.module(exhibit).figure(drawing.material(exhibit, {**whole, shown: study}))
    assert figure.get_suptitle().startswith("PARTIAL: 1 of ")


def test_the_claims_fit_a_page_when_all_are_judged_on_proxies(materials):
    claims = materials["claims"].tables["claims"]
    judged = claims.assign(scale="overnight", proxy=claims.setting.notna())
    figure = drawing.module("claims").figure(Material({"claims": judged}, {}))
    figure.draw_without_rendering()
    drawing.assert_fits_the_page(figure)


def test_a_claim_that_was_judged_on_a_proxy_is_marked_so(materials, figures):
    claims = materials["claims"].tables["claims"]
    table = drawing.module("claims").table(materials["claims"])
    assert claims.proxy.any()
    assert not claims.proxy.all()
    assert list(table.scale.str.endswith(", a proxy")) == list(claims.proxy)
    bars = figures["claims"].axes[0].patches
    assert sum(bar.get_width() for bar in bars if bar.get_hatch()) == claims.proxy.sum()
    assert sum(bar.get_width() for bar in bars) == len(claims)
    assert list(table.evidence) == list(claims.evidence)


def test_a_failed_claim_is_printed_as_failed(materials, figures):
    claims = materials["claims"].tables["claims"]
    failed = int((claims.verdict == "fails").sum())
    assert failed > 0
    shown = drawing.shown(figures["claims"])
    assert sum(int(text[2:]) for text in shown if text.startswith("✕") and text[2:].isdigit()) == failed
    own = claims.source.str.endswith("of this project")
    [title] = [text for text in shown if "claims of the papers" in text]
    assert f"fails: {int(((claims.verdict == 'fails') & ~own).sum())}" in title
    assert (drawing.module("claims").table(materials["claims"]).verdict == "fails").sum() == failed
