"""A user's gradients are large or small throughout: what is chosen does not depend on their unit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro import optimizers
from tests.optimizers.registry import Make, each, each_that
from tests.optimizers.task import feed, gradients, parameters

SCALES = [2.0**40, 2.0**-40]  # about 1e12 and 1e-12, and exact
scales = pytest.mark.parametrize("scale", SCALES, ids=["1e12", "1e-12"])
own_decisions = each_that(lambda make: make.selects and make.looks_at_ranks and not make.is_fixed)


def of_any_unit(make: Make, **more: Any) -> dict[str, Any]:
    """Settings without a number that has the gradient's unit."""
    settings: dict[str, Any] = {"weight_decay": 0.0, **more}
    if make.family == "betas":
        settings["eps"] = 0.0
    if make.is_continuous:
        settings |= {"every": 2, "lags": 4, "rest": 2}
    return settings


@own_decisions
@scales
def test_the_unit_of_the_gradients_changes_no_choice(make: Make, scale: float) -> None:
    params = parameters(20, (4, 5), 3)
    others = parameters(20, (4, 5), 3)
    plain, scaled = make(params, **of_any_unit(make)), make(others, **of_any_unit(make))
    taken = []
    for grads in gradients(params, 30, correlation=0.95) + gradients(params, 30, correlation=-0.8):
        feed(make, plain, grads)
        feed(make, scaled, [scale * grad for grad in grads])
        taken.append(plain.selection["last"].clone())
        assert torch.equal(scaled.selection["last"], taken[-1])
    torch.testing.assert_close(scaled.selection, plain.selection, rtol=1e-6, atol=1e-6)
    if make.is_continuous:
        torch.testing.assert_close(scaled.momentum, plain.momentum, rtol=1e-6, atol=1e-6)
        assert plain.momentum != make(parameters(1), **of_any_unit(make)).momentum
    elif not make.name.startswith("aligned") and make.name != "gap-adam-literal":  # which take all, and the smallest
        assert len(torch.stack(taken).unique()) > 1


@each_that(lambda make: make.family and not make.is_fixed and not make.needs_loss)
@scales
def test_with_a_rate_in_the_other_unit_the_steps_are_the_same(make: Make, scale: float) -> None:
    params, others = parameters(20, (4, 5)), parameters(20, (4, 5))
    rate = make.lr / scale if make.family == "momentum" else make.lr
    eps = {"eps": 0.0} if make.family == "betas" else {}
    plain, scaled = make(params, weight_decay=0.0, **eps), make(others, rate, weight_decay=0.0, **eps)
    for grads in gradients(params, 20):
        feed(make, plain, grads)
        feed(make, scaled, [scale * grad for grad in grads])
    torch.testing.assert_close(others, params, rtol=1e-4, atol=1e-4)


def steps(make: Make, scale: float) -> Tensor:
    """The steps on a bowl whose loss is multiplied by the scale, (steps, elements)."""
    (param,) = parameters(6, dtype=torch.float64)
    target = torch.linspace(-1, 1, 6, dtype=torch.float64)
    optimizer = make([param])
    points = [param.detach().clone()]
    for _ in range(12):

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = scale * ((param - target).square() * torch.arange(1, 7)).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        points.append(param.detach().clone())
    return torch.stack(points).diff(dim=0)


@each_that(lambda make: make.kind in (optimizers.POP, optimizers.PredictedStepDescent))
@scales
def test_the_unit_of_the_loss_changes_no_direction_of_a_learned_step(make: Make, scale: float) -> None:
    assert torch.equal(steps(make, scale).sign(), steps(make, 1.0).sign())


@each_that(lambda make: make.name == "polyak")
@scales
def test_the_unit_of_the_loss_changes_no_step_to_a_known_minimum(make: Make, scale: float) -> None:
    torch.testing.assert_close(steps(make, scale), steps(make, 1.0))


@each
@scales
def test_any_unit_leads_to_finite_parameters_and_state(make: Make, scale: float) -> None:
    """L2L's input has a size by itself, so there this is all that can be said."""
    params = parameters(20, (4, 5))
    optimizer = make(params)
    for grads in gradients(params, 20):
        feed(make, optimizer, [scale * grad for grad in grads], loss=scale)
    assert all(param.isfinite().all() for param in params)
    for state in optimizer.state.values():
        for value in state.values():
            assert value.dim() == 0 or not value.is_floating_point() or value.isfinite().all()
