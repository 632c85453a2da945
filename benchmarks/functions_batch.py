"""All 47 functions x 64 starts x 8 learning rates x 200 steps of Adam: one batch against a loop over the problems.

The loop would take the better part of an hour, so it is timed on a sample that holds each function once, with a rate
and a start of its own, and scaled up to all problems. Loop and batch alternate; each counts with its median round.
Prints the ratio.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor

from optrepro.experiments.descent.benchmark import descend
from optrepro.problems.functions import vlse
from optrepro.problems.functions.vlse import Function
from optrepro.studies.comparison import OptimizerConfig

STARTS, RATES, STEPS, ROUNDS = 64, (0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8), 200, 3


def loop(f: Function, start: Tensor, rate: float) -> float:
    """The best value of one plain run of `torch.optim.Adam` in box coordinates, projected after each step."""
    u = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([u], lr=rate)
    best = float("inf")
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = f(torch.lerp(f.lower, f.upper, u))
        value.backward()
        best = min(best, value.item())
        optimizer.step()
        with torch.no_grad():
            u.clamp_(0, 1)
    return best


def main() -> None:
    torch.set_num_threads(1)
    functions = [vlse.get(name) for name in vlse.names()]
    generator = torch.Generator().manual_seed(0)
    starts = [torch.rand(STARTS, f.dim, generator=generator, dtype=torch.float64) for f in functions]
    rates = torch.tensor(RATES, dtype=torch.float64).expand(len(functions), -1)
    adam = OptimizerConfig.model_validate({"label": "Adam", "class": "torch.optim.Adam"})
    sample = [(f, i % STARTS, i % len(RATES)) for i, f in enumerate(functions)]
    problems = len(functions) * STARTS * len(RATES)

    loop_seconds, batch_seconds, largest_difference = [], [], 0.0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        alone = [loop(f, starts[i][start], RATES[rate]) for i, (f, start, rate) in enumerate(sample)]
        loop_seconds.append((time.perf_counter() - began) * problems / len(sample))
        began = time.perf_counter()
        best = descend(adam, functions, starts, rates, budget=STEPS).values.amin(0)
        batch_seconds.append(time.perf_counter() - began)
        together = [best[i, rate, start].item() for i, (_, start, rate) in enumerate(sample)]
        differences = (abs(a - b) / max(1.0, abs(a)) for a, b in zip(alone, together, strict=True))
        largest_difference = max(largest_difference, *differences)

    one_by_one, together_all = statistics.median(loop_seconds), statistics.median(batch_seconds)
    print("| what | time | asked |")
    print("|---|---|---|")
    print(f"| loop over {problems:,} problems, extrapolated from {len(sample)} | {one_by_one:.0f} s | |")
    print(f"| one batch | {together_all:.1f} s | |")
    print(f"| ratio | {one_by_one / together_all:.0f} | at least 50 |")
    print(f"| largest relative difference of the sample's best values | {largest_difference:.0e} | |")


if __name__ == "__main__":
    main()
