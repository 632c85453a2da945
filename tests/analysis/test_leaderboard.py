"""Places on made-up tasks, where they are known."""

import pytest
from scipy import stats

from optrepro.analysis import leaderboard
from tests.made_up import leaderboard as made_up


def tasks(**options):
    return [study for name, study in made_up.studies(**options).items() if "overhead" not in name]


@pytest.fixture(scope="module")
def places():
    return leaderboard.places(*tasks()).set_index(["task", "optimizer"])


def test_places_are_those_of_the_scores_and_less_loss_is_better(places):
    ranks = places["rank"].unstack()
    assert ranks.loc["leaderboard-images"].to_dict() == {"adamw": 3, "best": 1, "close": 2, "last": 4}
    for task in ("leaderboard-language", "leaderboard-functions"):
        assert ranks.loc[task].to_dict() == {"adamw": 1, "best": 2, "close": 3, "last": 4}
    assert places.score["leaderboard-functions", "adamw"] == pytest.approx(4.25)
    assert places.score["leaderboard-language", "last"] == pytest.approx(-3.0, abs=0.02)
    assert places.problems.unstack().loc["leaderboard-functions"].eq(6).all()


def test_who_is_not_told_apart_from_the_first_is_said(places):
    beside = places.beside_first.unstack()
    assert beside.loc["leaderboard-images"].to_dict() == {"adamw": False, "best": True, "close": True, "last": False}
    assert places.behind["leaderboard-images", "last"] == pytest.approx(-0.25, abs=0.002)


def test_seeds_that_all_share_are_no_part_of_a_difference(places):
    row = places.loc["leaderboard-images", "best"]
    assert row.difference == pytest.approx(0.05, abs=0.002)
    assert row.difference_high - row.difference_low < 0.004 < row.score_high - row.score_low
    assert row.p == 2 / 2**10
    assert row.p_holm == 3 * row.p


def test_a_rate_at_the_end_of_its_grid_is_said(places):
    edges = places.on_edge.unstack()
    assert edges.loc["leaderboard-images"].to_dict() == {"adamw": 0, "best": 0, "close": 0, "last": 1}
    assert not edges.loc["leaderboard-functions"].any()


def test_a_diverged_run_has_accuracy_0_or_puts_its_optimizer_last():
    table = leaderboard.places(*tasks(diverged=(("images", "best"), ("language", "adamw"))))
    table = table.set_index(["task", "optimizer"])
    assert table.score["leaderboard-images", "best"] == pytest.approx(0.765, abs=0.01)
    assert table["rank"]["leaderboard-language", "adamw"] == 4
    assert table.diverged["leaderboard-language", "adamw"] == 1


def test_average_ranks_are_in_order_with_intervals_within_the_possible_ranks():
    table = leaderboard.overall(*tasks()).set_index("optimizer")
    assert list(table.index) == ["best", "adamw", "close", "last"]
    assert table.average_rank.to_dict() == pytest.approx({"best": 1.4, "adamw": 2.2, "close": 2.4, "last": 4.0})
    ranks = [[2, 1, 1, 2, 1], [1, 3, 3, 1, 3], [3, 2, 2, 3, 2], [4] * 5]
    assert table.friedman_p.iloc[0] == pytest.approx(stats.friedmanchisquare(*ranks).pvalue)
    low, high = stats.t.interval(0.95, 4, 1.4, stats.sem(ranks[0]))
    assert table.average_rank_low["best"] == max(low, 1)
    assert table.average_rank_high["best"] == pytest.approx(high)
    assert table.average_rank_high["last"] == 4
