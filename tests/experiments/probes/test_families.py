from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from optrepro.experiments.base import tidy
from optrepro.experiments.probes import families
from optrepro.experiments.probes.families import FAMILIES, MATCHES, descend, match, measure
from optrepro.problems.functions import toys

SETTINGS = {
    "member_toys": ["ellipse", "valley"],
    "family_toys": ["ellipse", "saddle"],
    "powers": [0.1, 0.5],
    "decay": 0.9,
    "members": 8,
    "tuning_starts": 4,
    "starts": 16,
    "steps": 40,
    "points": 9,
}


def settings(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**(SETTINGS | changes))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return measure(settings(), seed=1)


def some_starts(toy: str = "ellipse") -> torch.Tensor:
    return toys.get(toy).starts(5, torch.Generator().manual_seed(0))


def test_a_fixed_operator_descends_as_written_by_hand() -> None:
    toy, x = toys.get("valley"), some_starts("valley")
    operator = torch.tensor([[2e-3, 1e-3], [1e-3, 3e-3]], dtype=torch.float64)
    values = descend(toy, x, lambda _: operator, steps=3, decay=0.9)
    for value in values:
        torch.testing.assert_close(value, toy(x))
        x = x - torch.func.vmap(torch.func.grad(toy.formula))(x) @ operator


def test_sigma_is_the_weighted_mean_of_the_outer_products_along_the_run() -> None:
    toy, x = toys.get("ellipse"), some_starts()
    seen = []

    def operator(sigma: torch.Tensor) -> torch.Tensor:
        seen.append(sigma)
        return 0.01 * torch.eye(2, dtype=torch.float64).expand_as(sigma)

    descend(toy, x, operator, steps=2, decay=0.5)
    outer = []
    for _ in range(3):
        gradient = torch.func.vmap(torch.func.grad(toy.formula))(x)
        outer.append(gradient[:, :, None] * gradient[:, None, :])
        x = x - 0.01 * gradient
    torch.testing.assert_close(seen[2], (0.25 * outer[0] + 0.5 * outer[1] + outer[2]) / 1.75)


def test_without_memory_the_frobenius_family_is_gradient_descent_and_lyapunov_takes_unit_steps() -> None:
    toy, x = toys.get("ellipse"), some_starts()
    frobenius = descend(toy, x, lambda s: 0.02 * FAMILIES["frobenius"](s), steps=20, decay=0.0)
    plain = descend(toy, x, lambda s: 0.02 * torch.eye(2, dtype=torch.float64).expand_as(s), steps=20, decay=0.0)
    torch.testing.assert_close(frobenius, plain)

    gradient = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = FAMILIES["lyapunov"](gradient[:, :, None] * gradient[:, None, :]) @ gradient[:, :, None]
    torch.testing.assert_close(step.squeeze(-1).norm(dim=-1), torch.ones(6, dtype=torch.float64))


def test_steps_that_shrink_reach_a_minimum_that_steps_of_fixed_length_circle() -> None:
    toy, x = toys.get("ellipse"), some_starts()
    steps = {
        shrinking: descend(toy, x, lambda s: 0.05 * FAMILIES["lyapunov"](s), 200, 0.0, shrinking)
        for shrinking in (False, True)
    }
    torch.testing.assert_close(steps[True][1], steps[False][1])
    assert (steps[True][-1] < 1e-2 * steps[False][-1]).all()


def test_the_diagonal_family_is_adams_rate_per_coordinate_also_for_zero_gradients() -> None:
    sigma = torch.diag_embed(torch.tensor([[4.0, 0.25], [1.0, 0.0]], dtype=torch.float64))
    q = FAMILIES["diagonal"](sigma).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(q[0], torch.tensor([0.5, 2.0], dtype=torch.float64))
    torch.testing.assert_close(q[1], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert not FAMILIES["diagonal"](torch.zeros(2, 2, dtype=torch.float64)).any()


@pytest.mark.parametrize("size", [size for size, _ in MATCHES.values()], ids=MATCHES.keys())
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_scaled_to_the_size_of_the_frobenius_family(name: str, size: families.Size) -> None:
    factor = torch.randn(2, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    sigma = factor @ factor.mT
    scaled = match(size, FAMILIES[name], sigma) * FAMILIES[name](sigma)
    torch.testing.assert_close(size(scaled, sigma), size(FAMILIES["frobenius"](sigma), sigma))


def test_a_run_that_diverges_stays_infinite_and_is_counted() -> None:
    values = descend(
        toys.get("bowl"), some_starts(), lambda s: 50 * torch.eye(2, dtype=torch.float64).expand_as(s), 60, 0.9
    )
    assert values[0].isfinite().all()
    assert values[-1].isinf().all()
    diverging = measure(settings(member_toys=["bowl"], family_toys=[], powers=[0.1, 50.0]), seed=1)
    shares = diverging[(diverging.metric == "diverged") & (diverging.optimizer == "identity")]
    assert shares.set_index("learning_rate").value.to_dict() == {0.1: 0.0, 50.0: 1.0}
    assert not diverging.value.isna().any()


def test_a_run_that_left_once_never_counts_as_finite_again() -> None:
    calls = []

    def leave_at_the_second_step(sigma: torch.Tensor) -> torch.Tensor:
        calls.append(sigma)
        return (1e9 if len(calls) == 2 else 0.0) * torch.eye(2, dtype=torch.float64).expand_as(sigma)

    values = descend(toys.get("bowl"), some_starts(), leave_at_the_second_step, steps=4, decay=0.9)
    assert values[:, 0].isinf().tolist() == [False, False, True, True, True]


def test_the_table_is_tidy_and_equal_seeds_give_equal_bytes(table: pd.DataFrame, tmp_path: Path) -> None:
    tidy.write(table, tmp_path / "first.parquet")
    tidy.write(measure(settings(), seed=1), tmp_path / "second.parquet")
    tidy.write(measure(settings(), seed=2), tmp_path / "other.parquet")
    first, second, other = ((tmp_path / f"{name}.parquet").read_bytes() for name in ("first", "second", "other"))
    assert first == second != other
    assert not table.duplicated(["run", "seed", "step", "metric"]).any()
    assert table.value.notna().all()


def test_every_panel_has_its_optimizers_at_every_power(table: pd.DataFrame) -> None:
    panels = table[table.role == "test"].groupby("workload").optimizer.unique().map(set).to_dict()
    members, all_families = {"frobenius", "identity", "random"}, set(FAMILIES)
    assert panels == {
        "members/ellipse": members,
        "members/valley": members,
        "families/ellipse": all_families,
        "families/saddle": all_families,
        **{f"families-{kind}/{toy}": all_families for kind in ("decayed", "norm") for toy in ("ellipse", "saddle")},
    }
    curves = table[(table.metric == "gap_median") & (table.role == "test")]
    assert set(curves.groupby(["workload", "optimizer", "learning_rate"]).size()) == {9}
    assert set(curves.step) == set(range(0, 41, 5))


def test_all_optimizers_of_a_toy_share_their_starts_and_tuning_has_its_own(table: pd.DataFrame) -> None:
    first = table[(table.metric == "gap_upper") & (table.step == 0) & table.workload.str.endswith("ellipse")]
    assert first[first.optimizer != "random"].value.nunique() == 1
    tuned = measure(settings(tuning_starts=16, steps=1, powers=[1e-9]), seed=1)
    medians = tuned[(tuned.metric == "gap_median") & (tuned.workload == "families/ellipse") & (tuned.step == 1)]
    assert medians[medians.role == "tune"].value.min() != pytest.approx(medians[medians.role == "test"].value.min())


def test_quartiles_are_those_of_the_final_gaps(table: pd.DataFrame) -> None:
    key = ["workload", "optimizer", "learning_rate"]
    plain = table[(table.optimizer != "random") & (table.role == "test") & (table.step == 40)]
    final = plain[plain.metric == "final_gap"].groupby(key).value
    for metric, rank in (("gap_lower", 4), ("gap_median", 8), ("gap_upper", 11)):
        recorded = plain[plain.metric == metric].set_index(key).value
        pd.testing.assert_series_equal(recorded.sort_index(), final.apply(lambda g, k=rank: g.sort_values().iloc[k]))
    assert set(final.size()) == {16}


def test_no_random_member_is_ahead_of_the_optimal_one_early_and_at_a_small_budget(table: pd.DataFrame) -> None:
    ahead = table[(table.metric == "share_ahead") & (table.learning_rate == 0.1) & table.step.between(1, 20)]
    assert set(ahead.workload) == {"members/ellipse", "members/valley"}
    assert (ahead.value == 0).all()


def test_share_ahead_counts_members_with_a_lower_median() -> None:
    # a single start and a budget beyond stability for the optimal member's one-sided operator: some members are ahead
    few = measure(settings(member_toys=["ellipse"], family_toys=[], powers=[1.5], starts=1, members=64), seed=3)
    ahead = few[(few.metric == "share_ahead") & (few.step == 40)].value.item()
    assert 0 < ahead < 1
    few = few[(few.role == "test") & (few.metric != "member_median")]
    random = few[(few.optimizer == "random") & (few.step == 40)].set_index("metric").value
    optimal = few[(few.optimizer == "frobenius") & (few.step == 40)].set_index("metric").value
    # with one start the pooled quartiles are those over the members, and so is the final gap of that start
    assert random.final_gap == random.gap_median
    assert (random.gap_median < optimal.gap_median) == (ahead > 0.5)


def test_a_panel_does_not_depend_on_the_others(table: pd.DataFrame) -> None:
    alone = measure(settings(member_toys=[], family_toys=["saddle"]), seed=1)
    within = table[table.workload.str.endswith("/saddle")]
    pd.testing.assert_frame_equal(alone, within.reset_index(drop=True))


def test_run_names_the_study_and_reports_progress() -> None:
    calls = []
    context = SimpleNamespace(seed=1, progress=lambda *call: calls.append(call))
    small = settings(member_toys=["bowl"], family_toys=[], starts=2, members=2, steps=2, points=2)
    result = families.run(small, SimpleNamespace(study="gap-families"), context)
    assert set(result.study) == {"gap-families"}
    assert calls == [(0, 1, "bowl"), (1, 1, "done")]


def test_an_unknown_toy_is_named() -> None:
    with pytest.raises(ValueError, match="toy = 'canyon'"):
        measure(settings(member_toys=["canyon"]), seed=1)
