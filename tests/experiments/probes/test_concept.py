import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from optrepro.experiments.base import tidy
from optrepro.experiments.probes import concept
from optrepro.experiments.probes.autocorrelation import scores, windowed
from optrepro.experiments.probes.concept import measure, phases, train
from optrepro.problems.data import images as datasets
from optrepro.problems.data.images import Dataset
from optrepro.problems.networks import classic
from optrepro.seeds import derive_seed
from optrepro.studies.data import ImageData

SETTINGS = {
    "network": "softmax",
    "network_settings": {},
    "batch_sizes": [4, 64],
    "learning_rate": 0.05,
    "steps": 68,
    "window": 16,
    "lags": 10,
    "blocks": 4,
    "probes": 4,
    "candidates": [0.5, 0.9, 0.99],
    "repetitions": 2,
}


def settings(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**(SETTINGS | changes))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits", seed=0, train_examples=500)


@pytest.fixture(scope="module")
def table(digits: Dataset) -> pd.DataFrame:
    return measure(settings(), 1, digits)


def by_hand(batch_size: int, digits: Dataset, steps: int) -> tuple[Tensor, Tensor]:
    """Gradients (steps, d) of whole batches under `torch.optim.SGD`, and the full gradients before each step."""
    seed = 5
    network = classic.build("softmax", digits.input_shape, digits.classes, seed=derive_seed(seed, "weights"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(derive_seed(seed, "batches", batch_size))
    images, labels = digits.train.images, digits.train.labels

    def gradient(index: Tensor) -> Tensor:
        optimizer.zero_grad()
        F.cross_entropy(network(images[index]), labels[index]).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    gradients, full = [], []
    for _ in range(steps):
        full.append(gradient(torch.arange(len(labels))))
        gradients.append(gradient(torch.randint(len(labels), (batch_size,), generator=generator)))
        optimizer.step()
    return torch.stack(gradients), torch.stack(full)


def test_the_trace_is_that_of_plain_sgd_on_whole_batches(digits: Dataset) -> None:
    trace = train(settings(), 8, 5, digits)
    gradients, full = by_hand(8, digits, 68)
    torch.testing.assert_close(trace.products[:, 0], gradients.square().sum(1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(trace.products[10:, 10], (gradients[10:] * gradients[:-10]).sum(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(trace.products[10:].mean(0)[0], windowed(gradients[10:], 0)[0], rtol=1e-3, atol=1e-5)
    assert len(trace.full) == 3 * 4
    for step, square in trace.full.items():
        torch.testing.assert_close(square, full[step].square().sum(), rtol=1e-3, atol=1e-5)


def at_fixed_weights(batch_size: int, digits: Dataset) -> concept.Trace:
    # a rate so small that every step sees the same weights, where all expectations are known
    return train(settings(learning_rate=1e-12, steps=2000, window=600), batch_size, 5, digits)


def test_the_self_term_holds_the_noise_of_the_batch_and_its_debiased_forms_do_not(digits: Dataset) -> None:
    small, large = at_fixed_weights(4, digits), at_fixed_weights(64, digits)
    true = next(iter(small.full.values()))
    torch.testing.assert_close(next(iter(large.full.values())), true)
    excess = [(trace.products[:, 0].mean() - true).item() for trace in (small, large)]
    assert excess[0] / excess[1] == pytest.approx(64 / 4, rel=0.2)
    assert excess[0] > true
    for trace in (small, large):
        unbiased = [trace.halves, *trace.products[10:, 1:].T]
        for products in unbiased:
            assert abs(products.mean() - true) < 5 * products.std() / len(products) ** 0.5


def test_small_batches_make_the_paper_score_take_the_smallest_momentum_and_the_debiased_one_not(
    digits: Dataset,
) -> None:
    fixed = settings(batch_sizes=[2, 500], learning_rate=1e-12, repetitions=1, steps=320, window=100)
    result = measure(fixed, 1, digits)
    choice = {
        (metric, workload): rows.sort_values("value").optimizer.iloc[-1]
        for (metric, workload), rows in result.groupby(["metric", "workload"])
        if metric in ("score_paper", "score_debiased")
    }
    assert choice["score_paper", "early/batch-2"] == "momentum-0.5"
    assert choice["score_paper", "early/batch-500"] == "momentum-0.99"
    assert choice["score_debiased", "early/batch-2"] == "momentum-0.99"
    assert choice["score_debiased", "early/batch-500"] == "momentum-0.99"


def values(table: pd.DataFrame, metric: str, workload: str = "middle/batch-4", repetition: int = 1) -> list[float]:
    rows = table[(table.metric == metric) & (table.workload == workload) & (table.seed == repetition)]
    return rows.value.tolist()


def test_every_score_is_that_of_the_recorded_autocorrelation(table: pd.DataFrame) -> None:
    autocorrelation = torch.tensor(values(table, "autocorrelation"), dtype=torch.float64)
    candidates = SETTINGS["candidates"]

    def with_self_term(value: float) -> list[float]:
        return scores(torch.cat([torch.tensor([value], dtype=torch.float64), autocorrelation[1:]]), candidates).tolist()

    halves = values(table, "self_term_halves").pop()
    assert values(table, "score_paper") == pytest.approx(scores(autocorrelation, candidates).tolist())
    assert values(table, "score_debiased") == pytest.approx(with_self_term(halves))
    assert values(table, "score_debiased_previous") == pytest.approx(with_self_term(autocorrelation[1].item()))
    raw = [sum(m**k * r for k, r in enumerate(autocorrelation.tolist()) if k) for m in candidates]
    assert values(table, "score_raw") == pytest.approx(raw)


def test_values_and_errors_are_means_over_the_window_and_spread_over_its_blocks(
    table: pd.DataFrame, digits: Dataset
) -> None:
    trace = train(settings(), 4, derive_seed(1, "concept", 1), digits)
    start = phases(settings())["middle"]
    window = trace.products[start : start + 16].double()
    assert values(table, "autocorrelation") == pytest.approx(window.mean(0).tolist())
    spread = window.reshape(4, 4, 11).mean(1).std(0) / 2
    assert values(table, "autocorrelation_error") == pytest.approx(spread.tolist())
    assert values(table, "loss").pop() == pytest.approx(trace.loss[start : start + 16].mean().item())
    probed = [v.item() for step, v in trace.full.items() if start <= step < start + 16]
    assert len(probed) == 4
    assert values(table, "self_term_full").pop() == pytest.approx(sum(probed) / 4)


def test_the_table_is_tidy_and_repeats_bit_for_bit(table: pd.DataFrame, digits: Dataset, tmp_path: Path) -> None:
    tidy.write(table, tmp_path / "first.parquet")
    tidy.write(measure(settings(), 1, digits), tmp_path / "second.parquet")
    assert (tmp_path / "first.parquet").read_bytes() == (tmp_path / "second.parquet").read_bytes()
    assert not table.duplicated(["workload", "optimizer", "seed", "step", "metric"]).any()
    assert table.value.notna().all()
    assert values(table, "autocorrelation", repetition=0) != values(table, "autocorrelation", repetition=1)


def test_every_phase_and_batch_size_has_every_row(table: pd.DataFrame) -> None:
    phase_names, sizes = ("early", "middle", "late"), (4, 64)
    assert set(table.workload) == {"filters"} | {f"{phase}/batch-{size}" for phase in phase_names for size in sizes}
    # 11 lags, 2 self terms and a loss, 4 scores of 3 candidates, each with its error
    assert set(table[table.workload != "filters"].groupby(["workload", "seed"]).size()) == {2 * (11 + 3 + 12)}


def test_filters_have_unit_norm(table: pd.DataFrame) -> None:
    filters = table[table.metric == "filter"].pivot_table(index="optimizer", columns="step", values="value")
    assert list(filters.index) == ["momentum-0.5", "momentum-0.9", "momentum-0.99"]
    assert (filters**2).sum(axis=1).tolist() == pytest.approx([1.0] * 3)


def test_the_windows_do_not_overlap_and_every_lag_has_a_past() -> None:
    starts = list(phases(settings()).values())
    assert starts[0] >= SETTINGS["lags"]
    assert all(later - earlier >= SETTINGS["window"] for earlier, later in itertools.pairwise(starts))
    assert starts[-1] + SETTINGS["window"] == SETTINGS["steps"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [4, 7]}, "batch_sizes has 7"),
        ({"window": 18}, "window = 18 must be a multiple of blocks = 4"),
        ({"blocks": 1}, "blocks = 1"),
        ({"probes": 1}, r"probes = 1 is not in \[2, window = 16\]"),
        ({"steps": 67}, "steps = 67 must be at least 3 window \\+ 2 lags = 68"),
        ({"candidates": [0.5, 1.0]}, r"momentum = 1\.0 is not in"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(changes: dict[str, Any], message: str, digits: Dataset) -> None:
    with pytest.raises(ValueError, match=message):
        measure(settings(**changes), 1, digits)


class Study(ImageData):
    network: str
    network_settings: Mapping[str, Any]
    batch_sizes: Sequence[int]
    learning_rate: float
    steps: int
    window: int
    lags: int
    blocks: int
    probes: int
    candidates: Sequence[float]
    repetitions: int


def test_run_loads_the_data_set_names_the_study_and_reports_progress() -> None:
    study = Study(dataset=("digits",), train_examples=100, validation_examples=10, **SETTINGS)
    calls = []
    context = SimpleNamespace(
        seed=1,
        dataset="digits",
        device=torch.device("cpu"),
        progress=lambda *call: calls.append(call),
    )
    result = concept.run(study, SimpleNamespace(study="gap-concept"), context)
    assert set(result.study) == {"gap-concept"}
    assert calls[0] == (0, 4, "batch 4")
    assert calls[-1] == (4, 4, "done")
