"""A user hands `step` a closure, or does not."""

import math
import typing
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.optimizers.registry import Make, each, each_class, each_that
from tests.optimizers.task import (
    EXACT,
    Task,
    assert_is_as_it_was,
    assert_same_run,
    copies,
    moved,
    parameters,
    probes,
    snapshot,
    trained,
)

needing_a_closure = each_that(lambda make: make.needs_loss)
taking_one = each_that(lambda make: not make.needs_loss and not make.probes)


@each_that(lambda make: not make.probes)
def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    for n in range(12):
        expected = task.loss(n).item()
        with torch.no_grad():
            loss = optimizer.step(task.closure(optimizer, n))
        assert isinstance(loss, Tensor)
        assert loss.item() == expected
    assert_same_run((task, optimizer), trained(make))


@each_that(lambda make: make.probes)
def test_the_closure_comes_beside_the_further_gradients(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    task.closure(optimizer, 0)()
    given = probes(make, optimizer)
    expected = task.loss(0).item()
    assert optimizer.step(task.closure(optimizer, 0), **given).item() == expected
    assert_same_run((task, optimizer), trained(make, 1))


@each_that(lambda make: make.name != "conjugate-gradient-search" and not make.probes)
def test_a_closure_is_called_once_in_a_step(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        return task.closure(optimizer, calls)()

    for n in range(1, 6):
        optimizer.step(closure)
        assert calls == n


@each_that(lambda make: not make.needs_loss)
def test_a_step_without_a_closure_returns_none(make: Make) -> None:
    _, optimizer = trained(make, 1)
    assert optimizer.step(**probes(make, optimizer)) is None


@taking_one
def test_a_closure_whose_loss_nobody_looks_at_may_return_anything(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    for result in (None, 1.5, "loss", (1, 2)):
        task.closure(optimizer, 0)()
        assert optimizer.step(lambda result=result: result) is result


@needing_a_closure
def test_a_loss_that_is_a_python_number_is_as_good_as_a_tensor(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    for n in range(8):
        loss = optimizer.step(lambda n=n: task.closure(optimizer, n)().item())
        assert type(loss) is float
    assert_same_run((task, optimizer), trained(make, 8), rtol=1e-5, atol=1e-6)


@each_that(lambda make: make.needs_loss and make.name != "polyak")
def test_a_loss_of_one_element_is_a_number(make: Make) -> None:
    """For Polyak's step, a loss with a shape is one problem for each element."""
    task = Task()
    optimizer = make(task.params)
    for n in range(4):
        optimizer.step(lambda n=n: task.closure(optimizer, n)().reshape(1))
    assert_same_run((task, optimizer), trained(make, 4))


@needing_a_closure
@pytest.mark.parametrize("result", [None, torch.zeros(3), torch.zeros(0)], ids=repr)
def test_a_closure_that_returns_no_number_is_refused(make: Make, result: Any) -> None:
    task, optimizer = trained(make, 2)
    before, values = snapshot(optimizer), copies(task.params)

    def closure() -> Any:
        task.closure(optimizer, 2)()
        return result

    with pytest.raises(ValueError, match="loss") as error:
        optimizer.step(closure)
    assert "\n" not in str(error.value)
    assert not any(moved(task.params, values))
    assert_is_as_it_was(optimizer, before)


@needing_a_closure
def test_a_missing_closure_is_named_in_a_line(make: Make) -> None:
    for steps in (0, 2):
        task, optimizer = trained(make, steps)
        task.closure(optimizer, steps)()
        before, values = snapshot(optimizer), copies(task.params)
        with pytest.raises(ValueError, match="closure") as error:
            optimizer.step()
        assert "\n" not in str(error.value)
        assert not any(moved(task.params, values))
        assert_is_as_it_was(optimizer, before)


@needing_a_closure
@pytest.mark.parametrize("cleared", [True, False], ids=["no gradients", "gradients of zero"])
def test_without_closure_and_gradients_the_state_is_made_and_nothing_else(make: Make, cleared: bool) -> None:
    task, plain = Task(), Task()
    optimizer, other = make(task.params), make(plain.params)
    before = copies(task.params)
    for steps in (0, 3):
        task.train(make, optimizer, steps)
        plain.train(make, other, steps)
        values = copies(task.params)
        for param in task.params:
            param.grad = None if cleared else torch.zeros_like(param)
        assert optimizer.step() is None
        assert not any(moved(task.params, values))
    names = {param: set(optimizer.state[param]) for param in task.params}
    task.train(make, optimizer, 3, start=3)
    plain.train(make, other, 3, start=3)
    assert {param: set(optimizer.state[param]) for param in task.params} == names
    assert any(moved(task.params, before))
    torch.testing.assert_close(task.params, plain.params, **EXACT)


@each
def test_an_error_in_the_closure_comes_through_and_leaves_the_optimizer_as_it_was(make: Make) -> None:
    task, optimizer = trained(make, 2)
    given = probes(make, optimizer)
    before, values = snapshot(optimizer), copies(task.params)

    def closure() -> Tensor:
        raise ZeroDivisionError("in the loss")

    with pytest.raises(ZeroDivisionError, match="in the loss"):
        optimizer.step(closure, **given)
    assert not any(moved(task.params, values))
    assert_is_as_it_was(optimizer, before)
    task.train(make, optimizer, 2, start=2)
    assert_same_run((task, optimizer), trained(make, 4))


@each_that(lambda make: make.name in ("conjugate-gradient-search",))
def test_an_error_within_a_line_search_leaves_the_parameters_at_its_start(make: Make) -> None:
    """They may lie anywhere along the direction when it happens."""
    (param,) = parameters(3)
    optimizer = make([param], 1.0)
    before = param.detach().clone()
    calls = 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError("in the loss")
        param.grad = torch.ones_like(param)
        return math.exp(calls)

    with pytest.raises(ZeroDivisionError):
        optimizer.step(closure)
    assert torch.equal(param, before)


@each_class
def test_what_a_step_returns_has_a_type(make: Make) -> None:
    """So that a type checker knows of `optimizer.step(closure).item()`."""
    step = make.kind.step
    forms = typing.get_overloads(step) or [step]
    returned = [typing.get_type_hints(form).get("return", Any) for form in forms]
    assert Any not in returned
