import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from optrepro.analysis.gap import stability
from optrepro.experiments.probes.autocorrelation import momentum_filter

STATISTICS = arrays(np.float64, 9, elements=st.floats(-10, 10))


@pytest.mark.parametrize("family", stability.FAMILIES)
@given(true=STATISTICS, believed=STATISTICS)
def test_no_statistics_cost_more_than_the_bound(family, true, believed):
    filters = stability.filters(stability.FAMILIES[family], 8)
    lost, changed = stability.loss(filters, true, believed)
    diameter = np.linalg.norm(filters[:, None] - filters, axis=-1).max()
    assert 0 <= lost <= diameter * np.linalg.norm(true - believed) + 1e-9 <= 2 * np.linalg.norm(true - believed) + 2e-9
    assert changed or lost == 0


def test_filters_are_those_of_the_optimizers():
    expected = [momentum_filter(momentum, 8).tolist() for momentum in (0.5, 0.9, 0.99)]
    assert stability.filters(stability.FAMILIES["candidates"], 8) == pytest.approx(np.array(expected))


def test_the_loss_is_that_of_the_filter_taken_by_the_wrong_statistics():
    filters = np.eye(2)
    lost, changed = stability.loss(filters, np.array([[3.0, 1.0], [3.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert lost.tolist() == [2.0, 0.0]
    assert changed.tolist() == [True, False]


def test_perturbations_have_their_size_and_stay_under_the_bound(diagnostics_study):
    points = stability.perturbations(diagnostics_study())
    assert points.bound.to_numpy() == pytest.approx(2 * points["size"].to_numpy())
    assert (points.loss <= points.bound).all()
    # 5 windows in 3 runs, 16 directions
    assert set(points.groupby(["workload", "score", "family", "size"]).size()) == {5 * 3 * 16}
    assert points.equals(stability.perturbations(diagnostics_study()))


def test_larger_perturbations_change_more_choices(diagnostics_study):
    changed = stability.perturbations(diagnostics_study()).groupby(["family", "size"]).changed.mean()
    assert changed["interval"].is_monotonic_increasing
    assert changed["interval", 1.0] > changed["candidates", 1.0]


def test_windows_of_statistics_that_stand_still_cost_nothing(diagnostics_study):
    points = stability.windows(diagnostics_study())
    assert points.loss.to_numpy() == pytest.approx(0, abs=1e-12)
    assert set(points.steps) == {5, 10, 20}


def test_longer_windows_are_closer_to_the_statistics_of_their_phase(diagnostics_study):
    bounds = stability.windows(diagnostics_study(noise=0.3)).groupby(["score", "steps"]).bound.median()
    assert all(bounds[score].is_monotonic_decreasing for score in ("paper", "debiased"))


def test_the_summary_is_of_the_points_of_each_source(diagnostics_study):
    study = diagnostics_study(noise=0.3)
    summary = stability.summary(study).set_index(["source", "workload", "score", "family", "amount"])
    points = {"perturbations": stability.perturbations(study), "windows": stability.windows(study)}
    assert summary.groupby("source").points.sum().to_dict() == {name: len(table) for name, table in points.items()}
    own = points["perturbations"].query("workload == 'gpt' and score == 'paper' and family == 'interval' and size == 1")
    row = summary.loc["perturbations", "gpt", "paper", "interval", 1.0]
    assert (row.changed, row.loss) == pytest.approx((own.changed.mean(), own.loss.median()))
    assert row.largest == pytest.approx((own.loss / own.bound).max())


def test_no_two_filters_are_further_apart_than_the_diameter(diagnostics_study):
    diameters = stability.diameters(diagnostics_study())
    assert 0 < diameters["candidates"] < diameters["interval"] < 2**0.5
