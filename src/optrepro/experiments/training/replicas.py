"""Several copies of one network trained side by side, each with its own weights, data and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import stack_module_state

from optrepro.problems.data.images import Split
from optrepro.problems.networks import classic, lora

Gradients = list[list[Tensor]]
CHUNK = 2000  # largest number of predictions computed at once in an evaluation
EXAMPLES = 250  # largest number of examples at once; with more, activations leave the CPU's cache: 20 to 40 % slower
IGNORED = -100  # label that torch's cross-entropy leaves out


class Models(Protocol):
    """R copies of a network, which maps inputs (B, ...) to logits (B, C), or (B, T, C) for sequences.

    `parameters[r]` are the tensors that the optimizer of copy r changes in place, and `names` are their names;
    parameters that need no gradient are left out of both. Labels equal to `IGNORED` are not scored.
    """

    names: list[str]
    parameters: list[list[Tensor]]

    def gradients(self, images: Tensor, labels: Tensor, probe: bool = False) -> tuple[Tensor, Gradients]:
        """Return cross-entropies (R,) and gradients; inputs are (R, B, ...), labels (R, B) or (R, B, T).

        A probe does not update the running statistics of batch norm, so that nothing is learned from its examples.
        """

    def evaluate(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return mean cross-entropy (R,) and accuracy (R,) of the copies over a split."""

    def state(self) -> Any:
        """Return weights and buffers for a checkpoint."""

    def load_state(self, state: Any) -> None:
        """Load the weights and buffers of a checkpoint."""


def build(name: str, copies: Sequence[nn.Module], bfloat16: bool = False) -> Models:
    """Stack the copies if that is possible and faster for the network; otherwise keep them separate."""
    return Stacked(copies, bfloat16) if classic.stackable(name) else Separate(copies, bfloat16)


class Stacked:
    """Copies of a chain of dense layers in one batched program; the parameters of each copy are views of the stack.

    Examples are columns, so that autograd makes the gradients of weights contiguous: that takes half of the time of
    `torch.func.vmap`'s, which come transposed, and optimizers read them faster.
    """

    def __init__(self, copies: Sequence[nn.Module], bfloat16: bool):
        self._stack, _ = stack_module_state(list(copies))
        self._chain = dict(copies[0].named_children())
        self._bfloat16 = bfloat16
        self.names = list(self._stack)
        self.parameters = [[p.detach()[r] for p in self._stack.values()] for r in range(len(copies))]

    def gradients(self, images: Tensor, labels: Tensor, probe: bool = False) -> tuple[Tensor, Gradients]:
        """See `Models`; `probe` has no effect, because stackable networks have no running statistics."""
        logits = self._forward(images.flatten(2))
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
        losses = each.view_as(labels).sum(1) / (labels != IGNORED).sum(1)
        stacked = torch.autograd.grad(losses.sum(), list(self._stack.values()))
        by_run = zip(*(g.unbind() for g in stacked), strict=True)
        return losses.detach(), [list(gradients) for gradients in by_run]

    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[Tensor, Tensor]:
        """See `Models`."""
        return _averages(lambda images: self._forward(images.flatten(1)), split)

    def state(self) -> Any:
        """See `Models`."""
        return {name: p.detach().clone() for name, p in self._stack.items()}

    def load_state(self, state: Any) -> None:
        """See `Models`."""
        for name, p in self._stack.items():
            p.detach().copy_(state[name])

    def _forward(self, inputs: Tensor) -> Tensor:
        """Map (R, B, D), or (B, D) for all copies, to logits (R, B, C)."""
        columns = inputs.mT
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self._bfloat16):
            for name, layer in self._chain.items():
                if isinstance(layer, nn.Linear):
                    weight, bias = self._stack[f"{name}.weight"], self._stack[f"{name}.bias"]
                    if columns.ndim == 2:  # inputs of all copies: in this order one product, in two thirds of the time
                        product = F.linear(columns.mT, weight.flatten(0, 1)).mT.view(*weight.shape[:2], -1)
                    else:
                        product = weight @ columns
                    columns = product + bias[..., None]
                elif not isinstance(layer, nn.Flatten):
                    columns = layer(columns)
        return columns.mT.contiguous().float()


class Separate:
    """Copies computed one after the other: for batch norm, convolutions and transformers, where stacking is slower.

    Args:
        copies: copies of one network.
        bfloat16: whether to compute in bfloat16; parameters and losses stay in float32.
        chunk: largest number of predictions computed at once in an evaluation.
    """

    def __init__(self, copies: Sequence[nn.Module], bfloat16: bool, chunk: int = CHUNK):
        self.copies = [module.train() for module in copies]  # hub models load in eval mode
        self._bfloat16 = bfloat16
        self._chunk = chunk
        self._norms = [[m for m in module.modules() if isinstance(m, nn.BatchNorm2d)] for module in self.copies]
        trained = [[(n, p) for n, p in module.named_parameters() if p.requires_grad] for module in self.copies]
        self.names = [name for name, _ in trained[0]]
        every = self.copies[0].named_parameters(remove_duplicate=False)
        self._frozen = {name for name, p in every if not p.requires_grad}
        self.parameters: list[list[Tensor]] = [[p for _, p in of_copy] for of_copy in trained]

    def gradients(self, images: Tensor, labels: Tensor, probe: bool = False) -> tuple[Tensor, Gradients]:
        """See `Models`."""
        losses, gradients = [], []
        for r, module in enumerate(self.copies):
            self._switch_mode(r, training=True, keep_statistics=not probe)
            loss = _cross_entropy(self._forward(module, images[r]), labels[r])
            gradients.append(list(torch.autograd.grad(loss, self.parameters[r])))
            losses.append(loss.detach())
        return torch.stack(losses), gradients

    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[Tensor, Tensor]:
        """See `Models`."""
        for r in range(len(self.copies)):
            self._switch_mode(r, training=False, keep_statistics=True)
        return _averages(
            lambda images: torch.stack([self._forward(m, images) for m in self.copies]), split, self._chunk
        )

    def state(self) -> Any:
        """See `Models`; frozen weights are left out."""
        return [{k: v for k, v in m.state_dict().items() if k not in self._frozen} for m in self.copies]

    def load_state(self, state: Any) -> None:
        """See `Models`."""
        for module, saved in zip(self.copies, state, strict=True):
            module.load_state_dict({**module.state_dict(), **saved})

    def _switch_mode(self, r: int, training: bool, keep_statistics: bool) -> None:
        if self.copies[r].training != training:  # train() visits all modules, too slow for every step
            self.copies[r].train(training)
        for layer in self._norms[r]:
            layer.track_running_stats = keep_statistics

    def _forward(self, module: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._bfloat16):
            output: Tensor = module(images)
        return output.float()


class Adapted(Separate):
    """Copies of a backbone, each with its own adapters; in float32, adapters are merged into the weights per call."""

    def __init__(self, copies: Sequence[nn.Module], bfloat16: bool, chunk: int = CHUNK):
        super().__init__(copies, bfloat16, chunk)
        self._adapted = {module: lora.layers(module) for module in copies}

    def _forward(self, module: nn.Module, images: Tensor) -> Tensor:
        if self._bfloat16:
            return super()._forward(module, images)
        return lora.merged_call(module, self._adapted[module], images)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over the scored labels, (B,) or (B, T)."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def _averages(logits_of: Any, split: Split, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Return mean cross-entropy (R,) and accuracy (R,) over a split; `logits_of` gives logits (R, B, ..., classes)."""
    losses: Tensor | float = 0.0
    hits: Tensor | float = 0.0
    size = max(min(chunk // split.labels[0].numel(), EXAMPLES), 1)
    for images, labels in zip(torch.split(split.images, size), torch.split(split.labels, size), strict=True):
        logits = logits_of(images)
        targets = labels.expand(logits.shape[:-1])
        each = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none", ignore_index=IGNORED)
        losses = losses + each.view(len(logits), -1).sum(1)
        hits = hits + (logits.argmax(-1) == targets).flatten(1).sum(1)
    count = int((split.labels != IGNORED).sum())
    assert isinstance(losses, Tensor)
    assert isinstance(hits, Tensor)
    return losses / count, hits / count
