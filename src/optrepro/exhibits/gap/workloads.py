"""The workloads of the gradient diagnostics in figures and tables: their names, and short names of tensors."""

from __future__ import annotations

import re

from matplotlib.axes import Axes

from optrepro.exhibits import style

SUMS = {"all": "all tensors", "preconditioned": "all, with Adam's weights"}
MEMORIES = (0.5, 0.9, 0.99)  # candidates whose memories 1 / (1 - m) are marked
_TITLES = {"perceptron": "Perceptron", "cnn": "CNN", "gpt": "GPT, LoRA", "vit": "ViT, LoRA"}
# Parts of the names of adapters' tensors that do not describe the place in the network.
_WRAPPERS = re.compile(r"\b(base_model|model|module|transformer|default|modules_to_save|vit|network|backbone)\b\.?")


def title(workload: str) -> str:
    """The title of a workload; that of an unlisted one is its key."""
    return _TITLES.get(workload, workload)


def tensor(name: str) -> str:
    """A tensor's name without the wrappers of adapters: "base_model.model.h.0.fc.lora_A.weight" -> "h.0.fc A"."""
    if name in SUMS:
        return SUMS[name]
    short = _WRAPPERS.sub("", name)
    return re.sub(r"\.lora_([AB])\.weight$", r" \1", short).strip(".")


def rule(optimizer: str) -> str:
    """A short name of a rule, from its key."""
    return re.sub(r"-each$", ", per tensor", optimizer)


def mark_memories(axes: Axes, top: float) -> None:
    """Vertical lines at the candidates' memories within the x-axis, with labels above `top`, the axis's upper end."""
    left, right = axes.get_xlim()
    for momentum in MEMORIES:
        steps = 1 / (1 - momentum)
        if not left <= steps <= right:
            continue
        axes.axvline(steps, color=style.candidate_color(momentum), linewidth=1, linestyle=(0, (2, 1.5)), zorder=1)
        axes.annotate(
            f"memory of {momentum:g}",
            (steps, top),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
            color=style.INK,
            annotation_clip=False,
        )
