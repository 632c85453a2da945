"""Low-rank adapters (LoRA) through `peft`, and the weights of their backbones as safetensors."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from optrepro import damage
from optrepro.problems.networks.classic import seeded


def lora(
    module: nn.Module,
    rank: int,
    alpha: float,
    targets: Sequence[str] | None,
    seed: int,
    head: str | None = None,
) -> nn.Module:
    """Freeze a backbone and add adapters to its linear layers, in place: W + (alpha / rank) B A, with B = 0 initially.

    Args:
        module: backbone on the CPU. The name of an adapter contains that of its layer, as in
            ``network.transformer.h.0.attn.c_attn.lora_A.default.weight``.
        rank: rank of B A.
        alpha: scale of B A, times `rank`.
        targets: last parts of the names of the adapted layers; None: every linear layer of the blocks.
        seed: seed of A and of the head; global random states are not changed.
        head: name of the layer that outputs the logits of a new task; it is drawn anew and trained as a whole.

    Returns the module; only adapters and head require gradients.

    Raises: ValueError for a rank below 1, an alpha that is not positive, or a target that is no linear layer.
    Source: Hu et al. 2021 (arXiv 2106.09685); A is drawn as `peft` draws it.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    if rank < 1:
        raise ValueError(f"rank = {rank} is not at least 1")
    if not alpha > 0:
        raise ValueError(f"alpha = {alpha} is not positive")
    chosen = _targets(module, targets)
    transposed = any(isinstance(module.get_submodule(name), Conv1D) for name in chosen)
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, fan_in_fan_out=transposed)  # type: ignore[arg-type]
    with seeded(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # asked by peft
        inject_adapter_in_model(settings, module)
        if head is not None:
            layer = module.get_submodule(head)
            assert isinstance(layer, nn.Linear)
            layer.reset_parameters()
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name or _belongs(name, head))
    return module


def layers(module: nn.Module) -> dict[str, Any]:
    """Return the adapted layers of a backbone by name, for `merged_call`."""
    from peft.tuners.lora import Linear

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Linear)}


def merged_call(module: nn.Module, adapted: Mapping[str, Any], inputs: Tensor) -> Tensor:
    """Call a backbone, whose `layers` are `adapted`, with merged weights W + (alpha / rank) B A.

    Outputs and gradients equal those of ``module(inputs)`` up to rounding. Merging needs fewer and larger products,
    which is faster for small backbones on a CPU; for large ones gradients are slower, because the gradient of B A is as
    large as W. It must not be used in bfloat16, where small adapters would be lost in the sum.
    """
    weights = {
        f"{name}.base_layer.weight": layer.base_layer.weight + layer.get_delta_weight("default")
        for name, layer in adapted.items()
    }
    for layer in adapted.values():
        layer.merged_adapters.append("default")  # tells `peft` that the weights include the adapters
    try:
        # Looking for tied weights would take a tenth of the time; an adapter changes one layer alone.
        output: Tensor = functional_call(module, weights, (inputs,), tie_weights=False)
    finally:
        for layer in adapted.values():
            layer.merged_adapters.clear()
    return output


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def save(module: nn.Module, path: Path) -> None:
    """Write the weights of a backbone without adapters; equal weights give equal bytes."""
    from safetensors.torch import save_file

    # named_parameters lists a tied weight once; state_dict lists it under each of its names.
    save_file({name: p.detach().cpu().contiguous() for name, p in module.named_parameters()}, path)


def load(module: nn.Module, path: Path, head: str | None = None) -> nn.Module:
    """Load weights that `save` wrote into a backbone, in place, except those of `head`, the layer of a new task.

    Raises: ValueError for a file whose weights do not fit the backbone; DamagedFileError for one that holds none.
    """
    from safetensors.torch import load_file

    with damage.reading(path, "weights in safetensors"):
        found = load_file(path)
    saved = {name: weight for name, weight in found.items() if not _belongs(name, head)}
    own = {name: p for name, p in module.named_parameters() if not _belongs(name, head)}
    if (there := _shapes(saved)) != (wanted := _shapes(own)):
        differing = sorted(name for name in there | wanted if there.get(name) != wanted.get(name))
        raise ValueError(
            f"{path} does not fit the backbone: {differing[0]} has the shape {there.get(differing[0])} in the file and "
            f"{wanted.get(differing[0])} in the backbone"
        )
    for name, parameter in own.items():
        parameter.data.copy_(saved[name])
    return module


def _belongs(name: str, layer: str | None) -> bool:
    return layer is not None and name.startswith(f"{layer}.")


def _shapes(weights: dict[str, Tensor] | dict[str, nn.Parameter]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _targets(module: nn.Module, wanted: Sequence[str] | None) -> list[str]:
    """Return the full names of the layers to adapt."""
    from transformers.pytorch_utils import Conv1D

    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear | Conv1D)]
    if wanted is None:
        # Blocks are in lists, so the names of their layers contain a number; that of the head does not.
        return [name for name in linear if any(part.isdecimal() for part in name.split("."))]
    for target in wanted:
        if not any(_ends(name, target) for name in linear):
            raise ValueError(f"targets: {target!r} is not a linear layer; allowed are {', '.join(linear)}")
    return [name for name in linear if any(_ends(name, target) for target in wanted)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
