"""AdamW that takes only the components of its update that the gradient agrees with (arXiv 2411.16085)."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from optrepro.optimizers._switching import Number, require


class CautiousAdamW(Optimizer):
    r"""AdamW whose update is masked where its sign and the gradient's disagree.

    With AdamW's update :math:`u = \hat m/(\sqrt{\hat v} + \epsilon)`, the mask :math:`\phi = [u g > 0]` and its mean
    :math:`\bar\phi` over the parameter's elements, the step is :math:`p \leftarrow p - \eta\, u \phi / \bar\phi`.

    Args:
        params: parameters, or groups of them with settings of their own.
        lr, betas, eps, weight_decay (decoupled), maximize: as in `torch.optim.AdamW`.
        foreach: work on lists of parameters; None does so on accelerators, as torch does.

    Shape: parameters of any shape and floating dtype; state as AdamW's.
    Raises: ValueError for a setting outside its range or complex parameters; RuntimeError for sparse gradients.
    Source: arXiv 2411.16085, algorithm 1; the mean of the mask is at least 0.001, as in public implementations of
        it, where the paper adds one element to it.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with settings of their own where given; a ValueError for one out of its range."""
        group = {**self.defaults, **param_group}
        for name in ("lr", "eps", "weight_decay"):
            require(group[name] >= 0, name, group[name], "at least 0")
        for i, beta in enumerate(group["betas"]):
            require(0 <= beta < 1, f"betas[{i}]", beta, "in [0, 1)")
        super().add_param_group(group)
        if any(param.is_complex() for param in self.param_groups[-1]["params"]):
            self.param_groups.pop()
            raise ValueError("params: CautiousAdamW does not support complex parameters; pass view_as_real")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; returns the closure's loss, or None without a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lists: dict[Any, tuple[Number, list[Tensor]]] = {}
            for i, param in enumerate(group["params"]):
                if param.grad is not None:
                    step = self._advance(param)
                    key = (param.device, param.dtype, step) if self._uses_foreach(group) else i
                    lists.setdefault(key, (step, []))[1].append(param)
            for step, params in lists.values():
                self._update(group, params, step)
        return loss

    def _uses_foreach(self, group: dict[str, Any]) -> bool:
        if torch.compiler.is_compiling():
            return False
        if group["foreach"] is None:
            return all(param.device.type != "cpu" for param in group["params"])
        return bool(group["foreach"])

    def _advance(self, param: Tensor) -> Number:
        """Count and return the parameter's step; it gets its state at the first one."""
        if cast(Tensor, param.grad).is_sparse:
            raise RuntimeError("CautiousAdamW does not support sparse gradients")
        state = self.state[param]
        if not state:
            step = torch.zeros((), dtype=torch.float64)
            state.update(step=step, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
        state["step"] += 1
        return cast(Number, state["step"] if torch.compiler.is_compiling() else state["step"].item())

    def _update(self, group: dict[str, Any], params: list[Tensor], step: Number) -> None:
        """Move parameters that have taken equally many steps."""
        (beta1, beta2), lr = group["betas"], group["lr"]
        grads = [-cast(Tensor, param.grad) if group["maximize"] else cast(Tensor, param.grad) for param in params]
        exp_avgs = [self.state[param]["exp_avg"] for param in params]
        exp_avg_sqs = [self.state[param]["exp_avg_sq"] for param in params]

        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        torch._foreach_lerp_(exp_avgs, grads, 1 - beta1)
        torch._foreach_mul_(exp_avg_sqs, beta2)
        torch._foreach_addcmul_(exp_avg_sqs, grads, grads, 1 - beta2)

        denominators = torch._foreach_sqrt(exp_avg_sqs)
        torch._foreach_div_(denominators, (1 - beta2**step) ** 0.5)
        torch._foreach_add_(denominators, group["eps"])
        rate = lr / (1 - beta1**step)
        updates = [rate * masked(exp_avg, grad) for exp_avg, grad in zip(exp_avgs, grads, strict=True)]
        torch._foreach_addcdiv_(params, updates, denominators, value=-1)


def masked(exp_avg: Tensor, grad: Tensor) -> Tensor:
    """The first moment where its sign is the gradient's, rescaled by the share of such elements; 0 elsewhere."""
    agrees = exp_avg * grad > 0
    return exp_avg * agrees / agrees.mean(dtype=exp_avg.dtype).clamp(min=1e-3)
