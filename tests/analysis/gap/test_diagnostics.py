import numpy as np
import pandas as pd
import pytest

from optrepro.analysis.gap import diagnostics


@pytest.mark.parametrize("rho", [0.9, 0.3, -0.4])
def test_the_lag_one_coefficient_is_signal_times_rho_and_rho_without_noise(diagnostics_study, rho):
    table = diagnostics.lag_one(diagnostics_study(rho=rho, signal=0.5))
    assert table.coefficient.to_numpy() == pytest.approx(0.5 * rho)
    assert table.signal.to_numpy() == pytest.approx(0.5)
    assert table.noiseless.to_numpy() == pytest.approx(rho)
    assert set(table[table.workload == "gpt"].layer) == {"in.weight", "out.weight", "all", "preconditioned"}
    assert table.step.min() == 20  # the end of the first whole window


def test_a_coefficient_over_what_is_not_told_from_zero_is_left_out(diagnostics_study):
    table = diagnostics.lag_one(diagnostics_study(signal=0.0, noise=0.1))
    assert table.noiseless.isna().mean() > 0.8
    assert table.excess.isna().equals(table.noiseless.isna())


def test_the_excess_of_lag_one_is_in_standard_errors(diagnostics_study):
    equal = diagnostics.lag_one(diagnostics_study(rho=1.0, noise=0.1)).excess
    assert abs(equal.mean()) < 0.5
    assert 0.6 < equal.std() < 2
    assert diagnostics.lag_one(diagnostics_study(rho=0.5, noise=0.01)).excess.max() < -5


@pytest.mark.parametrize(("statistic", "p"), [(0.347, 0.10), (0.463, 0.05), (0.574, 0.025), (0.739, 0.01)])
def test_p_values_are_those_of_the_table_of_kwiatkowski_and_others(statistic, p):
    assert diagnostics.kpss_p(statistic) == pytest.approx(p, abs=1.1e-3)


def test_p_values_fall_and_go_on_where_the_table_ends():
    p = diagnostics.kpss_p(np.linspace(0.05, 3, 100))
    assert (np.diff(p) <= 1e-12).all()
    assert 0 < p[-1] < 1e-6
    assert p[0] > 0.8


def test_stationarity_is_rejected_where_the_statistics_are_large_and_nowhere_else(diagnostics_study):
    table = diagnostics.stationarity(diagnostics_study())
    assert (table[table.length == 80].rejected == 1).all()
    assert (table[table.length < 80].rejected == 0).all()
    # two tensors, three runs, and so many windows in 120 steps
    counts = table[(table.workload == "gpt") & (table.series == "kpss_lag1")].set_index("length").tests
    assert counts.to_dict() == {20: 36, 40: 18, 80: 6}


def test_rejections_are_those_of_the_shortest_windows(diagnostics_study):
    table = diagnostics.rejections(diagnostics_study())
    assert (table.rejected == 0).all()
    assert set(table[table.workload == "perceptron"].layer) == {"in.weight", "out.weight", "all"}


def test_statistics_that_stand_still_do_not_drift_however_noisy_the_windows(diagnostics_study):
    exact = diagnostics_study()
    assert diagnostics.drift(exact).change.to_numpy() == pytest.approx(0, abs=1e-6)
    noisy = diagnostics.drift(diagnostics_study(noise=0.2))
    for _, windows in noisy[noisy.part == "R"].groupby("window"):
        assert windows.change.median() < 0.1  # they differ by 0.2 * sqrt(14 / 4) / ||R|| = 0.3, the short ones by 0.4
    assert set(diagnostics.half_distances(exact).distance) == {np.inf}


def test_short_windows_stand_in_where_the_others_would_overlap(diagnostics_study):
    table = diagnostics.drift(diagnostics_study(fall=0.95))
    distances = table[table.workload == "gpt"].groupby(["part", "window"]).distance.agg(["min", "max"])
    assert distances.loc[("R", 10)].tolist() == [10, 15]
    assert distances.loc[("R", 20)].tolist() == [20, 95]  # 23 blocks have all lags, 20 windows


def test_short_windows_of_noise_alone_tell_nothing(diagnostics_study):
    table = diagnostics.drift(diagnostics_study(signal=0.0, noise=0.2))
    short = table[table.window == 10].set_index("part")
    assert short.loc["memory", ["change", "low", "high", "shape"]].isna().all(axis=None)
    assert short.loc["R"].change.median() < 0.1


def test_the_half_distance_is_that_of_whole_windows(diagnostics_study):
    study = diagnostics_study(fall=0.5)
    assert set(diagnostics.half_distances(study).distance) == {20}


def test_a_factor_moves_the_statistics_and_not_their_shape(diagnostics_study):
    study = diagnostics_study(fall=0.95)
    table = diagnostics.drift(study)
    assert table["shape"].to_numpy() == pytest.approx(0, abs=0.05)
    expected = 1 - 0.95 ** (table.distance / 5)
    assert table.change.to_numpy() == pytest.approx(expected.to_numpy(), abs=0.03)
    half = diagnostics.half_distances(study).set_index(["workload", "part"]).distance
    assert len(half) == 4
    assert half.to_numpy() == pytest.approx(5 * np.log(0.5) / np.log(0.95), abs=5)


def test_a_drift_that_is_half_from_the_first_distance_on_is_given_that_distance():
    assert diagnostics.half_distance(pd.DataFrame({"distance": [20, 30], "change": [0.7, 0.8]})) == 20


def test_complete_blocks_hold_every_lag_and_the_self_term_that_is_asked_for(diagnostics_study):
    study = diagnostics_study(rho=0.5)
    paper, debiased = (diagnostics.complete_blocks(study, name) for name in ("R0", "halves"))
    assert [run.shape for run in paper["gpt"]] == [(23, 7)] * 3  # the first block has no lag of 5 or 6
    assert paper["perceptron"][0][0] == pytest.approx(2 * np.array([1, *0.5 * 0.5 ** np.arange(1, 7)]))
    assert debiased["perceptron"][0][0] == pytest.approx(2 * 0.5 * 0.5 ** np.arange(7))
