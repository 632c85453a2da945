"""A user has a scheduler of `torch.optim.lr_scheduler` change the rate, and perhaps the momentum, between steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from optrepro import optimizers
from tests.optimizers.registry import Make, each, each_class, each_that
from tests.optimizers.task import EXACT, Task, assert_same_run, copies, moved, trained

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda n: 1 / (1 + n)),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6, eta_min=1e-3),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        [3],
    ),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0),
    "SWALR": lambda optimizer: torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.01, anneal_epochs=3),
}
CYCLES: dict[str, Callable[..., Any]] = {
    "OneCycleLR": lambda optimizer, **settings: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8, **settings),
    "CyclicLR": lambda optimizer, **settings: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, **settings),
}
cycles = pytest.mark.parametrize("cycle", CYCLES.values(), ids=CYCLES)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@each_class
def test_a_schedule_is_the_rates_set_by_hand(make: Make, schedule: Callable[[Any], Any]) -> None:
    task = Task()
    optimizer = make(task.params)
    scheduler, rates = schedule(optimizer), []
    for n in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        task.train(make, optimizer, 1, start=n)
        scheduler.step(*((1.0,) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else ()))
    assert len(set(rates)) > 1
    by_hand_task = Task()
    by_hand = make(by_hand_task.params)
    for n, rate in enumerate(rates):
        by_hand.param_groups[0]["lr"] = rate
        by_hand_task.train(make, by_hand, 1, start=n)
    assert_same_run((task, optimizer), (by_hand_task, by_hand))


@each
def test_a_rate_of_zero_stops_the_parameters(make: Make) -> None:
    task, optimizer = trained(make, 3)
    optimizer.param_groups[0]["lr"] = 0.0
    before = copies(task.params)
    task.train(make, optimizer, 2, start=3)
    assert not any(moved(task.params, before))
    optimizer.param_groups[0]["lr"] = make.lr
    task.train(make, optimizer, 2, start=5)
    assert all(moved(task.params, before))


@each
def test_a_schedule_of_a_rate_in_a_tensor_is_that_of_its_value(make: Make) -> None:
    runs = []
    for rate in (make.lr, torch.tensor(make.lr, dtype=torch.float64)):
        task = Task()
        optimizer = make(task.params, rate)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 6, eta_min=1e-3)
        for n in range(6):
            task.train(make, optimizer, 1, start=n)
            scheduler.step()
        runs.append((task, optimizer))
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)
    assert_same_run(*runs, rtol=1e-5, atol=1e-6)


@each
def test_a_schedule_and_its_optimizer_go_on_from_a_checkpoint(make: Make) -> None:
    def begun() -> tuple[Task, Any, Any]:
        task = Task()
        optimizer = make(task.params)
        return task, optimizer, lr_scheduler.StepLR(optimizer, 2, gamma=0.5)

    def train(task: Task, optimizer: Any, scheduler: Any, start: int) -> None:
        for n in range(start, start + 3):
            task.train(make, optimizer, 1, start=n)
            scheduler.step()

    run, resumed = begun(), begun()
    train(*run, start=0)
    resumed[0].like(run[0])
    resumed[1].load_state_dict(run[1].state_dict())
    resumed[2].load_state_dict(run[2].state_dict())
    train(*run, start=3)
    train(*resumed, start=3)
    assert_same_run(run[:2], resumed[:2])


# Schedulers that cycle the momentum, which is what they do unless they are told not to.


@cycles
@each_that(lambda make: make.is_fixed and make.reference)
def test_a_single_candidate_is_cycled_exactly_as_torchs(make: Make, cycle: Callable[..., Any]) -> None:
    task, their_task = Task(), Task()
    ours = make(task.params)
    theirs = make.reference(their_task.params, lr=make.lr, foreach=False, **make.torch_settings)
    schedulers, momenta = [cycle(ours), cycle(theirs)], set()
    for n in range(8):
        task.train(make, ours, 1, start=n)
        their_task.closure(theirs, n)()
        theirs.step()
        momenta.add(theirs.param_groups[0][make.family])
        for scheduler in schedulers if n < 7 else ():
            scheduler.step()
    assert len(momenta) > 4
    torch.testing.assert_close(task.params, their_task.params, **EXACT)


@cycles
@each_that(lambda make: make.kind is optimizers.CautiousAdamW)
def test_a_cycle_of_the_momentum_is_the_betas_set_by_hand(make: Make, cycle: Callable[..., Any]) -> None:
    task, by_hand_task = Task(), Task()
    optimizer, by_hand = make(task.params), make(by_hand_task.params)
    scheduler = cycle(optimizer)
    for n in range(6):
        for name in ("lr", "betas"):
            by_hand.param_groups[0][name] = optimizer.param_groups[0][name]
        task.train(make, optimizer, 1, start=n)
        by_hand_task.train(make, by_hand, 1, start=n)
        scheduler.step()
    assert_same_run((task, optimizer), (by_hand_task, by_hand))


@cycles
@each_that(lambda make: make.family and not make.is_fixed and make.kind is not optimizers.CautiousAdamW)
def test_several_candidates_are_not_cycled_and_the_error_says_how_to_leave_them(
    make: Make, cycle: Callable[..., Any]
) -> None:
    task, optimizer = trained(make, 2)
    before = copies(task.params)

    def train() -> None:
        cycle(optimizer)
        task.train(make, optimizer, 1)

    with pytest.raises(ValueError, match="cycle_momentum=False") as error:
        train()
    assert "\n" not in str(error.value)
    assert not any(moved(task.params, before))


@cycles
@each
def test_without_a_cycle_of_the_momentum_the_rate_alone_is_cycled(make: Make, cycle: Callable[..., Any]) -> None:
    task = Task()
    optimizer = make(task.params)
    candidates = optimizer.param_groups[0].get(make.family)
    scheduler, rates = cycle(optimizer, cycle_momentum=False), set()
    before = copies(task.params)
    for n in range(7):
        rates.add(optimizer.param_groups[0]["lr"])
        task.train(make, optimizer, 1, start=n)
        scheduler.step()
    assert len(rates) > 3
    assert optimizer.param_groups[0].get(make.family) == candidates
    assert all(moved(task.params, before))
    assert all(param.isfinite().all() for param in task.params)
