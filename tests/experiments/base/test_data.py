from collections.abc import Callable
from typing import Any

import pytest
import torch

from optrepro.config import Config
from optrepro.experiments.base import data
from optrepro.problems.data.images import Dataset
from optrepro.problems.networks.perceptrons import Perceptrons, project
from optrepro.studies.learner import MetaObjective, ObjectiveConfig

Tiny = Callable[..., Config]


def load(settings: Config) -> Dataset:
    return data.load(settings.studies["images"], "digits", settings.seed, "cpu")


def test_a_study_has_as_many_examples_as_its_config_says(tiny: Tiny) -> None:
    dataset = load(tiny())
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (64, 32, 360)


def test_a_study_made_for_a_larger_set_takes_a_quarter_for_validation_and_the_rest_for_training(tiny: Tiny) -> None:
    dataset = load(tiny("studies.images.train_examples=20000", "studies.images.validation_examples=5000"))
    assert (len(dataset.train), len(dataset.validation)) == (1437 - 359, 359)
    dataset = load(tiny("studies.images.train_examples=null", "studies.images.validation_examples=5000"))
    assert (len(dataset.train), len(dataset.validation)) == (1437 - 359, 359)


def test_all_runs_of_a_scale_see_the_same_examples(tiny: Tiny) -> None:
    first, second = load(tiny()), load(tiny("studies.images.steps=4"))
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.validation.images, second.validation.images)


def test_another_seed_of_the_scale_draws_other_examples_and_keeps_the_test_set(tiny: Tiny) -> None:
    first, second = load(tiny()), load(tiny("seed=8"))
    assert not torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)


# Objectives

OBJECTIVE = ObjectiveConfig(inputs=5, hidden=4, batch_size=8, steps=3)


def made(*seeds: int, examples: int = 40) -> Perceptrons:
    digits = data.whole("digits", "cpu")
    return data.objectives(digits.train, digits.classes, OBJECTIVE, examples, seeds)


def test_all_training_images_are_there_for_objectives() -> None:
    digits = data.whole("digits", "cpu")
    assert (len(digits.train), len(digits.validation)) == (1437, 0)


def test_an_objective_has_the_sizes_of_its_config() -> None:
    problems = made(1, 2, 3)
    assert (problems.inputs.shape, problems.labels.shape) == ((3, 40, 5), (3, 40))
    assert (problems.hidden, problems.classes, problems.batch_size, problems.seeds) == (4, 10, 8, (1, 2, 3))


def test_an_objective_depends_on_its_seed_alone() -> None:
    alone, together = made(2), made(1, 2, 3)
    assert torch.equal(alone.inputs[0], together.inputs[1])
    assert torch.equal(alone.labels[0], together.labels[1])
    assert torch.equal(alone.start()[0], together.start()[1])
    assert not torch.equal(together.labels[0], together.labels[1])


def test_inputs_are_projected_images_of_the_subset_with_their_labels() -> None:
    digits = data.whole("digits", "cpu")
    everything = made(4, examples=10_000)
    assert everything.labels.shape == (1, 1437)  # there are no more
    expected = project(digits.train.images, 5, 4)
    nearest = torch.cdist(everything.inputs[0], expected, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert nearest.values.max() < 1e-4
    assert torch.equal(digits.train.labels[nearest.indices], everything.labels[0])


def test_no_image_is_twice_in_an_objective() -> None:
    inputs = made(5, examples=1437).inputs[0]
    assert len(inputs.unique(dim=0)) == len(data.whole("digits", "cpu").train.images.flatten(1).unique(dim=0))


def meta(**changes: Any) -> MetaObjective:
    sizes: dict[str, Any] = {"inputs": 6, "hidden": 4, "batch_size": 8, "steps": 5, "examples": 40, "problems": 2}
    return MetaObjective(**sizes, **changes)


def test_objectives_vary_only_where_they_are_asked_to() -> None:
    plain = made(*range(12))
    same = data.varied(plain, meta())
    assert same.batch_sizes is None
    assert same.labels is plain.labels
    sizes = data.varied(plain, meta(batch_sizes=(2, 8))).batch_sizes
    assert set(sizes or ()) == {2, 8}
    assert sizes == data.varied(plain, meta(batch_sizes=(2, 8), label_noise=0.5)).batch_sizes


def test_each_objective_draws_its_variation_by_its_own_seed() -> None:
    changes = meta(batch_sizes=(1, 2, 4, 8), label_noise=0.9)
    together = data.varied(made(1, 2, 3), changes)
    for row, seed in enumerate((1, 2, 3)):
        alone = data.varied(made(seed), changes)
        assert alone.batch_sizes == (together.batch_sizes or ())[row : row + 1]
        assert torch.equal(alone.labels[0], together.labels[row])


def test_so_large_a_share_of_the_labels_is_random() -> None:
    plain = made(1, 2, 3, examples=400)
    noisy = data.with_label_noise(plain, [0.0, 0.5, 1.0])
    changed = (noisy.labels != plain.labels).float().mean(1).tolist()
    assert changed == pytest.approx([0.0, 0.45, 0.9], abs=0.08)  # one label in ten is drawn again
    assert noisy.inputs is plain.inputs
