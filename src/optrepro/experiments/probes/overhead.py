"""Measures step time and memory of optimizers, relative to torch's own, on the parameters of networks.

An optimizer and torch's versions of its reference take turns, and ratios are computed within a turn, so that changes
in the machine's speed affect all of them alike. Two runs never give the same bytes, because times differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from optrepro.experiments.base import factory, tidy
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Row
from optrepro.problems.networks import classic, gpt, lora
from optrepro.studies.base import Batch
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.overhead import OverheadStudy, TimedFamily, TimedNetwork

RATE = 1e-6  # small, so that parameters stay finite; the work does not depend on the rate
VERSIONS = ("foreach", "fused")  # versions of torch's optimizer; ratios are relative to the first
MOST_TURNS = 40  # more turns would add little
STEPS = 64  # largest number of steps per turn; the continuous form observes and pauses once in so many
TURN = 0.05  # seconds; a turn has as many steps as fit into this time or into `seconds`, up to STEPS
IMAGES, CLASSES = (3, 32, 32), 100


def run(study: OverheadStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Return tidy results with one row per turn: the workload is ``network/family``, `seed` is the turn.

    Metrics of each turn: ``step_seconds``, and ``step_ratio``, relative to the reference's foreach version. Metrics
    recorded once: ``state_ratio``, bytes of state relative to the reference's, and ``parameters``, their number.
    Torch's versions have rows too, under the keys ``foreach`` and ``fused``.
    """
    rows: list[Row] = []
    total = len(study.networks) * sum(len(timed(family)) for family in study.families.values())
    done = 0
    for network_id, network in study.networks.items():
        parameters = _parameters(network, context.seed, context.device)
        for family_id, family in study.families.items():
            workload = f"{network_id}/{family_id}"
            for key, row in timed(family).items():
                rows += _measure(key, row, family, parameters, study, workload)
                context.progress(done := done + 1, total, f"{workload}: {key}")
    return tidy.frame(rows).assign(study=batch.study)


def attempts(study: OverheadStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield attempts to build every network and every timed optimizer."""
    for name, network in study.networks.items():
        yield f"networks.{name}", partial(build, network)
    for name, family in study.families.items():
        for key, row in timed(family).items():
            yield f"families.{name}.optimizers.{key}", partial(factory.make, row, [torch.zeros(2)], 1.0)


def timed(family: TimedFamily) -> dict[str, OptimizerConfig]:
    """Return the rows to time: no fixed ones, which are torch's own, and none with `shares_of`, whose cost is alike."""
    return {key: row for key, row in family.optimizers.items() if row.group != "fixed" and row.shares_of is None}


def build(network: TimedNetwork, seed: int = 0) -> nn.Module:
    """Build the network on the CPU. Raises: ValueError or TypeError for an unknown network or unsuitable sizes."""
    if network.network == "gpt":
        module = gpt.gpt(**network.settings, seed=seed)
    else:
        module = classic.build(network.network, IMAGES, CLASSES, seed=seed, **network.settings)
    if network.lora_rank is not None:
        module = lora.lora(module, network.lora_rank, network.lora_rank, None, seed)
    return module


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors that an optimizer keeps between steps, counting each storage once."""
    storages: dict[int, int] = {}
    kept = [dict(optimizer.state), getattr(optimizer, "sketch", None) and [optimizer.sketch.signs]]  # type: ignore[attr-defined]
    for tensor in _tensors(kept):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(storages.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _tensors(inner)


def _parameters(network: TimedNetwork, seed: int, device: torch.device) -> list[Tensor]:
    """Return the trained parameters, with random gradients that stay the same for all steps."""
    module = build(network, seed).to(device)
    parameters: list[Tensor] = list(lora.trainable(module).values())
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(device) * 1e-3
    return parameters


@dataclass
class _Side:
    """An optimizer with the arguments of its step, to be timed in turns."""

    optimizer: torch.optim.Optimizer
    arguments: dict[str, Any]
    device: torch.device

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> _Side:
        """Prepare an optimizer; arguments of its step are made from the current gradients."""
        needs = getattr(optimizer, "needs", None)
        given = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
        loss = torch.ones((), device=given[0].device)
        arguments = {"half_grads": given, "validation_grads": given, "loss": lambda: loss}
        names = {"loss": "closure"}
        if hasattr(optimizer, "train"):  # schedule-free optimizers only step in this mode
            optimizer.train()
        side = cls(optimizer, {names.get(needs, needs): arguments[needs]} if needs else {}, given[0].device)
        side.turn(2)  # the first step creates the state
        return side

    def turn(self, steps: int) -> float:
        """Return the mean seconds per step over `steps` steps."""
        _wait(self.device)
        started = time.perf_counter()
        for _ in range(steps):
            self.optimizer.step(**self.arguments)
        _wait(self.device)
        return (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measure(
    key: str,
    row: OptimizerConfig,
    family: TimedFamily,
    parameters: Sequence[Tensor],
    study: OverheadStudy,
    workload: str,
) -> list[Row]:
    """Time an optimizer and its references in turns; the first row of a family also reports the references."""
    cls: Callable[..., torch.optim.Optimizer] = factory.optimizer_class(family.reference)
    sides = {name: _Side.of(cls(parameters, RATE, **family.settings, **{name: True}), parameters) for name in VERSIONS}
    sides[key] = _Side.of(factory.make(row, parameters, RATE), parameters)
    known = [*VERSIONS, key] if key == next(iter(timed(family))) else [key]
    steps = max(1, min(STEPS, int(min(TURN, study.seconds) / sides[key].turn(1))))
    rows: list[Row] = []

    def record(optimizer: str, turn: int, metric: str, value: float) -> None:
        rows.append(Row("", "", workload, optimizer, "test", RATE, turn, 0, metric, float(value)))

    base = state_bytes(sides["foreach"].optimizer)
    for name in known:
        record(name, 0, "state_ratio", state_bytes(sides[name].optimizer) / base)
        record(name, 0, "parameters", sum(parameter.numel() for parameter in parameters))
    started, turn = time.perf_counter(), 0
    while turn < study.turns or (turn < MOST_TURNS and time.perf_counter() - started < study.seconds):
        seconds = {name: side.turn(steps) for name, side in sides.items()}
        for name in known:
            record(name, turn, "step_seconds", seconds[name])
            record(name, turn, "step_ratio", seconds[name] / seconds["foreach"])
        turn += 1
    return rows
