"""Support for several processes that train one model: which ranks hold shards of a tensor, and sums over ranks.

Every rank must take the same decision. Data-parallel replicas have the same gradients and so decide alike. Ranks that
hold shards of the parameters add up their measurements first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor
from torch import distributed as dist

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


def resolve(setting: ProcessGroup | Literal["world"] | None) -> ProcessGroup | None:
    """The process group that a setting names; None if there is only one process.

    Raises: ValueError for a setting other than "world", None or a process group.
    """
    given: object = setting
    is_group = dist.is_available() and isinstance(given, dist.ProcessGroup)
    if given is not None and given != "world" and not is_group:
        allowed = '"world", None or a torch.distributed.ProcessGroup'
        raise ValueError(f"process_group = {setting!r} is not allowed: it must be {allowed}")
    if setting is None or not dist.is_available() or not dist.is_initialized():
        return None
    group = dist.group.WORLD if setting == "world" else setting
    return cast("ProcessGroup", group) if dist.get_world_size(cast("ProcessGroup", group)) > 1 else None


def total(values: Tensor, groups: Sequence[ProcessGroup]) -> Tensor:
    """Sum `values` over the ranks of all groups, in place, and return them."""
    for group in groups:
        dist.all_reduce(values, group=group)
    return values


def mean(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The mean of `values` over the ranks of a group; `values` itself if the group is None."""
    if group is None:
        return values
    values = values.clone()
    dist.all_reduce(values, group=group)
    return values / dist.get_world_size(group)


def gathered(values: Tensor, group: ProcessGroup) -> Tensor:
    """The values (k,) of every rank of a group, (ranks, k)."""
    rows = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(rows, values, group=group)
    return torch.stack(rows)


# Sharded tensors.


def is_distributed(tensor: Tensor) -> bool:
    """Whether a tensor is a `DTensor`, as made by `fully_shard` or tensor parallelism."""
    module = sys.modules.get("torch.distributed.tensor")  # no `DTensor` exists unless its module is imported
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor; the tensor itself if it is not distributed."""
    return cast("DTensor", tensor).to_local() if is_distributed(tensor) else tensor


def local_gradient(param: Tensor) -> Tensor:
    """This rank's shard of a parameter's gradient, sharded like the parameter."""
    grad = cast(Tensor, param.grad)
    if not is_distributed(grad):
        return grad
    spread, like = cast("DTensor", grad), cast("DTensor", param)
    if spread.placements != like.placements:
        spread = spread.redistribute(placements=like.placements)
    return spread.to_local()


def like_parameter(part: Tensor, param: Tensor) -> Tensor:
    """Make the state of this rank's shard, (*local shape, ...), a tensor that is distributed like the parameter."""
    if not is_distributed(param):
        return part
    from torch.distributed.tensor import DTensor

    whole = cast("DTensor", param)
    shape = torch.Size((*whole.shape, *part.shape[whole.ndim :]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, whole.device_mesh, whole.placements, run_check=False, shape=shape, stride=stride)


def holders(param: Tensor, group: ProcessGroup | None) -> tuple[ProcessGroup, ...]:
    """The groups of ranks that hold shards of a parameter; empty if every rank holds all of it.

    A `DTensor` knows its groups. Parameters flattened by `FullyShardedDataParallel` are sharded over `group`.
    """
    if is_distributed(param):
        spread = cast("DTensor", param)
        mesh = spread.device_mesh
        shards = [dim for dim, placement in enumerate(spread.placements) if not placement.is_replicate()]
        return tuple(mesh.get_group(dim) for dim in shards if mesh.size(dim) > 1)
    return (group,) if group is not None and getattr(param, "_fsdp_flattened", False) else ()


def are_replicas(params: Sequence[Tensor], group: ProcessGroup | None) -> bool:
    """Whether all ranks of a group hold the same parameters, as with `DistributedDataParallel`.

    One collective call compares the number of elements and their sum. Without a group the answer is True.
    """
    if group is None:
        return True
    parts = [local(param).detach() for param in params]
    device = parts[0].device if parts else torch.device("cpu")
    facts = torch.zeros(2, dtype=torch.float64, device=device)
    facts[0] = float(sum(part.numel() for part in parts))
    for part in parts:
        facts[1] += part.double().sum()
    everyone = [torch.empty_like(facts) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, facts, group=group)
    return all(torch.equal(other, facts) or _both_nan(other, facts) for other in everyone)


def _both_nan(a: Tensor, b: Tensor) -> bool:
    return bool(torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()))
