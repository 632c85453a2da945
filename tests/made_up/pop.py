"""Studies of POP."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optrepro.analysis.results import StudyResults
from tests.made_up.rows import facts, frame

DIGITS = {"adam": 1.0, "rprop": 0.7, "lbfgs": 1.2, "pop": 2.0, "random-search": 0.4}
COLLECTIONS = {
    "prior-test": {"source": "prior", "dim": 2, "count": 24},
    "prior-8d": {"source": "prior", "dim": 8, "count": 12},
    "vlse": {"source": "vlse", "dim": 2, "count": 5},
    "shift-plateaus": {"source": "plateaus", "dim": 2, "count": 12},
}
BENCHMARK = ["booth", "sphere", "levy", "beale", "ackley", "branin", "eggholder"]  # the last one has kinks
HORIZON, EVALUATIONS = 10, (1, 2, 5, 10, 20, 40, 100)
OUTSIDE = {  # collections of problems of others, with the numbers of variables that their problems have in turn
    "pop-cutest": {"cutest": ({"source": "cutest", "dim": 32, "count": 24}, (2, 4, 8, 20))},
    "pop-bbob": {f"bbob-{d}d": ({"source": "bbob", "dim": d, "count": 24}, (d,)) for d in (2, 10)},
}


@pytest.fixture(scope="session")
def transfer_study() -> Callable[..., StudyResults]:
    """A function that makes a transfer study up: DIGITS are gained after 10 evaluations, and twice as many after 100.

    Those of a problem vary by up to 20 %, equally for all optimizers, and by 2 % besides. Its arguments: `digits`
    (levels of a (collection, optimizer) that differ from DIGITS), `stalls` (optimizers that stop after 10 evaluations).
    """

    def make(digits: dict[tuple[str, str], float] | None = None, stalls: tuple[str, ...] = ()) -> StudyResults:
        rows: list[list[Any]] = []
        for collection, entry in COLLECTIONS.items():
            names = [f"{collection}/{name}" for name in BENCHMARK] if collection == "vlse" else [collection]
            for workload in names:
                rows += _descents(workload, collection, entry["count"], digits or {}, stalls)
                if collection == "vlse":
                    smooth = float(not workload.endswith("eggholder"))
                    rows.append(["f", "pop", workload, "adam", "test", 0.1, 0, 0, "smooth", smooth])
        rows += [["f", "pop", "prior-test", "adam", "test", 0.1, i, 0, "kind", float(i % 3)] for i in range(24)]
        settings = {**_settings(COLLECTIONS, HORIZON), "functions": BENCHMARK}
        return StudyResults(frame(rows + _tuning()), facts("pop", "laptop", settings, None, (), 0, ()))

    return make


@pytest.fixture(scope="session")
def outside_study() -> Callable[..., StudyResults]:
    """A function that makes a study of `OUTSIDE` up, where DIGITS are gained after 10 evaluations, 2.7 times as many
    after 500. Its arguments: `study` (``pop-cutest`` or ``pop-bbob``), `installed` (whether its package is).
    """

    def make(study: str = "pop-cutest", installed: bool = True) -> StudyResults:
        rows: list[list[Any]] = []
        for collection, (entry, dimensions) in OUTSIDE[study].items() if installed else ():
            rows += _descents(collection, collection, entry["count"], {}, (), (*EVALUATIONS, 50, 200, 500), 50)
            head = ["f", study, collection, "adam", "test", 0.1]
            rows += [[*head, i, 0, "dimension", dimensions[i % len(dimensions)]] for i in range(entry["count"])]
            rows.append([*head, 3, 70, "diverged", 1.0])
        settings = _settings({name: entry for name, (entry, _) in OUTSIDE[study].items()}, 50)
        missing = () if installed else ("a", "b")
        return StudyResults(frame(rows + _tuning()), facts(study, "laptop", settings, None, (), 2, missing))

    return make


def _tuning() -> list[list[Any]]:
    """Runs on the prior's validation functions; the second of three rates is the best."""
    rows: list[list[Any]] = []
    for key, level in DIGITS.items():
        rates = {"pop": [np.nan], "random-search": []}.get(key, [0.01, 0.1, 1.0])
        for rate in rates:
            head = [f"{key}/{rate}", "pop", "prior-validation", key, "tune", rate, 0, HORIZON]
            scores = {"improvement": 1 - 10**-level, "digits": level - (rate == 0.01) - 0.5 * (rate == 1.0)}
            rows += [[*head, metric, value] for metric, value in scores.items()]
            rows.append([*head, "tuning_score", scores["improvement"] + 0.1 * scores["digits"]])
    return rows


def _settings(collections: dict[str, Any], budget: int) -> dict[str, Any]:
    groups = {"lbfgs": "quasi-newton", "pop": "policy"}
    optimizers = {
        key: {"label": key.upper(), "group": groups.get(key, "first-order")} for key in DIGITS if "-" not in key
    }
    return {
        "kind": "transfer",
        "budget": budget,
        "learning_rates": [0.01, 0.1, 1.0],
        "optimizers": optimizers,
        "references": {"random-search": {"label": "random search", "method": "random-search"}},
        "collections": collections,
    }


def _descents(
    workload: str,
    collection: str,
    problems: int,
    digits: dict[tuple[str, str], float],
    stalls: tuple[str, ...],
    recorded: tuple[int, ...] = EVALUATIONS,
    horizon: int = HORIZON,
) -> list[list[Any]]:
    rng, rows = np.random.default_rng(len(workload)), []
    of_problem = rng.uniform(0.8, 1.2, problems)
    for key, level in DIGITS.items():
        own = digits.get((collection, key), level) * of_problem * rng.uniform(0.98, 1.02, problems)
        for problem, evaluations in itertools.product(range(problems), recorded):
            if key == "random-search" and evaluations > horizon:
                continue
            counted = min(evaluations, horizon) if key in stalls else evaluations
            regret = (1 + problem) * 10 ** (-own[problem] * np.log10(counted))
            head = [f"{workload}/{key}", "pop", workload, key, "test", 0.1, problem, evaluations]
            rows.append([*head, "regret", regret])
    return rows


POLICIES = {
    "standard": {"label": "standard", "group": "standard"},
    "scaling-none": {"label": "no scaling", "group": "scaling"},
    "history-2": {"label": "2 evaluations", "group": "history"},
}


@pytest.fixture(scope="session")
def policy_study() -> Callable[..., StudyResults]:
    """A function that makes a study of meta-training up, whose policies gain 2 digits on everything.

    Its arguments: `digits` (levels of policies that differ), `seeds` (of training).
    """

    def make(digits: dict[str, float] | None = None, seeds: int = 1) -> StudyResults:
        rng, rows = np.random.default_rng(0), []
        easy = rng.uniform(0.9, 1.1, len(BENCHMARK))
        noise = 1 + 0.01 * rng.standard_normal((len(BENCHMARK), 3))
        for key, seed in itertools.product(POLICIES, range(seeds)):
            level = (digits or {}).get(key, 2.0)
            head = [f"{key}/{seed}", "pop-ablation"]
            for seen, progress in ((512, 0.2), (1024, 0.8), (2048, 1.0)):
                values = {"score": 1 + progress, "improvement": progress * 0.9, "digits": progress * level}
                values |= {"kl": 0.01, "entropy": 1 - progress, "explained_variance": progress}
                tune = [*head, "prior-validation", key, "tune", np.nan, seed, seen]
                rows += [[*tune, metric, value] for metric, value in values.items()]
            test = [*head, "prior-test", key, "test", np.nan, seed, HORIZON]
            rows += [[*test, "improvement", 0.9 + 0.01 * seed], [*test, "digits", level + 0.1 * seed]]
            for function, start in itertools.product(range(len(BENCHMARK)), range(3)):
                left = 10.0 ** -(level * easy[function])
                run = [*head, f"vlse/{BENCHMARK[function]}", key, "test", np.nan, start]
                rows += [[*run, 1, "regret", 2.0], [*run, HORIZON, "regret", 2 * left * noise[function, start]]]
        settings = {"kind": "policy", "policies": POLICIES, "repetitions": seeds, "starts": 3, "functions": BENCHMARK}
        return StudyResults(frame(rows), facts("pop-ablation", "laptop", settings, None, (), 0, ()))

    return make
