"""What the tests of situations train: a small network on a stream of batches, or parameters on given gradients."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tests.optimizers.registry import Make

EXACT = {"rtol": 0, "atol": 0}


class Task:
    """A small network on batches that depend on the step alone; the loss is above 0.

    Args:
        dtype: of the network.
        hidden: units between its 4 inputs and its 2 outputs.
    """

    def __init__(self, dtype: torch.dtype = torch.float32, hidden: int = 6) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            self.net = nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 2)).to(dtype)
        self.params = list(self.net.parameters())
        self.dtype = dtype
        with torch.no_grad():
            for param in self.params:
                param.copy_(torch.randn(param.shape, generator=generator, dtype=torch.float32))

    def data(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs (8, 4) and targets (8, 2) of a step."""
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float32)
        return x.to(self.dtype), torch.stack([x.sum(1), x[:, 0]], 1).to(self.dtype)

    def loss(self, step: int) -> Tensor:
        """The mean loss over the batch of a step."""
        x, target = self.data(step)
        return (self.net(x) - target).square().mean()

    def mean_loss(self) -> float:
        """The mean over many batches."""
        with torch.no_grad():
            return sum(self.loss(n).item() for n in range(16)) / 16

    def closure(self, optimizer: torch.optim.Optimizer, step: int) -> Callable[[], Tensor]:
        """What computes the gradients of a step's batch anew and returns the loss."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(step)
            loss.backward()
            return loss

        return closure

    def train(
        self, make: Make, optimizer: Any, steps: int, start: int = 0, call: Callable[..., Any] | None = None
    ) -> None:
        """Take steps on the batches from `start` on, by calling `call` in place of `optimizer.step`."""
        for n in range(start, start + steps):
            take(make, optimizer, self.closure(optimizer, n), call)

    def like(self, other: "Task") -> "Task":
        """This task with the other's weights."""
        self.net.load_state_dict(other.net.state_dict())
        return self


def take(make: Make, optimizer: Any, closure: Callable[[], Any], call: Callable[..., Any] | None = None) -> Any:
    """One step as a training loop takes it: with the closure where it is needed, else on the gradients that it left."""
    call = call or optimizer.step
    if make.needs_loss:
        return call(closure)
    loss = closure()
    call(**probes(make, optimizer))
    return loss


def probes(make: Make, optimizer: Any) -> dict[str, list[Tensor | None]]:
    """What `step` asks for beside the gradients: something that is much like them."""
    if make.probes is None:
        return {}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return {make.probes: [None if param.grad is None else 1.1 * param.grad for param in params]}


def feed(make: Make, optimizer: Any, grads: Sequence[Tensor | None], loss: Any = 1.0) -> Any:
    """One step on given gradients of a loss that is linear from here on, so that a line search goes down."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    starts = [param.detach().double().clone() for param in params]

    def closure() -> Any:
        drop = 0.0
        for param, grad, start in zip(params, grads, starts, strict=True):
            param.grad = grad
            if grad is not None:
                drop += (grad.double() * (param.detach().double() - start)).sum().item()
        return loss + drop

    return take(make, optimizer, closure)


def trained(make: Make, steps: int = 12, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[Task, Any]:
    """The task after so many steps, and the optimizer that took them."""
    task = Task(dtype)
    optimizer = make(task.params, **settings)
    task.train(make, optimizer, steps)
    return task, optimizer


def parameters(*shapes: int | tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Normally distributed parameters of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [(shape,) if isinstance(shape, int) else shape for shape in shapes]
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]


def gradients(params: Sequence[Tensor], steps: int, correlation: float = 0.7, seed: int = 1) -> list[list[Tensor]]:
    """For each step gradients of variance 1 that do not depend on the parameters and decorrelate by `correlation`."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> list[Tensor]:
        return [torch.randn(param.shape, generator=generator, dtype=torch.float64) for param in params]

    stream = [noise()]
    for _ in range(steps - 1):
        fresh = (1 - correlation**2) ** 0.5
        stream.append([correlation * old + fresh * new for old, new in zip(stream[-1], noise(), strict=True)])
    return [[grad.to(param.dtype) for grad, param in zip(grads, params, strict=True)] for grads in stream]


def copies(params: Sequence[Tensor]) -> list[Tensor]:
    """The values that parameters have now."""
    return [param.detach().clone() for param in params]


def moved(params: Sequence[Tensor], before: Sequence[Tensor]) -> list[bool]:
    """Which parameters are no longer what they were."""
    return [not torch.equal(param, start) for param, start in zip(params, before, strict=True)]


def snapshot(optimizer: torch.optim.Optimizer) -> tuple[dict[Any, dict[str, Tensor]], list[dict[str, Any]]]:
    """The state and settings as they are now, in copies."""
    state = {
        key: {name: value.clone() if isinstance(value, Tensor) else value for name, value in entry.items()}
        for key, entry in optimizer.state.items()
    }
    return state, [{k: list(v) if k == "params" else v for k, v in group.items()} for group in optimizer.param_groups]


def assert_is_as_it_was(optimizer: torch.optim.Optimizer, before: Any) -> None:
    """State and settings are those of a `snapshot`, bit for bit."""
    now = snapshot(optimizer)
    assert {id(key) for key in now[0]} == {id(key) for key in before[0]}
    for key, entry in before[0].items():
        assert_same_state(now[0][key], entry)
    assert len(now[1]) == len(before[1])
    for group, old in zip(now[1], before[1], strict=True):
        assert set(group) == set(old)
        assert [id(param) for param in group["params"]] == [id(param) for param in old["params"]]
        assert [name for name in group if name != "params" and not _equal(group[name], old[name])] == []


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its `state_dict`, from a file that holds nothing but tensors and plain Python values."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def assert_same_state(state: dict[str, Any], other: dict[str, Any]) -> None:
    """Two parameters' states have the same names, dtypes, shapes and values, NaN included."""
    assert set(state) == set(other)
    torch.testing.assert_close(state, other, equal_nan=True, **EXACT)


def assert_same_run(a: tuple[Task, Any], b: tuple[Task, Any], **tolerance: Any) -> None:
    """Two runs have led to the same parameters, by the same choices."""
    tolerance = tolerance or EXACT
    torch.testing.assert_close(a[0].params, b[0].params, **tolerance)
    if hasattr(a[1], "selection"):
        torch.testing.assert_close(a[1].selection, b[1].selection, **tolerance)


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)
