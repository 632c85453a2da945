"""Greedy alignment on a real training run: gradient autocorrelation, candidate filters, and their scores.

A network is trained by plain SGD. In three windows of the run (early, middle, late) the inner products of gradients up
to `lags` steps apart are averaged to R_k, and each candidate momentum is scored with them. Small and large batches
show the bias of the self term: R_0 = E ||g||^2 contains the mini-batch noise, which the other lags do not.

Batches are drawn with replacement, so that the batches of different steps are independent; within an epoch of shuffled
examples they would be correlated negatively. Even so, R_k is not only the alignment of true gradients: the step taken
with g_(n-k) moved the weights at which g_n is computed, which lowers R_k by about the learning rate times E[g^T H g].
With small batches and large rates, R_1 is negative although the gradients without noise are aligned.

Source: arXiv 2512.06370 (the principle and the score "paper"); the other scores, the network, the rate and the windows
are chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optrepro.experiments.base import data, tidy
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.progress import Progress, no_progress
from optrepro.experiments.base.tidy import Row
from optrepro.experiments.probes.autocorrelation import StreamingAutocorrelation, momentum_filter, scores
from optrepro.problems.data.images import Dataset, Split
from optrepro.problems.networks import classic
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.data import ImageData


class ConceptSettings(Protocol):
    """Settings of the study.

    Attributes:
        network, network_settings: as in `optrepro.problems.networks.classic.build`.
        batch_sizes: one training run per size; sizes are even, because gradients are computed in two halves.
        learning_rate: learning rate of plain SGD.
        steps: steps of a run, at least 3 `window` + 2 `lags`.
        window: number of consecutive steps of an estimate; a multiple of `blocks`.
        lags: largest lag.
        blocks: number of blocks of a window, at least 2; their spread gives the standard error.
        probes: number of steps per window at which the gradient of the whole training set is computed.
        candidates: momenta to score.
        repetitions: number of runs, each with its own weights and batches.
    """

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


@dataclass(frozen=True)
class Trace:
    """Measurements along a run of n steps.

    Attributes:
        loss: mini-batch loss, (n,).
        products: <g_n, g_(n-k)> for k = 0 ... lags, (n, lags + 1); 0 where g_(n-k) does not exist.
        halves: inner product of the gradients of the batch's two halves, (n,): R_0 without mini-batch noise.
        full: squared norm of the gradient of the whole training set at the probed steps, by step.
    """

    loss: Tensor
    products: Tensor
    halves: Tensor
    full: Mapping[int, Tensor]


def run(study: ConceptSettings, batch: Batch, context: Context) -> pd.DataFrame:
    """Return the tidy table of `measure` for a study."""
    assert isinstance(study, ImageData)
    assert context.dataset is not None
    dataset = data.load(study, context.dataset, context.seed, context.device)
    return measure(study, context.seed, dataset, context.progress).assign(study=batch.study)


def measure(settings: ConceptSettings, seed: int, dataset: Dataset, progress: Progress = no_progress) -> pd.DataFrame:
    """Measure autocorrelation, filters and scores, and return them as one tidy table.

    ``workload`` is <phase>/batch-<size> with the phases early, middle and late; ``seed`` is the repetition;
    ``optimizer`` is sgd, or momentum-<candidate> for filters and scores. Each metric except ``filter`` has a companion
    with the suffix ``_error``, the standard error over the blocks of the window.

    - ``autocorrelation``: R_k with k in ``step``.
    - ``self_term_halves``, ``self_term_full``: R_0 without mini-batch noise, from the halves of each batch, and from
      the whole training set at the probed steps (with the standard error over these steps).
    - ``loss``: mean mini-batch loss.
    - ``score_paper``: inner product of R with the candidate's unit-norm filter.
    - ``score_debiased``, ``score_debiased_previous``: the same with R_0 from the halves, or with R_1 instead of R_0.
    - ``score_raw``: sum over k >= 1 of momentum^k R_k, the gain without the self term.
    - ``filter``: coefficients of the unit-norm filter with k in ``step``, in the workload ``filters``.

    Filters are cut after `lags` and then scaled to unit norm.

    Raises: ValueError for settings that do not fit together, see `ConceptSettings`.
    """
    _check(settings)
    rows = [
        _row("filters", f"momentum-{momentum:g}", settings, 0, lag, "filter", value)
        for momentum in settings.candidates
        for lag, value in enumerate(momentum_filter(momentum, settings.lags).tolist())
    ]
    runs = list(itertools.product(range(settings.repetitions), settings.batch_sizes))
    for done, (repetition, batch_size) in enumerate(runs):
        progress(done, len(runs), f"batch {batch_size}")
        trace = train(settings, batch_size, derive_seed(seed, "concept", repetition), dataset)
        for phase, start in phases(settings).items():
            rows += _window_rows(f"{phase}/batch-{batch_size}", trace, start, settings, repetition)
    progress(len(runs), len(runs), "done")
    return tidy.frame(rows)


def phases(settings: ConceptSettings) -> dict[str, int]:
    """Return the first step of each window; the early one starts once every lag has a past gradient."""
    return {
        "early": settings.lags,
        "middle": (settings.steps - settings.window) // 2,
        "late": settings.steps - settings.window,
    }


def train(settings: ConceptSettings, batch_size: int, seed: int, dataset: Dataset) -> Trace:
    """Train a network by SGD and measure its gradients.

    Args:
        settings: see `ConceptSettings`.
        batch_size: an even size.
        seed: seed of the batches and of the initial weights, which do not depend on the batch size.
        dataset: data set whose training split is used, on its device.
    """
    split = dataset.train
    network = classic.build(
        settings.network,
        dataset.input_shape,
        dataset.classes,
        seed=derive_seed(seed, "weights"),
        **settings.network_settings,
    ).to(split.images.device)
    generator = torch.Generator().manual_seed(derive_seed(seed, "batches", batch_size))
    stream = StreamingAutocorrelation(settings.lags, decay=1.0)
    probed = _probed(settings)
    losses, products, halves, full = [], [], [], {}
    for step in range(settings.steps):
        if step in probed:
            full[step] = _full_gradient(network, split).square().sum()
        index = torch.randint(len(split.labels), (batch_size,), generator=generator).to(split.labels.device)
        (loss_a, a), (loss_b, b) = (_loss_and_gradient(network, split, half) for half in index.chunk(2))
        gradient = (a + b) / 2
        losses.append((loss_a + loss_b) / 2)
        halves.append(a @ b)
        products.append(stream.update(gradient))
        _descend(network, gradient, settings.learning_rate)
    return Trace(torch.stack(losses), torch.stack(products), torch.stack(halves), full)


def _check(settings: ConceptSettings) -> None:
    for batch_size in settings.batch_sizes:
        if batch_size < 2 or batch_size % 2:
            raise ValueError(f"batch_sizes has {batch_size}; every size must be even and at least 2")
    if settings.blocks < 2 or settings.window % settings.blocks:
        raise ValueError(f"window = {settings.window} must be a multiple of blocks = {settings.blocks}, at least 2")
    if not 2 <= settings.probes <= settings.window:
        raise ValueError(f"probes = {settings.probes} is not in [2, window = {settings.window}]")
    least = 3 * settings.window + 2 * settings.lags
    if settings.steps < least:
        raise ValueError(
            f"steps = {settings.steps} must be at least 3 window + 2 lags = {least}, or the windows overlap"
        )


def _probed(settings: ConceptSettings) -> set[int]:
    """Return the steps in the middle of `probes` equal parts of each window."""
    offsets = [int(settings.window * (p + 0.5) / settings.probes) for p in range(settings.probes)]
    return {start + offset for start in phases(settings).values() for offset in offsets}


def _loss_and_gradient(network: nn.Module, split: Split, index: Tensor | slice) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy of some examples, and its gradient as one vector (d,)."""
    loss = F.cross_entropy(network(split.images[index]), split.labels[index])
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return loss.detach(), torch.cat([g.flatten() for g in gradients])


def _full_gradient(network: nn.Module, split: Split, chunk: int = 2000) -> Tensor:
    """Return the gradient of the mean loss of a whole split, (d,), computed in chunks to save memory."""
    count = len(split.labels)
    parts = [slice(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    weighted = [_loss_and_gradient(network, split, part)[1] * (part.stop - part.start) for part in parts]
    return torch.stack(weighted).sum(0) / count


@torch.no_grad()
def _descend(network: nn.Module, gradient: Tensor, learning_rate: float) -> None:
    offset = 0
    for parameter in network.parameters():
        part = gradient[offset : offset + parameter.numel()]
        parameter.sub_(part.view_as(parameter), alpha=learning_rate)
        offset += parameter.numel()


def _window_rows(workload: str, trace: Trace, start: int, settings: ConceptSettings, repetition: int) -> Iterator[Row]:
    """Yield the rows of one window, each value with its standard error."""
    stop = start + settings.window

    def blocks(values: Tensor) -> Tensor:
        """Return the block means of the window, (n, ...) -> (blocks, ...)."""
        return values[start:stop].double().reshape(settings.blocks, -1, *values.shape[1:]).mean(1)

    def rows(optimizer: str, step: int, metric: str, sample: Tensor) -> Iterator[Row]:
        error = sample.std() / len(sample) ** 0.5
        yield _row(workload, optimizer, settings, repetition, step, metric, sample.mean().item())
        yield _row(workload, optimizer, settings, repetition, step, f"{metric}_error", error.item())

    autocorrelation, halves = blocks(trace.products), blocks(trace.halves)
    full = torch.stack([value for step, value in trace.full.items() if start <= step < stop]).double()
    for lag in range(settings.lags + 1):
        yield from rows("sgd", lag, "autocorrelation", autocorrelation[:, lag])
    for metric, sample in (("self_term_halves", halves), ("self_term_full", full), ("loss", blocks(trace.loss))):
        yield from rows("sgd", 0, metric, sample)
    for metric, sample in _scores(autocorrelation, halves, settings.candidates).items():
        for j, momentum in enumerate(settings.candidates):
            yield from rows(f"momentum-{momentum:g}", 0, metric, sample[:, j])


def _scores(autocorrelation: Tensor, halves: Tensor, candidates: Sequence[float]) -> dict[str, Tensor]:
    """Return the scores (blocks, candidates) by metric; they are linear in R, so block means of R suffice."""
    rest = autocorrelation[:, 1:]
    lags = torch.arange(1, autocorrelation.shape[1], dtype=rest.dtype, device=rest.device)
    gains = torch.stack([momentum**lags for momentum in candidates], dim=1)
    return {
        "score_paper": scores(autocorrelation, candidates),
        "score_debiased": scores(torch.cat([halves.unsqueeze(1), rest], dim=1), candidates),
        "score_debiased_previous": scores(torch.cat([rest[:, :1], rest], dim=1), candidates),
        "score_raw": rest @ gains,
    }


def _row(
    workload: str, optimizer: str, settings: ConceptSettings, repetition: int, step: int, metric: str, value: float
) -> Row:
    run = f"{workload}/{repetition}"
    return Row(run, "concept", workload, optimizer, "test", settings.learning_rate, repetition, step, metric, value)
