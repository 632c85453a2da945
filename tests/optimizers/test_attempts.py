"""The three attempts at one rule: plain transcriptions of their docstrings, limits, one candidate, and resuming."""

import io
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.optimizers import _switching
from optrepro.optimizers.aligned_mean import AlignedMeanSGD
from optrepro.optimizers.attempts import LEAST, MOST, NoiseWindowSGD, OwnMemorySGD, RegretSGD
from optrepro.optimizers.controls import MeanSGD

MOMENTA = (0.5, 0.9, 0.99)
ATTEMPTS: dict[Any, dict[str, Any]] = {  # with settings
    RegretSGD: {"horizon": 10.0, "eta": 1.0, "decay": 0.99},
    NoiseWindowSGD: {"factor": 1.0},
    OwnMemorySGD: {"judge": "next"},
}
SHAPES = ((3, 4), (5,))

each = pytest.mark.parametrize("attempt", ATTEMPTS)
either = pytest.mark.parametrize("select", ["global", "per_parameter"])


def stream(steps: int, share: float = 0.3, seed: int = 0) -> list[list[Tensor]]:
    """Gradients of two parameters with a direction that persists; `share` is its part of the expected square."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            math.sqrt(share) + math.sqrt(1 - share) * torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in SHAPES
        ]
        for _ in range(steps)
    ]


def halves(gradients: Sequence[Tensor], step: int) -> list[Tensor]:
    """Twice the first half's part of a batch's gradients."""
    generator = torch.Generator().manual_seed(1000 + step)
    return [g + 0.5 * g * torch.randn(g.shape, generator=generator, dtype=torch.float64) for g in gradients]


def fed(
    make: Any, gradients: list[list[Tensor]], *, resumed: int = 0, shapes: Any = SHAPES, **settings: Any
) -> tuple[list[Tensor], Any]:
    """The parameters after steps on these gradients; with `resumed`, by a second optimizer from that step on."""
    params = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    settings = {**ATTEMPTS.get(make, {}), **settings}
    optimizer = make(params, 0.01, **settings)
    for n, grads in enumerate(gradients):
        if resumed and n == resumed:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = make(params, 0.01, **settings)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step(**({"half_grads": halves(grads, n)} if getattr(optimizer, "needs", None) else {}))
    return [param.detach() for param in params], optimizer


def joined(gradients: list[list[Tensor]], select: str) -> list[list[Tensor]]:
    """The streams of the parts that have weights of their own, as vectors: of all parameters, or of each."""
    parts = [[grad.flatten() for grad in grads] for grads in gradients]
    return (
        [[torch.cat(grads) for grads in parts]] if select == "global" else [list(s) for s in zip(*parts, strict=True)]
    )


def flat(params: list[Tensor], select: str) -> list[Tensor]:
    parts = [param.flatten() for param in params]
    return [torch.cat(parts)] if select == "global" else parts


@either
@pytest.mark.parametrize("horizon", [1.0, 4.0])
def test_regret_is_that_of_a_plain_transcription(select: str, horizon: float) -> None:
    gradients = stream(30)
    params, _ = fed(RegretSGD, gradients, select=select, horizon=horizon, eta=0.7, decay=0.9)
    for x, own in zip(flat(params, select), joined(gradients, select), strict=True):
        y, buffers = torch.zeros_like(x), [torch.zeros_like(x)] * 3
        steps: list[list[Tensor]] = []  # what each candidate was ahead by in each step
        history: list[list[float]] = []
        for g in own:
            ages = [(1 - 1 / horizon) ** (len(steps) - 1 - i) for i in range(len(steps))]
            leads = [sum((a * s[j] for a, s in zip(ages, steps, strict=True)), torch.zeros_like(x)) for j in range(3)]
            history.append([float(g @ lead) for lead in leads])
            fade = [0.9 ** (len(history) - 1 - i) for i in range(len(history))]
            regret = [sum(f * r[j] for f, r in zip(fade, history, strict=True)) for j in range(3)]
            square = [sum(f * r[j] ** 2 for f, r in zip(fade, history, strict=True)) for j in range(3)]
            powers = [math.exp(0.7 * r / math.sqrt(v)) if v else 1.0 for r, v in zip(regret, square, strict=True)]
            buffers = [m * b + g for m, b in zip(MOMENTA, buffers, strict=True)]
            step = sum((p / sum(powers) * b for p, b in zip(powers, buffers, strict=True)), torch.zeros_like(x))
            steps.append([b - step for b in buffers])
            y = y - 0.01 * step
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@either
@pytest.mark.parametrize("judge", ["next", "same"])
def test_own_memory_is_that_of_a_plain_transcription(select: str, judge: str) -> None:
    gradients = stream(60, share=0.02)
    params, optimizer = fed(OwnMemorySGD, gradients, select=select, judge=judge)
    for x, own in zip(flat(params, select), joined(gradients, select), strict=True):
        y, buffers = torch.zeros_like(x), [torch.zeros_like(x)] * 3
        drops: list[list[float]] = []
        for n, g in enumerate(own):
            if n > 1:
                after = [m * b + g if judge == "same" else b for m, b in zip(MOMENTA, buffers, strict=True)]
                drops.append([float(g @ b - (g @ g if judge == "same" else 0)) for b in after])
            means = []
            for j, m in enumerate(MOMENTA):
                ages = [m ** (len(drops) - 1 - i) for i in range(len(drops))]
                means.append(sum(a * d[j] for a, d in zip(ages, drops, strict=True)) / max(sum(ages), 1))
            buffers = [m * b + g for m, b in zip(MOMENTA, buffers, strict=True)]
            y = y - 0.01 * buffers[means.index(max(means))]
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)
    assert optimizer.selection["counts"].reshape(-1, 3).count_nonzero(-1).min() > 1, "the stream makes it switch"


@either
def test_a_window_that_does_not_change_is_that_of_the_aligned_mean(select: str) -> None:
    gradients = stream(40)
    ours, _ = fed(NoiseWindowSGD, gradients, select=select, factor=1e9)
    theirs, _ = fed(AlignedMeanSGD, gradients, select=select, decay=(MOST - 1) / (MOST + 1))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert LEAST < MOST


def test_the_window_is_the_noise_scale() -> None:
    gradients = stream(50)
    [x, _], optimizer = fed(NoiseWindowSGD, gradients, factor=20.0, decay=0.9)
    y, buffers, gains = torch.zeros(x.numel(), dtype=torch.float64), [torch.zeros(x.numel())] * 3, []
    signal = power = 0.0
    sums = {"gain": [0.0, 0.0], "square": [0.0, 0.0], "mass": 0.0}
    windows = []
    for n, grads in enumerate(gradients):
        g, half = grads[0].flatten(), halves(grads, n)[0].flatten()
        signal, power = 0.9 * signal + float(half @ (2 * g - half)), 0.9 * power + float(g @ g)
        window = min(max(20 * (power - signal) / signal, LEAST), MOST) if signal > 0 else MOST
        decay = (window - 1) / (window + 1)
        buffers = [m * b + g for m, b in zip(MOMENTA, buffers, strict=True)]
        gains = [float(g @ (buffers[j + 1] - buffers[j])) for j in range(2)]
        sums["gain"] = [decay * a + b for a, b in zip(sums["gain"], gains, strict=True)]
        sums["square"] = [decay * a + b**2 for a, b in zip(sums["square"], gains, strict=True)]
        sums["mass"] = decay * sums["mass"] + 1
        t = [
            a / math.sqrt(b * sums["mass"]) * math.sqrt(min(n, window)) if b else 0.0
            for a, b in zip(sums["gain"], sums["square"], strict=True)
        ]
        odds = [NormalDist().cdf(each) / NormalDist().cdf(-each) for each in t]
        weights = torch.tensor([1.0, odds[0], odds[0] * odds[1]], dtype=torch.float64)
        y = y - 0.01 * sum(w * b for w, b in zip(weights / weights.sum(), buffers, strict=True))
        windows.append(window)
    torch.testing.assert_close(x.flatten(), y, rtol=1e-7, atol=1e-10)
    assert LEAST < min(windows) < max(windows), "the window moves in this stream"
    assert optimizer.needs == "half_grads"


@either
@each
def test_one_candidate_is_sgd_with_that_momentum(attempt: Any, select: str) -> None:
    gradients = stream(20)
    ours, _ = fed(attempt, gradients, select=select, momentum=0.9, weight_decay=0.1)
    theirs, _ = fed(torch.optim.SGD, gradients, momentum=0.9, weight_decay=0.1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@each
def test_equal_candidates_are_sgd_with_their_momentum(attempt: Any) -> None:
    gradients = stream(20)
    ours, _ = fed(attempt, gradients, momentum=(0.9, 0.9, 0.9))
    theirs, _ = fed(torch.optim.SGD, gradients, momentum=0.9)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("attempt", [RegretSGD, NoiseWindowSGD])
def test_without_evidence_the_step_is_the_mean_of_the_buffers(attempt: Any) -> None:
    torch.testing.assert_close(fed(attempt, stream(1))[0], fed(MeanSGD, stream(1))[0])


@each
def test_a_gradient_that_persists_leads_to_the_largest_momentum(attempt: Any) -> None:
    _, optimizer = fed(attempt, stream(200, share=0.5))
    assert (optimizer._record()["weights"][:, -1] > 0.9).all()


@pytest.mark.parametrize(
    ("attempt", "settings", "winner"),
    [
        (NoiseWindowSGD, {"factor": 1e9}, 0),
        (OwnMemorySGD, {"judge": "same"}, 0),
        # The next gradient opposes a step, so that the shortest one did least harm: that of the largest momentum.
        (OwnMemorySGD, {"judge": "next"}, 2),
        (RegretSGD, {"horizon": 1.0}, 2),
    ],
)
def test_what_a_gradient_that_turns_leads_to(attempt: Any, settings: dict[str, Any], winner: int) -> None:
    turning = [[(-1) ** n * (1 + 0.1 * g) for g in grads] for n, grads in enumerate(stream(200))]
    _, optimizer = fed(attempt, turning, **settings)
    assert (optimizer._record()["weights"][:, winner] > 0.8).all()


@either
@each
def test_resuming_equals_going_on(attempt: Any, select: str) -> None:
    gradients = stream(30)
    whole, optimizer = fed(attempt, gradients, select=select)
    parts, resumed = fed(attempt, gradients, select=select, resumed=13)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    torch.testing.assert_close(resumed.selection, optimizer.selection, rtol=0, atol=0)


@each
def test_a_parameter_in_pieces_is_measured_as_a_whole(attempt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = [[torch.cat([grad.flatten() for grad in grads])] for grads in stream(30)]
    whole, _ = fed(attempt, gradients, shapes=[(17,)])
    monkeypatch.setattr(_switching, "PIECE", 5)
    pieces, _ = fed(attempt, gradients, shapes=[(17,)])
    torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-12)


@either
@each
def test_a_parameter_without_gradient_stays_and_changes_nothing(attempt: Any, select: str) -> None:
    idle = torch.ones(3, dtype=torch.float64, requires_grad=True)
    params = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in SHAPES]
    optimizer = attempt([params[0], idle, params[1]], 0.01, select=select, **ATTEMPTS[attempt])
    gradients = stream(20)
    for n, grads in enumerate(gradients):
        params[0].grad, params[1].grad = (grad.clone() for grad in grads)
        first, second = halves(grads, n)
        optimizer.step(**({"half_grads": [first, None, second]} if getattr(optimizer, "needs", None) else {}))
    assert (idle == 1).all()
    torch.testing.assert_close([p.detach() for p in params], fed(attempt, gradients, select=select)[0])


@each
def test_no_choice_depends_on_the_scale_of_the_loss(attempt: Any) -> None:
    gradients = stream(30)
    _, one = fed(attempt, gradients)
    _, other = fed(attempt, [[2.0**20 * g for g in grads] for grads in gradients])
    torch.testing.assert_close(other.selection, one.selection)


@pytest.mark.parametrize(
    ("attempt", "settings", "words"),
    [
        (RegretSGD, {"horizon": 0.5}, "horizon = 0.5 is not allowed: it must be at least 1"),
        (RegretSGD, {"eta": 0.0}, "eta = 0.0 is not allowed: it must be above 0"),
        (NoiseWindowSGD, {"factor": -1.0}, "factor = -1.0 is not allowed: it must be above 0"),
        (NoiseWindowSGD, {"decay": 1.0}, "decay = 1.0 is not allowed"),
        (OwnMemorySGD, {"momentum": (0.9, 0.5)}, "in ascending order"),
        (OwnMemorySGD, {"judge": "last"}, 'judge = \'last\' is not allowed: it must be "next" or "same"'),
    ],
)
def test_a_setting_outside_its_range_is_refused(attempt: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attempt([torch.zeros(2, requires_grad=True)], **{**ATTEMPTS[attempt], **settings})


def test_the_halves_of_the_batch_are_asked_for() -> None:
    param = torch.zeros(2, requires_grad=True)
    param.grad = torch.ones(2)
    with pytest.raises(ValueError, match="half_grads is missing"):
        NoiseWindowSGD([param], 0.1, factor=1.0).step()
