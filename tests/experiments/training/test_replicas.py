import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optrepro.experiments.training import replicas
from optrepro.experiments.training.replicas import Models, Separate, Stacked
from optrepro.problems.data.images import Split
from optrepro.problems.networks import classic, gpt, lora

KINDS = {"stacked": Stacked, "separate": Separate}
COPIES, BATCH, SHAPE, CLASSES = 3, 10, (1, 4, 4), 5
Kind = Callable[[list[nn.Module], bool], Models]

kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def perceptrons() -> list[nn.Module]:
    return [classic.build("perceptron", SHAPE, CLASSES, seed=seed, hidden=8) for seed in range(COPIES)]


def normed() -> list[nn.Module]:
    """Small networks with batch norm."""
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, CLASSES))
        for _ in range(COPIES)
    ]


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(COPIES, BATCH, *SHAPE, generator=generator)
    return images, torch.randint(CLASSES, (COPIES, BATCH), generator=generator)


def split(examples: int) -> Split:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(examples, *SHAPE, generator=generator)
    return Split(images, torch.randint(CLASSES, (examples,), generator=generator))


def statistics(modules: list[nn.Module]) -> list[Tensor]:
    return [buffer.clone() for module in modules for buffer in module.buffers()]


@kinds
def test_losses_and_gradients_are_those_of_each_copy_by_itself(kind: Kind) -> None:
    images, labels = batch()
    losses, gradients = kind(perceptrons(), False).gradients(images, labels)
    for r, module in enumerate(perceptrons()):
        loss = F.cross_entropy(module(images[r]), labels[r])
        loss.backward()
        torch.testing.assert_close(losses[r], loss.detach())
        for got, parameter in zip(gradients[r], module.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad)


@kinds
def test_no_loss_keeps_its_graph(kind: Kind) -> None:
    losses, gradients = kind(perceptrons(), False).gradients(*batch())
    assert not losses.requires_grad
    assert not any(g.requires_grad for of_copy in gradients for g in of_copy)


@kinds
def test_parameters_have_the_shapes_that_an_optimizer_of_one_network_sees(kind: Kind) -> None:
    shapes = [[p.shape for p in of_copy] for of_copy in kind(perceptrons(), False).parameters]
    assert shapes == [[p.shape for p in module.parameters()] for module in perceptrons()]


@kinds
def test_a_step_on_the_parameters_of_one_copy_moves_that_copy_alone(kind: Kind) -> None:
    several = kind(perceptrons(), False)
    before, _ = several.gradients(*batch())
    with torch.no_grad():
        for parameter in several.parameters[1]:
            parameter.mul_(2)
    after, _ = several.gradients(*batch())
    assert (before == after).tolist() == [True, False, True]


@kinds
def test_evaluation_averages_over_the_whole_split_however_large(kind: Kind) -> None:
    data = split(2100)  # more than one chunk
    losses, accuracies = kind(perceptrons(), False).evaluate(data)
    for r, module in enumerate(perceptrons()):
        logits = module(data.images)
        torch.testing.assert_close(losses[r], F.cross_entropy(logits, data.labels).detach())
        torch.testing.assert_close(accuracies[r], (logits.argmax(1) == data.labels).float().mean())


@kinds
def test_a_state_brings_the_weights_back(kind: Kind) -> None:
    several = kind(perceptrons(), False)
    saved = copy.deepcopy(several.state())
    before, _ = several.gradients(*batch())
    with torch.no_grad():
        for parameter in (p for of_copy in several.parameters for p in of_copy):
            parameter.zero_()
    several.load_state(saved)
    after, _ = several.gradients(*batch())
    assert torch.equal(before, after)


def test_a_state_holds_the_statistics_of_batch_norm() -> None:
    modules = normed()
    several = Separate(modules, False)
    several.gradients(*batch())
    saved, expected = copy.deepcopy(several.state()), statistics(modules)
    several.gradients(*batch(1))
    several.load_state(saved)
    assert all(map(torch.equal, statistics(modules), expected))


def test_training_moves_the_statistics_of_batch_norm_before_and_after_an_evaluation_that_does_not() -> None:
    modules = normed()
    several = Separate(modules, False)
    fresh = statistics(modules)
    several.gradients(*batch())
    trained = statistics(modules)
    assert not any(torch.equal(a, b) for a, b in zip(fresh, trained, strict=True))
    several.evaluate(split(50))
    assert all(map(torch.equal, statistics(modules), trained))
    several.gradients(*batch())
    assert not any(torch.equal(a, b) for a, b in zip(trained, statistics(modules), strict=True))


def test_a_probe_gives_the_same_gradients_and_leaves_the_statistics_of_batch_norm() -> None:
    modules = normed()
    several = Separate(modules, False)
    losses, gradients = several.gradients(*batch())
    before = statistics(modules)
    probe_losses, probe_gradients = several.gradients(*batch(), probe=True)
    assert torch.equal(losses, probe_losses)
    assert all(map(torch.equal, sum(gradients, []), sum(probe_gradients, [])))  # noqa: RUF017
    assert all(map(torch.equal, statistics(modules), before))


def test_evaluation_uses_the_statistics_of_training_after_a_probe_too() -> None:
    modules = normed()
    several = Separate(modules, False)
    several.gradients(*batch())
    expected = several.evaluate(split(50))
    several.gradients(*batch(1), probe=True)
    assert all(map(torch.equal, several.evaluate(split(50)), expected))


@kinds
def test_bfloat16_computes_in_half_precision_and_keeps_weights_and_losses_whole(kind: Kind) -> None:
    full, half = (kind(perceptrons(), bfloat16).gradients(*batch()) for bfloat16 in (False, True))
    assert half[0].dtype == torch.float32
    assert all(g.dtype == torch.float32 for of_copy in half[1] for g in of_copy)
    assert not torch.equal(full[0], half[0])
    torch.testing.assert_close(full[0], half[0], rtol=0.02, atol=0)


def test_every_part_is_in_training_mode_for_gradients_and_none_for_evaluations() -> None:
    modules = normed()
    for module in modules:
        module[1].eval()
    several = Separate(modules, False)
    for _ in range(2):
        several.gradients(*batch())
        assert all(part.training for module in modules for part in module.modules())
        several.evaluate(split(50))
        assert not any(part.training for module in modules for part in module.modules())


@pytest.mark.parametrize(("name", "kind"), [("softmax", Stacked), ("perceptron", Stacked), ("cnn", Separate)])
def test_dense_networks_are_stacked_and_convolutions_are_not(name: str, kind: Any) -> None:
    modules = [classic.build(name, (1, 8, 8), CLASSES, seed=0)]
    assert isinstance(replicas.build(name, modules), kind)


# Sequences, and parameters that stay as they are

WORDS, LENGTH = 7, 6


def readers() -> list[nn.Module]:
    """Networks from tokens (B, T) to logits (B, T, WORDS)."""
    torch.manual_seed(0)
    return [nn.Sequential(nn.Embedding(WORDS, 4), nn.Linear(4, WORDS)) for _ in range(COPIES)]


def sentences(count: int, *more: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels, of which some are not scored, in each example another number."""
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(WORDS, (2, *more, count, LENGTH), generator=generator)
    labels[torch.arange(LENGTH) < torch.randint(LENGTH, (*more, count, 1), generator=generator)] = replicas.IGNORED
    return tokens, labels


def test_the_loss_of_sequences_is_the_mean_over_all_labels_that_are_scored() -> None:
    tokens, labels = sentences(BATCH, COPIES)
    losses, gradients = Separate(readers(), False).gradients(tokens, labels)
    for r, module in enumerate(readers()):
        scored = labels[r] != replicas.IGNORED
        loss = F.cross_entropy(module(tokens[r])[scored], labels[r][scored])
        torch.testing.assert_close(losses[r], loss.detach())
        expected = torch.autograd.grad(loss, list(module.parameters()))
        for got, wanted in zip(gradients[r], expected, strict=True):
            torch.testing.assert_close(got, wanted)


def test_evaluation_of_sequences_averages_over_all_labels_that_are_scored() -> None:
    tokens, labels = sentences(900)  # more than one chunk
    losses, accuracies = Separate(readers(), False).evaluate(Split(tokens, labels))
    scored = labels != replicas.IGNORED
    for r, module in enumerate(readers()):
        logits = module(tokens)[scored]
        torch.testing.assert_close(losses[r], F.cross_entropy(logits, labels[scored]).detach())
        torch.testing.assert_close(accuracies[r], (logits.argmax(1) == labels[scored]).float().mean())


@kinds
def test_names_are_those_of_the_parameters(kind: Kind) -> None:
    several = kind(perceptrons(), False)
    named = dict(perceptrons()[0].named_parameters())
    assert {n: p.shape for n, p in zip(several.names, several.parameters[0], strict=True)} == {
        name: p.shape for name, p in named.items()
    }


def test_what_needs_no_gradient_is_no_parameter_and_in_no_state() -> None:
    modules = normed()
    for module in modules:
        module[0].requires_grad_(False)
    several = Separate(modules, False)
    assert several.names == ["1.weight", "1.bias", "4.weight", "4.bias"]
    assert [len(gradients) for gradients in several.gradients(*batch())[1]] == [4] * COPIES
    assert not any(name.startswith("0.") for name in several.state()[0])
    assert "1.running_mean" in several.state()[0]


# Backbones with adapters


def adapted() -> list[nn.Module]:
    """Small language models whose adapters are not zero."""
    modules = [lora.lora(gpt.gpt(WORDS, LENGTH, 8, 1, 1, 0), 2, 4.0, None, seed=r) for r in range(COPIES)]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (p for module in modules for p in lora.trainable(module).values()):
            parameter.normal_(0, 0.3)
    return modules


def test_adapters_merged_or_not_give_the_same_gradients_and_evaluations() -> None:
    tokens, labels = sentences(BATCH, COPIES)
    merged, apart = replicas.Adapted(adapted(), False), Separate(adapted(), False)
    for got, wanted in zip(merged.gradients(tokens, labels), apart.gradients(tokens, labels), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    data = Split(*sentences(BATCH))
    torch.testing.assert_close(merged.evaluate(data), apart.evaluate(data))


def test_in_bfloat16_adapters_stay_apart_from_weights_that_would_swallow_them() -> None:
    examples = sentences(BATCH, COPIES)
    first, second = (kind(adapted(), True).gradients(*examples) for kind in (replicas.Adapted, Separate))
    assert torch.equal(first[0], second[0])
    assert all(map(torch.equal, sum(first[1], []), sum(second[1], [])))  # noqa: RUF017
