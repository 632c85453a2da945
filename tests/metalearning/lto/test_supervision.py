"""The regression's gradient, and what is recorded for it, against the policy stepped by hand."""

import torch
from torch import Tensor

from optrepro.metalearning.lto import supervision
from optrepro.metalearning.lto.supervision import Recorder
from optrepro.optimizers.predicted_step import INPUTS, StepPolicy, StepPolicySettings, observe
from optrepro.problems.networks.perceptrons import Perceptrons

SETTINGS = StepPolicySettings(cells=5, networks=4, output="normalized", scale=0.3, warmup=3, relative=True)


def policy() -> StepPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = StepPolicy(SETTINGS)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
    return made


def test_the_actions_and_their_gradient_are_those_of_autograd_step_by_step() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(9, INPUTS, 11, generator=generator)
    units, weights = torch.randn(9, 2, 11, generator=generator), torch.randn(9, 11, generator=generator)
    made = policy()
    net, state = made.networks[2], (torch.zeros(5, 11), torch.zeros(5, 11))
    steps: list[Tensor] = []
    for inputs, unit in zip(seen, units, strict=True):
        state = net.cell(inputs, *state)  # type: ignore[operator]
        steps.append((net.head(state[0]) * unit).sum(0))  # type: ignore[operator]
    expected = torch.stack(steps)
    actions = supervision.unroll(made, 2, seen, units)
    torch.testing.assert_close(actions, expected)
    parameters = list(net.parameters())
    torch.testing.assert_close(
        torch.autograd.grad((weights * actions).sum(), parameters),
        torch.autograd.grad((weights * expected).sum(), parameters),
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_a_recorder_keeps_what_the_policy_sees_at_the_sampled_coordinates() -> None:
    generator = torch.Generator().manual_seed(0)
    problems = Perceptrons(
        torch.randn(2, 20, 3, generator=generator), torch.randint(2, (2, 20), generator=generator), 4, 2, 5, (0, 1)
    )
    made, x = policy(), problems.start()
    recorder = Recorder(made, problems, 6, 3, torch.Generator().manual_seed(1))
    memory, everything = made.begin(x, supervision.columns(problems)), []
    for batch in problems.minibatches(6):
        value, gradient = problems.evaluate(x, batch)
        recorder.note(x, value, gradient)
        seen, units, memory = observe(SETTINGS, memory, x, value, gradient)
        everything.append((seen, units))
        x = x - 0.1 * gradient
    for group in range(4):
        kept = recorder.sequences(group, torch.zeros(6, 1), torch.ones(1))
        assert torch.equal(kept.seen, torch.stack([recorder.at(group, seen) for seen, _ in everything]))
        assert torch.equal(kept.units, torch.stack([recorder.at(group, units) for _, units in everything]))
        assert kept.network == group
