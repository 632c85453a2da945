"""A small random projection of the gradient that preserves inner products approximately."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

SMALLEST = 8  # smallest number of buckets, with a standard error of about 0.35
LARGEST = 1024  # largest number of buckets, with a standard error of about 0.04
SHARE = 128  # One in this many coordinates is sampled, within the bounds below.
FEWEST, MOST = 2**10, 2**16  # bounds on the number of sampled coordinates, for little noise and little reading
SMALL = 2**12  # If tensors have fewer elements on average, joining them is faster than sampling from each.


class Sketch:
    r"""A seeded random projection :math:`S` of the gradient to a few numbers that preserves inner products.

    Starting at a random coordinate, every `stride`-th one gets a random sign and is added to one of `width` buckets, in
    turn. Over the seeds :math:`E\langle Sx, Sy\rangle = \langle x, y\rangle`, and the standard error of an inner
    product, relative to :math:`\lVert x\rVert\lVert y\rVert`, is about

    .. math:: \sqrt{(1 + c^2)/d + (s - 1)\, q},\quad
        c = \frac{\langle x, y\rangle}{\lVert x\rVert\lVert y\rVert},\quad
        q = \frac{\sum_i x_i^2 y_i^2}{\lVert x\rVert^2\lVert y\rVert^2}

    for the width d and the stride s, unless the coordinates have a period that the buckets or the stride share. (For
    x = y, q is the kurtosis divided by the number of coordinates.) The stride is 1 or a prime that divides no tensor's
    size. If tensors are sharded, each rank sketches its shards with its own seed; the sum of these sketches is a sketch
    of the whole.

    Args:
        sizes: number of elements of each tensor.
        memory: bytes available for the signs, of one byte each and at most half of the total, and for `rows` sketches
            in float32. Below about 8,000 elements more is used, because a sketch has at least 8 buckets and at least 64
            coordinates, or all of them.
        rows: number of sketches that are stored.
        seed: seed of the signs and of the first coordinate.
        device: the device of the sketches.
        total: the number of elements or, for sketches of equal width on all ranks, its mean over the ranks.

    Source: the count sketch of Charikar et al. 2002, with equal buckets; the sampling is chosen.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        memory: float,
        rows: int,
        seed: int,
        device: torch.device,
        total: int | None = None,
    ) -> None:
        size = sum(sizes)
        total = size if total is None else total
        most = min(MOST, max(FEWEST, total // SHARE))
        sampled = max(1, min(most, max(8 * SMALLEST, int(memory / 2)), total))
        self.width = min(LARGEST, max(SMALLEST, int((memory - sampled) / (4 * rows))), sampled)
        self.stride = _stride(-(-size // sampled), sizes)
        generator = torch.Generator().manual_seed(seed)
        position = int(torch.randint(self.stride, (), generator=generator))
        self._first = position
        self._are_small = device.type == "cpu" and size < SMALL * len(sizes)
        self._parts: list[tuple[int, int, int]] = []  # index of a tensor, its first sample, its number of samples
        for i, size in enumerate(sizes):
            if position < size:
                count = -(-(size - position) // self.stride)
                self._parts.append((i, position, count))
                position += count * self.stride
            position -= size
        count = sum(count for *_, count in self._parts)
        self._padding = -count % self.width if count else self.width
        signs = torch.randint(2, (count + self._padding,), generator=generator, dtype=torch.int8) * 2 - 1
        self.signs = signs.to(device)
        self._owners = torch.tensor([*(i for i, *_ in self._parts), 0], dtype=torch.int64, device=device)
        self._counts = torch.tensor([*(n for *_, n in self._parts), self._padding], dtype=torch.int64, device=device)
        self._zero = torch.zeros(1, dtype=torch.float32, device=device)
        self._absent = [self._zero.expand(size) for size in sizes] if self._are_small else []
        # zeros that give the padding when they are joined to the tensors
        self._filling = [self._zero.expand(self._padding * self.stride)] if self._padding else []

    def sample(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """The sampled coordinates in one vector, padded to full buckets; zeros for a tensor that is None."""
        zero = self._zero
        if self._are_small:
            there = [self._absent[i] if tensor is None else tensor for i, tensor in enumerate(tensors)]
            joined: Tensor = _flatten_dense_tensors((*there, *self._filling))  # type: ignore[no-untyped-call]
            return joined[self._first :: self.stride].float()
        pieces = []
        for i, start, count in self._parts:
            tensor = tensors[i]
            pieces.append(zero.expand(count) if tensor is None else _every(tensor, start, self.stride, count))
        if self._padding:
            pieces.append(zero.expand(self._padding))
        if zero.device.type != "cpu":  # The tensors may be on several devices.
            pieces = [piece.to(zero.device, non_blocking=True) for piece in pieces]
        return torch.cat(pieces).float()

    def spread(self, values: Sequence[float | Tensor]) -> float | Tensor:
        """Repeat each tensor's value, a number or tensor (), for its sampled coordinates; one number if all agree."""
        tensors = [value for value in values if isinstance(value, Tensor)]
        if tensors:
            stand_in = torch.ones_like(tensors[0])
            numbers = torch.stack([v if isinstance(v, Tensor) else stand_in * v for v in values]).float()
        elif all(value == values[0] for value in values):
            return values[0]
        else:
            numbers = torch.tensor(values, dtype=torch.float32, pin_memory=self.signs.device.type == "cuda")
        numbers = numbers.to(self.signs.device, non_blocking=True).index_select(0, self._owners)
        return numbers.repeat_interleave(self._counts, output_size=len(self.signs))

    def fold(self, sample: Tensor) -> Tensor:
        """The sketch of a sample, (width,)."""
        row = (sample * self.signs).view(-1, self.width).sum(0)
        return row * math.sqrt(self.stride) if self.stride > 1 else row


def _stride(least: int, sizes: Sequence[int]) -> int:
    """1, or the smallest prime of at least `least` that divides no size, so that samples do not repeat a position."""
    if least <= 1:
        return 1
    filled = [size for size in sizes if size]
    while any(least % d == 0 for d in range(2, math.isqrt(least) + 1)) or any(size % least == 0 for size in filled):
        least += 1
    return least


def _every(tensor: Tensor, start: int, stride: int, count: int) -> Tensor:
    """The elements start, start + stride, ... of a tensor in the order of its indices, (count,)."""
    if tensor.is_contiguous():
        return tensor.as_strided((count,), (stride,), tensor.storage_offset() + start)
    index = torch.arange(start, start + count * stride, stride, device=tensor.device)
    return torch.take(tensor, index)
