import numpy as np
import pandas as pd
import pytest

from optrepro.analysis import benchmark
from optrepro.analysis.results import Facts, StudyResults

RATES = [0.1, 0.2, 0.4]
RANGE = {"bowl": 10.0, "ripple": 100.0, "kinked": 1.0}
GROUP = {"bowl": "bowl", "ripple": "many local minima", "kinked": "many local minima"}
FIRST = {"bowl": [8.0, 4.0, 0.0], "ripple": [50.0, 50.0, 50.0], "kinked": [1.0, 1.0, 1.0]}
FINAL = {
    ("bowl", "fast"): [0.8, 0.04, 0.0],
    ("bowl", "slow"): [4.0, 2.0, 0.0],
    ("ripple", "fast"): [1e-11, 1e-12, 5.0],
    ("ripple", "slow"): [1e-13, 1e-10, 5.0],
    ("kinked", "fast"): [0.5, 0.5, 0.5],
    ("kinked", "slow"): [0.1, 0.1, 0.1],
}
SCORES = {"bowl": [1.0, 3.0, 2.0], "ripple": [1.0, 2.0, 3.0], "kinked": [0.0, 0.0, 0.0]}
TUNED = {"bowl": 0.2, "ripple": 0.4, "kinked": 0.1}


def made_up(drop=()):
    """Three functions, two optimizers, three starts, a budget of ten; (function, optimizer) in `drop` are missing."""
    rows = []
    for (function, optimizer), final in FINAL.items():
        if (function, optimizer) in drop:
            continue
        tune = ["vlse", function, optimizer, "tune"]
        rows += [
            [f"{function}/{optimizer}/{r}", *tune, r, 0, 10, "tuning_score", s]
            for r, s in zip(RATES, SCORES[function], strict=True)
        ]
        head = [f"{function}/{optimizer}", "vlse", function, optimizer, "test", TUNED[function]]
        for start, (first, last) in enumerate(zip(FIRST[function], final, strict=True)):
            rows += [[*head, start, step, "regret", value] for step, value in ((1, first), (5, first), (10, last))]
        facts = {
            "range": RANGE[function],
            "dimension": 2,
            "smooth": function != "kinked",
            f"group[{GROUP[function]}]": 1,
        }
        rows += [[*head, 0, 0, metric, float(value)] for metric, value in facts.items()]
        rows += [[*head, 0, step, axis, step + k] for step in (1, 2) for k, axis in enumerate(("x0", "x1"))]
    rows.append(["bowl/slow", "vlse", "bowl", "slow", "test", 0.2, 1, 7, "diverged", 1.0])
    rows.append(["bowl/slow/0.4", "vlse", "bowl", "slow", "tune", 0.4, 0, 3, "diverged", 1.0])
    columns = ["run", "study", "workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]
    settings = {
        "functions": ["ripple", "kinked", "bowl"],
        "starts": 3,
        "optimizers": {"slow": {"label": "Slow"}, "fast": {"label": "Fast"}},
    }
    return StudyResults(pd.DataFrame(rows, columns=columns), Facts("vlse", "test", settings, None, (), 18, ()))


@pytest.fixture(scope="module")
def study():
    return made_up()


def row_of(table, **keys):
    return table[(table[list(keys)] == pd.Series(keys)).all(axis=1)].squeeze()


def test_scores_have_a_row_per_function_and_optimizer_in_the_order_of_the_config(study):
    table = benchmark.scores(study)
    assert list(table.function) == ["ripple", "ripple", "kinked", "kinked", "bowl", "bowl"]
    assert list(table.label) == ["Slow", "Fast"] * 3
    assert row_of(table, function="kinked", optimizer="fast").group == "many local minima"
    assert table.groupby("function").smooth.first().to_dict() == {"bowl": True, "kinked": False, "ripple": True}


def test_improvement_is_the_share_of_the_starts_regret_and_an_optimal_start_is_skipped(study):
    row = row_of(benchmark.scores(study), function="bowl", optimizer="fast")
    assert row.improvement == pytest.approx(np.median([1 - 0.8 / 8, 1 - 0.04 / 4]))
    assert (row.starts, row.skipped) == (3, 1)


def test_regret_is_a_share_of_the_functions_range_and_counts_every_start(study):
    row = row_of(benchmark.scores(study), function="bowl", optimizer="slow")
    assert row.regret == pytest.approx(np.median([4, 2, 0]) / 10)


def test_the_tuned_rate_is_on_the_edge_only_if_nothing_inside_is_as_good(study):
    table = benchmark.scores(study).set_index(["function", "optimizer"])
    assert table.on_edge.xs("fast", level=1).to_dict() == {"ripple": True, "kinked": False, "bowl": False}
    assert table.learning_rate["bowl", "fast"] == 0.2
    assert np.isnan(table.learning_rate["kinked", "fast"])  # all rates score the same


def test_diverged_starts_are_counted_by_role(study):
    table = benchmark.scores(study)
    row = row_of(table, function="bowl", optimizer="slow")
    assert (row.diverged, row.tuning_diverged) == (1, 1)
    assert (table.diverged.sum(), table.tuning_diverged.sum()) == (1, 1)


def test_ranks_are_taken_on_the_smooth_functions_and_on_all(study):
    table = benchmark.ranks(study)
    smooth = row_of(table, subset="smooth", measure="regret", optimizer="fast")
    everything = row_of(table, subset="all", measure="regret", optimizer="fast")
    assert (smooth.functions, everything.functions) == (2, 3)
    assert smooth["rank"] == 1.25  # better on bowl; on ripple both medians are below the floor, a tie
    assert everything["rank"] == pytest.approx((1 + 1.5 + 2) / 3)
    assert (smooth["first"], everything["first"]) == (2, 2)


def test_the_average_of_regrets_is_that_of_their_logarithms(study):
    row = row_of(benchmark.ranks(study), subset="smooth", measure="regret", optimizer="slow")
    assert row.average == pytest.approx((np.log10(0.2) + -12) / 2)


def test_tests_compare_every_pair_on_both_sets_and_measures(study):
    table = benchmark.tests(study)
    assert len(table) == 4
    row = row_of(table, subset="all", measure="regret")
    assert (row["first"], row.second, row.wins, row.ties, row.losses) == ("slow", "fast", 1, 1, 1)


def test_the_profile_is_the_share_of_problems_solved_after_so_many_evaluations(study):
    table = benchmark.profile(study)
    # smooth problems: 6; after one evaluation the optimal start of bowl is solved, at the end 4 of them
    share = table[(table.subset == "smooth") & (table.target == 1e-2) & (table.optimizer == "fast")]
    assert share.set_index("evaluations").share.to_dict() == {1: 1 / 6, 5: 1 / 6, 10: 4 / 6}


def test_a_function_without_results_is_unsolved_and_in_no_rank():
    study = made_up(drop=[("bowl", "fast")])
    share = row_of(benchmark.profile(study), subset="smooth", target=1e-2, optimizer="fast", evaluations=10)
    assert share.share == pytest.approx(2 / 6)
    assert set(benchmark.ranks(study).query("subset == 'smooth'").functions) == {1}


def test_a_missing_optimizer_leaves_the_comparison_of_the_others_alone():
    study = made_up(drop=[(function, "fast") for function in RANGE])
    assert set(benchmark.scores(study).optimizer) == {"slow"}
    assert set(benchmark.ranks(study).functions) == {2, 3}


def test_trajectories_have_both_coordinates_in_a_row(study):
    table = benchmark.trajectories(study)
    row = row_of(table, function="bowl", optimizer="slow", step=2)
    assert (row.x0, row.x1, row.label) == (2, 3, "Slow")
    assert len(table) == 6 * 2


def test_surfaces_put_the_grid_into_the_box():
    values = {"lower[0]": -1.0, "upper[0]": 1.0, "lower[1]": 0.0, "upper[1]": 4.0, "smooth": 1.0}
    rows = [["f", 0, 0, metric, value] for metric, value in values.items()]
    rows += [["f", 0, step, "surface", 10.0 * step] for step in range(9)]
    rows += [["f", k, 0, f"minimizer[{axis}]", 0.5 * k] for k in (0, 1) for axis in (0, 1)]
    runs = pd.DataFrame(rows, columns=["workload", "seed", "step", "metric", "value"])
    facts = Facts("surfaces", "test", {"functions": ["f"]}, None, (), 0, ())
    table = benchmark.surfaces(StudyResults(runs, facts))
    assert row_of(table, kind="grid", value=50.0)[["x0", "x1"]].tolist() == [1, 2]  # second row, third column
    assert table[table.kind == "minimizer"][["x0", "x1"]].to_numpy().tolist() == [[0, 0], [0.5, 0.5]]
