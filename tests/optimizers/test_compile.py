"""A user compiles `step`, and has a schedule change the rate, a Python number, between steps."""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optimizers.registry import MAKES, Make, named
from tests.optimizers.task import Task, assert_same_run

STEPS = 8
NAMES = [
    *("gap-sgd-debiased", "gap-sgd-each", "gap-adam", "gap-adamw"),
    *("continuous-sgd-quick", "continuous-adam", "continuous-adamw"),
    *("aligned-sgd", "aligned-adam", "aligned-adamw"),
    *("random-sgd", "random-adam", "random-adamw", "mean-sgd", "mean-adam", "mean-adamw", "cautious-adamw"),
]


def some(make: Make, task: Task) -> list[Tensor]:
    """Two parameters where one choice is made for both, else one, which takes half the time."""
    return task.params[:2] if make.name.startswith(("gap", "continuous")) else task.params[:1]


def train(optimizer: Any, task: Task, rate: float, step: Callable[[], Any]) -> None:
    for n in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate / (1 + n)
        task.closure(optimizer, n)()
        step()


def compiled(task: Task, optimizer: Any, rate: float, backend: str) -> tuple[int, int]:
    """How many graphs were compiled for a run, and how often the compiler had to stop in between."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    train(optimizer, task, rate, torch.compile(optimizer.step, backend=backend))
    counters = torch._dynamo.utils.counters
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    torch._dynamo.reset()
    return graphs, breaks


def eager(make: Make) -> tuple[Task, Any]:
    task = Task()
    optimizer = make(some(make, task))
    train(optimizer, task, make.lr, optimizer.step)
    return task, optimizer


@functools.cache
def graphs_of_torch(family: str) -> int:
    """How many graphs torch's own optimizer of a family makes of the same steps."""
    task = Task()
    params = task.params[:2]
    optimizer = torch.optim.SGD(params, 0.05, 0.9) if family == "momentum" else torch.optim.AdamW(params, 0.05)
    return compiled(task, optimizer, 0.05, "aot_eager")[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_step_is_the_step_and_a_schedule_makes_no_more_graphs_than_torchs(name: str) -> None:
    make, task = named(name), Task()
    optimizer = make(some(make, task))
    graphs, breaks = compiled(task, optimizer, make.lr, "aot_eager")
    assert_same_run((task, optimizer), eager(make), rtol=1e-4, atol=1e-4)
    if make.looks_at_ranks:  # the draws of the random controls are left to Python
        assert breaks == 0
        assert graphs <= graphs_of_torch(make.family)


def test_every_class_that_needs_no_closure_is_compiled() -> None:
    assert {named(name).kind for name in NAMES} == {make.kind for make in MAKES if not make.needs_loss}


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_native_code_takes_the_step() -> None:
    make, task = named("gap-sgd"), Task()
    optimizer = make(some(make, task))
    graphs, breaks = compiled(task, optimizer, make.lr, "inductor")
    assert_same_run((task, optimizer), eager(make), rtol=1e-5, atol=1e-6)
    assert breaks == 0
    assert graphs <= graphs_of_torch("momentum")
