"""One decision of POP's policy for 64 starts on each of the 43 smooth benchmark functions, all in one batch.

A decision is what comes between an evaluation and the next: the features, the policy and the step. It is compared to a
whole step of Adam on the same problems: values and gradients of the functions, `torch.optim.Adam`, projection. Both
take turns in one process; times are medians, and a ratio is the median over the turns.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor

from optrepro.experiments.descent.benchmark import Boxes
from optrepro.metalearning.pop.environment import Descent
from optrepro.optimizers._pop_policy import Policy
from optrepro.optimizers.pop import POP
from optrepro.problems.functions import vlse

STARTS, STEPS, ROUNDS, RATE = 64, 50, 5, 0.03
MILLISECONDS, RATIO = 10, 5  # asked for: within the one or the other


class Adam:
    """Whole steps of Adam, all problems in one tensor."""

    def __init__(self, suite: Boxes):
        self.suite, self.u = suite, suite.start.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.u], lr=RATE)

    @torch.no_grad()
    def step(self) -> float:
        """Seconds of a step."""
        started = time.perf_counter()
        _, self.u.grad = self.suite.evaluate(self.u)
        self.optimizer.step()
        self.u.clamp_(0, 1)
        return time.perf_counter() - started


class Learned:
    """Steps of the policy, as in `optrepro.metalearning.pop.environment.roll_out`."""

    def __init__(self, suite: Boxes, policy: Policy):
        self.suite, self.policy = suite, policy
        self.descent = Descent(policy.settings, suite.start, suite.valid)
        self.memory, self.time = policy.begin(len(self.descent.numbers)), 0

    @torch.no_grad()
    def step(self) -> float:
        """Seconds of a decision; the evaluation before it does not count."""
        value, gradient = self.suite.evaluate(self.descent.u)
        started = time.perf_counter()
        features = self.descent.observe(value, gradient)
        action, _ = self.policy.step(features, self.memory, self.time)
        self.descent.move(action.to(gradient))
        self.time += 1
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="pop", help="name of a shipped policy, or a file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    functions = [vlse.get(name) for name in vlse.SMOOTH_43]
    generator = torch.Generator().manual_seed(0)
    suite = Boxes(functions, [starts(f.dim, generator) for f in functions])
    policy = POP.from_pretrained(arguments.policy)

    times = []
    for _ in range(ROUNDS):
        adam, learned = Adam(suite), Learned(suite, policy)
        times += [(adam.step(), learned.step()) for _ in range(STEPS)]
    step, decision = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(own / other for other, own in times)

    problems, coordinates = len(suite.start), int(suite.valid.sum())
    print(f"{problems:,} problems, {coordinates:,} coordinates, threads: {arguments.threads}\n")
    print("| what | time | asked |")
    print("|---|---|---|")
    print(f"| Adam's whole step, functions included | {step:.1f} ms | |")
    print(f"| a decision of the policy | {decision:.1f} ms | under {MILLISECONDS} ms, or |")
    print(f"| ratio | {ratio:.2f} | at most {RATIO} |")


def starts(dim: int, generator: torch.Generator) -> Tensor:
    return torch.rand(STARTS, dim, generator=generator, dtype=torch.float64)


if __name__ == "__main__":
    main()
