"""A user trains under autocast, with a gradient scaler, or with weights of less precision than float32."""

import pytest
import torch

from tests.optimizers.registry import Make, each, each_that
from tests.optimizers.task import Task, assert_same_run, copies, moved, take, trained


@each_that(lambda make: not make.needs_loss)
def test_a_gradient_scaler_changes_nothing_and_skips_overflows(make: Make) -> None:
    """Torch's scaler takes no closure, so whoever needs the loss trains in bfloat16, whose range needs no scaling."""
    task = Task()
    optimizer = make(task.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def step(n: int, factor: float = 1.0) -> None:
        optimizer.zero_grad()
        scaler.scale(factor * task.loss(n)).backward()
        scaler.unscale_(optimizer)
        given = {make.probes: [1.1 * param.grad for param in task.params]} if make.probes else {}
        scaler.step(optimizer, **given)
        scaler.update()

    for n in range(6):
        step(n)
    before = copies(task.params)
    step(6, factor=float("inf"))
    assert not any(moved(task.params, before))
    for n in range(6, 12):
        step(n)
    assert_same_run((task, optimizer), trained(make), rtol=1e-5, atol=1e-6)


@each
def test_under_autocast_float32_weights_take_about_the_same_way(make: Make) -> None:
    task, plain = Task(), Task()
    optimizer, other = make(task.params), make(plain.params)
    before = copies(task.params)
    for n in range(3):

        def closure(n: int = n) -> torch.Tensor:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = task.loss(n)
            loss.backward()
            return loss

        take(make, optimizer, closure)
    plain.train(make, other, 3)
    assert {param.dtype for param in task.params} == {torch.float32}
    assert all(moved(task.params, before))
    way, plain_way = (
        torch.cat([(param - start).detach().flatten() for param, start in zip(params, before, strict=True)])
        for params in (task.params, plain.params)
    )
    assert torch.cosine_similarity(way, plain_way, dim=0) > 0.8


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_weights_are_trained_in_their_precision(make: Make, dtype: torch.dtype) -> None:
    task = Task(dtype)
    optimizer = make(task.params, 0.02 if make.family else None)
    before = task.mean_loss()
    task.train(make, optimizer, 30)
    assert {param.dtype for param in task.params} == {dtype}
    assert all(param.isfinite().all() for param in task.params)
    if make.descends:
        assert task.mean_loss() < 0.95 * before
    for name in make.buffers:
        assert {state[name].dtype for state in optimizer.state.values()} == {dtype}
