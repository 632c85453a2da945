from collections.abc import Callable

import torch

from optrepro.config import Config
from optrepro.experiments import data
from optrepro.problems.datasets import Dataset

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
