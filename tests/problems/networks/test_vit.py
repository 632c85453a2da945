import pytest
import torch

from optrepro.problems.data import images
from optrepro.problems.data.images import Dataset, Split
from optrepro.problems.networks import vit as vision


def vit(seed=0, **settings):
    return vision.vit(
        **{
            "input_shape": (1, 8, 8),
            "classes": 10,
            "patch": 4,
            "width": 16,
            "layers": 2,
            "heads": 2,
            "seed": seed,
            **settings,
        }
    )


@pytest.mark.parametrize(("shape", "patch"), [((1, 8, 8), 4), ((3, 32, 32), 8), ((1, 28, 28), 7), ((2, 8, 12), 4)])
def test_a_vit_gives_logits_of_images_of_its_shape(shape, patch):
    module = vit(input_shape=shape, patch=patch, classes=7)
    assert module(torch.randn(5, *shape)).shape == (5, 7)
    assert isinstance(module.get_submodule(vision.HEAD), torch.nn.Linear)


def test_the_weights_of_a_vit_are_a_function_of_the_seed_and_leave_the_random_state_alone():
    state = torch.random.get_rng_state()
    first, again, other = (vit(seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.get_submodule(vision.HEAD).weight, other.get_submodule(vision.HEAD).weight)


def test_a_vit_is_made_and_used_without_a_warning_and_without_dropout(recwarn, capfd):
    module, images = vit().train(), torch.randn(3, 1, 8, 8)
    assert torch.equal(module(images), module(images))
    assert not recwarn.list
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 3}, "patch = 3 does not divide images of 8 x 8 pixels"),
        ({"heads": 3}, "width = 16 is not a multiple of heads = 3"),
        ({"classes": 0}, "classes = 0 is not at least 1"),
        ({"input_shape": (64,)}, r"input_shape = \(64,\) is not allowed; a ViT takes images"),
    ],
)
def test_impossible_architectures_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        vit(**settings)


def dataset(classes=5):
    def split(count):
        labels = torch.arange(count) % classes
        return Split(labels.float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2), labels)

    return Dataset("digits", split(50), split(10), split(15), classes, (1, 2, 2), ())


@pytest.mark.parametrize(("part", "originals"), [("first half", [0, 1]), ("second half", [2, 3, 4])])
def test_half_of_the_classes_is_relabelled_from_zero_and_keeps_its_images(part, originals):
    half = images.select_classes(dataset(), part)
    assert half.classes == len(originals)
    for split, count in ((half.train, 50), (half.validation, 10), (half.test, 15)):
        assert len(split) == count * len(originals) // 5
        assert [originals[label] for label in split.labels.tolist()] == split.images[:, 0, 0, 0].tolist()
    assert half.selection == f"{part} of the classes"


def test_all_classes_are_the_data_set_itself():
    whole = dataset()
    assert images.select_classes(whole, "all") is whole


def test_another_part_is_refused():
    with pytest.raises(ValueError, match="classes = 'third' is not 'all', 'first half' or 'second half'"):
        images.select_classes(dataset(), "third")
