import gzip
import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from optrepro.problems.data import archives
from optrepro.problems.data import images as datasets

HANDED = os.environ.get("OPTREPRO_DATA")


@pytest.fixture(autouse=True)
def nothing_handed_over(monkeypatch):
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)


def idx(array, magic=(0, 0, 8)):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([*magic, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(root, train=60, test=20, side=28):
    """Random images, and labels that go round; returns both by split."""
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    written = {}
    for split, count in (("train", train), ("t10k", test)):
        images = rng.integers(256, size=(count, side, side))
        labels = np.arange(count) % 10
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
        written[split] = images, labels
    return written


def write_cifar(root, folder, file, count, label_bytes=1, classes=(10,)):
    (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(count)
    images = rng.integers(256, size=(count, 3, 32, 32), dtype=np.uint8)
    labels = np.stack([rng.integers(limit, size=count, dtype=np.uint8) for limit in classes], axis=1)
    records = np.concatenate([labels, images.reshape(count, -1)], axis=1)
    (root / folder / file).write_bytes(records.tobytes())
    return images, labels


def normalized(images, train):
    """(N, C, H, W) by the mean and standard deviation per channel of `train`."""
    mean, std = (statistic(train, axis=(0, 2, 3), keepdims=True) for statistic in (np.mean, np.std))
    return torch.tensor((images - mean) / std, dtype=torch.float32)


def test_idx_files_are_read_in_order_and_normalized_by_the_training_images(tmp_path):
    written = write_mnist(tmp_path)
    data = datasets.load("mnist", seed=0, data_dir=tmp_path)
    train, test = written["train"][0][:, None], written["t10k"][0][:, None]
    torch.testing.assert_close(data.train.images, normalized(train, train))
    torch.testing.assert_close(data.test.images, normalized(test, train))
    assert data.train.labels.tolist() == written["train"][1].tolist()
    assert data.test.labels.tolist() == written["t10k"][1].tolist()
    assert data.train.images.dtype == torch.float32
    assert data.train.labels.dtype == torch.int64
    assert (data.classes, data.input_shape, len(data.validation)) == (10, (1, 28, 28), 0)


def test_cifar_batches_are_joined_in_order(tmp_path):
    first = write_cifar(tmp_path, "cifar-10-batches-bin", "data_batch_1.bin", 30)
    third = write_cifar(tmp_path, "cifar-10-batches-bin", "data_batch_3.bin", 20)
    test = write_cifar(tmp_path, "cifar-10-batches-bin", "test_batch.bin", 10)
    data = datasets.load("cifar10", seed=0, data_dir=tmp_path)
    train = np.concatenate([first[0], third[0]])
    torch.testing.assert_close(data.train.images, normalized(train, train))
    torch.testing.assert_close(data.test.images, normalized(test[0], train))
    assert data.train.labels.tolist() == [*first[1][:, 0], *third[1][:, 0]]
    assert [record.examples for record in data.provenance] == [30, 20, 10]


def test_cifar100_has_coarse_and_fine_labels(tmp_path):
    _, labels = write_cifar(tmp_path, "cifar-100-binary", "train.bin", 40, 2, (20, 100))
    write_cifar(tmp_path, "cifar-100-binary", "test.bin", 10, 2, (20, 100))
    coarse = datasets.load("cifar100", seed=0, data_dir=tmp_path, labels="coarse")
    fine = datasets.load("cifar100", seed=0, data_dir=tmp_path)
    assert (coarse.classes, coarse.train.labels.tolist()) == (20, labels[:, 0].tolist())
    assert (fine.classes, fine.train.labels.tolist()) == (100, labels[:, 1].tolist())
    assert torch.equal(coarse.train.images, fine.train.images)


def test_what_was_read_is_recorded(tmp_path):
    write_mnist(tmp_path)
    records = datasets.load("mnist", seed=0, data_dir=tmp_path).provenance
    assert [record.file for record in records] == [f"MNIST/raw/{file}" for file in archives.archive("mnist").files]
    assert [record.examples for record in records] == [60, 60, 20, 20]
    assert not any(record.official for record in records)
    for record in records:
        assert record.sha256 == hashlib.sha256((tmp_path / record.file).read_bytes()).hexdigest()


def test_the_description_names_a_subset_as_a_subset(tmp_path):
    write_mnist(tmp_path)
    data = datasets.load("mnist", seed=0, data_dir=tmp_path, train_examples=50)
    assert data.description == "MNIST (50 of 60,000 training and 20 of 10,000 test images)"


def test_the_description_names_the_classes_that_were_taken(tmp_path):
    write_mnist(tmp_path)
    data = replace(datasets.load("mnist", seed=0, data_dir=tmp_path), selection="first half of the classes")
    assert data.description.endswith("20 of 10,000 test images, first half of the classes)")


def test_a_text_is_no_set_of_images(tmp_path):
    with pytest.raises(ValueError, match=r"name = 'gsm8k' is not allowed; it is a text, see texts\.load"):
        datasets.load("gsm8k", seed=0, data_dir=tmp_path)


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", seed=0)


def pixels(split):
    """The grey values 0 to 16 of digits, as a set of images: the normalization of each split undone."""
    images = split.images.flatten(1)
    images = (images - images.min()) / (images.max() - images.min()) * 16
    return set(map(tuple, images.round().int().tolist()))


def shares(split, classes=10):
    return torch.bincount(split.labels, minlength=classes) / len(split)


def test_digits_have_a_fixed_stratified_split_that_is_said_to_be_ours(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    torch.testing.assert_close(shares(digits.train), shares(digits.test), atol=0.005, rtol=0)
    assert torch.equal(digits.test.images, datasets.load("digits", seed=1).test.images)
    assert "no split is official" in digits.provenance[0].note
    assert digits.provenance[0].official


def test_digits_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    theirs = set(map(tuple, load_digits().data.astype(int).tolist()))
    assert len(theirs) == 1797
    assert pixels(digits.train) | pixels(digits.test) == theirs


@pytest.mark.parametrize(("train", "validation"), [(200, 100), (None, 300), (1137, 300)])
def test_training_validation_and_test_have_no_example_in_common(digits, train, validation):
    data = datasets.load("digits", seed=3, train_examples=train, validation_examples=validation)
    assert len(data.train) == (train or 1437 - validation)
    assert len(data.validation) == validation
    assert len(pixels(data.train) | pixels(data.validation)) == len(data.train) + len(data.validation)
    assert pixels(data.train) | pixels(data.validation) <= pixels(digits.train)
    assert pixels(data.test) == pixels(digits.test)
    assert data.test.labels.tolist() == digits.test.labels.tolist()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_drawn_has_every_class_in_proportion(digits, seed):
    data = datasets.load("digits", seed=seed, train_examples=200, validation_examples=100)
    for split in (data.train, data.validation):
        torch.testing.assert_close(shares(split), shares(digits.train), atol=2 / len(split), rtol=0)


def test_the_seed_decides_what_is_drawn():
    def drawn(seed):
        return pixels(datasets.load("digits", seed=seed, train_examples=100).train)

    assert drawn(5) == drawn(5)
    assert len(drawn(5) & drawn(6)) < 50


@pytest.mark.parametrize(
    ("sizes", "complaint"),
    [
        ({"train_examples": 0}, r"train_examples = 0 is not in \[1, 1437\]"),
        ({"train_examples": 1400, "validation_examples": 40}, r"train_examples = 1400 is not in \[1, 1397\]"),
        ({"validation_examples": 1437}, r"validation_examples = 1437 is not in \[0, 1437\)"),
        ({"validation_examples": -1}, r"validation_examples = -1 is not in"),
        ({"labels": "coarse"}, "labels = 'coarse' is not allowed; digits has 'fine' labels"),
    ],
)
def test_impossible_requests_say_what_is_possible(sizes, complaint):
    with pytest.raises(ValueError, match=complaint):
        datasets.load("digits", seed=0, **sizes)


def test_files_that_are_nowhere_are_reported_with_the_folder_looked_in(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"mnist: no files in {tmp_path}/MNIST/raw"):
        datasets.load("mnist", seed=0, data_dir=tmp_path)


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
GREY = np.zeros((60, 28, 28))


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        (IMAGES, idx(GREY)[:-5], r"expected 47056 bytes for shape \(60, 28, 28\), found 47051"),
        (IMAGES, idx(GREY) + b"x", r"expected 47056 bytes for shape \(60, 28, 28\), found 47057"),
        (IMAGES, idx(GREY)[:10], "expected an IDX file that begins with 00 00 08 03, found 00 00 08 03 in 10 bytes"),
        (IMAGES, idx(GREY, magic=(0, 0, 13)), "expected an IDX file that begins with 00 00 08 03, found 00 00 0d 03"),
        (IMAGES, b"<html>", "expected an IDX file that begins with 00 00 08 03, found 3c 68 74 6d in 6 bytes"),
        (IMAGES, idx(GREY[:, 1:]), r"expected images of shape \(1, 28, 28\), found \(1, 27, 28\)"),
        (LABELS, idx(np.zeros(59)), f"expected 60 labels, one for each image of {IMAGES}, found 59"),
        (LABELS, idx(np.full(60, 10)), "expected labels below 10, found 10"),
    ],
    ids=["cut", "long", "header", "type", "html", "shape", "labels", "class"],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, file, content, complaint):
    write_mnist(tmp_path)
    (tmp_path / "MNIST/raw" / file).write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=f"{file} is damaged: {complaint}"):
        datasets.load("mnist", seed=0, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (bytes(3073 * 2 - 1), "expected a whole number of records of 3073 bytes, found 6145 bytes"),
        (b"", "expected at least one example, found none"),
        (bytes([10]) + bytes(3072), "expected labels below 10, found 10"),
    ],
    ids=["cut", "empty", "class"],
)
def test_a_damaged_cifar_file_is_refused_by_name(tmp_path, content, complaint):
    write_cifar(tmp_path, "cifar-10-batches-bin", "test_batch.bin", 10)
    (tmp_path / "cifar-10-batches-bin/data_batch_1.bin").write_bytes(content)
    with pytest.raises(ValueError, match=f"data_batch_1.bin is damaged: {complaint}"):
        datasets.load("cifar10", seed=0, data_dir=tmp_path)


def test_a_file_that_differs_from_the_list_of_checksums_is_refused_by_name(tmp_path):
    write_cifar(tmp_path, "cifar-10-batches-bin", "data_batch_1.bin", 10)
    write_cifar(tmp_path, "cifar-10-batches-bin", "test_batch.bin", 10)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  cifar-10-batches-bin/test_batch.bin\n")
    with pytest.raises(ValueError, match=r"test_batch.bin is damaged: its sha256 is \w+…, but SHA256SUMS says 0000"):
        datasets.load("cifar10", seed=0, data_dir=tmp_path)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def batch_of(size, height=8, width=6, channels=3):
    """Images whose pixels all differ and are positive, so that each pixel tells where it came from."""
    return torch.arange(1.0, 1 + size * channels * height * width).view(size, channels, height, width)


def possible_views(image, padding):
    """All crops of the padded image, and their mirror images, one by one."""
    height, width = image.shape[-2:]
    padded = torch.zeros(image.shape[0], height + 2 * padding, width + 2 * padding)
    padded[:, padding : padding + height, padding : padding + width] = image
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            crop = padded[:, down : down + height, right : right + width]
            yield (down, right, False), crop
            yield (down, right, True), crop.flip(-1)


def test_every_augmented_image_is_a_crop_or_mirrored_crop_and_all_of_them_occur():
    image = batch_of(1)[0]
    augmented = datasets.augment(image.expand(2000, -1, -1, -1), seeded(0), padding=2)
    views = dict(possible_views(image, padding=2))
    seen = {kind: int((augmented == view).flatten(1).all(1).sum()) for kind, view in views.items()}
    assert sum(seen.values()) == 2000
    assert min(seen.values()) > 0
    mirrored = sum(count for (_, _, flipped), count in seen.items() if flipped)
    assert 900 < mirrored < 1100


def test_each_image_is_shifted_on_its_own_and_stays_in_its_place():
    images = batch_of(20)
    augmented = datasets.augment(images, seeded(0), padding=1)
    kinds = []
    for image, view in zip(images, augmented, strict=True):
        kinds += [kind for kind, expected in possible_views(image, padding=1) if torch.equal(view, expected)]
    assert len(kinds) == 20
    assert len(set(kinds)) > 5


def test_augmentation_is_decided_by_the_generator():
    images = batch_of(16)
    assert torch.equal(datasets.augment(images, seeded(1)), datasets.augment(images, seeded(1)))
    assert not torch.equal(datasets.augment(images, seeded(1)), datasets.augment(images, seeded(2)))


def test_without_padding_and_flips_nothing_changes():
    images = batch_of(4)
    assert torch.equal(datasets.augment(images, seeded(0), padding=0, flip=False), images)


def test_a_stacked_run_sees_what_it_would_see_alone():
    runs = torch.stack([batch_of(5), 1000 * batch_of(5), 7 * batch_of(5)])
    stacked = datasets.augment(runs, [seeded(1), seeded(2), seeded(1)])
    for run, seed, augmented in zip(runs, (1, 2, 1), stacked, strict=True):
        assert torch.equal(augmented, datasets.augment(run, seeded(seed)))


def test_stacked_runs_of_one_generator_see_the_same_crops_and_flips():
    images = batch_of(5)
    stacked = datasets.augment(torch.stack([images, 2 * images]), seeded(3))
    assert torch.equal(stacked[0], datasets.augment(images, seeded(3)))
    assert torch.equal(stacked[1], 2 * stacked[0])


@pytest.mark.parametrize("shape", [(2, 5, 3, 8, 6), (5, 3, 8, 6)])
def test_the_number_of_generators_must_be_that_of_the_runs(shape):
    with pytest.raises(ValueError, match="generator has 3 generators for images of shape"):
        datasets.augment(torch.ones(shape), [seeded(0), seeded(1), seeded(2)])


@pytest.mark.skipif(not HANDED, reason="OPTREPRO_DATA is not set")
@pytest.mark.parametrize(
    ("name", "classes", "shape"),
    [
        ("mnist", 10, (1, 28, 28)),
        ("fashion-mnist", 10, (1, 28, 28)),
        ("cifar10", 10, (3, 32, 32)),
        ("cifar100", 100, (3, 32, 32)),
    ],
)
def test_real_files_load_with_their_shapes(name, classes, shape, monkeypatch):
    monkeypatch.setenv("OPTREPRO_DATA", HANDED)
    if not archives.at_hand(name):
        pytest.skip(f"{name} is not in OPTREPRO_DATA")
    data = datasets.load(name, seed=0, train_examples=2000, validation_examples=500)
    assert data.train.images.shape == (2000, *shape)
    assert data.validation.images.shape == (500, *shape)
    assert len(data.test) in range(9_000, 10_001)
    assert data.test.labels.unique().tolist() == list(range(classes))
    assert data.train.labels.unique().tolist() == list(range(classes))
    torch.testing.assert_close(data.train.images.mean((0, 2, 3)), torch.zeros(shape[0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(data.train.images.std((0, 2, 3)), torch.ones(shape[0]), atol=1e-4, rtol=0)
    assert abs(data.test.images.mean()) < 0.1
