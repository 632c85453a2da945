"""The plain twins and the fast forms take the same steps on the same gradients."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.optimizers import AlignedMeanAdam, AlignedMeanSGD, GapAdam, GapAdamW, GapSGD, reference
from optrepro.optimizers.continuous import ContinuousAdamW, ContinuousSGD

SHAPES = [(4, 3), (5,), ()]
MOMENTA = (0.5, 0.9, 0.99)
BETAS = tuple((momentum, 0.99) for momentum in MOMENTA)
scores = pytest.mark.parametrize("score", ["paper", "debiased", "raw"])
selects = pytest.mark.parametrize("select", ["global", "per_parameter"])


def gradients(shapes: list[Any] = SHAPES, correlation: float = 0.95, steps: int = 80) -> Iterator[list[Tensor]]:
    """Gradients in float64 whose correlation from step to step is weaker in the second half."""
    generator = torch.Generator().manual_seed(0)
    signal = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for n in range(steps):
        yield [g + 0.3 * torch.randn(g.shape, generator=generator, dtype=torch.float64) for g in signal]
        rho = correlation if n < steps // 2 else 0.3
        fresh = [torch.randn(g.shape, generator=generator, dtype=torch.float64) for g in signal]
        signal = [rho * g + (1 - rho**2) ** 0.5 * f for g, f in zip(signal, fresh, strict=True)]


def steps(optimizer: Any, twin: Any, params: list[Tensor], stream: Iterator[list[Tensor]]) -> Iterator[Any]:
    """Step both; yields what the twin has chosen."""
    for grads in stream:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step()
        yield twin.step(grads)
        for param, plain in zip(params, twin.params, strict=True):
            torch.testing.assert_close(param.detach(), plain, rtol=1e-9, atol=1e-9)


def start(shapes: list[Any] = SHAPES) -> tuple[list[Tensor], list[Tensor]]:
    params = [torch.ones(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    return params, [param.detach().clone() for param in params]


def compare(optimizer: Any, twin: Any, params: list[Tensor], select: str) -> None:
    """Parameters, and weights or choices, are equal; and there is something to choose."""
    seen = set()
    for n, weights in enumerate(steps(optimizer, twin, params, gradients())):
        chosen = torch.tensor(weights).argmax(-1)
        seen.update(chosen.tolist())
        expected = chosen[0] if select == "global" else chosen
        assert n == 0 or torch.equal(optimizer.selection["last"], expected)  # at first all candidates may be equal
    assert len(seen) > 1 or (isinstance(twin, reference.Adam) and twin.score == "raw")


@scores
@selects
def test_gap_sgd(score: str, select: str) -> None:
    params, plain = start()
    settings = {"score": score, "weight_decay": 0.01}
    compare(
        GapSGD(params, 0.01, MOMENTA, select, **settings),
        reference.SGD(plain, 0.01, MOMENTA, reference.Greedy(select), **settings),
        params,
        select,
    )


@scores
@selects
def test_gap_adam(score: str, select: str) -> None:
    params, plain = start()
    settings = {"score": score}
    compare(
        GapAdam(params, 0.01, BETAS, select, **settings),
        reference.Adam(plain, 0.01, BETAS, reference.Greedy(select), **settings),
        params,
        select,
    )


def test_gap_adamw() -> None:
    params, plain = start()
    compare(
        GapAdamW(params, 0.01, BETAS, weight_decay=0.1),
        reference.Adam(plain, 0.01, BETAS, reference.Greedy(), weight_decay=0.1),
        params,
        "global",
    )


@selects
def test_the_aligned_mean_of_sgd(select: str) -> None:
    params, plain = start()
    rule = reference.Evidence(select)
    compare(
        AlignedMeanSGD(params, 0.01, MOMENTA, select),
        reference.SGD(plain, 0.01, MOMENTA, rule, score="raw"),
        params,
        select,
    )


@selects
def test_the_aligned_mean_of_adam(select: str) -> None:
    params, plain = start()
    rule = reference.Evidence(select)
    compare(
        AlignedMeanAdam(params, 0.01, BETAS, select),
        reference.Adam(plain, 0.01, BETAS, rule, score="raw"),
        params,
        select,
    )


@pytest.mark.parametrize("windows", [{}, {"every": 2, "lags": 4, "rest": 3}, {"every": 1, "lags": 5, "rest": 0}])
def test_the_continuous_sgd_where_its_sketch_is_exact(windows: dict[str, Any]) -> None:
    shapes = [(2, 3), (2,)]  # as many buckets as coordinates
    params, plain = start(shapes)
    twin = reference.SGD(plain, 0.01, rule=reference.Continuous(0.0, 0.99, **windows))
    optimizer = ContinuousSGD(params, 0.01, (0.0, 0.99), **windows)
    seen = set()
    for [[momentum]] in follow(optimizer, twin, params, shapes):
        assert optimizer.momentum.item() == pytest.approx(momentum, abs=1e-5)
        seen.add(momentum)
    assert optimizer.sketch.stride == 1
    assert optimizer.sketch.width == 8
    assert len(seen) > 5


@pytest.mark.parametrize("windows", [{}, {"every": 2, "lags": 4, "rest": 3}])
def test_the_continuous_adamw_where_its_sketch_is_exact(windows: dict[str, Any]) -> None:
    shapes = [(2, 3), (2,)]
    params, plain = start(shapes)
    rule = reference.Continuous(0.0, 0.99, **windows)
    twin = reference.Adam(plain, 0.01, rule=rule, weight_decay=0.1)
    optimizer = ContinuousAdamW(params, 0.01, ((0.0, 0.999), (0.99, 0.999)), weight_decay=0.1, **windows)
    for [[beta]] in follow(optimizer, twin, params, shapes):
        assert optimizer.momentum.item() == pytest.approx(beta, abs=1e-5)


def follow(optimizer: Any, twin: Any, params: list[Tensor], shapes: list[Any]) -> Iterator[Any]:
    """As `steps`, to the precision of the sketches, float32."""
    for grads in gradients(shapes, steps=200):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step()
        yield twin.step(grads)
        for param, value in zip(params, twin.params, strict=True):
            torch.testing.assert_close(param.detach(), value, rtol=1e-4, atol=1e-4)
