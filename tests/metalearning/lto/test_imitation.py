"""The teacher is PyTorch's AdaGrad, and a policy learns to do as it does."""

import io

import torch

from optrepro.metalearning.lto.imitation import AdaGrad, Trainer
from optrepro.metalearning.lto.rollouts import roll_out
from optrepro.metalearning.lto.settings import ImitationSettings
from optrepro.optimizers.predicted_step import StepPolicySettings
from optrepro.problems.networks.perceptrons import Perceptrons

SETTINGS = ImitationSettings(iterations=12, teacher_rate=0.1, coordinates=6, epochs=10, sequences=16)
POLICY = StepPolicySettings(cells=6, output="step", scale=0.03)


def objectives(index: int, count: int = 2, examples: int = 60) -> Perceptrons:
    """Two clouds of points each, told apart by a perceptron of 3-4-2."""
    generator = torch.Generator().manual_seed(index)
    labels = torch.randint(2, (count, examples), generator=generator)
    inputs = torch.randn(count, examples, 3, generator=generator) + labels[..., None]
    return Perceptrons(inputs, labels, 4, 2, 6, tuple(range(count * index, count * (index + 1))))


def trainer() -> Trainer:
    return Trainer(SETTINGS, 15, POLICY, objectives, seed=0)


def test_the_teacher_is_adagrad() -> None:
    problems = objectives(3)
    ours = roll_out(AdaGrad(0.1), problems, [0, 10])
    x = problems.start().requires_grad_()
    optimizer = torch.optim.Adagrad([x], lr=0.1)
    for batch in problems.minibatches(10):
        _, x.grad = problems.evaluate(x.detach(), batch)
        optimizer.step()
    torch.testing.assert_close(ours[-1], problems.objective(x.detach()))


def test_the_policy_comes_to_act_as_its_teacher() -> None:
    job = trainer()
    mismatches = [job.iterate()["mismatch"] for _ in range(12)]
    assert job.done
    assert mismatches[-1] < 0.7 * mismatches[0]


def test_resumed_training_equals_uninterrupted() -> None:
    whole, part = trainer(), trainer()
    told = [whole.iterate() for _ in range(4)]
    again = [part.iterate() for _ in range(2)]
    buffer = io.BytesIO()
    torch.save(part.state_dict(), buffer)
    buffer.seek(0)
    resumed = trainer()
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    again += [resumed.iterate() for _ in range(2)]
    assert told == again
    for a, b in zip(whole.rule.parameters(), resumed.rule.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
