from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from optrepro import config, runtable
from optrepro.analysis.gap.diagnostics import kpss_p
from optrepro.config import Config
from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import TIME_IS_UP, Checkpoint, Interrupted
from optrepro.experiments.base.context import Context
from optrepro.experiments.probes.autocorrelation import windowed
from optrepro.experiments.training import diagnostics, replicas, tasks
from optrepro.experiments.training.diagnostics import Followed, Trace, correlations, kpss, stationarity
from optrepro.studies.diagnostics import DiagnosticsStudy
from optrepro.studies.training import TrainingStudy

LAGS = 4
DIAGNOSED = """
scale: tiny
seed: 7
device: cpu
studies:
  images: &training
    kind: training
    dataset: [digits]
    train_examples: 320
    validation_examples: 32
    network: softmax
    batch_size: 16
    steps: 60
    learning_rates: [0.1]
    tuning_repetitions: 1
    test_repetitions: 1
    optimizers:
      sgd: {label: SGD, group: fixed, class: torch.optim.SGD, settings: {momentum: 0.9}}
      halves: {label: halves, class: optrepro.optimizers.gap.GapSGD, settings: {score: debiased, self_term: halves}}
      each: {label: GAP, class: optrepro.optimizers.gap.GapSGD, settings: {score: raw, select: per_parameter}}
      continuous: {label: continuous, class: optrepro.optimizers.gap.GapSGD, settings: {candidates: continuous}}
      shares: {label: shares, group: control, class: optrepro.optimizers.controls.RandomSGD, shares_of: each}
      validation: {label: validation, class: optrepro.optimizers.gap.GapSGD, settings: {score: validation}}
      adamw: {label: AdamW, group: fixed, class: torch.optim.AdamW, settings: {betas: [0.9, 0.999]}}
  watch:
    kind: diagnostics
    workloads:
      sgd: {study: images, follow: sgd, learning_rate: 0.05, rules: [halves, each, continuous]}
      halves: {study: images, follow: halves, learning_rate: 0.05}
      adam: {study: images, follow: adamw, learning_rate: 0.005, steps: 40}
      validation: {study: images, follow: validation, learning_rate: 0.05}
      shares: {study: images, follow: sgd, learning_rate: 0.05, rules: [shares]}
      fixed: {study: images, follow: sgd, learning_rate: 0.05, rules: [adamw]}
    window: 20
    lags: 4
    blocks: 4
    points: 3
    repetitions: 2
"""


class Stopped(Checkpoint):
    """Saves and stops at the 45th step."""

    steps = 0

    def step(self, state: Callable[[], dict[str, Any]]) -> None:
        self.steps += 1
        if self.steps == 45:
            self.save(state())
            raise Interrupted(TIME_IS_UP)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(DIAGNOSED)
    return config.load(path)


@pytest.fixture(scope="module")
def carry_out(settings: Config) -> Callable[..., pd.DataFrame]:
    """The results of the batch of a workload."""

    def run(workload: str, checkpoint: Checkpoint | None = None) -> pd.DataFrame:
        study = settings.studies["watch"]
        assert isinstance(study, DiagnosticsStudy)
        batch = next(batch for batch in runtable.batches(settings, "watch") if batch.name == workload)
        context = Context(settings.seed, torch.device("cpu"), checkpoint or Checkpoint(None))
        datasets = dict.fromkeys(study.workloads, "digits")
        return diagnostics.run(study, batch, replace(context, datasets=datasets, studies=settings.studies))

    return run


@pytest.fixture(scope="module")
def followed(carry_out: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return carry_out("sgd")


def values(table: pd.DataFrame, metric: str, optimizer: str = "sgd", seed: int = 0) -> pd.Series:
    rows = table[(table.metric == metric) & (table.optimizer == optimizer) & (table.seed == seed)]
    return rows.set_index("step").value


def autoregressive(rho: float, steps: int, sizes: tuple[int, ...] = (1500, 500)) -> list[list[Tensor]]:
    """Gradients of unit variance in each coordinate, whose R_k is rho^k times the number of coordinates."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(steps, sum(sizes), generator=generator)
    series = [noise[0]]
    for fresh in noise[1:]:
        series.append(rho * series[-1] + (1 - rho**2) ** 0.5 * fresh)
    return [list(step.split(sizes)) for step in series]


def trace_of(series: list[list[Tensor]], **arguments: list[Tensor]) -> Tensor:
    trace = Trace(LAGS)
    for gradients in series:
        trace.record(gradients, gradients, gradients, **arguments)
    return trace.products()


@pytest.mark.parametrize("rho", [0.9, 0.4, -0.5])
def test_the_autocorrelation_of_autoregressive_gradients_falls_as_powers_of_rho(rho: float) -> None:
    rows = list(correlations(trace_of(autoregressive(rho, 400)), ["a", "b"], 400))
    found = {metric: value for _, metric, value in rows}
    for k in range(LAGS + 1):
        assert found[f"R[{k}]@all"] / 2000 == pytest.approx(rho**k, abs=0.02)
    assert found["R[1]@b"] / 500 == pytest.approx(rho, abs=0.03)
    assert "R[2]@b" not in found
    assert {step for step, _, _ in rows} == {400}


def test_products_are_those_of_whole_gradients_and_missing_before_the_first() -> None:
    series = autoregressive(0.5, 9)
    whole = torch.stack([torch.cat(step) for step in series])
    products = trace_of(series)
    assert torch.allclose(products[LAGS:, :, :-1].sum(1)[:, 2], (whole[4:] * whole[2:-2]).sum(1).double(), rtol=1e-4)
    assert products[:, :, 3].isnan().any(1).tolist() == [True] * 3 + [False] * 6
    means = products.nansum(0)[:, :-1].sum(0) / torch.arange(9, 9 - LAGS - 1, -1)
    assert torch.allclose(means, windowed(whole, LAGS).double(), rtol=1e-4)


def test_adams_weights_enter_the_sum_once() -> None:
    series = autoregressive(0.5, 6, (3, 2))
    weights = [torch.full((3,), 2.0), torch.full((2,), 5.0)]
    products = trace_of(series, preconditioner=weights)
    assert torch.allclose(products[:, 2], 2 * products[:, 0] + 5 * products[:, 1], equal_nan=True)


def test_stationarity_is_rejected_no_more_often_than_its_level_says() -> None:
    products = trace_of(autoregressive(0.5, 3000))
    statistics = [value for _, metric, value in stationarity(products, ["a", "b"], 100) if "[100]" in metric]
    rejected = (kpss_p(statistics) < 0.05).mean()
    assert len(statistics) == 30 * 2 * 3
    assert 0 < rejected < 0.09  # 5 %, with the error of some 60 independent tests


def test_a_break_is_rejected() -> None:
    series = autoregressive(0.5, 200)
    scaled = [[(1.0 if n < 100 else 1.3) * g for g in step] for n, step in enumerate(series)]
    statistics = {metric: value for _, metric, value in stationarity(trace_of(scaled), ["a", "b"], 200)}
    assert max(kpss_p(list(statistics.values()))) < 0.01
    still = {metric: value for _, metric, value in stationarity(trace_of(series), ["a", "b"], 200)}
    assert min(kpss_p(list(still.values()))) > 0.01


def test_a_series_that_does_not_vary_has_no_statistic() -> None:
    assert kpss(torch.ones(30, dtype=torch.float64)) != kpss(torch.ones(30, dtype=torch.float64))


def test_the_followed_gradients_are_those_of_the_study(followed: pd.DataFrame) -> None:
    assert values(followed, "R[0]@all").index.tolist() == list(range(5, 61, 5))
    tensors = values(followed, "R[1]@1.weight") + values(followed, "R[1]@1.bias")
    assert tensors.to_numpy() == pytest.approx(values(followed, "R[1]@all").to_numpy())
    # the noise of the batches is in R_0, and not in what its halves agree on
    assert (values(followed, "halves@all") < values(followed, "R[0]@all")).mean() > 0.9
    assert values(followed, "R[4]@all").index.tolist() == list(range(5, 61, 5))
    assert not (followed.metric.str.contains("preconditioned")).any()
    assert {f"kpss_square[{n}]@all" for n in (20, 40)} <= set(followed.metric)


def test_each_repetition_has_gradients_of_its_own(followed: pd.DataFrame) -> None:
    first, second = (values(followed, "R[0]@all", seed=seed) for seed in (0, 1))
    assert (first != second).all()


def test_a_rule_that_takes_halves_can_be_followed_and_chooses(carry_out: Callable[..., pd.DataFrame]) -> None:
    table = carry_out("halves")
    assert len(values(table, "R[0]@all", "halves")) == 12
    assert len(values(table, "chosen[0]@all", "halves")) == 3


def test_the_halves_that_are_followed_are_the_gradients_of_either_where_they_are_scored_unequally(
    settings: Config,
) -> None:
    study = settings.studies["images"]
    assert isinstance(study, TrainingStudy)
    run = next(run for batch in runtable.batches(settings, "images") for run in batch.runs if run.optimizer == "halves")
    context = Context(settings.seed, torch.device("cpu"), Checkpoint(None), dataset="digits")
    dataset, build = tasks.of(study, context)
    followed = Followed([run], [0.05], study, study.entry("halves"), None, dataset, build)
    images, labels = followed._batch(dataset.train, "order")
    labels = labels.clone()
    labels[0, :5] = replicas.IGNORED
    followed._gradients(images, labels)
    halves = followed.halves[0]
    for half, found in zip((slice(0, 8), slice(8, 16)), (halves.first, halves.second), strict=True):
        _, [expected] = followed.models.gradients(images[:, half], labels[:, half])
        torch.testing.assert_close(list(found), expected)


def test_adam_is_measured_with_its_weights_too(carry_out: Callable[..., pd.DataFrame]) -> None:
    table = carry_out("adam")
    assert table.step.max() == 40
    assert values(table, "R[4]@preconditioned", "adamw").index.tolist() == list(range(5, 41, 5))


def test_every_choice_is_counted_once(followed: pd.DataFrame) -> None:
    for rule, layers in {"halves": ["all"], "each": ["1.weight", "1.bias"], "continuous": ["all"]}.items():
        assert [values(followed, f"candidate[{k}]", rule).item() for k in range(3)] == [0.5, 0.9, 0.99]
        for layer in layers:
            counts = sum(values(followed, f"chosen[{k}]@{layer}", rule) for k in range(3))
            assert counts.to_dict() == {20: 20, 40: 20, 60: 20}


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ("validation", "validation_grads"),
        ("shares", "shares_of = 'each'"),
        ("fixed", "adamw chooses among no candidates; only rows"),
    ],
)
def test_rows_that_cannot_be_watched_are_named(
    carry_out: Callable[..., pd.DataFrame], workload: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        carry_out(workload)


def test_a_run_resumed_after_many_stops_equals_an_uninterrupted_one(
    carry_out: Callable[..., pd.DataFrame], followed: pd.DataFrame, tmp_path: Path
) -> None:
    # 60 steps of each of 4 rows: stops within rows and at their ends
    for _ in range(240 // 45):
        with pytest.raises(Interrupted):
            carry_out("sgd", Stopped(tmp_path / "state"))
    resumed = carry_out("sgd", Stopped(tmp_path / "state"))
    for name, table in (("one", followed), ("many", resumed)):
        tidy.write(table, tmp_path / f"{name}.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "many.parquet").read_bytes()
