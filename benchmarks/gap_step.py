"""Steps of the optimizers against torch's foreach steps. Prints tables; each row passes or misses what is asked.

Both sides take turns in one process, so that a machine that gets slower or faster does so for both; a ratio is the
median over the turns. A turn of the continuous forms is 64 steps, in which they observe and rest once.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optrepro.optimizers import AlignedMeanAdamW, AlignedMeanSGD, CautiousAdamW, GapAdamW, GapSGD
from optrepro.problems.networks import classic

RATE = 1e-6  # small: the work is the same at any rate, and the network must not diverge
SETS: dict[str, Callable[[], list[tuple[int, ...]]]] = {
    "5 tensors, 10,000 elements": lambda: [(64, 100), (100,), (100, 30), (30,), (470,)],
    "ResNet-18": lambda: [tuple(p.shape) for p in classic.build("resnet18", (3, 32, 32), 100, seed=0).parameters()],
    "150 tensors, 10 M elements": lambda: [(66_667,)] * 150,
}
CYCLE = 64
WITH_GAPS, WITHIN_TRAINING = 1.2, 1.05
Make = Callable[[list[Tensor]], torch.optim.Optimizer]


def sgd(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, RATE, momentum=0.9, foreach=True)


def adamw(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, RATE, foreach=True)


@dataclass(frozen=True)
class Row:
    """An optimizer, what it is measured against, and the ratio that is asked in each set."""

    make: Make
    reference: Make
    asked: tuple[float, float, float]
    steps: int = 1


ROWS = {
    "GapSGD, 3 candidates": Row(lambda p: GapSGD(p, RATE, (0.5, 0.9, 0.99)), sgd, (2.2, 2.2, 2.2)),
    "GapAdamW, 2 candidates": Row(lambda p: GapAdamW(p, RATE, ((0.5, 0.999), (0.99, 0.999))), adamw, (1.5, 1.5, 1.3)),
    "AlignedMeanSGD, 3 candidates": Row(lambda p: AlignedMeanSGD(p, RATE, (0.5, 0.9, 0.99)), sgd, (3.0, 2.6, 2.6)),
    "CautiousAdamW": Row(lambda p: CautiousAdamW(p, RATE), adamw, (1.3, 1.3, 1.3)),
    "GapSGD, continuous": Row(lambda p: GapSGD(p, RATE, candidates="continuous"), sgd, (1.3, 1.3, 1.3), CYCLE),
    "GapAdamW, continuous": Row(lambda p: GapAdamW(p, RATE, candidates="continuous"), adamw, (1.3, 1.3, 1.3), CYCLE),
}
COMPILED: dict[str, Make] = {
    "GapSGD": lambda p: GapSGD(p, RATE),
    "GapSGD, per parameter": lambda p: GapSGD(p, RATE, select="per_parameter"),
    "GapSGD, debiased": lambda p: GapSGD(p, RATE, score="debiased", score_ema=0.5, hysteresis=0.1),
    "GapAdamW": lambda p: GapAdamW(p, RATE),
    "AlignedMeanSGD": lambda p: AlignedMeanSGD(p, RATE),
    "AlignedMeanAdamW": lambda p: AlignedMeanAdamW(p, RATE),
    "CautiousAdamW": lambda p: CautiousAdamW(p, RATE),
    "GapSGD, continuous": lambda p: GapSGD(p, RATE, candidates="continuous"),
    "GapAdamW, continuous": lambda p: GapAdamW(p, RATE, candidates="continuous"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=4.0, help="of turns, for each ratio")
    parser.add_argument("--rows", help="only rows whose name contains this")
    parser.add_argument("--training", type=int, default=0, help="turns of whole training steps of ResNet-18; 0: none")
    parser.add_argument("--batch", type=int, default=128, help="images in a training step")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = {name: row for name, row in ROWS.items() if not arguments.rows or arguments.rows in name}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        head(f"Steps, as a ratio to torch's foreach ({device.type}, threads: {threads})", "torch | ours | ratio")
        for name, row in rows.items():
            for asked, (what, shapes) in zip(row.asked, SETS.items(), strict=True):
                ours, theirs = (Side(make, shapes(), device, row.steps) for make in (row.make, row.reference))
                compare(f"{name}: {what}", ours.turn, theirs.turn, asked, arguments.seconds)
        head(f"30 % of the gradients None, others each time (threads: {threads})", "all | some None | ratio")
        for name, row in rows.items():
            for what, shapes in SETS.items():
                some, every = (Side(row.make, shapes(), device, row.steps, kept=kept) for kept in (0.7, 1.0))
                compare(f"{name}: {what}", some.turn, every.turn, WITH_GAPS, arguments.seconds)
        if arguments.training:
            head(f"Training steps of ResNet-18, batch {arguments.batch} (threads: {threads})", "torch | ours | ratio")
            for name, row in rows.items():
                sides = [Training(make, device, arguments.batch) for make in (row.make, row.reference)]
                compare(name, sides[0].turn, sides[1].turn, WITHIN_TRAINING, 0.0, arguments.training)
    head("Graphs of 8 compiled steps on a schedule", "torch's | ours | breaks")
    # As they are without settings: with foreach=True torch's own make a graph for each rate.
    torchs = [
        graphs(make)[0] for make in (lambda p: torch.optim.SGD(p, RATE, 0.9), lambda p: torch.optim.AdamW(p, RATE))
    ]
    for name, make in COMPILED.items():
        if not arguments.rows or arguments.rows in name:
            (ours, breaks), theirs = graphs(make), torchs["Adam" in name]
            verdict = "pass" if ours <= theirs and breaks == 0 else "miss"
            print(f"| {name} | {theirs} | {ours} | {breaks} | as many, no break | {verdict} |", flush=True)


class Side:
    """Parameters with gradients, and an optimizer.

    Args:
        steps: in a turn, of small parameters at least 16.
        kept: share of the parameters that have a gradient in a step, others in each.
    """

    def __init__(
        self, make: Make, shapes: list[tuple[int, ...]], device: torch.device, steps: int, kept: float = 1.0
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.params = [torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in shapes]
        self.grads = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
        count = torch.Generator().manual_seed(1)
        draws = [torch.rand(len(shapes), generator=count) for _ in range(16)]
        kept_count = max(1, round(kept * len(shapes)))
        self.masks = [(draw.argsort() < kept_count).tolist() for draw in draws]
        self.optimizer, self.device = make(self.params), device
        self.steps = max(steps, 16 if sum(param.numel() for param in self.params) < 10**5 else 1)
        self.taken = 0
        for _ in range(4):
            self.turn()

    def turn(self) -> float:
        """Seconds of a step, the mean of some."""
        seconds = 0.0
        for _ in range(self.steps):
            mask = self.masks[self.taken % len(self.masks)]
            self.taken += 1
            for param, grad, keep in zip(self.params, self.grads, mask, strict=True):
                param.grad = grad if keep else None
            seconds += timed(self.optimizer.step, self.device)
        return seconds / self.steps


class Training:
    """A network, a batch and an optimizer."""

    def __init__(self, make: Make, device: torch.device, batch: int) -> None:
        self.network = classic.build("resnet18", (3, 32, 32), 100, seed=0).to(device)
        self.images = torch.rand(batch, 3, 32, 32, device=device)
        self.labels = torch.arange(batch, device=device) % 100
        self.optimizer = make(list(self.network.parameters()))
        self.turn()

    def turn(self) -> float:
        """Seconds of forward pass, backward pass and step."""

        def work() -> None:
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.network(self.images), self.labels).backward()
            self.optimizer.step()

        return timed(work, self.images.device)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of some work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def turns(
    ours: Callable[[], float], theirs: Callable[[], float], seconds: float, least: int
) -> Iterator[tuple[float, float]]:
    """Turns of both, as many as fit the time, and at least so many."""
    started, count = time.perf_counter(), 0
    while count < least or time.perf_counter() - started < seconds:
        yield ours(), theirs()
        count += 1


def compare(
    name: str, ours: Callable[[], float], theirs: Callable[[], float], asked: float, seconds: float, least: int = 5
) -> None:
    """Let two sides take turns, and print a row."""
    times = list(turns(ours, theirs, seconds, least))
    own, other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    verdict = "pass" if ratio <= asked else "miss"
    print(f"| {name} | {other:.3f} ms | {own:.3f} ms | {ratio:.2f} | at most {asked} | {verdict} |", flush=True)


def graphs(make: Make) -> tuple[int, int]:
    """The graphs that a compiled step makes of 8 steps whose rate changes, and the breaks between them."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    params = [torch.ones(4, 3, requires_grad=True), torch.ones(5, requires_grad=True)]
    optimizer = make(params)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for n in range(8):
        optimizer.param_groups[0]["lr"] = RATE / (1 + n)
        for param in params:
            param.grad = torch.full_like(param, 1.0 + n)
        step()
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def head(title: str, columns: str) -> None:
    print(f"\n{title}\n\n| what | {columns} | asked | |\n|---|---|---|---|---|---|", flush=True)


if __name__ == "__main__":
    main()
