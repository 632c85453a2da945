"""Where torch's fused kernels, which take one pass over memory, do what its plain steps do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# In half precision the kernel of SGD for CPUs leaves whole blocks of elements out (torch 2.12 and 2.13).
RIGHT_ON_CPU = (torch.float32, torch.float64)


def fits_kernel_of_cpu(params: Sequence[Tensor], *columns: Sequence[Tensor]) -> bool:
    """Whether a CPU's kernel is right for parameters of one device and dtype, with gradients and state in columns.

    It goes through memory in order, so all tensors of a parameter must be laid out alike.
    """
    dtype = params[0].dtype
    if dtype not in RIGHT_ON_CPU or params[0].device.type != "cpu":
        return False
    others = [tensor for column in columns for tensor in column]
    for tensor in others:
        if tensor.dtype is not dtype:
            return False
    for tensor in (*params, *others):
        if not tensor.is_contiguous():
            break
    else:  # which is quicker to ask
        return True
    strides = [param.stride() for param in params]
    return all([tensor.stride() for tensor in column] == strides for column in columns)


def scale_(tensors: list[Tensor], factor: float | Tensor) -> None:
    """Multiply all tensors by one factor, in place."""
    if torch.compiler.is_compiling():
        # Where the factor follows a schedule, compiled code leaves a foreach call of this kind out (torch 2.13).
        for tensor in tensors:
            tensor.mul_(factor)
    else:
        torch._foreach_mul_(tensors, factor)
