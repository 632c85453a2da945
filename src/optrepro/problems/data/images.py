"""Image classification sets as whole tensors on a device, and their augmentation by random crops and flips.

`optrepro.problems.data.archives` finds and checks the files; this module parses the IDX format of MNIST and the binary
format of CIFAR with numpy. Nothing is unpickled.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from optrepro.damage import DamagedFileError
from optrepro.problems.data import archives
from optrepro.problems.data.archives import Archive, Located

Labels = Literal["fine", "coarse"]

# uint8 images (N, C, H, W) and int64 labels (N,)
_Examples = tuple[NDArray[np.uint8], NDArray[np.int64]]

Classes = Literal["all", "first half", "second half"]


@dataclass(frozen=True)
class Split:
    """Examples of one split: float32 images (N, C, H, W), normalized per channel, and int64 labels (N,).

    For a text, `images` are int64 tokens (N, T) and `labels` the next tokens (N, T); -100 is not scored.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class FileRecord:
    """Record of a file that was read: its sha256, its number of examples, and whether its content is official.

    A gzip file is official if its uncompressed content is.
    """

    file: str
    sha256: str
    examples: int
    official: bool
    note: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set in memory. Its splits share no example; for images, `test` is the whole test set.

    Args:
        classes: number of classes; for a text, size of the vocabulary.
        input_shape: shape of one input, (C, H, W), or (T,) for tokens.
        selection: selected classes, for captions; empty for all.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    input_shape: tuple[int, ...]
    provenance: tuple[FileRecord, ...]
    selection: str = ""

    @property
    def description(self) -> str:
        """Description for captions: "CIFAR-10 (4,000 of 50,000 training and 10,000 of 10,000 test images)".

        For a text: "Tiny Shakespeare (4,000 training and 500 test examples of 64 tokens)".
        """
        archive = archives.archive(self.name)
        if archive.modality == "text":
            sizes = f"{len(self.train):,} training and {len(self.test):,} test examples of {self.input_shape[0]} tokens"
            return f"{archive.title} ({sizes})"
        train, test = (
            f"{len(split):,} of {official:,}"
            for split, official in zip((self.train, self.test), archive.examples, strict=True)
        )
        selection = f", {self.selection}" if self.selection else ""
        return f"{archive.title} ({train} training and {test} test images{selection})"


def load(
    name: str,
    *,
    seed: int,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
    train_examples: int | None = None,
    validation_examples: int = 0,
    labels: Labels = "fine",
) -> Dataset:
    """Load a data set without a download.

    Validation and training examples are drawn from the training files without overlap, in proportion to the classes,
    and keep the files' order. Images are normalized by the mean and standard deviation of the training split.

    Args:
        name: digits, mnist, fashion-mnist, cifar10 or cifar100.
        seed: decides which examples are drawn; without effect if all are used for training.
        data_dir: folder to search after ``OPTREPRO_DATA``; None is the project's ``data/``.
        device: device of the tensors.
        train_examples: size of the training split; None uses all examples that validation leaves.
        validation_examples: size of the validation split.
        labels: CIFAR-100 has 100 "fine" and 20 "coarse" classes; the others have only "fine" ones.

    Raises: ValueError for an unknown name, impossible sizes, or a file that is damaged, truncated or of the wrong shape
    (named in the message); FileNotFoundError if the files are missing.
    """
    archive = archives.archive(name)
    if archive.modality == "text":
        raise ValueError(f"name = {name!r} is not allowed; it is a text, see texts.load")
    if (name, labels) not in _FORMATS:
        known = " or ".join(repr(each) for of, each in _FORMATS if of == name)
        raise ValueError(f"labels = {labels!r} is not allowed; {name} has {known} labels")
    form = _FORMATS[name, labels]
    if archive.embedded:
        pool, test, provenance = _read_embedded(archive, form)
    else:
        pool, test, provenance = _read_files(archives.locate(name, data_dir or archives.DATA_DIR), form)
    train, validation = _draw(pool, train_examples, validation_examples, seed)
    mean, std = _channel_statistics(train[0])

    def split(examples: _Examples) -> Split:
        images, classes = (torch.tensor(array).to(device) for array in examples)
        return Split(images.float().sub_(mean.to(device)).div_(std.to(device)), classes)

    return Dataset(name, split(train), split(validation), split(test), form.classes, form.input_shape, provenance)


def augment(
    images: Tensor, generator: torch.Generator | Sequence[torch.Generator], padding: int = 4, flip: bool = True
) -> Tensor:
    """Crop zero-padded images at random, and flip them horizontally at random (He et al. 2016, section 4.2).

    Zero is the mean colour of normalized images, so the padding is grey.

    Args:
        images: images (B, C, H, W), or (R, B, C, H, W) for R stacked runs.
        generator: one generator for all runs, which then get the same crops and flips; or one per run, so that a run
            does not depend on the others in its stack. Generators may be on the CPU for images on any device.
        padding: number of pixels on each side.
        flip: whether to mirror half of the images.

    Returns images of the same shape.
    """
    batch, (height, width) = images.shape[-4], images.shape[-2:]
    if isinstance(generator, torch.Generator):
        shifts = _shifts(generator, batch, padding, flip)
    else:
        if images.shape[:-4] != (len(generator),):
            raise ValueError(
                f"generator has {len(generator)} generators for images of shape {tuple(images.shape)}; "
                "it must have one, or one per run"
            )
        shifts = torch.stack([_shifts(each, batch, padding, flip) for each in generator], dim=1)
    down, right, mirrored = shifts.to(images.device, non_blocking=True).unsqueeze(-1)
    rows = down + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = right + torch.where(mirrored == 1, width - 1 - columns, columns)
    pixels = (rows.unsqueeze(-1) * (width + 2 * padding) + columns.unsqueeze(-2)).flatten(-2).unsqueeze(-2)
    padded = F.pad(images, (padding,) * 4).flatten(-2)
    return padded.gather(-1, pixels.expand(*images.shape[:-2], height * width)).view_as(images)


def _shifts(generator: torch.Generator, batch: int, padding: int, flip: bool) -> Tensor:
    """Draw rows and columns to shift by, and whether to mirror, (3, batch) int64."""
    crops = torch.randint(2 * padding + 1, (2, batch), generator=generator, device=generator.device)
    mirrored = torch.randint(1 + flip, (1, batch), generator=generator, device=generator.device)
    return torch.cat([crops, mirrored])


def _draw(
    pool: _Examples, train_examples: int | None, validation_examples: int, seed: int
) -> tuple[_Examples, _Examples]:
    """Draw disjoint training and validation examples."""
    images, labels = pool
    if not 0 <= validation_examples < len(labels):
        raise ValueError(f"validation_examples = {validation_examples} is not in [0, {len(labels)})")
    left = len(labels) - validation_examples
    train_examples = left if train_examples is None else train_examples
    if not 1 <= train_examples <= left:
        raise ValueError(
            f"train_examples = {train_examples} is not in [1, {left}]; the files have {len(labels)} training images, "
            f"of which {validation_examples} are for validation"
        )
    order = _stratified_order(labels, np.random.default_rng(seed))
    validation = np.sort(order[:validation_examples])
    train = np.sort(order[validation_examples : validation_examples + train_examples])
    return (images[train], labels[train]), (images[validation], labels[validation])


def _stratified_order(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random order of the examples in which every stretch has the classes in proportion, up to rounding."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    starts = sizes.cumsum() - sizes
    classes = labels[by_class]
    quantile = (np.arange(len(labels)) - starts[classes] + 0.5) / sizes[classes]
    return by_class[np.lexsort((rng.random(len(labels)), quantile))]


def _channel_statistics(images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation per channel, each (C, 1, 1)."""
    # Sums of bytes and of their squares are exact in float64, and need no float copy of the images.
    mean = images.mean((0, 2, 3), dtype=np.float64)
    square = np.einsum("nchw,nchw->c", images, images, dtype=np.float64) / (images.size / len(mean))
    std = np.sqrt(square - mean**2)
    return torch.tensor(mean).float()[:, None, None], torch.tensor(std).float()[:, None, None]


@dataclass(frozen=True)
class _Format:
    """Format of a data set: the shape of its images, and the parser of its files."""

    input_shape: tuple[int, int, int]
    classes: int
    parse: Callable[[Sequence[Path], Sequence[bytes]], _Examples]


def _read_files(located: Located, form: _Format) -> tuple[_Examples, _Examples, tuple[FileRecord, ...]]:
    """Read training and test examples from the located files, and record the files."""
    groups = [_read_group(group, located, form) for group in (*located.train, located.test)]
    *train, test = [examples for examples, _ in groups]
    images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
    return (images, labels), test, tuple(record for _, records in groups for record in records)


def _read_embedded(archive: Archive, form: _Format) -> tuple[_Examples, _Examples, tuple[FileRecord, ...]]:
    """Read scikit-learn's 1,797 digits; the fixed split is chosen, since none is official."""
    # The file is found without importing scikit-learn, which would take longer than reading it.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / archive.files[0]
    (images, labels), [record] = _read_group((path,), Located(archive, path.parent, ((path,),), ()), form)
    order = _stratified_order(labels, np.random.default_rng(0))
    test, train = np.sort(order[: archive.examples[1]]), np.sort(order[archive.examples[1] :])
    note = f"embedded in scikit-learn; no split is official, ours is {len(train)} + {len(test)}, stratified and fixed"
    return (images[train], labels[train]), (images[test], labels[test]), (replace(record, note=note),)


def _read_group(paths: tuple[Path, ...], located: Located, form: _Format) -> tuple[_Examples, list[FileRecord]]:
    """Read the examples of one group of files. Raises: ValueError for other shapes or labels than the data set's."""
    contents = [archives.read(path, located) for path in paths]
    images, labels = form.parse(paths, [content.data for content in contents])
    if len(labels) == 0:
        raise _damaged(paths[-1], "at least one example", "none")
    if images.shape[1:] != form.input_shape:
        raise _damaged(paths[0], f"images of shape {form.input_shape}", f"{images.shape[1:]}")
    if labels.max() >= form.classes:
        raise _damaged(paths[-1], f"labels below {form.classes}", f"{labels.max()}")
    return (images, labels), [
        FileRecord(path.relative_to(located.root).as_posix(), content.sha256, len(labels), content.official)
        for path, content in zip(paths, contents, strict=True)
    ]


def _parse_table(paths: Sequence[Path], contents: Sequence[bytes]) -> _Examples:
    """Parse scikit-learn's digits: lines of 64 grey values from 0 to 16, and the label."""
    table = np.loadtxt(io.BytesIO(contents[0]), delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, -1]


def _parse_idx_pair(paths: Sequence[Path], contents: Sequence[bytes]) -> _Examples:
    """Parse grey images and labels from two IDX files."""
    images = _parse_idx(paths[0], contents[0], dimensions=3)
    labels = _parse_idx(paths[1], contents[1], dimensions=1)
    if len(images) != len(labels):
        raise _damaged(paths[1], f"{len(images)} labels, one for each image of {paths[0].name}", f"{len(labels)}")
    return images[:, None], labels.astype(np.int64)


def _parse_idx(path: Path, data: bytes, dimensions: int) -> NDArray[np.uint8]:
    """Parse an array of unsigned bytes in the IDX format: magic number, sizes as big-endian int32, values."""
    magic = bytes([0, 0, 8, dimensions])
    header = 4 + 4 * dimensions
    if data[:4] != magic or len(data) < header:
        found = f"{data[:4].hex(' ')} in {len(data)} bytes"
        raise _damaged(path, f"an IDX file that begins with {magic.hex(' ')}", found)
    shape = np.frombuffer(data, ">u4", dimensions, offset=4).astype(int)
    if len(data) != header + shape.prod():
        raise _damaged(path, f"{header + shape.prod()} bytes for shape {tuple(shape.tolist())}", f"{len(data)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _parse_cifar(paths: Sequence[Path], contents: Sequence[bytes], label_bytes: int, column: int) -> _Examples:
    """Parse colour images in CIFAR's binary format: label bytes, then planes R, G and B of 32 x 32 bytes."""
    record = label_bytes + 3 * 32 * 32
    if len(contents[0]) % record:
        raise _damaged(paths[0], f"a whole number of records of {record} bytes", f"{len(contents[0])} bytes")
    table = np.frombuffer(contents[0], np.uint8).reshape(-1, record)
    return table[:, label_bytes:].reshape(-1, 3, 32, 32), table[:, column].astype(np.int64)


def _damaged(path: Path, expected: str, found: str) -> DamagedFileError:
    reason = f"expected {expected}, found {found}"
    return DamagedFileError(path, reason, "delete the file and fetch or copy it again")


_FORMATS: dict[tuple[str, Labels], _Format] = {
    ("digits", "fine"): _Format((1, 8, 8), 10, _parse_table),
    ("mnist", "fine"): _Format((1, 28, 28), 10, _parse_idx_pair),
    ("fashion-mnist", "fine"): _Format((1, 28, 28), 10, _parse_idx_pair),
    ("cifar10", "fine"): _Format((3, 32, 32), 10, partial(_parse_cifar, label_bytes=1, column=0)),
    ("cifar100", "coarse"): _Format((3, 32, 32), 20, partial(_parse_cifar, label_bytes=2, column=0)),
    ("cifar100", "fine"): _Format((3, 32, 32), 100, partial(_parse_cifar, label_bytes=2, column=1)),
}


def select_classes(dataset: Dataset, classes: Classes) -> Dataset:
    """Select one half of the classes, relabelled from 0; the second half of an odd number has one class more.

    Raises: ValueError for another value of `classes`, or fewer than 2 classes.
    """
    if classes == "all":
        return dataset
    half = dataset.classes // 2
    limits = {"first half": (0, half), "second half": (half, dataset.classes)}
    if classes not in limits:
        raise ValueError(f"classes = {classes!r} is not 'all', 'first half' or 'second half'")
    if half < 1:
        raise ValueError(f"classes = {classes!r} is not allowed; {dataset.name} has only {dataset.classes} class")
    first, last = limits[classes]

    def select(split: Split) -> Split:
        chosen = (first <= split.labels) & (split.labels < last)
        return Split(split.images[chosen], split.labels[chosen] - first)

    return replace(
        dataset,
        train=select(dataset.train),
        validation=select(dataset.validation),
        test=select(dataset.test),
        classes=last - first,
        selection=f"{classes} of the classes",
    )
