"""A step of the learned optimizers against one of torch's Adam, on a perceptron of 50,000 parameters. Prints a table.

The step alone, on gradients that are there. All optimizers take turns in one process, so that a machine that gets
slower or faster does so for all; times are medians, and a ratio is the median over the turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from optrepro.optimizers.l2l import L2L
from optrepro.optimizers.predicted_step import PredictedStepDescent, StepPolicy, StepPolicySettings

RATE = 1e-6  # small: the work is the same at any rate, and the network must not diverge
WARM_UP = 10
ASKED = 20  # at most so many times Adam's, of the shipped weights

Make = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
LEARNED: dict[str, tuple[Make, str]] = {
    "Predicted Step Descent, as shipped": (lambda params: PredictedStepDescent(params, RATE), f"at most {ASKED}"),
    "Predicted Step Descent, 128 cells": (
        lambda params: PredictedStepDescent(params, RATE, StepPolicy(StepPolicySettings(cells=128))),
        "",
    ),
    "L2L, as shipped": (lambda params: L2L(params, RATE), f"at most {ASKED}"),
}


class Side:
    """A perceptron with gradients, and an optimizer."""

    def __init__(self, make: Make, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        network = nn.Sequential(nn.Linear(100, 450), nn.ReLU(), nn.Linear(450, 10)).to(device)
        labels = torch.arange(64, device=device) % 10
        self.loss = nn.functional.cross_entropy(network(torch.randn(64, 100, device=device)), labels)
        self.loss.backward()
        self.optimizer = make(network.parameters())
        self.parameters = sum(p.numel() for p in network.parameters())
        for _ in range(WARM_UP):
            self.step()

    def step(self) -> float:
        """Seconds of a step."""
        self.synchronize()
        started = time.perf_counter()
        self.optimizer.step(lambda: self.loss)  # type: ignore[arg-type, return-value]
        self.synchronize()
        return time.perf_counter() - started

    def synchronize(self) -> None:
        """Wait for a GPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=40, help="turns")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    adam = Side(torch.optim.Adam, device)
    sides = {name: Side(make, device) for name, (make, _) in LEARNED.items()}
    turns = [(adam.step(), *(side.step() for side in sides.values())) for _ in range(arguments.steps)]
    columns = list(zip(*turns, strict=True))

    print(f"{adam.parameters:,} parameters on {device.type}, threads: {arguments.threads}\n")
    print("| a step of | time | times Adam's | asked |")
    print("|---|---|---|---|")
    print(f"| Adam | {1000 * statistics.median(columns[0]):.2f} ms | 1 | |")
    for (name, (_, asked)), column in zip(LEARNED.items(), columns[1:], strict=True):
        ratio = statistics.median(own / other for own, other in zip(column, columns[0], strict=True))
        print(f"| {name} | {1000 * statistics.median(column):.2f} ms | {ratio:.1f} | {asked} |")


if __name__ == "__main__":
    main()
