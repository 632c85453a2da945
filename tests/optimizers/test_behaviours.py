"""What every optimizer with the manners of `torch.optim` must do: a registry crossed with a matrix of behaviours."""

import copy
import io
import pickle
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optrepro.optimizers import _switching
from optrepro.optimizers.aligned_mean import AlignedMeanAdam, AlignedMeanAdamW, AlignedMeanSGD
from optrepro.optimizers.cautious import CautiousAdamW
from optrepro.optimizers.controls import MeanAdam, MeanAdamW, MeanSGD, RandomAdam, RandomAdamW, RandomSGD
from optrepro.optimizers.gap import GapAdam, GapAdamW, GapSGD
from optrepro.optimizers.policy import Policy, PolicySettings
from optrepro.optimizers.pop import POP

Make = Callable[..., torch.optim.Optimizer]


def configured(optimizer: Any, **fixed: Any) -> Make:
    return lambda params, lr=0.05, **settings: optimizer(params, lr, **{**fixed, **settings})


OPTIMIZERS: dict[str, Make] = {
    "gap-sgd": configured(GapSGD, weight_decay=0.01),
    "gap-sgd-each": configured(GapSGD, select="per_parameter", nesterov=True),
    "gap-sgd-debiased": configured(GapSGD, score="debiased", score_ema=0.5, hysteresis=0.1, lr_modulation=True),
    "gap-sgd-raw": configured(GapSGD, score="raw", dampening=0.1),
    "gap-sgd-fixed": configured(GapSGD, momentum=0.9),
    "gap-adam": configured(GapAdam, weight_decay=0.01),
    "gap-adam-raw": configured(GapAdam, score="raw", lr_modulation=True),
    "gap-adamw": configured(GapAdamW),
    "gap-adamw-each": configured(GapAdamW, select="per_parameter", score="debiased"),
    "continuous-sgd": configured(GapSGD, momentum=(0.0, 0.95), candidates="continuous", weight_decay=0.01),
    "continuous-adam": configured(GapAdam, candidates="continuous", score="paper", every=1, lags=3),
    "continuous-adamw": configured(GapAdamW, candidates="continuous", every=2, lags=3),
    "aligned-mean-sgd": configured(AlignedMeanSGD, weight_decay=0.01, nesterov=True),
    "aligned-mean-adam": configured(AlignedMeanAdam, weight_decay=0.01, select="global"),
    "aligned-mean-adamw": configured(AlignedMeanAdamW),
    "random-sgd": configured(RandomSGD, seed=1),
    "random-adam": configured(RandomAdam, seed=1, shares=(0.2, 0.3, 0.5)),
    "random-adamw": configured(RandomAdamW, seed=1, select="per_parameter"),
    "mean-sgd": configured(MeanSGD),
    "mean-adam": configured(MeanAdam),
    "mean-adamw": configured(MeanAdamW),
    "cautious-adamw": configured(CautiousAdamW),
}
# Weights round as the sums do that they are made from; a choice does not.
ROUNDING = {make: {"rtol": 1e-4, "atol": 1e-5} for name, make in OPTIMIZERS.items() if name.startswith("aligned")}


def pop(params: Any, lr: float = 0.05, **settings: Any) -> POP:
    """POP with an untrained policy, which takes steps of about half the rate; `foreach` is nothing to it."""
    settings.pop("foreach", None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = Policy(PolicySettings(width=8, history=4, smallest=1e-2))
    return POP(params, lr, policy=policy, **settings)


each = pytest.mark.parametrize("make", [*OPTIMIZERS.values(), pop], ids=[*OPTIMIZERS, "pop"])


def each_but_pop(reason: str) -> pytest.MarkDecorator:
    skipped = pytest.param(pop, marks=pytest.mark.skip(reason=reason))
    return pytest.mark.parametrize("make", [*OPTIMIZERS.values(), skipped], ids=[*OPTIMIZERS, "pop"])


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, step: Any = None) -> None:
    """A step with the gradients that are there; the loss goes to those that look at it."""
    known = {"closure": lambda: loss} if getattr(optimizer, "needs", None) == "loss" else {}
    (step or optimizer.step)(**known)


class Task:
    """A small network on a stream of batches that depend on the step alone."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).to(dtype)
        self.params = list(self.net.parameters())
        self.dtype = dtype
        with torch.no_grad():
            for param in self.params:
                param.copy_(torch.randn(param.shape, generator=generator))

    def loss(self, step: int) -> Tensor:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).to(self.dtype)
        target = torch.stack([x.sum(1), x[:, 0]], 1)
        return (self.net(x) - target).square().mean()

    def train(self, optimizer: torch.optim.Optimizer, steps: int, start: int = 0, step: Any = None) -> None:
        for n in range(start, start + steps):
            optimizer.zero_grad()
            loss = self.loss(n)
            loss.backward()
            take_step(optimizer, loss.detach(), step)

    def copy_of(self, other: "Task") -> "Task":
        self.net.load_state_dict(other.net.state_dict())
        return self


def trained(make: Make, steps: int = 12, **settings: Any) -> tuple[Task, torch.optim.Optimizer]:
    task = Task()
    optimizer = make(task.params, **settings)
    task.train(optimizer, steps)
    return task, optimizer


def assert_same(a: tuple[Task, Any], b: tuple[Task, Any], **tolerance: float) -> None:
    torch.testing.assert_close(a[0].params, b[0].params, **(tolerance or {"rtol": 0, "atol": 0}))
    if hasattr(a[1], "selection"):
        torch.testing.assert_close(a[1].selection, b[1].selection, **(tolerance or {"rtol": 0, "atol": 0}))


@each
def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    for n in range(12):

        def closure(n: int = n) -> Tensor:
            optimizer.zero_grad()
            loss = task.loss(n)
            loss.backward()
            return loss

        expected = task.loss(n).item()
        assert optimizer.step(closure).item() == expected
    assert_same((task, optimizer), trained(make))


@each_but_pop("its step looks at the loss")
def test_a_step_without_a_closure_returns_none_and_lowers_the_loss(make: Make) -> None:
    task = Task()
    optimizer = make(task.params, 0.01)
    before = sum(task.loss(n).item() for n in range(50))
    task.train(optimizer, 60)
    assert sum(task.loss(n).item() for n in range(50)) < 0.9 * before
    assert optimizer.step() is None


@each_but_pop("it has one path")
def test_foreach_and_the_plain_loop_are_the_same(make: Make) -> None:
    assert_same(trained(make, 30, foreach=True), trained(make, 30, foreach=False), **ROUNDING.get(make, {}))


@each
def test_a_run_resumed_in_the_middle_equals_the_uninterrupted_one(make: Make) -> None:
    for foreach in (False, True):
        task, optimizer = trained(make, 7, foreach=foreach)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        resumed_task = Task().copy_of(task)
        resumed = make(resumed_task.params, foreach=foreach)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        resumed_task.train(resumed, 6, start=7)
        assert_same((resumed_task, resumed), trained(make, 13, foreach=foreach))


@pytest.mark.parametrize("make", [make for name, make in OPTIMIZERS.items() if name != "cautious-adamw"])
def test_a_loaded_state_is_not_shared_with_its_source(make: Make) -> None:
    task, optimizer = trained(make, 5)
    other_task = Task().copy_of(task)
    other = make(other_task.params)
    other.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    other_task.train(other, 5, start=5)
    torch.testing.assert_close(optimizer.state_dict()["state"], before["state"], equal_nan=True)


@each
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_goes_on_like_the_original(make: Make, duplicate: Any) -> None:
    for foreach in (False, True):
        task, optimizer = trained(make, 5, foreach=foreach)
        other_task, other = duplicate((task, optimizer))
        task.train(optimizer, 6, start=5)
        other_task.train(other, 6, start=5)
        assert task.params[0] is not other_task.params[0]
        assert_same((other_task, other), (task, optimizer))


@each_but_pop("it minimizes")
def test_maximizing_the_negative_minimizes(make: Make) -> None:
    task = Task()
    optimizer = make(task.params, maximize=True)
    for n in range(12):
        optimizer.zero_grad()
        (-task.loss(n)).backward()
        optimizer.step()
    assert_same((task, optimizer), trained(make))


@each
def test_groups_keep_settings_of_their_own(make: Make) -> None:
    task = Task()
    before = [param.detach().clone() for param in task.params]
    weights, biases = task.params[::2], task.params[1::2]
    optimizer = make([{"params": weights}, {"params": biases, "lr": 0.0}])
    task.train(optimizer, 3)
    moved = [not torch.equal(param, start) for param, start in zip(task.params, before, strict=True)]
    assert moved == [True, False, True, False]


@each
def test_a_group_added_later_is_trained_too(make: Make) -> None:
    task = Task()
    optimizer = make(task.params[:2])
    task.train(optimizer, 3)
    start = task.params[3].detach().clone()
    optimizer.add_param_group({"params": task.params[2:]})
    task.train(optimizer, 3, start=3)
    assert not torch.equal(task.params[3], start)
    if hasattr(optimizer, "selection") and optimizer.rule.select == "per_parameter":
        assert optimizer.selection["counts"].sum(1).tolist() == pytest.approx([6, 6, 3, 3])


@each_but_pop("its parameters have no state of their own; see test_pop")
@pytest.mark.parametrize("foreach", [False, True])
def test_parameters_without_a_gradient_wait(make: Make, foreach: bool) -> None:
    task = Task()
    optimizer = make(task.params, foreach=foreach)
    for n in range(6):
        optimizer.zero_grad()
        task.loss(n).backward()
        if n % 2:
            task.params[1].grad = None
        before = [param.detach().clone() for param in task.params]
        optimizer.step()
        still = [torch.equal(param, start) for param, start in zip(task.params, before, strict=True)]
        assert still == [False, bool(n % 2), False, False]
    assert optimizer.state[task.params[1]]["step"] == 3
    assert optimizer.state[task.params[0]]["step"] == 6
    if hasattr(optimizer, "selection") and optimizer.rule.select == "per_parameter":
        assert optimizer.selection["counts"].sum(1).tolist() == pytest.approx([6, 3, 6, 6])


@each_but_pop("it minimizes; see test_pop")
@pytest.mark.parametrize("foreach", [False, True])
def test_a_step_leaves_the_gradient_as_it_is(make: Make, foreach: bool) -> None:
    for maximize in (False, True):
        task = Task()
        optimizer = make(task.params, foreach=foreach, maximize=maximize)
        for n in range(3):
            optimizer.zero_grad()
            task.loss(n).backward()
            before = [param.grad.clone() for param in task.params]
            optimizer.step()
            torch.testing.assert_close([param.grad for param in task.params], before, rtol=0, atol=0)


@each
def test_parameters_of_any_layout_and_size_step_like_contiguous_ones(make: Make) -> None:
    def step(layout: Callable[[Tensor], Tensor], foreach: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = [(2, 3, 4, 5), (), (0,), (6, 2)]
        values = [torch.randn(shape, generator=generator) for shape in shapes]
        params = [layout(value).requires_grad_() for value in values]
        optimizer = make(params, foreach=foreach)
        for _ in range(4):
            for param in params:
                param.grad = layout(torch.randn(param.shape, generator=generator))
            take_step(optimizer, torch.ones(()))
        return [param.detach().contiguous() for param in params]

    def channels_last(x: Tensor) -> Tensor:
        return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x.mT.contiguous().mT if x.dim() == 2 else x

    plain = step(lambda x: x.clone(), False)
    torch.testing.assert_close(step(channels_last, False), plain)
    torch.testing.assert_close(step(channels_last, True), plain)


@each
def test_a_learning_rate_schedule_acts(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.0)
    task.train(optimizer, 3)
    scheduler.step()
    task.train(optimizer, 1)
    scheduler.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0
    before = [param.detach().clone() for param in task.params]
    task.train(optimizer, 2)
    torch.testing.assert_close(task.params, before, rtol=0, atol=0)


@each
def test_a_learning_rate_in_a_tensor_acts_like_its_value(make: Make) -> None:
    assert_same(trained(make, lr=torch.tensor(0.05, dtype=torch.float64)), trained(make, lr=0.05), rtol=1e-5, atol=1e-6)


@each_but_pop("its parameters have no state of their own; see test_pop")
def test_bfloat16_parameters_are_trained_in_bfloat16(make: Make) -> None:
    for foreach in (False, True):
        task = Task(torch.bfloat16)
        optimizer = make(task.params, 0.01, foreach=foreach)
        before = sum(task.loss(n).item() for n in range(50))
        task.train(optimizer, 60)
        assert sum(task.loss(n).item() for n in range(50)) < 0.9 * before
        state = optimizer.state[task.params[0]]
        buffers = [value for value in state.values() if isinstance(value, Tensor) and value.shape]
        assert {buffer.dtype for buffer in buffers} == {torch.bfloat16}


@each_but_pop("torch's scaler takes no closure")
def test_a_gradient_scaler_changes_nothing_and_skips_overflows(make: Make) -> None:
    task = Task()
    optimizer = make(task.params)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for n in range(12):
        optimizer.zero_grad()
        scaler.scale(task.loss(n)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert_same((task, optimizer), trained(make), rtol=1e-5, atol=1e-6)
    before = [param.detach().clone() for param in task.params]
    scaler.scale(task.loss(0) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    torch.testing.assert_close(task.params, before, rtol=0, atol=0)


@each
def test_sparse_gradients_are_refused(make: Make) -> None:
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = make(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        take_step(optimizer, torch.ones(()))


@each
def test_complex_parameters_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="does not support complex parameters"):
        make([torch.zeros(2, dtype=torch.complex64, requires_grad=True)])


@each
def test_a_negative_learning_rate_is_named(make: Make) -> None:
    with pytest.raises(ValueError, match="lr = -1 is not allowed: it must be at least 0"):
        make(Task().params, -1)


@each_but_pop("it chooses no candidate")
def test_the_choice_left_on_the_device_gives_the_step_of_the_choice_read(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = [trained(make, 20, foreach=foreach) for foreach in (False, True)]
    monkeypatch.setattr(_switching, "indices", lambda choice: list(choice.split(1)))
    left = [trained(make, 20, foreach=foreach) for foreach in (False, True)]
    for a, b in zip(read, left, strict=True):
        assert_same(a, b, rtol=1e-5, atol=1e-6)


def compiled(make: Make, backend: str) -> tuple[Task, torch.optim.Optimizer]:
    torch._dynamo.reset()
    task = Task()
    optimizer = make(task.params[:2])
    task.train(optimizer, 4, step=torch.compile(optimizer.step, backend=backend))
    return task, optimizer


def eager(make: Make) -> tuple[Task, torch.optim.Optimizer]:
    task = Task()
    optimizer = make(task.params[:2])
    task.train(optimizer, 4)
    return task, optimizer


@pytest.mark.parametrize("name", ["gap-sgd-debiased", "gap-adamw", "random-sgd", "mean-sgd", "cautious-adamw"])
def test_a_compiled_step_is_the_step(name: str) -> None:
    make = OPTIMIZERS[name]
    assert_same(compiled(make, "aot_eager"), eager(make), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_step_is_compiled_to_native_code_once_for_the_first_and_once_for_all_later_ones() -> None:
    torch._dynamo.utils.counters.clear()
    make = OPTIMIZERS["gap-sgd"]
    assert_same(compiled(make, "inductor"), eager(make), rtol=1e-5, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@each_but_pop("it looks whether the loss is finite")
def test_no_step_on_an_accelerator_waits_for_it(make: Make) -> None:
    task = Task()
    task.net.cuda()
    optimizer = make(task.params)
    for _ in range(2):
        for param in task.params:
            param.grad = torch.ones_like(param)
        optimizer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
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
        host.net.zero_grad()
        host.loss(n).backward()
        for param, other in zip(accelerator.params, host.params, strict=True):
            param.grad = other.grad.cuda()
        take_step(here, torch.tensor(1.0 + n))
        take_step(there, torch.tensor(1.0 + n))
    torch.testing.assert_close([param.cpu() for param in accelerator.params], host.params, rtol=1e-4, atol=1e-5)
