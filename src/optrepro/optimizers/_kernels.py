"""Calls of torch that are right where others like them are not: its fused kernels, and what compiled code keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

Number = float | Tensor  # a tensor () where no step may wait for its value, or the compiler must not know it

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


def scale_(tensors: list[Tensor], factor: Number) -> None:
    """Multiply all tensors by one factor, in place."""
    if not torch.compiler.is_compiling():
        torch._foreach_mul_(tensors, factor)
        return
    # Of a factor that follows a schedule compiled code leaves this foreach call out where an addition follows it, and
    # it loses what is written to a float64 tensor (), but not to a view of one (torch 2.13).
    for tensor in tensors:
        (tensor if tensor.ndim else tensor.view(1)).mul_(factor)


def descend(params: list[Tensor], updates: list[Tensor], rates: Number | Sequence[Number]) -> None:
    """Move parameters against updates, in place, at one rate or each at its own."""
    if isinstance(rates, float | int) and not torch.compiler.is_compiling():
        torch._foreach_add_(params, updates, alpha=-rates)
        return
    each = rates if isinstance(rates, Sequence) else [rates] * len(params)
    if torch.compiler.is_compiling() or isinstance(each[0], Tensor):  # the compiler takes `alpha` for a constant
        steps = [(update * -rate).to(update.dtype) for update, rate in zip(updates, each, strict=True)]
        torch._foreach_add_(params, steps)
    else:
        for param, update, rate in zip(params, updates, each, strict=True):
            param.add_(update, alpha=cast(float, -rate))
