"""Several processes that train one model: which of them hold parts of a tensor, sums over them, and their mean loss.

Every rank must take the same decision. Data-parallel replicas hold the same gradients and decide alike by themselves;
ranks that hold shards of the parameters add up what each of them has measured.
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
    """The process group that a setting names; None where there is only one process.

    Raises: ValueError for a setting that is neither "world", None nor a process group.
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
    """The sum of `values` over the ranks of all groups, in place where there are any."""
    for group in groups:
        dist.all_reduce(values, group=group)
    return values


def mean(values: Tensor, group: ProcessGroup | None) -> Tensor:
    """The mean of `values` over the ranks of a group; the values themselves for None."""
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
    """Whether a tensor is a `DTensor`, of which each rank holds a part (`fully_shard`, tensor parallelism)."""
    module = sys.modules.get("torch.distributed.tensor")  # who has made such a tensor has imported it
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds; all of it where it is not distributed."""
    return cast("DTensor", tensor).to_local() if is_distributed(tensor) else tensor


def local_gradient(param: Tensor) -> Tensor:
    """This rank's part of a parameter's gradient, distributed like the parameter."""
    grad = cast(Tensor, param.grad)
    if not is_distributed(grad):
        return grad
    spread, like = cast("DTensor", grad), cast("DTensor", param)
    if spread.placements != like.placements:
        spread = spread.redistribute(placements=like.placements)
    return spread.to_local()


def like_parameter(part: Tensor, param: Tensor) -> Tensor:
    """State of this rank's part of a parameter, (*local shape, ...), distributed like the parameter."""
    if not is_distributed(param):
        return part
    from torch.distributed.tensor import DTensor

    whole = cast("DTensor", param)
    shape = torch.Size((*whole.shape, *part.shape[whole.ndim :]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, whole.device_mesh, whole.placements, run_check=False, shape=shape, stride=stride)


def holders(param: Tensor, group: ProcessGroup | None) -> tuple[ProcessGroup, ...]:
    """The groups of ranks over which the elements of one parameter are spread.

    A `DTensor` says so itself. Parameters that `FullyShardedDataParallel` has flattened are spread over `group`.
    """
    if is_distributed(param):
        spread = cast("DTensor", param)
        mesh = spread.device_mesh
        shards = [dim for dim, placement in enumerate(spread.placements) if not placement.is_replicate()]
        return tuple(mesh.get_group(dim) for dim in shards if mesh.size(dim) > 1)
    return (group,) if group is not None and getattr(param, "_fsdp_flattened", False) else ()


def are_replicas(params: Sequence[Tensor], group: ProcessGroup | None) -> bool:
    """Whether all ranks of a group hold the same parameters, as those of `DistributedDataParallel` do.

    Compares their number and their sums, in one collective call. True without a group.
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
