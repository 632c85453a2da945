"""Guided policy search by Bregman ADMM on perceptrons so small that a training is over in seconds."""

import io
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from optrepro.metalearning.lto.guided_policy_search import GuidingPolicy, Samples, Trainer
from optrepro.metalearning.lto.imitation import AdaGrad
from optrepro.metalearning.lto.rollouts import area, roll_out
from optrepro.metalearning.lto.settings import GuidedSettings
from optrepro.optimizers.predicted_step import StepPolicySettings
from optrepro.problems.networks.perceptrons import Perceptrons

RATE = 0.02
POLICY = StepPolicySettings(cells=4, output="normalized", scale=RATE)
SETTINGS = GuidedSettings(iterations=10, coordinates=12, epochs=2, sequences=64)
HORIZON = 20


def perceptrons(index: int, count: int = 4) -> Perceptrons:
    """Objectives with labels that a linear map decides."""
    source = torch.Generator().manual_seed(index)
    inputs = torch.randn(count, 200, 5, generator=source)
    labels = (inputs @ torch.randn(count, 5, 3, generator=source)).argmax(-1)
    return Perceptrons(inputs, labels, 6, 3, 20, tuple(range(index * count, (index + 1) * count)))


def always_the_same(_: int) -> Perceptrons:
    return perceptrons(0)


def trainer(objectives: Any = perceptrons, policy: StepPolicySettings = POLICY, **changes: Any) -> Trainer:
    return Trainer(SETTINGS.model_copy(update=changes), HORIZON, policy, objectives, seed=0)


def mean_area(rule: Any, problems: Perceptrons) -> float:
    record = list(range(HORIZON + 1))
    return float(area(roll_out(rule, problems, record), record).mean())


def sampled(of: Trainer) -> list[Samples]:
    """Trajectories of the guiding policy on the objectives of the iteration."""
    problems = of.objectives(of.iteration)
    owner = of._owner(problems)
    return of._sample(problems, owner, GuidingPolicy(of.guiding, owner, of.settings.state))


def test_at_first_the_guiding_policy_does_what_its_teacher_does():
    of, problems = trainer(teacher_rate=RATE, noise=0.0), perceptrons(0)
    owner = of._owner(problems)
    of._begin(of._sample(problems, owner, AdaGrad(RATE)))
    psi = GuidingPolicy(of.guiding, owner, "compact")
    assert mean_area(psi, problems) == pytest.approx(mean_area(AdaGrad(RATE), problems), rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"state": "phi"}, {"sharing": "coordinate"}])
def test_the_cost_of_the_guiding_policy_falls(changes):
    of = trainer(always_the_same, teacher_rate=RATE, **changes)
    areas = [of.iterate()["guiding"] for _ in range(5)]
    assert areas[-1] < areas[0] < 0.99 * mean_area(AdaGrad(RATE), perceptrons(0))


def test_the_recurrent_policy_follows_to_new_objectives():
    of, held_out = trainer(epochs=10), perceptrons(100, 8)
    before = mean_area(of.rule, held_out)
    for _ in range(4):
        of.iterate()
    assert mean_area(of.rule, held_out) < 0.97 * before


def test_a_resumed_training_equals_an_uninterrupted_one():
    of = trainer()
    of.iterate()
    file = io.BytesIO()
    torch.save(of.state_dict(), file)
    expected = [of.iterate() for _ in range(2)]
    file.seek(0)
    resumed = trainer()
    resumed.load_state_dict(torch.load(file))
    assert [resumed.iterate() for _ in range(2)] == expected
    for a, b in zip(of.rule.parameters(), resumed.rule.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_saved_state_does_not_change_with_the_training():
    of = trainer()
    of.iterate()
    state = of.state_dict()["guide"]
    copies = {name: value.clone() for name, value in state.items()}
    of.iterate()
    assert all(torch.equal(state[name], copies[name]) for name in copies)


def test_an_iteration_reports_what_the_study_logs():
    log = trainer().iterate()
    assert {"guiding", "policy", "kl", "mismatch"} <= set(log)
    assert 0 <= log["kl"] <= SETTINGS.kl
    assert all(isinstance(value, float) for value in log.values())


def test_training_is_done_after_its_iterations():
    of = trainer(iterations=1)
    assert not of.done
    of.iterate()
    assert of.done


# The parts of an iteration


def mean_actions(of: Trainer, samples: list[Samples]) -> Tensor:
    """Of the guiding policy, (G, T)."""
    return torch.stack([of._guided(i, group).mean(-1) for i, group in enumerate(samples)])


def test_an_objective_on_which_the_guiding_policy_diverges_is_left_out():
    class Exploding(AdaGrad):
        def step(self, memory, x, value, gradient):
            action, memory = super().step(memory, x, value, gradient)
            return action * torch.tensor([1.0, 1e30, 1.0, 1.0])[:, None], memory

    of, problems = trainer(), perceptrons(0)
    samples = of._sample(problems, of._owner(problems), Exploding(1e10))
    assert samples[0].actions.shape == (20, 3 * 12)
    assert all(group.states.isfinite().all() and group.spread.isfinite().all() for group in samples)


def test_duals_move_along_the_difference_of_mean_actions():
    of = trainer()
    of.iterate()
    samples = sampled(of)
    with torch.no_grad():
        of.rule.networks[0].out_bias += 1
    before = of.guide["duals"]
    difference = torch.stack([of._actions(group).mean(-1) for group in samples]) - mean_actions(of, samples)
    of._move_duals(samples)
    moved = of.guide["duals"] - before
    assert difference.abs().min() > 0
    assert torch.equal(moved.sign(), difference.double().sign())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_duals_pull_the_guiding_policy_where_the_recurrent_one_is(sign):
    of, other = trainer(backtracks=0), trainer(backtracks=0)
    samples = []
    for each in (of, other):
        each.iterate()
        samples = sampled(each)
    problems = of.objectives(of.iteration)
    of._try = other._try = lambda *_: -float(next(counter))  # every change pays
    counter = iter(range(10))
    scale = of.guide["weight"][:, None] / of.guide["G"][..., 0, 0].sqrt()
    of.guide["duals"] = other.guide["duals"] + sign * 100 * scale
    for each in (of, other):
        each._improve(problems, each._owner(problems), samples)
    assert (sign * (mean_actions(of, samples) - mean_actions(other, samples)).mean(-1) > 0).all()


def test_duals_push_the_recurrent_policy_the_other_way():
    of, other = trainer(epochs=20), trainer(epochs=20)
    for each in (of, other):
        each.iterate()
    samples = sampled(of)
    of.guide["duals"] = other.guide["duals"] + 3 * of.guide["weight"][:, None] / of.guide["G"][..., 0, 0].sqrt()
    for each in (of, other):
        each._supervise(samples)
    pushed, plain = (torch.stack([each._actions(g).mean() for g in samples]).mean() for each in (of, other))
    assert pushed < plain


def test_supervision_brings_the_mean_actions_together():
    of = trainer()
    of.iterate()
    samples = sampled(of)
    with torch.no_grad():
        of.rule.networks[0].out_bias += 1
    losses = [of._supervise(samples) for _ in range(10)]
    assert losses[-1] < losses[0] / 2


def test_only_the_network_of_a_group_learns_from_it():
    of = trainer(policy=replace(POLICY, networks=4))
    of.iterate()
    samples = sampled(of)
    assert [group.network for group in samples] == [0, 1, 2, 3]
    before = [network.out.clone() for network in of.rule.networks]
    of.optimizer = torch.optim.SGD(of.rule.parameters(), lr=1e-3)
    batches = of._batches([(samples[2], samples[2].actions, torch.ones_like(samples[2].actions))], torch.Generator())
    for network, *batch in batches:
        of._fit(network, *batch)
    changed = [not torch.equal(a, n.out) for a, n in zip(before, of.rule.networks, strict=True)]
    assert changed == [False, False, True, False]


def test_gains_are_shared_in_a_group_or_each_coordinate_has_its_own():
    problems = perceptrons(0)
    shared, own = trainer(), trainer(sharing="coordinate")
    for each in (shared, own):
        each._begin(each._sample(problems, each._owner(problems), each.rule))
    assert shared.guiding.K.shape == (4, 20, 1, 8)
    assert own.guiding.K.shape == (problems.start().shape[1], 20, 1, 8)
    psi = GuidingPolicy(shared.guiding, shared._owner(problems), "compact")
    state = torch.randn(8, 2, 1).expand(8, 2, problems.start().shape[1])
    action = psi.act(3, state)
    for group in problems.groups:
        torch.testing.assert_close(
            action[:, group.columns], action[:, group.start : group.start + 1].expand(2, group.stop - group.start)
        )
