"""Meta-training of POP against stable-baselines3's PPO, in environment steps per second, updates included.

An environment step is one action on all coordinates of a two-dimensional function, and the evaluation that follows.
Both sides have the same functions, features, horizon, reward and threads, and about as many weights. What is easier for
stable-baselines3: its policy is a perceptron without memory, and its functions are fixed, their minima known in
advance, while ours samples new ones in each iteration and searches for their minima. It is timed in three ways:

- as documented: a gymnasium environment for each function, and PPO's default minibatches and epochs;
- all functions in one environment of our own, that evaluates them as one batch; the defaults;
- the same, with the number of functions, the minibatches and the epochs of our trainer.

All take turns; a rate is the median over the turns, and a ratio the median of the turns' ratios.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from torch import nn

from optrepro import config
from optrepro.experiments.descent import fixed_sets
from optrepro.experiments.descent.fixed_sets import FixedSet
from optrepro.metalearning.pop import environment
from optrepro.metalearning.pop.ppo import Trainer
from optrepro.metalearning.pop.settings import PPOSettings
from optrepro.optimizers._pop_policy import PolicySettings, Trajectory
from optrepro.problems.functions.synthetic import SyntheticPrior

DIM, FUNCTIONS, ENVIRONMENTS = 2, 512, 64  # functions in an iteration of ours; environments of theirs
ASKED = 10

Numbers = NDArray[Any]


class Descents:
    """Functions side by side, each one optimization; at the horizon all start anew."""

    def __init__(self, problems: FixedSet, rows: slice, policy: PolicySettings, ppo: PPOSettings):
        self.evaluate, self.minimum = environment.of(problems.functions[rows]), problems.extrema.minimum[rows]
        self.policy, self.ppo = policy, ppo
        self.generator = torch.Generator().manual_seed(rows.start)
        self.observation_space = Box(-3, 3, (DIM * Trajectory.FEATURES,), np.float32)
        self.action_space = Box(-1, 1, (DIM,), np.float32)

    def reset(self) -> Numbers:
        """Observations (n, D FEATURES) at new starts."""
        start = torch.rand(len(self.minimum), DIM, generator=self.generator, dtype=torch.float64)
        self.trajectory = Trajectory(self.policy, start)
        value, features = self._observe()
        self.first = (value - self.minimum).clamp_min(1e-300)
        self.best = torch.ones_like(value)
        return features

    def step(self, actions: Numbers) -> tuple[Numbers, Numbers, bool]:
        """Observations, rewards (n,) and whether the horizon is reached, after actions (n, D) in [-1, 1]."""
        self.trajectory.move((torch.from_numpy(actions) + 1) / 2)
        value, features = self._observe()
        before, self.best = self.best, torch.minimum(self.best, (value - self.minimum) / self.first)
        rewards = self._worth(self.best) - self._worth(before)
        return features, rewards.numpy(), self.trajectory.steps == self.policy.horizon

    def _observe(self) -> tuple[torch.Tensor, Numbers]:
        value, gradient = self.evaluate(self.trajectory.u)
        return value, self.trajectory.observe(value, gradient).flatten(1).numpy()

    def _worth(self, regret: torch.Tensor) -> torch.Tensor:
        share = regret.clamp_min(self.ppo.floor)
        return -self.ppo.improvement * share - self.ppo.log_regret * share.log10()


class _OneFunction(gymnasium.Env[Numbers, Numbers]):
    """One function as a gymnasium environment."""

    def __init__(self, descents: Descents):
        self.descents = descents
        self.observation_space, self.action_space = descents.observation_space, descents.action_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Numbers, dict[str, Any]]:
        return self.descents.reset()[0], {}

    def step(self, action: Numbers) -> tuple[Numbers, float, bool, bool, dict[str, Any]]:
        observations, rewards, done = self.descents.step(action[None])
        return observations[0], float(rewards[0]), done, False, {}


class _OneBatch(VecEnv):
    """Many functions as one vectorized environment of stable-baselines3."""

    def __init__(self, descents: Descents):
        super().__init__(len(descents.minimum), descents.observation_space, descents.action_space)
        self.descents = descents

    def reset(self) -> Numbers:
        return self.descents.reset()

    def step_async(self, actions: Numbers) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[Numbers, Numbers, Numbers, list[dict[str, Any]]]:
        observations, rewards, done = self.descents.step(self.actions)
        infos: list[dict[str, Any]] = [{} for _ in rewards]
        if done:
            infos = [{"terminal_observation": last} for last in observations]
            observations = self.descents.reset()
        return observations, rewards, np.full(len(rewards), done), infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="config/laptop.yaml")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    study = config.load(arguments.config).studies["pop-training"]
    prior, network, ppo = study.entry(next(iter(study.policies)))
    policy, ppo = PolicySettings(**network.model_dump()), ppo.model_copy(update={"functions": {DIM: FUNCTIONS}})
    trainer = Trainer(ppo, policy, SyntheticPrior(prior), seed=0)
    problems = fixed_sets.fixed(prior, 0, "benchmark", FUNCTIONS, DIM)
    actions = policy.horizon - 1
    minibatch = FUNCTIONS * actions // ppo.minibatches

    def descents(start: int, stop: int) -> Descents:
        return Descents(problems, slice(start, stop), policy, ppo)

    each = [_OneFunction(descents(i, i + 1)) for i in range(ENVIRONMENTS)]
    theirs = [
        learner(trainer, DummyVecEnv([lambda one=one: one for one in each])),
        learner(trainer, _OneBatch(descents(0, ENVIRONMENTS))),
        learner(trainer, _OneBatch(descents(0, FUNCTIONS)), batch_size=minibatch, n_epochs=ppo.epochs),
    ]
    measures = [partial(rate, trainer.iterate, FUNCTIONS * actions)]
    measures += [partial(rate, partial(learn, model), model.n_envs * actions) for model in theirs]
    turns = take_turns(measures, arguments.turns)

    ours, other = count(trainer.policy) + count(trainer.critic), count(theirs[0].policy)
    print(f"Threads: {arguments.threads}; weights of policy and critic: {ours:,}, of stable-baselines3's {other:,}\n")
    print("| what | environment steps per second | ours / theirs | asked |")
    print("|---|---|---|---|")
    names = [
        f"our trainer, {FUNCTIONS} functions",
        f"stable-baselines3, {ENVIRONMENTS} environments, its minibatches of 64 and 10 epochs",
        "the same, all functions evaluated as one batch",
        f"as one batch, with our {FUNCTIONS} functions, minibatches of {minibatch:,} and {ppo.epochs} epochs",
    ]
    for i, name in enumerate(names):
        ratio = f"{statistics.median(turn[0] / turn[i] for turn in turns):.2g}" if i else ""
        asked = f"at least {ASKED}" if i == 1 else ""
        print(f"| {name} | {statistics.median(turn[i] for turn in turns):,.0f} | {ratio} | {asked} |")


def learner(trainer: Trainer, environments: VecEnv, **settings: int) -> PPO:
    """PPO at its defaults, save for `settings`, with two hidden layers that have about our numbers of weights."""
    inputs = DIM * Trajectory.FEATURES
    sizes = {"pi": count(trainer.policy), "vf": count(trainer.critic)}
    shape = {"net_arch": {name: [width(size, inputs)] * 2 for name, size in sizes.items()}}
    horizon = trainer.policy.settings.horizon
    return PPO("MlpPolicy", environments, n_steps=horizon - 1, policy_kwargs=shape, device="cpu", seed=0, **settings)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def width(weights: int, inputs: int) -> int:
    """Of two equal hidden layers that have so many weights, w^2 + (inputs + 4) w, with those that lead out."""
    half = (inputs + 4) / 2
    return round(math.sqrt(half**2 + weights) - half)


def learn(model: PPO) -> None:
    """One iteration: a horizon of every environment, and the update."""
    model.learn(model.n_envs * model.n_steps, reset_num_timesteps=False)


def rate(work: Callable[[], object], steps: int) -> float:
    """Environment steps per second."""
    started = time.perf_counter()
    work()
    return steps / (time.perf_counter() - started)


def take_turns(measures: Sequence[Callable[[], float]], turns: int) -> list[list[float]]:
    """What each measure gives in each turn; a first one is left out."""
    return [[measure() for measure in measures] for _ in range(turns + 1)][1:]


if __name__ == "__main__":
    main()
