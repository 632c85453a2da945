"""Vision transformers: a small ViT, and pretrained models of the hub."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optrepro.problems.networks import hub
from optrepro.problems.networks.classic import seeded

HEAD = "network.classifier"  # name of the layer that outputs the logits


class VisionModel(nn.Module):
    """An image classifier of `transformers` that takes images (B, C, H, W) and returns logits (B, classes).

    Args:
        network: the classifier.
        size: height and width to which images are scaled; None: images have the right size.
        channels: number of channels of its images; grey images are repeated. None: images have the right number.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int] | None = None, channels: int | None = None):
        super().__init__()
        self.network = network
        self.size = size
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, classes)."""
        if self.channels is not None and images.shape[1] == 1:
            images = images.expand(-1, self.channels, -1, -1)
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


def vit(
    input_shape: Sequence[int], classes: int, patch: int, width: int, layers: int, heads: int, seed: int
) -> nn.Module:
    """Build a ViT without dropout on the CPU; its initial weights depend only on the arguments.

    Args:
        input_shape: (C, H, W) of an image.
        classes: number of logits.
        patch: side of a patch in pixels; divides H and W.
        width: size of a token's representation, a multiple of `heads`; the blocks' perceptrons have 4 times as many.
        layers: number of blocks.
        heads: number of attention heads.
        seed: seed of the initialization; global random states are not changed.

    Raises: ValueError for a size below 1, a width that is no multiple of heads, or a patch that does not fit the image.
    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), in the form and with the initialization of `transformers`.
    """
    from transformers import ViTConfig, ViTForImageClassification

    hub.check_sizes(width, heads, classes=classes, patch=patch, layers=layers)
    if len(input_shape) != 3:
        raise ValueError(f"input_shape = {tuple(input_shape)} is not allowed; a ViT takes images of shape (C, H, W)")
    channels, height, breadth = input_shape
    if height % patch or breadth % patch:
        raise ValueError(f"patch = {patch} does not divide images of {height} x {breadth} pixels")
    settings = ViTConfig(  # type: ignore[call-arg]  # every config accepts num_labels and attn_implementation
        image_size=(height, breadth),
        patch_size=patch,
        num_channels=channels,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        num_labels=classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",  # 10 % faster than "eager" on a CPU
    )
    with seeded(seed):
        return VisionModel(ViTForImageClassification(settings))


def from_hub(name: str, revision: str, classes: int, timeout: float = hub.TIMEOUT) -> nn.Module:
    """Load a pretrained image classifier (ViT, DINO, DINOv2) on the CPU, in float32, with a new head.

    The head is not drawn from a seed, because `lora.lora` draws it anew. Images keep the normalization of their data
    set.

    Args:
        name: "owner/model" on the hub, or a folder.
        revision: commit of the model.
        classes: number of logits.
        timeout: seconds to wait for the hub if the model is not on this machine.

    Raises: ConnectionError if the model is not on this machine and the hub cannot be reached.
    """
    from transformers import AutoModelForImageClassification

    hub.check_sizes(1, 1, classes=classes)
    with seeded(0):
        network = hub.load(
            AutoModelForImageClassification.from_pretrained,
            name,
            revision,
            timeout,
            num_labels=classes,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    # DINOv2 was mostly pretrained at 224 pixels, but its config has the 518 of the last steps; positions interpolate.
    size = 224 if network.config.model_type.startswith("dinov2") else network.config.image_size
    height, breadth = (size, size) if isinstance(size, int) else size
    return VisionModel(network, (height, breadth), network.config.num_channels)
