import numpy as np
import pandas as pd
import pytest

from optrepro.analysis import rankings
from optrepro.analysis.intervals import holm
from optrepro.analysis.pop import transfer
from optrepro.analysis.results import Facts, StudyResults

BUDGET, STARTS, FEW = 10, 12, 6
GROUP = {
    **dict.fromkeys(["sphere", "sum_squares", "trid"], "bowl"),
    **dict.fromkeys(["booth", "matyas", "zakharov"], "plate"),
    **dict.fromkeys(["rastrigin", "levy", "eggholder"], "many local minima"),
}
SMOOTH = [name for name in GROUP if name != "eggholder"]
# The share of its start's regret that an optimizer leaves.
LEFT = {"adam": 2e-1, "rprop": 1e-1, "lbfgs": 1e-7, "pop": 1e-6, "tpe": 3e-1}
LEFT_EACH = {"adam": 1e-2, "rprop": 1e-1, "lbfgs": 1e-7}
OPTIMIZERS = {
    "adam": {"label": "Adam", "group": "first-order"},
    "rprop": {"label": "Rprop", "group": "first-order"},
    "lbfgs": {"label": "L-BFGS", "group": "quasi-newton"},
    "pop": {"label": "POP", "group": "policy"},
}
COLUMNS = ["workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]


def made_up(left=None, drop=()):
    """Every optimizer leaves a fixed share of the regret; `left` {(function, optimizer): share} overrides it."""
    rows = []
    for key in OPTIMIZERS:
        rates = {0.1: 1.0, 0.2: 3.0, 0.4: 2.0} if key not in ("pop", "tpe") else {np.nan: 5.0}
        rows += [["prior-validation", key, "tune", r, 0, BUDGET, "tuning_score", s] for r, s in rates.items()]
    rows.append(["prior-validation", "adam", "tune", 0.4, 3, 5, "diverged", 1.0])
    for prefix, shares in (("vlse", LEFT), ("vlse-each", LEFT_EACH)):
        for function, group in GROUP.items():
            for key, share in shares.items():
                if key in drop or (function, key) in drop:
                    continue
                share = (left or {}).get((function, key), share)
                rows += _runs(f"{prefix}/{function}", key, share, FEW if key == "tpe" else STARTS)
                if prefix == "vlse":
                    facts = {"range": 1e3, "dimension": 2, "smooth": function in SMOOTH, f"group[{group}]": 1}
                    rows += [[f"vlse/{function}", key, "test", 0.2, 0, 0, m, float(v)] for m, v in facts.items()]
                else:
                    scores = {0.1: 1.0, 0.2: 2.0, 0.4: 9.0}.items()
                    workload = f"{prefix}/{function}"
                    rows += [[workload, key, "tune", r, 0, BUDGET, "tuning_score", s] for r, s in scores]
    rows += [["vlse/sphere", "pop", "test", np.nan, 0, t, f"x{k}", t + k] for t in (1, 2, 3) for k in (0, 1)]
    rows += [["vlse/booth", "pop", "test", np.nan, 0, t, f"x{k}", t + k] for t in (1, 2, 3) for k in (0, 1)]
    rows.append(["vlse/sphere", "pop", "test", np.nan, 0, 0, "best_evaluation", 2.0])
    quantiles = {"rate_median": -2.0, "rate_lower": -3.0, "rate_upper": -1.0}
    rows += [["vlse/sphere", "pop", "test", np.nan, 0, 4, metric, value] for metric, value in quantiles.items()]
    rows.append(["prior-test", "adam", "test", 0.2, 0, BUDGET, "regret", 1.0])
    settings = {
        "functions": list(GROUP),
        "budget": BUDGET,
        "optimizers": OPTIMIZERS,
        "references": {"tpe": {"label": "TPE", "method": "tpe"}},
    }
    runs = pd.DataFrame(rows, columns=COLUMNS)
    runs = runs[~runs.optimizer.isin(drop)].assign(run="r", study="pop")
    return StudyResults(runs, Facts("pop", "test", settings, None, (), 0, ()))


def _runs(workload, key, share, starts):
    rows = []
    for start in range(starts):
        first = 10.0 * (1 + start) if (workload, start) != ("vlse/sphere", 0) else 0.0  # optimal already
        # what happens beyond the trained budget is no concern of these tables
        values = {1: first, BUDGET: first * share, 5 * BUDGET: 0.0}
        rows += [[workload, key, "test", 0.2, start, step, "regret", value] for step, value in values.items()]
    return rows


@pytest.fixture(scope="module")
def study():
    return made_up()


@pytest.fixture(scope="module")
def summary(study):
    return transfer.summary(study)


def row_of(table, **keys):
    return table[(table[list(keys)] == pd.Series(keys)).all(axis=1)].squeeze()


def test_a_collection_is_the_benchmark_alone_up_to_the_budget_with_its_references(study):
    part = transfer.collection(study, "vlse", BUDGET)
    assert set(part.runs.workload) == set(GROUP)
    assert part.runs.step.max() == BUDGET
    assert list(part.facts.optimizers) == ["adam", "rprop", "lbfgs", "pop", "tpe"]
    assert part.facts.optimizers["tpe"]["group"] == "derivative-free"
    assert part.facts.settings["starts"] == STARTS
    assert list(transfer.collection(study, "vlse-each").facts.optimizers) == ["adam", "rprop", "lbfgs"]


def test_scores_have_what_is_tuned_twice_and_the_rest_once(study):
    table = transfer.scores(study)
    assert len(table) == len(GROUP) * (5 + 3)
    assert set(table[table.tuned == "each"].optimizer) == {"adam", "rprop", "lbfgs"}
    assert row_of(table, tuned="once", function="booth", optimizer="adam").regret == pytest.approx(65 * 2e-1 / 1e3)
    assert row_of(table, tuned="each", function="booth", optimizer="adam").regret == pytest.approx(65 * 1e-2 / 1e3)


def test_the_rate_is_the_priors_or_the_functions_own(study):
    table = transfer.scores(study)
    once, each = (row_of(table, tuned=tuned, function="booth", optimizer="adam") for tuned in ("once", "each"))
    assert (once.learning_rate, once.on_edge) == (0.2, False)
    assert (each.learning_rate, each.on_edge) == (0.4, True)
    policy = row_of(table, tuned="once", function="booth", optimizer="pop")
    assert np.isnan(policy.learning_rate)
    assert not policy.on_edge


def test_improvement_is_the_mean_over_the_starts_that_can_improve(study):
    row = row_of(transfer.scores(study), tuned="once", function="sphere", optimizer="rprop")
    assert row.mean_improvement == pytest.approx(0.9)
    assert row.skipped == 1


def test_the_summary_ranks_within_each_field(summary):
    policy = row_of(summary, tuned="once", subset="smooth", optimizer="pop")
    assert (policy.functions, policy.rank_first_order, policy.rank_gradient, policy.rank_any) == (8, 1, 2, 2)
    rprop = row_of(summary, tuned="once", subset="smooth", optimizer="rprop")
    assert (rprop.rank_first_order, rprop.rank_gradient, rprop.rank_any) == (2, 3, 3)
    lbfgs = row_of(summary, tuned="once", subset="smooth", optimizer="lbfgs")
    assert np.isnan(lbfgs.rank_first_order)
    assert lbfgs.rank_gradient == 1
    assert row_of(summary, tuned="each", subset="smooth", optimizer="adam").rank_first_order == 2


def test_wins_and_p_values_are_those_of_the_policy_against_the_others():
    summary = transfer.summary(made_up({("booth", "adam"): 1e-9, ("matyas", "adam"): 1e-6}))
    row = row_of(summary, tuned="once", subset="smooth", optimizer="adam")
    assert (row.wins, row.ties, row.losses) == (6, 1, 1)
    change = np.log10([2e-1 / 1e-6] * 6 + [1, 1e-9 / 1e-6])
    alone = [rankings.wilcoxon(pd.Series(change))[1]]
    others = [rankings.wilcoxon(pd.Series([d] * 8))[1] for d in (1.0, -1.0, 1.0)]  # always better, or always worse
    assert row.p_regret == pytest.approx(holm([*alone, *others])[0])
    assert np.isnan(row_of(summary, tuned="once", subset="smooth", optimizer="pop").p_regret)


def test_paired_starts_tell_where_the_policy_is_better_worse_or_neither():
    summary = transfer.summary(made_up({("booth", "lbfgs"): 1e-6}))
    adam, lbfgs = (row_of(summary, tuned="once", subset="all", optimizer=key) for key in ("adam", "lbfgs"))
    assert (adam.start_wins, adam.start_losses) == (9, 0)
    assert (lbfgs.start_wins, lbfgs.start_losses) == (0, 8)  # on booth all starts tie


def test_the_mean_improvement_has_a_bootstrap_interval_over_the_functions():
    row = row_of(transfer.summary(made_up({("booth", "adam"): 1.0})), tuned="once", subset="smooth", optimizer="adam")
    assert row.improvement == pytest.approx(7 / 8 * 0.8)
    assert 0.5 * 0.8 - 1e-9 <= row.improvement_low < row.improvement < row.improvement_high <= 0.8 + 1e-9


def test_diverged_tuning_runs_are_counted_by_way_of_tuning(summary):
    assert row_of(summary, tuned="once", subset="all", optimizer="adam").diverged_in_tuning == 1
    assert row_of(summary, tuned="each", subset="all", optimizer="adam").diverged_in_tuning == 0


def test_ranks_and_tests_cover_whatever_uses_gradients(study):
    ranks, tests = transfer.ranks(study), transfer.tests(study)
    assert set(ranks.optimizer) == {"adam", "rprop", "lbfgs", "pop"}
    assert row_of(ranks, tuned="once", subset="all", optimizer="pop").to_dict()["label"] == "POP"
    assert ranks.groupby(["tuned", "subset"]).problems.first().to_dict()["each", "all"] == 9
    assert len(tests) == 2 * 2 * 6


def test_the_profile_counts_the_starts_that_an_optimizer_has(study):
    table = transfer.profile(study)
    assert dict(table.groupby("group").functions.first()) == {"bowl": 3, "plate": 3, "many local minima": 2}
    own = {"group": "plate", "target": 1e-2, "evaluations": BUDGET}
    assert row_of(table, optimizer="pop", **own).share == 1
    # 30 % of 10, 20 and 30 is at most a hundredth of the range
    assert row_of(table, optimizer="tpe", **own).share == 3 / FEW
    assert row_of(table, optimizer="adam", **own).share == 5 / STARTS


def test_the_best_point_of_a_path_is_marked_or_else_the_last_one(study):
    best = transfer.trajectories(study).query("best").set_index("function").step
    assert best.to_dict() == {"sphere": 2, "booth": 3}


def test_rates_have_a_row_per_function_policy_and_step(study):
    row = transfer.rates(study).squeeze()
    assert (row.function, row.group, row.label, row.step) == ("sphere", "bowl", "POP", 4)
    assert (row["median"], row.lower, row.upper) == (-2, -3, -1)


def reached(left=None, drop=()):
    table = transfer.targets(made_up(left, drop))
    return table.set_index("criterion").reached


def test_a_policy_ahead_of_all_first_order_optimizers_reaches_what_is_asked_of_it():
    found = reached()
    missed = set(found.index[~found])
    # eight functions cannot give so small a p, and L-BFGS is better
    assert all("Wilcoxon" in name or "L-BFGS" in name for name in missed)
    assert found["rastrigin: normalized improvement"]
    assert found["sphere: median normalized regret"]
    assert found["functions with a lower median regret than the best on each function"]


@pytest.mark.parametrize(
    ("criterion", "left"),
    [
        ("average rank by regret among", {(name, "pop"): 0.5 for name in GROUP}),
        ("mean normalized improvement", {(name, "rprop"): 0.04 for name in GROUP}),
        ("functions with a lower median regret than Rprop", {(name, "rprop"): 1e-9 for name in ("booth", "levy")}),
        ("functions with a lower median regret than the best", {("booth", "rprop"): 1e-9, ("levy", "adam"): 1e-9}),
        ("ahead of Adam", {(name, "adam"): 1e-9 for name in GROUP}),
        ("trid: median", {("trid", "adam"): 1e-7}),
        ("levy: normalized improvement", {("levy", "adam"): 0.05}),
    ],
)
def test_what_is_not_reached_is_said_so(criterion, left):
    found = reached(left)
    assert list(found[found.index.str.startswith(criterion)]) == [False]


def test_significance_counts_only_in_the_policys_favour():
    worse = transfer.targets(made_up({(name, "pop"): 0.9 for name in GROUP})).set_index("criterion")
    assert not worse[worse.index.str.startswith("Wilcoxon")].reached.any()


def test_criteria_without_their_optimizers_are_left_out():
    assert reached(drop=("pop",)).empty
    assert not reached(drop=("adam",)).index.str.contains("Adam|rastrigin").any()


def test_a_function_that_an_optimizer_has_no_result_on_is_in_no_comparison_with_it():
    summary = transfer.summary(made_up(drop=[("booth", "adam")]))
    adam, rprop = (row_of(summary, tuned="once", subset="smooth", optimizer=key) for key in ("adam", "rprop"))
    assert adam.wins + adam.ties + adam.losses == 7
    assert rprop.wins + rprop.ties + rprop.losses == 8
