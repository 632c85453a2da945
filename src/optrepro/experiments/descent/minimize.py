"""One run of one optimizer on one benchmark function, to look at: the points that it evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
import pandas as pd
import torch

from optrepro.experiments.descent import surfaces
from optrepro.experiments.descent.benchmark import descend, recorded
from optrepro.problems.functions import vlse
from optrepro.problems.functions.vlse import Function
from optrepro.settings import ConfigError
from optrepro.studies.comparison import OptimizerConfig

RESOLUTION = 121  # grid points along an axis of the contours


@dataclass(frozen=True)
class Choice:
    """An optimizer with its learning rate, in box coordinates, and the key of its colour in figures."""

    key: str
    config: OptimizerConfig
    learning_rate: float


def _choice(key: str, label: str, class_: str, rate: float, **settings: object) -> Choice:
    return Choice(key, OptimizerConfig(label=label, class_=class_, settings=settings), rate)


# Chosen: the learning rates do well over all functions in the published tuning runs of the study `vlse`.
OPTIMIZERS = {
    "pop": _choice("pop", "POP", "optrepro.optimizers.POP", 1.0, bounds=(0.0, 1.0)),
    "sgd": _choice("gradient-descent", "gradient descent", "torch.optim.SGD", 1e-3),
    "momentum": _choice("momentum", "momentum", "torch.optim.SGD", 1e-4, momentum=0.9),
    "nesterov": _choice("nesterov", "Nesterov", "torch.optim.SGD", 1e-4, momentum=0.9, nesterov=True),
    "rmsprop": _choice("rmsprop", "RMSprop", "torch.optim.RMSprop", 0.02),
    "adam": _choice("adam", "Adam", "torch.optim.Adam", 0.05),
    "adamw": _choice("adamw", "AdamW", "torch.optim.AdamW", 0.1),
    "adagrad": _choice("adagrad", "AdaGrad", "torch.optim.Adagrad", 0.2),
    "rprop": _choice("rprop", "Rprop", "torch.optim.Rprop", 0.2),
    "lbfgs": _choice("lbfgs", "L-BFGS", "torch.optim.LBFGS", 1.0, line_search_fn="strong_wolfe", history_size=10),
    "polyak": _choice("polyak", "Polyak (oracle)", "optrepro.optimizers.polyak.Polyak", 1.0),
}


def function(name: str, dim: int | None = None) -> Function:
    """Return a benchmark function. Raises: ConfigError for an unknown name or dimension, with the allowed ones."""
    try:
        return vlse.get(name, dim)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def optimizer(name: str, learning_rate: float | None = None) -> Choice:
    """Return an optimizer by its name in `OPTIMIZERS`, the file of a policy, or the dotted path of a class.

    Raises: ConfigError for an unknown name, a rate that is not positive, or a class without a rate.
    """
    if learning_rate is not None and learning_rate <= 0:
        raise ConfigError(f"lr = {learning_rate} is not allowed; it must be above 0")
    if name.endswith(".safetensors"):
        known = _choice("pop-trained", "POP", "optrepro.optimizers.POP", 1.0, bounds=(0.0, 1.0), policy=name)
    elif name in OPTIMIZERS:
        known = OPTIMIZERS[name]
    elif "." not in name:
        nearest = ", ".join(get_close_matches(name, OPTIMIZERS, cutoff=0.4)) or "none"
        raise ConfigError(
            f"optimizer = {name!r} is unknown (nearest: {nearest}); allowed are {', '.join(OPTIMIZERS)}, "
            "files of policies (.safetensors), and dotted paths of classes"
        )
    elif learning_rate is None:
        raise ConfigError(f"optimizer = {name!r} needs a learning rate; set --lr")
    else:
        known = _choice(name, name.rpartition(".")[2], name, learning_rate)
    return known if learning_rate is None else replace(known, learning_rate=learning_rate)


def minimize(f: Function, chosen: Choice, budget: int, seed: int) -> pd.DataFrame:
    """Run from a uniform random start, and return its evaluations: step (from 1), value, best, regret, x0, x1, ...

    A run that diverges, or whose point no longer changes, stops early and has fewer than `budget` rows.

    Raises: ConfigError for a budget below 1, or settings that the optimizer refuses.
    """
    if budget < 1:
        raise ConfigError(f"budget = {budget} is not allowed; it must be at least 1")
    u = torch.rand(f.dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rates = torch.tensor([[chosen.learning_rate]], dtype=torch.float64)
    made = descend(chosen.config, [f], [u[None]], rates, budget, seed)
    values, points = made.values[:, 0, 0, 0].numpy(), torch.lerp(f.lower, f.upper, made.paths[:, 0, 0]).numpy()
    path = pd.DataFrame({"step": range(1, budget + 1), "value": values, "best": np.minimum.accumulate(values)})
    path["regret"] = (path.best - f.optimum).clip(lower=0)
    path[[f"x{k}" for k in range(f.dim)]] = points
    finite: pd.DataFrame = path[np.isfinite(values)]
    return finite


def progress(path: pd.DataFrame, budget: int) -> Iterator[str]:
    """Yield lines of text: the first evaluations, ever fewer of the later ones, the last and the best."""
    yield f"{'step':>6} {'value':>13} {'best value':>13} {'regret':>10}"
    shown = {*recorded(budget), path.step.max()}
    for row in path[path.step.isin(shown)].to_dict("records"):
        yield f"{row['step']:6} {row['value']:13.6g} {row['best']:13.6g} {row['regret']:10.3g}"
    if len(path) < budget:
        yield f"stopped after {len(path)} evaluations: the point no longer changes, or a value was not finite"
    best = path.iloc[int(path.value.argmin())]
    point = ", ".join(f"{x:.6g}" for x in best.filter(regex=r"^x\d+$"))
    yield f"best point ({point}): value {best.value:.6g}, regret {best.regret:.3g}, evaluation {best.step:.0f}"


def surface(f: Function) -> pd.DataFrame:
    """Evaluate a function of two variables on a grid; columns are those of `optrepro.analysis.benchmark.surfaces`."""
    values = surfaces.surface(f, RESOLUTION).numpy()
    x0, x1 = np.meshgrid(*np.linspace(f.lower.numpy(), f.upper.numpy(), RESOLUTION).T)
    grid = pd.DataFrame({"kind": "grid", "x0": x0.ravel(), "x1": x1.ravel(), "value": values.ravel()})
    points = f.minimizers.numpy()
    minimizers = pd.DataFrame({"kind": "minimizer", "x0": points[:, 0], "x1": points[:, 1], "value": np.nan})
    return pd.concat([grid, minimizers], ignore_index=True)
