import pandas as pd
import pytest

from optrepro.analysis.pop import generalization
from optrepro.analysis.results import StudyResults
from optrepro.exhibits import style
from optrepro.exhibits.material import Material
from optrepro.exhibits.pop import ablation, budgets, dimensions, indistribution, shift, training

EXHIBITS = [training, indistribution, budgets, dimensions, ablation, shift]
NAMES = [exhibit.__name__.rpartition(".")[2] for exhibit in EXHIBITS]
STATISTICS = {"condition": 0.4, "minima": 0.8}


def _material(transfer, policies):
    distances = pd.DataFrame(
        {"collection": name, "statistic": statistic, "ks": ks * scale, "ks_chance": 0.1, "wasserstein": ks}
        for name, scale in (("vlse", 0.5), ("shift-plateaus", 1.0))
        for statistic, ks in STATISTICS.items()
    )
    tables = {
        "pop-tuned": generalization.tuned(transfer),
        "pop-training": generalization.training(policies),
        "pop-curves": generalization.curves(transfer),
        "pop-indistribution": generalization.in_distribution(transfer),
        "pop-budgets": generalization.budgets(transfer),
        "pop-dimensions": generalization.dimensions(transfer),
        "pop-shift": generalization.shift(transfer),
        "pop-ablation": generalization.ablation(policies),
        "pop-prior-distances": distances,
    }
    return Material(tables, {"pop": transfer.facts})


@pytest.fixture(scope="module")
def material(transfer_study, policy_study):
    return _material(transfer_study(), policy_study({"scaling-none": 1.0}))


def _panels(figure):
    return [axes for axes in figure.axes if axes.axison]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exhibit", EXHIBITS, ids=NAMES)
def test_partial_results_are_drawn(exhibit, transfer_study, policy_study, tmp_path):
    transfer, policies = transfer_study(), policy_study()
    runs = transfer.runs[~transfer.runs.workload.isin(["prior-8d", "shift-plateaus"])]
    runs = runs[~runs.workload.str.startswith("vlse/") & (runs.optimizer != "pop") & (runs.step <= 20)]
    trained = policies.runs[(policies.runs.optimizer != "standard") & ~policies.runs.workload.str.startswith("vlse/")]
    partial = _material(StudyResults(runs, transfer.facts), StudyResults(trained, policies.facts))
    style.save(exhibit.figure(partial), tmp_path / "partial")
    assert len(exhibit.table(partial)) > 0


def test_training_shows_the_baselines_as_lines(material):
    axes = _panels(training.figure(material))
    assert len(axes) == 3
    curves = 3  # one for each policy of the study
    assert len(axes[0].lines) == curves + len(material.tables["pop-tuned"])
    assert axes[0].get_title(loc="left") == "Ends above 3 of 3 baselines"
    names = {text.get_text() for text in axes[0].texts}
    assert {"ADAM", "RPROP", "LBFGS", "POP", "standard"} <= names
    table = training.table(material).set_index("optimizer")
    assert table.loc["no scaling, seed 0, last", "explained variance"] == "1"
    assert table.loc["ADAM", "explained variance"] == "–"
    assert table.loc["ADAM", "digits gained"] == "1"
    assert table.loc["no scaling, seed 0, last", "training functions seen"] == "2,048"


def test_in_distribution_curves_end_at_the_horizon(material):
    upper = _panels(indistribution.figure(material))[:2]
    assert max(line.get_xdata().max() for line in upper[0].lines) == 10
    table = indistribution.table(material).set_index("optimizer")
    assert table.loc["ADAM", "wins/ties/losses of POP"] == "24/0/0"
    assert table.loc["ADAM", "learning rate"] == "0.1"
    assert table.loc["POP", "lead of POP, digits"] == "–"
    assert "digits, Gaussian process" in table


def test_optimizers_that_ran_on_fewer_functions_show_their_paired_difference_alone(transfer_study, policy_study):
    transfer = transfer_study()
    few = transfer.runs[(transfer.runs.optimizer != "random-search") | (transfer.runs.seed < 8)]
    material = _material(StudyResults(few, transfer.facts), policy_study())
    curves, _, lead, _ = _panels(indistribution.figure(material))
    assert [line.get_label() for line in curves.lines] == ["ADAM", "RPROP", "LBFGS", "POP"]
    others = len(material.tables["pop-indistribution"]) - 1
    assert sum(line.get_marker() not in ("None", None) for line in lead.lines) == others
    assert lead.get_title(loc="left") == f"POP is ahead of {others} of {others}"
    assert dimensions.figure(material).axes
    assert shift.figure(material).axes


def test_budgets_name_the_baselines_that_rank_above_the_policy_in_the_end(transfer_study, policy_study):
    made = _material(transfer_study(stalls=("pop",)), policy_study())
    ranks = _panels(budgets.figure(made))[4]
    assert ranks.get_title(loc="left") == "Above POP at 10×:\nLBFGS"
    made = _material(transfer_study(), policy_study())
    assert _panels(budgets.figure(made))[4].get_title(loc="left") == "Above POP at 10×:\nnone"


def test_budgets_reach_ten_horizons_on_both_collections(material):
    figure = budgets.figure(material)
    assert len(_panels(figure)) == 6
    ranks = _panels(figure)[4]
    assert [tick.get_text() for tick in ranks.get_xticklabels()] == ["10\n(1×)", "20\n(2×)", "40\n(4×)", "100\n(10×)"]
    assert ranks.yaxis_inverted()
    table = budgets.table(material)
    assert set(table["functions of"]) == {"prior", "benchmark"}


def test_dimensions_name_the_baseline_that_the_policy_leads(material):
    score, _, lead, _ = _panels(dimensions.figure(material))
    assert [text.get_text() for text in lead.texts] == ["over LBFGS", "over LBFGS"]
    assert lead.get_title(loc="left") == "Improvement: ahead in\n2 of 2, behind in 0"
    assert score.get_title(loc="left") == "Normalized improvement:\nPOP highest in 8-D"


def test_ablations_told_apart_from_the_standard_are_filled(material):
    figure = ablation.figure(material)
    dots = [line for line in _panels(figure)[3].lines if line.get_marker() == "o"]
    faces = {int(line.get_ydata()[0]): line.get_markerfacecolor() for line in dots}
    names = [tick.get_text() for tick in _panels(figure)[0].get_yticklabels()]
    assert names == ["standard", "no scaling", "2 evaluations"]
    assert list(faces.values()) == [style.INK, "white"]


def test_collections_are_ordered_by_their_distance_to_the_prior(material):
    table = shift.table(material)
    assert list(table.collection.unique()) == ["prior (test)", "benchmark", "plateaus"]
    assert list(table["mean KS distance to the prior"].unique()) == ["0", "0.3", "0.6"]
    distances, lead, _ = _panels(shift.figure(material))
    cells = [text.get_text() for text in distances.texts]
    assert cells == [".20", ".40", ".40", ".80", "other functions of the prior", ".30", ".60"]
    ticks = [tick.get_text() for tick in distances.get_xticklabels()]
    assert ticks == ["Condition number", "Local minima", "mean"]  # named and ordered as in the exhibit of the prior
    assert len(lead.texts) == 3
