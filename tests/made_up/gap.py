"""Studies of GAP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from optrepro.analysis.results import StudyResults
from tests.made_up.rows import facts, frame

RATES = [0.01, 0.03, 0.1]
TUNING_SEEDS, STEPS = 3, [10, 20, 30, 40]
EFFECT_OF_RATE = {0.01: -0.06, 0.03: 0.0, 0.1: -0.02}
NOISE = 0.002
ACCURACY = {
    "momentum-50": 0.80,
    "momentum-90": 0.84,
    "momentum-99": 0.82,
    "paper": 0.80,
    "paper-each": 0.80,
    "debiased": 0.845,
    "raw": 0.86,
    "validation": 0.87,
    "random": 0.83,
    "random-raw": 0.85,
    "mean": 0.855,
    "schedule-free": 0.85,
}
SHARES = {"paper": (0.98, 0.015, 0.005), "raw": (0.2, 0.3, 0.5), "validation": (0.3, 0.4, 0.3), "random": (1, 1, 1)}


def _optimizers(adam: bool) -> dict[str, Any]:
    def fixed(value: float) -> dict[str, Any]:
        settings = {"betas": [value, 0.999]} if adam else {"momentum": value}
        label = f"β₁ = {value:g}" if adam else f"momentum {value:g}"
        return {"label": label, "group": "fixed", "class": "torch.optim.SGD", "settings": settings}

    def row(label: str, group: str) -> dict[str, Any]:
        name = "GapAdamW" if adam else "GapSGD"
        return {"label": label, "group": group, "class": f"optrepro.optimizers.gap.{name}", "settings": {}}

    prefix = "beta" if adam else "momentum"
    return {
        f"{prefix}-50": fixed(0.5),
        f"{prefix}-90": fixed(0.9),
        f"{prefix}-99": fixed(0.99),
        "paper": row("GAP, paper", "dynamic"),
        "paper-each": row("GAP, paper, per tensor", "dynamic"),
        "debiased": row("GAP, debiased", "dynamic"),
        "raw": row("GAP, raw", "dynamic"),
        "validation": row("GAP, validation-aware", "dynamic"),
        "random": row("random switching", "control"),
        "random-raw": row("random, shares of raw", "control"),
        "mean": row("mean of the buffers", "control"),
        "schedule-free": row("schedule-free", "peer"),
    }


def _curve(rng: np.random.Generator, level: float, role: str, seed_effect: float) -> list[tuple[int, str, float]]:
    accuracy = level + seed_effect + NOISE * rng.standard_normal()
    rows = []
    for step in STEPS if role == "test" else STEPS[-1:]:
        reached = accuracy - 0.1 * (1 - step / STEPS[-1])
        rows += [(step, "train_loss", 1 - reached), (step, "validation_loss", 1.05 - reached)]
        rows.append((step, "validation_accuracy", reached))
        if role == "test":
            rows += [(step, "test_loss", 1.1 - reached), (step, "test_accuracy", reached - 0.01)]
    return rows


def _runs(study: str, optimizers: dict[str, Any], seeds: int, accuracy: dict[str, float]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    effects = {("tune", s): 0.01 * rng.standard_normal() for s in range(TUNING_SEEDS)}
    effects |= {("test", s): 0.01 * rng.standard_normal() for s in range(seeds)}
    rows: list[list[Any]] = []
    for key in optimizers:
        level = accuracy[key.replace("beta", "momentum")]
        plan = [("tune", rate, s) for rate in RATES for s in range(TUNING_SEEDS)]
        plan += [("test", 0.03, s) for s in range(seeds)]
        for role, rate, s in plan:
            head = [f"{key}/{role}/{rate}/{s}", study, "made-up/perceptron", key, role, rate, s]
            for step, metric, value in _curve(rng, level + EFFECT_OF_RATE[rate], role, effects[role, s]):
                rows.append([*head, step, metric, value])
            if role == "test" and key in SHARES:
                shares = np.array(SHARES[key]) / sum(SHARES[key])
                rows += [[*head, step, f"chosen[{k}]", step * shares[k]] for step in STEPS for k in range(3)]
    return frame(rows)


@pytest.fixture(scope="session")
def training_study() -> Callable[..., StudyResults]:
    """A function that makes a training study up.

    Every optimizer has the final test accuracy ACCURACY - 0.01 plus an effect of the seed that all optimizers share
    (sd 0.01) plus noise (sd 0.002). Its arguments: `adam` (keys and settings of Adam), `seeds`, `diverged` (ids of runs
    that diverge at their last step), `accuracy` (levels that differ from ACCURACY), `missing` (ids of missing runs).
    """

    def make(
        *,
        adam: bool = False,
        seeds: int = 8,
        diverged: tuple[str, ...] = (),
        missing: tuple[str, ...] = (),
        **accuracy: float,
    ) -> StudyResults:
        name = "gap-adam" if adam else "gap-sgdm"
        optimizers = _optimizers(adam)
        levels = ACCURACY | {key.replace("_", "-"): value for key, value in accuracy.items()}
        runs = _runs(name, optimizers, seeds, levels)
        expected = runs.run.nunique()
        runs = runs[~runs.run.isin(missing)]
        last = runs.run.isin(diverged) & (runs.step == STEPS[-1])
        ends = runs[last].drop_duplicates("run").assign(metric="diverged", value=1.0)
        runs = pd.concat([runs[~last], ends], ignore_index=True)
        settings = {
            "kind": "training",
            "network": "perceptron",
            "batch_size": 128,
            "steps": 40,
            "learning_rates": RATES,
            "tuning_repetitions": TUNING_SEEDS,
            "test_repetitions": seeds,
            "optimizers": optimizers,
        }
        data = ({"file": "images", "sha256": "0", "examples": 70_000, "official": True, "note": ""},)
        return StudyResults(
            runs,
            facts(name, "laptop", settings, "Made-up (20,000 of 60,000 images)", data, expected, missing),
        )

    return make


GAPS = {
    ("members/ellipse", "frobenius"): {0.1: 1e-1, 1.0: 1e-4},
    ("members/ellipse", "identity"): {0.1: 1e-1, 1.0: 1e-3},
    ("members/ellipse", "random"): {0.1: 1e-2, 1.0: 1e-1},
    ("families/ellipse", "frobenius"): {0.1: 1e-5, 1.0: 1e-2},
    ("families/ellipse", "spectral"): {0.1: 1e-1, 1.0: 1e-3},
    ("families/ellipse", "identity"): {0.1: 1e-9, 1.0: 1e-9},
    ("families/saddle", "frobenius"): {0.1: 1e-1, 1.0: 1e-2},
    ("families/saddle", "spectral"): {0.1: 1e-1, 1.0: 1e-6},
    ("families/saddle", "identity"): {0.1: 1e-9, 1.0: 1e-9},
}


@pytest.fixture(scope="session")
def families_study() -> Callable[..., StudyResults]:
    """A function that makes a study of the families up: final median gaps are GAPS, from 16 starts, after 20 steps.

    Its arguments: `gaps` (entries that differ from GAPS), `ahead` (share of the random members below frobenius).
    """

    def make(gaps: dict[tuple[str, str], dict[float, float]] | None = None, ahead: float = 0.0) -> StudyResults:
        rows: list[list[Any]] = []
        spread = np.linspace(0.9, 1.1, 17)[np.arange(17) != 8]  # 16 factors with median 1
        for (workload, key), by_power in {**GAPS, **(gaps or {})}.items():
            for power, final in by_power.items():
                head = [f"{workload}/{key}/{power}", "gap-families", workload, key, "test", power]
                for step, gap in ((0, 1.0), (10, final**0.5), (20, final)):
                    rows += [[*head, 0, step, name, gap * f] for name, f in _QUARTILES.items()]
                    if key == "random":
                        rows.append([*head, 0, step, "share_ahead", ahead])
                        rows += [[*head, member, step, "member_median", gap * (1 + member)] for member in range(3)]
                rows += [[*head, start, 20, "final_gap", final * factor] for start, factor in enumerate(spread)]
                rows.append([*head, 0, 20, "diverged", 0.0])
                rows.append([*head[:4], "tune", power, 0, 20, "gap_median", final])
        settings = {"kind": "families", "starts": 16, "tuning_starts": 4, "steps": 20}
        return StudyResults(frame(rows), facts("gap-families", "laptop", settings, None, (), 0, ()))

    return make


_QUARTILES = {"gap_median": 1.0, "gap_lower": 0.5, "gap_upper": 2.0}
PHASES, SIZES, CANDIDATES, LAGS = ("early", "middle", "late"), (16, 512), (0.5, 0.9), 40


@pytest.fixture(scope="session")
def concept_study() -> Callable[..., StudyResults]:
    """A function that makes a study of the concept up: R_k = rho^k for k >= 1, and R_0 = 1 + noise.

    Its arguments: `rho` (by phase) and `noise` (by batch size).
    """

    def make(rho: dict[str, float] | None = None, noise: dict[int, float] | None = None) -> StudyResults:
        rho = {"early": 0.95, "middle": 0.95, "late": 0.95, **(rho or {})}
        noise = {16: 20.0, 512: 0.0, **(noise or {})}
        lags, rows = np.arange(LAGS + 1), []
        filters = {c: c**lags / np.linalg.norm(c**lags) for c in CANDIDATES}
        for candidate, weights in filters.items():
            rows += [("filters", f"momentum-{candidate:g}", lag, "filter", w) for lag, w in enumerate(weights)]
        for phase in PHASES:
            for size in SIZES:
                clean = rho[phase] ** lags
                noisy = clean + noise[size] * (lags == 0)
                window = [("sgd", lag, "autocorrelation", value) for lag, value in enumerate(noisy)]
                window += [
                    ("sgd", 0, "self_term_halves", 1.0),
                    ("sgd", 0, "self_term_full", 1.0),
                    ("sgd", 0, "loss", 2.0),
                ]
                for candidate, weights in filters.items():
                    key = f"momentum-{candidate:g}"
                    window.append((key, 0, "score_paper", weights @ noisy))
                    window.append((key, 0, "score_debiased", weights @ clean))
                    window.append((key, 0, "score_raw", (candidate**lags * clean)[1:].sum()))
                rows += [(f"{phase}/batch-{size}", *row) for row in window]
                rows += [(f"{phase}/batch-{size}", k, lag, f"{name}_error", 0.03) for k, lag, name, _ in window]
        tidy = [
            [workload, "gap-concept", workload, key, "test", 0.01, seed, lag, metric, value]
            for seed in range(3)
            for workload, key, lag, metric, value in rows
        ]
        settings = {"kind": "concept", "network": "perceptron", "repetitions": 3, "steps": 600}
        return StudyResults(frame(tidy), facts("gap-concept", "laptop", settings, "Made-up", (), 0, ()))

    return make


SHIFTED = {  # test accuracy at the half and at the end
    "momentum-50": (0.70, 0.76),
    "momentum-90": (0.74, 0.72),
    "momentum-99": (0.72, 0.60),
    "paper": (0.70, 0.75),
    "raw": (0.75, 0.78),
    "random-raw": (0.73, 0.74),
    "mean": (0.74, 0.75),
}
SHIFTS = {"data": ("classes", 0.0), "batch": ("batch_size", 16.0), "noise": ("label_noise", 0.4)}
BEFORE, AFTER = (0.9, 0.1, 0.0), (0.2, 0.3, 0.5)  # shares of the candidates that the rules take


@pytest.fixture(scope="session")
def shift_study() -> Callable[..., StudyResults]:
    """A function that makes a study of a shift up, "data", "batch" or "noise", of 40 steps with 8 points.

    Accuracy rises evenly to SHIFTED's first number at step 20, falls to half of it at step 25, and rises evenly to the
    second number. Validation accuracy is 0.01 higher. The seeds' effects are shared (sd 0.01), with noise of 0.0005.
    In tuning runs the rate has an effect instead; rate 0.03 is best.
    Its arguments: `seeds`, `diverged` ((optimizer, seed) whose test runs end at step 30), `missing` (the same, left
    out), `lost_in_tuning` (optimizers whose tuning runs end at step 30), `tuning` (numbers in place of SHIFTED's).
    """

    def accuracy(levels: tuple[float, float], step: int) -> float:
        before, after = levels
        return before * step / 20 if step <= 20 else before / 2 + (after - before / 2) * (step - 25) / 15

    def make(
        name: str,
        *,
        seeds: int = 8,
        diverged: tuple[tuple[str, int], ...] = (),
        missing: tuple[tuple[str, int], ...] = (),
        lost_in_tuning: tuple[str, ...] = (),
        tuning: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    ) -> StudyResults:
        shift, shifted_to = SHIFTS[name]
        study, rng, rows = f"gap-shift-{name}", np.random.default_rng(0), []
        optimizers = {key: row for key, row in _optimizers(False).items() if key in SHIFTED}
        effects = 0.01 * rng.standard_normal(seeds)
        lost: list[str] = []
        for key, levels in SHIFTED.items():
            for rate, seed in itertools.product(RATES, range(2)):
                head = [f"{key}/tune/{rate}/{seed}", study, "made-up/perceptron", key, "tune", rate, seed]
                own = tuning.get(key, levels)
                for step in range(5, 41, 5):
                    if key in lost_in_tuning and step == 30:
                        rows.append([*head, step, "diverged", 1.0])
                        break
                    rows.append([*head, step, "validation_accuracy", accuracy(own, step) + EFFECT_OF_RATE[rate]])
            for seed in range(seeds):
                head = [f"{key}/test/{seed}", study, "made-up/perceptron", key, "test", 0.03, seed]
                if (key, seed) in missing:
                    lost.append(head[0])
                    continue
                effect = effects[seed] + 0.0005 * rng.standard_normal()
                for step in range(5, 41, 5):
                    if (key, seed) in diverged and step == 30:
                        rows.append([*head, step, "diverged", 1.0])
                        break
                    value = accuracy(levels, step) + effect
                    rows += [
                        [*head, step, "test_accuracy", value],
                        [*head, step, "validation_accuracy", value + 0.01],
                    ]
                    if key == "mean":
                        rows += [[*head, step, f"chosen[{k}]", 0.0] for k in range(3)]
                    if key in ("paper", "raw"):
                        taken = (min(step, 20) * np.array(BEFORE) + max(step - 20, 0) * np.array(AFTER)).tolist()
                        rows += [[*head, step, f"chosen[{k}]", count] for k, count in enumerate(taken)]
        runs = frame(rows)
        settings = {
            "kind": "shift",
            "network": "perceptron",
            "batch_size": 128,
            "steps": 40,
            "learning_rates": RATES,
            "tuning_repetitions": 2,
            "test_repetitions": seeds,
            "shift": shift,
            "shifted_to": shifted_to,
            "optimizers": optimizers,
        }
        expected = runs.run.nunique() + len(lost)
        return StudyResults(runs, facts(study, "laptop", settings, "Made-up images", (), expected, tuple(lost)))

    return make


DIAGNOSED = {
    "kind": "diagnostics",
    "workloads": {
        "perceptron": {"study": "gap-sgdm", "follow": "momentum-90", "rules": ["paper", "raw-each"]},
        "gpt": {"study": "gap-lm", "follow": "beta-90", "rules": ["paper", "raw-each"]},
    },
    "window": 20,
    "lags": 6,
    "blocks": 4,
    "points": 3,
    "repetitions": 3,
}


@pytest.fixture(scope="session")
def diagnostics_study() -> Callable[..., StudyResults]:
    """A function that makes a study of the diagnostics up: 2 workloads, the second with Adam's weights, of 120 steps.

    All R_k with k >= 1 are scale * signal * rho^k and R_0 = scale, where scale falls by `fall` from block to block,
    with noise of the relative size `noise`. KPSS statistics are 0.1, in windows of 80 steps 5.0. The rule paper always
    takes 0.5; raw-each takes 0.5, 0.9 and 0.99 in the shares 0.2, 0.3 and 0.5, but for the last tensor, which takes
    0.99 only.
    """

    def make(rho: float = 0.8, signal: float = 0.5, fall: float = 1.0, noise: float = 0.0) -> StudyResults:
        rng = np.random.default_rng(0)
        rows: list[list[Any]] = []
        for workload, entry in DIAGNOSED["workloads"].items():  # type: ignore[attr-defined]
            tensors = ["in.weight", "out.weight"]
            sums = ["all", "preconditioned"] if workload == "gpt" else ["all"]
            for seed in range(3):
                head = [f"{workload}/{seed}", "gap-diagnostics", workload, entry["follow"], "test", 0.01, seed]
                for block, layer in itertools.product(range(24), [*tensors, *sums]):
                    scale, step = fall**block * (1 + (layer in sums)), 5 * (block + 1)
                    known = min(step - 1, DIAGNOSED["lags"] if layer in sums else 1)  # type: ignore[type-var]
                    values = {f"R[{k}]": scale * signal * rho**k for k in range(1, known + 1)}  # type: ignore[operator]
                    values |= {"R[0]": scale, "halves": scale * signal}
                    for name, value in values.items():
                        rows.append([*head, step, f"{name}@{layer}", value + scale * noise * rng.standard_normal()])
                for length, layer in itertools.product([20, 40, 80], [*tensors, *sums]):
                    for end in range(length, 121, length):
                        statistic = 5.0 if length == 80 else 0.1
                        for metric in ("kpss_square", "kpss_lag1"):
                            rows.append([*head, end, f"{metric}[{length}]@{layer}", statistic])
            for rule in entry["rules"]:
                head = [f"{workload}/{rule}", "gap-diagnostics", workload, rule, "test", 0.01, 0]
                rows += [[*head, 0, f"candidate[{k}]", m] for k, m in enumerate((0.5, 0.9, 0.99))]
                for step in (40, 80, 120):
                    if rule == "paper":
                        counts = {"all": (40, 0, 0)}
                    else:
                        counts = {"in.weight": (8, 12, 20), "out.weight": (0, 0, 40)}
                    for layer, taken in counts.items():
                        rows += [[*head, step, f"chosen[{k}]@{layer}", float(n)] for k, n in enumerate(taken)]
        known = facts("gap-diagnostics", "laptop", DIAGNOSED, "Made-up", (), 8, (), {"perceptron": "A", "gpt": "B"})
        return StudyResults(frame(rows), known)

    return make


@pytest.fixture(scope="session")
def overhead_study() -> Callable[..., StudyResults]:
    """A study of step times: twice torch's for several buffers, 1.2 times for one, three times the state."""
    rows = {
        "paper": ("GAP, paper", "dynamic", {}),
        "paper-each": ("GAP, paper, per tensor", "dynamic", {"select": "per_parameter"}),
        "continuous": ("GAP, continuous", "dynamic", {"candidates": "continuous"}),
    }
    truth = {"foreach": 1.0, "fused": 0.5, "paper": 2.0, "paper-each": 3.0, "continuous": 1.2}
    state = {"foreach": 1.0, "fused": 1.0, "paper": 3.0, "paper-each": 3.0, "continuous": 1.04}
    optimizers = {k: {"label": label, "group": g, "settings": s} for k, (label, g, s) in rows.items()}
    settings = {
        "families": {"sgd": {"optimizers": optimizers}},
        "networks": {"perceptron": {"label": "perceptron"}, "gpt": {"label": "GPT"}},
    }

    def make(turns: int = 9) -> StudyResults:
        table = []
        for network in settings["networks"]:
            for key, ratio in truth.items():
                common = ["", "gap-overhead", f"{network}/sgd", key, "test", 1e-6]
                table += [[*common, 0, 0, "state_ratio", state[key]], [*common, 0, 0, "parameters", 1000.0]]
                for turn in range(turns):
                    spread = 1 + 0.01 * (turn - turns // 2)
                    table.append([*common, turn, 0, "step_seconds", 1e-3 * ratio * spread])
                    table.append([*common, turn, 0, "step_ratio", ratio * (spread if key != "foreach" else 1)])
        return StudyResults(frame(table), facts("gap-overhead", "smoke", settings, None, (), 0, ()))

    return make


FORKED = (0.5, 0.9, 0.99)
PROMISED = {0.5: 0.02, 0.9: 0.03, 0.99: 0.04}  # of the first step, in nats: the paper's score takes 0.5, raw 0.99
KEPT = {1: {0.5: 0.5, 0.9: 0.5, 0.99: 0.5}, 10: {0.5: 0.4, 0.9: 0.6, 0.99: -0.5}}  # realized share, by horizon
REGRETS = {0.125: 0.06, 1.0: 0.02, 8.0: 0.0}  # of accuracy and of loss, by the batches in the score


@pytest.fixture(scope="session")
def greedy_study() -> Callable[..., StudyResults]:
    """A function that makes a study of the forks up: 2 workloads, 3 seeds, 4 forks each, after 1 and 10 steps.

    A candidate promises h times PROMISED after h steps, in every fork, and realizes the share KEPT of it. The fixed
    candidates end with accuracy 0.8, and momentum 0.9 with 0.02 more; the score from so many batches ends REGRETS
    below.
    Its arguments: `kept` (shares that differ from KEPT), `noise` (sd of an effect on a whole fork).
    """

    def make(kept: Mapping[int, Mapping[float, float]] = MappingProxyType({}), noise: float = 0.0) -> StudyResults:
        rng, rows = np.random.default_rng(0), []
        shares = {**KEPT, **kept}
        ends = {"momentum-50": 0.8, "momentum-90": 0.82, "momentum-99": 0.8}
        ends |= {f"score-{batches:g}": 0.82 - regret for batches, regret in REGRETS.items()}
        for workload, rate, seed in itertools.product(("perceptron", "cnn"), (0.01, 0.1), range(3)):
            head = [f"{workload}/{rate}/{seed}", "gap-greedy", workload, "forks", "test", rate, seed]
            for step, horizon in itertools.product((10, 20, 30, 40), shares):
                effect = 1 + noise * rng.standard_normal()
                for momentum in FORKED:
                    name, promise = f"[{momentum:g}]@{horizon}", horizon * PROMISED[momentum]
                    rows.append([*head, step, f"promised{name}", promise])
                    rows.append([*head, step, f"realized{name}", effect * shares[horizon][momentum] * promise])
            for key, accuracy in ends.items():
                head = [f"{workload}/{rate}/{seed}/{key}", "gap-greedy", workload, key, "test", rate, seed]
                level = accuracy + 0.01 * seed
                rows += [[*head, 40, "test_accuracy", level], [*head, 40, "probe_loss", 1 - level]]
                if key.startswith("score"):
                    rows += [[*head, 40, f"chosen[{k}]", count] for k, count in enumerate((30, 9, 1))]
        settings = {"horizons": list(shares), "score_batches": list(REGRETS), "repetitions": 3}
        known = facts("gap-greedy", "laptop", settings, "Made-up", (), 0, (), {"perceptron": "A", "cnn": "B"})
        return StudyResults(frame(rows), known)

    return make
