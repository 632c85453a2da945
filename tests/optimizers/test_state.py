"""A user looks into `optimizer.state`, or changes it by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optimizers.registry import Make, each, each_that
from tests.optimizers.task import EXACT, Task, assert_is_as_it_was, assert_same_run, copies, moved, snapshot, trained

SECOND_MOMENT = {"momentum": set(), "betas": {"exp_avg_sq"}}


def other_keys(optimizer: Any) -> list[Any]:
    """Keys of the state that are no parameters."""
    params = {id(param) for group in optimizer.param_groups for param in group["params"]}
    return [key for key in optimizer.state if id(key) not in params]


@each
def test_the_state_has_no_key_but_parameters_at_any_time(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    for step in range(3):
        for look in (lambda: None, optimizer.state_dict, lambda: getattr(optimizer, "selection", None)):
            look()
            assert not other_keys(optimizer)
        task.train(make, optimizer, 1, start=step)
        assert not other_keys(optimizer)
    optimizer.load_state_dict(optimizer.state_dict())
    assert not other_keys(optimizer)
    other_task, other = copy.deepcopy((task, optimizer))
    other_task.train(make, other, 1)
    assert not other_keys(other)


@each
def test_reading_changes_nothing(make: Make) -> None:
    for steps in (0, 3):
        _, optimizer = trained(make, steps)
        before = snapshot(optimizer)
        optimizer.state_dict()
        for name in ("selection", "momentum", "autocorrelation", "interval"):
            getattr(optimizer, name, None)
        repr(optimizer)
        assert_is_as_it_was(optimizer, before)


@each
def test_the_state_holds_tensors_alone(make: Make) -> None:
    _, optimizer = trained(make)
    entries = [entry for state in optimizer.state.values() for entry in state.items()]
    assert [name for name, value in entries if not isinstance(value, Tensor) or value.requires_grad] == []


@each_that(lambda make: make.family)
def test_each_candidate_has_a_buffer_shaped_like_the_parameter_under_torchs_name(make: Make) -> None:
    task, optimizer = trained(make)
    for param in task.params:
        state = optimizer.state[param]
        assert {*make.buffers, *SECOND_MOMENT[make.family]} <= set(state)
        shaped = {name for name, value in state.items() if value.dim() > 0}
        if make.is_continuous:  # what it has seen of the gradients has a shape of its own
            shaped = {name for name in shaped if name.startswith(("momentum", "exp_avg"))}
        extra = {"previous_grad"} if make.settings.get("score") == "debiased" and not make.probes else set()
        assert shaped <= {*make.buffers, *SECOND_MOMENT[make.family], *extra}
        for name in shaped:
            assert state[name].shape == param.shape
            assert state[name].dtype == param.dtype


@each_that(lambda make: make.family == "betas")
def test_the_steps_of_a_parameter_are_counted_in_a_number(make: Make) -> None:
    task, optimizer = trained(make, 7)
    assert [optimizer.state[param]["step"].item() for param in task.params] == [7] * 4


@each_that(lambda make: not make.family)
def test_what_a_rule_remembers_is_shaped_like_the_parameter_first(make: Make) -> None:
    task, optimizer = trained(make)
    for param, state in optimizer.state.items():
        shapes = {name: value.shape for name, value in state.items() if value.dim() > 0}
        assert {name: shape for name, shape in shapes.items() if shape[: param.dim()] != param.shape} == {}
    assert len(optimizer.state) == (0 if make.name == "polyak" else len(task.params))


@each
def test_after_the_state_is_cleared_it_starts_anew(make: Make) -> None:
    task, optimizer = trained(make, 9)
    optimizer.state.clear()
    fresh_task = Task().like(task)
    fresh = make(fresh_task.params)
    task.train(make, optimizer, 4, start=9)
    fresh_task.train(make, fresh, 4, start=9)
    assert_same_run((task, optimizer), (fresh_task, fresh))


@each_that(lambda make: make.family)
def test_a_buffer_that_is_replaced_counts_from_the_next_step_on(make: Make) -> None:
    """One that is overwritten in place counts alike."""
    runs = []
    for replaces in (True, False, None):
        task, optimizer = trained(make, 5)
        for param in task.params if replaces is not None else ():
            for name in make.buffers:
                buffer = optimizer.state[param][name]
                if replaces:
                    optimizer.state[param][name] = -2 * buffer
                else:
                    buffer.mul_(-2)
        task.train(make, optimizer, 3, start=5)
        runs.append((task, optimizer))
    assert_same_run(runs[0], runs[1], **make.rounding)
    assert all(moved(runs[0][0].params, copies(runs[2][0].params)))


@each_that(lambda make: make.selects)
def test_a_choice_that_was_read_stays_as_it_was(make: Make) -> None:
    task, optimizer = trained(make, 5)
    read = optimizer.selection
    kept = copy.deepcopy(read)
    task.train(make, optimizer, 5, start=5)
    torch.testing.assert_close(read, kept, **EXACT)


@each_that(lambda make: make.selects and not make.name.startswith("mean"))
def test_the_record_of_choices_counts_every_step(make: Make) -> None:
    _, fresh = trained(make, 0)
    assert (fresh.selection["last"] == -1).all()
    assert not fresh.selection["counts"].any()
    _, optimizer = trained(make, 11)
    rows = (4,) if make.selects_each else ()
    assert optimizer.selection["last"].shape == rows
    assert (optimizer.selection["last"] >= 0).all()
    total = optimizer.selection["counts"].sum(-1)
    torch.testing.assert_close(total, torch.full(rows, 11, dtype=total.dtype))


@pytest.mark.parametrize("select", ["global", "per_parameter"])
@each_that(lambda make: make.name in ("gap-sgd", "gap-adamw", "aligned-adamw", "random-sgd"))
def test_the_record_is_a_number_or_a_few_in_each_parameters_state(make: Make, select: str) -> None:
    """Whoever takes some parameters' state along takes the record of these along."""
    task, optimizer = trained(make, 6, select=select)
    taken = {param: copy.deepcopy(optimizer.state[param]) for param in task.params}
    other = make(task.params, select=select)
    for param, state in taken.items():
        other.state[param] = state
    torch.testing.assert_close(other.selection, optimizer.selection, **EXACT)
