"""The policy of POP sees only what does not change with the scale of function and box, and only the past."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from optrepro.optimizers._pop_policy import Policy, PolicySettings, Trajectory, load, save
from optrepro.optimizers._pop_policy import noise as sampled

STEPS = 12
LENGTH = 15  # column of the features that holds the size of the last step
SMALL = PolicySettings(width=8, layers=2, heads=2, history=4, horizon=10)
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]

scalings = pytest.mark.parametrize("scaling", ["coordinate", "norm", "maximum"])
backbones = pytest.mark.parametrize("backbone", ["transformer", "gru"])


def bumps(u: Tensor) -> tuple[Tensor, Tensor]:
    """A smooth function of any number of coordinates with several minima: values (N,) and gradients (N, D)."""
    weights = 1 + torch.arange(u.shape[-1], dtype=u.dtype)
    value = (weights * (u - 0.3).square() + 0.1 * torch.sin(9 * u)).sum(-1)
    return value, 2 * weights * (u - 0.3) + 0.9 * torch.cos(9 * u)


def start(rows: int = 3, dim: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def driven(config: PolicySettings, evaluate: Evaluate, u: Tensor, actions: Tensor, **box: Tensor) -> Tensor:
    """Features (N, D, T, FEATURES) of a trajectory that takes the actions (T, N, D)."""
    trajectory = Trajectory(config, u, **box)
    features = []
    for action in actions:
        features.append(trajectory.observe(*evaluate(trajectory.u)))
        trajectory.move(action)
    return torch.stack(features, 2)


def actions(rows: int = 3, dim: int = 4) -> Tensor:
    """From timid to bold, so that minima are crossed and the box is left."""
    generator = torch.Generator().manual_seed(1)
    return 0.7 + 0.28 * torch.rand(STEPS, rows, dim, generator=generator)


def policy(**changes: object) -> Policy:
    torch.manual_seed(0)
    return Policy(replace(SMALL, **changes)).eval()  # type: ignore[arg-type]


def noise(rows: int, time: int) -> Tensor:
    return torch.randn(rows, time, Trajectory.FEATURES, generator=torch.Generator().manual_seed(2))


@scalings
@settings(max_examples=25, deadline=None)
@given(decades=st.floats(-6, 6), offset=st.floats(-10, 10))
def test_scaling_and_shifting_the_function_changes_no_feature(scaling: str, decades: float, offset: float) -> None:
    config = replace(SMALL, scaling=scaling)  # type: ignore[arg-type]
    a = 10**decades

    def scaled(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = bumps(u)
        return a * (value + offset), a * gradient

    expected = driven(config, bumps, start(), actions())
    torch.testing.assert_close(driven(config, scaled, start(), actions()), expected, rtol=1e-4, atol=1e-4)


def test_scaling_the_function_shows_where_nothing_is_scaled() -> None:
    config = replace(SMALL, scaling="none")
    twice = driven(config, lambda u: (2 * bumps(u)[0], 2 * bumps(u)[1]), start(), actions())
    assert not torch.allclose(twice, driven(config, bumps, start(), actions()), atol=1e-2)


@scalings
@settings(max_examples=15, deadline=None)
@given(axes=st.sets(st.integers(0, 3), min_size=1))
def test_reflecting_axes_changes_no_feature(scaling: str, axes: set[int]) -> None:
    config = replace(SMALL, scaling=scaling)  # type: ignore[arg-type]
    sign = torch.tensor([-1.0 if axis in axes else 1.0 for axis in range(4)], dtype=torch.float64)

    def mirrored(u: Tensor) -> Tensor:
        return torch.where(sign < 0, 1 - u, u)

    def reflected(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = bumps(mirrored(u))
        return value, sign * gradient

    expected = driven(config, bumps, start(), actions())
    actual = driven(config, reflected, mirrored(start()), actions())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@scalings
@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(4)))
def test_permuting_coordinates_permutes_the_features(scaling: str, order: list[int]) -> None:
    config = replace(SMALL, scaling=scaling)  # type: ignore[arg-type]
    back = torch.tensor(order).argsort()

    def permuted(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = bumps(u[:, back])
        return value, gradient[:, order]

    expected = driven(config, bumps, start(), actions())[:, order]
    actual = driven(config, permuted, start()[:, order], actions()[:, :, order])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@scalings
def test_coordinates_that_are_padding_change_nothing_for_the_others(scaling: str) -> None:
    config = replace(SMALL, scaling=scaling)  # type: ignore[arg-type]
    expected = driven(config, bumps, start(dim=2), actions(dim=2))

    def wider(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = bumps(u[:, :2])
        return value, torch.cat([gradient, torch.full_like(gradient, 7.0)], 1)

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, torch.full_like(x, 0.5)], -1)

    valid = torch.tensor([True, True, False, False]).expand(3, 4)
    actual = driven(config, wider, padded(start(dim=2)), padded(actions(dim=2)), valid=valid)
    torch.testing.assert_close(actual[:, :2], expected)


@scalings
def test_features_know_nothing_of_what_comes_later(scaling: str) -> None:
    config = replace(SMALL, scaling=scaling)  # type: ignore[arg-type]
    asked = 0

    def changing(u: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal asked
        asked += 1
        value, gradient = bumps(u)
        return (value, gradient) if asked <= 8 else (-1e6 * value, 1e6 * gradient.flip(-1))

    expected = driven(config, bumps, start(), actions())
    actual = driven(config, changing, start(), actions())
    assert torch.equal(actual[:, :, :8], expected[:, :, :8])
    assert not torch.equal(actual[:, :, 8:], expected[:, :, 8:])


def test_problems_side_by_side_do_not_see_each_other() -> None:
    together = driven(SMALL, bumps, start(), actions())
    alone = torch.cat([driven(SMALL, bumps, start()[i : i + 1], actions()[:, i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_features_are_finite_and_bounded_on_flat_steep_and_repeated_points() -> None:
    def flat(u: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(u), dtype=u.dtype), torch.zeros_like(u)

    for evaluate in (flat, lambda u: (1e100 * bumps(u)[0], 1e100 * bumps(u)[1])):
        for chosen in (actions(), torch.zeros(STEPS, 3, 4), torch.ones(STEPS, 3, 4)):
            features = driven(SMALL, evaluate, start(), chosen)
            assert features.isfinite().all()
            assert features.abs().max() <= 3


@scalings
def test_a_step_is_the_learning_rate_times_the_scaled_gradient_within_the_box(scaling: str) -> None:
    config = replace(SMALL, scaling=scaling, smallest=1e-4, largest=0.1)  # type: ignore[arg-type]
    u = torch.tensor([[0.5, 0.01]], dtype=torch.float64)
    gradient = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    norm = math.sqrt(12.5)
    scale = {"coordinate": gradient, "norm": norm, "maximum": norm}[scaling]
    for action, rate in ((-1.0, 1e-4), (0.0, 1e-4), (1 / 3, 1e-3), (1.0, 0.1), (2.0, 0.1)):
        for bounded in (True, False):
            trajectory = Trajectory(config, u, bounded=bounded)
            trajectory.observe(torch.tensor([1.0], dtype=torch.float64), gradient)
            expected = u - rate * gradient / scale
            expected = expected.clamp(0, 1) if bounded else expected
            moved = trajectory.move(torch.full((1, 2), action, dtype=torch.float64))
            torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-12)


@backbones
def test_one_step_at_a_time_with_a_memory_is_the_whole_sequence_even_when_the_memory_wraps(backbone: str) -> None:
    model, features = policy(backbone=backbone), noise(5, 4 * SMALL.history + 3)
    memory = model.begin(5)
    with torch.no_grad():
        stepped = [model.step(features[:, t], memory, t) for t in range(features.shape[1])]
        mean, log_std = model(features)
    torch.testing.assert_close(torch.stack([m for m, _ in stepped], 1), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.stack([s for _, s in stepped], 1), log_std, rtol=1e-5, atol=1e-5)


@backbones
def test_later_features_change_no_earlier_output(backbone: str) -> None:
    model, features = policy(backbone=backbone), noise(3, 15)
    changed = features.clone()
    changed[:, 9:] += 1
    with torch.no_grad():
        before, after = model(features)[0], model(changed)[0]
    torch.testing.assert_close(after[:, :9], before[:, :9], rtol=0, atol=1e-7)
    assert (after[:, 9:] != before[:, 9:]).all()


def test_a_transformer_forgets_what_lies_beyond_the_history_of_its_layers() -> None:
    model, features = policy(), noise(3, 15)
    reach = SMALL.layers * (SMALL.history - 1)
    changed = features.clone()
    changed[:, 0] += 1
    with torch.no_grad():
        before, after = model(features)[0], model(changed)[0]
    assert (after[:, reach] != before[:, reach]).all()
    torch.testing.assert_close(after[:, reach + 1 :], before[:, reach + 1 :], rtol=0, atol=1e-7)


@backbones
def test_a_saved_policy_loads_with_its_settings_and_its_card(backbone: str, tmp_path: Path) -> None:
    model, features = policy(backbone=backbone, horizon=17), noise(3, 6)
    save(model, tmp_path / "policy.safetensors", {"seeds": [1, 2]})
    loaded, card = load(tmp_path / "policy.safetensors")
    assert loaded.settings == model.settings
    assert card == {"seeds": [1, 2]}
    assert not loaded.training
    for a, b in zip(loaded(features), model(features), strict=True):
        assert torch.equal(a, b)


def no_tensors(path: Path) -> None:
    path.write_text("no tensors")


def other_tensors(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def weights_of_other_features(path: Path) -> None:
    model = policy()
    model.skip = torch.nn.Linear(Trajectory.FEATURES + 1, 1, bias=False)
    save(model, path)


@pytest.mark.parametrize("write", [no_tensors, other_tensors, weights_of_other_features])
def test_a_file_that_holds_no_policy_is_named(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"other\.safetensors cannot be used: it holds no policy"):
        load(path)


def test_a_policy_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load("nowhere.safetensors")


# Settings that came later


def test_steps_below_the_smallest_rate_are_taken_down_to_the_shortest_alone() -> None:
    for shortest, action, length in ((None, -0.5, 1e-8), (1e-16, -0.5, 1e-12), (1e-16, -9.0, 1e-16)):
        trajectory = Trajectory(replace(SMALL, shortest=shortest), torch.full((1, 1), 1e-3, dtype=torch.float64))
        trajectory.observe(*bumps(trajectory.u))
        trajectory.move(torch.full((1, 1), action))
        assert trajectory.rate.item() == pytest.approx(length)


@pytest.mark.parametrize(("resolved", "told_apart"), [(1e-10, False), (1e-20, True)])
def test_features_tell_sizes_apart_as_far_as_they_are_resolved(resolved: float, told_apart: bool) -> None:
    config = replace(SMALL, resolved=resolved, shortest=1e-16)
    tiny = [torch.stack([torch.full((3, 4), 0.9), torch.full((3, 4), action)]) for action in (-0.5, -0.75)]

    def slope(u: Tensor) -> tuple[Tensor, Tensor]:
        return u.sum(-1), torch.ones_like(u)

    first, second = (driven(config, slope, start(), torch.cat([a, a[-1:]])) for a in tiny)
    assert torch.equal(first[:, :, :2], second[:, :, :2])
    assert torch.equal(first[:, :, 2, LENGTH], second[:, :, 2, LENGTH]) is not told_apart


def test_the_horizon_that_is_told_is_that_of_a_policy_trained_for_it() -> None:
    expected = driven(replace(SMALL, horizon=40), bumps, start(), actions())
    trajectory, told = Trajectory(SMALL, start(), horizon=40), []
    for action in actions():
        told.append(trajectory.observe(*bumps(trajectory.u)))
        trajectory.move(action)
    assert torch.equal(torch.stack(told, 2), expected)


@pytest.mark.parametrize("second", ["momentum", "best"])
def test_a_second_output_adds_its_share_of_the_last_step_or_of_the_way_to_the_best_point(second: str) -> None:
    config = replace(SMALL, second=second)  # type: ignore[arg-type]
    share = torch.tensor(0.25).expand(3, 4)
    plain, other = Trajectory(SMALL, start()), Trajectory(config, start())
    for action in actions()[:4]:
        for each in (plain, other):
            each.observe(*bumps(each.u))
        before, last, back = other.u, other.step, other.best_u - other.u
        plain.u, plain.gradient, plain.scale = other.u, other.gradient, other.scale
        expected = plain.move(action) + 0.25 * (last if second == "momentum" else back)
        moved = other.move(torch.stack([action, share], -1))
        inside = (expected > 0) & (expected < 1) & (plain.u > 0) & (plain.u < 1)
        torch.testing.assert_close(moved[inside], expected[inside])
        torch.testing.assert_close(other.step, moved - before)


@pytest.mark.parametrize("second", ["momentum", "best"])
@backbones
def test_a_policy_with_a_second_output_steps_as_over_the_whole_sequence(second: str, backbone: str) -> None:
    made, features = policy(second=second, backbone=backbone), noise(5, 9)
    with torch.no_grad():
        whole = made(features)
        memory = made.begin(5)
        each = [made.step(features[:, t], memory, t) for t in range(9)]
    assert whole[0].shape == whole[1].shape == (5, 9, 2)
    for i in range(2):
        torch.testing.assert_close(torch.stack([step[i] for step in each], 1), whole[i], rtol=1e-4, atol=1e-5)


def test_policies_of_the_wheel_have_the_settings_that_they_were_trained_with() -> None:
    """A file says nothing of settings that came after it; they have the values that it was trained with."""
    shipped = Path(__file__).parents[2] / "src" / "optrepro" / "optimizers" / "weights" / "pop.safetensors"
    settings = load(shipped)[0].settings
    assert settings == PolicySettings()


def test_noise_is_standard_normal_and_independent_over_coordinates_times_and_outputs() -> None:
    drawn = torch.stack([sampled(time, torch.arange(200), 2) for time in range(100)])
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)
    assert drawn.std().item() == pytest.approx(1, abs=0.02)
    assert (drawn.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.005)
    for axis in (0, 1, 2):
        a, b = drawn.narrow(axis, 0, drawn.shape[axis] - 1), drawn.narrow(axis, 1, drawn.shape[axis] - 1)
        assert (a * b).mean().item() == pytest.approx(0, abs=0.03)
    assert len(drawn.flatten().unique()) == drawn.numel()


def test_noise_belongs_to_the_number_of_a_coordinate_whatever_the_others_are() -> None:
    numbers = torch.tensor([5, 0, 3])
    assert torch.equal(sampled(7, numbers), sampled(7, torch.arange(9))[numbers])


def test_a_policy_acts_by_its_mean_or_by_a_sample_around_it() -> None:
    mean, sample = policy(), policy(acting="sample")
    features, numbers = noise(5, 3), torch.arange(5)
    memories = [made.begin(5) for made in (mean, mean, sample)]
    for t in range(3):
        with torch.no_grad():
            center, log_std = mean.step(features[:, t], memories[0], t)
            assert torch.equal(mean.act(features[:, t], memories[1], t, numbers), center)
            got = sample.act(features[:, t], memories[2], t, numbers)
        torch.testing.assert_close(got, center + log_std.exp() * sampled(t, numbers)[:, 0].float())
