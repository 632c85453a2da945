"""POP, the optimizer: the policy's decisions, taken on parameters of any shape, in a box or without one."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optrepro.metalearning.pop.environment import roll_out
from optrepro.optimizers import POP, pop
from optrepro.optimizers._pop_policy import Policy, PolicySettings, save
from optrepro.optimizers.pop import WEIGHTS
from optrepro.problems.functions import vlse
from optrepro.problems.functions.vlse import Function

SETTINGS = PolicySettings(width=8, layers=2, heads=2, history=4, horizon=10, smallest=1e-4)
Loss = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module", params=["transformer", "gru"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return random_policy(request.param)


def random_policy(backbone: Any = "transformer") -> Policy:
    """Untrained, but bold enough to go somewhere, and with an eye for what it has met."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Policy(replace(SETTINGS, backbone=backbone))
        with torch.no_grad():
            model.head.weight.mul_(10)
    return model.eval()


def wells(x: Tensor) -> Tensor:
    return ((x - 0.3).square() + 0.1 * torch.sin(9 * x)).sum()


def tensor(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def closure_of(optimizer: POP, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def descend(optimizer: POP, x: Tensor, loss: Loss, steps: int) -> Tensor:
    """The points evaluated, (steps, D)."""
    points = []

    def evaluated() -> Tensor:
        points.append(x.detach().clone())
        return loss(x)

    for _ in range(steps):
        optimizer.step(closure_of(optimizer, evaluated))
    return torch.stack(points)


def evaluate(f: Function) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def value_and_gradient(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = f(torch.lerp(f.lower, f.upper, u))
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    return value_and_gradient


@pytest.mark.parametrize("acting", ["mean", "sample"])
@pytest.mark.parametrize("name", ["ackley", "rosenbrock", "forrester", "hartmann6", "schwefel"])
def test_it_meets_the_points_of_the_environment_it_was_trained_in(name: str, acting: str, policy: Policy) -> None:
    f = vlse.get(name)
    acts = Policy(replace(policy.settings, acting=acting))  # type: ignore[arg-type]
    acts.load_state_dict(policy.state_dict())
    policy = acts.eval()
    start = torch.rand(f.dim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = roll_out(policy, evaluate(f), start[None], budget=30).points[:, 0]
    x = start.clone().requires_grad_()
    points = descend(POP([x], bounds=(0, 1), policy=policy), x, lambda u: f(torch.lerp(f.lower, f.upper, u)), 30)
    assert torch.equal(points, expected)
    assert points.unique(dim=0).shape[0] > 2


def test_the_box_is_only_a_unit_of_length(policy: Policy) -> None:
    lower, upper = torch.tensor([-3.0, 10.0], dtype=torch.float64), torch.tensor([5.0, 1000.0], dtype=torch.float64)
    u = tensor(0.9, 0.4)
    expected = descend(POP([u], bounds=(0, 1), policy=policy), u, wells, 12)
    x = torch.lerp(lower, upper, torch.tensor([0.9, 0.4], dtype=torch.float64)).requires_grad_()
    points = descend(
        POP([x], bounds=(lower, upper), policy=policy), x, lambda x: wells((x - lower) / (upper - lower)), 12
    )
    torch.testing.assert_close((points - lower) / (upper - lower), expected, rtol=0, atol=1e-6)


def test_without_bounds_the_rate_is_the_unit_of_length_and_the_place_does_not_matter(policy: Policy) -> None:
    x = tensor(0.9, -0.4)
    expected = descend(POP([x], lr=0.5, policy=policy), x, wells, 12)
    y = tensor(7 + 64 * 0.9, 7 + 64 * -0.4)
    points = descend(POP([y], lr=32.0, policy=policy), y, lambda y: wells((y - 7) / 64), 12)
    torch.testing.assert_close((points - 7) / 64, expected, rtol=0, atol=1e-6)


def test_scaling_the_loss_changes_no_step(policy: Policy) -> None:
    for scale in (2.0**-20, 2.0**20):
        x, y = tensor(0.9, -0.4), tensor(0.9, -0.4)
        expected = descend(POP([x], policy=policy), x, wells, 20)
        points = descend(POP([y], policy=policy), y, lambda y, scale=scale: scale * wells(y), 20)  # type: ignore[misc]
        assert torch.equal(points, expected)


def test_without_bounds_the_steps_leave_the_imagined_box(policy: Policy) -> None:
    x = tensor(0.0)
    points = descend(POP([x], policy=policy), x, lambda x: x.sum(), 200)
    assert points.min() < -1


def test_the_loss_is_never_evaluated_beyond_the_bounds(policy: Policy) -> None:
    x = tensor(7.0, 0.5, dtype=torch.float32)
    points = descend(POP([x], bounds=(0.1, 0.7), policy=policy), x, lambda x: -wells(3 * x), 30)
    assert (points >= 0.1).all()
    assert (points <= 0.7).all()
    assert points[0].tolist() == pytest.approx([0.7, 0.5])
    assert ((x >= 0.1) & (x <= 0.7)).all()


def test_all_parameters_of_all_groups_are_one_problem(policy: Policy) -> None:
    x = tensor(0.9, -0.4, 0.2, 0.1)
    expected = descend(POP([x], policy=policy), x, wells, 15)[-1]
    scalar, matrix, nothing = tensor(0.9).detach()[0].requires_grad_(), tensor(-0.4, 0.2, 0.1).detach(), tensor()
    matrix = matrix.view(3, 1).requires_grad_()
    optimizer = POP([{"params": [scalar, nothing]}, {"params": [matrix]}], policy=policy)
    closure = closure_of(optimizer, lambda: wells(scalar) + wells(matrix) + nothing.sum())
    for _ in range(14):
        optimizer.step(closure)
    torch.testing.assert_close(torch.cat([scalar.view(1), matrix.view(3)]), expected, rtol=0, atol=1e-9)


def test_groups_have_bounds_of_their_own_or_none(policy: Policy) -> None:
    a, b, c = tensor(0.5), tensor(0.5), tensor(0.5)
    groups = [{"params": [a], "bounds": (0.4, 0.6)}, {"params": [b], "bounds": (0, torch.ones(1))}, {"params": [c]}]
    optimizer = POP(groups, policy=policy)
    for _ in range(100):
        optimizer.step(closure_of(optimizer, lambda: (a + b + c).sum()))
    assert a.item() == pytest.approx(0.4)
    assert b.item() == 0
    assert c.item() < -1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_in_less_precision_it_goes_about_the_same_way(dtype: torch.dtype, tolerance: float, policy: Policy) -> None:
    x, y = tensor(0.9, -0.4), tensor(0.9, -0.4, dtype=dtype)
    expected = descend(POP([x], policy=policy), x, wells, 8)
    points = descend(POP([y], policy=policy), y, wells, 8)
    assert points.dtype == dtype
    assert (points[1:] != points[:-1]).any(1).all()
    torch.testing.assert_close(points.double(), expected, rtol=0, atol=tolerance)


def test_a_schedule_shrinks_the_steps(policy: Policy) -> None:
    for bounds in (None, (-1.0, 1.0)):
        ends = []
        for factor in (1.0, 0.25, 0.0):
            x = tensor(0.9, -0.4)
            optimizer = POP([x], lr=0.5, bounds=bounds, policy=policy)
            optimizer.param_groups[0]["lr"] *= factor
            optimizer.step(closure_of(optimizer, lambda x=x: wells(x)))  # type: ignore[misc]
            ends.append(x.detach() - torch.tensor([0.9, -0.4], dtype=torch.float64))
        torch.testing.assert_close(ends[1], 0.25 * ends[0])
        assert ends[0].abs().min() > 0
        assert not ends[2].any()


def test_what_happens_between_steps_counts_as_part_of_the_last(policy: Policy) -> None:
    x, y = tensor(0.9, -0.4), tensor(0.9, -0.4)
    expected = descend(POP([x], lr=0.5, bounds=(-1, 1), policy=policy), x, wells, 10)
    whole = POP([y], lr=1.0, bounds=(-1, 1), policy=policy)
    points = [y.detach().clone()]
    for _ in range(9):
        whole.step(closure_of(whole, lambda: wells(y)))
        with torch.no_grad():
            y.lerp_(points[-1], 0.5)
        points.append(y.detach().clone())
    torch.testing.assert_close(torch.stack(points), expected, rtol=0, atol=1e-7)


def test_a_group_added_later_starts_a_new_problem(policy: Policy) -> None:
    x, late = tensor(0.9, -0.4), tensor(0.5)
    optimizer = POP([x], policy=policy)
    descend(optimizer, x, wells, 6)
    fresh_x, fresh_late = (p.detach().clone().requires_grad_() for p in (x, late))
    fresh = POP([fresh_x, fresh_late], policy=policy)
    optimizer.add_param_group({"params": [late]})
    for _ in range(4):
        optimizer.step(closure_of(optimizer, lambda: wells(x) + wells(late)))
        fresh.step(closure_of(fresh, lambda: wells(fresh_x) + wells(fresh_late)))
    assert late.item() != 0.5
    assert torch.equal(torch.cat([x, late]), torch.cat([fresh_x, fresh_late]))


def test_a_policy_is_a_name_a_file_or_itself(policy: Policy, tmp_path: Path) -> None:
    save(policy, tmp_path / "mine.safetensors")
    loaded = POP.from_pretrained(tmp_path / "mine.safetensors")
    assert loaded.settings == policy.settings
    paths = []
    for chosen in (policy, tmp_path / "mine.safetensors", str(tmp_path / "mine.safetensors"), loaded):
        x = tensor(0.9, -0.4)
        paths.append(descend(POP([x], policy=chosen), x, wells, 6))
    assert all(torch.equal(path, paths[0]) for path in paths)


@pytest.mark.skipif(not (WEIGHTS / "pop.safetensors").exists(), reason="the shipped policy is not made yet")
def test_the_shipped_policy_is_the_default_and_finds_a_minimum() -> None:
    x = tensor(3.0, -2.0)
    optimizer = POP([x], bounds=(-5, 5))
    assert optimizer.policy.settings == POP.from_pretrained("pop").settings
    points = descend(optimizer, x, lambda x: (x - 1).square().sum(), 50)
    assert (points - 1).norm(dim=1).min() < 1e-2


BAD_BOUNDS = {
    "upside down": (1.0, 0.0),
    "without inside": (torch.zeros(2), torch.tensor([1.0, 0.0])),
    "not finite": (0.0, float("inf")),
    "no pair": 1.0,
}


@pytest.mark.parametrize("bounds", BAD_BOUNDS.values(), ids=BAD_BOUNDS)
def test_bounds_that_are_no_box_are_named(bounds: Any, policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"bounds = .* is not allowed: it must be None or a pair \(lower, upper\)"):
        POP([tensor(0.5, 0.5)], bounds=bounds, policy=policy)


def test_bounds_that_do_not_fit_a_parameter_are_named(policy: Policy) -> None:
    with pytest.raises(ValueError, match=r"the shape \(3,\) cannot be expanded to that of a parameter, \(2,\)"):
        POP([tensor(0.5, 0.5)], bounds=(torch.zeros(3), 1.0), policy=policy)


def test_parameters_that_changed_their_size_are_named(policy: Policy) -> None:
    x = tensor(0.5, 0.5)
    optimizer = POP([x], policy=policy)
    descend(optimizer, x, wells, 1)
    x.data = torch.zeros(3, dtype=torch.float64)
    with pytest.raises(
        ValueError, match=r"params: one now has the shape \(3,\) and had \(2,\) in earlier steps: create a"
    ):
        descend(optimizer, x, wells, 1)


@pytest.mark.parametrize("lr", [1e-17, 1e-300])
def test_a_rate_below_the_rounding_of_a_parameter_leaves_it_and_moves_the_others(lr: float, policy: Policy) -> None:
    x, y = torch.ones(2, requires_grad=True), tensor(0.9, -0.4)
    optimizer = POP([{"params": [x], "lr": lr}, {"params": [y], "lr": 0.5}], policy=policy)
    for _ in range(4):
        optimizer.step(closure_of(optimizer, lambda: wells(x) + wells(y)))
    assert x.tolist() == [1.0, 1.0]
    assert y.isfinite().all()
    assert (y != torch.tensor([0.9, -0.4])).all()


LOSSES = st.sampled_from([0.0, 1e-300, -1e-300, 1e300, -1e300, 1.0, -1.0, 3.5])


@settings(max_examples=40, deadline=None)
@given(history=st.lists(st.tuples(LOSSES, LOSSES), min_size=1, max_size=6))
def test_every_finite_history_leaves_the_parameters_finite(history: list[tuple[float, float]]) -> None:
    x = tensor(0.5, 0.2, -0.1)
    optimizer = POP([x], policy=random_policy())
    for loss, size in history:
        x.grad = torch.tensor([size, -size, 1.0], dtype=torch.float64)
        optimizer.step(lambda loss=loss: loss)  # type: ignore[misc]
        assert x.isfinite().all()
    x.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step(lambda: 1.0)
    assert x.isfinite().all()


@pytest.mark.parametrize("scale", [1e12, 1e-12])
def test_scaling_the_loss_by_any_factor_changes_no_step(scale: float, policy: Policy) -> None:
    x, y = tensor(0.9, -0.4), tensor(0.9, -0.4)
    expected = descend(POP([x], policy=policy), x, wells, 20)
    torch.testing.assert_close(descend(POP([y], policy=policy), y, lambda y: scale * wells(y), 20), expected)


def test_a_gradient_out_of_all_proportion_is_left_out_and_forgotten(policy: Policy) -> None:
    x, y = tensor(0.9, -0.4), tensor(0.9, -0.4)
    expected = descend(POP([x], policy=policy), x, wells, 10)
    optimizer = POP([y], policy=policy)
    first = descend(optimizer, y, wells, 4)

    def spiked() -> Tensor:
        loss = closure_of(optimizer, lambda: wells(y))()
        y.grad *= 1e19
        return loss

    optimizer.step(spiked)
    assert torch.equal(torch.cat([first, descend(optimizer, y, wells, 6)]), expected)


def test_the_box_is_around_where_the_first_step_begins_whenever_the_state_was_made(policy: Policy) -> None:
    x, y = tensor(0.9, -0.4), tensor(50.0, 70.0)
    expected = descend(POP([x], policy=policy), x, wells, 5)
    optimizer = POP([y], policy=policy)
    assert optimizer.step() is None
    with torch.no_grad():
        y.copy_(torch.tensor([0.9, -0.4], dtype=torch.float64))
    assert torch.equal(descend(optimizer, y, wells, 5), expected)


def test_a_problem_that_does_not_fit_is_refused_before_anything_is_allocated(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.zeros(1000, requires_grad=True)
    optimizer = POP([x], policy=policy)
    needed = optimizer.bytes_needed()
    monkeypatch.setattr(pop, "available_bytes", lambda device: needed - 1)
    with pytest.raises(
        MemoryError, match=f"1,000 elements: POP needs {needed:,} bytes .* {needed - 1:,} are available"
    ):
        optimizer.step(closure_of(optimizer, lambda: wells(x)))
    assert not optimizer.state
    assert not x.any()
    monkeypatch.setattr(pop, "available_bytes", lambda device: needed)
    optimizer.step(closure_of(optimizer, lambda: wells(x)))
    assert needed > sum(part.nbytes for part in optimizer.state[x].values())


def test_the_memory_that_is_available_is_known_here() -> None:
    available = pop.available_bytes(torch.device("cpu"))
    assert available is not None
    assert available > 2**20
    assert pop.available_bytes(torch.device("meta")) is None


def test_a_network_is_trained() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 6, generator=generator)
    labels = (images[:, 0] > images[:, 1]).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = POP(network.parameters(), lr=0.3, policy=random_policy())
    closure = closure_of(optimizer, lambda: nn.functional.cross_entropy(network(images), labels))
    losses = [optimizer.step(closure).item() for _ in range(100)]
    assert min(losses[-10:]) < 0.7 * losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_accelerator_goes_the_way_of_the_cpu() -> None:
    x = tensor(0.9, -0.4)
    y = x.detach().cuda().requires_grad_()
    expected = descend(POP([x], bounds=(-1, 1), policy=random_policy()), x, wells, 10)
    there = POP([y], bounds=(-1, 1), policy=random_policy())
    points = descend(there, y, wells, 5)
    elsewhere = POP([y], bounds=(-1, 1), policy=random_policy())
    elsewhere.load_state_dict(torch.load(_stored(there.state_dict()), map_location="cpu", weights_only=True))
    points = torch.cat([points, descend(elsewhere, y, wells, 5)])
    torch.testing.assert_close(points.cpu(), expected, rtol=0, atol=1e-5)


def _stored(state: dict[str, Any]) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
