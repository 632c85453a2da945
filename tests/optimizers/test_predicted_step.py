"""Predicted Step Descent: the features against their formulas, the policy against a twin, the optimizer around it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from optrepro.optimizers import _learned, predicted_step
from optrepro.optimizers._learned import Memory, save
from optrepro.optimizers.predicted_step import PredictedStepDescent, StepPolicy, StepPolicySettings

GROUPS = [(0, 4), (4, 7)]
FORMS = [
    StepPolicySettings(cells=5, output="step", scale=0.02),
    StepPolicySettings(cells=5, networks=2, output="normalized", scale=0.1),
    StepPolicySettings(cells=5, output="normalized", scale=1.6, warmup=4, relative=True, steadiness=True),
]


def make(settings: StepPolicySettings) -> StepPolicy:
    """A policy whose head is not negligible."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        policy = StepPolicy(settings).eval()
        for parameter in policy.parameters():
            nn.init.normal_(parameter, std=0.4)
    return policy


@pytest.fixture(params=FORMS, ids=lambda form: f"{form.output}{'-relative' * form.relative}")
def policy(request: pytest.FixtureRequest) -> StepPolicy:
    return make(request.param)


def history(steps: int = 9, rows: int = 3, coordinates: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Iterates and gradients (steps, R, P) over several decades, and positive values (steps, R)."""
    generator = torch.Generator().manual_seed(0)
    sizes = 10 ** (4 * torch.rand(steps, rows, coordinates, generator=generator) - 3)
    gradients = sizes * torch.randn(steps, rows, coordinates, generator=generator)
    x = torch.randn(steps, rows, coordinates, generator=generator).cumsum(0)
    return x, torch.rand(steps, rows, generator=generator) + 0.5, gradients


def run(policy: StepPolicy, x: Tensor, values: Tensor, gradients: Tensor) -> Tensor:
    """Steps (steps, R, P) at the iterates of a history."""
    memory, steps = policy.begin(x[0], GROUPS), []
    for at in zip(x, values, gradients, strict=True):
        step, memory = policy.step(memory, *at)
        steps.append(step)
    return torch.stack(steps)


def test_features_are_those_of_the_paper() -> None:
    x, f, g = history()
    memory: Memory = make(FORMS[0]).begin(x[0], GROUPS)
    for t in range(len(x)):
        psi = predicted_step.features(memory, x[t], f[t], g[t])
        gradient = g[t] / (g[max(t - 1, 0)].abs() + 1) if t else g[0] / (g[0].abs() + 1)
        if t == 0:  # without an earlier iterate the others are undefined, so zero
            expected = torch.stack([torch.zeros_like(gradient), gradient, torch.zeros_like(gradient)])
        else:
            change = ((f[t] - f[t - 1]) / f[t - 1])[:, None].expand_as(gradient)
            ratio = (x[max(t - 1, 1)] - x[max(t - 2, 0)]).abs() / ((x[t] - x[t - 1]).abs() + 0.1)
            expected = torch.stack([change, gradient, ratio])
        torch.testing.assert_close(psi, expected)
        memory = predicted_step.observe(FORMS[0], memory, x[t], f[t], g[t])[2]


def test_what_the_network_sees_is_bounded_and_keeps_the_sign() -> None:
    wide = torch.tensor([0.0, 1e-30, 1e-6, 1e-3, 1.0, 1e4])
    psi = torch.stack([torch.cat([wide, -wide])] * 3)
    seen = predicted_step.inputs(psi)
    assert len(seen) == predicted_step.INPUTS
    assert seen.isfinite().all()
    assert seen.abs().max() < 2
    torch.testing.assert_close(seen[4], psi[1].sign())
    torch.testing.assert_close(seen[3, :6], -seen[3, 6:])


@torch.no_grad()
def test_the_policy_is_an_lstm_of_each_coordinate_alone(policy: StepPolicy) -> None:
    x, values, gradients = history()
    settings = policy.settings
    seen, units, memory = [], [], policy.begin(x[0], GROUPS)
    for at in zip(x, values, gradients, strict=True):
        inputs, unit, memory = predicted_step.observe(settings, memory, *at)
        seen.append(inputs)
        units.append(unit)
    expected = torch.empty_like(x)
    for group, (start, stop) in enumerate(GROUPS):
        network = policy.networks[group if settings.networks > 1 else 0]
        cell = nn.LSTMCell(settings.inputs, settings.cells)
        order = torch.cat([torch.arange(settings.cells) + gate * settings.cells for gate in (0, 1, 3, 2)])
        cell.weight_ih.copy_(network.weight[order, : settings.inputs])
        cell.weight_hh.copy_(network.weight[order, settings.inputs :])
        cell.bias_ih.copy_(network.bias[order, 0])
        cell.bias_hh.zero_()
        for row in range(x.shape[1]):
            for i in range(start, stop):
                state = None
                for t in range(len(x)):
                    state = cell(seen[t][:, row, i][None], state)
                    out = network.out @ state[0][0] + network.out_bias[:, 0]
                    expected[t, row, i] = (out * units[t][:, row, i]).sum()
    torch.testing.assert_close(run(policy, x, values, gradients), expected, rtol=1e-4, atol=1e-6)


def test_objectives_side_by_side_do_not_touch_each_other(policy: StepPolicy) -> None:
    x, values, gradients = history()
    together = run(policy, x, values, gradients)
    for row in range(x.shape[1]):
        alone = run(policy, x[:, [row]], values[:, [row]], gradients[:, [row]])
        torch.testing.assert_close(together[:, [row]], alone, rtol=1e-4, atol=1e-6)


def test_recording_gradients_changes_no_step(policy: StepPolicy) -> None:
    at = history()
    with torch.no_grad():
        fast = run(policy, *at)
    steps = run(policy, *at)
    torch.testing.assert_close(steps, fast)
    steps.sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.parameters())


def test_normalized_steps_do_not_depend_on_the_unit_of_the_objective() -> None:
    settings = StepPolicySettings(cells=3, output="normalized", scale=0.13)
    policy = StepPolicy(settings)
    with torch.no_grad():
        for network in policy.networks:
            network.out.zero_()  # type: ignore[operator]
    x, values, gradients = history()
    plain, scaled = run(policy, x, values, gradients), run(policy, x, values, 100 * gradients)
    torch.testing.assert_close(plain, scaled)


def test_an_untrained_normalized_policy_without_output_weights_is_adagrad() -> None:
    policy = StepPolicy(StepPolicySettings(cells=3, output="normalized", scale=0.13))
    with torch.no_grad():
        for network in policy.networks:
            network.out.zero_()  # type: ignore[operator]
    target = torch.linspace(-1, 1, 6)
    ours, theirs = torch.zeros(6, requires_grad=True), torch.zeros(6, requires_grad=True)
    learned = PredictedStepDescent([ours], policy=policy)
    adagrad = torch.optim.Adagrad([theirs], lr=0.13)
    for _ in range(20):
        descend(learned, ours, target)
        descend(adagrad, theirs, target)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def without_output_weights(settings: StepPolicySettings) -> StepPolicy:
    """A policy whose outputs are constant."""
    policy = StepPolicy(settings)
    with torch.no_grad():
        for network in policy.networks:
            network.out.zero_()  # type: ignore[operator]
    return policy


def test_steps_grow_linearly_in_the_warmup() -> None:
    warm, plain = (without_output_weights(StepPolicySettings(output="normalized", warmup=n)) for n in (4, 0))
    factors = torch.tensor([0.25, 0.5, 0.75, *[1.0] * 6])
    torch.testing.assert_close(run(warm, *history()), factors[:, None, None] * run(plain, *history()))


def test_relative_steps_are_in_units_of_the_initial_size_of_their_tensor() -> None:
    relative, plain = (
        without_output_weights(StepPolicySettings(output="normalized", relative=r)) for r in (True, False)
    )
    x, values, gradients = history()
    sizes = torch.cat([x[0][:, a:b].square().mean(1, keepdim=True).sqrt().expand(-1, b - a) for a, b in GROUPS], 1)
    torch.testing.assert_close(run(relative, x, values, gradients), sizes * run(plain, x, values, gradients))


def test_steadiness_is_one_half_for_a_constant_gradient_and_falls_with_its_noise() -> None:
    noise = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    found = []
    for level in (0.0, 0.5, 2.0, 20.0):
        gradients = -1 + level * noise
        mean, squares = torch.zeros(400), torch.zeros(400)
        for time, gradient in enumerate(gradients):
            mean, squares = torch.lerp(mean, gradient, 1 - predicted_step.MEMORY), squares + gradient.square()
            if not level:
                torch.testing.assert_close(predicted_step.steadiness(mean, squares, time), torch.full((400,), 0.5))
        found.append(predicted_step.steadiness(mean, squares, len(gradients) - 1).mean().item())
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.25


def test_tensors_of_zeros_have_the_size_of_all_tensors_together() -> None:
    x = torch.tensor([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    sizes = predicted_step.sizes(x, [(0, 2), (2, 4)])
    torch.testing.assert_close(sizes, torch.tensor([[12.5**0.5] * 2 + [2.5] * 2, [1.0] * 4]))


def descend(optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (x - target).square().sum() + 1
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs, labels = torch.randn(8, 3, generator=generator), torch.randint(2, (8,), generator=generator)

        def closure(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [FORMS[0], FORMS[2]], ids=["step", "relative"])
def test_the_optimizer_takes_the_steps_of_the_rule(form: StepPolicySettings) -> None:
    policy, network = make(form), model()
    optimizer = PredictedStepDescent(network.parameters(), policy=policy)
    x, memory, unit = torch.cat([p.detach().flatten() for p in network.parameters()])[None], None, None
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        inputs, labels = torch.randn(8, 3, generator=generator), torch.randint(2, (8,), generator=generator)
        loss = nn.functional.cross_entropy(network(inputs), labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        unit = unit or loss.item() / predicted_step.START
        memory = memory or policy.begin(x, [(0, 12), (12, 16), (16, 24), (24, 26)])
        gradient = torch.cat([g.flatten() for g in gradients])[None]
        with torch.no_grad():
            moved, memory = policy.step(memory, x, loss[None] / unit, gradient / unit)
        x = x + moved
        train(network, optimizer, range(step, step + 1))
        torch.testing.assert_close(torch.cat([p.detach().flatten() for p in network.parameters()])[None], x)


def test_lr_multiplies_the_steps() -> None:
    start = torch.ones(4)
    moved = []
    for lr in (1.0, 0.5, 0.0):
        x = start.clone().requires_grad_()
        descend(PredictedStepDescent([x], lr=lr, policy=make(FORMS[0])), x, torch.zeros(4))
        moved.append(x.detach() - start)
    torch.testing.assert_close(moved[1], 0.5 * moved[0])
    assert moved[2].abs().max() == 0


@torch.no_grad()
def test_the_optimizers_step_is_the_rules_but_for_rounding(policy: StepPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces of two coordinates and a last one of one."""
    monkeypatch.setattr(_learned, "GATES", 2 * 4 * policy.settings.cells)
    x, values, gradients = history(rows=1)
    memory = policy.begin(x[0], GROUPS)
    tables = {name: torch.zeros(*shape, 7) for name, shape in policy.table_shapes().items()}
    if policy.settings.relative:
        tables[predicted_step.SIZE] = predicted_step.sizes(x[0], GROUPS)[0]
    before = 0.0
    for time, (at, value, gradient) in enumerate(zip(x, values, gradients, strict=True)):
        expected, memory = policy.step(memory, at, value, gradient)
        now = _learned.Now(time, at[0], before, value.item(), gradient[0], GROUPS)
        torch.testing.assert_close(policy.advance(tables, now), expected[0], rtol=1e-4, atol=1e-6)
        before = value.item()
        for name in ("x", "size", "moved", "squares", "mean"):
            torch.testing.assert_close(tables[name], memory[name][0])
    groups = memory["groups"].tolist()
    for name in ("hidden", "cell"):
        whole = torch.cat([memory[f"{name}{i}"] for i in range(len(groups))], 1)
        torch.testing.assert_close(tables[name], whole, rtol=1e-4, atol=1e-5)


LOSSES = st.one_of(
    st.sampled_from([0.0, 1e-300, -1e-300, 1e300, -1e300, 1.0, -1.0]), st.floats(allow_nan=False, allow_infinity=False)
)
SIZES = st.sampled_from([0.0, 1e-45, 1e-20, 1.0, -1.0, 1e19, -1e38])


@settings(max_examples=60, deadline=None)
@given(history=st.lists(st.tuples(LOSSES, SIZES), min_size=1, max_size=8))
def test_what_the_network_sees_and_does_is_finite_for_every_finite_history(history: list[tuple[float, float]]) -> None:
    for dtype in (torch.float32, torch.float64):
        for form in [*FORMS[:1], StepPolicySettings(cells=3, output="normalized")]:
            x = torch.ones(3, dtype=dtype, requires_grad=True)
            optimizer = PredictedStepDescent([x], policy=make(form))
            for loss, size in history:
                x.grad = torch.tensor([size, -size, 1.0], dtype=dtype)
                optimizer.step(lambda loss=loss: loss)  # type: ignore[misc]
                assert x.isfinite().all()
                assert all(part.isfinite().all() for part in optimizer.state[x].values())


@given(before=LOSSES, value=LOSSES)
def test_the_relative_change_is_finite(before: float, value: float) -> None:
    for dtype in (torch.float32, torch.float64):
        top = torch.finfo(dtype).max
        pair = torch.tensor([value, before], dtype=torch.float64).clamp(-top, top).to(dtype)
        change = predicted_step.relative_change(*pair)
        assert change.isfinite()
        if pair[0] == pair[1]:
            assert change == 0


@pytest.mark.parametrize("scale", [1e12, 1e-12])
def test_scaling_the_loss_changes_no_step(scale: float) -> None:
    ends = []
    for factor in (1.0, scale):
        network = model()
        optimizer = PredictedStepDescent(network.parameters())
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

        def closure(network=network, optimizer=optimizer, inputs=inputs, factor=factor) -> Tensor:  # type: ignore[no-untyped-def]
            optimizer.zero_grad()
            loss = factor * (network(inputs) - inputs[:, :2]).square().mean()
            loss.backward()
            return loss  # type: ignore[no-any-return]

        for _ in range(20):
            optimizer.step(closure)
        ends.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-5)


def test_a_gradient_out_of_all_proportion_is_left_out_and_forgotten_but_not_two_in_a_row() -> None:
    x, y = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    plain, spiked = PredictedStepDescent([x]), PredictedStepDescent([y])
    for step in range(6):
        if step == 3:
            y.grad = torch.full((3,), 1e19)
            before = y.detach().clone()
            spiked.step(lambda: torch.tensor(3.0))
            assert torch.equal(y, before)
        descend(plain, x, torch.zeros(3))
        descend(spiked, y, torch.zeros(3))
    assert torch.equal(x, y)
    for moves in (False, True):
        y.grad = torch.full((3,), 1e19)
        before = y.detach().clone()
        spiked.step(lambda: torch.tensor(3.0))
        assert torch.equal(y, before) is not moves


def test_files_give_back_settings_weights_and_card(tmp_path: Path, policy: StepPolicy) -> None:
    path = tmp_path / "policy.safetensors"
    save(policy, path, {"trained_on": "nothing"})
    loaded = PredictedStepDescent.from_pretrained(path)
    assert loaded.settings == policy.settings
    torch.testing.assert_close(dict(loaded.state_dict()), dict(policy.state_dict()), rtol=0, atol=0)


def test_files_and_settings_that_make_no_policy_are_named(tmp_path: Path) -> None:
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="holds no StepPolicy"):
        PredictedStepDescent.from_pretrained(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="cells = 0 is not allowed"):
        StepPolicySettings(cells=0)
    with pytest.raises(ValueError, match="2 networks, one for each tensor"):
        make(FORMS[1]).begin(torch.zeros(1, 3), [(0, 3)])
