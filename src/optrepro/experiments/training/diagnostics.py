"""The second-order statistics of gradients along training, and which candidates the rules take, tensor by tensor.

A run of the followed row is a run of its study as the optimizers meet it: batches are those of passes over shuffled
examples, which correlates the noise within a pass negatively, by about the batch's share of the pass; and the step
taken with g_(n-k) has moved the weights that g_n is taken at. So R_k is what a score sees, not the alignment of true
gradients alone (compare `optrepro.experiments.probes.concept`).

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
from optrepro.experiments.training import replicas, tasks
from optrepro.experiments.training.classification import Training
from optrepro.optimizers.continuous import Continuous
from optrepro.studies.base import Batch
from optrepro.studies.diagnostics import DiagnosticsStudy
from optrepro.studies.finetuning import FineTuningStudy
from optrepro.studies.training import TrainingStudy


def run(study: DiagnosticsStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Train the rows of a workload at its learning rate and record what they meet: the tidy table of the batch.

    ``workload`` is the key of the workload; what belongs to a parameter tensor ends in ``@`` and its name, in ``@all``
    where it is summed over the tensors, and in ``@preconditioned`` where that sum weighs the coordinates by Adam's
    1 / (sqrt(v) + eps), as its score does.

    - Of the followed row, in blocks of window / blocks steps, ``step`` being the last one: ``R[k]``, the mean of
      <g_n, g_(n-k)> over the steps that have a g_(n-k), up to k = 1 for a tensor and k = lags for a sum; ``halves``,
      R_0 without mini-batch noise, from the gradients of the halves of each batch.
    - Of the same, in consecutive stretches of window, 2 window, 4 window ... steps: ``kpss_square[length]`` and
      ``kpss_lag1[length]``, the KPSS statistics of level stationarity of the per-step series |g_n|^2 and
      <g_n, g_(n-1)>.
    - Of every row that chooses, at `points` even steps: ``chosen[k]``, the number of choices of candidate k since the
      point before; and once ``candidate[k]``, its momentum or beta1.

    A run whose loss is not finite at the end adds a row ``diverged``.

    Raises: ValueError for a followed row whose steps ask for more than gradients, and for a rule that chooses nothing,
    or with the shares of another.
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
                raise ValueError(f"{runs[0].optimizer} has shares_of = {optimizer.shares_of}: its choices say nothing")
            followed = runs[0].optimizer == workload.follow
            if not followed and not hasattr(factory.optimizer_class(optimizer.class_), "selection"):
                raise ValueError(f"{runs[0].optimizer} chooses among no candidates: there is nothing to record")
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
    """A training whose gradients come from the two halves of each batch, which are kept for each run."""

    halves: list[tuple[Sequence[Tensor], Sequence[Tensor]]]

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        if self.needs not in (None, "half_grads"):
            raise ValueError(f"{self.runs[0].optimizer} cannot be followed: its steps need {self.needs}")
        self._passes_halves = self.needs == "half_grads"
        self.needs = "half_grads"

    def _gradients(self, images: Tensor, labels: Tensor) -> Any:
        losses, gradients, arguments = super()._gradients(images, labels)
        scored = (labels != replicas.IGNORED).flatten(1)
        shares = scored[:, : scored.shape[1] // 2].sum(1) / scored.sum(1)  # of the first half in the batch's mean
        self.halves = []
        for x, whole, argument in zip(shares, gradients, arguments, strict=True):
            doubled = argument["half_grads"]  # 2 x times the gradient of the first half
            second = [(2 * g - a) / (2 * (1 - x)) for g, a in zip(whole, doubled, strict=True)]
            self.halves.append(([a / (2 * x) for a in doubled], second))
        return losses, gradients, arguments if self._passes_halves else [{} for _ in arguments]


class Watch:
    """A training and what is recorded of each of its runs after every step."""

    def __init__(self, training: Training, study: DiagnosticsStudy):
        self.training, self.study = training, study
        self.traces = [Trace(study.lags) for _ in training.runs] if isinstance(training, Followed) else []
        self.counts: list[tuple[int, list[Tensor]]] = []  # choices so far of each run, at the points

    def advance(self) -> None:
        """One step of the training, recorded."""
        training, points = self.training, self.study.points
        training.advance()
        if isinstance(training, Followed):
            for r, trace in enumerate(self.traces):
                parameters = training.models.parameters[r]
                gradients = [p.grad for p in parameters if p.grad is not None]
                trace.record(gradients, *training.halves[r], _preconditioner(training.optimizers[r], parameters))
        at_point = training.step * points // training.steps > (training.step - 1) * points // training.steps
        if at_point and hasattr(training.optimizers[0], "selection"):
            taken = [optimizer.selection["counts"].clone() for optimizer in training.optimizers]  # type: ignore[attr-defined]
            self.counts.append((training.step, taken))

    def state(self) -> dict[str, Any]:
        """All that a resumed watch needs to go on bit for bit."""
        return {
            "training": self.training.state(),
            "traces": [trace.state() for trace in self.traces],
            "counts": self.counts,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.training.load_state(state["training"])
        for trace, saved in zip(self.traces, state["traces"], strict=True):
            trace.load_state(saved)
        self.counts = state["counts"]

    def rows(self, workload: str) -> Iterator[Row]:
        """The tidy rows of all runs."""
        training, study = self.training, self.study
        names = training.models.names
        for r, run in enumerate(training.runs):
            measured: list[tuple[int, str, float]] = []
            if self.traces:
                products = self.traces[r].products()
                measured += correlations(products, names, study.window // study.blocks)
                measured += stationarity(products, names, study.window)
            measured += _choices(training.optimizers[r], [(step, taken[r]) for step, taken in self.counts], names)
            if not training.alive[r]:
                measured.append((training.step, "diverged", 1.0))
            head = (run.id, run.study, workload, run.optimizer, run.role, training.rates[r], run.repetition)
            yield from (Row(*head, step, metric, value) for step, metric, value in measured)


class Trace:
    """Inner products of a run's gradients, tensor by tensor, with the last ones.

    Args:
        lags: the largest lag, at least 1. Memory is the last `lags` + 1 gradients.
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
        """Takes the gradients of a step, those of the halves of its batch, and Adam's preconditioner, if any."""
        if not self._rings:
            self._rings = [g.new_zeros(self.lags + 1, g.numel()) for g in gradients]
        slot = len(self._steps) % (self.lags + 1)
        rows = []
        for i, ring in enumerate(self._rings):
            g, a, b = (part[i].flatten() for part in (gradients, first, second))
            ring[slot] = g
            weights = [torch.ones_like(g)] + ([] if preconditioner is None else [preconditioner[i].flatten()])
            scales = torch.stack(weights)
            # the gradient of k steps ago lies k slots back, round the ring
            lagged = ((scales * g) @ ring.T).flip(-1).roll(slot + 1, -1)
            rows.append(torch.cat([lagged, ((scales * a) @ b)[:, None]], dim=-1))
        plain, *preconditioned = torch.stack(rows, dim=1).unbind()
        self._steps.append(torch.cat([plain, *(part.sum(0, keepdim=True) for part in preconditioned)]))

    def products(self) -> Tensor:
        """<g_n, g_(n-k)> for k = 0 ... lags, and <a_n, b_n> of the halves, (n, tensors [+ preconditioned], lags + 2).

        NaN where there is no g_(n-k). float64 on the CPU.
        """
        products = torch.stack(self._steps).double().cpu()
        for step in range(min(self.lags, len(products))):
            products[step, :, step + 1 : self.lags + 1] = torch.nan
        return products

    def state(self) -> dict[str, Any]:
        """All that a resumed trace needs to go on bit for bit."""
        return {"rings": self._rings, "steps": self._steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self._rings, self._steps = state["rings"], state["steps"]


def correlations(products: Tensor, names: Sequence[str], length: int) -> Iterator[tuple[int, str, float]]:
    """Step, metric and value of ``R[k]`` and ``halves`` (see `run`) in blocks of `length` steps.

    Args:
        products: see `Trace.products`.
        names: of the tensors.
        length: a rest of steps that fills no block is left out.
    """
    blocks = len(products) // length
    means = products[: blocks * length].reshape(blocks, length, *products.shape[1:]).nanmean(1)
    lags = products.shape[-1] - 2
    for name, columns in _with_sums(means, names).items():
        for k in range(lags + 1 if name in SUMS else 2):
            yield from _finite(columns[:, k], f"R[{k}]@{name}", length)
        yield from _finite(columns[:, -1], f"halves@{name}", length)


def stationarity(products: Tensor, names: Sequence[str], window: int) -> Iterator[tuple[int, str, float]]:
    """Step, metric and value of ``kpss_square`` and ``kpss_lag1`` (see `run`), for `window` steps and its doubles."""
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
    """The KPSS statistic of level stationarity of a series (n,); values that are not finite are left out.

    The long-run variance is that of Newey and West with Schwert's bandwidth, 12 (n / 100)^(1/4). On AR(1) series with
    coefficients up to 0.5 this keeps the level of 5 % (measured: 1 to 2 % at n = 50, 4 to 5 % from n = 100 on), where
    the bandwidth that is chosen from the data rejects up to 12 %. NaN for a series that does not vary, or of fewer
    than 10 values.
    """
    from statsmodels.tsa.stattools import kpss as test  # takes a second, and only the followed rows need it

    values = series[series.isfinite()].numpy()
    if len(values) < 10 or not values.std() > 0:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the p-value lies outside of its table: it is not used
        return float(test(values, regression="c", nlags="legacy")[0])


SUMS = ("all", "preconditioned")


def _with_sums(values: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """The values (n, tensors [+ preconditioned], ...) by tensor, and their sums."""
    columns = dict(zip([*names, "preconditioned"], values.unbind(1), strict=False))
    return {**columns, "all": values[:, : len(names)].sum(1)}


def _finite(values: Tensor, metric: str, length: int) -> Iterator[tuple[int, str, float]]:
    """One entry for each value that is a number, at the last step of its part of the training."""
    for i, value in enumerate(values.tolist()):
        if math.isfinite(value):
            yield (i + 1) * length, metric, value


def _preconditioner(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[Tensor] | None:
    """Adam's 1 / (sqrt(v) + eps) of the step just taken, bias-corrected; None for optimizers without v."""
    if "exp_avg_sq" not in optimizer.state[parameters[0]]:
        return None
    (group,) = optimizer.param_groups
    beta2 = float(torch.tensor(group["betas"]).flatten()[1])  # a pair, or a pair for each candidate
    weights = []
    for parameter in parameters:
        state = optimizer.state[parameter]
        correction = (1 - beta2 ** float(state["step"])) ** 0.5
        weights.append(1 / (state["exp_avg_sq"].reshape(parameter.shape).sqrt() / correction + group["eps"]))
    return weights


def _choices(
    optimizer: torch.optim.Optimizer, counts: Sequence[tuple[int, Tensor]], names: Sequence[str]
) -> Iterator[tuple[int, str, float]]:
    """Step, metric and value of ``candidate`` and ``chosen`` (see `run`), from the counts so far at each point."""
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
    """The momentum or beta1 of each candidate of an optimizer that chooses, or of each bin where it has none."""
    if isinstance(optimizer, Continuous):
        return [0.5, 0.9, 0.99]  # its bins hold the momenta that are nearest to one of these
    values = optimizer.param_groups[0][optimizer.family]
    return [float(value[0] if isinstance(value, Sequence) else value) for value in values]
