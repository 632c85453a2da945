"""Where torch's fused kernels, which take one pass over memory, do what its plain steps do."""

from __future__ import annotations

import torch
from torch import Tensor

# In half precision the kernel of SGD for CPUs leaves whole blocks of elements out (torch 2.12 and 2.13).
RIGHT_ON_CPU = (torch.float32, torch.float64)


def fits_kernel_of_cpu(param: Tensor, *others: Tensor) -> bool:
    """Whether a CPU's kernel is right for a parameter with this gradient and state.

    It goes through memory in order, so all of them must be laid out alike.
    """
    dtype = param.dtype
    if param.device.type != "cpu" or dtype not in RIGHT_ON_CPU or torch.compiler.is_compiling():
        return False
    strides, are_contiguous = None, param.is_contiguous()
    for other in others:
        if other.dtype != dtype:
            return False
        if not (are_contiguous and other.is_contiguous()):  # quicker to ask
            strides = strides or param.stride()
            if other.stride() != strides:
                return False
    return True


def scale_(tensors: list[Tensor], factor: float | Tensor) -> None:
    """Multiply all tensors by one factor, in place."""
    if torch.compiler.is_compiling():
        # Where the factor follows a schedule, compiled code leaves a foreach call of this kind out (torch 2.13).
        for tensor in tensors:
            tensor.mul_(factor)
    else:
        torch._foreach_mul_(tensors, factor)
