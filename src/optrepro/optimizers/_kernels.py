"""Torch calls that work around known faults of its fused CPU kernels and of compiled code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

# A scalar tensor () is used if reading its value would make the step wait, or if the compiler would make it constant.
Number = float | Tensor

# In half precision the fused SGD kernel for CPUs skips whole blocks of elements (torch 2.12 and 2.13).
RIGHT_ON_CPU = (torch.float32, torch.float64)


def fits_kernel_of_cpu(params: Sequence[Tensor], *columns: Sequence[Tensor]) -> bool:
    """Whether torch's fused CPU kernel gives the right result for parameters of one device and dtype.

    The kernel walks through memory in order, so all tensors of a parameter must have the same memory layout.

    Args:
        params: the parameters.
        columns: their gradients and their state, each column in the order of the parameters.
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
    else:  # All tensors are contiguous, so comparing the strides is unnecessary.
        return True
    strides = [param.stride() for param in params]
    return all([tensor.stride() for tensor in column] == strides for column in columns)


def scale_(tensors: list[Tensor], factor: Number) -> None:
    """Multiply all tensors by the same factor, in place."""
    if not torch.compiler.is_compiling():
        torch._foreach_mul_(tensors, factor)
        return
    # Compiled code drops this foreach call if the factor follows a schedule and an addition comes next. It also loses
    # what is written to a float64 tensor (), though not what is written to a view of one (torch 2.13).
    for tensor in tensors:
        (tensor if tensor.ndim else tensor.view(1)).mul_(factor)


def descend(params: list[Tensor], updates: list[Tensor], rates: Number | Sequence[Number]) -> None:
    """Subtract rate times update from each parameter, in place, with one rate for all or one for each."""
    if isinstance(rates, float | int) and not torch.compiler.is_compiling():
        torch._foreach_add_(params, updates, alpha=-rates)
        return
    each = rates if isinstance(rates, Sequence) else [rates] * len(params)
    if torch.compiler.is_compiling() or isinstance(each[0], Tensor):  # The compiler treats `alpha` as a constant.
        steps = [(update * -rate).to(update.dtype) for update, rate in zip(updates, each, strict=True)]
        torch._foreach_add_(params, steps)
    else:
        for param, update, rate in zip(params, updates, each, strict=True):
            param.add_(update, alpha=cast(float, -rate))
