"""State that lies end to end in long vectors, and reads as tensors shaped like the parameters.

A step over one long vector takes few calls where a step over many small tensors takes many. So each rank's parts of
several parameters are worked on as one vector, and their state is kept as vectors, too; what stands in
``optimizer.state`` are views of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from optrepro.optimizers._ranks import like_parameter, local


class Vectors:
    """The order in which the elements of several parameters stand in a vector (n,).

    Elements of a parameter stand in the order of its memory, where that has no gaps, so that a parameter or gradient
    of the usual layout, or channels-last, is viewed and not copied.

    Attributes:
        params: the parameters.
        sizes: number of elements of this rank's part of each; n is their sum.
        bounds: where each begins and ends.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        parts = [local(param).detach() for param in self.params]
        self.shapes = [part.shape for part in parts]
        self.strides = [_dense_strides(part) for part in parts]
        self.sizes = [part.numel() for part in parts]
        ends = [0]
        for size in self.sizes:
            ends.append(ends[-1] + size)
        self.bounds = list(pairwise(ends))
        self.size = ends[-1]
        self._are_contiguous = all(part.is_contiguous() for part in parts)

    def join(self, tensors: Sequence[Tensor], first: int = 0) -> Tensor:
        """Tensors shaped like the parts of neighbours, from `first` on, as one vector (n,); a view where there is one.

        Shaped like this rank's parts of the parameters, that is.
        """
        if len(tensors) == 1:
            return self.flat(first, tensors[0])
        if self._are_contiguous:
            joined: Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
            return joined
        return torch.cat([self.flat(i, tensor) for i, tensor in enumerate(tensors, first)])

    def flat(self, index: int, tensor: Tensor) -> Tensor:
        """A tensor shaped like the part of parameter `index` as a vector, in the order of that parameter."""
        strides = self.strides[index]
        if tensor.stride() == strides:
            return tensor.view(-1) if self._are_contiguous else tensor.as_strided((self.sizes[index],), (1,))
        return (
            torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
            .copy_(tensor)
            .as_strided((self.sizes[index],), (1,))
        )

    def is_view(self, index: int, tensor: Tensor) -> bool:
        """Whether `flat` gives a view of a tensor, and no copy."""
        return tensor.stride() == self.strides[index]

    def shaped(self, index: int, flat: Tensor) -> Tensor:
        """A vector with the elements of parameter `index` as a view shaped like it."""
        return flat.as_strided(self.shapes[index], self.strides[index])

    def views(self, rows: Tensor) -> list[Tensor]:
        """Of a vector (n,), or of several (*k, n): views (*k, *shape) for each parameter, in its memory's order."""
        lead, steps, offset = rows.shape[:-1], rows.stride()[:-1], rows.storage_offset()
        apart, layouts = rows.stride(-1), self.strides
        if apart != 1:  # as in a column of a table
            layouts = [tuple(apart * stride for stride in strides) for strides in layouts]
        return [
            rows.as_strided((*lead, *shape), (*steps, *strides), offset + apart * start)
            for shape, strides, (start, _) in zip(self.shapes, layouts, self.bounds, strict=True)
        ]

    def state_views(self, rows: Tensor) -> list[Tensor]:
        """The same as state of the parameters: (*shape, *k), and distributed where the parameters are."""
        lead = rows.ndim - 1
        views = [
            view.movedim(tuple(range(lead)), tuple(range(-lead, 0))) if lead else view for view in self.views(rows)
        ]
        return [like_parameter(view, param) for view, param in zip(views, self.params, strict=True)]


def is_view(tensor: Tensor) -> bool:
    """Whether a tensor is part of a larger storage, which saving it would write."""
    part = local(tensor)
    return part.untyped_storage().nbytes() > part.numel() * part.element_size()


def own(tensor: Tensor) -> Tensor:
    """The tensor with a storage of its own."""
    return tensor.clone() if is_view(tensor) else tensor


def _dense_strides(part: Tensor) -> tuple[int, ...]:
    """A tensor's strides; those of the contiguous layout where its elements do not lie side by side in memory."""
    strides = torch.empty_like(part, device="meta", memory_format=torch.preserve_format).stride()
    return part.stride() if part.stride() == strides else torch.empty(part.shape, device="meta").stride()
