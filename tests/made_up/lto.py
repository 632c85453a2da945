"""Studies of Predicted Step Descent."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optrepro.analysis.results import StudyResults
from tests.made_up.rows import facts, frame

SPEEDS = {  # of the descent on the objectives: larger is faster
    "sgd": 2.0,
    "momentum": 2.5,
    "conjugate-gradient": 1.5,
    "lbfgs": 1.0,
    "adam": 3.0,
    "adagrad": 4.0,
    "rmsprop": 3.8,
    "l2l": 2.8,
    "psd": 5.0,
    "psd-bregman": 3.5,
    "imitation": 4.0,
}
PANELS = {
    **{
        f"fig{number}-{data}": {"inputs": inputs, "hidden": hidden, "batch_size": batch, "steps": steps}
        for number, (inputs, hidden, batch, steps) in enumerate(
            [(48, 48, 64, 400), (100, 200, 64, 400), (48, 48, 10, 400), (100, 200, 10, 400), (100, 200, 64, 800)], 1
        )
        for data in ("grey", "cifar10", "cifar100")
    }
}
DATASETS = {
    "grey": "fashion-mnist",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
}  # MNIST where a name has none of them
TITLES = {"grey": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
ROBUSTNESS = {
    **{f"batch-{size}": {"hidden": 48, "batch_size": size, "steps": 400} for size in (10, 64, 256)},
    **{f"width-{width}": {"hidden": width, "batch_size": 64, "steps": 400} for width in (24, 48, 384)},
    "horizon-2000": {"hidden": 48, "batch_size": 64, "steps": 2000},
}
LEARNED = ("l2l", "psd", "psd-bregman", "imitation")
CLASSES = {"cifar100": 100}


@pytest.fixture(scope="session")
def objectives_study() -> Callable[..., StudyResults]:
    """A function that makes a study of objectives up, whose curves fall from log(classes) to 0.3 of it at SPEEDS.

    All optimizers share a factor for each repetition (5 %), and each has 0.5 % of noise besides. Its arguments:
    `speeds` (of an optimizer, or of a (panel, optimizer), that differ from SPEEDS), `diverged` ((panel, optimizer)
    whose first two repetitions diverge after half of the iterations), `robustness` (its panels, and fewer optimizers),
    `seeds`, `points` (of the curves), `keep` (panels, optimizers that are left; None: all).
    """

    def make(
        speeds: dict[Any, float] | None = None,
        diverged: tuple[tuple[str, str], ...] = (),
        *,
        robustness: bool = False,
        seeds: int = 10,
        points: int = 9,
        keep: tuple[str, ...] | None = None,
    ) -> StudyResults:
        study, panels = ("lto-robustness", ROBUSTNESS) if robustness else ("lto", PANELS)
        keys = ("adagrad", "rmsprop", "l2l", "psd") if robustness else tuple(SPEEDS)
        if keep is not None:
            panels = {name: panel for name, panel in panels.items() if name in keep} or panels
            keys = tuple(key for key in keys if key in keep) or keys
        rng, rows = np.random.default_rng(0), []
        for key in keys:
            for rate in (np.nan,) if key in LEARNED else (0.01, 0.1, 1.0):
                speed = SPEEDS[key] * {0.01: 0.5, 1.0: 0.7}.get(rate, 1.0)
                for seed in range(2):
                    head = [f"{key}/tune/{rate}/{seed}", study, "tuning", key, "tune", rate, seed]
                    rows += [[*head, *row] for row in _descent(np.log(10), speed, 400, points, 1.0)]
        for panel, entry in panels.items():
            start = np.log(CLASSES.get(panel.split("-")[1], 10))
            shared = 1 + 0.05 * rng.standard_normal(seeds)
            for key, seed in itertools.product(keys, range(seeds)):
                speed = SPEEDS[key] if speeds is None else speeds.get((panel, key), speeds.get(key, SPEEDS[key]))
                factor = shared[seed] * (1 + 0.005 * rng.standard_normal())
                head = [f"{panel}/{key}/{seed}", study, panel, key, "test", np.nan if key in LEARNED else 0.1, seed]
                explodes = (panel, key) in diverged and seed < 2
                own = _descent(start, speed * entry["steps"] / 400, entry["steps"], points, factor, explodes)
                rows += [[*head, *row] for row in own]
        groups = dict.fromkeys(LEARNED, "policy") | {"lbfgs": "quasi-newton", "conjugate-gradient": "quasi-newton"}
        settings = {
            "kind": "objectives",
            "tuning": {"dataset": ["mnist"], "inputs": 48, "hidden": 48, "batch_size": 64, "steps": 400},
            "tuning_repetitions": 2,
            "panels": {
                name: {"dataset": [DATASETS.get(name.split("-")[1], "mnist")], **panel}
                for name, panel in panels.items()
            },
            "repetitions": seeds,
            "examples": 5000,
            "learning_rates": [0.01, 0.1, 1.0],
            "optimizers": {key: {"label": key.upper(), "group": groups.get(key, "first-order")} for key in keys},
        }
        titles = {"tuning": "MNIST"} | {name: TITLES.get(name.split("-")[1], "MNIST") for name in panels}
        runs = frame(rows)
        return StudyResults(runs, facts(study, "laptop", settings, None, (), runs.run.nunique(), (), titles))

    return make


def _descent(
    start: float, speed: float, steps: int, points: int, factor: float, explodes: bool = False
) -> list[tuple[int, str, float]]:
    rows = []
    for step in np.linspace(0, steps, points).round().astype(int):
        value = start * factor * (0.3 + 0.7 / (1 + speed * step / steps))
        if explodes and step > steps / 2:
            value = start * 3 if step < steps else np.inf
        rows.append((int(step), "objective", float(value)))
    if explodes:
        rows.append((next(s for s, _, v in rows if v > 2.5 * start), "diverged", 1.0))
    return rows


LEARNERS = {
    "psd-trained": {"label": "PSD, trained here", "group": "standard", "method": "mirror"},
    "psd-bregman": {"label": "PSD, Bregman", "group": "standard", "method": "bregman"},
    "imitation": {"label": "imitation", "group": "standard", "method": "imitation"},
    "l2l-trained": {"label": "L2L, trained here", "group": "standard", "method": "unrolled"},
}
ABLATION = {
    "shared": {"label": "shared", "group": "sharing", "method": "mirror"},
    "separate": {"label": "separate", "group": "sharing", "method": "mirror"},
}
AREAS = {"psd-bregman": 0.9, "imitation": 0.7, "separate": 0.8}  # on the validation problems; else 0.6


@pytest.fixture(scope="session")
def learner_study() -> Callable[..., StudyResults]:
    """A function that makes a study of learners up, whose validation area falls from 1.2 to AREAS, or to 0.6.

    It is lowest at iteration 8 of 10. Its arguments: `ablation` (its rows), `areas` (that differ), `seeds`, `keep`.
    """

    def make(
        areas: dict[str, float] | None = None,
        *,
        ablation: bool = False,
        seeds: int = 1,
        keep: tuple[str, ...] | None = None,
    ) -> StudyResults:
        learners = ABLATION if ablation else LEARNERS
        learners = {key: row for key, row in learners.items() if keep is None or key in keep}
        study, rows = "lto-ablation" if ablation else "lto-training", []
        size = 8 if ablation else 48
        objective = {"inputs": size, "hidden": size, "batch_size": 64, "steps": 100 if ablation else 400}
        for (key, entry), seed in itertools.product(learners.items(), range(seeds)):
            level = {**AREAS, **(areas or {})}.get(key, 0.6) + 0.01 * seed
            for step in range(0, 11, 2):
                area = level + (1.2 - level) * abs(8 - step) / 8
                logged = {"area": area, "final": 0.8 * area}
                if step and entry["method"] in ("mirror", "bregman"):
                    logged |= {"guiding": 0.9 * area, "policy": area, "mismatch": 1 / step, "kl": 0.5}
                if step and entry["method"] == "imitation":
                    logged["mismatch"] = 1 / step
                if step and entry["method"] == "unrolled":
                    logged["loss"] = 2 * area
                head = [f"{key}/{seed}", study, "meta-validation", key, "tune", np.nan, seed]
                rows += [[*head, step, metric, value] for metric, value in logged.items()]
        settings = {"kind": "learner", "objective": objective, "validation_problems": 8, "learners": learners}
        return StudyResults(frame(rows), facts(study, "laptop", settings, "MNIST (made up)", (), 0, ()))

    return make
