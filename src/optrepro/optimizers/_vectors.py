"""State stored in long vectors, with views of it that are shaped like the parameters.

A step over one long vector takes fewer calls than a step over many small tensors. So each rank joins its shards of
several parameters into one vector and stores their state as vectors. ``optimizer.state`` holds views of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from optrepro.optimizers._ranks import like_parameter, local


class Vectors:
    """The order of the elements of several parameters in a vector (n,).

    The elements of a parameter are in the order of its memory if that has no gaps. Contiguous and channels-last
    parameters and gradients are therefore viewed and not copied.

    Attributes:
        params: the parameters.
        sizes: number of elements in this rank's shard of each parameter; n is their sum.
        bounds: start and end of each parameter in the vector.
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
        """Concatenate tensors, shaped like this rank's shards of consecutive parameters, into one vector (n,).

        A single tensor is viewed and not copied if its memory layout allows it.

        Args:
            tensors: one tensor for each parameter.
            first: index of the first of these parameters.
        """
        if len(tensors) == 1:
            return self.flat(first, tensors[0])
        if self._are_contiguous:
            joined: Tensor = _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
            return joined
        return torch.cat([self.flat(i, tensor) for i, tensor in enumerate(tensors, first)])

    def flat(self, index: int, tensor: Tensor) -> Tensor:
        """Flatten a tensor shaped like the shard of parameter `index`, in that parameter's memory order."""
        strides = self.strides[index]
        if tensor.stride() == strides:
            return tensor.view(-1) if self._are_contiguous else tensor.as_strided((self.sizes[index],), (1,))
        return (
            torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
            .copy_(tensor)
            .as_strided((self.sizes[index],), (1,))
        )

    def is_view(self, index: int, tensor: Tensor) -> bool:
        """Whether `flat` returns a view of this tensor and not a copy."""
        return tensor.stride() == self.strides[index]

    def shaped(self, index: int, flat: Tensor) -> Tensor:
        """View a vector with the elements of parameter `index` in that parameter's shape."""
        return flat.as_strided(self.shapes[index], self.strides[index])

    def views(self, rows: Tensor) -> list[Tensor]:
        """Split vectors (*k, n) into one view (*k, *shape) for each parameter, in the order of its memory."""
        lead, steps, offset = rows.shape[:-1], rows.stride()[:-1], rows.storage_offset()
        apart, layouts = rows.stride(-1), self.strides
        if apart != 1:  # for instance a column of a matrix
            layouts = [tuple(apart * stride for stride in strides) for strides in layouts]
        return [
            rows.as_strided((*lead, *shape), (*steps, *strides), offset + apart * start)
            for shape, strides, (start, _) in zip(self.shapes, layouts, self.bounds, strict=True)
        ]

    def state_views(self, rows: Tensor) -> list[Tensor]:
        """Like `views`, but shaped (*shape, *k) and distributed like the parameters, as entries for their state."""
        lead = rows.ndim - 1
        views = [
            view.movedim(tuple(range(lead)), tuple(range(-lead, 0))) if lead else view for view in self.views(rows)
        ]
        return [like_parameter(view, param) for view, param in zip(views, self.params, strict=True)]


def is_view(tensor: Tensor) -> bool:
    """Whether a tensor is part of a larger storage, which would be saved with it."""
    part = local(tensor)
    return part.untyped_storage().nbytes() > part.numel() * part.element_size()


def own(tensor: Tensor) -> Tensor:
    """The tensor in its own storage: a copy if it is a view, else the tensor itself."""
    return tensor.clone() if is_view(tensor) else tensor


def _dense_strides(part: Tensor) -> tuple[int, ...]:
    """A tensor's strides, or those of the contiguous layout if its memory has gaps."""
    strides = torch.empty_like(part, device="meta", memory_format=torch.preserve_format).stride()
    return part.stride() if part.stride() == strides else torch.empty(part.shape, device="meta").stride()
