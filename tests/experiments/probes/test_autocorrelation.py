import pytest
import torch
from torch import Tensor

from optrepro.experiments.probes.autocorrelation import StreamingAutocorrelation, momentum_filter, scores, windowed


def gradients(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def autoregressive(rho: float, steps: int, dimension: int) -> Tensor:
    """A stationary AR(1) stream of unit variance per coordinate: R_k = dimension * rho^k."""
    noise = gradients(steps, dimension)
    stream = [noise[0]]
    for shock in noise[1:]:
        stream.append(rho * stream[-1] + (1 - rho**2) ** 0.5 * shock)
    return torch.stack(stream)


def test_windowed_is_the_mean_of_the_products_at_each_lag() -> None:
    g = gradients(7, 3)
    expected = [sum(g[n] @ g[n - k] for n in range(k, 7)) / (7 - k) for k in range(5)]
    torch.testing.assert_close(windowed(g, 4), torch.stack(expected))


def test_windowed_is_unbiased_at_every_lag() -> None:
    constant = torch.ones(6, 2)
    torch.testing.assert_close(windowed(constant, 5), torch.full((6,), 2.0))


def test_windowed_takes_leading_dimensions_as_a_batch() -> None:
    g = gradients(2, 3, 8, 5)
    torch.testing.assert_close(windowed(g, 4)[1, 2], windowed(g[1, 2], 4))


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.9])
def test_windowed_recovers_the_autocorrelation_of_an_autoregressive_stream(rho: float) -> None:
    dimension = 2000
    estimate = windowed(autoregressive(rho, 400, dimension), 5) / dimension
    torch.testing.assert_close(estimate, rho ** torch.arange(6, dtype=torch.float64), atol=0.01, rtol=0)


@pytest.mark.parametrize("lags", [-1, 4, 10])
def test_windowed_names_lags_that_the_window_does_not_hold(lags: int) -> None:
    with pytest.raises(ValueError, match=rf"lags = {lags} is not in \[0, 4\)"):
        windowed(gradients(4, 2), lags)


def streamed(g: Tensor, lags: int, decay: float) -> StreamingAutocorrelation:
    estimator = StreamingAutocorrelation(lags, decay)
    for gradient in g:
        estimator.update(gradient)
    return estimator


@pytest.mark.parametrize("lags", [0, 1, 6])
def test_streaming_without_forgetting_equals_the_window_over_the_whole_stream(lags: int) -> None:
    g = gradients(25, 3)
    torch.testing.assert_close(streamed(g, lags, decay=1.0).value(), windowed(g, lags))


def test_streaming_is_the_exponentially_weighted_mean_of_the_products() -> None:
    g, decay = gradients(20, 3), 0.8
    value = streamed(g, 4, decay).value()
    for k in range(5):
        products = (g[k:] * g[: 20 - k]).sum(-1)
        weights = decay ** torch.arange(len(products) - 1, -1, -1, dtype=torch.float64)
        torch.testing.assert_close(value[k], (weights * products).sum() / weights.sum())


def test_streaming_recovers_the_autocorrelation_of_an_autoregressive_stream() -> None:
    dimension = 2000
    value = streamed(autoregressive(0.9, 400, dimension), 5, decay=0.99).value() / dimension
    torch.testing.assert_close(value, 0.9 ** torch.arange(6, dtype=torch.float64), atol=0.02, rtol=0)


def test_streaming_follows_a_shift_of_the_statistics_that_the_whole_window_averages_away() -> None:
    g = torch.cat([autoregressive(0.9, 200, 500), autoregressive(-0.5, 200, 500)])
    lag_one = streamed(g, 1, decay=0.95).value()[1] / 500
    assert lag_one.item() == pytest.approx(-0.5, abs=0.05)
    assert windowed(g, 1)[1].item() / 500 == pytest.approx(0.2, abs=0.05)


def test_update_returns_the_products_with_the_past_and_zero_before_the_start() -> None:
    g = gradients(3, 2)
    estimator = StreamingAutocorrelation(lags=3, decay=0.9)
    estimator.update(g[0])
    estimator.update(g[1])
    expected = torch.stack([g[2] @ g[2], g[2] @ g[1], g[2] @ g[0], torch.zeros((), dtype=torch.float64)])
    torch.testing.assert_close(estimator.update(g[2]), expected)


def test_lags_that_the_stream_has_not_reached_are_nan() -> None:
    value = streamed(gradients(2, 3), lags=3, decay=0.9).value()
    assert value.isnan().tolist() == [False, False, True, True]


def test_streaming_keeps_the_batch_and_copies_the_gradient() -> None:
    g = gradients(10, 4, 3)
    estimator = StreamingAutocorrelation(2, 1.0)
    reused = torch.empty(4, 3, dtype=torch.float64)
    for gradient in g:
        estimator.update(reused.copy_(gradient))
    torch.testing.assert_close(estimator.value(), windowed(g.transpose(0, 1), 2))


def test_update_reads_no_value_back_from_the_device() -> None:
    estimator = StreamingAutocorrelation(3, 0.9)
    for _ in range(6):
        # a meta tensor has no values: reading one raises
        products = estimator.update(torch.empty(5, device="meta"))
    assert products.shape == (4,)


def test_bad_arguments_of_the_stream_are_named() -> None:
    with pytest.raises(ValueError, match="lags = -1"):
        StreamingAutocorrelation(-1, 0.9)
    for decay in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"decay = {decay}"):
            StreamingAutocorrelation(2, decay)
    with pytest.raises(ValueError, match="before the first gradient"):
        StreamingAutocorrelation(2, 0.9).value()
    estimator = StreamingAutocorrelation(2, 0.9)
    estimator.update(torch.ones(3))
    with pytest.raises(ValueError, match=r"shape \(4,\); it must be \(3,\)"):
        estimator.update(torch.ones(4))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_the_momentum_filter_is_a_geometric_series_of_unit_norm(momentum: float) -> None:
    coefficients = momentum_filter(momentum, 30)
    assert coefficients.shape == (31,)
    assert coefficients.norm().item() == pytest.approx(1.0)
    torch.testing.assert_close(coefficients[1:], momentum * coefficients[:-1])


def test_scores_of_a_geometric_autocorrelation_have_the_closed_form() -> None:
    rho, candidates = 0.8, [0.0, 0.5, 0.8, 0.9, 0.99]
    autocorrelation = rho ** torch.arange(2000, dtype=torch.float64)
    expected = [(1 - m * m) ** 0.5 / (1 - m * rho) for m in candidates]
    assert scores(autocorrelation, candidates).tolist() == pytest.approx(expected)
    assert scores(autocorrelation, candidates).argmax() == candidates.index(rho)


@pytest.mark.parametrize(
    ("low", "high", "rho"), [(0.5, 0.9, 0.766), (0.5, 0.99, 0.921), (0.8, 0.99, 0.954), (0.9, 0.99, 0.968)]
)
def test_the_better_of_two_momenta_changes_at_the_crossover(low: float, high: float, rho: float) -> None:
    lags = torch.arange(3000, dtype=torch.float64)
    below, above = (scores((rho + shift) ** lags, [low, high]) for shift in (-0.001, 0.001))
    assert below[0] > below[1]
    assert above[0] < above[1]


def test_scores_take_a_batch_and_any_precision() -> None:
    autocorrelation = gradients(2, 3, 10).float()
    result = scores(autocorrelation, [0.5, 0.9])
    assert result.shape == (2, 3, 2)
    torch.testing.assert_close(result[1, 2], scores(autocorrelation[1, 2], [0.5, 0.9]))


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_outside_its_range_is_named(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"momentum = {momentum} is not in \[0, 1\)"):
        scores(torch.ones(4), [0.5, momentum])
