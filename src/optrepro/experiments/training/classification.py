"""Image classification, and the training loop that all studies of networks share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from optrepro.experiments.base import data, factory, tidy
from optrepro.experiments.base.context import Context
from optrepro.experiments.base.tidy import Row
from optrepro.experiments.base.tuning import tuned_learning_rate
from optrepro.experiments.training import replicas, tasks
from optrepro.experiments.training.tasks import Build
from optrepro.problems.data import images as datasets
from optrepro.problems.data.images import Dataset
from optrepro.problems.networks import classic
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch, Run, Scale, dataset_of
from optrepro.studies.comparison import OptimizerConfig
from optrepro.studies.recipe import Recipe
from optrepro.studies.training import TrainingStudy

STACK = 32  # copies in one stacked program; more would cost memory without being faster


def run(study: TrainingStudy, batch: Batch, context: Context) -> pd.DataFrame:
    """Tune on validation data, then train with the tuned rate. Returns tidy results, see `train`."""
    return train(study, batch, context, *tasks.of(study, context))


def prepare(study: Recipe, batches: Sequence[Batch], scale: Scale) -> None:
    """Load the data."""
    reader = study.readings(scale)[0].reader
    data.load(reader, dataset_of(reader, scale), scale.seed, "cpu")


def attempts(study: TrainingStudy) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield an attempt to build the network."""
    build = partial(classic.build, study.network, (1, 32, 32), 10, seed=0, **study.network_settings)
    yield "network", build


def train(
    study: Recipe,
    batch: Batch,
    context: Context,
    dataset: Dataset,
    build: Build,
    make: Callable[..., Training] | None = None,
) -> pd.DataFrame:
    """Train a batch of runs and return their tidy results. Runs without a learning rate use the tuned one.

    Metrics at each evaluation: ``train_loss`` (mean since the previous evaluation), ``validation_loss``,
    ``validation_accuracy``; in test runs also ``test_loss`` and ``test_accuracy``; and of optimizers that choose among
    candidates ``chosen[k]``, the number of steps so far that used candidate k (summed over parameter tensors where
    each chooses for itself). A run whose loss is not finite ends with one row ``diverged``.

    Args:
        study: settings of the training.
        batch: runs from the run table.
        context: context of the batch.
        dataset: data set to train on.
        build: function that makes the models of runs.
        make: `Training` or a subclass.
    """
    groups = list(_groups(batch.runs, study))
    with context.checkpoint.listening():
        saved = context.checkpoint.load() or {"group": 0, "rows": [], "training": None}
        rows = [Row(*row) for row in saved["rows"]]
        for number in range(saved["group"], len(groups)):
            results = pd.concat([context.earlier, tidy.frame(rows)])
            optimizer = study.entry(groups[number][0].optimizer)
            shares = _shares(results, optimizer.shares_of)
            if optimizer.shares_of is not None and shares is None:
                continue  # every run of the copied row diverged, so these runs cannot be made and count as missing
            rates = [_rate(run, results, study) for run in groups[number]]
            training = (make or Training)(groups[number], rates, study, optimizer, shares, dataset, build)
            if saved["training"] is not None:
                training.load_state(saved.pop("training"))
                saved["training"] = None
            while not training.finished:  # a step before each save, so that even the shortest time slice makes progress
                training.advance()
                context.progress(number * training.steps + training.step, len(groups) * training.steps, batch.name)
                context.checkpoint.step(
                    lambda: {"group": number, "rows": [*map(tuple, rows)], "training": training.state()}  # noqa: B023
                )
            training.finish()
            rows.extend(training.rows)
    return tidy.frame(rows)


# Factor of the learning rate by the fraction of steps done; "step" is the recipe of He et al. 2016, section 4.2.
_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    "step": lambda done: 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01,
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True)
class Halves:
    """Gradients of the two halves of one run's batch, one tensor per parameter.

    Attributes:
        first, second: gradient of the mean loss of each half.
        share: share of the first half in the scored labels of the batch, (): 1/2 for images.
    """

    first: Sequence[Tensor]
    second: Sequence[Tensor]
    share: Tensor

    @classmethod
    def recovered(cls, whole: Sequence[Tensor], doubled: Sequence[Tensor], share: Tensor) -> Halves:
        """Undo `whole` and `doubled_first`, up to rounding."""
        first = [a / (2 * share) for a in doubled]
        second = [(2 * g - a) / (2 * (1 - share)) for g, a in zip(whole, doubled, strict=True)]
        return cls(first, second, share)

    def whole(self) -> list[Tensor]:
        """Return the gradient of the batch."""
        return [self.share * a + (1 - self.share) * b for a, b in zip(self.first, self.second, strict=True)]

    def doubled_first(self) -> list[Tensor]:
        """Return twice the first half's part of the batch gradient g.

        For this a, neither a nor 2 g - a holds noise of the other half, whatever the share.
        """
        return [2 * self.share * a for a in self.first]


def share_of_first_half(labels: Tensor) -> Tensor:
    """Return the share of the first half in the scored labels, (R, B, ...) -> (R,)."""
    scored = (labels != replicas.IGNORED).flatten(1)
    return scored[:, : scored.shape[1] // 2].sum(1) / scored.sum(1)


class Training:
    """Copies of one network, each trained by its own optimizer; `advance` takes one step of all of them.

    After a step, the ``grad`` of `models.parameters[r]` is the gradient that run r stepped with.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        rates: Sequence[float],
        study: Recipe,
        optimizer: OptimizerConfig,
        shares: Sequence[float] | None,
        dataset: Dataset,
        build: Build,
    ):
        self.runs, self.rates, self.study, self.dataset = runs, rates, study, dataset
        self.models = build(runs)
        self.optimizers = [
            factory.make(optimizer, parameters, rate, seed=derive_seed(run.seed, "optimizer"), shares=shares)
            for parameters, rate, run in zip(self.models.parameters, rates, runs, strict=True)
        ]
        self.schedule = optimizer.schedule or study.schedule
        self.needs = getattr(self.optimizers[0], "needs", None)
        self.step = 0
        self.steps = study.steps_of(runs[0].role)
        self.rows: list[Row] = []
        self.alive = [True] * len(runs)
        self._augmented = isinstance(study, TrainingStudy) and study.augment
        self._loss = torch.zeros(len(runs), device=dataset.train.labels.device)  # summed since the last evaluation
        self._since = 0
        self.switch_mode("train")

    @property
    def finished(self) -> bool:
        """Whether every run has taken all steps or has diverged."""
        return self.step >= self.steps or not any(self.alive)

    def advance(self) -> None:
        """Take one step of every run that has not diverged, and evaluate if an evaluation is due."""
        self._set_rates()
        losses, gradients, arguments = self._gradients(*self._batch(self.dataset.train, "order"))
        self._loss += losses
        self._since += 1
        for r, optimizer in enumerate(self.optimizers):
            if self.alive[r]:
                for parameter, gradient in zip(self.models.parameters[r], gradients[r], strict=True):
                    parameter.grad = gradient
                optimizer.step(**arguments[r])
        self.step += 1
        if self._is_evaluated():
            self._evaluate()

    def finish(self) -> None:
        """Called after the last step; does nothing here."""

    def state(self) -> dict[str, Any]:
        """Return everything that a resumed training needs to continue bit for bit."""
        return {
            "models": self.models.state(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "rows": [tuple(row) for row in self.rows],
            "alive": self.alive,
            "loss": self._loss,
            "since": self._since,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.models.load_state(state["models"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.alive = state["step"], state["alive"]
        self.rows = [Row(*row) for row in state["rows"]]
        self._loss, self._since = state["loss"], state["since"]

    def _set_rates(self) -> None:
        factor = _SCHEDULES[self.schedule](self.step / self.steps)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def _batch(self, split: datasets.Split, stream: str) -> tuple[Tensor, Tensor]:
        """Return inputs (R, B, ...) and labels (R, B, ...) of this step; runs with equal seeds get equal batches."""
        index = torch.stack([self._index(run.seed, len(split.labels), stream) for run in self.runs])
        index = index.to(split.labels.device)
        images = split.images[index]
        if self._augmented and split is self.dataset.train:
            seeds = (derive_seed(run.seed, "augment", self.step) for run in self.runs)
            images = datasets.augment(images, [torch.Generator().manual_seed(seed) for seed in seeds])
        return images, split.labels[index]

    def _index(self, seed: int, examples: int, stream: str) -> Tensor:
        return self._part(seed, examples, stream, self.study.batch_size, self.step)

    def _part(self, seed: int, examples: int, stream: str, size: int, step: int) -> Tensor:
        """Return the indices of the examples of one step; every epoch shuffles all examples anew."""
        size = min(size, examples)
        epoch, position = divmod(step, examples // size)
        return _order(seed, stream, epoch, examples)[position * size : (position + 1) * size]

    def _gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor, replicas.Gradients, list[dict[str, Any]]]:
        """Return losses, gradients, and the further arguments of each optimizer's step."""
        if self.needs == "half_grads":
            half = images.shape[1] // 2
            losses_a, first = self.models.gradients(images[:, :half], labels[:, :half])
            losses_b, second = self.models.gradients(images[:, half:], labels[:, half:])
            share = share_of_first_half(labels)
            halves = [Halves(*of_run) for of_run in zip(first, second, share, strict=True)]
            arguments: list[dict[str, Any]] = [{"half_grads": h.doubled_first()} for h in halves]
            return share * losses_a + (1 - share) * losses_b, [h.whole() for h in halves], arguments
        losses, gradients = self.models.gradients(images, labels)
        if self.needs == "validation_grads":
            examples = self._batch(self.dataset.validation, "validation order")
            _, validation = self.models.gradients(*examples, probe=True)
            return losses, gradients, [{"validation_grads": g} for g in validation]
        if self.needs == "loss":
            return losses, gradients, [{"closure": loss.clone} for loss in losses]
        return losses, gradients, [{} for _ in self.runs]

    def _is_evaluated(self) -> bool:
        """Test runs are evaluated at `evaluations` evenly spaced steps, tuning runs only at the end."""
        if self.step == self.steps:
            return True
        points = self.study.evaluations
        passed = self.step * points // self.steps, (self.step - 1) * points // self.steps
        return self.runs[0].role == "test" and passed[0] > passed[1]

    def _evaluate(self) -> None:
        self.switch_mode("eval")
        splits = {"validation": self.dataset.validation}
        if self.runs[0].role == "test":
            splits["test"] = self.dataset.test
        columns = {"train_loss": self._loss / self._since}
        for name, split in splits.items():
            columns[f"{name}_loss"], columns[f"{name}_accuracy"] = self.models.evaluate(split)
        values = {metric: column.tolist() for metric, column in columns.items()}
        for r in range(len(self.runs)):
            if not self.alive[r]:
                continue
            # train_loss is a sum over steps, so one loss that was not finite shows in it.
            self.alive[r] = all(math.isfinite(column[r]) for column in values.values())
            if not self.alive[r]:
                self.record(r, "diverged", 1.0)
                continue
            for metric, column in values.items():
                self.record(r, metric, column[r])
            for k, count in enumerate(_chosen(self.optimizers[r])):
                self.record(r, f"chosen[{k}]", count)
        self._loss.zero_()
        self._since = 0
        self.switch_mode("train")

    def record(self, r: int, metric: str, value: float) -> None:
        """Add a tidy row of run r at the current step."""
        run = self.runs[r]
        self.rows.append(
            Row(
                run=run.id,
                study=run.study,
                workload=run.workload,
                optimizer=run.optimizer,
                role=run.role,
                learning_rate=self.rates[r],
                seed=run.repetition,
                step=self.step,
                metric=metric,
                value=float(value),
            )
        )

    def switch_mode(self, mode: str) -> None:
        """Switch optimizers to "train" or "eval"; schedule-free ones evaluate other weights than they train."""
        for optimizer in self.optimizers:
            if hasattr(optimizer, mode):
                getattr(optimizer, mode)()


@lru_cache(maxsize=256)
def _order(seed: int, stream: str, epoch: int, examples: int) -> Tensor:
    """Return the order of the examples in an epoch, (examples,); it has no state, so resuming needs none."""
    generator = torch.Generator().manual_seed(derive_seed(seed, stream, epoch))
    return torch.randperm(examples, generator=generator)


def _groups(runs: Sequence[Run], study: Recipe) -> Iterator[Sequence[Run]]:
    """Yield runs that are trained together: of one optimizer and one role, at most `STACK` where copies are stacked."""
    size = STACK if tasks.stackable(study) else 1
    for _, alike in groupby(runs, key=lambda run: (run.optimizer, run.role)):
        together = list(alike)
        for start in range(0, len(together), size):
            yield together[start : start + size]


def _rate(run: Run, results: pd.DataFrame, study: Recipe) -> float:
    if run.learning_rate is not None:
        return run.learning_rate
    own = results[results.optimizer == run.optimizer]
    if study.criterion == "loss":
        return tuned_learning_rate(own, "validation_loss", failed=math.inf, lowest=True)
    return tuned_learning_rate(own, "validation_accuracy", failed=0.0)


def _shares(results: pd.DataFrame, source: str | None) -> list[float] | None:
    """Return each candidate's share of the steps in the test runs of optimizer `source`; None if all diverged."""
    if source is None:
        return None
    copied = results[(results.optimizer == source) & (results.role == "test")]
    rows = copied[copied.metric.str.startswith("chosen")]
    if rows.empty:
        return None
    last = rows.sort_values("step").groupby(["run", "metric"]).value.last().groupby("metric").sum()
    candidates = [f"chosen[{k}]" for k in range(len(last))]  # in order of k; sorted names put chosen[10] before [2]
    return [float(last[candidate] / last.sum()) for candidate in candidates]


def _chosen(optimizer: torch.optim.Optimizer) -> list[float]:
    """Return the count of steps per candidate, summed over parameter tensors where each chooses for itself."""
    selection = getattr(optimizer, "selection", None)
    if selection is None:
        return []
    counts: Tensor = selection["counts"]
    return [float(count) for count in counts.reshape(-1, counts.shape[-1]).sum(0)]
