import numpy as np
import pandas as pd

from optrepro.analysis.pop import prior
from optrepro.analysis.results import Facts, StudyResults
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop import prior as pop_prior
from optrepro.exhibits.pop import prior_match

COLLECTIONS = {"prior": 0.0, "shift-plateaus": 9.0, "vlse": 0.0, "shift-ridges": 1.0}


def runs(statistics=tuple(prior_match.STATISTICS), collections=tuple(COLLECTIONS)):
    rng, rows = np.random.default_rng(0), []
    for name in collections:
        for statistic in statistics:
            values = COLLECTIONS[name] + rng.normal(size=30)
            rows += [(f"statistics/{name}", "test", statistic, i, 0, value) for i, value in enumerate(values)]
    for number, kind in enumerate((1, 0, 2)):
        workload = f"gallery/{number}"
        grid = [(i, j, (i - 2) ** 2 + (j - kind) ** 2) for i in range(9) for j in range(9)]
        rows += [(workload, "test", "surface", *row) for row in grid]
        rows += [(workload, "test", name, 0, 0, x) for name, x in (("kind", kind), ("x0", 0.1), ("x1", 0.25))]
    for name, role in (("validation", "tune"), ("test", "test")):
        for metric, value in (("kind", 1), ("minimum", -2), ("maximum", 3)):
            rows += [(name, role, metric, i, 0, value) for i in range(4)]
    table = pd.DataFrame(rows, columns=["workload", "role", "metric", "seed", "step", "value"])
    return table.assign(run="r", study="pop-prior", optimizer="none", learning_rate=0.0)


def material(**changes):
    facts = Facts("pop-prior", "laptop", {"kind": "prior"}, None, (), 0, ())
    study = StudyResults(runs(**changes), facts)
    names = ("gallery", "sets", "match", "distances")
    return Material({f"pop-prior-{name}": getattr(prior, name)(study) for name in names}, {"pop-prior": facts})


def test_the_gallery_goes_by_family_and_marks_the_minimizer():
    axes = [axes for axes in pop_prior.figure(material()).axes if axes.axison]
    titles = [panel.get_title(loc="left") for panel in axes]
    assert titles == ["convex quadratic", "Gaussian process", "quadratic + process"]
    assert [panel.lines[0].get_xydata().tolist() for panel in axes] == [[[0.1, 0.25]]] * 3


def test_the_table_of_the_gallery_counts_the_fixed_sets():
    table = pop_prior.table(material())
    assert table["set"].tolist() == ["test", "validation"]
    assert table.functions.tolist() == [4, 4]
    assert table["share (%)"].tolist() == ["100.0", "100.0"]
    assert table["median of maximum - minimum"].tolist() == ["5", "5"]


def test_the_statistics_in_which_the_benchmark_is_farthest_and_nearest_have_panels():
    made = material()
    figure = prior_match.figure(made)
    panels = [axes for axes in figure.axes if axes.lines]
    distances = made.tables["pop-prior-distances"].query("collection == 'vlse'").sort_values("ks", ascending=False)
    chosen = [*distances.statistic[:2], *distances.statistic[-2:]]
    titles = [
        f"{prior_match.STATISTICS[name][0]}:\n{distances.set_index('statistic').ks[name]:.2f} apart" for name in chosen
    ]
    assert [axes.get_title(loc="left") for axes in panels] == titles
    labels = ["shifted collections", "shifted collections", "prior", "benchmark"]
    assert all([line.get_label() for line in axes.lines] == labels for axes in panels)
    assert [text.get_text() for text in figure.subfigs[0].legends[0].get_texts()] == labels[1:]
    for line in panels[0].lines:
        share = line.get_ydata()
        assert (share[0], share[-1]) == (0, 1)
        assert (np.diff(share) >= 0).all()


def test_a_distance_is_bold_where_chance_does_not_explain_it_and_marked_where_it_does():
    figure = prior_match.figure(material())
    (cells,) = [axes for axes in figure.axes if len(axes.texts) > 5]
    assert [label.get_text() for label in cells.get_yticklabels()] == ["benchmark", "plateaus", "ridges"]
    assert [text.get_fontweight() for text in cells.get_yticklabels()] == ["bold", "normal", "normal"]
    number = len(prior_match.STATISTICS)
    far = [text for text in cells.texts if 1 < text.get_position()[1] < 2]
    assert [text.get_text() for text in far] == ["1"] * number
    assert all(text.get_fontweight() == "bold" for text in far)
    near = [text for text in cells.texts if text.get_position()[1] < 1]
    assert sum(text.get_text().endswith("≈") and text.get_fontweight() == "normal" for text in near) >= number - 2


def test_the_table_gives_both_distances_benchmark_first():
    table = prior_match.table(material())
    number = len(prior_match.STATISTICS)
    assert table.collection.tolist() == ["benchmark"] * number + ["plateaus"] * number + ["ridges"] * number
    assert table["KS distance"].iloc[number] == "1.00"
    assert not table.isna().any(axis=None)


def test_partial_results_are_drawn_as_far_as_they_go():
    few = material(statistics=("minima", "funnel"), collections=("prior", "shift-ridges"))
    figure = prior_match.figure(few)
    assert len([axes for axes in figure.axes if axes.lines]) == 2
    assert set(prior_match.table(few).collection) == {"ridges"}
