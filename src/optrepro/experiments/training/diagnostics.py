"""Second-order statistics of gradients along training, and the candidates that the rules choose, per tensor.

The followed row is trained exactly as in its study, so R_k is what the score of an optimizer sees, and not only the
alignment of true gradients (compare `optrepro.experiments.probes.concept`): batches come from epochs of shuffled
examples, which correlates their noise within an epoch negatively, by about the batch's fraction of the epoch; and the
step taken with g_(n-k) has moved the weights at which g_n is computed.

Source: arXiv 2512.06370 (the autocorrelation and its stationarity); Kwiatkowski, Phillips, Schmidt, Shin 1992 (the
test); windows, lags and blocks are chosen.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base import factory, tidy
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Row
from optrepro.experiments.training import tasks
from optrepro.experiments.training.classification import Halves, Training, share_of_first_half
from optrepro.optimizers.continuous import Continuous
from optrepro.studies.base import Batch
from optrepro.studies.diagnostics import DiagnosticsStudy
from optrepro.studies.finetuning import FineTuningStudy
from optrepro.studies.training import TrainingStudy


def run(study: DiagnosticsStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Train the rows of a workload at its learning rate, and return the statistics of their gradients as a tidy table.

    ``workload`` is the key of the workload. A metric ends in ``@`` and the name of its parameter tensor, in ``@all``
    if it is summed over tensors, and in ``@preconditioned`` if this sum weights the coordinates by Adam's
    1 / (sqrt(v) + eps), as Adam's score does.

    - The followed row has, per block of window / blocks steps with ``step`` the last one: ``R[k]``, the mean of
      <g_n, g_(n-k)> over the steps at which g_(n-k) exists, up to k = 1 for a tensor and k = lags for a sum; and
      ``halves``, R_0 without mini-batch noise, from the gradients of the two halves of each batch.
    - The followed row also has, for consecutive stretches of window, 2 window, 4 window ... steps:
      ``kpss_square[length]`` and ``kpss_lag1[length]``, the KPSS statistics of level stationarity of the series
      |g_n|^2 and <g_n, g_(n-1)>.
    - Every row that chooses has, at `points` evenly spaced steps: ``chosen[k]``, how often it chose candidate k since
      the previous point; and once ``candidate[k]``, the momentum or beta1.

    A run whose loss is not finite at the end adds a row ``diverged``.

    Raises: ValueError for a followed row whose step needs more than gradients or their halves, for a row that chooses
    among no candidates, and for one with `shares_of`.
    """
    name, workload = batch.name, study.workloads[batch.name]
    trained = context.studies[workload.study]
    assert isinstance(trained, TrainingStudy | FineTuningStudy)
    dataset, build = tasks.of(trained, replace(context, dataset=context.datasets[name]))
    recipe = trained.model_copy(update={"steps": workload.steps or trained.steps, "evaluations": 1})
    groups = [list(runs) for _, runs in groupby(batch.runs, key=lambda run: run.optimizer)]
    with context.checkpoint.listening():
        saved = context.checkpoint.load() or {"group": 0, "rows": [], "watch": None}
        rows = [Row(*row) for row in saved["rows"]]
        for number in range(saved["group"], len(groups)):
            runs = groups[number]
            optimizer = trained.entry(runs[0].optimizer)
            if optimizer.shares_of is not None:
                raise ValueError(
                    f"{runs[0].optimizer}: shares_of = {optimizer.shares_of!r} is not allowed, "
                    "because its choices are random"
                )
            followed = runs[0].optimizer == workload.follow
            if not followed and not hasattr(factory.optimizer_class(optimizer.class_), "selection"):
                raise ValueError(f"{runs[0].optimizer} chooses among no candidates; only rows that choose can be rules")
            rates = [workload.learning_rate] * len(runs)
            training = (Followed if followed else Training)(runs, rates, recipe, optimizer, None, dataset, build)
            watch = Watch(training, study)
            if saved["watch"] is not None:
                watch.load_state(saved["watch"])
                saved["watch"] = None
            while not training.finished:
                watch.advance()
                context.progress(number * training.steps + training.step, len(groups) * training.steps, batch.name)
                context.checkpoint.step(lambda: {"group": number, "rows": [*map(tuple, rows)], "watch": watch.state()})  # noqa: B023
            rows.extend(watch.rows(name))
    return tidy.frame(rows)


class Followed(Training):
    """A training that computes gradients from the two halves of each batch, and keeps each run's last `halves`."""

    halves: list[Halves]

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        if self.needs not in (None, "half_grads"):
            raise ValueError(f"{self.runs[0].optimizer} cannot be followed, because its step needs {self.needs}")
        self._passes_halves = self.needs == "half_grads"
        self.needs = "half_grads"

    def _gradients(self, images: Tensor, labels: Tensor) -> Any:
        losses, gradients, arguments = super()._gradients(images, labels)
        self.halves = [
            Halves.recovered(whole, argument["half_grads"], share)
            for whole, argument, share in zip(gradients, arguments, share_of_first_half(labels), strict=True)
        ]
        return losses, gradients, arguments if self._passes_halves else [{} for _ in arguments]


class Watch:
    """A training together with the records of its runs, which grow with every step."""

    def __init__(self, training: Training, study: DiagnosticsStudy):
        self.training, self.study = training, study
        self.traces = [Trace(study.lags) for _ in training.runs] if isinstance(training, Followed) else []
        self.counts: list[tuple[int, list[Tensor]]] = []  # (step, counts of each run so far) at each point

    def advance(self) -> None:
        """Take one step of the training and record it."""
        training, points = self.training, self.study.points
        training.advance()
        if isinstance(training, Followed):
            for r, trace in enumerate(self.traces):
                parameters = training.models.parameters[r]
                gradients = [p.grad for p in parameters if p.grad is not None]
                halves, preconditioner = training.halves[r], _preconditioner(training.optimizers[r], parameters)
                trace.record(gradients, halves.first, halves.second, preconditioner)
        at_point = training.step * points // training.steps > (training.step - 1) * points // training.steps
        if at_point and hasattr(training.optimizers[0], "selection"):
            counts = [optimizer.selection["counts"].clone() for optimizer in training.optimizers]  # type: ignore[attr-defined]
            self.counts.append((training.step, counts))

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed watch needs to continue bit for bit."""
        return {
            "training": self.training.state(),
            "traces": [trace.state() for trace in self.traces],
            "counts": self.counts,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.training.load_state(state["training"])
        for trace, saved in zip(self.traces, state["traces"], strict=True):
            trace.load_state(saved)
        self.counts = state["counts"]

    def rows(self, workload: str) -> Iterator[Row]:
        """Yield the tidy rows of all runs."""
        training, study = self.training, self.study
        names = training.models.names
        for r, run in enumerate(training.runs):
            measured: list[tuple[int, str, float]] = []
            if self.traces:
                products = self.traces[r].products()
                measured += correlations(products, names, study.window // study.blocks)
                measured += stationarity(products, names, study.window)
            measured += _choices(training.optimizers[r], [(step, counts[r]) for step, counts in self.counts], names)
            if not training.alive[r]:
                measured.append((training.step, "diverged", 1.0))
            head = (run.id, run.study, workload, run.optimizer, run.role, training.rates[r], run.repetition)
            yield from (Row(*head, step, metric, value) for step, metric, value in measured)


class Trace:
    """Inner products of a run's gradients with its previous ones, per tensor.

    Args:
        lags: largest lag, at least 1. The trace holds the last `lags` + 1 gradients.
    """

    def __init__(self, lags: int):
        self.lags = lags
        self._rings: list[Tensor] = []
        self._steps: list[Tensor] = []

    def record(
        self,
        gradients: Sequence[Tensor],
        first: Sequence[Tensor],
        second: Sequence[Tensor],
        preconditioner: Sequence[Tensor] | None = None,
    ) -> None:
        """Record the gradients of a step, those of the halves of its batch, and Adam's preconditioner, if any."""
        if not self._rings:
            self._rings = [g.new_zeros(self.lags + 1, g.numel()) for g in gradients]
        slot = len(self._steps) % (self.lags + 1)
        rows = []
        for i, ring in enumerate(self._rings):
            g, a, b = (part[i].flatten() for part in (gradients, first, second))
            ring[slot] = g
            weights = [torch.ones_like(g)] + ([] if preconditioner is None else [preconditioner[i].flatten()])
            scales = torch.stack(weights)
            # The gradient of k steps ago lies k slots back in the ring.
            lagged = ((scales * g) @ ring.T).flip(-1).roll(slot + 1, -1)
            rows.append(torch.cat([lagged, ((scales * a) @ b)[:, None]], dim=-1))
        plain, *preconditioned = torch.stack(rows, dim=1).unbind()
        self._steps.append(torch.cat([plain, *(part.sum(0, keepdim=True) for part in preconditioned)]))

    def products(self) -> Tensor:
        """Return <g_n, g_(n-k)> for k = 0 ... lags and <a_n, b_n> of the halves a, b.

        The shape is (n, tensors [+ 1 preconditioned], lags + 2), float64 on the CPU; NaN where g_(n-k) does not exist.
        """
        products = torch.stack(self._steps).double().cpu()
        for step in range(min(self.lags, len(products))):
            products[step, :, step + 1 : self.lags + 1] = torch.nan
        return products

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed trace needs to continue bit for bit."""
        return {"rings": self._rings, "steps": self._steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self._rings, self._steps = state["rings"], state["steps"]


def correlations(products: Tensor, names: Sequence[str], length: int) -> Iterator[tuple[int, str, float]]:
    """Yield step, metric and value of ``R[k]`` and ``halves`` (see `run`) per block.

    Args:
        products: see `Trace.products`.
        names: names of the tensors.
        length: steps of a block; the steps of an incomplete last block are left out.
    """
    blocks = len(products) // length
    means = products[: blocks * length].reshape(blocks, length, *products.shape[1:]).nanmean(1)
    lags = products.shape[-1] - 2
    for name, columns in _with_sums(means, names).items():
        for k in range(lags + 1 if name in SUMS else 2):
            yield from _finite(columns[:, k], f"R[{k}]@{name}", length)
        yield from _finite(columns[:, -1], f"halves@{name}", length)


def stationarity(products: Tensor, names: Sequence[str], window: int) -> Iterator[tuple[int, str, float]]:
    """Yield step, metric and value of ``kpss_square`` and ``kpss_lag1`` (see `run`), for all lengths of stretches."""
    steps = len(products)
    for name, columns in _with_sums(products, names).items():
        length = window
        while length <= steps:
            for metric, series in (("kpss_square", columns[:, 0]), ("kpss_lag1", columns[:, 1])):
                stretches = series[: steps - steps % length].reshape(-1, length)
                values = torch.tensor([kpss(stretch) for stretch in stretches], dtype=torch.float64)
                yield from _finite(values, f"{metric}[{length}]@{name}", length)
            length *= 2


def kpss(series: Tensor) -> float:
    """Return the KPSS statistic of level stationarity of a series (n,), ignoring values that are not finite.

    The long-run variance is Newey and West's with Schwert's bandwidth, 12 (n / 100)^(1/4). On AR(1) series with
    coefficients up to 0.5 the test keeps its level of 5 % (measured: 1 to 2 % at n = 50, 4 to 5 % from n = 100 on),
    whereas a bandwidth estimated from the data rejects up to 12 %. The result is NaN for a constant series and for
    one with fewer than 10 values.
    """
    from statsmodels.tsa.stattools import kpss as test  # this import takes a second, and only followed rows need it

    values = series[series.isfinite()].numpy()
    if len(values) < 10 or not values.std() > 0:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that the p-value is outside its table; the p-value is not used
        return float(test(values, regression="c", nlags="legacy")[0])


SUMS = ("all", "preconditioned")


def _with_sums(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Split values (n, tensors [+ 1 preconditioned], ...) by tensor, and add their sum over tensors."""
    columns = dict(zip([*names, "preconditioned"], values.unbind(1), strict=False))
    return {**columns, "all": values[:, : len(names)].sum(1)}


def _finite(values: Tensor, metric: str, length: int) -> Iterator[tuple[int, str, float]]:
    """Yield each finite value with the last step of its block."""
    for i, value in enumerate(values.tolist()):
        if math.isfinite(value):
            yield (i + 1) * length, metric, value


def _preconditioner(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[Tensor] | None:
    """Return Adam's bias-corrected 1 / (sqrt(v) + eps) after the last step, or None for optimizers without v."""
    if "exp_avg_sq" not in optimizer.state[parameters[0]]:
        return None
    (group,) = optimizer.param_groups
    beta2 = float(torch.tensor(group["betas"]).flatten()[1])  # one pair, or one pair per candidate
    weights = []
    for parameter in parameters:
        state = optimizer.state[parameter]
        correction = (1 - beta2 ** float(state["step"])) ** 0.5
        weights.append(1 / (state["exp_avg_sq"].reshape(parameter.shape).sqrt() / correction + group["eps"]))
    return weights


def _choices(
    optimizer: torch.optim.Optimizer, counts: Sequence[tuple[int, Tensor]], names: Sequence[str]
) -> Iterator[tuple[int, str, float]]:
    """Yield step, metric and value of ``candidate`` and ``chosen`` (see `run`) from cumulative counts at the points."""
    if not counts:
        return
    for k, momentum in enumerate(candidates(optimizer)):
        yield 0, f"candidate[{k}]", momentum
    before = torch.zeros_like(counts[0][1])
    for step, taken in counts:
        new = taken - before
        rows = {"all": new} if new.ndim == 1 else dict(zip(names, new, strict=True))
        for name, row in rows.items():
            for k, count in enumerate(row.tolist()):
                yield step, f"chosen[{k}]@{name}", float(count)
        before = taken


def candidates(optimizer: Any) -> list[float]:
    """Return the momentum or beta1 of each candidate, or of each bin of the continuous form."""
    if isinstance(optimizer, Continuous):
        return [0.5, 0.9, 0.99]  # each bin counts the momenta nearest to one of these values
    values = optimizer.param_groups[0][optimizer.family]
    return [float(value[0] if isinstance(value, Sequence) else value) for value in values]
