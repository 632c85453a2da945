"""GAP's steps against torch's: the step alone, and on ResNet-18 within a whole training step. Prints a table.

Both optimizers take turns in one process, so that a machine that gets slower or faster does so for both; a ratio is
the median over the turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from optrepro.optimizers.gap import GapAdamW, GapSGD
from optrepro.problems import networks

RATE = 1e-6  # small: the work is the same at any rate, and the network must not diverge
PAIRS = {
    "GapSGD, 3 candidates / SGD with momentum": (
        lambda params: GapSGD(params, RATE, (0.5, 0.9, 0.99)),
        lambda params: torch.optim.SGD(params, RATE, momentum=0.9, foreach=True),
        {"cpu": 2.5, "cuda": 2.2},
    ),
    "GapAdamW, 2 candidates / AdamW": (
        lambda params: GapAdamW(params, RATE, ((0.5, 0.999), (0.99, 0.999))),
        lambda params: torch.optim.AdamW(params, RATE, foreach=True),
        {"cpu": 2.0, "cuda": 2.0},
    ),
    "GapSGD, continuous / SGD with momentum": (
        lambda params: GapSGD(params, RATE, (0.0, 0.99), candidates="continuous"),
        lambda params: torch.optim.SGD(params, RATE, momentum=0.9, foreach=True),
        {"cpu": 1.3, "cuda": 1.3},
    ),
    "GapAdamW, continuous / AdamW": (
        lambda params: GapAdamW(params, RATE, ((0.0, 0.999), (0.99, 0.999)), candidates="continuous"),
        lambda params: torch.optim.AdamW(params, RATE, foreach=True),
        {"cpu": 1.3, "cuda": 1.3},
    ),
}
WITHIN_TRAINING = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=128, help="images in a training step")
    parser.add_argument("--steps", type=int, default=40, help="turns of the step alone")
    parser.add_argument("--training-steps", type=int, help="turns of the training step; by default 40, on a CPU 5")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    training_turns = arguments.training_steps or (5 if device.type == "cpu" else 40)

    print(f"ResNet-18 for CIFAR-100 and a perceptron on {device.type}")
    print(f"threads: {arguments.threads}, batch: {arguments.batch}\n")
    print("| what | torch | GAP | ratio | asked |")
    print("|---|---|---|---|---|")
    for name, (ours, theirs, bound) in PAIRS.items():
        sides = [Side(make, device, arguments.batch) for make in (ours, theirs)]
        report(f"step: {name}", [side.step for side in sides], arguments.steps, bound[device.type])
        report(f"training step: {name}", [side.train for side in sides], training_turns, WITHIN_TRAINING)
        small = [Side(make, device, arguments.batch, "perceptron") for make in (ours, theirs)]
        report(f"perceptron, step: {name}", [side.steps for side in small], arguments.steps, bound[device.type])


class Side:
    """A network, a batch and an optimizer."""

    def __init__(
        self, make: Callable[..., torch.optim.Optimizer], device: torch.device, batch: int, network: str = "resnet18"
    ) -> None:
        self.network = networks.build(network, (3, 32, 32), 100, seed=0).to(device)
        self.images = torch.rand(batch, 3, 32, 32, device=device)
        self.labels = torch.arange(batch, device=device) % 100
        self.optimizer = make(self.network.parameters())
        self.train()

    def train(self) -> float:
        """Seconds of forward pass, backward pass and step."""

        def work() -> None:
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.network(self.images), self.labels).backward()
            self.optimizer.step()

        return seconds(work, self.images.device)

    def step(self) -> float:
        """Seconds of a step on the last gradients."""
        return seconds(self.optimizer.step, self.images.device)

    def steps(self) -> float:
        """Seconds of 64 steps, in which the continuous form watches and rests once."""
        return seconds(lambda: [self.optimizer.step() for _ in range(64)], self.images.device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def report(name: str, measures: list[Callable[[], float]], turns: int, bound: float) -> None:
    """Let two measures take turns, and print a line."""
    for measure in measures:
        measure()
    times = [[measure() for measure in measures] for _ in range(turns)]
    ours, theirs = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(own / other for own, other in times)
    print(f"| {name} | {theirs:.1f} ms | {ours:.1f} ms | {ratio:.3f} | at most {bound} |", flush=True)


if __name__ == "__main__":
    main()
