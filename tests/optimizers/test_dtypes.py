"""A user has parameters of any floating dtype and size, and may have changed torch's default dtype."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.optimizers.registry import Make, each, each_that
from tests.optimizers.task import EXACT, Task, assert_same_run, copies, feed, gradients, moved, parameters, trained

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = range(1, 71)  # across all widths of vector instructions and what is left over beside them
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@dtypes
@each
def test_every_element_moves_whatever_the_size_and_dtype(make: Make, dtype: torch.dtype) -> None:
    params = [torch.zeros(size, dtype=dtype, requires_grad=True) for size in SIZES]
    optimizer = make(params, **({"foreach": False} if make.family else {}))
    for _ in range(3):
        feed(make, optimizer, [torch.ones_like(param) for param in params], loss=torch.tensor(1.0))
    assert all((param != 0).all() for param in params)
    few = 0.02 if make.policy else 8 * torch.finfo(dtype).eps
    assert all(param.max() - param.min() <= few * param.abs().max() for param in params)


@dtypes
@each_that(lambda make: make.is_fixed and make.reference)
def test_one_candidate_moves_every_element_as_torchs_unfused_step(make: Make, dtype: torch.dtype) -> None:
    """In float32 and float64 bit for bit; in less than these within a few roundings."""
    ours, theirs = parameters(*SIZES, dtype=dtype), parameters(*SIZES, dtype=dtype)
    eps = {"eps": 1e-3} if make.family == "betas" else {}  # the default underflows in float16
    optimizer = make(ours, **eps)
    reference = make.reference(theirs, lr=make.lr, foreach=False, fused=False, **eps, **make.torch_settings)
    for grads in gradients(ours, 8):
        feed(make, optimizer, grads)
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = grad.clone()
        reference.step()
    few = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, **(EXACT if dtype.itemsize >= 4 else {"rtol": few, "atol": few}))


@each
def test_a_group_may_mix_dtypes(make: Make) -> None:
    params = [param for dtype in DTYPES for param in parameters(5, (2, 3), dtype=dtype)]
    optimizer = make(params)
    before = copies(params)
    for grads in gradients(params, 4):
        feed(make, optimizer, grads)
    assert [param.dtype for param in params] == [dtype for dtype in DTYPES for _ in range(2)]
    assert all(moved(params, before))
    assert all(param.isfinite().all() for param in params)


@each
def test_in_double_precision_it_takes_the_steps_of_single(make: Make) -> None:
    """Nothing is computed in less precision than the parameters have, nor in another way."""
    single, double = trained(make, 6), trained(make, 6, dtype=torch.float64)
    assert {param.dtype for param in double[0].params} == {torch.float64}
    torch.testing.assert_close([param.float() for param in double[0].params], single[0].params, rtol=1e-3, atol=1e-3)


# The default dtype, from which no tensor of an optimizer may take its own.


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def run(make: Make) -> tuple[Task, object, dict[str, set[torch.dtype]]]:
    task, optimizer = trained(make, 20)
    kinds: dict[str, set[torch.dtype]] = {}
    for state in optimizer.state.values():
        for name, value in state.items():
            kinds.setdefault(name, set()).add(value.dtype if isinstance(value, Tensor) else type(value))
    return task, optimizer, kinds


@each
def test_the_default_dtype_changes_nothing(make: Make, request: pytest.FixtureRequest) -> None:
    task, optimizer, kinds = run(make)
    request.getfixturevalue("double_by_default")
    other_task, other, other_kinds = run(make)
    assert other_kinds == kinds
    assert_same_run((task, optimizer), (other_task, other))
