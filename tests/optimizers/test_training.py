"""A user trains a network in the usual loop."""

from typing import Any

import pytest
import torch
from torch import nn

from optrepro.optimizers import _switching
from tests.optimizers.registry import Make, each, each_class, each_that
from tests.optimizers.task import EXACT, Task, assert_same_run, copies, moved, parameters, trained


@each_that(lambda make: make.descends)
def test_training_lowers_the_loss(make: Make) -> None:
    task = Task()
    before = task.mean_loss()
    task.train(make, make(task.params, 0.02 if make.family else None), 30)
    assert task.mean_loss() < 0.95 * before


@each
def test_two_runs_from_the_same_start_are_the_same(make: Make) -> None:
    assert_same_run(trained(make), trained(make))


@each_that(lambda make: make.family)
def test_joined_parameters_step_as_one_by_one(make: Make) -> None:
    assert_same_run(trained(make, 20, foreach=True), trained(make, 20, foreach=False), **make.order)


@each_that(lambda make: make.family)
def test_maximizing_the_negative_minimizes(make: Make) -> None:
    task = Task()
    optimizer = make(task.params, maximize=True)
    for n in range(12):
        optimizer.zero_grad()
        (-task.loss(n)).backward()
        optimizer.step(**({make.probes: [1.1 * param.grad for param in task.params]} if make.probes else {}))
    assert_same_run((task, optimizer), trained(make))


@each
def test_a_step_leaves_the_gradients_as_they_are(make: Make) -> None:
    for settings in ({}, {"maximize": True}) if make.family else ({},):
        task = Task()
        optimizer = make(task.params, **settings)
        for n in range(3):
            closure = task.closure(optimizer, n)
            loss, before = closure(), [param.grad.clone() for param in task.params]
            optimizer.step(*((lambda loss=loss: loss,) if make.needs_loss else ()), **_probes(make, before))
            torch.testing.assert_close([param.grad for param in task.params], before, **EXACT)


def _probes(make: Make, grads: list[Any]) -> dict[str, Any]:
    return {make.probes: [1.1 * grad for grad in grads]} if make.probes else {}


@each_class
def test_gradients_are_cleared_to_none_or_to_zero(make: Make) -> None:
    task, optimizer = trained(make, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(not param.grad.any() for param in task.params)
    optimizer.zero_grad()
    assert all(param.grad is None for param in task.params)


@each
def test_a_rate_in_a_tensor_acts_like_its_value(make: Make) -> None:
    rate = torch.tensor(make.lr, dtype=torch.float64)
    assert_same_run(trained(make, lr=rate), trained(make), rtol=1e-5, atol=1e-6)
    assert rate == make.lr


@each_class
def test_hooks_are_called_before_and_after_each_step(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    calls = []
    optimizer.register_step_pre_hook(lambda *arguments: calls.append("before"))
    handle = optimizer.register_step_post_hook(lambda *arguments: calls.append("after"))
    task.train(make, optimizer, 2)
    handle.remove()
    task.train(make, optimizer, 1)
    assert calls == ["before", "after", "before", "after", "before"]


@each_class
def test_it_prints_its_class_and_settings(make: Make) -> None:
    optimizer = make(Task().params)
    assert repr(optimizer).startswith(type(optimizer).__name__)
    assert f"lr: {make.lr}" in repr(optimizer)


@each_class
def test_two_optimizers_train_two_parts_of_a_network(make: Make) -> None:
    task = Task()
    first, second = make(task.params[:2]), make(task.params[2:])
    before = copies(task.params)
    task.train(make, first, 2)
    assert moved(task.params, before) == [True, True, False, False]
    task.train(make, second, 2)
    assert all(moved(task.params, before))


@each_class
def test_a_frozen_parameter_stays_until_it_is_thawed(make: Make) -> None:
    task = Task()
    task.params[1].requires_grad_(False)
    optimizer = make(task.params)
    before = copies(task.params)
    task.train(make, optimizer, 3)
    assert moved(task.params, before) == [True, False, True, True]
    task.params[1].requires_grad_(True)
    task.train(make, optimizer, 3, start=3)
    assert all(moved(task.params, before))


@each_class
def test_shared_weights_are_trained_once(make: Make) -> None:
    (table,) = parameters((5, 3))
    encoder, decoder = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    encoder.weight = decoder.weight = nn.Parameter(table.detach().clone())
    net = nn.Sequential(encoder, decoder)
    optimizer = make(net.parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 1

    def closure() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.arange(5)), torch.arange(4, -1, -1))
        loss.backward()
        return loss

    for _ in range(3):
        loss = closure()
        optimizer.step(*((closure,) if make.needs_loss else ()), **_probes(make, [encoder.weight.grad]))
    assert loss.isfinite()
    assert not torch.equal(encoder.weight, table)


@each_that(lambda make: make.selects)
def test_the_choice_left_on_the_device_gives_the_step_of_the_choice_read(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = [trained(make, 12, foreach=foreach) for foreach in (False, True)]
    monkeypatch.setattr(_switching, "indices", lambda choice: list(choice.split(1)))
    left = [trained(make, 12, foreach=foreach) for foreach in (False, True)]
    for a, b in zip(read, left, strict=True):
        assert_same_run(a, b, rtol=1e-5, atol=1e-6)


# On an accelerator.


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@each_that(lambda make: not make.needs_loss)
def test_no_step_on_an_accelerator_waits_for_it(make: Make) -> None:
    task = Task()
    task.net.cuda()
    optimizer = make(task.params)
    for param in task.params:
        param.grad = torch.ones_like(param)
    given = _probes(make, [param.grad for param in task.params])
    for _ in range(2):
        optimizer.step(**given)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(**given)
        getattr(optimizer, "selection", None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@each
def test_an_accelerator_takes_the_steps_of_the_cpu(make: Make) -> None:
    host, accelerator = Task(), Task()
    accelerator.net.cuda()
    here, there = make(host.params), make(accelerator.params)
    for n in range(10):
        loss = host.closure(here, n)().detach()
        for param, other in zip(accelerator.params, host.params, strict=True):
            param.grad = other.grad.cuda()
        for optimizer, params in ((here, host.params), (there, accelerator.params)):
            given = _probes(make, [param.grad for param in params])
            optimizer.step(*((lambda: loss,) if make.needs_loss else ()), **given)  # noqa: B023
    torch.testing.assert_close([param.cpu() for param in accelerator.params], host.params, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@each
def test_a_state_saved_on_an_accelerator_goes_on_on_the_cpu(make: Make) -> None:
    task = Task()
    task.net.cuda()
    optimizer = make(task.params)
    for param in task.params:
        param.grad = torch.ones_like(param)
    given = _probes(make, [param.grad for param in task.params])
    optimizer.step(*((lambda: torch.ones(()),) if make.needs_loss else ()), **given)
    host = Task().like(task)
    resumed = make(host.params)
    resumed.load_state_dict(optimizer.state_dict())
    assert {value.device.type for state in resumed.state.values() for value in state.values()} <= {"cpu"}
    host.train(make, resumed, 2)
    assert all(param.isfinite().all() for param in host.params)
