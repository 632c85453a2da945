"""The exhibits of Predicted Step Descent, drawn from made-up studies whose truth is known."""

import re

import numpy as np
import pytest
from matplotlib.text import Text
from tests.exhibits import drawing

from optrepro.analysis.lto import panels as lto
from optrepro.analysis.results import StudyResults
from optrepro.exhibits import captions, style
from optrepro.exhibits.lto import ablation as lto_ablation
from optrepro.exhibits.lto import metatraining
from optrepro.exhibits.lto import panels as lto_panels
from optrepro.exhibits.lto import robustness as lto_robustness
from optrepro.exhibits.lto import table as lto_table
from optrepro.exhibits.material import Material
from optrepro.exhibits.series import GREY, NBSP

KEEP = ("fig1-grey", "fig1-cifar10", "fig3-grey", "fig5-grey", "adagrad", "adam", "l2l", "psd", "psd-bregman")
EXHIBITS = [lto_panels, lto_table, lto_robustness, lto_ablation, metatraining]
NAMES = [exhibit.__name__.rpartition(".")[2] for exhibit in EXHIBITS]


def materials(objectives, robustness, training, ablation, figure="fig1"):
    """What each exhibit is handed, by its module."""
    table = {
        "lto-scores": lto.scores(objectives),
        "lto-summary": lto.summary(objectives),
        "lto-tuned": lto.tuned(objectives),
        "lto-progress": lto.progress(objectives),
    }
    panels = {f"lto-{figure}": lto.scores(objectives, figure), "lto-curves": lto.curves(objectives)}
    return {
        lto_panels: Material(panels, {"lto": objectives.facts}),
        lto_table: Material(table, {"lto": objectives.facts}),
        lto_robustness: Material({"lto-robustness": lto.robustness(robustness)}, {"lto-robustness": robustness.facts}),
        lto_ablation: Material({"lto-ablation": lto.ablation(training, ablation)}, {"lto-training": training.facts}),
        metatraining: Material({"lto-metatraining": lto.metatraining(training)}, {"lto-training": training.facts}),
    }


@pytest.fixture(scope="module")
def material(objectives_study, learner_study):
    studies = objectives_study(keep=KEEP), objectives_study(robustness=True)
    return materials(*studies, learner_study(), learner_study(ablation=True))


@pytest.fixture(scope="module")
def diverging(objectives_study, learner_study):
    diverged = (("fig3-grey", "l2l"), ("fig3-grey", "psd"))
    robustness = objectives_study(diverged=(("batch-10", "l2l"),), robustness=True)
    studies = objectives_study(diverged=diverged, keep=KEEP), robustness
    return materials(*studies, learner_study(), learner_study(ablation=True), figure="fig3")


def texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text)]


def panels(figure):
    return [axes for axes in figure.axes if axes.axison]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exhibit", EXHIBITS, ids=NAMES)
def test_partial_results_are_drawn(exhibit, objectives_study, learner_study, tmp_path):
    """Without what is learned, without classic optimizers, with one repetition, of a route without a guiding policy."""
    few = objectives_study(keep=("fig1-cifar10", "adagrad", "adam"), seeds=1)
    learned = objectives_study(keep=("psd", "batch-10", "horizon-2000"), robustness=True)
    rules = learner_study(keep=("imitation", "l2l-trained")), learner_study(ablation=True, keep=("shared",))
    partial = materials(few, learned, *rules)[exhibit]
    style.save(exhibit.figure(partial), tmp_path / "partial")
    assert len(exhibit.table(partial)) > 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exhibit", EXHIBITS, ids=NAMES)
def test_every_cell_of_the_table_is_filled(exhibit, material, diverging):
    for made in (material, diverging):
        drawing.assert_is_whole(exhibit.table(made[exhibit]))


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=NAMES)
def test_the_caption_tells_of_seeds_tuning_and_divergence(exhibit, diverging):
    caption = captions.caption("What is shown.", diverging[exhibit])
    if exhibit in (lto_ablation, metatraining):
        assert "8 validation problems." in caption
    else:
        assert "10 paired repetitions on each panel." in caption
        assert "tuned once, on the objective of meta-training (MNIST), over 3 values with 2 other" in caption
        assert f"Diverged test runs: {2 if exhibit is lto_robustness else 4}." in caption


# --- The figures of the paper ---------------------------------------------------------------------------------------


def test_a_figure_has_its_panels_and_the_optimizers_of_the_paper(material):
    figure = lto_panels.figure(material[lto_panels])
    drawn = panels(figure)
    assert [axes.get_title(loc="left") for axes in drawn] == ["a  Fashion-MNIST", "b  CIFAR-10"]
    all_of_them = ["ADAM", "ADAGRAD", "L2L", "PSD", "PSD-BREGMAN"]
    for axes in drawn:
        assert [line.get_label() for line in axes.lines] == all_of_them
    assert lto_panels.table(material[lto_panels]).optimizer.tolist() == 2 * all_of_them


def test_the_learned_optimizers_stand_out(material):
    for axes in panels(lto_panels.figure(material[lto_panels])):
        widths = {line.get_label(): line.get_linewidth() for line in axes.lines}
        assert widths["PSD"] > widths["L2L"] > widths["ADAM"] == widths["ADAGRAD"]


def test_the_panel_of_grey_images_says_what_it_replaces(material):
    first, second = panels(lto_panels.figure(material[lto_panels]))
    assert "in the place of Toronto Faces" in first.get_xlabel()
    assert "in the place of Toronto Faces" not in second.get_xlabel()


def test_a_panel_says_how_the_policy_compares_with_the_best_other(material):
    shown = texts(lto_panels.figure(material[lto_panels]))
    both = re.compile(r"area -\d\.\d % against ADAGRAD: best\nend -\d\.\d % against ADAGRAD: best")
    assert len([text for text in shown if both.fullmatch(text)]) == 2


def test_four_curves_have_a_colour_and_the_others_keep_their_markers_in_grey(material):
    axes = panels(lto_panels.figure(material[lto_panels]))[0]
    colours = {line.get_label(): line.get_color() for line in axes.lines}
    assert colours["ADAM"] == GREY
    assert colours["ADAGRAD"] == style.look("adagrad").color
    assert next(line for line in axes.lines if line.get_label() == "ADAM").get_marker() == style.look("adam").marker
    assert axes.get_yscale() == "log"


def test_diverged_runs_are_marked_and_do_not_stretch_the_axis(material, diverging):
    usual = panels(lto_panels.figure(material[lto_panels]))[0].get_ylim()
    figure = lto_panels.figure(diverging[lto_panels])
    below = panels(figure)[0].get_xlabel().replace(NBSP, " ")
    assert "✕ diverged: L2L 2, PSD 2" in below
    assert panels(figure)[0].get_ylim() == pytest.approx(usual, rel=0.1)


def test_an_optimizer_whose_runs_all_diverge_leaves_the_panel_at_its_top(objectives_study):
    study = objectives_study(diverged=(("fig3-grey", "l2l"),), seeds=2, keep=("fig3-grey", "adagrad", "l2l", "psd"))
    tables = {"lto-fig3": lto.scores(study), "lto-curves": lto.curves(study)}
    [axes] = panels(lto_panels.figure(Material(tables, {"lto": study.facts})))
    other = next(line for line in axes.lines if line.get_label() == "L2L")
    assert max(other.get_ydata()) > axes.get_ylim()[1]
    assert max(axes.get_ylim()) < 1.2 * other.get_ydata()[0]


# --- The table over all panels --------------------------------------------------------------------------------------


def test_the_table_has_panels_totals_and_progress(material):
    table = lto_table.table(material[lto_table])
    counts = table.part.value_counts()
    assert (counts["panel"], counts["all panels"], counts["progress, iteration 400 to 800"]) == (20, 5, 5)
    totals = table[table.part == "all panels"].set_index("optimizer")
    assert totals.loc["PSD", "verdict by area"] == "best 4, equivalent 0, tied 0, worse 0 (0 uncorrected)"
    assert totals.loc["ADAGRAD", "difference to it, area"] == "the policy's wins/ties/losses 4/0/0"


def test_markers_that_would_overlap_are_in_different_lanes():
    assert lto_table.in_lanes([0.0, 0.1, 0.2, 0.25, 2.0], 0.3) == [0, 1, 2, 0, 0]


def test_a_rate_at_the_end_of_its_grid_is_marked(objectives_study, learner_study):
    study = objectives_study(keep=("fig1-grey", "adagrad", "psd"))
    swapped = study.runs.assign(learning_rate=study.runs.learning_rate.replace({1.0: 0.1, 0.1: 1.0}))
    others = objectives_study(robustness=True), learner_study(), learner_study(ablation=True)
    made = materials(StudyResults(swapped, study.facts), *others)
    rates = lto_table.table(made[lto_table]).set_index(["part", "optimizer"])["learning rate"]
    assert rates["panel", "ADAGRAD"] == "1 †"
    assert rates["panel", "PSD"] == "–"


def test_each_row_of_the_figure_has_its_verdict(material):
    left, ranks, verdicts = panels(lto_table.figure(material[lto_table]))
    assert [t.get_text() for t in left.texts if t.get_text().startswith("●")] == ["● best"] * 4
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["Fashion-MNIST", "CIFAR-10", *["Fashion-MNIST"] * 2]
    ordered = material[lto_table].tables["lto-summary"].sort_values("area_rank", kind="stable")
    names = list(ordered.label)
    assert names[0] == "PSD"
    assert [tick.get_text() for tick in ranks.get_yticklabels()] == names
    assert left.get_title(loc="left") == "PSD's area: best in 4,\nequivalent in 0 of 4 panels"
    assert sum(bar.get_width() for bar in verdicts.patches) == 4 * len(names)


# --- Robustness and meta-training -----------------------------------------------------------------------------------


def test_what_was_trained_for_is_marked_in_each_panel(material):
    figure = lto_robustness.figure(material[lto_robustness])
    ticks = [[tick.get_text() for tick in axes.get_xticklabels()] for axes in panels(figure)]
    assert ticks[0] == ["10", "64\nas trained", "256"]
    assert ticks[1] == ["24", "48\nas trained", "384"]
    assert ticks[2][0] == "400\nas trained"


def test_a_diverged_run_does_not_stretch_the_ratios(diverging):
    figure = lto_robustness.figure(diverging[lto_robustness])
    assert "✕ 2 of 10" in texts(figure)
    low, high = panels(figure)[0].get_ylim()
    assert 0.8 < low < 1 < high < 1.6
    table = lto_robustness.table(diverging[lto_robustness]).set_index(["varied", "value", "optimizer"])
    assert table.loc[("batch size", "10", "L2L"), "diverged"] == 2
    assert table.loc[("batch size", "64 (as trained)", "PSD"), "best classic"] == "ADAGRAD"


def test_costs_of_both_policies_are_drawn_for_each_route(material):
    drawn = panels(metatraining.figure(material[metatraining]))
    costs = ["Cost of the guiding policy", "Cost of the recurrent policy", "Mismatch of actions"]
    assert [axes.get_title(loc="left") for axes in drawn[:6]] == costs * 2
    assert [len(axes.lines) for axes in drawn] == [1, 2, 1, 1, 2, 1, 4]  # training and validation; area of four


@pytest.mark.parametrize(
    ("areas", "words"), [((0.9, 0.4), "falls from 0.900 to 0.400"), ((0.4, 0.4), "stays at 0.400")]
)
def test_a_title_says_how_validation_goes_in_the_training(learner_study, areas, words):
    logged = lto.metatraining(learner_study())
    own = logged[(logged.method == "mirror") & (logged.metric == "area")].copy()
    own["value"] = np.linspace(*areas, len(own))
    assert metatraining.course(own, "mirror") == f"On policy: area on validation {words} (1 seed)"
    if areas[0] != areas[1]:
        own["value"] = own.value.to_numpy()[::-1]
        assert "rises from 0.400 to 0.900" in metatraining.course(own, "mirror")


def test_without_a_guided_route_only_validation_is_drawn(learner_study):
    study = learner_study(keep=("imitation", "l2l-trained"))
    made = Material({"lto-metatraining": lto.metatraining(study)}, {"lto-training": study.facts})
    [axes] = panels(metatraining.figure(made))
    assert axes.get_title(loc="left").startswith("All learners: ")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("value", "until"), [(float("inf"), 2), (0.7, 10)], ids=["not finite", "all equal"])
def test_validations_that_span_no_axis_are_drawn(learner_study, value, until, tmp_path):
    study = learner_study()
    runs = study.runs.copy()
    runs.loc[(runs.metric == "area") & (runs.step <= until), "value"] = value
    made = Material({"lto-metatraining": lto.metatraining(StudyResults(runs, study.facts))}, {"t": study.facts})
    style.save(metatraining.figure(made), tmp_path / "figure")
    assert len(metatraining.table(made)) == 12  # three moments of four learners


def test_the_ablation_shows_the_rows_of_both_studies_in_their_groups(material):
    figure = lto_ablation.figure(material[lto_ablation])
    area, final, small, _ = panels(figure)
    labels = ["PSD, trained here", "PSD, Bregman", "imitation", "L2L, trained here"]
    assert [tick.get_text() for tick in area.get_yticklabels()] == labels
    assert [tick.get_text() for tick in small.get_yticklabels()] == ["shared", "separate"]
    assert len(final.lines) == len(labels)
    problem = "48 inputs, 48 hidden units, 400 iterations: 1 training seed, so no intervals"
    assert {"standard", "sharing", f"{problem}\nLowest in both: PSD, trained here"} <= set(texts(figure))
    table = lto_ablation.table(material[lto_ablation]).set_index("learner")
    assert table.loc["separate", "area, kept weights"] == "0.8000"


def test_a_difference_to_a_mean_of_zero_has_no_percent():
    row = {"final": 0.2, "final_difference": 0.2, "final_difference_low": 0.1, "final_difference_high": 0.3}
    assert lto_panels.relative_difference(row, "final", ends=True) == "–"
    assert lto_panels.relative_difference(row | {"final": 0.4}, "final") == "+100.0 %"
