"""L2L against its paper's formulas, a naive twin, and itself in other orders."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optrepro.optimizers import _learned
from optrepro.optimizers._learned import Memory, save
from optrepro.optimizers.l2l import L2L, L2LPolicy, L2LSettings, log_sign

SMALL = L2LSettings(cells=5, preprocessing=4.0, scale=0.3)
GROUPS = [(0, 4), (4, 7)]


@pytest.fixture
def policy() -> L2LPolicy:
    return random_policy()


def random_policy(settings: L2LSettings = SMALL) -> L2LPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return L2LPolicy(settings).eval()


def gradients(steps: int = 6, rows: int = 3, coordinates: int = 7) -> Tensor:
    """Of sizes over many decades, (steps, rows, coordinates)."""
    generator = torch.Generator().manual_seed(0)
    sizes = 10 ** (6 * torch.rand(steps, rows, coordinates, generator=generator) - 5)
    return sizes * torch.randn(steps, rows, coordinates, generator=generator)


def run(policy: L2LPolicy, given: Tensor) -> tuple[Tensor, Memory]:
    """The steps on the gradients (steps, R, P), and the memory after them."""
    x = torch.zeros(given.shape[1:])
    memory, steps = policy.begin(x, GROUPS), []
    for gradient in given:
        step, memory = policy.step(memory, x, torch.zeros(len(x)), gradient)
        x = x + step
        steps.append(step)
    return torch.stack(steps), memory


# Preprocessing


@pytest.mark.parametrize("p", [1.0, 4.0, 10.0])
def test_preprocessing_follows_the_formula_of_the_paper(p: float) -> None:
    for g in [0.0, 1e-30, 1e-6, math.exp(-p) * 0.999, math.exp(-p) * 1.001, 0.3, 1.0, 25.0]:
        for signed in (g, -g):
            sign = (signed > 0) - (signed < 0)
            expected = [math.log(g) / p, sign] if g >= math.exp(-p) else [-1.0, math.exp(p) * signed]
            torch.testing.assert_close(log_sign(torch.tensor([signed]), p), torch.tensor(expected)[:, None])


def test_preprocessing_takes_each_coordinate_alone() -> None:
    flat = gradients()[0].reshape(-1)
    alone = torch.cat([log_sign(g[None], 10.0) for g in flat], 1)
    torch.testing.assert_close(log_sign(flat, 10.0), alone, rtol=0, atol=0)


# The rule


def lstm(weight: Tensor, bias: Tensor) -> nn.LSTMCell:
    """PyTorch's cell with these weights: its gates come in the order input, forget, candidate, output."""
    size = len(weight) // 4
    enter, keep, leave, candidate = range(4)
    rows = torch.cat([torch.arange(size) + gate * size for gate in (enter, keep, candidate, leave)])
    cell = nn.LSTMCell(weight.shape[1] - size, size)
    with torch.no_grad():
        cell.weight_ih.copy_(weight[rows, :-size])
        cell.weight_hh.copy_(weight[rows, -size:])
        cell.bias_ih.copy_(bias[rows, 0])
        cell.bias_hh.zero_()
    return cell


@torch.no_grad()
def naive_steps(policy: L2LPolicy, given: Tensor) -> Tensor:
    """As `run`, with PyTorch's cells and one coordinate after the other."""
    first, second = lstm(policy.first, policy.first_bias), lstm(policy.second, policy.second_bias)
    steps = torch.empty_like(given)
    for row in range(given.shape[1]):
        for column in range(given.shape[2]):
            state_1: Any = None
            state_2: Any = None
            for time, g in enumerate(given[:, row, column]):
                state_1 = first(log_sign(g[None], policy.settings.preprocessing).T, state_1)
                state_2 = second(state_1[0], state_2)
                out = policy.out @ state_2[0][0] + policy.out_bias[0]
                steps[time, row, column] = policy.settings.scale * out[0]
    return steps


@pytest.mark.parametrize("recorded", [False, True])
def test_the_rule_equals_pytorchs_cells_on_one_coordinate_after_the_other(policy: L2LPolicy, recorded: bool) -> None:
    given = gradients()
    with torch.set_grad_enabled(recorded):
        steps, _ = run(policy, given)
    torch.testing.assert_close(steps, naive_steps(policy, given), rtol=1e-5, atol=1e-6)
    assert steps.std() > 1e-3


def test_permuted_coordinates_take_the_permuted_steps(policy: L2LPolicy) -> None:
    given = gradients()
    order = torch.randperm(given.shape[2], generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(run(policy, given[..., order])[0], run(policy, given)[0][..., order])


def test_objectives_side_by_side_are_as_alone(policy: L2LPolicy) -> None:
    given = gradients()
    together, _ = run(policy, given)
    for row in range(given.shape[1]):
        torch.testing.assert_close(run(policy, given[:, [row]])[0], together[:, [row]])


def test_the_memory_is_what_later_steps_depend_on(policy: L2LPolicy) -> None:
    given = gradients()
    changed = given.clone()
    changed[0] = -changed[0]
    assert not torch.allclose(run(policy, given)[0][-1], run(policy, changed)[0][-1], atol=1e-6)


def test_recording_gradients_changes_no_memory_in_place(policy: L2LPolicy) -> None:
    _, memory = run(policy, gradients())
    before = {name: part.detach().clone() for name, part in memory.items()}
    policy.step(memory, torch.zeros(3, 7), torch.zeros(3), gradients()[0])
    assert all(torch.equal(memory[name], part) for name, part in before.items())


def test_the_untrained_rule_takes_steps_of_the_size_of_its_scale() -> None:
    steps, _ = run(random_policy(L2LSettings()), gradients())
    assert 0 < steps.abs().max() < 0.1


def test_the_networks_have_the_sizes_of_the_paper() -> None:
    policy = L2LPolicy(L2LSettings())
    assert sum(p.numel() for p in policy.parameters()) == (4 * 20 * (2 + 20 + 1)) + (4 * 20 * (20 + 20 + 1)) + 21


# The optimizer


def closure_of(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def network() -> tuple[nn.Module, Callable[[], Tensor]]:
    """A small classifier, and its loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 6, generator=generator)
    labels = (images[:, 0] > images[:, 1]).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    return model, lambda: nn.functional.cross_entropy(model(images), labels)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_the_optimizer_takes_the_steps_of_the_rule_on_all_parameters_at_once(policy: L2LPolicy) -> None:
    model, loss = network()
    twin, twin_loss = network()
    optimizer = L2L(model.parameters(), policy=policy)
    x = flat(twin)[None]
    memory = policy.begin(x, [])
    for _ in range(5):
        optimizer.step(closure_of(optimizer, loss))
        value = twin_loss()
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(twin.parameters()))])[None]
        with torch.no_grad():
            step, memory = policy.step(memory, x, value.reshape(1), gradient)
            x = x + step
            nn.utils.vector_to_parameters(x[0], twin.parameters())
        torch.testing.assert_close(flat(model), x[0])
    assert not torch.allclose(flat(model), flat(network()[0]), atol=1e-3)


def test_the_learning_rate_is_a_factor_on_the_steps(policy: L2LPolicy) -> None:
    moved = []
    for lr in (1.0, 0.25):
        model, loss = network()
        before = flat(model)
        optimizer = L2L(model.parameters(), lr=lr, policy=policy)
        optimizer.step(closure_of(optimizer, loss))
        moved.append(flat(model) - before)
    torch.testing.assert_close(moved[1], 0.25 * moved[0], rtol=1e-3, atol=1e-7)


@torch.no_grad()
def test_the_optimizers_step_is_the_rules_but_for_rounding(policy: L2LPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of two coordinates and a last one of one."""
    monkeypatch.setattr(_learned, "GATES", 2 * 4 * SMALL.cells)
    given = gradients(rows=1)
    memory = policy.begin(given[0], GROUPS)
    tables = {name: torch.zeros(*shape, 7) for name, shape in policy.table_shapes().items()}
    for gradient in given:
        expected, memory = policy.step(memory, gradient, gradient[:, 0], gradient)
        now = _learned.Now(0, gradient[0], 0.0, 0.0, gradient[0], GROUPS)
        torch.testing.assert_close(policy.advance(tables, now), expected[0], rtol=1e-4, atol=1e-6)
    for name, table in tables.items():
        torch.testing.assert_close(table, memory[name], rtol=1e-4, atol=1e-5)


SIZES = st.one_of(st.sampled_from([0.0, 1e-300, 1e300, -1e300, 1e19, -1.0]), st.floats(-1e300, 1e300))


@settings(max_examples=60, deadline=None)
@given(history=st.lists(SIZES, min_size=1, max_size=6))
def test_every_finite_history_leaves_parameters_and_memory_finite(history: list[float]) -> None:
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = L2L([x], policy=random_policy())
    for size in history:
        x.grad = torch.tensor([size, -size, 1.0], dtype=torch.float64)
        optimizer.step(lambda size=size: size)  # type: ignore[misc]
        assert x.isfinite().all()
        assert all(part.isfinite().all() for part in optimizer.state[x].values())


# Files


def test_a_stored_rule_is_the_same_rule(policy: L2LPolicy, tmp_path: Path) -> None:
    save(policy, tmp_path / "mine.safetensors")
    loaded = L2L.from_pretrained(tmp_path / "mine.safetensors")
    assert loaded.settings == policy.settings
    assert torch.equal(run(loaded, gradients())[0], run(policy, gradients())[0])


def test_a_file_of_another_rule_is_refused(tmp_path: Path) -> None:
    class Other(L2LPolicy):
        pass

    save(Other(SMALL), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no L2LPolicy"):
        L2L.from_pretrained(tmp_path / "other.safetensors")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_accelerator_goes_the_way_of_the_cpu(policy: L2LPolicy) -> None:
    expected, _ = run(policy, gradients())
    x = torch.zeros(3, 7, device="cuda")
    there = copy.deepcopy(policy).cuda()
    memory = there.begin(x, GROUPS)
    for gradient, step in zip(gradients(), expected, strict=True):
        got, memory = there.step(memory, x, x[:, 0], gradient.cuda())
        torch.testing.assert_close(got.cpu(), step, rtol=0, atol=1e-5)
