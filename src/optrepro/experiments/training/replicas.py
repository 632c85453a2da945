"""Several copies of one network trained side by side, each with its own weights, data and optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from optrepro.problems.data.images import Split
from optrepro.problems.networks import classic, lora

Gradients = list[list[Tensor]]
CHUNK = 2000  # predictions made at once in an evaluation
EXAMPLES = 250  # and examples: the activations of more fit no cache of a CPU, 20 to 40 % slower
IGNORED = -100  # what torch's cross-entropy leaves out


class Models(Protocol):
    """R copies of a network. `parameters[r]` are the tensors that the optimizer of copy r steps in place.

    `names` are the names of one copy's, in their order. Parameters that need no gradient are left out of both. A
    network takes inputs (B, ...) and gives logits (B, C), or (B, T, C) for sequences; a label of `IGNORED` is not
    scored.
    """

    names: list[str]
    parameters: list[list[Tensor]]

    def gradients(self, images: Tensor, labels: Tensor, probe: bool = False) -> tuple[Tensor, Gradients]:
        """Cross-entropy (R,) and gradients of every copy; inputs (R, B, ...), labels (R, B) or (R, B, T).

        A probe leaves the running statistics of batch norm as they are: nothing is learned from its examples.
        """

    def evaluate(self, split: Split) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and accuracy of every copy over a split: two tensors (R,)."""

    def state(self) -> Any:
        """Weights and buffers, for a checkpoint."""

    def load_state(self, state: Any) -> None:
        """Take the weights and buffers of a checkpoint."""


def build(name: str, copies: Sequence[nn.Module], bfloat16: bool = False) -> Models:
    """The copies as stacked tensors where the network allows it and it pays, else one by one."""
    return Stacked(copies, bfloat16) if classic.stackable(name) else Separate(copies, bfloat16)


class Stacked:
    """All copies in one batched program (`torch.func`); each copy's parameters are views of the stack."""

    def __init__(self, copies: Sequence[nn.Module], bfloat16: bool):
        self._stack, _ = stack_module_state(list(copies))
        self._skeleton = copies[0]
        self._bfloat16 = bfloat16
        self.names = list(self._stack)
        self.parameters = [[p.detach()[r] for p in self._stack.values()] for r in range(len(copies))]

    def gradients(self, images: Tensor, labels: Tensor, probe: bool = False) -> tuple[Tensor, Gradients]:
        """See `Models`; a dense network has no running statistics."""

        def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
            return _cross_entropy(self._forward(weights, images), labels)

        losses = vmap(loss)(self._stack, images, labels)
        stacked = torch.autograd.grad(losses.sum(), list(self._stack.values()))
        by_run = zip(*(g.unbind() for g in stacked), strict=True)
        return losses.detach(), [list(gradients) for gradients in by_run]

    @torch.no_grad()
    def evaluate(self, split: Split) -> tuple[Tensor, Tensor]:
        """See `Models`."""
        forward = vmap(self._forward, in_dims=(0, None))
        return _averages(lambda images: forward(self._stack, images), split)

    def state(self) -> Any:
        """See `Models`."""
        return {name: p.detach().clone() for name, p in self._stack.items()}

    def load_state(self, state: Any) -> None:
        """See `Models`."""
        for name, p in self._stack.items():
            p.detach().copy_(state[name])

    def _forward(self, weights: dict[str, Tensor], images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._bfloat16):
            output: Tensor = functional_call(self._skeleton, weights, (images,))
        return output.float()


class Separate:
    """The copies one after the other: for batch norm, and for convolutions and transformers, where stacking costs time.

    Args:
        copies: of one network.
        bfloat16: compute in that precision; parameters and losses stay in float32.
        chunk: predictions made at once in an evaluation.
    """

    def __init__(self, copies: Sequence[nn.Module], bfloat16: bool, chunk: int = CHUNK):
        self.copies = [module.train() for module in copies]  # parts of a model of the hub come in the other mode
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
        """See `Models`; what is frozen is left out."""
        return [{k: v for k, v in m.state_dict().items() if k not in self._frozen} for m in self.copies]

    def load_state(self, state: Any) -> None:
        """See `Models`."""
        for module, saved in zip(self.copies, state, strict=True):
            module.load_state_dict({**module.state_dict(), **saved})

    def _switch_mode(self, r: int, training: bool, keep_statistics: bool) -> None:
        if self.copies[r].training != training:  # a walk through all modules, too long for every step
            self.copies[r].train(training)
        for layer in self._norms[r]:
            layer.track_running_stats = keep_statistics

    def _forward(self, module: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self._bfloat16):
            output: Tensor = module(images)
        return output.float()


class Adapted(Separate):
    """Copies of a backbone with adapters of their own, which in float32 are added to its weights before each call."""

    def _forward(self, module: nn.Module, images: Tensor) -> Tensor:
        return super()._forward(module, images) if self._bfloat16 else lora.merged_call(module, images)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labels (B,) or (B, T) that are scored."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)


def _averages(logits_of: Any, split: Split, chunk: int = CHUNK) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy (R,) over a split, from a function that gives logits (R, B, ..., classes)."""
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
