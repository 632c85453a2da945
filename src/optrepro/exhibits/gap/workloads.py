"""The workloads of the gradient diagnostics in figures and tables: names, looks, and short names of tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

from matplotlib.axes import Axes

from optrepro.exhibits import style
from optrepro.exhibits.style import Look

SUMS = {"all": "all tensors", "preconditioned": "all, with Adam's weights"}
MEMORIES = (0.5, 0.9, 0.99)  # candidates whose memories 1 / (1 - m) are marked
_TITLES = {"perceptron": "Perceptron", "cnn": "CNN", "gpt": "GPT, LoRA", "vit": "ViT, LoRA"}
_LOOKS = (
    Look("#0072B2", "o", "-"),
    Look("#E69F00", "s", (0, (4.0, 1.5))),
    Look("#009E73", "^", (0, (1.0, 1.2))),
    Look("#CC79A7", "D", (0, (4.0, 1.3, 1.0, 1.3))),
    Look("#222222", "v", "-"),
    Look("#56B4E9", "P", (0, (4.0, 1.5))),
)
# Parts of the names of adapters' tensors that do not describe the place in the network.
_WRAPPERS = re.compile(r"\b(base_model|model|module|transformer|default|modules_to_save|vit|network|backbone)\b\.?")


def title(workload: str) -> str:
    """The title of a workload; that of an unlisted one is its key."""
    return _TITLES.get(workload, workload)


def looks(workloads: Iterable[str]) -> dict[str, Look]:
    """A look for each workload, by its position."""
    names = list(dict.fromkeys(workloads))
    return {name: _LOOKS[i % len(_LOOKS)] for i, name in enumerate(names)}


def tensor(name: str) -> str:
    """A tensor's name without the wrappers of adapters: "base_model.model.h.0.fc.lora_A.weight" -> "h.0.fc A"."""
    if name in SUMS:
        return SUMS[name]
    short = _WRAPPERS.sub("", name)
    return re.sub(r"\.lora_([AB])\.weight$", r" \1", short).strip(".")


def rule(optimizer: str) -> str:
    """A short name of a rule, from its key."""
    return re.sub(r"-each$", ", per tensor", optimizer)


def mark_memories(axes: Axes, high: float) -> None:
    """Labelled vertical lines at the candidates' memories, in steps, within the limits of the x-axis."""
    left, right = axes.get_xlim()
    for momentum in MEMORIES:
        steps = 1 / (1 - momentum)
        if not left <= steps <= right:
            continue
        axes.axvline(steps, color=style.candidate_color(momentum), linewidth=1, linestyle=(0, (2, 1.5)), zorder=1)
        axes.annotate(
            f"{momentum:g}",
            (steps, high),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=style.candidate_color(momentum),
            annotation_clip=False,
        )
