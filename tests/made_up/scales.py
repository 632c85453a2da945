"""Scales so small that every kind of study runs in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from optrepro import config

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


@pytest.fixture(scope="session")
def tiny_halving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scale file with a halving of four candidates, in three rungs that end with the iterations 1, 2 and 4."""
    meta = yaml.safe_load(TINY_POP)["studies"]["meta"]
    study = {key: meta[key] for key in ("prior", "network", "ppo", "validation_functions", "validate_every")}
    study["ppo"]["iterations"] = 4
    study |= {"grid": {"ppo.learning_rate": [0.001, 0.02], "network.history": [2, 4]}, "rungs": 3}
    content = {"scale": "tiny-halving", "seed": 7, "device": "cpu", "studies": {"search": {"kind": "halving", **study}}}
    path = tmp_path_factory.mktemp("config") / "tiny-halving.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


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
