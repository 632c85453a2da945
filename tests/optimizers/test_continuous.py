"""The continuous form of GAP: a momentum on an interval, from a sketch of the gradients."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.experiments.probes.autocorrelation import StreamingAutocorrelation, windowed
from optrepro.optimizers.continuous import ContinuousAdam, ContinuousAdamW, ContinuousSGD
from optrepro.optimizers.gap import GapAdam, GapAdamW, GapSGD

BOTH = pytest.mark.parametrize("optimizer", [ContinuousSGD, ContinuousAdamW])


def stream(rho: float, size: int, noise: float = 0.0, seed: int = 0) -> Iterator[Tensor]:
    """Gradients (size,) with R_k proportional to rho^k, and white noise on top."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(size, generator=generator)
    while True:
        yield signal + noise * torch.randn(size, generator=generator)
        signal = rho * signal + (1 - rho**2) ** 0.5 * torch.randn(size, generator=generator)


def autoregressive(rho: float, steps: int, size: int, noise: float = 0.0, seed: int = 0) -> Tensor:
    """So many of them, (steps, size)."""
    return torch.stack(list(islice(stream(rho, size, noise, seed), steps)))


def followed(gradients: Iterable[Tensor], optimizer: Any, **settings: Any) -> tuple[Any, Tensor]:
    """An optimizer that has seen the gradients, and the momentum of every step."""
    param, rule, momenta = torch.zeros(()), None, []
    for gradient in gradients:
        if rule is None:
            param = torch.zeros(gradient.shape, requires_grad=True)
            rule = optimizer([param], 1e-3, **settings)
        param.grad = gradient.clone()
        rule.step()
        momenta.append(rule.momentum)
    return rule, torch.stack(momenta)


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
@BOTH
def test_momentum_settles_within_a_twentieth_of_the_autocorrelation(optimizer: Any, rho: float, noise: float) -> None:
    _, momenta = followed(islice(stream(rho, 120_000, noise), 400), optimizer)
    assert abs(momenta[-240:].mean() - rho) < 0.05


def test_the_papers_score_is_drawn_to_small_momentum_by_noise_and_the_debiased_one_is_not() -> None:
    gradients = autoregressive(0.9, 400, 20_000, noise=3.0)
    assert followed(gradients, ContinuousSGD)[1][-100:].mean() > 0.85
    assert followed(gradients, ContinuousSGD, score="paper")[1][-100:].mean() < 0.3


def test_negative_autocorrelation_gives_the_lower_end() -> None:
    _, momenta = followed(autoregressive(-0.5, 200, 20_000), ContinuousSGD, momentum=(0.3, 0.99), smoothing=0.0)
    assert momenta[-1] == 0.3


def test_momentum_keeps_to_its_interval() -> None:
    _, momenta = followed(autoregressive(0.95, 200, 20_000), ContinuousSGD, momentum=(0.2, 0.7))
    assert momenta.max() == 0.7
    assert momenta[0] == 0.7  # the nearest to 0.9


def test_the_autocorrelation_agrees_with_the_exact_one_within_the_sketchs_error() -> None:
    gradients = autoregressive(0.8, 240, 20_000)
    rule, _ = followed(gradients, ContinuousSGD, decay=1.0)
    exact, stream = windowed(gradients, 16), StreamingAutocorrelation(16, 1.0)
    for gradient in gradients:
        stream.update(gradient)
    standard_error = (2 / rule.sketch.width + (rule.sketch.stride - 1) * 3 / 20_000) ** 0.5
    for reference in (exact, stream.value()):
        assert ((rule.autocorrelation - reference).abs() / reference[0]).max() < 2 * standard_error


def test_a_sketch_of_few_coordinates_in_as_many_buckets_is_exact() -> None:
    gradients = autoregressive(0.5, 64, 6)
    rule, _ = followed(gradients, ContinuousSGD, decay=1.0, rest=7)
    windows = (range(32), range(39, 55))  # of the second the first half has been looked at
    pairs = [[(n, n - k) for window in windows for n in window[k:]] for k in range(17)]
    exact = [torch.stack([gradients[n] @ gradients[m] for n, m in of_lag]).mean() for of_lag in pairs]
    torch.testing.assert_close(rule.autocorrelation.float(), torch.stack(exact))


def test_the_momentum_stays_between_windows() -> None:
    _, momenta = followed(autoregressive(0.6, 150, 20_000), ContinuousSGD)
    moved = torch.nonzero(momenta.diff()).flatten() + 2  # the number of the step
    assert moved.tolist() == [16, 32, 80, 96, 144]


@pytest.mark.parametrize("sizes", [[12_500], [784 * 100, 100, 1000, 10], [256 * 64, *[64] * 10], [3 * 10**6, 1000]])
@BOTH
def test_state_is_at_most_a_twentieth_more_than_torchs(optimizer: Any, sizes: list[int]) -> None:
    params = [torch.zeros(size, requires_grad=True) for size in sizes]
    base = torch.optim.SGD(params, 1e-3, 0.9) if optimizer is ContinuousSGD else torch.optim.AdamW(params, 1e-3)
    rule = optimizer(params, 1e-3)
    for _ in range(2):
        for param in params:
            param.grad = torch.randn_like(param)
        base.step()
        rule.step()
    assert held(rule.state) + rule.sketch.signs.nbytes <= 1.05 * held(base.state) + 128


def held(state: Any) -> int:
    """Bytes of the tensors in an optimizer's state, those that are shared once."""
    tensors = {id(v): v for entry in state.values() for v in entry.values() if isinstance(v, Tensor)}
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors.values())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1, "maximize": True}])
def test_one_momentum_is_torchs_sgd(momentum: float, settings: dict[str, Any]) -> None:
    gradients = autoregressive(0.5, 20, 1000)
    ours = ContinuousSGD([p := torch.ones(1000, requires_grad=True)], 0.1, momentum, **settings)
    theirs = torch.optim.SGD([q := torch.ones(1000, requires_grad=True)], 0.1, momentum, foreach=False, **settings)
    for gradient in gradients:
        p.grad, q.grad = gradient.clone(), gradient.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(p, q, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("optimizer", "reference"), [(ContinuousAdam, torch.optim.Adam), (ContinuousAdamW, torch.optim.AdamW)]
)
def test_one_beta1_is_torchs_adam(optimizer: Any, reference: Any) -> None:
    gradients = autoregressive(0.5, 20, 1000)
    for beta1 in (0.0, 0.9):
        settings = {"betas": (beta1, 0.99), "weight_decay": 0.1}
        ours = optimizer([p := torch.ones(1000, requires_grad=True)], 0.1, **settings)
        theirs = reference([q := torch.ones(1000, requires_grad=True)], 0.1, foreach=False, **settings)
        for gradient in gradients:
            p.grad, q.grad = gradient.clone(), gradient.clone()
            ours.step()
            theirs.step()
        torch.testing.assert_close(p, q, rtol=0, atol=0)


@pytest.mark.parametrize("strided", [False, True])
def test_a_moving_momentum_gives_the_plain_recursions(strided: bool) -> None:
    """Parameters with gaps in memory take the path that accelerators take."""
    gradients = autoregressive(0.9, 60, 400)
    storage = torch.ones(400, 2 if strided else 1)
    p = storage[:, 0].requires_grad_()
    rule = ContinuousAdamW([p], 0.01, ((0.0, 0.99), (0.95, 0.99)), every=2, lags=4, rest=3, weight_decay=0.1)
    x, first, second, product = torch.ones(400, dtype=torch.float64), 0.0, 0.0, 1.0
    seen = set()
    for n, gradient in enumerate(gradients.double(), 1):
        p.grad = gradient.float()
        rule.step()
        beta = rule.momentum.item()
        seen.add(beta)
        product *= beta
        first = beta * first + (1 - beta) * gradient
        second = 0.99 * second + 0.01 * gradient**2
        x = x * (1 - 0.001) - 0.01 * first / (1 - product) / ((second / (1 - 0.99**n)).sqrt() + 1e-8)
    assert len(seen) > 10
    torch.testing.assert_close(p.detach().double(), x, rtol=1e-5, atol=1e-5)


def test_sgd_with_a_moving_momentum_gives_the_plain_recursion() -> None:
    gradients = autoregressive(0.0, 120, 400)
    rule = ContinuousSGD([p := torch.ones(400, requires_grad=True)], 0.01, every=2, lags=4, rest=3)
    x, buffer = torch.ones(400, dtype=torch.float64), 0.0
    for gradient in gradients:
        p.grad = gradient.clone()
        rule.step()
        buffer = rule.momentum.item() * buffer + gradient.double()
        x = x - 0.01 * buffer
    assert rule.momentum < 0.5
    torch.testing.assert_close(p.detach().double(), x, rtol=1e-5, atol=1e-5)


def test_equal_seeds_measure_alike_and_others_do_not() -> None:
    gradients = autoregressive(0.6, 64, 20_000)
    momenta = [followed(gradients, ContinuousSGD, seed=seed)[1][-1] for seed in (1, 1, 2)]
    assert momenta[0] == momenta[1] != momenta[2]


def test_a_parameter_without_gradient_counts_as_one_of_gradient_zero() -> None:
    gradients = autoregressive(0.8, 64, 3000)

    def run(last: Tensor | None) -> Any:
        params = [torch.zeros(2000, requires_grad=True), torch.zeros(1000, requires_grad=True)]
        rule = ContinuousSGD(params, 1e-3)
        for gradient in gradients:
            params[0].grad, params[1].grad = gradient[:2000].clone(), last
            rule.step()
        return rule.autocorrelation

    torch.testing.assert_close(run(None), run(torch.zeros(1000)))


def test_counts_are_of_the_momentum_in_each_step() -> None:
    rule, momenta = followed(autoregressive(0.9, 101, 20_000), ContinuousSGD, every=8)
    edges = torch.tensor([0.766, 0.968], dtype=torch.float64)
    bins = torch.bucketize(momenta, edges)
    assert rule.selection["counts"].tolist() == torch.bincount(bins, minlength=3).tolist()
    assert rule.selection["last"] == bins[-1]


@pytest.mark.parametrize(
    ("optimizer", "form"), [(GapSGD, ContinuousSGD), (GapAdam, ContinuousAdam), (GapAdamW, ContinuousAdamW)]
)
def test_the_word_continuous_makes_the_continuous_form(optimizer: Any, form: Any) -> None:
    params = [torch.zeros(3, requires_grad=True)]
    rule = optimizer(params, 0.1, candidates="continuous", seed=5)
    assert type(rule) is form
    assert not isinstance(rule, optimizer)  # nothing of the greedy rule
    assert rule.rule.seed == 5
    assert type(optimizer(params, 0.1)) is optimizer


def test_groups_on_different_intervals_are_refused() -> None:
    groups = [{"params": [torch.zeros(2, requires_grad=True)]}, {"params": [torch.zeros(3)], "momentum": (0.0, 0.5)}]
    with pytest.raises(ValueError, match="on the interval of the first group"):
        ContinuousSGD(groups, 0.1)


@BOTH
def test_a_spike_is_forgotten_and_gradients_that_overflow_count_as_nothing(optimizer: Any) -> None:
    gradients = autoregressive(0.8, 1200, 2000)
    expected = followed(gradients, optimizer)[1][-1]
    for spike in (1e19, float("inf"), float("nan")):
        spiked = gradients.clone()
        spiked[5] *= spike  # in the first window
        spiked[70, :3] *= 1e15
        if optimizer is ContinuousSGD:
            momenta = followed(spiked, optimizer)[1]
            assert 0 <= momenta.min() <= momenta.max() <= 0.99
            assert abs(momenta[-1] - expected) < 0.05
    spiked = gradients.clone()
    spiked[70] *= 1e15
    assert abs(followed(spiked, optimizer)[1][-1] - expected) < 0.05


@pytest.mark.parametrize("factor", [1e-12, 1e12])
@BOTH
def test_the_scale_of_the_gradients_changes_no_momentum(optimizer: Any, factor: float) -> None:
    gradients = autoregressive(0.8, 200, 2000)
    settings = {} if optimizer is ContinuousSGD else {"eps": 0.0}
    momenta = [followed(g, optimizer, **settings)[1] for g in (gradients, factor * gradients)]
    assert momenta[0][-1] < 0.89
    torch.testing.assert_close(momenta[0], momenta[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_element_moves_as_in_torchs_plain_step(dtype: torch.dtype) -> None:
    """Of a momentum that moves, with the recursion made of torch's own calls."""
    for size in range(1, 71):
        p = torch.zeros(size, dtype=dtype, requires_grad=True)
        x, buffer = torch.zeros(size, dtype=dtype), torch.zeros(size, dtype=dtype)
        rule = ContinuousSGD([p], 0.125, every=1, lags=2, rest=0)
        for n in range(6):
            p.grad = torch.full((size,), 1.0 + n, dtype=dtype)
            rule.step()
            buffer.mul_(rule.momentum.item()).add_(p.grad)
            x.add_(buffer, alpha=-0.125)
        torch.testing.assert_close(p.detach(), x)


def test_what_is_known_lies_in_the_state_of_the_first_parameter_that_has_one() -> None:
    frozen, *params = (torch.zeros(300, requires_grad=True) for _ in range(3))
    rule = ContinuousAdamW([frozen, *params], 1e-3)
    assert torch.isnan(rule.autocorrelation).all()
    assert rule.momentum == 0.9
    assert rule.selection["last"] == -1
    assert not rule.state
    for _ in range(20):
        for param in params:
            param.grad = torch.randn(300)
        rule.step()
    assert frozen not in rule.state
    assert "sketches" in rule.state[params[0]]
    assert set(rule.state[params[1]]) == {"exp_avg", "exp_avg_sq", "step", "beta1_product"}


@pytest.mark.parametrize("after", [5, 20, 40, 70])
@BOTH
def test_a_checkpoint_within_a_window_or_between_two_goes_on_bit_for_bit(optimizer: Any, after: int) -> None:
    gradients = autoregressive(0.7, 150, 3000)
    whole, _ = followed(gradients, optimizer)
    first, _ = followed(gradients[:after], optimizer)
    (old,) = first.param_groups[0]["params"]
    param = old.detach().clone().requires_grad_()
    second = optimizer([param], 1e-3)
    second.load_state_dict(first.state_dict())
    for gradient in gradients[after:]:
        param.grad = gradient.clone()
        second.step()
    assert torch.equal(param, whole.param_groups[0]["params"][0])
    assert torch.equal(second.momentum, whole.momentum)
    assert torch.equal(second.autocorrelation, whole.autocorrelation)


def test_parameters_that_wait_have_the_bias_correction_of_their_own_steps() -> None:
    params = [torch.ones(400, requires_grad=True) for _ in range(2)]
    rule = ContinuousAdamW(params, 0.01, every=2, lags=4, rest=3, weight_decay=0)
    product, first, second, n = 1.0, torch.zeros(400), torch.zeros(400), 0
    x = torch.ones(400)
    for step, gradient in enumerate(autoregressive(0.9, 60, 400)):
        params[0].grad, params[1].grad = gradient.clone(), gradient.clone() if step % 3 else None
        rule.step()
        if step % 3:
            beta, n = rule.momentum.item(), n + 1
            product, first = product * beta, beta * first + (1 - beta) * gradient
            second = 0.999 * second + 0.001 * gradient**2
            x = x - 0.01 * first / (1 - product) / ((second / (1 - 0.999**n)).sqrt() + 1e-8)
    torch.testing.assert_close(params[1].detach(), x, rtol=1e-4, atol=1e-5)


def test_parameters_removed_by_hand_are_seen_no_more() -> None:
    groups = [{"params": [torch.zeros(300, requires_grad=True)]} for _ in range(2)]
    rule = ContinuousSGD(groups, 1e-3)
    for n in range(40):
        if n == 20:
            del rule.param_groups[1]
        for group in rule.param_groups:
            group["params"][0].grad = torch.ones(300)
        rule.step()
    assert len(rule.sketch.signs) < 300
