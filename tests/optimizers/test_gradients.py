"""A user's gradients are missing, zero, huge, not numbers, sparse, complex, or laid out in memory in another way."""

import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optrepro import optimizers
from tests.optimizers.registry import Make, each, each_that, named
from tests.optimizers.task import (
    EXACT,
    assert_is_as_it_was,
    copies,
    feed,
    gradients,
    moved,
    parameters,
    probes,
    snapshot,
    trained,
)

LEARNED = (optimizers.POP, optimizers.PredictedStepDescent, optimizers.L2L)


# Missing.


@each
@pytest.mark.parametrize("foreach", [False, True, None])
def test_parameters_without_a_gradient_wait(make: Make, foreach: bool | None) -> None:
    """Others in each step, as with layers that are dropped at random."""
    params = parameters(3, (2, 2), 5, ())
    optimizer = make(params, **({"foreach": foreach} if make.family else {}))
    turns = [[True, n % 2 == 0, n % 3 == 0, n > 2] for n in range(7)]
    for grads, has_one in zip(gradients(params, 7), turns, strict=True):
        before = copies(params)
        feed(make, optimizer, [grad if has else None for grad, has in zip(grads, has_one, strict=True)])
        assert moved(params, before) == has_one
    if make.family == "betas" or (make.family and not make.is_continuous):
        assert [optimizer.state[param]["step"].item() for param in params] == [7, 4, 3, 4]
    if make.selects_each and not make.name.startswith("mean"):
        assert optimizer.selection["counts"].sum(1).tolist() == pytest.approx([7, 4, 3, 4])


@each_that(
    lambda make: (
        make.kind is not optimizers.POP  # whose problem is all coordinates
        and (make.is_fixed or not make.is_continuous)  # which sees gradients through a projection of all
        and make.name != "random-adamw"  # which draws for each parameter in their order
    )
)
def test_what_waits_does_not_disturb_the_others(make: Make) -> None:
    params, others = parameters(3, 4, 5), parameters(3, 4, 5)
    optimizer, other = make([params[0], params[2]]), make(others)
    for grads in gradients(params, 8):
        feed(make, optimizer, [grads[0], grads[2]])
        feed(make, other, [grads[0], None, grads[2]])
    torch.testing.assert_close([others[0], others[2]], [params[0], params[2]], rtol=1e-5, atol=1e-6)


@each
def test_a_step_with_no_gradient_at_all_changes_nothing(make: Make) -> None:
    for steps in (0, 4):
        task, optimizer = trained(make, steps)
        optimizer.zero_grad()
        before, values = snapshot(optimizer), copies(task.params)
        given = {make.probes: [None] * 4} if make.probes else {}
        if make.needs_loss:
            assert optimizer.step(lambda: 2.0) == 2.0
        else:
            assert optimizer.step(**given) is None
        assert not any(moved(task.params, values))
        if steps and not make.needs_loss:
            assert_is_as_it_was(optimizer, before)


@each_that(lambda make: make.family)
def test_dropping_gradients_at_random_takes_little_more_memory_than_the_state(make: Make) -> None:
    """At most what is worked on in a step comes on top."""
    params = parameters(*[4000] * 12)
    optimizer = make(params)
    generator = torch.Generator().manual_seed(0)
    for grads in gradients(params, 20):
        kept = torch.rand(12, generator=generator) > 0.3
        feed(make, optimizer, [grad if keep else None for grad, keep in zip(grads, kept, strict=True)])
    state = sum(value.nbytes for entry in optimizer.state.values() for value in entry.values())
    assert held(optimizer, besides=params) <= 1.25 * state + 50_000


def held(optimizer: Any, besides: Sequence[Tensor]) -> int:
    """Bytes of all tensors that can be reached from the optimizer's attributes, but for parameters and gradients."""
    skipped = {tensor.untyped_storage().data_ptr() for p in besides for tensor in (p, p.grad) if tensor is not None}
    storages, seen, queue = {}, set(), [vars(optimizer)]
    while queue:
        thing = queue.pop()
        if id(thing) in seen or isinstance(thing, type | nn.Module) or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        else:
            queue += gc.get_referents(thing)
    return sum(size for place, size in storages.items() if place not in skipped)


# Zero.


@each
def test_gradients_of_zero_are_survived(make: Make) -> None:
    params = parameters(3, (2, 2))
    optimizer = make(params, **({"weight_decay": 0.0} if make.family else {}))
    zeros = [torch.zeros_like(param) for param in params]
    before = copies(params)
    for _ in range(4):
        feed(make, optimizer, zeros)
    assert not any(moved(params, before))
    for grads in gradients(params, 4):
        feed(make, optimizer, grads)
    assert all(moved(params, before))
    feed(make, optimizer, zeros)
    feed(make, optimizer, zeros)
    assert all(param.isfinite().all() for param in params)


@each_that(lambda make: make.kind in LEARNED)
def test_elements_whose_gradient_is_zero_stay_where_they_are(make: Make) -> None:
    """So do rows of an embedding that no example of the batch has."""
    (param,) = parameters((6, 2))
    optimizer = make([param])
    for n, (grad,) in enumerate(gradients([param], 6)):
        before = param.detach().clone()
        grad[n % 6 :: 3] = 0.0
        feed(make, optimizer, [grad])
        assert torch.equal(param[grad == 0], before[grad == 0])
        assert (param != before)[grad != 0].any()


# Huge.


@each
def test_one_huge_gradient_leaves_everything_finite(make: Make) -> None:
    params = parameters(100, (2, 2))
    optimizer = make(params)
    for n, grads in enumerate(gradients(params, 12)):
        feed(make, optimizer, [1e19 * grad for grad in grads] if n == 5 else grads)
        assert all(param.isfinite().all() for param in params)
    before = copies(params)
    feed(make, optimizer, [1e19 * grad.sign() for grad in grads])
    assert all(param.isfinite().all() for param in params)
    assert any(moved(params, before)) or make.needs_loss
    assert not_finite(optimizer) == set()


def not_finite(optimizer: Any) -> set[str]:
    """Names of the state that is not finite, but for numbers that stand for what is not known."""
    return {
        name
        for entry in optimizer.state.values()
        for name, value in entry.items()
        if value.is_floating_point() and value.dim() > 0 and not value.isfinite().all()
    }


@each_that(lambda make: make.selects and not make.is_fixed and make.looks_at_ranks)
def test_a_spike_is_forgotten(make: Make) -> None:
    """Candidates of short memory choose as ever once their buffers have let go of it."""
    short: dict[str, Any] = {"weight_decay": 0.0}
    short |= {"momentum": (0.1, 0.5)} if make.family == "momentum" else {"betas": ((0.1, 0.5), (0.5, 0.5))}
    if make.name.startswith("aligned"):
        short["decay"] = 0.2
    if make.is_continuous:
        short |= {"decay": 0.9, "every": 16, "lags": 3, "rest": 1}
    params = parameters(40, (3, 2))
    others, steps = copies(params), 1000 if make.is_continuous else 200
    plain, spiked = make(params, **short), make(others, **short)
    for n, grads in enumerate(gradients(params, steps, correlation=0.95)):
        if n == steps - 20:
            counts = [optimizer.selection["counts"].clone() for optimizer in (plain, spiked)]
        feed(make, plain, grads)
        feed(make, spiked, [1e19 * grad.sign() for grad in grads] if n == 5 else grads)
    since = [optimizer.selection["counts"] - was for optimizer, was in zip((plain, spiked), counts, strict=True)]
    torch.testing.assert_close(*since, **make.rounding)
    if make.is_continuous:
        assert plain.momentum > 0.4
        torch.testing.assert_close(spiked.momentum, plain.momentum, rtol=1e-4, atol=1e-4)


# No numbers.


@each_that(lambda make: make.needs_loss)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_where_loss_or_gradient_are_no_numbers_the_step_is_skipped_and_nothing_is_remembered(
    make: Make, bad: float
) -> None:
    params, others = parameters(3, (2, 2)), parameters(3, (2, 2))
    optimizer, undisturbed = make(params), make(others)
    stream = gradients(params, 8)
    for n, grads in enumerate(stream):
        if n in (0, 3, 4):
            before, values = snapshot(optimizer), copies(params)
            broken = [grad.clone() for grad in grads]
            broken[1][0, 1] = bad
            assert math.isfinite(feed_constant(optimizer, params, broken, 1.0))
            assert not math.isfinite(feed_constant(optimizer, params, grads, bad))
            assert not any(moved(params, values))
            if n:
                assert_is_as_it_was(optimizer, before)
        feed(make, optimizer, grads)
        feed(make, undisturbed, grads)
    torch.testing.assert_close(params, others, **EXACT)


def feed_constant(optimizer: Any, params: Sequence[Tensor], grads: Sequence[Tensor], loss: float) -> float:
    def closure() -> float:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        return loss

    return float(optimizer.step(closure))


LOSSES = st.lists(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 1e-300, 1e300, -1e300, 1e-40, 1e38]) | st.floats(-1e3, 1e3),
    min_size=3,
    max_size=8,
)


@pytest.mark.parametrize("name", ["pop", "pop-box", "psd", "psd-shipped", "l2l"])
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(losses=LOSSES)
@example(losses=[0.0, 0.0, 0.0])
@example(losses=[1.0, 0.0, 0.0, 1.0])
@example(losses=[1e300, -1e300, 1e300, 0.0])
@example(losses=[1e-300, 1e-300, -1e-300, 1.0])
def test_no_history_of_finite_losses_leads_out_of_the_numbers(name: str, losses: list[float]) -> None:
    make = named(name)
    params = parameters(2, ())
    optimizer = make(params)
    for loss, grads in zip(losses, gradients(params, len(losses)), strict=True):
        feed_constant(optimizer, params, grads, loss)
        assert all(param.isfinite().all() for param in params)
        assert not_finite(optimizer) == set()


@pytest.mark.parametrize("name", ["pop", "pop-shipped"])
def test_a_rate_below_a_parameters_rounding_leads_to_no_nan(name: str) -> None:
    """Nor does it in a group beside one with a rate that can be told from nothing."""
    params = [torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizer = named(name)([{"params": params[:1], "lr": 1e-17}, {"params": params[1:], "lr": 0.5}])
    for grads in gradients(params, 4):
        feed_constant(optimizer, params, grads, 1.0)
    assert all(param.isfinite().all() for param in params)
    assert moved(params, [torch.ones(2)] * 2)[1]


# Sparse and complex.


@each
def test_sparse_gradients_are_refused_before_anything_has_moved(make: Make) -> None:
    """Also where it is a later parameter whose gradient is sparse."""
    for steps in (0, 2):
        layers = nn.Linear(2, 2), nn.Embedding(5, 2, sparse=True)
        params = [*layers[0].parameters(), *layers[1].parameters()]
        optimizer = make(params)
        for grads in gradients(params, steps):
            feed(make, optimizer, grads)
        optimizer.zero_grad()

        def closure() -> Tensor:
            loss = layers[0](layers[1](torch.tensor([1, 2]))).sum()  # noqa: B023
            loss.backward()
            return loss

        before, values = snapshot(optimizer), copies(params)
        given = {} if make.needs_loss else probes(make, optimizer)
        if not make.needs_loss:
            closure()
            given = {make.probes: [param.grad for param in params]} if make.probes else {}
        with pytest.raises(RuntimeError, match="does not support sparse gradients"):
            optimizer.step(*((closure,) if make.needs_loss else ()), **given)
        assert not any(moved(params, values))
        if steps:
            assert_is_as_it_was(optimizer, before)


@each
def test_complex_parameters_are_refused_with_a_way_out(make: Make) -> None:
    number = torch.zeros(2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(ValueError, match="view_as_real") as error:
        make([number])
    assert make.kind.__name__ in str(error.value) or type(make(parameters(1))).__name__ in str(error.value)
    assert "\n" not in str(error.value)
    if make.one_group:
        return
    task, optimizer = trained(make, 2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="view_as_real"):
        optimizer.add_param_group({"params": [number]})
    assert_is_as_it_was(optimizer, before)
    task.train(make, optimizer, 1)


@each
def test_a_complex_number_is_trained_through_its_real_view(make: Make) -> None:
    number = torch.tensor([1 + 2j, -1 - 1j])
    params = [torch.view_as_real(number).requires_grad_()]
    optimizer = make(params)
    before = number.clone()
    for grads in gradients(params, 3):
        feed(make, optimizer, grads)
    assert (number != before).all()


# Layout.


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x.mT.contiguous().mT if x.dim() == 2 else x


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def plain(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


@each
@pytest.mark.parametrize(
    ("of_params", "of_grads"),
    [
        (channels_last, channels_last),
        (channels_last, plain),
        (plain, channels_last),
        (plain, strided),
        (strided, plain),
    ],
)
def test_the_layout_in_memory_changes_no_step(
    make: Make, of_params: Callable[[Tensor], Tensor], of_grads: Callable[[Tensor], Tensor]
) -> None:
    def run(
        of_params: Callable[[Tensor], Tensor], of_grads: Callable[[Tensor], Tensor], **settings: Any
    ) -> list[Tensor]:
        params = [of_params(param.detach()).requires_grad_() for param in parameters((2, 3, 4, 5), (), (0,), (6, 2))]
        optimizer = make(params, **settings)
        for grads in gradients(params, 4):
            feed(make, optimizer, [of_grads(grad) for grad in grads])
        return [param.detach().contiguous() for param in params]

    expected = run(plain, plain)
    for how in ({"foreach": False}, {"foreach": True}) if make.family else ({},):
        torch.testing.assert_close(run(of_params, of_grads, **how), expected)


@each
def test_a_gradient_that_is_one_number_for_all_elements_is_taken(make: Make) -> None:
    """That of a sum is expanded, with steps of 0 in memory."""
    params = parameters((3, 4), 20)
    optimizer = make(params)
    before = copies(params)
    for _ in range(3):
        for param in params:
            param.grad = torch.ones(()).expand(param.shape)
        given = probes(make, optimizer)
        optimizer.step(*((lambda: 1.0,) if make.needs_loss else ()), **given)
    changes = [param - start for param, start in zip(params, before, strict=True)]
    assert make.name == "conjugate-gradient-search" or all((change != 0).all() for change in changes)
    assert all(param.isfinite().all() for param in params)
