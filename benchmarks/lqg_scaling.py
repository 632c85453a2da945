"""An LQG pass of guided policy search against the number of coordinates, and against the horizon.

Groups share their gains, so a backward pass does not see how many coordinates there are; the fit of the models sees
each of them once. Asked for: the cost of a backward pass is constant in the coordinates and linear in the horizon.
A time is the median over turns in which all sizes are timed, a ratio the median of the turns' ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from optrepro.metalearning.lto import local_models, lqg
from optrepro.metalearning.lto.features import Compact, Phi
from optrepro.metalearning.lto.lqg import Controller, Cost, Dynamics

GROUPS, STRENGTH = 4, 200.0
COORDINATES, HORIZONS = (250, 1000, 4000, 16_000), (50, 100, 200, 400)
AT_HORIZON, AT_COORDINATES = 50, 1000  # where the other one varies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", choices=["phi", "compact"], default="compact")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    features = Phi.SIZE if arguments.state == "phi" else Compact.SIZE

    sizes = [(n, AT_HORIZON) for n in COORDINATES] + [(AT_COORDINATES, t) for t in HORIZONS]
    samples = [made_up(coordinates, horizon, features) for coordinates, horizon in sizes]
    fits = take_turns([partial(fit, *of) for of in samples], arguments.turns)
    passes = take_turns([partial(backward, *fit(*of)) for of in samples], arguments.turns)

    print(f"{GROUPS} groups, {features} features, threads: {arguments.threads}\n")
    print("| coordinates | horizon | fit | backward pass | ratio to the first row | asked |")
    print("|---|---|---|---|---|---|")
    for i, (coordinates, horizon) in enumerate(sizes):
        first = 0 if i < len(COORDINATES) else len(COORDINATES)
        ratio = statistics.median(turn[i] / turn[first] for turn in passes)
        asked = "1" if first == 0 else f"{horizon / HORIZONS[0]:g}"
        cells = [f"{1000 * statistics.median(turn[i] for turn in turns):.1f} ms" for turns in (fits, passes)]
        print(f"| {coordinates:,} | {horizon} | {' | '.join(cells)} | {ratio:.2f} | {asked} |")


def made_up(coordinates: int, horizon: int, features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States (T + 1, N, n) and actions (T, N, 1) of each of the groups."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(horizon + 1, coordinates, features, generator=generator)
    return states, torch.randn(horizon, coordinates, 1, generator=generator)


def fit(states: torch.Tensor, actions: torch.Tensor) -> tuple[Dynamics, Cost]:
    """Models of all groups."""
    horizon, features = len(actions), states.shape[-1]
    gain = torch.zeros(horizon, 1, features, dtype=torch.float64)
    old, curvature = Controller(gain, gain[..., 0], gain[..., :1] + 1), torch.ones(horizon, dtype=torch.float64)
    dynamics = [local_models.dynamics(states, actions, STRENGTH) for _ in range(GROUPS)]
    costs = [
        local_models.advantage(states[:-1], actions[..., 0], curvature, old, 0.95, STRENGTH) for _ in range(GROUPS)
    ]
    return local_models.stack(dynamics), local_models.stack(costs)


def backward(dynamics: Dynamics, cost: Cost) -> Controller:
    """As in the constrained update, with a weight on the divergence that makes the minimum exist."""
    m, n = dynamics.B.shape[-1], dynamics.B.shape[-2]
    eye = torch.eye(m, dtype=torch.float64).expand(*cost.h.shape, m, m)
    old = Controller(torch.zeros(*cost.h.shape, m, n, dtype=torch.float64), torch.zeros_like(eye[..., 0]), eye)
    weight = torch.full_like(cost.h, 1e6)
    return lqg.backward(dynamics, cost + lqg.surprise(old, weight), weight)


def take_turns(work: Sequence[Callable[[], object]], turns: int) -> list[list[float]]:
    """Seconds of each piece of work in each turn; a first turn is left out."""
    return [[seconds(each) for each in work] for _ in range(turns + 1)][1:]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
