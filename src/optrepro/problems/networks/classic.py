"""Image classifiers: softmax regression, perceptron, small CNN, and ResNet-18 in its CIFAR form.

Each takes images (B, C, H, W), or vectors (B, D) if it is dense, and returns logits (B, classes).
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def softmax(input_shape: Sequence[int], classes: int) -> nn.Module:
    """Build softmax regression: one linear layer, a convex problem."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), classes))


def perceptron(input_shape: Sequence[int], classes: int, hidden: int = 128) -> nn.Module:
    """Build a ReLU perceptron with one hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), hidden), nn.ReLU(), nn.Linear(hidden, classes))


def cnn(input_shape: Sequence[int], classes: int, width: int = 16) -> nn.Module:
    """Build three 3 x 3 convolutions of stride 2 with `width`, 2 `width` and 4 `width` channels, and a linear layer.

    The network has no batch norm, so its loss is a plain mean over examples.
    """
    channels, height, breadth = input_shape
    layers: list[nn.Module] = []
    for filters in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(channels, filters, 3, stride=2, padding=1), nn.ReLU()]
        channels, height, breadth = filters, math.ceil(height / 2), math.ceil(breadth / 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * breadth, classes))


class BasicBlock(nn.Module):
    """Residual block of two 3 x 3 convolutions, with a 1 x 1 convolution on the shortcut if the shape changes."""

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != filters:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, filters, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(residual + self.shortcut(x))


class ChannelsLast(nn.Module):
    """Images with the channels of a pixel side by side in memory, as every later layer then keeps them."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same values."""
        return images.contiguous(memory_format=torch.channels_last)


def resnet18(input_shape: Sequence[int], classes: int, width: int = 64) -> nn.Module:
    """Build ResNet-18 in its CIFAR form: a 3 x 3 stem of stride 1, and no pooling before the blocks; 11.2 M parameters.

    With another `width` than 64, all layers have proportionally more or fewer channels. Channels are last in memory:
    with 8 of them, a step then takes two thirds of the time on a CPU.

    Source: He et al. 2016 (arXiv 1512.03385); the stem for small images is chosen, as is usual on CIFAR.
    """
    layers: list[nn.Module] = [
        ChannelsLast(),
        nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for filters, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        layers += [BasicBlock(channels, filters, stride), BasicBlock(filters, filters, 1)]
        channels = filters
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # He et al. 2015 (arXiv 1502.01852)
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "softmax": softmax,
    "perceptron": perceptron,
    "cnn": cnn,
    "resnet18": resnet18,
}
_COMMON = ("input_shape", "classes")
# Dense layers stack into one batched product. Stacked convolutions would be correct too, but are 1.8 times slower than
# a loop on a CPU (measured). Batch norm cannot be stacked, because its running statistics are updated in place.
_DENSE = ("softmax", "perceptron")


def names() -> list[str]:
    """Return the names of the networks."""
    return list(_NETWORKS)


def build(name: str, input_shape: Sequence[int], classes: int, *, seed: int, **settings: Any) -> nn.Module:
    """Build a network on the CPU; its initial weights depend only on the arguments.

    Weights have PyTorch's default initialization, those of ResNet's convolutions that of He et al. 2015.

    Args:
        name: one of `names()`.
        input_shape: shape of one input, (C, H, W), or any shape for the dense networks.
        classes: number of logits.
        seed: seed of the initialization; global random states are not changed.
        settings: keyword arguments of the network's function: `hidden` of the perceptron, `width` of the CNN and of
            ResNet-18.

    Raises: ValueError for an unknown name or setting, a size below 1, or an input of another shape than (C, H, W) for
    a convolutional network.
    """
    network = _network(name)
    known = [setting for setting in inspect.signature(network).parameters if setting not in _COMMON]
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"unknown setting {setting} = {value!r} of {name}: it has {', '.join(known) or 'none'}")
        if value < 1:
            raise ValueError(f"{setting} = {value!r} of {name} is not at least 1")
    if classes < 1:
        raise ValueError(f"classes = {classes} is not at least 1")
    if name not in _DENSE and len(input_shape) != 3:
        raise ValueError(f"input_shape = {tuple(input_shape)}: {name} takes images of shape (C, H, W)")
    with seeded(seed):
        return network(input_shape, classes, **settings)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block, create tensors on the CPU from this seed; global random states are restored afterwards."""
    # Seeds only the CPU's generator; torch.manual_seed would also reset those of all GPUs.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield


def stackable(name: str) -> bool:
    """Whether copies of a network should run as one stacked batch: a chain of dense layers. Raises: ValueError."""
    _network(name)
    return name in _DENSE


def _network(name: str) -> Callable[..., nn.Module]:
    if name not in _NETWORKS:
        raise ValueError(f"unknown network {name!r}: choose from {', '.join(_NETWORKS)}")
    return _NETWORKS[name]
