"""All elements of several parameters as the coordinates of one problem, and the state of each coordinate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optrepro.optimizers._ranks import are_replicas, holders, local, local_gradient, total
from optrepro.optimizers._vectors import Vectors

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

State = MutableMapping[Tensor, dict[str, Any]]


class Coordinates:
    """The order of n coordinates: the elements of this rank's shards of the parameters, concatenated.

    Args:
        params: the parameters.
        group: the ranks that train the model together, or None.

    Raises: ValueError for parameters on several devices.
    """

    def __init__(self, params: Sequence[Tensor], group: ProcessGroup | None) -> None:
        self.params = list(params)
        self.vectors = Vectors(params)
        self.size = self.vectors.size
        self.kinds = [(param.shape, param.dtype) for param in params]
        devices = {param.device for param in params}
        if len(devices) > 1:
            found = " and ".join(sorted(map(str, devices)))
            raise ValueError(f"params are on {found}: they must be on one device")
        self.device = devices.pop() if devices else torch.device("cpu")
        self.group = group
        self.holders = [holders(param, group) for param in params]
        # The distinct tuples of groups that hold shards of a parameter, in the order of the parameters, so that every
        # rank visits them in the same order.
        self.spread = list(dict.fromkeys(self.holders))

    def fit(self, params: Sequence[Tensor]) -> bool:
        """Whether these are still the same parameters, with the same shapes and dtypes and on the same device."""
        return (
            len(params) == len(self.params)
            and all(map(is_, params, self.params))
            and all((param.shape, param.dtype) == kind for param, kind in zip(params, self.kinds, strict=True))
            and all(param.device == self.device for param in params)
        )

    @property
    def shards(self) -> list[ProcessGroup]:
        """All groups of ranks that hold shards of a parameter."""
        return list(dict.fromkeys(group for groups in self.spread for group in groups))

    @property
    def partners(self) -> list[ProcessGroup]:
        """The groups over which the loss is averaged: the configured group, or else those that hold shards."""
        return self.shards if self.group is None else [self.group]

    def are_shared(self) -> bool:
        """Whether the ranks hold replicas of the parameters, or shards of the same parameters."""
        plain = [param for param, groups in zip(self.params, self.holders, strict=True) if not groups]
        return are_replicas(plain, self.group)

    def exist(self) -> Tensor:
        """A mask (n,) of the real coordinates; False for the padding of `FullyShardedDataParallel`'s flat shards."""
        there = torch.ones(self.size, dtype=torch.bool, device=self.device)
        for param, (_, stop) in zip(self.params, self.vectors.bounds, strict=True):
            filled = int(getattr(param, "_shard_numel_padded", 0))
            there[stop - filled : stop] = False
        return there

    def values(self, dtype: torch.dtype) -> Tensor:
        """The parameters as a vector (n,) of this dtype; it may be a view of them."""
        return self._join([local(param).detach() for param in self.params], dtype)

    def gradient(self, dtype: torch.dtype, factor: float = 1.0) -> Tensor:
        """The gradients times a factor, as a vector (n,) of this dtype; 0 for parameters without a gradient.

        Values beyond the range of the dtype are clamped to it. The vector may be a view of the gradients.
        """
        parts = self._gradients()
        if factor != 1:
            parts = [part * factor for part in parts]
        joined, top = self._join(parts, dtype), torch.finfo(dtype).max
        may_overflow = factor > 1 or any(torch.finfo(part.dtype).max > top for part in parts)
        return joined.clamp_(-top, top) if may_overflow else joined

    def largest(self) -> float:
        """The largest absolute value in this rank's gradients; not finite if an element is not finite."""
        grads = [grad for grad in self._gradients(known=True) if grad.numel()]
        if not grads:
            return 0.0
        norms = [torch.linalg.vector_norm(grad, torch.inf) for grad in grads]
        return float(torch.stack([norm.double() for norm in norms]).max())

    def sums(self, columns: Sequence[Tensor]) -> list[Tensor]:
        """Sum each (1, n) float64 tensor over all coordinates of all ranks; one (1, 1) tensor per input."""
        if not self.shards:
            return [column.sum(-1, keepdim=True) for column in columns]
        rows = torch.cat(list(columns))
        result = rows.new_zeros(len(rows))
        for groups in self.spread:
            part = rows.new_zeros(len(rows))
            for (start, stop), mine in zip(self.vectors.bounds, self.holders, strict=True):
                if mine == groups:
                    part += rows[:, start:stop].sum(-1)
            result += total(part, groups)
        return list(result.view(-1, 1, 1))

    def squares(self) -> tuple[Tensor, Tensor]:
        """Sum of squares and number of elements of each parameter, over all ranks; two float64 vectors (params,)."""
        x, exist = self.values(torch.float64), self.exist()
        parts = [(x[start:stop], exist[start:stop]) for start, stop in self.vectors.bounds]
        found = x.new_tensor([[float(mine.square().sum()), float(there.sum())] for mine, there in parts]).view(-1, 2)
        for groups in self.spread:
            mine = [i for i, holding in enumerate(self.holders) if holding == groups]
            found[mine] = total(found[mine], groups)
        return found[:, 0], found[:, 1]

    def dot(self, a: Tensor, b: Tensor) -> float:
        """The inner product of two vectors (n,), summed over all ranks in float64."""
        result = 0.0
        for groups in self.spread:
            part = torch.zeros((), dtype=torch.float64, device=self.device)
            for start, stop in self._pieces(groups):
                part += a[start:stop].double() @ b[start:stop].double()
            result += float(total(part, groups))
        return result

    def split(self, vector: Tensor) -> list[Tensor]:
        """Split a vector (n,) into views shaped like this rank's shards of the parameters."""
        return self.vectors.views(vector)

    def _pieces(self, groups: tuple[ProcessGroup, ...], most: int = 1 << 20) -> Iterator[tuple[int, int]]:
        """Bounds of pieces of the shards that these groups hold; casting a piece at a time takes little memory."""
        if len(self.spread) == 1:
            runs = [(0, self.size)]
        else:
            runs = [b for b, mine in zip(self.vectors.bounds, self.holders, strict=True) if mine == groups]
        for first, last in runs:
            for start in range(first, last, most):
                yield start, min(start + most, last)

    def _gradients(self, known: bool = False) -> list[Tensor]:
        """This rank's shards of the gradients; missing gradients are zeros, or left out if `known` is set."""
        return [
            torch.zeros_like(local(param)) if param.grad is None else local_gradient(param).detach()
            for param in self.params
            if param.grad is not None or not known
        ]

    def _join(self, parts: list[Tensor], dtype: torch.dtype) -> Tensor:
        if not parts:
            return torch.empty(0, dtype=dtype, device=self.device)
        return self.vectors.join([part.to(dtype) for part in parts])


class Memory:
    """The state of n coordinates, stored in long vectors and visible in the optimizer's state as views of them.

    Args:
        coordinates: the order of the coordinates.
        tables: named tensors with one number (n,) or several (*k, n) for each coordinate. The state of a parameter
            holds views of them, (*shape, *k).
        numbers: named scalars () of the whole problem, on the CPU. The state of every parameter holds them.
    """

    def __init__(self, coordinates: Coordinates, tables: Mapping[str, Tensor], numbers: Mapping[str, Tensor]) -> None:
        self.coordinates, self.tables, self.numbers = coordinates, dict(tables), dict(numbers)
        self._attached: list[tuple[Tensor, list[Tensor]]] = []

    def attach(self, state: State) -> None:
        """Replace the state of the parameters with views of this memory."""
        views = [self.coordinates.vectors.state_views(table) for table in self.tables.values()]
        self._attached = []
        for i, param in enumerate(self.coordinates.params):
            entries = [*(view[i] for view in views), *self.numbers.values()]
            state[param] = dict(zip([*self.tables, *self.numbers], entries, strict=True))
            self._attached.append((param, entries))

    def is_attached(self, state: State) -> bool:
        """Whether the state of the parameters still consists of views of this memory."""
        return all(
            len(found := state.get(param, {})) == len(entries) and all(map(is_, found.values(), entries))
            for param, entries in self._attached
        )

    def restore(self, state: State) -> bool:
        """Copy the parameters' state into this memory; return False if no parameter has a state."""
        params = self.coordinates.params
        stored = [(i, state[param]) for i, param in enumerate(params) if state.get(param)]
        for name, table in self.tables.items():
            views = self.coordinates.vectors.state_views(table)
            for i, entries in stored:
                if name in entries:
                    local(views[i]).copy_(local(entries[name]))
        for name, number in self.numbers.items():
            known = [entries[name] for _, entries in stored if name in entries]
            if known:
                number.copy_(known[0])
        return bool(stored)
