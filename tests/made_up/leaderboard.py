"""Studies of the leaderboard whose places are known: `best` leads on three tasks, AdamW on functions and language."""

from __future__ import annotations

from typing import Any

import numpy as np

from optrepro.analysis.results import StudyResults
from tests.made_up.rows import facts, frame

ROWS = {"adamw": ("AdamW", "peer"), "best": ("Best", "dynamic"), "close": ("Close", "peer"), "last": ("Last", "peer")}
TASKS = ("functions", "images", "cifar100", "language", "vision")
ACCURACY = {"adamw": 0.80, "best": 0.85, "close": 0.8499, "last": 0.6}
LOSS = {"adamw": 2.0, "best": 2.2, "close": 2.3, "last": 3.0}
DIGITS = {"adamw": 4.0, "best": 3.0, "close": 2.0, "last": 1.0}
SEEDS, RATES = 10, (0.001, 0.01, 0.1)
NOISE = {"adamw": 0.002, "best": 0.001, "close": -0.003, "last": 0.001}  # added and subtracted in turns
FUNCTIONS = ("sphere", "booth", "beale", "trid", "matyas", "levy")
OPTIMIZERS = {key: {"label": label, "group": group, "class": "x.Y"} for key, (label, group) in ROWS.items()}


def studies(diverged: tuple[tuple[str, str], ...] = ()) -> dict[str, StudyResults]:
    """All tasks and the costs, by study; the first test run of each (task, optimizer) in `diverged` diverges."""
    made = {f"leaderboard-{task}": _network(task, diverged) for task in TASKS[1:]}
    return {"leaderboard-functions": _functions(), **made, "leaderboard-overhead": _overhead()}


def _network(task: str, diverged: tuple[tuple[str, str], ...]) -> StudyResults:
    """Runs with noise of the seed that all share (sd 0.01) and noise of their own (mean 0); 0.01 is the best rate.

    The rate of `last` is best at the end of its grid.
    """
    study, rng = f"leaderboard-{task}", np.random.default_rng(0)
    measure, levels, sign = ("loss", LOSS, -1) if task == "language" else ("accuracy", ACCURACY, 1)
    shared = 0.01 * rng.standard_normal(SEEDS)
    rows: list[list[Any]] = []
    for key in ROWS:
        best = RATES[-1] if key == "last" else RATES[1]
        for rate in RATES:
            level = levels[key] - sign * 0.1 * (rate != best)
            rows.append([f"{key}{rate}", study, "x", key, "tune", rate, 0, 40, f"validation_{measure}", level])
        for seed in range(SEEDS):
            head = [f"{key}/{seed}", study, "x", key, "test", best, seed, 40]
            value = levels[key] + shared[seed] + NOISE[key] * (-1) ** seed
            lost = seed == 0 and (task, key) in diverged
            rows.append([*head, "diverged", 1.0] if lost else [*head, f"test_{measure}", value])
    settings = {"optimizers": OPTIMIZERS}
    return StudyResults(frame(rows), facts(study, "smoke", settings, "Made-up", (), 0, (), {}, measure))


def _functions() -> StudyResults:
    """On each function every optimizer gains DIGITS, with a spread that all share; rates are best in the middle."""
    study, rows = "leaderboard-functions", []
    for shift, function in enumerate(FUNCTIONS):
        for key, digits in DIGITS.items():
            for rate, score in zip(RATES, (1.0, 2.0, 1.5), strict=True):
                rows.append(
                    [f"{function}{key}{rate}", study, function, key, "tune", rate, 0, 20, "tuning_score", score]
                )
            head = [f"{function}{key}", study, function, key, "test", 0.01, 0]
            rows += [[*head, 1, "regret", 1.0], [*head, 20, "regret", 10.0 ** -(digits + shift / 10)]]
            facts_of = {"range": 1.0, "dimension": 2.0, "smooth": 1.0, "group[bowl]": 1.0}
            rows += [[*head, 0, metric, value] for metric, value in facts_of.items()]
    settings = {"functions": list(FUNCTIONS), "starts": 1, "optimizers": OPTIMIZERS}
    return StudyResults(frame(rows), facts(study, "smoke", settings, None, (), 0, ()))


def _overhead() -> StudyResults:
    """The second row takes twice the time and the memory of AdamW, the third one three times, and so on."""
    study, rows = "leaderboard-overhead", []
    for network in ("perceptron", "gpt"):
        for times, key in enumerate(["foreach", *ROWS]):
            head = ["", study, f"{network}/adamw", key, "test", 1e-6]
            measured = {
                "step_ratio": max(times, 1),
                "step_seconds": 1e-3,
                "state_ratio": max(times, 1),
                "parameters": 9,
            }
            rows += [[*head, 0, 0, metric, float(value)] for metric, value in measured.items()]
    networks = {"perceptron": {"label": "perceptron"}, "gpt": {"label": "GPT", "network": "gpt"}}
    settings = {"families": {"adamw": {"optimizers": OPTIMIZERS}}, "networks": networks}
    return StudyResults(frame(rows), facts(study, "smoke", settings, None, (), 0, ()))
