from pathlib import Path

import pytest
from tests.made_up.benchmark import GROUP, SMOOTH, made_up

from optrepro import catalogue
from optrepro.analysis.pop import targets, transfer
from optrepro.analysis.results import StudyResults

ASKED = catalogue.load(Path(__file__).parents[3] / "config").tables["pop-targets"].arguments["targets"]
CONVEX = ("sphere", "booth", "matyas", "sum_squares", "zakharov", "trid")


@pytest.fixture(autouse=True)
def few_functions(monkeypatch):
    monkeypatch.setattr(targets, "MULTIMODAL", ("rastrigin", "levy"))


def measured(study: StudyResults, name: str) -> targets.Measured:
    return getattr(targets.PopMeasures([study]), name)()


def test_every_target_of_the_catalogue_is_measured_and_every_measure_is_asked_for():
    assert sorted(ASKED) == targets.PopMeasures._names()


def test_numbers_are_those_of_the_tables_of_the_benchmark():
    study = made_up()
    own = transfer.summary(study).query("tuned == 'once' and subset == 'smooth'").set_index("optimizer")
    assert measured(study, "improvement").value == own.improvement["pop"]
    assert measured(study, "wins").value == len(SMOOTH)
    assert measured(study, "rank").value == 1
    assert measured(study, "lead").value == pytest.approx(own.improvement["pop"] - own.improvement["rprop"])
    assert measured(study, "p_regret").value == own.p_regret[["adam", "rprop"]].max()


def test_ranks_and_wins_are_against_baselines_alone():
    worse = made_up({(name, "pop"): 0.5 for name in GROUP})
    assert measured(worse, "rank").value == 3
    assert measured(worse, "wins").words == f"0 of {len(SMOOTH)} against Rprop, 0 ties"


def test_a_p_value_counts_in_the_policys_favour_alone():
    worse = made_up({(name, "pop"): 0.9 for name in GROUP})
    for name in ("p_regret", "p_improvement", "lbfgs"):
        assert measured(worse, name).value == 1
    ahead = made_up({(name, "lbfgs"): 0.5 for name in GROUP})
    assert measured(ahead, "lbfgs").value < 0.05


def test_convex_and_multimodal_functions_are_counted_and_those_that_fail_are_named():
    study = made_up({("trid", "adam"): 1e-7, ("levy", "adam"): 0.05})
    assert measured(study, "convex").words == "5 of 6; not trid"
    leads = measured(study, "multimodal")
    assert leads.value == pytest.approx(0.05 - 1e-6)
    assert leads.words == "rastrigin +0.200, levy +0.050"
    floor = made_up({("trid", "adam"): 1e-18, ("trid", "pop"): 1e-17})
    assert measured(floor, "convex").value == 6


def test_references_are_compared_from_the_starts_that_they_ran_from():
    study = made_up()
    found = measured(study, "derivative_free")
    assert found.value == pytest.approx(0.3 - 1e-6)
    # what the policy does from other starts changes nothing
    runs = study.runs.copy()
    others = (runs.optimizer == "pop") & (runs.metric == "regret") & (runs.seed >= 6) & (runs.step > 1)
    runs.loc[others, "value"] *= 1e5
    assert measured(StudyResults(runs, study.facts), "derivative_free") == found


def test_on_the_prior_what_is_as_good_or_worse_is_named(transfer_study):
    assert measured(transfer_study(), "in_distribution").words.endswith("on 24 functions")
    assert measured(transfer_study(), "longer").words == "as good or better: none"
    stalled = measured(transfer_study({("prior-test", "adam"): 1.5, ("vlse", "adam"): 0.2}, stalls=("pop",)), "longer")
    assert stalled.words.startswith("as good or better: ADAM on prior-test (rank ")
    assert "ADAM on vlse" not in stalled.words


@pytest.mark.parametrize(("level", "worse"), [(2.0, 0), (0.1, 1)])
def test_dimensions_in_which_the_policy_of_the_paper_is_behind_are_counted(level, worse, transfer_study, monkeypatch):
    monkeypatch.setattr(targets, "PAPER", "pop")
    monkeypatch.setattr(targets, "UNSEEN", (8,))
    assert measured(transfer_study({("prior-8d", "pop"): level}), "dimensions").value == worse


@pytest.mark.parametrize(("study", "name", "cells"), [("pop-cutest", "cutest", 12), ("pop-bbob", "bbob", 6)])
def test_on_collections_of_others_each_group_and_budget_counts(study, name, cells, outside_study):
    made = outside_study(study)
    assert measured(made, f"{name}_rank") == (0, f"first in {cells} of {cells}")
    assert measured(made, f"{name}_p").value < 0.01
    swapped = made.runs.assign(optimizer=made.runs.optimizer.replace({"pop": "adam", "adam": "pop"}))
    behind = StudyResults(swapped, made.facts)
    assert measured(behind, f"{name}_rank").value == cells
    assert measured(behind, f"{name}_p").value == 1


@pytest.mark.parametrize("name", sorted(ASKED))
def test_without_its_results_a_target_is_not_evaluated(name):
    [verdict] = targets.table(targets={name: ASKED[name]}).verdict
    assert verdict == "not evaluated yet"


def test_without_the_policy_nothing_is_evaluated():
    table = targets.table(made_up(drop=("pop",)), targets=ASKED)
    assert set(table.verdict) == {"not evaluated yet"}
