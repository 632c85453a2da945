"""A user compiles `step`, and has a schedule change the rate, a Python number, between steps."""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optimizers.registry import MAKES, Make, named
from tests.optimizers.task import Task, assert_same_run, gradients, parameters

pytestmark = pytest.mark.system

STEPS = 8
# Adam's forms are compiled as their subclasses, the forms of AdamW, which add a decay to the same step.
NAMES = [
    *("gap-sgd-debiased", "gap-sgd-each", "gap-adamw", "continuous-sgd-quick", "continuous-adamw"),
    *("aligned-sgd", "aligned-adamw", "random-sgd", "random-adamw", "mean-sgd", "mean-adamw", "cautious-adamw"),
]
# Forms that between them write to parameters and buffers in every way that there is.
SINGLE_NUMBERS: list[tuple[str, dict[str, Any]]] = [
    ("gap-sgd-debiased", {"select": "per_parameter"}),
    ("aligned-sgd", {"nesterov": False}),
    ("mean-adamw", {}),
    ("continuous-adamw", {}),
    ("cautious-adamw", {}),
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


def assert_same_memory(optimizer: Any, other: Any, **tolerance: float) -> None:
    """The state is the same, the record of the choices with it."""
    lazily = ("counted", "counts")  # the continuous forms count steps when the momentum moves; `selection` has them all
    states = [
        [{name: value for name, value in state.items() if name not in lazily} for state in each.state.values()]
        for each in (optimizer, other)
    ]
    torch.testing.assert_close(*states, equal_nan=True, **tolerance)


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
    run = eager(make)
    assert_same_run((task, optimizer), run, rtol=1e-4, atol=1e-4)
    assert_same_memory(optimizer, run[1], rtol=1e-4, atol=1e-4)
    if not make.name.startswith("random"):  # whose draws are left to Python
        assert breaks == 0
        assert graphs <= graphs_of_torch(make.family)


@pytest.mark.parametrize(("name", "further"), SINGLE_NUMBERS)
def test_compiled_code_keeps_what_it_writes_to_a_number_in_float64(name: str, further: dict[str, Any]) -> None:
    runs = []
    for compiles in (False, True):
        params = parameters((), (3, 2), dtype=torch.float64)
        optimizer = named(name)(params, **further)
        torch._dynamo.reset()
        step = torch.compile(optimizer.step, backend="aot_eager") if compiles else optimizer.step
        for n, grads in enumerate(gradients(params, STEPS)):
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + n)
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            step()
        runs.append((params, optimizer))
    (params, optimizer), (others, other) = runs
    torch.testing.assert_close(params, others)
    assert_same_memory(other, optimizer, rtol=1e-4, atol=1e-4)  # sketches are in float32


def test_every_class_that_needs_no_closure_is_compiled() -> None:
    tried = {base for name in NAMES for base in named(name).kind.mro()}
    assert {make.kind for make in MAKES if not make.needs_loss} <= tried


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("name", ["gap-sgd", "gap-adamw"])
def test_native_code_takes_the_step(name: str) -> None:
    make, task = named(name), Task()
    optimizer = make(some(make, task))
    graphs, breaks = compiled(task, optimizer, make.lr, "inductor")
    run = eager(make)
    assert_same_run((task, optimizer), run, rtol=1e-5, atol=1e-6)
    assert_same_memory(optimizer, run[1], rtol=1e-4, atol=1e-4)
    assert breaks == 0
    assert graphs <= graphs_of_torch(make.family)
