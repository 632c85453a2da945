"""A user sets something wrong, and is told what, and what is allowed."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.optimizers import (
    L2L,
    POP,
    AlignedMeanAdamW,
    AlignedMeanSGD,
    CautiousAdamW,
    ConjugateGradient,
    GapAdam,
    GapAdamW,
    GapSGD,
    MeanAdam,
    MeanSGD,
    Polyak,
    PredictedStepDescent,
    RandomAdam,
    RandomSGD,
)
from tests.optimizers.registry import Make, each, each_class, each_class_that, each_that
from tests.optimizers.task import EXACT, Task, assert_is_as_it_was, copies, moved, parameters, probes, snapshot, trained


def given(kind: type, **settings: Any) -> Any:
    """A class with some of its settings."""
    made = functools.partial(kind, **settings)
    made.__name__ = f"{'continuous ' if settings.get('candidates') else ''}{kind.__name__}"  # type: ignore[attr-defined]
    return made


CONTINUOUS_SGD, CONTINUOUS_ADAM = (given(kind, candidates="continuous") for kind in (GapSGD, GapAdam))
RANDOM_SGD, RANDOM_ADAM = given(RandomSGD, seed=0), given(RandomAdam, seed=0)
SGDS = [GapSGD, CONTINUOUS_SGD, AlignedMeanSGD, RANDOM_SGD, MeanSGD]
ADAMS = [GapAdam, GapAdamW, CONTINUOUS_ADAM, AlignedMeanAdamW, RANDOM_ADAM, MeanAdam]
NAN, INF = math.nan, math.inf
# Classes, one of their settings, and values of it that are wrong.
WRONG: list[tuple[list[Any], str, list[Any]]] = [
    (SGDS, "momentum", [1.0, -0.1, NAN, (0.5, 1.2), ()]),
    (ADAMS, "betas", [(0.9, 1.0), (-0.1, 0.9), ((0.5, 0.999), (0.9, 0.99)), ((0.5, 0.999), (0.9,)), ()]),
    ([CautiousAdamW], "betas", [(0.9, 1.0), (NAN, 0.9), (0.9,), (0.9, 0.99, 0.999)]),
    ([*SGDS, *ADAMS, CautiousAdamW], "weight_decay", [-0.1, NAN]),
    ([*ADAMS, CautiousAdamW], "eps", [-1e-8, NAN]),
    ([GapSGD, RANDOM_SGD], "dampening", [1.0, -0.1, NAN]),
    ([given(GapSGD, dampening=0.1), given(GapSGD, momentum=(0.0, 0.9)), CONTINUOUS_SGD], "nesterov", [True]),
    ([CONTINUOUS_SGD], "dampening", [0.1]),
    ([CONTINUOUS_SGD, CONTINUOUS_ADAM], "lr_modulation", [True]),
    ([GapSGD, GapAdamW, AlignedMeanSGD, RANDOM_SGD], "select", ["layer"]),
    ([CONTINUOUS_SGD], "select", ["per_parameter"]),
    ([GapSGD, GapAdam], "score", ["best"]),
    ([GapSGD], "score", ["paper_literal"]),
    ([CONTINUOUS_SGD], "score", ["raw"]),
    ([GapSGD, GapAdam, GapAdamW], "candidates", ["many"]),
    ([given(GapSGD, score="debiased")], "self_term", ["thirds", None]),
    ([GapAdam], "score_ema", [1.0, -0.1, NAN]),
    ([GapSGD], "hysteresis", [-0.1, NAN]),
    ([CONTINUOUS_SGD], "lags", [1]),
    ([CONTINUOUS_SGD], "decay", [0, 1.5]),
    ([CONTINUOUS_SGD], "smoothing", [1, -0.1]),
    ([CONTINUOUS_SGD], "every", [0]),
    ([CONTINUOUS_SGD], "rest", [-1]),
    ([AlignedMeanSGD, AlignedMeanAdamW], "decay", [1.0, -0.1, NAN]),
    ([AlignedMeanSGD], "momentum", [(0.9, 0.5)]),
    ([AlignedMeanAdamW], "betas", [((0.9, 0.999), (0.5, 0.999))]),
    ([RANDOM_SGD], "shares", [(0.5, 0.5), (-1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (NAN, 1, 1)]),
    ([POP], "bounds", [(1.0, 0.0), (0.0, INF), 1.0, (0.0, 1.0, 2.0), (torch.zeros(2), torch.tensor([1.0, 0.0]))]),
    ([POP, PredictedStepDescent, L2L], "policy", [3, None]),
    ([ConjugateGradient], "lr", [0.0]),
    ([ConjugateGradient], "line_search", ["wolfe"]),
    ([Polyak], "optimum", [NAN, -INF, torch.tensor([0.0, NAN])]),
]


def refused(make: Callable[[], Any], name: str, value: Any) -> None:
    """It raises one line in which the setting, its value or the wrong part of that, and what is allowed stand."""
    with pytest.raises(ValueError, match=rf"^{name}\b") as error:
        make()
    message = str(error.value)
    assert any(str(part) in message for part in parts(value))
    assert "must be" in message
    if not isinstance(value, tuple):
        assert "\n" not in message


def parts(value: Any) -> Iterator[Any]:
    """A value and what it is made of; of a tensor, nothing that a message could be asked for."""
    yield "" if isinstance(value, Tensor) else value
    if isinstance(value, tuple):
        for item in value:
            yield from parts(item)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        pytest.param(kind, name, value, id=f"{kind.__name__}-{name}={value}")
        for kinds, name, values in WRONG
        for kind in kinds
        for value in values
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(kind: Any, name: str, value: Any) -> None:
    params = parameters(2)
    before = copies(params)
    refused(lambda: kind(params, **{name: value}), name, value)
    assert not any(moved(params, before))
    assert params[0].grad is None


@each
@pytest.mark.parametrize("value", [-1.0, math.nan, torch.tensor(-1.0)], ids=str)
def test_a_wrong_rate_is_named(make: Make, value: Any) -> None:
    refused(lambda: make(parameters(2), value), "lr", -1 if isinstance(value, Tensor) else value)


@each_that(lambda make: not make.one_group)
def test_a_wrong_setting_of_a_later_group_leaves_the_optimizer_as_it_was(make: Make) -> None:
    task, optimizer = trained(make, 3)
    before, values, grads = snapshot(optimizer), copies(task.params), [param.grad.clone() for param in task.params]
    refused(lambda: optimizer.add_param_group({"params": parameters(2), "lr": -1.0}), "lr", -1.0)
    if make.candidates > 1:
        one = 0.9 if make.family == "momentum" else (0.9, 0.999)
        refused(lambda: optimizer.add_param_group({"params": parameters(2), make.family: one}), make.family, 0.9)
    assert_is_as_it_was(optimizer, before)
    assert not any(moved(task.params, values))
    torch.testing.assert_close([param.grad for param in task.params], grads, **EXACT)
    task.train(make, optimizer, 3, start=3)
    torch.testing.assert_close(task.params, trained(make, 6)[0].params, **EXACT)


@each_class_that(lambda make: make.looks_at_ranks)
@pytest.mark.parametrize("value", ["everyone", 3], ids=repr)
def test_a_process_group_that_is_none_is_named(make: Make, value: Any) -> None:
    refused(lambda: make(parameters(2), process_group=value), "process_group", value)


@each_that(lambda make: make.looks_at_ranks)
def test_a_process_by_itself_may_say_so(make: Make) -> None:
    task = Task()
    optimizer = make(task.params, process_group=None)
    task.train(make, optimizer, 4)
    torch.testing.assert_close(task.params, trained(make, 4)[0].params, **EXACT)


@each_class
def test_what_is_no_parameter_is_refused(make: Make) -> None:
    with pytest.raises(TypeError, match="params argument given to the optimizer should be an iterable"):
        make(torch.zeros(2, requires_grad=True))
    with pytest.raises(TypeError, match="optimizer can only optimize Tensors"):
        make([1.0])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        make([2 * torch.zeros(2, requires_grad=True)])


@each_that(lambda make: make.probes)
def test_further_gradients_that_are_wrong_are_named_before_anything_has_moved(make: Make) -> None:
    for steps in (0, 2):
        task = Task()
        optimizer = make(task.params)
        task.train(make, optimizer, steps)
        task.closure(optimizer, steps)()
        good = probes(make, optimizer)[make.probes]
        other = {"validation_grads": "half_grads", "half_grads": "validation_grads"}[make.probes]
        before, values, grads = snapshot(optimizer), copies(task.params), [param.grad.clone() for param in task.params]
        for given, message in [
            ({}, f"{make.probes} is missing"),
            ({make.probes: good, other: good}, f"{other} is superfluous"),
            ({make.probes: good[:3]}, rf"len\({make.probes}\) = 3"),
            ({make.probes: [*good[:2], None, good[3]]}, rf"{make.probes}\[2\]"),
            ({make.probes: [*good[:3], good[0]]}, rf"{make.probes}\[3\].*\(6, 4\)"),
        ]:
            with pytest.raises(ValueError, match=message) as error:
                optimizer.step(**given)
            assert "\n" not in str(error.value)
            assert not any(moved(task.params, values))
            assert_is_as_it_was(optimizer, before)
            torch.testing.assert_close([param.grad for param in task.params], grads, **EXACT)
        task.train(make, optimizer, 2, start=steps)
        torch.testing.assert_close(task.params, trained(make, steps + 2)[0].params, **EXACT)


@pytest.mark.parametrize("kind", [POP, PredictedStepDescent, L2L])
def test_a_policy_that_is_not_there_is_named_with_those_there_are(kind: Any) -> None:
    with pytest.raises(FileNotFoundError, match="'nowhere' is no file, and no shipped policy; those are"):
        kind(parameters(2), policy="nowhere")


@pytest.mark.parametrize("kind", [GapSGD, GapAdam, GapAdamW])
def test_a_class_of_ones_own_has_the_continuous_form_or_says_that_it_has_none(kind: Any) -> None:
    class Mine(kind):  # type: ignore[misc]
        pass

    params = parameters(3)
    try:
        optimizer = Mine(params, 0.1, candidates="continuous")
    except (ValueError, TypeError) as error:
        assert "continuous" in str(error)  # noqa: PT017
    else:
        assert hasattr(optimizer, "momentum")
        params[0].grad = torch.ones(3)
        optimizer.step()
        assert {"momentum_buffer", "exp_avg"} & set(optimizer.state[params[0]])
    assert type(Mine(params, 0.1)) is Mine
