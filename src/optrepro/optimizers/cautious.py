"""AdamW that leaves out the elements of its update whose sign the gradient opposes (arXiv 2411.16085)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optrepro.optimizers._base import BaseOptimizer, Group, State, evaluate, refuse_sparse, require
from optrepro.optimizers._kernels import fits_kernel_of_cpu, scale_
from optrepro.optimizers._ranks import holders, is_distributed, local, local_gradient, resolve, total

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Loss = TypeVar("Loss")
LEAST = 1e-3  # lower bound on the share of agreeing elements, which limits how far the step is scaled up
PIECE = 2**17  # elements per CPU thread that are updated at a time, so that they stay in the cache


class CautiousAdamW(BaseOptimizer):
    r"""AdamW whose update is set to zero wherever its sign and the gradient's disagree.

    With AdamW's update :math:`u = \hat m/(\sqrt{\hat v} + \epsilon)`, the mask :math:`\phi = [u g > 0]` and its mean
    :math:`\bar\phi` over the parameter's elements, the step is :math:`p \leftarrow p - \eta\, u \phi / \bar\phi`.

    Args:
        params: parameters, or parameter groups with their own settings.
        lr, betas, eps, weight_decay (decoupled), maximize: as in `torch.optim.AdamW`.
        foreach: update lists of parameters at once; None does so on accelerators, as torch does.
        process_group: the ranks over which `FullyShardedDataParallel` shards the parameters: ``"world"`` (all), None
            (this one alone) or a `torch.distributed.ProcessGroup`. A `DTensor` knows its ranks.

    Shape: parameters of any shape and floating dtype; the state is that of AdamW. For a sharded parameter the mask's
        mean is taken over the whole parameter.
    Raises: ValueError for a setting outside its range or complex parameters; RuntimeError for sparse gradients.
    Source: arXiv 2411.16085, algorithm 1. The mask's mean has a lower bound of 0.001, as in public implementations;
        the paper adds one element to it instead.
    """

    _spread: dict[tuple[ProcessGroup, ...], list[Tensor]] | None = None

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        process_group: ProcessGroup | Literal["world"] | None = "world",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
        }
        super().__init__(params, defaults, process_group)

    def _checked(self, group: Group) -> Group:
        for name in ("lr", "eps", "weight_decay"):
            require(group[name] >= 0, name, group[name], "at least 0")
        require(len(group["betas"]) == 2, "betas", group["betas"], "a pair (beta1, beta2)")
        for i, beta in enumerate(group["betas"]):
            require(0 <= beta < 1, f"betas[{i}]", beta, "in [0, 1)")
        return group

    def _state_names(self, group: Group) -> dict[str, bool]:
        return {"step": False, "exp_avg": True, "exp_avg_sq": True}

    def _take_over(self, prepared: dict[str, Any]) -> None:
        super()._take_over(prepared)
        for state in self.state.values():
            if "step" in state:
                state["step"] = state["step"].cpu().float()

    def _forget_layout(self) -> None:
        self._spread = None

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; return the closure's loss, or None without a closure.

        Raises: RuntimeError for sparse gradients.
        """
        loss = None if closure is None else evaluate(closure)
        refuse_sparse(self._all_params(), self)
        moves: list[Move] = []
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            exp_avgs: list[Tensor] = []
            exp_avg_sqs: list[Tensor] = []
            steps: list[Tensor] = []
            self._init_group(group, params, grads, exp_avgs, exp_avg_sqs, steps)
            if params:
                torch._foreach_add_(steps, 1)
                moves.append(Move(group, params, grads, exp_avgs, exp_avg_sqs, steps))
        if not torch.compiler.is_compiling() and any(self._spread_over()):
            self._move_shards(moves)
        else:
            for move in moves:
                take(local_parts(move))
        return loss

    def _init_group(
        self,
        group: Group,
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        steps: list[Tensor],
    ) -> None:
        """Fill the lists with the parameters that have a gradient and with their state, creating it if needed.

        torch.compile does not compile a method of this name but calls it.
        """
        for param in group["params"]:
            if param.grad is not None:
                state = self.state.setdefault(param, {})
                if not state:
                    state.update(fresh_state(param))
                params.append(param)
                grads.append(param.grad)
                exp_avgs.append(state["exp_avg"])
                exp_avg_sqs.append(state["exp_avg_sq"])
                steps.append(state["step"])

    # Sharded parameters.

    def _spread_over(self) -> dict[tuple[ProcessGroup, ...], list[Tensor]]:
        """The parameters by the groups of ranks that hold shards of them."""
        if self._spread is None:
            self._spread, group = {}, resolve(self.process_group)
            for param in self._all_params():
                self._spread.setdefault(holders(param, group), []).append(param)
        return self._spread

    def _move_shards(self, moves: Sequence[Move]) -> None:
        """Take the step with the share of agreeing elements counted over all ranks.

        Every rank takes part in the same sums, whatever shards and gradients it has.
        """
        zero = torch.zeros((), dtype=torch.float64, device=local(self._all_params()[0]).device)
        counts = dict.fromkeys(self._all_params(), (zero, zero))  # agreeing elements, and all elements
        done = []
        for move in moves:
            part = local_parts(move)
            masked, agreeing = masked_updates(part)
            for param, grad, number in zip(move.params, part.grads, agreeing, strict=True):
                counts[param] = number.to(zero), torch.full_like(zero, grad.numel())
            done.append((move.params, part, masked))
        shares: dict[Tensor, Tensor] = {}
        for groups, params in self._spread_over().items():
            summed = total(torch.stack([number for param in params for number in counts[param]]), groups).view(-1, 2)
            shares.update(zip(params, (summed[:, 0] / summed[:, 1].clamp(min=1)).unbind(), strict=True))
        for params, part, masked in done:
            descend(part, masked, [shares[param].to(param.device) for param in params])


class Move(NamedTuple):
    """Parameters of one group, with their gradients and state, that are updated together."""

    group: Group
    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]


def fresh_state(param: Tensor) -> State:
    """The state of a parameter before its first step."""
    step = torch.zeros((), dtype=torch.float32)  # on the CPU, so that reading it makes no step wait
    return {"step": step, "exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}


def local_parts(move: Move) -> Move:
    """The same move restricted to this rank's shards."""
    if not any(map(is_distributed, move.params)):
        return move
    grads = [local_gradient(param) for param in move.params]
    rest = ([local(tensor) for tensor in column] for column in move[3:])
    return Move(move.group, [local(param) for param in move.params], grads, *rest)


def take(move: Move) -> None:
    """Take the step, one parameter after another on a CPU and with lists of parameters elsewhere."""
    foreach, is_compiling = move.group["foreach"], torch.compiler.is_compiling()
    lists: dict[Any, list[int]] = {}
    for i, (param, *others) in enumerate(zip(*move[1:], strict=True)):
        if not foreach and not is_compiling and fits_kernel_of_cpu([param], *([other] for other in others[:-1])):
            take_in_pieces(move.group, param, *others)
        else:
            lists.setdefault(i if foreach is False else (param.device, param.dtype), []).append(i)
    for members in lists.values():
        params, grads, exp_avgs, exp_avg_sqs, steps = ([column[i] for i in members] for column in move[1:])
        part = Move(move.group, params, grads, exp_avgs, exp_avg_sqs, steps)
        masked, agreeing = masked_updates(part)
        counts = [max(grad.numel(), 1) for grad in grads]
        descend(part, masked, [number / count for number, count in zip(agreeing, counts, strict=True)])


def take_in_pieces(
    group: Group, param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor
) -> None:
    """Take the step of one parameter in pieces that stay in a CPU's cache."""
    n, size = param.numel(), PIECE * torch.get_num_threads()
    lr = float(group["lr"])
    kept = 1 - lr * group["weight_decay"]
    if n <= size:
        update, agrees = fused_update(group, grad, exp_avg, exp_avg_sq, step, torch.empty_like(param))
        rate = lr / max(agrees.sum().item() / max(n, 1), LEAST)
        param.mul_(kept).addcmul_(update, agrees, value=rate)
        return
    param, grad, exp_avg, exp_avg_sq = (flat(tensor) for tensor in (param, grad, exp_avg, exp_avg_sq))
    masked, count = torch.empty_like(param), 0.0
    pieces = [slice(start, start + size) for start in range(0, n, size)]
    for piece in pieces:
        update, agrees = fused_update(group, grad[piece], exp_avg[piece], exp_avg_sq[piece], step, masked[piece])
        update.mul_(agrees)
        count += agrees.sum().item()
    rate = lr / max(count / n, LEAST)
    for piece in pieces:
        param[piece].mul_(kept).add_(masked[piece], alpha=rate)


def flat(tensor: Tensor) -> Tensor:
    """View a tensor without gaps as a vector (n,) in the order of its memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


# The functions below return -u, which is added to the parameters; u is Adam's update.


def fused_update(
    group: Group, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Update the moments with torch's fused kernel, and return -u and the mask.

    The kernel adds -u to `out`, which starts from zero and stands in for the parameters.
    """
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(
        [out.zero_()],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        lr=1.0,
        beta1=beta1,
        beta2=beta2,
        weight_decay=0.0,
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
    return out, mask(out * grad, group)


def masked_updates(move: Move) -> tuple[list[Tensor], list[Tensor]]:
    """Update the moments, and return the masked -u and the number () of agreeing elements for each parameter."""
    updates = plain_updates(move)
    masks = [mask(product, move.group) for product in torch._foreach_mul(updates, move.grads)]
    torch._foreach_mul_(updates, masks)
    # The counts have the parameter's dtype, but at least float32.
    return updates, [agrees.sum(dtype=torch.promote_types(agrees.dtype, torch.float32)) for agrees in masks]


def mask(product: Tensor, group: Group) -> Tensor:
    """Overwrite the product of -u and the gradient with the mask: 1 where they agree, 0 elsewhere."""
    return product.gt_(0) if group["maximize"] else product.lt_(0)


def plain_updates(move: Move) -> list[Tensor]:
    """Update the moments with separate calls, and return -u for each parameter."""
    (beta1, beta2), grads = move.group["betas"], move.grads
    if move.group["maximize"]:
        grads = list(torch._foreach_neg(grads))
    torch._foreach_lerp_(move.exp_avgs, grads, 1 - beta1)
    torch._foreach_mul_(move.exp_avg_sqs, beta2)
    torch._foreach_addcmul_(move.exp_avg_sqs, grads, grads, 1 - beta2)
    denominators = torch._foreach_sqrt(move.exp_avg_sqs)
    on_host = move.steps[0].device.type == "cpu" and not torch.compiler.is_compiling()
    # float64: in float32, 1 - 0.999^step has only four correct digits
    steps: list[Any] = [step.item() if on_host else step.double() for step in move.steps]
    torch._foreach_div_(denominators, [(1 - beta2**step) ** 0.5 for step in steps])
    torch._foreach_add_(denominators, move.group["eps"])
    updates = torch._foreach_div(move.exp_avgs, denominators)
    torch._foreach_div_(updates, [beta1**step - 1 for step in steps])
    return list(updates)


def descend(move: Move, updates: list[Tensor], shares: Sequence[Tensor]) -> None:
    """Decay the parameters, and add the masked updates divided by the shares () of agreeing elements."""
    lr = move.group["lr"]
    scale_(move.params, 1 - lr * move.group["weight_decay"])
    torch._foreach_mul_(updates, [lr / share.clamp(min=LEAST) for share in shares])
    torch._foreach_add_(move.params, updates)
