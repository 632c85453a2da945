import numpy as np
import pytest

from optrepro.analysis.gap import concept


def test_scores_average_the_runs_and_combine_their_errors(concept_study):
    table = concept.scores(concept_study())
    row = table.query("phase == 'late' and batch_size == 512 and metric == 'autocorrelation' and lag == 2").squeeze()
    assert row.value == pytest.approx(0.95**2)
    assert row.error == pytest.approx(0.03 / np.sqrt(3))  # three runs with the same standard error


def test_every_kind_of_score_has_one_best_candidate_in_every_window(concept_study):
    table = concept.scores(concept_study())
    best = table[table.best]
    assert len(best) == 3 * 2 * 3
    assert set(best.groupby(["phase", "batch_size", "metric"]).size()) == {1}


def test_noise_in_the_self_term_moves_the_paper_score_to_the_smallest_candidate(concept_study):
    best = concept.best_candidates(concept_study())
    assert set(best.xs(16, level="batch_size").paper) == {0.5}
    assert set(best.xs(512, level="batch_size").paper) == {0.9}
    assert set(best.debiased) == {0.9}


@pytest.mark.parametrize("rho", [0.3, 0.9, -0.4])
def test_decay_rate_of_a_geometric_autocorrelation_is_found_whatever_the_noise(concept_study, rho):
    rates = concept.decay_rates(concept_study(rho={"early": rho}))
    assert rates["early", 16] == pytest.approx(rho)
    assert rates["early", 512] == pytest.approx(rho)


@pytest.mark.parametrize("rho", [0.1, 0.55, 0.85, 0.98])
def test_geometric_score_is_largest_where_momentum_equals_the_decay_rate(rho):
    momenta = np.linspace(0, 0.999, 2000)
    assert momenta[concept.geometric_score(momenta, rho).argmax()] == pytest.approx(rho, abs=1e-3)


@pytest.mark.parametrize(("low", "high", "rho"), [(0.5, 0.9, 0.766), (0.5, 0.99, 0.921), (0.8, 0.99, 0.954)])
def test_candidates_cross_over_where_the_paper_sheet_says(low, high, rho):
    below, above = concept.geometric_score([low, high], rho - 0.001), concept.geometric_score([low, high], rho + 0.001)
    assert below[0] > below[1]
    assert above[0] < above[1]


def test_without_correlation_the_smallest_candidate_wins():
    scores = concept.geometric_score([0.5, 0.9, 0.99], -0.1)
    assert list(scores) == sorted(scores, reverse=True)
