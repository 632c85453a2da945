import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.optimizers import _switching
from optrepro.optimizers.aligned_mean import AlignedMeanSGD
from optrepro.optimizers.gap import GapAdam, GapAdamW, GapSGD

MOMENTA = (0.5, 0.9, 0.99)
BETAS = tuple((m, 0.999) for m in MOMENTA)
SHAPES = [(4, 3), (5,), (), (2, 1, 3)]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [random(*shape, seed=i, dtype=dtype).requires_grad_() for i, shape in enumerate(SHAPES)]


def history(steps: int, seed: int, dtype: torch.dtype = torch.float64) -> list[list[Tensor]]:
    """Gradients of every step that are correlated over time, so that scores of both signs occur."""
    streams = [autoregressive(0.7, steps, *shape, seed=seed + i) for i, shape in enumerate(SHAPES)]
    return [[stream[n].to(dtype) for stream in streams] for n in range(steps)]


def autoregressive(rho: float, steps: int, *shape: int, seed: int = 0) -> Tensor:
    """A stationary AR(1) stream, (steps, *shape), of variance 1 and autocorrelation rho^k."""
    noise = random(steps, *shape, seed=seed)
    stream = [noise[0]]
    for shock in noise[1:]:
        stream.append(rho * stream[-1] + math.sqrt(1 - rho**2) * shock)
    return torch.stack(stream)


def feed(optimizer: torch.optim.Optimizer, grads: Sequence[Tensor], **arguments: Any) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    optimizer.step(**arguments)


def choices(optimizer: GapSGD | GapAdam, stream: Tensor, last: int) -> set[int]:
    """The candidates taken in the last steps of a stream of gradients of one parameter."""
    taken = []
    for grad in stream:
        feed(optimizer, [grad])
        taken.append(optimizer.selection["last"].item())
    return set(taken[-last:])


def best(rho: float) -> int:
    """The candidate that maximizes the derived score under AR(1) gradients."""
    return max(range(3), key=lambda j: math.sqrt(1 - MOMENTA[j] ** 2) / (1 - MOMENTA[j] * rho))


# One candidate is torch's optimizer.


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9},
        {"momentum": 0.0},
        {"momentum": 0.0, "dampening": 0.5},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ],
)
def test_one_momentum_is_torch_sgd_bit_for_bit(settings: dict[str, Any], foreach: bool) -> None:
    assert_equal_over_100_steps(
        lambda params: GapSGD(params, 0.05, foreach=foreach, **settings),
        lambda params: torch.optim.SGD(params, 0.05, **settings),
    )


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"maximize": True, "eps": 1e-3}])
@pytest.mark.parametrize(("ours", "theirs"), [(GapAdam, torch.optim.Adam), (GapAdamW, torch.optim.AdamW)])
def test_one_pair_of_betas_is_torch_adam_bit_for_bit(
    ours: type[GapAdam], theirs: type[torch.optim.Adam], settings: dict[str, Any], foreach: bool
) -> None:
    assert_equal_over_100_steps(
        lambda params: ours(params, 0.05, (0.9, 0.99), foreach=foreach, **settings),
        lambda params: theirs(params, 0.05, (0.9, 0.99), **settings),
    )


def assert_equal_over_100_steps(
    ours: Callable[[list[Tensor]], torch.optim.Optimizer], theirs: Callable[[list[Tensor]], torch.optim.Optimizer]
) -> None:
    mine, reference = parameters(torch.float32), parameters(torch.float32)
    a, b = ours(mine), theirs(reference)
    for grads in history(100, seed=1, dtype=torch.float32):
        feed(a, grads)
        feed(b, grads)
        assert all(torch.equal(x, y) for x, y in zip(mine, reference, strict=True))


# The score is the inner product of the filter with the history of the gradients.


class Twin:
    """The scores, slowly: every candidate's impulse response against all gradients seen so far."""

    def __init__(self, optimizer: GapSGD | GapAdam) -> None:
        self.rule, self.group = optimizer.rule, optimizer.param_groups[0]
        self.adam = isinstance(optimizer, GapAdam)
        self.coupled = optimizer.couples_weight_decay
        self.seen: list[Tensor] = []

    def response(self, candidate: Any, taps: int) -> Tensor:
        """The impulse response q_k of an update, without bias correction."""
        k = torch.arange(taps, dtype=torch.float64)
        if self.adam:
            return (1 - candidate[0]) * candidate[0] ** k
        if self.group["nesterov"]:
            return candidate ** (k + 1) + (k == 0)
        return (1 - self.group["dampening"]) * candidate**k

    def factor(self, candidate: Any, step: int) -> float:
        correction = 1 - candidate[0] ** step if self.adam else 1.0
        if self.rule.score == "raw":
            return 1 / correction
        if self.rule.score == "paper_literal":
            return math.sqrt(1 - candidate[0] ** 2) / correction
        return 1 / self.response(candidate, 10_000).norm().item()

    def metric(self) -> Tensor:
        if not self.adam:
            return torch.ones_like(self.seen[-1])
        beta, steps = self.group["betas"][0][1], len(self.seen)
        v = sum((1 - beta) * beta**k * g**2 for k, g in enumerate(reversed(self.seen)))
        return 1 / ((v / (1 - beta**steps)).sqrt() + self.group["eps"])

    def scores(self, grads: list[Tensor], params: list[Tensor], probe: list[Tensor] | None) -> Tensor:
        """Scores of all candidates at this step, (candidates,)."""

        def regularized(tensors: list[Tensor], decay: bool) -> Tensor:
            flat = torch.cat([t.detach().double().flatten() for t in tensors]) * (-1 if self.group["maximize"] else 1)
            values = torch.cat([p.detach().double().flatten() for p in params])
            return flat + self.group["weight_decay"] * values if decay and self.coupled else flat

        self.seen.append(regularized(grads, True))
        g, metric = self.seen[-1], self.metric()
        left, self_term = g, g @ (metric * g)
        if self.rule.score == "validation":
            left = regularized(probe, False)
            self_term = left @ (metric * g)
        elif self.rule.score == "debiased" and self.rule.self_term == "halves":
            half = regularized(probe, True)
            self_term = half @ (metric * (2 * g - half))
        elif self.rule.score == "debiased":
            self_term = g @ (metric * self.seen[-2]) if len(self.seen) > 1 else torch.tensor(0.0)
        scores = []
        for candidate in self.group["betas" if self.adam else "momentum"]:
            q = self.response(candidate, len(self.seen))
            if not self.adam and not self.group["nesterov"] and len(q) > 1:
                q[-1] /= 1 - self.group["dampening"]  # the first gradient enters undamped
            past = sum(q[k] * (left @ (metric * self.seen[-1 - k])) for k in range(1, len(q)))
            scores.append(self.factor(candidate, len(self.seen)) * (q[0] * self_term + past))
        return torch.stack(scores)


def twin_agrees(optimizer: GapSGD | GapAdam, seed: int, dtype: torch.dtype = torch.float64) -> None:
    twin = Twin(optimizer)
    params = optimizer.param_groups[0]["params"]
    probes = history(20, seed + 100, dtype)
    for grads, probe in zip(history(20, seed, dtype), probes, strict=True):
        expected = twin.scores(grads, params, probe)
        feed(optimizer, grads, **({optimizer.needs: probe} if optimizer.needs else {}))
        scores = optimizer._record()["scores"][0]
        scale = expected.abs().max().item() if dtype == torch.float32 else 0.0
        torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5 * scale)


SCORES = [
    {"score": "paper"},
    {"score": "raw"},
    {"score": "validation"},
    {"score": "debiased"},
    {"score": "debiased", "self_term": "halves"},
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"weight_decay": 0.3, "maximize": True}, {"nesterov": True, "weight_decay": 0.1}, {"dampening": 0.4}],
)
@pytest.mark.parametrize("score", SCORES)
def test_scores_of_sgd_are_those_of_the_slow_twin(
    score: dict[str, Any], settings: dict[str, Any], foreach: bool, seed: int
) -> None:
    twin_agrees(GapSGD(parameters(), 0.01, foreach=foreach, **score, **settings), seed)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("score", [*SCORES, {"score": "paper_literal"}])
@pytest.mark.parametrize(("optimizer", "decay"), [(GapAdam, 0.0), (GapAdam, 0.3), (GapAdamW, 0.3)])
def test_scores_of_adam_are_those_of_the_slow_twin(
    optimizer: type[GapAdam], decay: float, score: dict[str, Any], foreach: bool, seed: int
) -> None:
    twin_agrees(optimizer(parameters(), 0.01, BETAS, foreach=foreach, weight_decay=decay, **score), seed)


@pytest.mark.parametrize("optimizer", [GapSGD, GapAdam])
@pytest.mark.parametrize("score", SCORES)
def test_scores_in_float32_are_those_of_the_slow_twin(optimizer: Any, score: dict[str, Any]) -> None:
    twin_agrees(optimizer(parameters(torch.float32), 0.01, **score), 0, torch.float32)


def test_the_largest_score_is_taken_and_moves_the_parameters() -> None:
    params = parameters()
    optimizer, reference = GapSGD(params, 0.1), [random(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    buffers = [[torch.zeros(shape, dtype=torch.float64) for shape in SHAPES] for _ in MOMENTA]
    for grads in history(50, seed=3):
        feed(optimizer, grads)
        buffers = [[m * b + g for b, g in zip(bs, grads, strict=True)] for m, bs in zip(MOMENTA, buffers, strict=True)]
        alignments = [sum((g * b).sum() for g, b in zip(grads, bs, strict=True)) for bs in buffers]
        taken = max(range(3), key=lambda j: alignments[j] * math.sqrt(1 - MOMENTA[j] ** 2))
        reference = [p - 0.1 * b for p, b in zip(reference, buffers[taken], strict=True)]
        assert optimizer.selection["last"] == taken
        torch.testing.assert_close(params, reference)
    assert (optimizer.selection["counts"] > 0).sum() > 1


# What the score chooses.


@pytest.mark.parametrize("rho", [-0.2, 0.55, 0.85, 0.98])
@pytest.mark.parametrize("optimizer", [GapSGD, GapAdam])
def test_chooses_the_candidate_that_matches_the_autocorrelation(optimizer: Any, rho: float) -> None:
    stream = autoregressive(rho, 600, 4000).float()
    assert choices(optimizer([torch.zeros(4000, requires_grad=True)], 1e-6), stream, last=100) == {best(rho)}


def test_the_literal_factor_of_adam_takes_the_smallest_candidate_even_where_the_largest_matches() -> None:
    stream = autoregressive(0.98, 600, 4000).float()
    optimizer = GapAdam([torch.zeros(4000, requires_grad=True)], 1e-6, score="paper_literal")
    assert best(0.98) == 2
    assert choices(optimizer, stream, last=600) == {0}


@pytest.mark.parametrize("optimizer", [GapSGD, AlignedMeanSGD])
def test_the_gain_of_steps_of_equal_power_is_the_score_of_unit_norm(optimizer: Any) -> None:
    param = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    unit_norm = GapSGD([param], 0.0, MOMENTA, score="paper")
    settings = {"score": "raw"} if optimizer is GapSGD else {"select": "global"}
    power = optimizer([param], 0.0, MOMENTA, lr_modulation=True, **settings)
    for grad in autoregressive(0.7, 12, 6):
        feed(unit_norm, [grad])
        feed(power, [grad])
        ratio = power._record()["scores"] / unit_norm._record()["scores"]
        torch.testing.assert_close(ratio, torch.full_like(ratio, (1 - MOMENTA[0] ** 2) ** -0.5))


def test_each_parameter_chooses_for_itself() -> None:
    rhos = [0.55, 0.85, 0.98]
    streams = [autoregressive(rho, 600, 4000, seed=i).float() for i, rho in enumerate(rhos)]
    params = [torch.zeros(4000, requires_grad=True) for _ in rhos]
    optimizer = GapSGD(params, 1e-6, select="per_parameter")
    for n in range(600):
        feed(optimizer, [stream[n] for stream in streams])
    assert optimizer.selection["last"].tolist() == [best(rho) for rho in rhos]
    assert optimizer.selection["counts"].sum(1).tolist() == [600, 600, 600]


def test_a_global_choice_adds_the_scores_of_all_parameters() -> None:
    streams = [autoregressive(0.98, 600, 4000).float(), 10 * autoregressive(0.55, 600, 4000, seed=1).float()]
    optimizer = GapSGD([torch.zeros(4000, requires_grad=True) for _ in streams], 1e-6)
    for n in range(600):
        feed(optimizer, [stream[n] for stream in streams])
    assert optimizer.selection["last"] == best(0.55), "the parameter with the larger gradients outweighs the other"


NOISE = [0.0, 0.1, 10.0, 1e3]


def noisy_halves(signal: Tensor, size: float) -> tuple[Tensor, Tensor]:
    """A signal (steps, d), plus noise whose products vanish exactly: white, as its expectations are."""
    steps, d = signal.shape
    noise = size * torch.eye(2 * steps, dtype=torch.float64)
    blank = torch.zeros(steps, d, dtype=torch.float64)
    still = torch.zeros(steps, 2 * steps, dtype=torch.float64)
    a, b = (torch.cat([blank, noise[i::2]], 1) + torch.cat([signal, still], 1) for i in (0, 1))
    return a, b


@pytest.mark.parametrize("size", NOISE)
@pytest.mark.parametrize("optimizer", [GapSGD, GapAdam])
def test_the_debiased_score_of_halves_picks_under_noise_what_the_score_picks_without(
    optimizer: Any, size: float
) -> None:
    signal = autoregressive(0.9, 200, 40)
    clean = optimizer([torch.zeros(440, dtype=torch.float64, requires_grad=True)], 1e-6)
    debiased = optimizer(
        [torch.zeros(440, dtype=torch.float64, requires_grad=True)], 1e-6, score="debiased", self_term="halves"
    )
    for s, a, b in zip(noisy_halves(signal, 0)[0], *noisy_halves(signal, size), strict=True):
        feed(clean, [s])
        feed(debiased, [(a + b) / 2], half_grads=[a])
        assert clean.selection["last"] == debiased.selection["last"]
    assert (clean.selection["counts"] > 0).sum() > 1, "the signal makes the choice switch"


@pytest.mark.parametrize("size", NOISE)
@pytest.mark.parametrize("optimizer", [GapSGD, GapAdam])
def test_the_debiased_score_of_successive_gradients_picks_under_noise_what_the_score_picks_without(
    optimizer: Any, size: float
) -> None:
    signal = random(1, 40).expand(200, 40)  # where the cheap form is exact: a signal that stays
    clean = optimizer([torch.zeros(440, dtype=torch.float64, requires_grad=True)], 1e-6)
    debiased = optimizer([torch.zeros(440, dtype=torch.float64, requires_grad=True)], 1e-6, score="debiased")
    for n, (s, g) in enumerate(zip(noisy_halves(signal, 0)[0], noisy_halves(signal, size)[0], strict=True)):
        feed(clean, [s])
        feed(debiased, [g])
        assert n == 0 or clean.selection["last"] == debiased.selection["last"]  # nothing precedes the first gradient
    assert clean.selection["last"] == 2


def test_noise_in_the_self_term_makes_the_score_as_written_take_the_smallest_candidate() -> None:
    signal = random(1, 40).expand(200, 40)
    optimizer = GapSGD([torch.zeros(440, dtype=torch.float64, requires_grad=True)], 1e-6)
    assert choices(optimizer, noisy_halves(signal, 1e3)[0], last=200) == {0}


def test_the_debiased_score_sees_through_gaussian_noise_that_misleads_the_score_as_written() -> None:
    signal, noise = random(20_000).float(), 10 * random(200, 2, 20_000, seed=1, dtype=torch.float32)
    paper, debiased = (
        GapSGD([torch.zeros(20_000, requires_grad=True)], 1e-9, score=score, self_term="halves")
        for score in ("paper", "debiased")
    )
    for a, b in signal + noise:
        feed(paper, [(a + b) / 2])
        feed(debiased, [(a + b) / 2], half_grads=[a])
    assert paper.selection["last"] == 0
    assert debiased.selection["last"] == 2


@pytest.mark.parametrize("optimizer", [GapSGD, GapAdam])
def test_validation_gradients_choose_but_never_move_the_parameters(optimizer: Any) -> None:
    training, validation = history(60, seed=0), history(60, seed=50)
    params = parameters()
    chooser = optimizer(params, 0.01, score="validation")
    fixed = [parameters() for _ in MOMENTA]
    followers = [optimizer(ps, 0.01, c) for ps, c in zip(fixed, MOMENTA if optimizer is GapSGD else BETAS, strict=True)]
    paper = optimizer(parameters(), 0.01)
    differs = False
    for grads, probe in zip(training, validation, strict=True):
        before = [param.detach().clone() for param in params]
        for follower, ps in zip(followers, fixed, strict=True):
            for param, start in zip(ps, before, strict=True):
                param.data.copy_(start)
            feed(follower, grads)
        feed(chooser, grads, validation_grads=probe)
        feed(paper, grads)
        torch.testing.assert_close(params, fixed[chooser.selection["last"]])
        differs |= bool(chooser.selection["last"] != paper.selection["last"])
    assert differs


# Bias correction, smoothing, hysteresis.


def test_switching_beta1_keeps_the_bias_correction_right() -> None:
    grads = [random(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    params = parameters()
    optimizer = GapAdam(params, 0.1, score="validation")
    for n in range(60):
        before = [param.detach().clone() for param in params]
        feed(optimizer, grads, validation_grads=[(-1) ** n * grad for grad in grads])
        steps = [after - start for after, start in zip(params, before, strict=True)]
        torch.testing.assert_close(steps, [-0.1 * g / (g.abs() + 1e-8) for g in grads])
    assert (optimizer.selection["counts"] > 0).sum() > 1, "the validation gradients make it switch"


def test_the_smoothed_score_is_the_exponential_average_of_the_scores() -> None:
    plain, smooth = GapSGD(parameters(), 0.0), GapSGD(parameters(), 0.0, score_ema=0.8)
    expected = None
    for grads in history(30, seed=2):
        feed(plain, grads)
        feed(smooth, grads)
        scores = plain._record()["scores"].clone()
        expected = scores if expected is None else 0.8 * expected + 0.2 * scores
        torch.testing.assert_close(smooth._record()["scores"], expected)
        assert smooth.selection["last"] == expected.argmax()


def test_hysteresis_switches_only_by_the_relative_margin_of_the_unsmoothed_score() -> None:
    optimizer = GapSGD(parameters(), 0.0, hysteresis=0.1, score_ema=0.5)
    last, switches, kept = None, 0, 0
    for grads in history(200, seed=5):
        feed(optimizer, grads)
        plain = scores_of(optimizer, grads)
        target = optimizer._record()["scores"][0].argmax().item()
        taken = optimizer.selection["last"].item()
        if last is not None:
            beyond = plain[target] - plain[last] > 0.1 * plain[last].abs()
            assert taken == (target if beyond else last)
            switches, kept = switches + (taken != last), kept + (target != last and taken == last)
        last = taken
    assert switches > 0
    assert kept > 0


def scores_of(optimizer: GapSGD, grads: list[Tensor]) -> Tensor:
    """The paper's unsmoothed scores after a step, from the buffers."""
    scores = torch.zeros(3, dtype=torch.float64)
    for param, grad in zip(optimizer.param_groups[0]["params"], grads, strict=True):
        for j, m in enumerate(MOMENTA):
            scores[j] += (optimizer.state[param][f"momentum_buffer_{j}"] * grad).sum() * math.sqrt(1 - m**2)
    return scores


# State and robustness.


@pytest.mark.parametrize("signs", [Tensor.abs, Tensor.clone], ids=["its score is infinite", "its score is undefined"])
@pytest.mark.parametrize("indices", [_switching.indices, lambda choice: list(choice.split(1))], ids=["read", "left"])
@pytest.mark.parametrize("optimizer", [GapSGD, GapAdam])
def test_a_buffer_that_overflowed_is_not_taken_and_leaves_no_trace(
    optimizer: Any, indices: Any, signs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_switching, "indices", indices)
    params, healthy = parameters(), parameters()
    sick = optimizer(params, 0.01)
    well = optimizer(healthy, 0.01, (MOMENTA if optimizer is GapSGD else BETAS)[:2])
    grads = [[signs(grad) for grad in each] for each in history(20, seed=0)]
    feed(sick, grads[0])
    feed(well, grads[0])
    for param in params:
        sick.state[param][f"{optimizer.buffers}_2"].fill_(math.inf)
    for each in grads[1:]:
        feed(sick, each)
        feed(well, each)
    assert sick.selection["counts"].tolist() == [*well.selection["counts"].tolist(), 0]
    torch.testing.assert_close(params, healthy)


def test_a_long_parameter_in_pieces_steps_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = history(20, seed=9)
    runs = []
    for piece in (2**17, 3):
        monkeypatch.setattr(_switching, "PIECE", piece)
        for optimizer in (GapSGD, GapAdamW):
            for select in ("global", "per_parameter"):
                params = parameters()
                gap = optimizer(
                    params,
                    0.05,
                    select=select,
                    score="debiased",
                    self_term="halves",
                    weight_decay=0.1,
                    foreach=False,
                )
                for grads, probe in zip(history(20, seed=8), probes, strict=True):
                    feed(gap, grads, half_grads=probe)
                runs.append([*params, gap.selection["counts"]])
    for whole, pieces in zip(runs[:4], runs[4:], strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-12, atol=0)


def test_groups_have_candidates_of_their_own_and_share_the_choice() -> None:
    a, b = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimizer = GapSGD([{"params": [a]}, {"params": [b], "momentum": (0.1, 0.2), "lr": 0.5}], 1.0, (0.6, 0.7))
    grad = torch.tensor([1.0, 2.0, 3.0])
    for _ in range(2):
        feed(optimizer, [grad, grad])
    taken = optimizer.selection["last"]
    torch.testing.assert_close(a.detach(), -(1 + 1 + (0.6, 0.7)[taken]) * grad)
    torch.testing.assert_close(b.detach(), -0.5 * (1 + 1 + (0.1, 0.2)[taken]) * grad)


# Arguments.


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({}, None),
        ({"score": "debiased"}, None),
        ({"score": "debiased", "self_term": "halves"}, "half_grads"),
        ({"score": "validation"}, "validation_grads"),
        ({"score": "validation", "momentum": 0.9}, None),
    ],
)
def test_step_wants_exactly_the_gradients_that_needs_names(settings: dict[str, Any], needs: str | None) -> None:
    optimizer = GapSGD(parameters(), 0.01, **settings)
    grads = history(1, seed=0)[0]
    assert optimizer.needs == needs
    feed(optimizer, grads, **({needs: grads} if needs else {}))
    for name in {"half_grads", "validation_grads"} - {needs}:
        with pytest.raises(ValueError, match=f"{name} is superfluous"):
            feed(optimizer, grads, **{name: grads}, **({needs: grads} if needs else {}))
    if needs:
        with pytest.raises(ValueError, match=f"{needs} is missing"):
            feed(optimizer, grads)
        with pytest.raises(ValueError, match=rf"len\({needs}\) = 3"):
            feed(optimizer, grads, **{needs: grads[:3]})
        with pytest.raises(ValueError, match=rf"shape of {needs}\[1\] = None"):
            feed(optimizer, grads, **{needs: [grads[0], None, *grads[2:]]})
        with pytest.raises(ValueError, match=rf"shape of {needs}\[0\] = \(5,\)"):
            feed(optimizer, grads, **{needs: [grads[1], *grads[1:]]})


def test_groups_with_different_numbers_of_candidates_are_refused() -> None:
    a, b = parameters()[:2]
    with pytest.raises(ValueError, match=r"momentum = .* as many candidates as in the first parameter group, 2"):
        GapSGD([{"params": [a]}, {"params": [b], "momentum": 0.9}], 0.1, (0.5, 0.9))
