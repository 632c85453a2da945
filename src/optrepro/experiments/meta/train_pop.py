"""Meta-trains a policy on functions streamed from the prior, with validation on fixed functions and one final test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Rows, joined, metric_rows
from optrepro.experiments.descent import benchmark, fixed_sets
from optrepro.experiments.descent.benchmark import Boxes
from optrepro.experiments.descent.fixed_sets import FixedSet
from optrepro.metalearning.pop import environment
from optrepro.metalearning.pop.ppo import Trainer
from optrepro.optimizers import _pop_policy as policies
from optrepro.optimizers._pop_policy import Policy, PolicySettings
from optrepro.problems.functions.synthetic import SyntheticPrior
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch, Run, Scale
from optrepro.studies.policy import PolicyStudy


def run(study: PolicyStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Train one policy per repetition, and write the first one's weights to `context.policy`. Returns tidy rows.

    - Validation rows have the number of functions trained on so far as `step`, and the repetition as `seed`.
      ``improvement`` and ``digits`` are the means of `fixed_sets.progress` in the smallest dimension of the training.
      ``score`` is improvement + w * digits averaged over all dimensions of the training, w being the standard reward's
      weight of the log regret. All metrics of `Trainer.iterate` appear as means since the previous validation.
    - Test rows have ``improvement`` and ``digits`` on the prior's test functions, and ``regret`` on the benchmark at
      the first and last evaluation, with the start as `seed`.

    The policy keeps the weights with the highest validation score.
    """
    repetitions = len({run.repetition for run in batch.runs})
    rows: list[Rows] = []
    with context.checkpoint.listening():
        state: dict[str, Any] = context.checkpoint.load() or {"done": []}
        for repetition in range(len(state["done"]), repetitions):
            training = _Training(study, batch, context, repetition)
            state = training.run(state)
    for repetition, finished in enumerate(state["done"]):
        runs = {run.workload: run for run in batch.runs if run.repetition == repetition}
        training = _Training(study, batch, context, repetition)
        training.trainer.averaged.load_state_dict(finished["weights"])
        rows += [*training.curve(runs["prior-validation"], finished["history"]), *training.tests(runs)]
        if repetition == 0:
            assert context.policy is not None
            policies.save(training.trainer.averaged, context.policy, training.card(finished, rows))
    return joined(rows)


def prepare(study: PolicyStudy, batches: Sequence[Batch], scale: Scale) -> None:
    """Sample the functions on which all policies are validated and tested."""
    for name in study.policies:
        for dim, count in _validation_sizes(study, study.entry(name)[2].functions).items():
            fixed_sets.fixed(study.prior, scale.seed, "validation", count, dim)
    fixed_sets.fixed(study.prior, scale.seed, "test", study.test_functions, 2)


def attempts(study: PolicyStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield attempts to build the network of every policy."""
    for name in study.policies:
        settings = PolicySettings(**study.entry(name)[1].model_dump())
        yield f"policies.{name}", partial(Policy, settings)


def _validation_sizes(study: PolicyStudy, functions: Iterable[int]) -> dict[int, int]:
    """The number of validation functions in each dimension of a training: about equally many coordinates in each."""
    dims = sorted(functions)
    return {dim: max(1, study.validation_functions * dims[0] // dim) for dim in dims}


class _Training:
    """The training of one repetition."""

    def __init__(self, study: PolicyStudy, batch: Batch, context: Context, repetition: int):
        assert batch.optimizer is not None
        self.study, self.batch, self.context, self.repetition = study, batch, context, repetition
        self.own_prior, network, ppo = study.entry(batch.optimizer)
        self.seed = next(run.seed for run in batch.runs if run.repetition == repetition)
        self.trainer = Trainer(
            ppo,
            PolicySettings(**network.model_dump()),
            SyntheticPrior(self.own_prior),
            self.seed,
            context.device,
            study.stage(batch.optimizer),
        )

        # Counts the functions of the trainings that this one continues; each stage streams other functions.
        earlier = policies.load(context.weights)[1] if context.weights else {}
        self.seen_before = sum(int(str(earlier.get(key, 0))) for key in ("functions_seen", "functions_seen_before"))

    def run(self, state: dict[str, Any]) -> dict[str, Any]:
        """Train from `state` until the last iteration, or until validation stops improving."""
        fresh: dict[str, Any] = {
            "best": -np.inf,
            "stale": 0,
            "weights": {},
            "history": [],
            "since": [],
            "cpu_seconds": 0.0,
        }
        mine = state.get("training") or fresh
        if "trainer" in mine:
            self.trainer.load_state_dict(mine["trainer"])
        elif self.context.weights is not None:
            self.trainer.begin_with(policies.load(self.context.weights)[0])
        sizes = _validation_sizes(self.study, self.trainer.settings.functions)
        validation = [self._fixed("validation", count, dim) for dim, count in sizes.items()]
        iterations = self.trainer.settings.iterations

        def saved() -> dict[str, Any]:
            return {"done": state["done"], "training": {**mine, "trainer": self.trainer.state_dict()}}

        # Each iteration runs before a save, so that even the shortest time slice makes progress.
        while not self.trainer.done and mine["stale"] < self.study.patience:
            before = time.process_time()
            mine["since"].append(self.trainer.iterate())
            mine["cpu_seconds"] += time.process_time() - before
            if self.trainer.iteration % self.study.validate_every == 0 or self.trainer.done:
                self._validate(mine, validation)
            self.context.progress(
                self.trainer.iteration, iterations, f"{self.batch.name}.{self.repetition} score {mine['best']:.4f}"
            )
            self.context.checkpoint.step(saved)
        return {"done": [*state["done"], {key: mine[key] for key in ("best", "weights", "history", "cpu_seconds")}]}

    def _validate(self, mine: dict[str, Any], validation: list[FixedSet]) -> None:
        """Validate the policy, and keep its weights if they are the best so far."""
        trainer, weight = self.trainer, self.study.ppo.log_regret
        # The averaged weights converge better; early on, the current ones may be better.
        candidates = [trainer.averaged, trainer.policy] if trainer.settings.averaging else [trainer.averaged]
        found = []
        for policy in candidates:
            measured = [self._on(policy, problems) for problems in validation]
            found.append((float(np.mean([each + weight * decades for each, decades in measured])), *measured[0]))
        best = max(range(len(found)), key=lambda i: found[i][0])
        score, improvement, digits = found[best]
        means = {key: float(np.mean([report[key] for report in mine["since"]])) for key in mine["since"][0]}
        reported = {"improvement": improvement, "digits": digits, "score": score, **means}
        mine["history"].append({"step": self.trainer.functions_seen, **reported})
        mine["since"] = []
        mine["stale"] += 1
        if score > mine["best"]:
            weights = {name: value.detach().cpu().clone() for name, value in candidates[best].state_dict().items()}
            mine.update(best=score, stale=0, weights=weights)
            if self.repetition == 0 and self.context.policy_so_far is not None:
                policies.save(candidates[best], self.context.policy_so_far, self._facts(mine))

    def curve(self, run: Run, history: list[dict[str, float]]) -> list[Rows]:
        """Return the validation rows of the training."""
        steps = [int(validated["step"]) for validated in history]
        metrics = [key for key in history[0] if key != "step"]
        return [
            metric_rows(run, np.nan, key, [validated[key] for validated in history], seed=self.repetition, step=steps)
            for key in metrics
        ]

    def tests(self, runs: dict[str, Run]) -> list[Rows]:
        """Test the policy, and return the rows."""
        budget = self.study.network.horizon
        improvement, digits = self._on(self.trainer.averaged, self._fixed("test", self.study.test_functions, 2))
        facts = {"improvement": improvement, "digits": digits}
        run = runs["prior-test"]
        rows = [metric_rows(run, np.nan, k, v, seed=self.repetition, step=budget) for k, v in facts.items()]
        fs = [benchmark.get(name, 2) for name in self.study.functions]
        seeds = [derive_seed(self.context.seed, "vlse", f.name, "ablation") for f in fs]
        starts = [benchmark.starts_of(f, self.study.starts, seed) for f, seed in zip(fs, seeds, strict=True)]
        suite = Boxes(fs, [start.to(self.context.device) for start in starts])
        values = environment.roll_out(self.trainer.averaged, suite.evaluate, suite.start, budget, suite.valid).values
        regrets = (values.cummin(0).values - suite.optima).clamp_min(0).cpu().numpy()
        for i, f in enumerate(fs):
            mine = regrets[[0, -1], i * self.study.starts : (i + 1) * self.study.starts]
            seed = np.arange(self.study.starts)
            rows.append(
                metric_rows(runs[f"vlse/{f.name}"], np.nan, "regret", mine.T, seed[:, None], np.array([1, budget]))
            )
        return rows

    def card(self, finished: dict[str, Any], rows: list[Rows]) -> dict[str, object]:
        """Return the model card of the weights."""
        test = joined(rows).query("workload == 'prior-test'").groupby("metric").value.mean()
        return {
            **self._facts(finished),
            "test": {key: round(float(test[key]), 4) for key in ("improvement", "digits")},
        }

    def _facts(self, state: dict[str, Any]) -> dict[str, object]:
        """Return the facts of the model card that are known before the test."""
        ppo = self.study.entry(str(self.batch.optimizer))[2]
        best = max(state["history"], key=lambda validated: validated["score"])
        thin = max(1, len(state["history"]) // 64)
        return {
            "source": "arXiv 2602.15473, rebuilt; settings that the paper leaves open are chosen",
            "trained_on": "functions sampled from the synthetic prior, never on the benchmark",
            "started_from": self.study.policies[str(self.batch.optimizer)].start,
            "functions_seen": int(best["step"]),
            "functions_seen_before": self.seen_before,
            "stream": {"seed": self.seed, "stage": self.trainer.stage},
            "cpu_hours": round(state["cpu_seconds"] / 3600, 3),
            "iterations": self.trainer.settings.iterations,
            "device": self.context.device.type,
            "seed": self.seed,
            "config_hash": self.batch.settings,
            "validation": {key: round(best[key], 4) for key in ("score", "improvement", "digits")},
            "validation_curve": [[int(each["step"]), round(each["score"], 4)] for each in state["history"][::thin]],
            "prior": self.own_prior.model_dump(mode="json"),
            "ppo": ppo.model_dump(mode="json"),
        }

    def _fixed(self, name: str, count: int, dim: int) -> FixedSet:
        return fixed_sets.fixed(self.study.prior, self.context.seed, name, count, dim)

    def _on(self, policy: Policy, problems: FixedSet) -> tuple[float, float]:
        """Return mean improvement and digits on a fixed set, with the policy's mean actions."""
        device = self.context.device
        evaluate = environment.of(problems.functions.to(device))
        horizon = self.study.network.horizon
        values: Tensor = environment.roll_out(policy, evaluate, problems.start.to(device), horizon).values
        regrets = (values.cpu().cummin(0).values - problems.extrema.minimum).numpy()
        improvement, digits = fixed_sets.progress(regrets)
        return float(improvement.mean()), float(digits.mean())
