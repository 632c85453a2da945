r"""Convolutional guided policy search by Bregman ADMM, the paper's method to meta-train Predicted Step Descent.

LQG improves a guiding policy :math:`\psi(a \mid s, t) = N(K_t s + k_t, G_t)`, whose gains and offsets are shared in
each group of coordinates. It supervises the recurrent policy :math:`\pi`, and is kept close to it. An iteration

1. samples trajectories with :math:`\psi` on new objectives and fits local models (`local_models`);
2. minimizes :math:`\sum_t E[c - \lambda_t a] + \nu\, KL(\psi \Vert \pi)` within a KL limit on the change of
   :math:`\psi`;
3. regresses :math:`\pi` on the actions of :math:`\psi`, with weights :math:`\nu G_t^{-1}` and duals :math:`\lambda_t`,
   by back-propagation through time over the recorded observations of a sample of coordinates;
4. moves the duals along the difference of mean actions.

Source: Li and Malik 2017, arXiv 1703.00441, section 3. Chosen: :math:`\nu` is one number for each group; the duals'
steps are in units of :math:`\nu G_t^{-1}`; the covariance of :math:`\pi` at each step is the :math:`G_t` that minimizes
step 3; the noise of :math:`\psi` is a share of its root mean square action; and a change that makes :math:`\psi` worse
than before and worse than :math:`\pi` on real rollouts is reduced or undone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from optrepro.metalearning.lto import local_models, lqg, supervision
from optrepro.metalearning.lto.features import state_features
from optrepro.metalearning.lto.imitation import AdaGrad
from optrepro.metalearning.lto.lqg import Controller, Cost, Dynamics
from optrepro.metalearning.lto.rollouts import area, roll_out
from optrepro.metalearning.lto.settings import GuidedSettings, StateKind
from optrepro.optimizers._learned import Columns, Memory, StepRule
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings, observe
from optrepro.problems.networks.perceptrons import Perceptrons

POINTS = 20  # number of intervals of the curves whose areas are compared


@dataclass(frozen=True)
class Samples:
    """Trajectories of T steps of N sampled coordinates of one group, over all rollouts.

    Attributes:
        states: states, (T + 1, N, n).
        actions: actions including their noise, (T, N).
        spread: variance of the noise, (T,).
        gradients: gradients after each step, on separate minibatches, (T, N).
        curvature: curvature along the mean actions, over all coordinates of the group, (T,).
        seen: inputs of the recurrent policy, (T, INPUTS, N).
        units: units of its outputs, (T, outputs, N).
        network: index of its network for this group.
    """

    states: Tensor
    actions: Tensor
    spread: Tensor
    gradients: Tensor
    curvature: Tensor
    seen: Tensor
    units: Tensor
    network: int


class GuidingPolicy:
    """A step rule that takes the mean actions of a guiding policy.

    Args:
        controller: controller of G groups, K (G, T, 1, n).
        owner: group of each coordinate, (P,).
        state: kind of the state features.
    """

    def __init__(self, controller: Controller, owner: Tensor, state: StateKind):
        self.gain, self.offset = controller.K[:, :, 0].float(), controller.k[:, :, 0].float()
        self.owner, self.state = owner, state

    def act(self, time: int, state: Tensor) -> Tensor:
        """Return the mean actions (R, P) in states (n, R, P)."""
        gain = self.gain[self.owner, time].T
        return torch.einsum("np,nrp->rp", gain, state) + self.offset[self.owner, time]

    def begin(self, x: Tensor, groups: Columns) -> Memory:
        """See `StepRule`."""
        del x, groups
        self._time, self._stream = 0, state_features(self.state)
        return {}

    def step(self, memory: Memory, x: Tensor, value: Tensor, gradient: Tensor) -> tuple[Tensor, Memory]:
        """See `StepRule`."""
        action = self.act(self._time, self._stream.observe(x, value, gradient))
        self._time += 1
        return action, memory


class Trainer:
    """Trains a recurrent policy by guided policy search. Random numbers depend only on the seed and the iteration.

    Args:
        settings: settings of the training.
        horizon: number of steps of a rollout.
        policy: settings of the recurrent policy.
        objectives: returns the new objectives of an iteration.
        seed: seed of the weights, the noise, the sampled coordinates and the minibatches of sequences.
        device: device of the training.
    """

    def __init__(
        self,
        settings: GuidedSettings,
        horizon: int,
        policy: StepPolicySettings,
        objectives: Callable[[int], Perceptrons],
        seed: int,
        device: torch.device | str = "cpu",
    ):
        self.settings, self.horizon, self.objectives = settings, horizon, objectives
        self.seed, self.device = seed, torch.device(device)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.rule = StepPolicy(policy).to(device)
        self.optimizer = torch.optim.Adam(self.rule.parameters(), lr=settings.learning_rate)
        self.iteration = 0
        self.guide: dict[str, Tensor] = {}  # K, k, G of psi; duals (G, T); weight nu and multiplier (G,)

    @property
    def done(self) -> bool:
        """Whether all iterations are done."""
        return self.iteration >= self.settings.iterations

    @property
    def guiding(self) -> Controller:
        """The guiding policy psi, with K (G, T, 1, n)."""
        return Controller(self.guide["K"], self.guide["k"], self.guide["G"])

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next iteration depends on."""
        return {
            "rule": self.rule.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "guide": dict(self.guide),
            "iteration": self.iteration,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.rule.load_state_dict(state["rule"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guide = {name: value.to(self.device) for name, value in state["guide"].items()}
        self.iteration = state["iteration"]

    def iterate(self) -> dict[str, float]:
        """Run one iteration and return its metrics.

        ``guiding`` and ``policy`` are the mean true objective along the trajectories of either policy after the
        iteration; ``kl`` is the divergence of psi from its predecessor in nats per coordinate and step; ``mismatch`` is
        the root mean square difference of the policies' mean actions, relative to psi's; ``supervision`` is the loss of
        the regression in nats; ``multiplier`` and ``weight`` are the mean log10 of the KL limit's multiplier and of nu;
        ``dual`` is the root mean square of the duals, in units of nu over psi's standard deviation.
        """
        problems = self.objectives(self.iteration)
        owner = self._owner(problems)
        if not self.guide:
            self._begin(self._sample(problems, owner, self._teacher()))
        before = GuidingPolicy(self.guiding, owner, self.settings.state)
        samples = self._sample(problems, owner, before)
        self.guide["G"] = torch.stack([group.spread for group in samples])[..., None, None]
        kl, guiding = self._improve(problems, owner, samples)
        loss = self._supervise(samples)
        mismatch = self._move_duals(samples)
        self.iteration += 1
        policy = self._area(self.rule, problems)
        scaled = self.guide["duals"] * self.guide["G"][..., 0, 0].sqrt() / self.guide["weight"][:, None]
        return {
            "guiding": guiding,
            "policy": policy,
            "kl": kl,
            "mismatch": mismatch,
            "supervision": loss,
            "multiplier": float(self.guide["multiplier"].log10().mean()),
            "weight": float(self.guide["weight"].log10().mean()),
            "dual": float(scaled.square().mean().sqrt()),
        }

    # --- Trajectories -----------------------------------------------------------------------------------------------

    def _generator(self, purpose: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}/{self.iteration}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def _area(self, rule: StepRule, problems: Perceptrons) -> float:
        """Return the mean true objective along the trajectories of a rule without noise."""
        record = sorted({round(i * self.horizon / POINTS) for i in range(POINTS + 1)})
        return float(area(roll_out(rule, problems, record), record).mean())

    def _owner(self, problems: Perceptrons) -> Tensor:
        """Return the group of each coordinate, (P,): its tensor, or one group per coordinate."""
        tensors = torch.cat([torch.full((g.stop - g.start,), i) for i, g in enumerate(problems.groups)])
        owner = tensors if self.settings.sharing == "group" else torch.arange(len(tensors))
        return owner.to(self.device)

    def _teacher(self) -> StepRule:
        rate = self.settings.teacher_rate
        return self.rule if rate is None else AdaGrad(rate, self.rule.settings.warmup)

    @torch.no_grad()
    def _sample(self, problems: Perceptrons, owner: Tensor, rule: StepRule) -> list[Samples]:
        """Roll out a rule with noise, and return the samples of each group where the rollouts stay finite."""
        horizon, noise = self.horizon, self._generator("noise")
        chosen = self._choose(owner)
        columns = torch.cat(chosen)
        members = torch.bincount(owner)
        x, spans = problems.start(), [(g.start, g.stop) for g in problems.groups]
        observed = supervision.begin(self.rule, x, spans, columns.expand(len(x), -1))
        memory = rule.begin(x, spans)
        stream, examples = state_features(self.settings.state), problems.minibatches(2 * horizon + 1)
        recorded: dict[str, list[Tensor]] = {
            name: [] for name in ("states", "actions", "gradients", "seen", "units", "squares", "bends")
        }

        def per_group(values: Tensor) -> Tensor:
            """Average over the coordinates of each group, (R, P) -> (R, G)."""
            return values.new_zeros(len(values), len(members)).index_add_(1, owner, values) / members

        for t in range(horizon + 1):
            value, gradient = problems.evaluate(x, examples[t])
            state = stream.observe(x, value, gradient)
            recorded["states"].append(state[..., columns])
            if t == horizon:
                break
            sampled = x[:, columns], value, gradient[:, columns]
            seen, units, observed = observe(self.rule.settings, observed, *sampled)
            if isinstance(rule, GuidingPolicy):
                mean = rule.act(t, state)
            else:
                mean, memory = rule.step(memory, x, value, gradient)
            squares = per_group(mean.square()).clamp_min(1e-24)
            deviation = self.settings.noise * squares.sqrt()
            action = mean + deviation[:, owner] * torch.randn(x.shape, generator=noise).to(x.device)
            _, here = problems.evaluate(x, examples[horizon + 1 + t])
            x = x + action
            _, there = problems.evaluate(x, examples[horizon + 1 + t])
            recorded["actions"].append(action[None, :, columns])
            recorded["gradients"].append(there[None, :, columns])
            recorded["seen"].append(seen)
            recorded["units"].append(units)
            recorded["squares"].append(squares[None])
            recorded["bends"].append(per_group(mean * (there - here))[None])
        finite = x.isfinite().all(1)
        if not finite.any():
            raise RuntimeError(f"iteration {self.iteration}: the guiding policy diverged on all objectives")
        stacked = {name: torch.stack(part)[:, :, finite] for name, part in recorded.items()}
        return list(self._split(stacked, chosen, problems))

    def _choose(self, owner: Tensor) -> list[Tensor]:
        """Sample the coordinates of each group to record."""
        source, chosen = self._generator("coordinates"), []
        for group in range(int(owner.max()) + 1):
            columns = (owner == group).nonzero()[:, 0]
            order = torch.randperm(len(columns), generator=source)[: self.settings.coordinates]
            chosen.append(columns[order.sort().values.to(columns.device)])
        return chosen

    def _split(self, recorded: Mapping[str, Tensor], chosen: list[Tensor], problems: Perceptrons) -> Iterator[Samples]:
        """Split the records, (T, numbers, R, coordinates or groups), into the samples of each group."""
        start, shared = 0, self.rule.settings.networks == 1
        for group, columns in enumerate(chosen):
            mine = slice(start, start + len(columns))
            start += len(columns)
            tensor = next(i for i, g in enumerate(problems.groups) if int(columns[0]) < g.stop)
            squares = recorded["squares"][:, 0, :, group].double()
            bends = recorded["bends"][:, 0, :, group].double()
            yield Samples(
                states=recorded["states"][..., mine].flatten(2).mT.contiguous(),
                actions=recorded["actions"][:, 0, :, mine].flatten(1),
                spread=self.settings.noise**2 * squares.mean(1),
                gradients=recorded["gradients"][:, 0, :, mine].flatten(1),
                curvature=bends.mean(1) / squares.mean(1),
                seen=recorded["seen"][..., mine].flatten(2),
                units=recorded["units"][..., mine].flatten(2),
                network=0 if shared else tensor,
            )

    # --- The guiding policy -----------------------------------------------------------------------------------------

    def _begin(self, samples: list[Samples]) -> None:
        """Initialize psi by fitting it to the teacher's actions."""
        psi = local_models.stack([self._linear(group, group.actions) for group in samples])
        ones = torch.ones(len(samples), dtype=torch.float64, device=self.device)
        self.guide = {field.name: getattr(psi, field.name) for field in fields(psi)}
        self.guide |= {"duals": torch.zeros_like(psi.k[..., 0]), "multiplier": ones, "weight": 0 * ones}

    def _linear(self, group: Samples, actions: Tensor) -> Controller:
        return local_models.controller(group.states[:-1], actions[..., None], self.settings.strength)

    def _improve(self, problems: Perceptrons, owner: Tensor, samples: list[Samples]) -> tuple[float, float]:
        """Take step 2: improve psi. Returns its mean KL from the old one and its mean area."""
        s, old = self.settings, self.guiding
        dynamics = local_models.stack(
            [local_models.dynamics(group.states, group.actions[..., None], s.strength) for group in samples]
        )
        cost = local_models.stack([self._cost(i, group) for i, group in enumerate(samples)])
        linear = local_models.stack([self._linear(group, self._actions(group)) for group in samples])
        pi = Controller(linear.K, linear.k, old.G)
        mean = torch.stack([group.states[0].double().mean(0) for group in samples])
        covariance = torch.stack([group.states[0].double().mT.cov(correction=0) for group in samples])
        limit = torch.full_like(self.guide["multiplier"], s.kl)
        if not self.guide["weight"].all():
            free = lqg.constrained_update(
                dynamics, cost, torch.zeros_like(cost.h), old, mean, covariance, limit, multiplier=_scale(cost, old)
            )
            self.guide["weight"], self.guide["multiplier"] = s.policy_weight * free.multiplier, free.multiplier
        d = cost.d.clone()
        d[..., -1] -= self.guide["duals"]
        weight = self.guide["weight"][:, None].expand_as(cost.h)
        penalized = Cost(cost.C, d, cost.h) + lqg.surprise(pi, weight)
        best, reached, kl = old, self._try(old, problems, owner), torch.zeros_like(limit)
        # psi may become worse than before, as long as it stays better than pi.
        bound = max(reached, self._area(self.rule, problems))
        for _ in range(s.backtracks + 1):
            update = lqg.constrained_update(
                dynamics, penalized, weight, old, mean, covariance, limit, multiplier=self.guide["multiplier"]
            )
            now = self._try(update.controller, problems, owner)
            if now < bound:
                best, reached, kl = update.controller, now, update.kl
                self.guide["multiplier"] = update.multiplier
                break
            limit = limit / 4
        self.guide["K"], self.guide["k"] = best.K, best.k  # G stays a share of the root mean square action
        self._weigh(dynamics, pi, mean, covariance)
        return float(kl.mean()), reached

    def _try(self, psi: Controller, problems: Perceptrons, owner: Tensor) -> float:
        return self._area(GuidingPolicy(psi, owner, self.settings.state), problems)

    def _cost(self, index: int, group: Samples) -> Cost:
        s, psi = self.settings, self.guiding
        old = Controller(psi.K[index], psi.k[index], psi.G[index])
        curvature = local_models.floored(group.curvature, s.floor)
        return local_models.advantage(group.states[:-1], group.gradients, curvature, old, s.persistence, s.strength)

    def _weigh(self, dynamics: Dynamics, pi: Controller, mean: Tensor, covariance: Tensor) -> None:
        """Adapt nu, so that the divergence between the policies stays near `policy_kl`."""
        trajectory = lqg.forward(dynamics, self.guiding, mean, covariance)
        apart = lqg.divergence(self.guiding, pi, trajectory).mean(-1) / self.settings.policy_kl
        factor = torch.where(apart > 2, 2.0, torch.where(apart < 0.5, 0.5, 1.0))
        self.guide["weight"] = self.guide["weight"] * factor

    # --- The recurrent policy ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def _actions(self, group: Samples) -> Tensor:
        """Return the mean actions (T, N) of the recurrent policy on the samples."""
        return supervision.unroll(self.rule, group.network, group.seen, group.units)

    def _guided(self, index: int, group: Samples) -> Tensor:
        """Return the mean actions (T, N) of the guiding policy on the samples."""
        K, k = self.guide["K"][index, :, 0], self.guide["k"][index]
        return (torch.einsum("tn,tbn->tb", K, group.states[:-1].double()) + k).float()

    def _supervise(self, samples: list[Samples]) -> float:
        """Take step 3: regress pi on psi. Returns the mean loss in the last epoch."""
        weight = self.guide["weight"] / self.guide["weight"].mean()
        work = []
        for i, group in enumerate(samples):
            spread = self.guide["G"][i, :, 0]
            target = (
                self._guided(i, group) - (self.guide["duals"][i, :, None] * spread / self.guide["weight"][i]).float()
            )
            precision = (weight[i] / spread).float().expand_as(target)
            work.append((group, target, precision))
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self._learning_rate()
        source, losses = self._generator("sequences"), []
        for _ in range(self.settings.epochs):
            losses = [self._fit(network, *batch) for network, *batch in self._batches(work, source)]
        return float(torch.stack(losses).mean())

    def _learning_rate(self) -> float:
        s = self.settings
        left = (1 + math.cos(math.pi * min(1, self.iteration / s.iterations))) / 2
        return s.learning_rate * (s.last_rate + (1 - s.last_rate) * left)

    def _batches(
        self, work: list[tuple[Samples, Tensor, Tensor]], source: torch.Generator
    ) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
        """Yield minibatches of sequences in random order; each is of one network."""
        batches = []
        for network in range(len(self.rule.networks)):
            parts = [
                (group.seen, group.units, target, precision)
                for group, target, precision in work
                if group.network == network
            ]
            if parts:
                seen, units, target, precision = (torch.cat(part, -1) for part in zip(*parts, strict=True))
                order = torch.randperm(units.shape[-1], generator=source).to(self.device)
                batches += [
                    (network, *(x[..., rows] for x in (seen, units, target, precision)))
                    for rows in torch.split(order, self.settings.sequences)
                ]
        for i in torch.randperm(len(batches), generator=source).tolist():
            yield batches[i]

    def _fit(self, network: int, seen: Tensor, units: Tensor, target: Tensor, precision: Tensor) -> Tensor:
        loss = (precision * (supervision.unroll(self.rule, network, seen, units) - target).square()).mean() / 2
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.rule.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return loss.detach()

    def _move_duals(self, samples: list[Samples]) -> float:
        """Take step 4: move the duals. Returns the remaining mismatch of the policies."""
        apart, size, duals = [], [], []
        for i, group in enumerate(samples):
            guided = self._guided(i, group)
            difference = (self._actions(group) - guided).double()
            spread = self.guide["G"][i, :, 0, 0]
            step = self.settings.dual_rate * self.guide["weight"][i] / spread
            duals.append(self.guide["duals"][i] + step * difference.mean(-1))
            apart.append((difference.square().mean(-1) / spread).mean())
            size.append((guided.double().square().mean(-1) / spread).mean())
        self.guide["duals"] = torch.stack(duals)
        return float((torch.stack(apart).mean() / torch.stack(size).mean()).sqrt())


def _scale(cost: Cost, psi: Controller) -> Tensor:
    """Return the initial multiplier, (G,): the curvature of the cost by the action, per nat of KL."""
    return (cost.C[..., -1, -1] * psi.G[..., 0, 0]).mean(-1)
