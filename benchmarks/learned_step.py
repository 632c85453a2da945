"""A step of the learned optimizers against one of torch's Adam, its foreach form, and the memory that it takes.

The step alone, on gradients that are there: those of a perceptron of 50,000 parameters and of ResNet-18, 11 million.
All optimizers take turns in one process, so that a machine that gets slower or faster does so for all; times are
medians, and a ratio is the median over the turns. Peak memory is that of a process of its own which takes two steps,
beyond what it had with parameters and gradients, as a multiple of what the optimizer keeps.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from optrepro.optimizers import L2L, POP, PredictedStepDescent
from optrepro.optimizers.predicted_step import StepPolicy, StepPolicySettings
from optrepro.problems.networks import classic

RATE = 1e-6  # small: the work is the same at any rate, and the network must not diverge
WARM_UP = 2
MEMORY = 4  # at most so many times the state

Make = Callable[[Iterable[Tensor]], Optimizer]
LEARNED: dict[str, Make] = {
    "Predicted Step Descent, as shipped": partial(PredictedStepDescent, lr=RATE),
    "L2L, as shipped": partial(L2L, lr=RATE),
}
WIDE = "Predicted Step Descent, 128 cells"
ASKED = {  # at most so many times Adam's
    ("perceptron", "Predicted Step Descent, as shipped"): 20,
    ("perceptron", "L2L, as shipped"): 20,
    ("resnet18", "Predicted Step Descent, as shipped"): 60,
    ("resnet18", "L2L, as shipped"): 200,
}


def wide(params: Iterable[Tensor]) -> Optimizer:
    return PredictedStepDescent(params, RATE, StepPolicy(StepPolicySettings(cells=128)))


def parameters(name: str, device: torch.device) -> list[Tensor]:
    """The parameters of a network, with gradients."""
    torch.manual_seed(0)
    if name == "resnet18":
        network = classic.build("resnet18", (3, 32, 32), 100, seed=0).to(device)
    else:
        network = nn.Sequential(nn.Linear(100, 450), nn.ReLU(), nn.Linear(450, 10)).to(device)
    params = list(network.parameters())
    for param in params:
        param.grad = 1e-3 * torch.randn_like(param)
    return params


class Side:
    """Parameters with gradients, and an optimizer."""

    def __init__(self, make: Make, network: str, device: torch.device) -> None:
        self.device = device
        self.loss = torch.tensor(2.3, device=device)
        self.params = parameters(network, device)
        self.optimizer = make(self.params)
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


def report_times(network: str, sides: dict[str, Make], turns: int, device: torch.device) -> None:
    """A row for each optimizer and for Adam, on one network."""
    adam = Side(partial(torch.optim.Adam, lr=RATE, foreach=True), network, device)
    others = {name: Side(make, network, device) for name, make in sides.items()}
    times = [(adam.step(), *(side.step() for side in others.values())) for _ in range(turns)]
    columns = list(zip(*times, strict=True))
    size = sum(param.numel() for param in adam.params)
    print(f"| step, {size:,} parameters: Adam | {1000 * statistics.median(columns[0]):.2f} ms | 1 | | |", flush=True)
    for name, column in zip(others, columns[1:], strict=True):
        ratio = statistics.median(own / other for own, other in zip(column, columns[0], strict=True))
        asked = ASKED.get((network, name))
        value = f"{1000 * statistics.median(column):.2f} ms | {ratio:.1f}"
        print(f"| step, {size:,} parameters: {name} | {value} | {verdict(ratio, asked)} |", flush=True)


def report_memory(network: str) -> None:
    """A row for each optimizer: its peak on the CPU."""
    context = multiprocessing.get_context("spawn")
    for name in LEARNED:
        with context.Pool(1) as pool:
            peak, kept = pool.apply(measure_memory, (network, name))
        row = f"{peak / 1e6:,.0f} MB | {peak / kept:.2f}"
        print(
            f"| peak memory, {network}: {name}, times its state | {row} | {verdict(peak / kept, MEMORY)} |", flush=True
        )


def measure_memory(network: str, name: str) -> tuple[int, int]:
    """Bytes at the peak of two steps beyond parameters and gradients, and bytes of the state."""
    params, loss = parameters(network, torch.device("cpu")), torch.tensor(2.3)
    before = resident("VmRSS")
    optimizer = LEARNED[name](params)
    for _ in range(2):
        optimizer.step(lambda: loss)  # type: ignore[arg-type, return-value]
    return resident("VmHWM") - before, sum(part.nbytes for state in optimizer.state.values() for part in state.values())


def resident(line: str) -> int:
    """Bytes of this process in memory, now (VmRSS) or at its peak (VmHWM), as Linux knows them."""
    facts = dict(each.split(":", 1) for each in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(facts[line].split()[0])


def report_refusal(network: str) -> None:
    """A row that says what POP does where its state may not fit."""
    optimizer = POP(parameters(network, torch.device("cpu")))
    print(f"| memory that POP says it needs, {network} | {optimizer.bytes_needed() / 1e9:.1f} GB | | | |", flush=True)


def verdict(value: float, asked: float | None) -> str:
    """What is asked, and whether it holds."""
    return " | " if asked is None else f"at most {asked} | {'pass' if value <= asked else 'miss'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=40, help="turns on the perceptron")
    parser.add_argument("--large-steps", type=int, default=5, help="turns on ResNet-18")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)

    print(f"on {device.type}, threads: {arguments.threads}\n")
    print("| what | value | ratio | asked | |")
    print("|---|---|---|---|---|")
    report_times("perceptron", {**LEARNED, WIDE: wide}, arguments.steps, device)
    for name, make in LEARNED.items():  # one at a time, as each keeps much
        report_times("resnet18", {name: make}, arguments.large_steps, device)
    if Path("/proc/self/status").exists():
        report_memory("resnet18")
    report_refusal("resnet18")


if __name__ == "__main__":
    main()
