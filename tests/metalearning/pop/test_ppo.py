"""PPO against slow twins and closed forms, and a training that is over in seconds."""

import hashlib
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.metalearning.pop import environment, ppo
from optrepro.metalearning.pop.ppo import Episodes, Trainer, remaining
from optrepro.metalearning.pop.settings import PPOSettings
from optrepro.optimizers._pop_policy import Policy, PolicySettings, Trajectory
from optrepro.problems.functions import synthetic
from optrepro.problems.functions.settings import PriorSettings
from optrepro.problems.functions.synthetic import Functions, SyntheticPrior

TIME = 28  # column of the features that holds the share of the horizon that has passed, in [-1, 1]
SMALL = PolicySettings(width=8, layers=1, heads=2, history=4, horizon=8)
QUADRATICS = PriorSettings(
    shares={"convex": 1.0},
    features=1,
    length_scale=(0.5, 1.0),
    anisotropy=1.0,
    condition=10.0,
    amplitude=(1.0, 1.0),
    warp=0.0,
)
SETTINGS = PPOSettings(
    functions={2: 32},
    iterations=100,
    epochs=3,
    minibatches=2,
    learning_rate=0.003,
    max_grad_norm=0.5,
    discount=1.0,
    gae_lambda=0.95,
    clip_ratio=0.2,
    kl_limit=0.05,
    entropy=0.0,
    value_loss=0.5,
    improvement=1.0,
    log_regret=0.1,
    floor=1e-6,
)


class Recorder(SyntheticPrior):
    """Keeps the batches that it gave."""

    def __init__(self) -> None:
        super().__init__(QUADRATICS)
        self.batches: list[Functions] = []

    def sample(self, *arguments: Any, **named: Any) -> Functions:
        self.batches.append(super().sample(*arguments, **named))
        return self.batches[-1]


def trainer(seed: int = 0, source: SyntheticPrior | None = None, stage: int = 0, **changes: Any) -> Trainer:
    settings = SETTINGS.model_copy(update=changes)
    return Trainer(settings, SMALL, source or SyntheticPrior(QUADRATICS), seed, stage=stage)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(of: Trainer) -> list[Tensor]:
    return [p.detach().clone() for network in (of.policy, of.critic) for p in network.parameters()]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# Rewards


def made_up_values() -> tuple[Tensor, Tensor]:
    """Values (T, N) of runs that go up and down, and the minimum of each function."""
    values = 3 + torch.randn(9, 20, generator=generator(), dtype=torch.float64)
    return values, values.amin(0) - torch.rand(20, generator=generator(1), dtype=torch.float64)


def rewards(of: Trainer, values: Tensor, minimum: Tensor) -> Tensor:
    return of._rewards(remaining(values, minimum))


@pytest.mark.parametrize("weights_of_reward", [(1.0, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_rewards_of_an_episode_sum_to_the_worth_of_its_end_less_that_of_its_start(
    weights_of_reward: tuple[float, float],
) -> None:
    improvement, log_regret = weights_of_reward
    values, minimum = made_up_values()
    left = (values.amin(0) - minimum) / (values[0] - minimum)
    expected = improvement * (1 - left) - log_regret * left.log10()
    total = rewards(trainer(improvement=improvement, log_regret=log_regret), values, minimum).sum(1)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)


def test_an_evaluation_that_finds_nothing_better_earns_nothing_and_one_that_does_earns_something() -> None:
    values, minimum = made_up_values()
    better = values[1:] < values.cummin(0).values[:-1]
    assert torch.equal(rewards(trainer(), values, minimum).T > 0, better)
    assert (rewards(trainer(), values, minimum) >= 0).all()


def test_a_terminal_reward_is_the_same_sum_at_the_last_action_alone() -> None:
    values, minimum = made_up_values()
    spread, terminal = (rewards(trainer(terminal=end), values, minimum) for end in (False, True))
    assert terminal.shape == spread.shape == (20, 8)
    assert not terminal[:, :-1].any()
    torch.testing.assert_close(terminal[:, -1], spread.sum(1))


@pytest.mark.parametrize(("a", "b"), [(1e-8, 0.0), (1e8, 0.0), (3.0, -40.0), (0.5, 1e3)])
def test_scaling_and_shifting_the_function_changes_no_reward(a: float, b: float) -> None:
    values, minimum = made_up_values()
    changed = rewards(trainer(), a * values + b, a * minimum + b)
    torch.testing.assert_close(changed, rewards(trainer(), values, minimum), rtol=1e-5, atol=1e-6)


def test_progress_below_the_floor_earns_nothing() -> None:
    values = torch.tensor([[1.0], [1e-6], [1e-9], [0.0]], dtype=torch.float64)
    got = rewards(trainer(floor=1e-6), values, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([[1 - 1e-6 + 0.6, 0.0, 0.0]]))


def test_a_run_below_the_estimated_minimum_has_found_the_minimum() -> None:
    values = torch.tensor([[1.0], [0.25], [-1.0]], dtype=torch.float64)
    left = remaining(values, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(left, torch.tensor([[1.0], [0.625], [0.0]], dtype=torch.float64))


def test_below_what_values_are_rounded_by_all_regrets_are_alike() -> None:
    values = torch.tensor([[1.0], [1e-14], [0.0]], dtype=torch.float64)
    zero, rounding = torch.zeros(1, dtype=torch.float64), torch.tensor([1e-12], dtype=torch.float64)
    left = remaining(values, zero, rounding)
    torch.testing.assert_close(left[1:], torch.full((2, 1), 1e-12, dtype=torch.float64), rtol=0.02, atol=0)
    assert remaining(values, zero, zero)[-1] == 0


def test_a_start_at_the_minimum_gives_finite_rewards() -> None:
    values = torch.zeros(4, 1, dtype=torch.float64)
    assert rewards(trainer(), values, values[0]).isfinite().all()


# Advantages


@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("discount", [0.8, 1.0])
def test_advantages_equal_those_of_a_plain_loop(discount: float, gae_lambda: float) -> None:
    r = torch.randn(4, 6, generator=generator())
    v = torch.randn(4, 7, generator=generator(1))
    got = trainer(discount=discount, gae_lambda=gae_lambda)._advantages(r, v)
    for n in range(4):
        for t in range(6):
            expected = 0.0
            for k in range(t, 6):
                after = v[n, k + 1].item() if k < 5 else 0.0  # nothing is earned after the last evaluation
                error = r[n, k].item() + discount * after - v[n, k].item()
                expected += (discount * gae_lambda) ** (k - t) * error
            assert got[n, t].item() == pytest.approx(expected, abs=1e-5)


def test_with_lambda_1_the_advantage_is_the_discounted_return_less_the_value() -> None:
    r, v = torch.randn(4, 6, generator=generator()), torch.randn(4, 7, generator=generator(1))
    got = trainer(discount=0.9, gae_lambda=1.0)._advantages(r, v)
    returns = [sum(0.9 ** (k - t) * r[:, k] for k in range(t, 6)) for t in range(6)]
    torch.testing.assert_close(got, torch.stack(returns, 1) - v[:, :-1])  # type: ignore[arg-type]


# The update


def test_the_learning_rate_rises_and_then_falls_to_the_rest_that_is_left() -> None:
    made = trainer(iterations=200)
    rates = []
    for made.iteration in range(200):
        rates.append(made._learning_rate() / SETTINGS.learning_rate)
    assert rates[0] == pytest.approx(1 / ppo.WARM_UP)
    peak = rates.index(max(rates))
    assert ppo.WARM_UP - 1 <= peak < 2 * ppo.WARM_UP
    assert 0.9 < rates[peak] <= 1
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[100] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(ppo.LAST_RATE)


def test_an_iteration_learns_at_the_rate_that_it_reports() -> None:
    made = trainer()
    told = [made.iterate()["learning_rate"] for _ in range(2)]
    assert told == pytest.approx([0.0003, 0.0006])
    assert made.optimizer.param_groups[0]["lr"] == told[-1]


def lesson(policy: Policy, advantage: Tensor | float = 1.0, log_ratio: float = 0.0) -> Episodes:
    """40 runs of 3 actions in 2 coordinates; actions above the mean have `advantage`, those below its opposite.

    `log_ratio` is how much more probable the actions are now than they were.
    """
    features = torch.randn(40, 2, 3, Trajectory.FEATURES, generator=generator())
    with torch.no_grad():
        mean, log_std = (t.view(40, 2, 3) for t in policy(features.flatten(0, 1)))
    above = torch.where(torch.arange(40) % 2 == 0, 1.0, -1.0)[:, None]
    actions = mean + above[..., None] * log_std.exp()
    zeros = torch.zeros(40, 3)
    return Episodes(
        features=features,
        actions=actions,
        log_probs=environment.log_prob(actions, mean, log_std) - log_ratio,
        privileged=torch.zeros(40, 3, 5),
        advantages=above * advantage + zeros,
        targets=zeros,
        values=zeros,
    )


def probabilities(policy: Policy, episodes: Episodes) -> Tensor:
    with torch.no_grad():
        mean, log_std = policy(episodes.features.flatten(0, 1))
    return environment.log_prob(episodes.actions, mean.view(40, 2, 3), log_std.view(40, 2, 3))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_an_update_makes_actions_of_positive_advantage_more_probable_and_others_less(advantage: float) -> None:
    made = trainer()
    episodes = lesson(made.policy, advantage)
    for _ in range(3):
        made._step([episodes])
    change = (probabilities(made.policy, episodes) - episodes.log_probs).mean((1, 2))
    good = episodes.advantages[:, 0] > 0
    assert change[good].mean() > 0 > change[~good].mean()


def test_the_policy_stands_still_where_all_ratios_are_clipped() -> None:
    made = trainer()
    before = weights(made)[: len(list(made.policy.parameters()))]
    episodes = lesson(made.policy, log_ratio=math.log(1.5))
    update = made._step([replace(episodes, advantages=episodes.advantages.abs())])
    assert update.clip_fraction == 1
    assert_equal([p.detach() for p in made.policy.parameters()], before)


def test_the_clip_does_not_stop_an_action_of_negative_advantage_that_became_more_probable() -> None:
    made = trainer()
    episodes = lesson(made.policy, log_ratio=math.log(1.5))
    episodes = replace(episodes, advantages=-episodes.advantages.abs())
    before = probabilities(made.policy, episodes)
    made._step([episodes])
    assert (probabilities(made.policy, episodes) - before).mean() < 0


def test_the_ratios_begin_at_1() -> None:
    made = trainer()
    episodes = made._episodes(2, 32, SMALL.horizon).episodes
    update = made._step([episodes])
    assert update.approx_kl == pytest.approx(0, abs=1e-6)
    assert update.clip_fraction == 0


@pytest.mark.parametrize(("limit", "epochs"), [(1e-12, 1), (1e12, 3)])
def test_no_epoch_follows_one_that_ends_beyond_the_divergence_limit(limit: float, epochs: int) -> None:
    made = trainer(kl_limit=limit)
    made.iterate()
    taken = {int(state["step"]) for state in made.optimizer.state.values()}
    assert taken == {epochs * SETTINGS.minibatches}


def test_advantages_of_an_iteration_are_normalized_within_each_dimension() -> None:
    made = trainer()
    for dim in (2, 4):
        advantages = made._episodes(dim, 16, SMALL.horizon).episodes.advantages
        assert advantages.mean().item() == pytest.approx(0, abs=1e-5)
        assert advantages.std().item() == pytest.approx(1, rel=1e-4)


def test_what_only_the_critic_sees_leaves_the_policys_update_alone() -> None:
    made, other = trainer(), trainer()
    episodes = lesson(made.policy)
    made._step([episodes])
    other._step([replace(episodes, privileged=torch.ones(40, 3, 5), targets=torch.full((40, 3), 0.3))])
    assert_equal(list(made.policy.parameters()), list(other.policy.parameters()))
    assert not torch.equal(weights(made)[-1], weights(other)[-1])


# Iterations


def test_equal_seeds_give_equal_iterations_whatever_else_was_drawn() -> None:
    a, b, other = trainer(), trainer(), trainer(seed=1)
    for i in range(2):
        told = a.iterate()
        torch.manual_seed(i)
        assert b.iterate() == told
        assert other.iterate() != told
    assert_equal(weights(a), weights(b))


def test_neither_a_trainer_nor_an_iteration_touches_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    trainer().iterate()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("second", ["momentum", "best"])
def test_a_policy_with_a_second_output_learns_both(second: str) -> None:
    made = Trainer(SETTINGS, replace(SMALL, second=second), SyntheticPrior(QUADRATICS), 0)  # type: ignore[arg-type]
    episodes = made._episodes(2, 32, SMALL.horizon).episodes
    assert episodes.actions.shape == (32, 2, 7, 2)
    assert episodes.log_probs.shape == (32, 2, 7)
    update = made._step([episodes])
    assert update.approx_kl == pytest.approx(0, abs=1e-6)
    assert update.entropy == pytest.approx(2 * (-1.8 + environment.ENTROPY), abs=0.2)
    before = made.policy.head.weight.detach().clone()
    made.iterate()
    assert ((made.policy.head.weight - before).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    "changes",
    [{}, {"averaging": 0.9, "kl_target": 1e-4, "horizons": (4, 16), "entropy_target": (-1, -2), "entropy": 0.01}],
)
def test_a_fresh_trainer_goes_on_bit_for_bit_from_a_saved_state(changes: dict[str, Any]) -> None:
    expected = trainer(**changes)
    told = [expected.iterate() for _ in range(4)]
    stopped = trainer(**changes)
    assert [stopped.iterate() for _ in range(2)] == told[:2]
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = trainer(**changes)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.functions_seen == stopped.functions_seen > 0
    assert [resumed.iterate() for _ in range(2)] == told[2:]
    assert_equal(weights(resumed), weights(expected))
    assert_equal(list(resumed.averaged.parameters()), list(expected.averaged.parameters()))


def test_a_stage_sees_functions_that_no_other_stage_saw() -> None:
    seen = []
    for stage in range(3):
        source = Recorder()
        made = trainer(source=source, stage=stage)
        for _ in range(2):
            made.iterate()
        seen += [batch.center for batch in source.batches]
    assert len(torch.cat(seen).unique(dim=0)) == 3 * 2 * 32


def test_the_first_stage_draws_what_a_training_without_stages_drew() -> None:
    digest = hashlib.sha256(b"0/0/functions/2").digest()
    assert trainer()._generator("functions", 2).initial_seed() == int.from_bytes(digest[:8], "big") >> 1


@pytest.mark.parametrize("averaging", [0.0, 0.5, 0.9])
def test_the_averaged_weights_are_a_mean_that_forgets(averaging: float) -> None:
    """First a plain mean, of as many iterations as the memory holds; then each new one has its fixed share."""
    made = trainer(averaging=averaging)
    expected: list[Tensor] = []
    for i in range(1, 5):
        made.iterate()
        keep = min(averaging, 1 - 1 / i)
        now = [p.detach().clone() for p in made.policy.parameters()]
        expected = [keep * mean + (1 - keep) * p for mean, p in zip(expected or now, now, strict=True)]
        torch.testing.assert_close(list(made.averaged.parameters()), expected)
    if averaging == 0:
        assert_equal(list(made.averaged.parameters()), list(made.policy.parameters()))


def test_a_training_begins_with_the_weights_that_it_is_given() -> None:
    given = trainer(seed=5).policy
    made = trainer()
    made.begin_with(given)
    assert_equal(list(made.policy.parameters()), list(given.parameters()))
    assert_equal(list(made.averaged.parameters()), list(given.parameters()))


def test_an_output_that_the_given_policy_lacks_begins_at_zero_with_little_noise() -> None:
    given = trainer(seed=5).policy
    made = Trainer(SETTINGS, replace(SMALL, second="momentum"), SyntheticPrior(QUADRATICS), seed=0)
    made.begin_with(given)
    features = torch.randn(6, 4, Trajectory.FEATURES, generator=torch.Generator().manual_seed(1))
    before, after = given(features), made.policy(features)
    for old, new, added in zip(before, after, (0.0, ppo.QUIET), strict=True):
        torch.testing.assert_close(new[..., 0], old)
        assert_equal(new[..., 1], torch.full_like(old, added))
    assert_equal(list(made.averaged.parameters()), list(made.policy.parameters()))


def test_horizons_cover_their_range_evenly_in_the_logarithm() -> None:
    made = trainer(horizons=(4, 64))
    drawn = []
    for made.iteration in range(400):
        drawn.append(made._horizon())
    assert min(drawn) == 4
    assert max(drawn) >= 60
    assert sum(h < 16 for h in drawn) / 400 == pytest.approx(0.5, abs=0.1)
    assert drawn[:5] == [trainer(horizons=(4, 64))._horizon(), *drawn[1:5]]


def test_an_iteration_takes_as_many_evaluations_whatever_its_horizon() -> None:
    source = Recorder()
    made = trainer(source=source, functions={2: 32, 3: 16}, horizons=(4, 16))
    for _ in range(6):
        horizon, before = made._horizon(), len(source.batches)
        made.iterate()
        for batch, count in zip(source.batches[before:], (32, 16), strict=True):
            assert len(batch) * horizon == pytest.approx(count * SMALL.horizon, abs=horizon / 2)
    assert made.functions_seen == sum(map(len, source.batches))


def test_the_policy_is_told_the_horizon_of_its_run() -> None:
    episodes = trainer(horizons=(16, 16))._episodes(2, 4, 16).episodes
    time = episodes.features[0, 0, :, TIME]
    torch.testing.assert_close(time, torch.arange(15) / 8 - 1)


def test_the_learning_rate_yields_to_divergence_and_comes_back() -> None:
    made = trainer(kl_target=0.01)
    for divergence, expected in ((0.03, 1 / 1.2), (0.03, 1 / 1.44), (0.012, 1 / 1.44), (0.001, 1 / 1.2), (0.0, 1.0)):
        made._adapt_learning_rate(divergence)
        assert made.caution == pytest.approx(expected)
    made._adapt_learning_rate(0.0)
    assert made.caution == 1
    for _ in range(100):
        made._adapt_learning_rate(1.0)
    assert made._learning_rate() == pytest.approx(ppo.LEAST_CAUTION * SETTINGS.learning_rate / ppo.WARM_UP)


def test_the_bonus_rises_while_there_is_too_little_noise_and_falls_while_there_is_too_much() -> None:
    made = trainer(entropy=0.01, entropy_target=(-1.0, -3.0))
    for iteration, entropy, expected in ((0, -1.1, 0.011), (50, -1.9, 0.01), (50, -2.1, 0.011), (100, -2.9, 0.01)):
        made.iteration = iteration
        made._adapt_entropy_bonus(entropy)
        assert made.bonus == pytest.approx(expected)
    for _ in range(100):
        made._adapt_entropy_bonus(-9.0)
    assert made.bonus == ppo.BONUSES[1]
    for _ in range(200):
        made._adapt_entropy_bonus(0.0)
    assert made.bonus == ppo.BONUSES[0]


def test_without_a_target_divergence_changes_no_rate() -> None:
    made = trainer()
    made._adapt_learning_rate(1e3)
    made._adapt_entropy_bonus(-1e3)
    assert (made.caution, made.bonus) == (1, SETTINGS.entropy)


def test_no_function_is_seen_twice_and_functions_seen_counts_them() -> None:
    source = Recorder()
    made = trainer(source=source, functions={2: 8, 3: 4}, iterations=3)
    seen = []
    while not made.done:
        seen.append(made.functions_seen)
        made.iterate()
    assert seen == [0, 12, 24]
    assert made.functions_seen == 36
    assert [(len(batch), batch.dim) for batch in source.batches] == [(8, 2), (4, 3)] * 3
    for dim, count in ((2, 24), (3, 12)):
        centers = torch.cat([batch.center for batch in source.batches if batch.dim == dim])
        assert len(centers.unique(dim=0)) == count


def test_trainings_of_equal_seeds_see_equal_functions_whatever_their_reward() -> None:
    batches = []
    for terminal in (False, True):
        source = Recorder()
        made = trainer(source=source, terminal=terminal)
        for _ in range(2):
            made.iterate()
        batches.append([batch.center for batch in source.batches])
    assert_equal(*batches)


def test_the_critic_learns_to_tell_what_is_still_to_come() -> None:
    made = trainer()
    told = [made.iterate()["explained_variance"] for _ in range(15)]
    assert sum(told[-3:]) / 3 > sum(told[:3]) / 3 + 0.2
    assert max(told) <= 1


def test_a_short_training_improves_the_return_and_the_mean_actions() -> None:
    made = trainer(iterations=30)
    functions = SyntheticPrior(QUADRATICS).sample(5, 256, 2)
    start = torch.rand(256, 2, generator=generator(5), dtype=torch.float64)

    def left() -> float:
        values = environment.roll_out(made.policy, environment.of(functions), start, SMALL.horizon).values
        return remaining(values, synthetic.extrema(functions).minimum).amin(0).log10().mean().item()

    before = left()
    told = []
    while not made.done:
        told.append(made.iterate())
    returns = [t["return"] for t in told]
    assert sum(returns[-3:]) / 3 > returns[0] + 0.1
    assert left() < before - 0.3
    assert all(math.isfinite(value) for t in told for value in t.values())
