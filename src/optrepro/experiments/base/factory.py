"""Makes optimizers from their config entries: any importable class that takes parameters and a learning rate."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optrepro.settings import ConfigError
from optrepro.studies.comparison import OptimizerConfig


def optimizer_class(path: str) -> type[torch.optim.Optimizer]:
    """Return the optimizer class at a dotted import path.

    Raises: ConfigError if the path cannot be imported or is not an optimizer.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"class = {path!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"class = {path!r} is not a torch.optim.Optimizer")
    return found


def make(
    config: OptimizerConfig,
    parameters: Sequence[Tensor] | Sequence[dict[str, Any]],
    learning_rate: float,
    seed: int = 0,
    shares: Sequence[float] | None = None,
) -> torch.optim.Optimizer:
    """Make the optimizer of a config entry; `seed` and `lr` are passed to classes that accept them.

    Raises: ConfigError with the settings that the class refuses and the class's own message.
    """
    cls = optimizer_class(config.class_)
    accepted = inspect.signature(cls).parameters
    settings = _as_tuples(config.settings)
    if "lr" in accepted:
        settings["lr"] = learning_rate
    if "seed" in accepted:
        settings.setdefault("seed", seed)
    if shares is not None:
        settings["shares"] = tuple(shares)
    try:
        return cls(parameters, **settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings = {config.settings} are not allowed for {config.class_}: {error}") from None


def _as_tuples(value: Any) -> Any:
    """Turn the lists of YAML into the tuples that optimizers take."""
    if isinstance(value, dict):
        return {key: _as_tuples(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_as_tuples(inner) for inner in value)
    return value
