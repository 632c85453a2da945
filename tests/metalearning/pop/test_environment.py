"""A roll-out is what a plain loop over trajectory and policy does, for any number of problems side by side."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from optrepro.metalearning.pop import environment
from optrepro.metalearning.pop.environment import Rollout, roll_out
from optrepro.optimizers._pop_policy import Policy, PolicySettings, Trajectory
from optrepro.problems.functions.settings import PriorSettings
from optrepro.problems.functions.synthetic import SyntheticPrior

SMALL = PolicySettings(width=8, layers=2, heads=2, history=3, horizon=7)
BUDGET = 7
PRIOR = SyntheticPrior(
    PriorSettings(
        shares={"convex": 0.5, "sum": 0.5},
        features=8,
        length_scale=(0.2, 1.0),
        anisotropy=3.0,
        condition=100.0,
        amplitude=(0.05, 0.5),
        warp=2.0,
    )
)
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]

backbones = pytest.mark.parametrize("backbone", ["transformer", "gru"])


def policy(**changes: object) -> Policy:
    """A policy whose decisions depend on what it sees more than those of a fresh one do."""
    torch.manual_seed(0)
    made = Policy(replace(SMALL, **changes)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        made.head.weight.mul_(10)
    return made


def problems(rows: int = 5, dim: int = 2) -> tuple[Evaluate, Tensor]:
    start = torch.rand(rows, dim, generator=noise(1), dtype=torch.float64)
    return environment.of(PRIOR.sample(3, rows, dim)), start


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_equal(a: Rollout, b: Rollout) -> None:
    for name, expected in vars(b).items():
        torch.testing.assert_close(getattr(a, name), expected, rtol=0, atol=0, msg=name)


def test_equal_generators_give_equal_roll_outs_and_others_do_not() -> None:
    evaluate, start = problems()
    first = roll_out(policy(), evaluate, start, BUDGET, noise=noise())
    torch.manual_seed(99)
    assert_equal(roll_out(policy(), evaluate, start, BUDGET, noise=noise()), first)
    other = roll_out(policy(), evaluate, start, BUDGET, noise=noise(1))
    assert torch.equal(other.points[0], first.points[0])
    assert not torch.equal(other.points[1], first.points[1])


@backbones
def test_a_roll_out_without_noise_takes_the_mean_actions_of_the_policy_over_the_whole_past(backbone: str) -> None:
    decides, (evaluate, start) = policy(backbone=backbone), problems()
    trajectory, seen, values, points = Trajectory(decides.settings, start), [], [], []
    for _ in range(BUDGET):
        points.append(trajectory.u)
        value, gradient = evaluate(trajectory.u)
        values.append(value)
        seen.append(trajectory.observe(value, gradient))
        with torch.no_grad():
            mean, _ = decides(torch.stack(seen, 2).flatten(0, 1))
        trajectory.move(mean[:, -1].view_as(start).double())
    rollout = roll_out(decides, evaluate, start, BUDGET)
    torch.testing.assert_close(rollout.points, torch.stack(points), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rollout.values, torch.stack(values), rtol=1e-3, atol=1e-4)
    assert rollout.features is rollout.actions is rollout.log_probs is None


@backbones
def test_the_kept_probabilities_are_those_that_the_policy_gives_to_the_kept_actions(backbone: str) -> None:
    decides = policy(backbone=backbone)
    rollout = roll_out(decides, *problems(), BUDGET, noise=noise())
    assert rollout.features is not None
    assert rollout.actions is not None
    with torch.no_grad():
        mean, log_std = decides(rollout.features.flatten(0, 1))
    again = environment.log_prob(rollout.actions.flatten(0, 1), mean, log_std)
    torch.testing.assert_close(rollout.log_probs, again.view_as(rollout.actions), rtol=1e-4, atol=1e-4)


def test_actions_with_noise_are_spread_about_the_mean_as_the_policy_says() -> None:
    decides, (_, start) = policy(), problems()
    still = (torch.zeros(2000, dtype=torch.float64), torch.zeros(2000, 2, dtype=torch.float64))
    rollout = roll_out(decides, lambda u: still, start[:1].expand(2000, -1), 1, noise=noise())
    assert rollout.features is not None
    assert rollout.actions is not None
    with torch.no_grad():
        mean, log_std = decides(rollout.features[:1].flatten(0, 1))
    for coordinate in range(2):
        drawn = rollout.actions[:, coordinate, 0]
        spread = log_std[coordinate, 0].exp()
        assert abs(drawn.mean() - mean[coordinate, 0]) < 5 * spread / math.sqrt(2000)
        assert drawn.std() == pytest.approx(spread.item(), rel=0.1)


def test_problems_side_by_side_go_as_they_go_one_at_a_time() -> None:
    functions, (evaluate, start) = PRIOR.sample(3, 5, 2), problems()
    together = roll_out(policy(), evaluate, start, BUDGET)
    for i in range(5):
        alone = roll_out(policy(), environment.of(functions[i : i + 1]), start[i : i + 1], BUDGET)
        for name in ("values", "points", "rates"):
            expected = getattr(alone, name)[:, 0]
            torch.testing.assert_close(getattr(together, name)[:, i], expected, rtol=1e-4, atol=1e-5)


@backbones
@pytest.mark.parametrize("junk", [0.0, 1e3])
def test_padded_coordinates_change_nothing_and_stay_where_they_are(junk: float, backbone: str) -> None:
    narrow, start = problems(3, 2)
    wide, start_wide = problems(4, 3)

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = narrow(u[:3, :2])
        value_wide, gradient_wide = wide(u[3:])
        padded = torch.nn.functional.pad(gradient, (0, 1), value=junk)
        return torch.cat([value, value_wide]), torch.cat([padded, gradient_wide])

    padded = torch.nn.functional.pad(start, (0, 1), value=0.25)
    valid = torch.ones(7, 3, dtype=torch.bool)
    valid[:3, 2] = False
    decides = policy(backbone=backbone)
    together = roll_out(decides, evaluate, torch.cat([padded, start_wide]), BUDGET, valid)
    for rows, part, at, dim in ((slice(3), narrow, start, 2), (slice(3, None), wide, start_wide, 3)):
        alone = roll_out(decides, part, at, BUDGET)
        torch.testing.assert_close(together.values[:, rows], alone.values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.points[:, rows, :dim], alone.points, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.rates[:, rows, :dim], alone.rates, rtol=1e-4, atol=1e-5)
    assert (together.points[:, :3, 2] == 0.25).all()


def test_noise_and_padded_coordinates_are_refused_together() -> None:
    evaluate, start = problems()
    valid = torch.ones_like(start, dtype=torch.bool)
    valid[0, 1] = False
    with pytest.raises(ValueError, match="valid"):
        roll_out(policy(), evaluate, start, BUDGET, valid, noise())


def test_points_stay_in_the_box_and_rates_between_their_bounds_however_bold_the_policy() -> None:
    bold = policy()
    with torch.no_grad():
        bold.head.bias[0] = 3.0
    rollout = roll_out(bold, *problems(50), BUDGET, noise=noise())
    assert 0 <= rollout.points.min() < rollout.points.max() <= 1
    assert ((rollout.points == 0) | (rollout.points == 1)).any()  # it did try to leave
    assert rollout.rates.max() == SMALL.largest
    assert rollout.rates.min() >= SMALL.smallest


@pytest.mark.parametrize("budget", [1, 2, 12])
def test_the_budget_is_the_number_of_evaluations_and_each_of_them_is_kept(budget: int) -> None:
    inner, start = problems()
    evaluated: list[tuple[Tensor, Tensor]] = []

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = inner(u)
        evaluated.append((u, value))
        return value, gradient

    rollout = roll_out(policy(), evaluate, start, budget, noise=noise())
    assert len(evaluated) == budget
    assert torch.equal(rollout.points[0], start)
    for name, kept in zip(("points", "values"), zip(*evaluated, strict=True), strict=True):
        assert torch.equal(getattr(rollout, name), torch.stack(kept))
    assert rollout.rates.shape == (budget, *start.shape)
    assert rollout.features is not None
    assert rollout.features.shape == (*start.shape, budget, Trajectory.FEATURES)


def test_each_function_of_a_batch_is_evaluated_at_its_own_point() -> None:
    functions, (evaluate, start) = PRIOR.sample(3, 5, 2), problems()
    value, gradient = evaluate(start)
    for i in range(5):
        expected = functions[i : i + 1].value_and_gradient(start[None, i : i + 1])
        torch.testing.assert_close((value[i], gradient[i]), (expected[0][0, 0], expected[1][0, 0]))


def test_log_prob_and_entropy_are_those_of_the_normal_distribution() -> None:
    action, mean, log_std = torch.randn(3, 100, generator=noise(), dtype=torch.float64)
    normal = Normal(mean, log_std.exp())
    constant = math.log(2 * math.pi) / 2
    torch.testing.assert_close(environment.log_prob(action, mean, log_std) - constant, normal.log_prob(action))
    torch.testing.assert_close(log_std + environment.ENTROPY, normal.entropy())
