"""Studies made up for tests: tidy tables whose truth is known, with their facts; and a config that runs in a second."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from optrepro import config
from optrepro.analysis.results import Facts, StudyResults


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The workflow's tests first: the run from scratch takes longest, and what else there is fills the other core."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


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
    return _tidy(rows)


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
            runs, Facts(name, "laptop", settings, "Made-up (20,000 of 60,000 images)", data, expected, missing)
        )

    return make


TINY = """
scale: tiny
seed: 7
device: cpu
studies:
  images:
    kind: training
    dataset: [digits]
    train_examples: 64
    validation_examples: 32
    network: softmax
    batch_size: 16
    steps: 12
    evaluations: 4
    learning_rates: [0.01, 0.1]
    tuning_repetitions: 2
    test_repetitions: 3
    optimizers:
      random: {label: "random, shares of gap", class: optrepro.optimizers.controls.RandomSGD, shares_of: gap}
      sgd: {label: SGD, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.9}}
      gap: {label: GAP, group: dynamic, class: optrepro.optimizers.gap.GapSGD, settings: {score: raw}}
  boxes:
    kind: functions
    functions: [sphere, booth]
    budget: 12
    tuning_starts: 2
    starts: 3
    learning_rates: [0.01, 0.1]
    optimizers:
      sgd: {label: SGD, class: torch.optim.SGD}
  surfaces:
    kind: surfaces
    functions: [sphere]
    resolution: 8
"""


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """A scale file with a study of each kind that is quick."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny(tiny_file: Path) -> Callable[..., config.Config]:
    """A function from overrides, such as "seed=3", to the config of `tiny_file` with them."""
    return lambda *overrides: config.load(tiny_file, overrides)


TINY_POP = """
scale: tiny-pop
seed: 7
device: cpu
studies:
  meta:
    kind: policy
    prior: &prior
      shares: {convex: 0.5, gp: 0.5}
      features: 8
      length_scale: [0.1, 1.0]
      anisotropy: 2.0
      condition: 100.0
      amplitude: [0.1, 1.0]
      warp: 1.0
    network: {width: 8, layers: 1, history: 4, horizon: 6, smallest: 0.0001}
    ppo:
      functions: {2: 8}
      iterations: 2
      epochs: 1
      minibatches: 2
      learning_rate: 0.001
      max_grad_norm: 0.5
      discount: 1.0
      gae_lambda: 0.95
      clip_ratio: 0.2
      kl_limit: 0.05
      entropy: 0.003
      value_loss: 0.5
      improvement: 1.0
      log_regret: 0.1
      floor: 1e-12
    validation_functions: 8
    test_functions: 8
    validate_every: 1
    patience: 5
    functions: [sphere]
    starts: 2
    policies:
      standard: {label: standard}
      log: {label: log regret alone, group: reward, ppo: {improvement: 0.0, log_regret: 0.2}}
  transfer:
    kind: transfer
    prior: *prior
    validation_functions: 12
    budget: 6
    log_regret: 0.1
    functions: [sphere, booth, forrester]
    collections:
      prior-test: {source: prior, count: 5, budget: 10}
      prior-3d: {source: prior, dim: 3, count: 3, budget: 10}
      vlse: {source: vlse, count: 4, budget: 10, each: 3}
      shift-noise: {source: noisy-gradients, count: 4, budget: 10}
    learning_rates: [0.01, 0.1, 0.4]
    optimizers:
      adam: {label: Adam, group: first-order, class: torch.optim.Adam}
      lbfgs: {label: L-BFGS, group: quasi-newton, class: torch.optim.LBFGS, settings: {line_search_fn: strong_wolfe}}
      trained: {label: trained, group: policy, class: optrepro.optimizers.POP, trained: meta/standard}
    references:
      random: {label: random search, method: random-search}
      cma-es: {label: CMA-ES, method: cma-es}
    reference_count: 2
    reference_starts: 3
"""


@pytest.fixture(scope="session")
def tiny_pop(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., config.Config]:
    """As `tiny`, with a study of meta-training and one of transfer."""
    path = tmp_path_factory.mktemp("config") / "tiny-pop.yaml"
    path.write_text(TINY_POP)
    return lambda *overrides: config.load(path, overrides)


TINY_LTO = """
scale: tiny-lto
seed: 7
device: cpu
studies:
  learn:
    kind: learner
    dataset: [digits]
    validation_examples: 64
    objective: {inputs: 6, hidden: 4, batch_size: 8, steps: 8, examples: 32, problems: 2}
    validation_problems: 3
    validate_every: 2
    patience: 5
    policy: {cells: 3}
    l2l: {cells: 3}
    imitation: {iterations: 3, teacher_rate: 0.1, coordinates: 8, sequences: 16}
    mirror: {iterations: 3, truth: 16, coordinates: 8, measure: 2, sequences: 16}
    bregman: {iterations: 3, coordinates: 8, epochs: 2, sequences: 16}
    unrolled: {iterations: 5, unroll: 4, first_horizon: 4, curriculum: 0.5}
    learners:
      unrolled: {label: unrolled, method: unrolled}
      longer: {label: longer, method: unrolled, start: unrolled, unrolled: {unroll: 8}}
      imitation: {label: imitation, method: imitation}
      mirror: {label: mirror, method: mirror, start: imitation}
      bregman: {label: bregman, method: bregman}
  compare:
    kind: objectives
    tuning: {dataset: [digits], inputs: 6, hidden: 4, batch_size: 8, steps: 8}
    tuning_repetitions: 2
    panels:
      small: {dataset: [digits], inputs: 6, hidden: 4, batch_size: 8, steps: 8}
      wide: {dataset: [fashion-mnist, digits], inputs: 8, hidden: 12, batch_size: 4, steps: 10}
    examples: 48
    evaluations: 5
    repetitions: 3
    learning_rates: [0.01, 0.1]
    optimizers:
      adagrad: {label: AdaGrad, group: first-order, class: torch.optim.Adagrad}
      adam: {label: Adam, group: first-order, class: torch.optim.Adam}
      learned: {label: learned, group: policy, class: optrepro.optimizers.l2l.L2L, trained: learn/unrolled}
"""


@pytest.fixture(scope="session")
def tiny_lto(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., config.Config]:
    """As `tiny`, with a study that learns step rules and one that compares them."""
    path = tmp_path_factory.mktemp("config") / "tiny-lto.yaml"
    path.write_text(TINY_LTO)
    return lambda *overrides: config.load(path, overrides)


TINY_GAP = """
scale: tiny-gap
seed: 7
device: cpu
studies:
  pretraining:
    kind: pretraining
    backbones:
      gpt:
        label: small GPT
        task: &text
          modality: language
          corpus: [python-docs]
          context: 16
          train_examples: 64
          validation_examples: 8
          test_examples: 8
        architecture: {width: 8, layers: 1, heads: 2}
        batch_size: 8
        steps: 20
        learning_rate: 0.01
      vit:
        label: small ViT
        task: {modality: vision, dataset: [digits], classes: first half, validation_examples: 64}
        architecture: {width: 8, layers: 1, heads: 2, patch: 4}
        batch_size: 16
        steps: 20
        learning_rate: 0.01
  language:
    kind: finetuning
    task: {<<: *text, corpus: [python-source]}
    backbone: pretraining/gpt
    lora: {rank: 2, alpha: 4}
    batch_size: 4
    steps: 6
    evaluations: 2
    learning_rates: [0.001, 0.01]
    tuning_repetitions: 1
    test_repetitions: 2
    optimizers: &rows
      adamw: {label: AdamW, group: fixed, class: torch.optim.AdamW}
      gap: {label: GAP, group: dynamic, class: optrepro.optimizers.gap.GapAdamW, settings: {score: debiased}}
  vision:
    kind: finetuning
    task: {modality: vision, dataset: [digits], classes: second half, validation_examples: 64}
    backbone: pretraining/vit
    lora: {rank: 2, alpha: 4}
    batch_size: 8
    steps: 6
    evaluations: 2
    learning_rates: [0.001, 0.01]
    tuning_repetitions: 1
    test_repetitions: 2
    optimizers: *rows
  shift:
    kind: shift
    dataset: [digits]
    train_examples: 64
    validation_examples: 32
    network: softmax
    batch_size: 16
    steps: 12
    schedule: constant
    evaluations: 4
    learning_rates: [0.01, 0.1]
    tuning_repetitions: 1
    test_repetitions: 2
    shift: classes
    optimizers:
      sgd: {label: SGD, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.9}}
      gap: {label: GAP, group: dynamic, class: optrepro.optimizers.gap.GapSGD, settings: {score: raw}}
  diagnostics:
    kind: diagnostics
    workloads:
      softmax: {study: shift, follow: sgd, learning_rate: 0.1, rules: [gap]}
      gpt: {study: language, follow: adamw, learning_rate: 0.01, rules: [gap]}
    window: 4
    lags: 2
    blocks: 2
    points: 3
    repetitions: 2
"""


@pytest.fixture(scope="session")
def tiny_gap(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., config.Config]:
    """As `tiny`, with studies of pretraining, fine-tuning, a shift, and the diagnostics of two of them."""
    path = tmp_path_factory.mktemp("config") / "tiny-gap.yaml"
    path.write_text(TINY_GAP)
    return lambda *overrides: config.load(path, overrides)


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
                rows += [[*head, start, 20, "final_gap", final * factor] for start, factor in enumerate(spread)]
                rows.append([*head, 0, 20, "diverged", 0.0])
                if workload.startswith("families/"):
                    tune = [*head[:4], "tune", power]
                    rows.append([*tune, 0, 20, "gap_median", final])
        settings = {"kind": "families", "starts": 16, "tuning_starts": 4, "steps": 20}
        return StudyResults(_tidy(rows), Facts("gap-families", "laptop", settings, None, (), 0, ()))

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
            for seed in range(2)
            for workload, key, lag, metric, value in rows
        ]
        settings = {"kind": "concept", "network": "perceptron", "repetitions": 2, "steps": 600}
        return StudyResults(_tidy(tidy), Facts("gap-concept", "laptop", settings, "Made-up", (), 0, ()))

    return make


DIGITS = {"adam": 1.0, "rprop": 0.7, "lbfgs": 1.2, "pop": 2.0, "random-search": 0.4}
COLLECTIONS = {
    "prior-test": {"source": "prior", "dim": 2, "count": 24},
    "prior-8d": {"source": "prior", "dim": 8, "count": 12},
    "vlse": {"source": "vlse", "dim": 2, "count": 5},
    "shift-plateaus": {"source": "plateaus", "dim": 2, "count": 12},
}
BENCHMARK = ["booth", "sphere", "levy", "beale", "ackley", "branin", "eggholder"]  # the last one has kinks
HORIZON, EVALUATIONS = 10, (1, 2, 5, 10, 20, 40, 100)


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
        for key, level in DIGITS.items():
            rates = {"pop": [np.nan], "random-search": []}.get(key, [0.01, 0.1, 1.0])
            for rate in rates:
                head = [f"{key}/{rate}", "pop", "prior-validation", key, "tune", rate, 0, HORIZON]
                scores = {"improvement": 1 - 10**-level, "digits": level - (rate == 0.01) - 0.5 * (rate == 1.0)}
                rows += [[*head, metric, value] for metric, value in scores.items()]
                rows.append([*head, "tuning_score", scores["improvement"] + 0.1 * scores["digits"]])
        groups = {"lbfgs": "quasi-newton", "pop": "policy"}
        optimizers = {
            key: {"label": key.upper(), "group": groups.get(key, "first-order")} for key in DIGITS if "-" not in key
        }
        settings = {
            "kind": "transfer",
            "budget": HORIZON,
            "learning_rates": [0.01, 0.1, 1.0],
            "optimizers": optimizers,
            "references": {"random-search": {"label": "random search", "method": "random-search"}},
            "functions": BENCHMARK,
            "collections": COLLECTIONS,
        }
        return StudyResults(_tidy(rows), Facts("pop", "laptop", settings, None, (), 0, ()))

    return make


def _descents(
    workload: str, collection: str, problems: int, digits: dict[tuple[str, str], float], stalls: tuple[str, ...]
) -> list[list[Any]]:
    rng, rows = np.random.default_rng(len(workload)), []
    of_problem = rng.uniform(0.8, 1.2, problems)
    for key, level in DIGITS.items():
        own = digits.get((collection, key), level) * of_problem * rng.uniform(0.98, 1.02, problems)
        for problem, evaluations in itertools.product(range(problems), EVALUATIONS):
            if key == "random-search" and evaluations > HORIZON:
                continue
            counted = min(evaluations, HORIZON) if key in stalls else evaluations
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
        return StudyResults(_tidy(rows), Facts("pop-ablation", "laptop", settings, None, (), 0, ()))

    return make


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
            "panels": {name: {"dataset": [name.split("-")[1]], **panel} for name, panel in panels.items()},
            "repetitions": seeds,
            "examples": 5000,
            "learning_rates": [0.01, 0.1, 1.0],
            "optimizers": {key: {"label": key.upper(), "group": groups.get(key, "first-order")} for key in keys},
        }
        titles = {"tuning": "MNIST"} | {name: TITLES.get(name.split("-")[1], "MNIST") for name in panels}
        runs = _tidy(rows)
        return StudyResults(runs, Facts(study, "laptop", settings, None, (), runs.run.nunique(), (), titles))

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
        return StudyResults(_tidy(rows), Facts(study, "laptop", settings, "MNIST (made up)", (), 0, ()))

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
        runs = _tidy(rows)
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
        return StudyResults(runs, Facts(study, "laptop", settings, "Made-up images", (), expected, tuple(lost)))

    return make


def _tidy(rows: list[list[Any]]) -> pd.DataFrame:
    columns = ["run", "study", "workload", "optimizer", "role", "learning_rate", "seed", "step", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


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
    "repetitions": 2,
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
            for seed in range(2):
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
        facts = Facts("gap-diagnostics", "laptop", DIAGNOSED, "Made-up", (), 8, (), {"perceptron": "A", "gpt": "B"})
        return StudyResults(_tidy(rows), facts)

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
        return StudyResults(_tidy(table), Facts("gap-overhead", "smoke", settings, None, (), 0, ()))

    return make
