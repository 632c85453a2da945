import math
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.optimizers.aligned_mean import AlignedMeanAdam, AlignedMeanAdamW, AlignedMeanSGD
from optrepro.optimizers.controls import MeanAdamW, MeanSGD

MOMENTA = (0.5, 0.9, 0.99)


def white(steps: int, size: int = 40, seed: int = 0) -> Tensor:
    return torch.randn((steps, size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def persistent(steps: int, share: float) -> Tensor:
    """One direction with noise; `share` is the direction's part of the expected square."""
    direction = torch.ones(40, dtype=torch.float64)
    return math.sqrt(share) * direction + math.sqrt(1 - share) * white(steps)


def alternating(steps: int) -> Tensor:
    signs = torch.tensor([1.0, -1.0]).repeat(steps)[:steps, None]
    return signs * torch.ones(40, dtype=torch.float64) + 0.5 * white(steps)


def fed(make: Any, gradients: Tensor, **settings: Any) -> tuple[Tensor, Any]:
    param = torch.zeros(gradients.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = make([param], 0.01, **settings)
    for gradient in gradients:
        param.grad = gradient.clone()
        optimizer.step()
    return param.detach(), optimizer


def plain(gradients: Tensor, decay: float) -> Tensor:
    """The docstring, word for word: t_j from averages with bias correction, weights from their odds."""
    x, buffers = torch.zeros(gradients.shape[1], dtype=torch.float64), [torch.zeros(gradients.shape[1])] * 3
    history: list[list[float]] = []
    for gradient in gradients:
        buffers = [m * b + gradient for m, b in zip(MOMENTA, buffers, strict=True)]
        history.append([float(gradient @ (buffers[j + 1] - buffers[j])) for j in range(2)])
        ages = [decay ** (len(history) - 1 - i) for i in range(len(history))]
        t = []
        for j in range(2):
            mean = sum(a * d[j] for a, d in zip(ages, history, strict=True)) / sum(ages)
            square = sum(a * d[j] ** 2 for a, d in zip(ages, history, strict=True)) / sum(ages)
            steps = min(len(history) - 1, (1 + decay) / (1 - decay))
            t.append(mean / math.sqrt(square) * math.sqrt(steps) if square else 0.0)
        odds = [NormalDist().cdf(each) / NormalDist().cdf(-each) for each in t]
        weights = torch.tensor([1.0, odds[0], odds[0] * odds[1]], dtype=torch.float64)
        weights = weights / weights.sum()
        x = x - 0.01 * sum(w * b for w, b in zip(weights, buffers, strict=True))
    return x


@pytest.mark.parametrize("decay", [0.5, 0.8])
def test_the_step_is_the_one_of_a_plain_transcription(decay: float) -> None:
    gradients = persistent(30, 0.1)
    x, _ = fed(AlignedMeanSGD, gradients, decay=decay)
    torch.testing.assert_close(x, plain(gradients, decay), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("make", "mean"), [(AlignedMeanSGD, MeanSGD), (AlignedMeanAdamW, MeanAdamW)])
def test_the_first_step_is_the_mean_of_the_candidates(make: Any, mean: Any) -> None:
    torch.testing.assert_close(fed(make, white(1))[0], fed(mean, white(1))[0])


@pytest.mark.parametrize("select", ["global", "per_parameter"])
def test_a_gradient_that_persists_leads_to_the_largest_momentum(select: str) -> None:
    _, optimizer = fed(AlignedMeanSGD, persistent(200, 0.5), select=select)
    assert optimizer._record()["weights"][0, -1] > 0.9


def test_a_gradient_that_turns_leads_to_the_smallest_momentum() -> None:
    _, optimizer = fed(AlignedMeanSGD, alternating(200))
    assert optimizer._record()["weights"][0, 0] > 0.9


def test_white_gradients_are_no_evidence_for_sgd() -> None:
    total = torch.zeros(3, dtype=torch.float64)
    for seed in range(40):
        total += fed(AlignedMeanSGD, white(100, seed=seed), select="global")[1].selection["counts"]
    # The ends get about equal parts; the middle less than a third, as evidence by chance favours one end or the other.
    shares = total / total.sum()
    assert abs(shares[0] - shares[2]) < 0.1
    assert 0.15 < shares[1] < 0.34


def test_white_gradients_favour_the_smallest_beta_for_adam() -> None:
    shares = fed(AlignedMeanAdam, white(300), select="global")[1].selection["counts"] / 300
    assert shares[0] > 0.8, "each average holds the newest gradient with a weight of its own"


def test_the_weights_of_a_step_sum_to_one() -> None:
    _, optimizer = fed(AlignedMeanAdamW, persistent(50, 0.1))
    torch.testing.assert_close(optimizer.selection["counts"].sum(-1), torch.tensor([50.0], dtype=torch.float64))


def test_nesterov_steps_along_the_mean_of_the_candidates_nesterov_steps() -> None:
    ours = fed(AlignedMeanSGD, white(1), nesterov=True)[0]
    torch.testing.assert_close(ours, fed(MeanSGD, white(1), nesterov=True)[0])
