"""A user seeds torch once and expects that no optimizer draws from its generator or sets anything for all."""

import inspect
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tests.optimizers.registry import Make, each, each_that
from tests.optimizers.task import Task, parameters


@contextmanager
def nothing_drawn_or_set() -> Iterator[None]:
    torch.manual_seed(5)
    before = facts()
    yield
    assert facts() == before


def facts() -> tuple[object, ...]:
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_device(),
    )


def test_importing_draws_nothing_and_sets_nothing() -> None:
    code = "import random\nimport torch\n" + inspect.getsource(facts)
    code += "before = facts()\nimport optrepro.optimizers\nassert facts() == before\n"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@each_that(lambda make: "policy" not in make.settings and not make.policy)
def test_making_and_stepping_draws_nothing_and_sets_nothing(make: Make) -> None:
    task = Task()
    with nothing_drawn_or_set():
        optimizer = make(task.params)
        getattr(optimizer, "selection", None)
        optimizer.load_state_dict(optimizer.state_dict())
    steps_draw_nothing(make, optimizer, task)


@each_that(lambda make: make.policy)
def test_making_one_with_its_shipped_policy_or_another_draws_nothing_and_sets_nothing(make: Make) -> None:
    policy = make.policy()
    for settings in ({}, {"policy": policy}):
        task = Task()
        with nothing_drawn_or_set():
            optimizer = make.kind(task.params, **settings)
            optimizer.load_state_dict(optimizer.state_dict())
        steps_draw_nothing(make, optimizer, task)


def steps_draw_nothing(make: Make, optimizer: object, task: Task) -> None:
    with nothing_drawn_or_set():
        task.train(make, optimizer, 3)


@each
def test_a_seeded_comparison_stays_paired(make: Make) -> None:
    """What follows the making of an optimizer draws the same numbers, whichever optimizer it was."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make(parameters(3))
    assert torch.equal(torch.rand(3), expected)
