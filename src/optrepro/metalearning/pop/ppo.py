"""Proximal policy optimization of POP's policy, on functions streamed from the prior.

Each iteration samples new functions, lets the policy optimize them with noise on its actions, and takes a few epochs of
clipped policy-gradient steps. The policy acts on each coordinate independently: the coordinates of a function share
reward and advantage, and each has its own probability ratio.

The reward of an evaluation is its progress in

    - improvement * r  -  log_regret * log10 r,   r = (f_best - f*) / (f(x0) - f*), at least `floor`,

which does not change under f -> a f + b. The minimum f* is an estimate, lowered by the rounding of values. It is used
only in training, for the reward and the inputs of the critic, and is never an input of the policy.

Source: J. Schulman et al., Proximal Policy Optimization Algorithms, arXiv 1707.06347. arXiv 2602.15473 uses PPO with
a reward that it does not publish; the reward here is chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optrepro.metalearning.pop import environment
from optrepro.metalearning.pop.settings import PPOSettings
from optrepro.optimizers._pop_policy import FIRST_LOG_STD, Policy, PolicySettings, Trajectory
from optrepro.problems.functions import synthetic
from optrepro.problems.functions.synthetic import SyntheticPrior

CANDIDATES, REFINEMENTS = 4, 8  # effort of the search for the minimum; small, because better runs correct it
WARM_UP = 10  # iterations over which the learning rate rises
CAUTION, LEAST_CAUTION = 1.2, 0.01  # change per iteration of the adapted learning-rate factor, and its smallest value
BONUS, BONUSES = 1.1, (1e-4, 0.1)  # change per iteration of the adapted entropy weight, and its bounds
QUIET = -4.0  # log standard deviation of an output that is added to a trained policy
LAST_RATE = 0.02  # fraction of the learning rate at the end of its linear decay


@dataclass(frozen=True)
class Episodes:
    """Training data of an iteration: N functions of D coordinates, with A = horizon - 1 actions each.

    Attributes:
        features: inputs of the policy, (N, D, A, FEATURES).
        actions, log_probs: actions (N, D, A), or (N, D, A, 2) for two outputs, and their log densities (N, D, A).
        privileged: inputs of the critic only, (N, A, PRIVILEGED).
        advantages: normalized advantages of the actions, (N, A).
        targets: targets of the critic, (N, A).
        values: predictions of the critic, (N, A).
    """

    features: Tensor
    actions: Tensor
    log_probs: Tensor
    privileged: Tensor
    advantages: Tensor
    targets: Tensor
    values: Tensor


class Update(NamedTuple):
    """Diagnostics of one gradient step, scalars (); the names are those of the PPO literature."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor  # nats per action
    approx_kl: Tensor  # KL from the policy that acted, estimated by the mean of ratio - 1 - log ratio
    clip_fraction: Tensor


class Critic(nn.Module):
    """Predicts the future reward from the policy's features, averaged over coordinates, and from the regret."""

    PRIVILEGED = 5

    def __init__(self, width: int = 64):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(Trajectory.FEATURES, width), nn.ReLU())
        self.all = nn.Sequential(
            nn.Linear(width + self.PRIVILEGED, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, features: Tensor, privileged: Tensor) -> Tensor:
        """Map (N, D, T, FEATURES) and (N, T, PRIVILEGED) to values (N, T)."""
        value: Tensor = self.all(torch.cat([self.each(features).mean(1), privileged], -1))
        return value.squeeze(-1)


class Trainer:
    """Trains the policy by PPO, one iteration per call. Random numbers depend only on seed, stage and iteration.

    Args:
        settings: settings of PPO.
        policy: settings of the policy to train.
        source: prior that the functions are sampled from.
        seed: seed of weights, functions, starts and actions.
        device: device of the training.
        stage: number of earlier trainings that this one continues; each stage draws its own functions, starts and
            actions.
    """

    def __init__(
        self,
        settings: PPOSettings,
        policy: PolicySettings,
        source: SyntheticPrior,
        seed: int,
        device: torch.device | str = "cpu",
        stage: int = 0,
    ):
        self.settings, self.source, self.seed, self.device = settings, source, seed, torch.device(device)
        self.stage = stage
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.policy, self.critic = Policy(policy).to(device), Critic().to(device)
        self.optimizer = torch.optim.Adam([*self.policy.parameters(), *self.critic.parameters()], eps=1e-5)
        self.averaged = deepcopy(self.policy).requires_grad_(False)
        self.iteration, self.functions_seen, self.caution, self.bonus = 0, 0, 1.0, settings.entropy

    def begin_with(self, policy: Policy) -> None:
        """Start from the weights of another policy; an output that it lacks begins at 0, with little noise."""
        given, weights = policy.state_dict(), self.policy.state_dict()
        for name, mine in weights.items():
            known = given[name]
            mine[: len(known)] = known
            mine[len(known) :] = 0
        more = self.policy.settings.outputs - policy.settings.outputs
        if more > 0:
            weights["head.bias"][2 * policy.settings.outputs + 1 :: 2] = QUIET - FIRST_LOG_STD
        for network in (self.policy, self.averaged):
            network.load_state_dict(weights)

    @property
    def done(self) -> bool:
        """Whether all iterations are done."""
        return self.iteration >= self.settings.iterations

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on."""
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        return {**parts, **{name: getattr(self, name) for name in self._NUMBERS}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name in self._NUMBERS:
            setattr(self, name, state[name])

    def iterate(self) -> dict[str, float]:
        """Run one iteration and return its metrics.

        They are ``return`` (mean sum of rewards of an episode), ``policy_loss``, ``value_loss``, ``entropy`` (nats per
        action), ``kl`` (from the policy that acted), ``clip_share``, ``explained_variance`` (of the critic) and
        ``learning_rate``.
        """
        horizon = self._horizon()
        share = self.policy.settings.horizon / horizon
        counts = {dim: max(self.settings.minibatches, round(n * share)) for dim, n in self.settings.functions.items()}
        groups = [self._episodes(dim, count, horizon) for dim, count in counts.items()]
        returns = torch.cat([e.returns for e in groups])
        report = self._improve([e.episodes for e in groups])
        self.iteration += 1
        self.functions_seen += sum(counts.values())
        self._average()
        return {"return": float(returns.mean()), **report}

    def _average(self) -> None:
        """Update the averaged weights: a plain mean in the first iterations, then an exponential one."""
        keep = min(self.settings.averaging, 1 - 1 / self.iteration)
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), self.policy.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)

    _PARTS = ("policy", "averaged", "critic", "optimizer")
    _NUMBERS = ("iteration", "functions_seen", "caution", "bonus")

    # --- Acting ------------------------------------------------------------------------------------------------------

    def _generator(self, *purpose: object) -> torch.Generator:
        stage = ("stage", self.stage) if self.stage else ()
        digest = hashlib.sha256("/".join(map(str, (self.seed, *stage, self.iteration, *purpose))).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _horizon(self) -> int:
        if self.settings.horizons is None:
            return self.policy.settings.horizon
        least, most = self.settings.horizons
        draw = float(torch.rand((), generator=self._generator("horizon"), dtype=torch.float64))
        drawn: float = least * (most / least) ** draw
        return round(drawn)

    def _episodes(self, dim: int, count: int, horizon: int) -> _Acted:
        functions = self.source.sample(self._generator("functions", dim).initial_seed(), count, dim, self.device)
        start = torch.rand(count, dim, generator=self._generator("starts", dim), dtype=torch.float64).to(self.device)
        noise = self._generator("actions", dim)
        evaluate = environment.of(functions)
        rollout = environment.roll_out(self.policy, evaluate, start, horizon, noise=noise, horizon=horizon)
        assert rollout.features is not None
        assert rollout.actions is not None
        assert rollout.log_probs is not None
        minimum = synthetic.minima(functions, candidates=CANDIDATES, steps=REFINEMENTS)
        regret = remaining(rollout.values, minimum, functions.rounding())
        rewards = self._rewards(regret)
        privileged = self._privileged(regret)
        with torch.no_grad():
            values = self.critic(rollout.features, privileged)
        advantages = self._advantages(rewards, values)
        episodes = Episodes(
            features=rollout.features[:, :, :-1],
            actions=rollout.actions[:, :, :-1],
            log_probs=rollout.log_probs[..., :-1],
            privileged=privileged[:, :-1],
            advantages=(advantages - advantages.mean()) / (advantages.std() + 1e-8),
            targets=advantages + values[:, :-1],
            values=values[:, :-1],
        )
        return _Acted(episodes, rewards.sum(1))

    def _rewards(self, regret: Tensor) -> Tensor:
        """Return the rewards (N, A) of the actions, given regrets relative to the start's, (T, N)."""
        s = self.settings
        best = regret.cummin(0).values.clamp_min(s.floor)
        worth = -s.improvement * best - s.log_regret * best.log10()
        rewards = worth.diff(dim=0).T.float()
        if not s.terminal:
            return rewards
        return torch.cat([torch.zeros_like(rewards[:, 1:]), rewards.sum(1, keepdim=True)], 1)

    def _privileged(self, regret: Tensor) -> Tensor:
        """Return inputs of the critic only, (N, T, PRIVILEGED): best and current regret, and the remaining time."""
        best, floor = regret.cummin(0).values, self.settings.floor
        left = torch.linspace(1, 0, len(regret), device=regret.device)[:, None].expand_as(regret)
        columns = (
            best.clamp_min(floor).log10() / 4 + 1,
            regret.clamp(floor, 1 / floor).log10() / 4 + 1,
            best,
            left,
            left.square(),
        )
        return torch.stack(columns, -1).transpose(0, 1).float()

    def _advantages(self, rewards: Tensor, values: Tensor) -> Tensor:
        """Return generalized advantage estimates (N, A), given values (N, T); the last evaluation ends the episode."""
        s = self.settings
        following = torch.cat([values[:, 1:-1], torch.zeros_like(values[:, :1])], 1)
        errors = rewards + s.discount * following - values[:, :-1]
        advantages, running = torch.empty_like(errors), torch.zeros_like(errors[:, 0])
        for t in reversed(range(errors.shape[1])):
            running = errors[:, t] + s.discount * s.gae_lambda * running
            advantages[:, t] = running
        return advantages

    # --- Learning ----------------------------------------------------------------------------------------------------

    def _improve(self, groups: list[Episodes]) -> dict[str, float]:
        s = self.settings
        rate = self._learning_rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        generator = self._generator("minibatches")
        updates: list[Update] = []
        for _ in range(s.epochs):
            orders = [torch.randperm(len(e.values), generator=generator).tensor_split(s.minibatches) for e in groups]
            for rows in zip(*orders, strict=True):
                updates.append(self._step([_select(e, r.to(self.device)) for e, r in zip(groups, rows, strict=True)]))
            if updates[-1].approx_kl > s.kl_limit:
                break
        self._adapt_learning_rate(float(updates[-1].approx_kl))
        self._adapt_entropy_bonus(float(updates[-1].entropy))
        means = torch.stack([torch.stack(update) for update in updates]).mean(0)
        metrics = ("policy_loss", "value_loss", "entropy", "kl", "clip_share")  # in the order of the fields of Update
        report = dict(zip(metrics, means.tolist(), strict=True))
        targets, values = (torch.cat([getattr(e, name).flatten() for e in groups]) for name in ("targets", "values"))
        unexplained = (targets - values).var() / targets.var().clamp_min(1e-12)
        return {**report, "explained_variance": float(1 - unexplained), "learning_rate": rate}

    def _learning_rate(self) -> float:
        rise = (self.iteration + 1) / WARM_UP
        planned = min(1, rise, max(LAST_RATE, 1 - self.iteration / self.settings.iterations))
        return self.settings.learning_rate * planned * self.caution

    def _adapt_learning_rate(self, kl: float) -> None:
        """Adapt the factor on the learning rate, so that an iteration moves the policy by about the target KL."""
        target = self.settings.kl_target
        if target is not None and kl > 2 * target:
            self.caution = max(self.caution / CAUTION, LEAST_CAUTION)
        elif target is not None and kl < target / 2:
            self.caution = min(self.caution * CAUTION, 1.0)

    def _adapt_entropy_bonus(self, entropy: float) -> None:
        """Adapt the weight of the entropy bonus, so that entropy follows its target over the iterations."""
        if self.settings.entropy_target is not None:
            first, last = self.settings.entropy_target
            target = first + (last - first) * self.iteration / self.settings.iterations
            factor = BONUS if entropy < target else 1 / BONUS
            self.bonus = min(max(self.bonus * factor, BONUSES[0]), BONUSES[1])

    def _step(self, groups: list[Episodes]) -> Update:
        """Take one step of Adam on a minibatch that has episodes of each dimension."""
        s = self.settings
        half = self.device.type == "cuda" and s.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            mean, log_std = self.policy(torch.cat([e.features.flatten(0, 1) for e in groups]))
            losses = [F.smooth_l1_loss(self.critic(e.features, e.privileged), e.targets) for e in groups]
        mean, log_std = mean.float(), log_std.float()
        actions, before = (torch.cat([getattr(e, n).flatten(0, 1) for e in groups]) for n in ("actions", "log_probs"))
        advantages = torch.cat([e.advantages[:, None].expand_as(e.log_probs).flatten(0, 1) for e in groups])
        chosen = self.policy.settings
        log_ratio = environment.joint(environment.log_prob(actions, mean, log_std), chosen) - before
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - s.clip_ratio, 1 + s.clip_ratio)
        policy_loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
        value_loss = torch.stack(losses).mean()
        entropy = environment.joint(log_std + environment.ENTROPY, chosen).mean()
        self.optimizer.zero_grad()
        loss: Any = policy_loss + s.value_loss * value_loss - self.bonus * entropy
        loss.backward()
        for network in (self.policy, self.critic):
            nn.utils.clip_grad_norm_(network.parameters(), s.max_grad_norm)
        self.optimizer.step()
        with torch.no_grad():
            approx_kl, clip_fraction = (ratio - 1 - log_ratio).mean(), (ratio != clipped).float().mean()
        return Update(policy_loss.detach(), value_loss.detach(), entropy.detach(), approx_kl, clip_fraction)


def remaining(values: Tensor, minimum: Tensor, rounding: Tensor | float = 0.0) -> Tensor:
    """Return each evaluation's regret relative to the start's, (T, N).

    The minimum is lowered to the run's lowest value, and by `rounding`, (N,), so that rounding earns no reward.
    """
    lowest = torch.minimum(minimum, values.amin(0)) - rounding
    return (values - lowest) / (values[0] - lowest).clamp_min(1e-300)


@dataclass(frozen=True)
class _Acted:
    episodes: Episodes
    returns: Tensor


def _select(episodes: Episodes, rows: Tensor) -> Episodes:
    return Episodes(**{name: value[rows] for name, value in vars(episodes).items()})
