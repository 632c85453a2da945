from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.optimizers.controls import MeanAdam, MeanAdamW, MeanSGD, RandomAdam, RandomAdamW, RandomSGD

MOMENTA = (0.5, 0.9, 0.99)
BETAS = tuple((m, 0.999) for m in MOMENTA)


def gradients(steps: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn((steps, *shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameters(count: int = 3) -> list[Tensor]:
    return [torch.zeros(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(count)]


def feed(optimizer: torch.optim.Optimizer, grads: Sequence[Tensor]) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    optimizer.step()


def run(optimizer: torch.optim.Optimizer, steps: int, start: int = 0) -> list[list[int]]:
    """The choices at each step on gradients that depend on the step alone."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    taken = []
    for n in range(start, start + steps):
        feed(optimizer, gradients(len(params), 2, 3, seed=n))
        taken.append(optimizer.selection["last"].tolist())
    return taken


@pytest.mark.parametrize("shares", [None, (1, 2, 5)])
def test_candidates_are_drawn_with_the_given_shares(shares: tuple[float, ...] | None) -> None:
    optimizer = RandomSGD(parameters(60), 0.01, select="per_parameter", seed=3, shares=shares)
    run(optimizer, 100)
    counts = optimizer.selection["counts"]
    weights = torch.tensor(shares or (1.0, 1.0, 1.0))
    torch.testing.assert_close(counts.sum(0) / 6000, weights / weights.sum(), rtol=0, atol=0.02)
    assert (counts.double().std(0) > 0).all(), "every parameter draws for itself"


def test_draws_depend_on_the_seed_alone() -> None:
    first = run(RandomSGD(parameters(), 0.01, seed=1), 30)
    assert run(RandomAdamW(parameters(), 0.5, BETAS, seed=1), 30) == first
    assert run(RandomSGD(parameters(), 0.01, seed=2), 30) != first


@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize(
    ("optimizer", "candidates", "fixed"),
    [
        (RandomSGD, MOMENTA, lambda p, c: torch.optim.SGD(p, 0.1, c)),
        (RandomAdam, BETAS, lambda p, c: torch.optim.Adam(p, 0.1, c)),
        (RandomAdamW, BETAS, lambda p, c: torch.optim.AdamW(p, 0.1, c)),
    ],
)
def test_a_share_of_one_is_the_fixed_optimizer(optimizer: Any, candidates: Any, fixed: Any, taken: int) -> None:
    ours, theirs = parameters(), parameters()
    shares = [float(j == taken) for j in range(3)]
    a, b = optimizer(ours, 0.1, candidates, seed=0, shares=shares), fixed(theirs, candidates[taken])
    for n in range(50):
        feed(a, gradients(3, 2, 3, seed=n))
        feed(b, gradients(3, 2, 3, seed=n))
    torch.testing.assert_close(ours, theirs)
    assert a.selection["counts"].tolist() == [50 * share for share in shares]


@pytest.mark.parametrize(
    "settings", [{}, {"nesterov": True, "weight_decay": 0.1}, {"dampening": 0.2, "maximize": True}]
)
def test_mean_sgd_steps_with_the_mean_of_the_candidates_steps(settings: dict[str, Any]) -> None:
    assert_mean_of(
        MeanSGD(parameters(), 0.1, MOMENTA, **settings),
        [lambda p, m=m: torch.optim.SGD(p, 0.1, m, **settings) for m in MOMENTA],
    )


@pytest.mark.parametrize(("ours", "theirs"), [(MeanAdam, torch.optim.Adam), (MeanAdamW, torch.optim.AdamW)])
def test_mean_adam_steps_with_the_mean_of_the_candidates_steps(ours: Any, theirs: Any) -> None:
    assert_mean_of(
        ours(parameters(), 0.1, BETAS, weight_decay=0.2),
        [lambda p, b=b: theirs(p, 0.1, b, weight_decay=0.2) for b in BETAS],
    )


def assert_mean_of(mean: torch.optim.Optimizer, makers: list[Any]) -> None:
    params = mean.param_groups[0]["params"]
    copies = [parameters() for _ in makers]
    fixed = [make(copy) for make, copy in zip(makers, copies, strict=True)]
    for n in range(20):
        before = [param.detach().clone() for param in params]
        for optimizer, copy in zip(fixed, copies, strict=True):
            for param, start in zip(copy, before, strict=True):
                param.data.copy_(start)
            feed(optimizer, gradients(3, 2, 3, seed=n))
        feed(mean, gradients(3, 2, 3, seed=n))
        expected = [torch.stack(each).mean(0) for each in zip(*copies, strict=True)]
        torch.testing.assert_close(params, expected)


def test_the_mean_of_candidates_chooses_nothing() -> None:
    optimizer = MeanSGD(parameters(), 0.1)
    assert run(optimizer, 5) == [-1] * 5
    assert optimizer.selection["counts"].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (RandomSGD, {"momentum": MOMENTA}),
        (RandomSGD, {"momentum": MOMENTA, "nesterov": True}),
        (RandomAdam, {"betas": BETAS}),
    ],
)
def test_modulated_steps_have_the_power_of_the_first_candidate_under_white_gradients(
    optimizer: Any, settings: dict[str, Any]
) -> None:
    powers = []
    for taken in range(3):
        param = torch.zeros(20_000, requires_grad=True)
        shares = [float(j == taken) for j in range(3)]
        modulated = optimizer([param], 1.0, seed=0, shares=shares, lr_modulation=True, **settings)
        for grad in gradients(600, 20_000, seed=taken, dtype=torch.float32):
            before = param.detach().clone()
            feed(modulated, [grad])
        powers.append((param - before).square().mean().item())
    if settings.get("nesterov"):
        power = 1.5**2 + 0.5**4 / (1 - 0.5**2)
    else:
        power = 1 / (1 - 0.5**2) if "momentum" in settings else 0.5 / 1.5
    assert powers == pytest.approx([power] * 3, rel=0.06)
