import numpy as np
import pandas as pd
import pytest

from optrepro.analysis.gap import families


def test_each_family_is_drawn_at_the_power_that_its_tuning_starts_prefer(families_study):
    shown = families.shown_powers(families_study())
    assert shown["families/ellipse", "frobenius"] == 0.1
    assert shown["families/ellipse", "spectral"] == 1.0


def test_members_are_drawn_at_one_power_that_suits_the_random_ones_best(families_study):
    shown = families.shown_powers(families_study())
    assert {shown["members/ellipse", key] for key in ("frobenius", "identity", "random")} == {0.1}


def test_curves_hold_median_quartiles_and_the_share_ahead(families_study):
    table = families.curves(families_study(ahead=0.25))
    row = table.query("kind == 'members' and optimizer == 'random' and power == 1.0 and step == 20").squeeze()
    assert (row["median"], row.lower, row.upper, row.ahead) == pytest.approx((0.1, 0.05, 0.2, 0.25))
    assert set(table.toy) == {"ellipse", "saddle"}
    assert table.groupby(["kind", "toy", "optimizer"]).shown.any().all()


def test_final_gaps_are_those_at_the_power_and_the_schedule_that_are_best_for_each_family(families_study):
    shrinking = {("families-decayed/ellipse", "spectral"): {0.1: 1e-7, 1.0: 1e-2}}
    gaps = families.final_gaps(families_study(shrinking), "ellipse")
    assert gaps.shape == (16, 2)
    assert gaps.median()["frobenius"] == pytest.approx(1e-5)
    assert gaps.median()["spectral"] == pytest.approx(1e-7)


def test_each_random_member_has_a_curve_at_the_power_of_the_figure(families_study):
    table = families.members(families_study())
    assert set(table.toy) == {"ellipse"}
    last = table[table.step == 20].set_index("member")["median"]
    assert last.to_dict() == pytest.approx({0: 0.01, 1: 0.02, 2: 0.03})


def test_sign_test_counts_starts_and_leaves_ties_out():
    gaps = pd.DataFrame({"a": [1.0, 1.0, 1.0, 1.0, np.inf], "b": [2.0, 2.0, 2.0, 2.0, np.inf]})
    share, p = families.sign_test(gaps, "a", "b")
    assert share == 1.0
    assert p == pytest.approx(2 / 2**4)
    assert families.sign_test(gaps, "a", "a") == (0.5, 1.0)
