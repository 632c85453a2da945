import numpy as np
import pandas as pd
import pytest

from optrepro.analysis.lto import panels
from optrepro.analysis.results import StudyResults

FIGURE = ("fig1-grey", "fig1-cifar10", "fig1-cifar100")
FEW = ("adagrad", "rmsprop", "l2l", "psd", "psd-bregman")


@pytest.fixture(scope="module")
def small(objectives_study):
    return objectives_study(keep=(*FIGURE, *FEW))


def _at(table, **where):
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def _curve(study, panel, optimizer, seed):
    runs = study.runs
    chosen = (runs.workload == panel) & (runs.optimizer == optimizer) & (runs.seed == seed)
    return runs[chosen & (runs.metric == "objective")].sort_values("step")


def _with(study, panel, optimizer, values):
    """The study with the last objectives of a run's first repetition replaced."""
    runs = study.runs.copy()
    runs.loc[_curve(study, panel, optimizer, 0).index[-len(values) :], "value"] = values
    return StudyResults(runs, study.facts)


# --- Panels ---------------------------------------------------------------------------------------------------------


def test_the_area_is_the_mean_of_the_objective_by_the_trapezoid_rule(small):
    areas = []
    for seed in range(10):
        rows = _curve(small, "fig1-grey", "adagrad", seed)
        y, x = rows.value.to_numpy(), rows.step.to_numpy()
        areas.append(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / 400)
    row = _at(panels.scores(small), panel="fig1-grey", optimizer="adagrad")
    assert row.area == pytest.approx(np.mean(areas))
    assert row.area_low < row.area < row.area_high
    np.testing.assert_allclose(panels.areas(small).loc["fig1-grey"]["adagrad"], areas)


def test_the_final_objective_is_the_one_after_the_last_iteration(small):
    finals = [_curve(small, "fig1-grey", "psd", seed).value.iloc[-1] for seed in range(10)]
    assert _at(panels.scores(small), panel="fig1-grey", optimizer="psd").final == pytest.approx(np.mean(finals))


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e9])
def test_an_objective_counts_at_most_twice_its_start(small, value):
    start = _curve(small, "fig1-grey", "l2l", 0).value.iloc[0]
    bad = panels.areas(_with(small, "fig1-grey", "l2l", [value] * 3))
    twice = panels.areas(_with(small, "fig1-grey", "l2l", [2 * start] * 3))
    pd.testing.assert_frame_equal(bad, twice)
    assert np.isfinite(bad).all(axis=None)


def test_a_run_that_recovers_is_not_punished_after_that(small):
    """The cap holds for each recorded objective by itself."""
    start, last = (_curve(small, "fig1-grey", "psd", 0).value.iloc[i] for i in (0, -1))
    recovered = _with(small, "fig1-grey", "psd", [3 * start, last, last])
    scores = panels.areas(recovered).loc["fig1-grey", 0]["psd"]
    assert scores < panels.areas(_with(small, "fig1-grey", "psd", [3 * start] * 3)).loc["fig1-grey", 0]["psd"]


def test_the_best_of_a_panel_is_clearly_below_the_best_other(small):
    table = panels.scores(small)
    best = _at(table, panel="fig1-grey", optimizer="psd")
    assert (best.area_rank, best.area_rival, best.area_verdict) == (1, "adagrad", "best")
    assert best.area_difference_high < 0
    second = _at(table, panel="fig1-grey", optimizer="adagrad")
    assert (second.area_rank, second.area_rival, second.area_verdict) == (2, "psd", "worse")
    assert second.area_relative == pytest.approx(1)  # the best of what is tuned


def test_an_objective_that_ends_at_0_has_finite_ratios(small):
    panel = "fig1-grey"
    runs = small.runs.copy()
    ends = (
        (runs.workload == panel) & (runs.metric == "objective") & (runs.step == runs[runs.workload == panel].step.max())
    )
    runs.loc[ends & runs.optimizer.isin(["adagrad", "psd"]), "value"] = 0.0
    study = StudyResults(runs, small.facts)
    table = panels.scores(study)
    assert _at(table, panel=panel, optimizer="psd").final_relative == 1
    assert np.isfinite(table.final_relative).all()
    assert np.isfinite(panels.summary(study).final_relative).all()


def test_differences_that_noise_explains_are_tied(objectives_study):
    table = panels.scores(objectives_study({"psd": 4.0, "adagrad": 4.0}, keep=FEW))
    own = table[table.optimizer == "psd"]
    for measure in panels.MEASURES:
        assert set(own[f"{measure}_verdict"]) <= {"tied", "equivalent"}


@pytest.mark.parametrize(("speed", "verdict"), [(3.99, "equivalent"), (3.5, "worse"), (5.0, "best")])
def test_what_is_at_most_so_much_worse_than_the_best_other_is_equivalent(objectives_study, speed, verdict):
    table = panels.scores(objectives_study({"psd": speed}, seeds=14, keep=(*FIGURE, "adagrad", "psd")))
    own = table[table.optimizer == "psd"]
    assert set(own.area_verdict) == {verdict}
    below = own.area_difference_high < panels.MARGIN * (own.area - own.area_difference)
    assert below.all() == (verdict != "worse")


def test_a_difference_over_few_repetitions_cannot_be_told_from_a_tie(objectives_study):
    table = panels.scores(objectives_study(seeds=4, keep=(*FIGURE, *FEW)))
    assert set(table.area_verdict) == {"tied", "equivalent"}
    assert (table[table.area_difference > 0].area_verdict == "tied").all()


def test_p_values_are_corrected_for_the_panels_of_all_figures(objectives_study):
    study = objectives_study(keep=FEW)
    of_figure, of_all = panels.scores(study, "fig1"), panels.scores(study)
    own = of_figure[of_figure.optimizer == "psd"]
    assert len(own) == 3
    assert own.area_p_holm.to_numpy() == pytest.approx(15 * own.area_p.to_numpy())
    pd.testing.assert_frame_equal(of_figure, of_all[of_all.figure == "fig1"].reset_index(drop=True))


def test_a_variant_competes_in_the_place_of_what_it_varies(objectives_study):
    study = objectives_study({"psd-bregman": 6.0, "psd": 5.0}, keep=(*FIGURE, *FEW))
    table = panels.scores(study)
    shipped, variant = (_at(table, panel="fig1-grey", optimizer=key) for key in ("psd", "psd-bregman"))
    assert (shipped.area_rank, shipped.area_rival) == (1, "adagrad")
    assert (variant.area_rank, variant.area_rival) == (1, "adagrad")


def test_diverged_runs_are_counted_and_in_no_point_of_a_curve(objectives_study):
    study = objectives_study(diverged=(("fig1-grey", "l2l"),), keep=(*FIGURE, *FEW))
    table = panels.scores(study)
    assert _at(table, panel="fig1-grey", optimizer="l2l").diverged == 2
    assert (table.diverged.sum(), table.overshot.sum()) == (2, 0)
    curves = panels.curves(study)
    own = curves[(curves.panel == "fig1-grey") & (curves.optimizer == "l2l")]
    whole = [_curve(study, "fig1-grey", "l2l", seed).value.to_numpy() for seed in range(2, 10)]
    np.testing.assert_allclose(own["mean"], np.mean(whole, axis=0))
    assert (own.lost == 2).all()
    assert (own.repetitions == 10).all()


def test_a_run_that_overshoots_and_recovers_has_not_diverged(small):
    start, last = (_curve(small, "fig1-grey", "psd", 0).value.iloc[i] for i in (0, -1))
    for values, expected in {
        (3 * start, last, last): (0, 1),
        (np.inf, last, last): (0, 1),
        (1.9 * start, last, last): (0, 0),
        (3 * start, last, 1.01 * start): (1, 0),
        (last, last, np.nan): (1, 0),
    }.items():
        study = _with(small, "fig1-grey", "psd", list(values))
        row = _at(panels.scores(study), panel="fig1-grey", optimizer="psd")
        assert (row.diverged, row.overshot) == expected, values
        summary = panels.summary(study).set_index("optimizer").loc["psd"]
        assert (summary.lost, summary.overshot) == expected
        curve = _at(panels.curves(study), panel="fig1-grey", optimizer="psd", step=400)
        assert (curve.lost, curve.overshot) == expected


def test_a_curve_of_which_all_runs_diverge_is_that_of_all(objectives_study):
    study = objectives_study(diverged=(("fig1-grey", "l2l"),), seeds=2, keep=(*FIGURE, *FEW))
    curves = panels.curves(study)
    own = curves[(curves.panel == "fig1-grey") & (curves.optimizer == "l2l")]
    assert (own.lost == 2).all()
    assert own["mean"].iloc[-1] == pytest.approx(2 * own["mean"].iloc[0])


def test_panels_are_named_by_their_figure_and_data(small):
    row = _at(panels.scores(small), panel="fig1-cifar10", optimizer="psd")
    assert (row.figure, row.dataset) == ("fig1", "CIFAR-10")
    assert panels.panels(small) == dict(zip(FIGURE, ("Fashion-MNIST", "CIFAR-10", "CIFAR-100"), strict=True))


def test_the_summary_counts_verdicts_and_wins_over_the_panels(objectives_study):
    worse = {(panel, "psd"): 3.6 for panel in ("fig4-grey", "fig4-cifar10")}
    summary = panels.summary(objectives_study(worse, keep=FEW)).set_index("optimizer")
    own, rival = summary.loc["psd"], summary.loc["adagrad"]
    assert (own.panels, own.area_best, own.area_tied, own.area_worse, own.area_behind) == (15, 13, 0, 2, 2)
    assert (rival.area_wins, rival.area_ties, rival.area_losses) == (13, 0, 2)
    assert rival.area_p < 0.05
    assert own.area_rank == pytest.approx((13 * 1 + 2 * 3) / 15)
    assert np.isnan(own.area_p)
    assert (summary.friedman_p < 0.05).all()


def test_a_rate_at_the_end_of_its_grid_is_not_interior(small):
    tuned = panels.tuned(small).set_index("optimizer")
    assert tuned.interior["adagrad"]
    assert (tuned.learning_rate["adagrad"], tuned.lowest["adagrad"], tuned.highest["adagrad"]) == (0.1, 0.01, 1.0)
    runs = small.runs.assign(learning_rate=small.runs.learning_rate.replace({1.0: 0.1, 0.1: 1.0}))
    edge = panels.tuned(StudyResults(runs, small.facts)).set_index("optimizer")
    assert not edge.interior["adagrad"]


def test_what_is_learned_has_no_rate(small):
    row = panels.tuned(small).set_index("optimizer").loc["psd"]
    assert np.isnan(row.learning_rate)
    assert row.rates == 0


def test_progress_is_the_fall_beyond_the_trained_horizon(objectives_study):
    study = objectives_study(keep=("fig1-grey", "fig5-grey", *FEW))
    table = panels.progress(study)
    assert set(table.panel) == {"fig5-grey"}  # the only one that goes on for longer
    row = _at(table, optimizer="psd")
    assert (row.trained, row.end) == (400, 800)
    assert row.progress == pytest.approx(row.at_trained - row.at_end)
    assert row.progress_low > 0


def test_an_optimizer_alone_has_nothing_to_be_compared_with(objectives_study):
    row = _at(panels.scores(objectives_study(keep=("fig1-grey", "psd"))), optimizer="psd")
    assert row.area_rival is None
    assert np.isnan(row.area_difference)
    assert row.area_verdict == "tied"


def test_a_missing_repetition_is_left_out_of_the_pairs(small):
    runs = small.runs[
        ~((small.runs.workload == "fig1-grey") & (small.runs.optimizer == "psd") & (small.runs.seed == 3))
    ]
    row = _at(panels.scores(StudyResults(runs, small.facts)), panel="fig1-grey", optimizer="psd")
    assert row.repetitions == 9
    assert row.area_p == pytest.approx(2 / 2**9)


# --- Robustness -----------------------------------------------------------------------------------------------------


def test_ratios_are_to_the_best_classic_optimizer_of_each_value(objectives_study):
    table = panels.robustness(objectives_study({("batch-10", "rmsprop"): 6.0}, robustness=True))
    own = table[(table.varied == "batch") & (table.value == 10)].set_index("optimizer")
    assert set(own.reference) == {"rmsprop"}
    assert own.relative["rmsprop"] == 1
    assert own.relative["psd"] > 1
    others = table[(table.varied == "batch") & (table.value != 10)]
    assert set(others.reference) == {"adagrad"}
    assert (others[others.optimizer == "psd"].relative_high < 1).all()


def test_horizons_are_read_off_one_run_up_to_each_multiple_of_the_trained_one(objectives_study):
    study = objectives_study(robustness=True)
    table = panels.robustness(study)
    horizons = table[(table.varied == "horizon") & (table.optimizer == "psd")]
    assert horizons.value.tolist() == [400, 800, 1200, 1600, 2000]
    rows = _curve(study, "horizon-2000", "psd", 0)  # recorded every 250 iterations
    x, y = rows.step.to_numpy(), rows.value.to_numpy()
    middle = y[1] + (y[2] - y[1]) * 150 / 250
    first = (250 * (y[0] + y[1]) / 2 + 150 * (y[1] + middle) / 2) / 400
    one = StudyResults(study.runs[study.runs.seed == 0], study.facts)
    found = panels.robustness(one)
    assert _at(found, varied="horizon", value=400, optimizer="psd").area == pytest.approx(first)
    assert _at(found, varied="horizon", value=2000, optimizer="psd").area == pytest.approx(np.trapezoid(y, x) / 2000)


def test_a_run_that_diverges_later_has_not_diverged_at_a_shorter_horizon(objectives_study):
    table = panels.robustness(objectives_study(diverged=(("horizon-2000", "l2l"),), robustness=True))
    own = table[(table.varied == "horizon") & (table.optimizer == "l2l")]
    assert own.diverged.tolist() == [0, 0, 0, 2, 2]  # at iteration 1250


# --- Meta-training --------------------------------------------------------------------------------------------------


def test_meta_training_is_read_by_method_and_row(learner_study):
    table = panels.metatraining(learner_study())
    assert list(table.optimizer.unique()) == ["psd-trained", "psd-bregman", "imitation", "l2l-trained"]
    assert set(table[table.metric == "guiding"].method) == {"mirror", "bregman"}
    assert _at(table, optimizer="psd-bregman", metric="area", step=8).value == pytest.approx(0.9)


def test_the_ablation_reports_the_weights_of_the_lowest_validation_area(learner_study):
    table = panels.ablation(learner_study(), learner_study(ablation=True))
    row = _at(table, optimizer="separate")
    assert (row.study, row.group, row.kept, row.iterations) == ("lto-ablation", "sharing", 8, 10)
    assert row.problem == "8 inputs, 8 hidden units, 100 iterations"
    assert (row["first"], row.area, row.final) == pytest.approx((1.2, 0.8, 0.64))
    assert row["last"] > row.area
    assert np.isnan(row.area_low)  # one training seed


def test_where_there_is_a_score_it_says_which_weights_are_kept(learner_study):
    study = learner_study(keep=("imitation",))
    scores = study.runs[study.runs.metric == "area"].assign(metric="score", value=lambda rows: abs(rows.step - 6.0))
    row = _at(panels.ablation(StudyResults(pd.concat([study.runs, scores]), study.facts)), optimizer="imitation")
    assert row.kept == 6
    assert row.area > 0.7


def test_several_training_seeds_give_an_interval(learner_study):
    row = _at(panels.ablation(learner_study(seeds=3)), optimizer="imitation")
    assert row.seeds == 3
    assert row.area == pytest.approx(0.71)
    assert row.area_low < 0.71 < row.area_high


def test_a_validation_that_is_not_finite_is_not_the_one_that_is_kept(learner_study):
    study = learner_study()
    runs = study.runs.copy()
    runs.loc[(runs.metric == "area") & (runs.step == 0), "value"] = np.inf
    row = _at(panels.ablation(StudyResults(runs, study.facts)), optimizer="imitation")
    assert row.area == pytest.approx(0.7)
    assert np.isfinite(row["first"])
