import numpy as np
import pytest

from optrepro.analysis import verdict as words
from optrepro.analysis.intervals import Interval
from optrepro.analysis.verdict import Outcome, as_good, better, judged, together

MET, TRIVIAL, OPEN, MISSED = Outcome.MET, Outcome.TRIVIAL, Outcome.OPEN, Outcome.MISSED
MARGIN = 0.25


@pytest.mark.parametrize(
    ("low", "high", "good", "ahead"),
    [
        (0.1, 0.9, MET, MET),
        (0.1, 0.2, MET, MET),  # a lead that is certain counts, however small
        (0.0, 0.0, MET, MISSED),  # the runs are identical
        (-0.2, 0.2, MET, MISSED),  # equivalent
        (-0.2, 0.4, MET, OPEN),
        (-0.4, -0.1, OPEN, MISSED),  # worse, but maybe by less than the margin
        (-0.4, 0.1, OPEN, MISSED),
        (-3.7, 2.5, OPEN, OPEN),  # noise earns nothing
        (-0.9, -0.3, MISSED, MISSED),
        (np.nan, np.nan, OPEN, OPEN),
    ],
)
def test_the_interval_decides_beside_the_margin(low, high, good, ahead):
    difference = Interval((low + high) / 2, low, high)
    assert as_good(difference, MARGIN) is good
    assert better(difference, MARGIN) is ahead


def test_more_data_settle_what_is_open_and_never_turn_it_round():
    for mean in np.linspace(-0.5, 0.5, 20):
        found = [as_good(Interval(mean, mean - half, mean + half), MARGIN) for half in (1.0, 0.3, 0.1, 0.01)]
        settled = [outcome for outcome in found if outcome is not OPEN]
        assert len(set(settled)) <= 1
        assert found == [OPEN] * (len(found) - len(settled)) + settled


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([MET, MET], "holds"),
        ([MET, MISSED], "holds in part"),
        ([MET, OPEN], "holds in part"),
        ([OPEN, OPEN], "undecided"),
        ([OPEN, MISSED], "fails"),
        ([MISSED, MISSED], "fails"),
        ([TRIVIAL, TRIVIAL], "holds trivially"),
        ([TRIVIAL, MET], "holds trivially"),
        ([TRIVIAL, MET, MISSED], "holds in part"),
        ([TRIVIAL, OPEN], "undecided"),  # a rule that never switched is no evidence for the others
        ([TRIVIAL, MISSED], "fails"),
    ],
)
def test_the_verdict_follows_from_the_outcomes_in_any_order(outcomes, verdict):
    assert judged(outcomes, "e") == judged(reversed(outcomes), "e") == (verdict, "e")


def test_a_share_has_to_be_exceeded_to_hold_in_part():
    assert judged([MET, MISSED], "e", share=0.5).verdict == "fails"
    assert judged([MET, MET, MISSED], "e", share=0.5).verdict == "holds in part"
    assert judged([MET, OPEN], "e", share=0.5).verdict == "undecided"


def test_conditions_that_have_to_be_met_together_are_as_good_as_the_worst():
    assert together([MET, OPEN, MISSED]) is MISSED
    assert together([MET, OPEN]) is OPEN
    assert together([MET, MET]) is MET


def test_two_seeds_decide_nothing_and_three_may():
    assert words.too_few("dice", 3, "test") is None
    assert words.too_few("dice", 2, "test") == ("undecided", "dice has 2 test seeds; a verdict needs 3")
    assert words.too_few("dice", 1, "training") == ("undecided", "dice has 1 training seed; a verdict needs 3")


def test_no_number_of_the_evidence_is_a_signed_zero_or_loses_its_side_of_zero():
    tiny = words.signed(Interval(-6e-06, -0.35, 1e-20))
    assert tiny == "-6e-06\N{NO-BREAK SPACE}[-0.350,\N{NO-BREAK SPACE}0.000]"
    assert words.points(Interval(0.01, -0.001, -0.00001)).endswith("-0.001]")
