"""Promises and what comes of them, from a study in which both are known."""

import pytest
from tests.analysis.judge import judge
from tests.made_up.gap import KEPT, PROMISED, REGRETS

from optrepro.analysis.gap import greedy
from optrepro.catalogue import Margin


def test_the_share_that_is_kept_is_that_of_the_sums_over_forks(greedy_study):
    table = greedy.promises(greedy_study()).set_index(["workload", "learning_rate", "horizon", "candidate"])
    for horizon, shares in KEPT.items():
        for momentum, share in shares.items():
            row = table.loc["cnn", 0.1, horizon, momentum]
            assert row.promised == pytest.approx(horizon * PROMISED[momentum])
            assert row.realized == pytest.approx(share * row.promised)
            assert row.share == row.share_low == pytest.approx(share)
            assert row.forks == 12


def test_each_score_takes_its_own_candidate_and_is_held_against_the_one_that_is_best_on_average(greedy_study):
    """0.02 times the root of 1 - 0.5^2 is the largest for the paper, 0.04 for raw; after 10 steps 0.9 drops most."""
    table = greedy.outcomes(greedy_study()).set_index(["workload", "learning_rate", "horizon", "score"])
    first, later = (table.loc["perceptron", 0.01, horizon] for horizon in (1, 10))
    assert (first.best == 0.99).all()
    assert first.lowest.to_dict() == {"paper": 0.0, "raw": 1.0}
    assert first.gain.to_dict() == pytest.approx({"paper": 0.01 - 0.02, "raw": 0.0})
    assert (later.best == 0.9).all()
    assert (later.best_lowest == 1).all()
    assert later.lowest.to_dict() == {"paper": 0.0, "raw": 0.0}
    assert later.gain.to_dict() == pytest.approx({"paper": 0.08 - 0.18, "raw": -0.2 - 0.18})
    assert later["drop"].to_dict() == pytest.approx({"paper": 0.08, "raw": -0.2})


def test_a_fork_that_diverged_for_a_candidate_is_left_out_for_all(greedy_study):
    study = greedy_study()
    runs = study.runs
    lost = (
        (runs.workload == "cnn")
        & (runs.seed == 1)
        & (runs.step == 20)
        & runs.metric.str.contains("0.99]@10", regex=False)
    )
    table = greedy.outcomes(type(study)(runs[~lost], study.facts))
    forks = table[(table.workload == "cnn") & (table.horizon == 10)].forks
    assert set(forks) == {11}
    assert set(table[table.horizon == 1].forks) == {12}


def test_regret_is_to_the_fixed_candidate_that_ends_best(greedy_study):
    table = greedy.noise(greedy_study())
    for row in table.to_dict("records"):
        regret = REGRETS[row["batches"]]
        for measure in greedy.MEASURES:
            assert row[f"best_{measure}"] == "momentum-90"
            assert row[f"regret_{measure}"] == pytest.approx(regret)
        assert row["smallest"] == 0.75
    assert table.batches.tolist()[:3] == sorted(REGRETS)


def test_the_claim_fails_where_the_largest_score_ends_higher_and_says_how_often(greedy_study):
    found = judge("ends-lowest", greedy_study(), score="paper", margin=Margin(percent=1))
    assert found.verdict == "fails"
    assert "-50 to 60\N{NO-BREAK SPACE}% of the promised drop is there" in found.evidence
    assert "ends lowest at 0\N{NO-BREAK SPACE}% of 48 forks, the one that is best on average at 100" in found.evidence


def test_the_claim_holds_in_part_at_one_horizon_and_holds_at_all(greedy_study):
    assert judge("ends-lowest", greedy_study(), score="raw").verdict == "holds in part"
    straight = greedy_study({10: {0.5: 0.5, 0.9: 0.5, 0.99: 0.5}})
    assert judge("ends-lowest", straight, score="raw").verdict == "holds"


def test_a_score_that_always_takes_the_smallest_candidate_is_as_good_only_trivially(greedy_study):
    """The paper's score takes 0.5 at all forks here, which is as good where that is the best one."""
    best = {horizon: {0.5: 0.9, 0.9: 0.2, 0.99: 0.1} for horizon in (1, 10)}
    assert judge("ends-lowest", greedy_study(best), score="paper").verdict == "holds trivially"
    found = judge("ends-lowest", greedy_study({1: best[1]}), score="paper")
    assert found.verdict == "fails"
    assert found.evidence.startswith(
        "the smallest candidate has the largest score at 100\N{NO-BREAK SPACE}% of the forks"
    )
