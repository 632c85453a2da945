"""State features against a direct transcription of their formulas on whole histories."""

import pytest
import torch
from torch import Tensor

from optrepro.metalearning.lto.features import Compact, Phi, state_features

STEPS, R, P = 150, 2, 3


def history(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Iterates (T, R, P), values (T, R) and gradients (T, R, P)."""
    source = torch.Generator().manual_seed(seed)
    x, g = (torch.randn(STEPS, R, P, generator=source, dtype=torch.float64) for _ in range(2))
    return x.cumsum(0), torch.rand(STEPS, R, generator=source, dtype=torch.float64) + 0.5, g


def bar(series: Tensor, i: int) -> Tensor:
    return sum(series[j] for j in range(max(i - 2, 0), i + 1)) / len(range(max(i - 2, 0), i + 1))


def transcription(x: Tensor, f: Tensor, g: Tensor, t: int) -> Tensor:
    """The formulas of the paper, one feature at a time."""
    zero, features = torch.zeros(R, P, dtype=torch.float64), []
    for i in range(25):
        if t - 5 * (i + 1) < 0:
            features.append(zero)
        else:
            before = bar(f, t - 5 * (i + 1))
            features.append(((bar(f, t - 5 * i) - before) / before)[:, None].expand(R, P))
    for i in range(26):
        if t - 5 * i < 0:
            features.append(zero)
        else:
            features.append(bar(g, t - 5 * i) / (bar(g, max(t - 5 * (i + 1), t % 5)).abs() + 1))
    for i in range(25):
        if t - 5 * (i + 1) < 0:
            features.append(zero)
        else:
            moved = bar(x, max(t - 5 * (i + 1), t % 5 + 5)) - bar(x, max(t - 5 * (i + 2), t % 5))
            features.append(moved.abs() / ((bar(x, t - 5 * i) - bar(x, t - 5 * (i + 1))).abs() + 0.1))
    return torch.stack(features)


def test_phi_is_the_formulas_at_every_step():
    x, f, g = history()
    stream = Phi()
    for t in range(STEPS):
        torch.testing.assert_close(stream.observe(x[t], f[t], g[t]), transcription(x, f, g, t), msg=f"step {t}")


def test_a_first_observation_has_only_its_gradient():
    x, f, g = history()
    features = Phi().observe(x[0], f[0], g[0])
    torch.testing.assert_close(features[25], g[0] / (g[0].abs() + 1))
    assert torch.count_nonzero(features) == R * P


def test_memory_does_not_grow_with_the_history():
    x, f, g = history()
    stream = Phi()
    for t in range(STEPS):
        stream.observe(x[t], f[t], g[t])
        held = [len(a._ring) + len(a._recent) for a in (stream.values, stream.gradients, stream.iterates)]
        assert max(held) <= 134


def test_what_is_older_than_the_memory_changes_nothing():
    x, f, g = history()
    one, other = Phi(), Phi()
    for t in range(5):  # as many steps, another past
        one.observe(x[t], f[t], g[t])
        other.observe(x[t] + 7, f[t] * 3, -g[t])
    for t in range(5, STEPS):
        last = one.observe(x[t], f[t], g[t]), other.observe(x[t], f[t], g[t])
    torch.testing.assert_close(*last)


def test_the_compact_state_is_what_it_says():
    x, f, g = history()
    stream = Compact()
    for t in range(40):
        seen = stream.observe(x[t], f[t], g[t])
        for i in range(4):
            torch.testing.assert_close(seen[i], bar(g, t - 5 * i) if t >= 5 * i else torch.zeros_like(x[0]))
        torch.testing.assert_close(seen[4], x[t] - x[t - 1] if t else torch.zeros_like(x[0]))
        torch.testing.assert_close(seen[5], g[t] / (g[: t + 1] ** 2).sum(0).sqrt())
        mean = sum(0.1 * 0.9 ** (t - j) * g[j] for j in range(t + 1))
        torch.testing.assert_close(seen[6], mean / (g[: t + 1] ** 2).sum(0).sqrt())
        change = (bar(f, t) - bar(f, t - 5)) / bar(f, t - 5) if t >= 5 else torch.zeros_like(f[0])
        torch.testing.assert_close(seen[7], change[:, None].expand(R, P))


@pytest.mark.parametrize(("kind", "size"), [("phi", 76), ("compact", 8)])
def test_objectives_and_coordinates_do_not_mix(kind, size):
    x, f, g = history()
    both, alone = state_features(kind), state_features(kind)
    for t in range(20):
        all_of_them = both.observe(x[t], f[t], g[t])
        part = alone.observe(x[t, 1:, 2:], f[t, 1:], g[t, 1:, 2:])
        assert all_of_them.shape == (size, R, P)
        torch.testing.assert_close(all_of_them[:, 1:, 2:], part)


def test_an_unknown_state_is_refused():
    with pytest.raises(ValueError, match="state = 'psi'"):
        state_features("psi")
