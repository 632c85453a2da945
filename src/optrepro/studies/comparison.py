"""Comparisons of optimizers: the rows of optimizers, and the tuning budget that they share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from optrepro.seeds import fingerprint
from optrepro.studies.base import (
    ELSEWHERE,
    Batch,
    DottedPath,
    Model,
    Name,
    Positive,
    Scale,
    Study,
    TrainedRow,
    determining,
    rows_trained_by,
    training_of,
)
from optrepro.studies.fields import Label

Schedule = Literal["cosine", "step", "constant"]


def _distinct(grid: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(grid)) < len(grid):
        raise ValueError(f"{list(grid)} must not contain a learning rate twice")
    return grid


def _without_rate(settings: dict[str, Any]) -> dict[str, Any]:
    if "lr" in settings:
        raise ValueError(f"lr = {settings['lr']!r} is not allowed: the learning rate is tuned, set `learning_rates`")
    return settings


Grid = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_distinct)]
Settings = Annotated[dict[str, Any], AfterValidator(_without_rate)]


class OptimizerConfig(Model):
    """One optimizer of a comparison: its class, its settings, and the tuning of its learning rate."""

    label: Annotated[Label, ELSEWHERE]
    group: Annotated[
        Literal["fixed", "dynamic", "control", "peer", "first-order", "quasi-newton", "policy"],
        Field(
            description="How the exhibits sort and judge the row. Rows of the group `policy` are learned, so that "
            "nothing about them is tuned."
        ),
        ELSEWHERE,
    ] = "peer"
    class_: Annotated[
        DottedPath,
        Field(
            alias="class",
            description="Import path of a subclass of `torch.optim.Optimizer`, of this package or another. Where its "
            "constructor takes a `seed`, it is given the run's.",
        ),
    ]
    settings: Annotated[
        Settings, Field(description="Keyword arguments of the class, without `lr`, which is tuned.")
    ] = {}
    learning_rates: Annotated[
        Grid | None,
        Field(
            description="Tuning grid of the row, as long as the study's, so that every optimizer has the same tuning "
            "budget; null: the study's."
        ),
        ELSEWHERE,
    ] = None
    schedule: Annotated[
        Schedule | None,
        Field(
            description="Learning-rate schedule of the row; null: the study's. Where the optimizers minimize "
            "functions, rates are constant and no row has a schedule."
        ),
    ] = None
    shares_of: Annotated[
        Name | None,
        Field(
            description="Another row of the study: candidates are drawn at random, with the shares that this row "
            "chose them in."
        ),
    ] = None
    trained: Annotated[
        TrainedRow | None,
        Field(
            description="Row of another study, as study/row, whose trained weights this row takes; it is trained "
            "first. For rows of the group `policy`: in studies of the kind `transfer` from one of the kind `policy`, "
            "in studies of the kind `objectives` from one of the kind `learner`."
        ),
    ] = None

    @property
    def learned(self) -> bool:
        """Whether the optimizer is learned, so that its learning rate is not tuned."""
        return self.group == "policy"


class Comparison(Study):
    """A study that compares optimizers with equal tuning budgets."""

    optimizers: Annotated[
        dict[Name, OptimizerConfig],
        Field(min_length=1, description="The optimizers that are compared, by name."),
        ELSEWHERE,
    ]
    learning_rates: Annotated[
        Grid,
        Field(description="Tuning grid: the learning rates that every optimizer is tuned over, each named once."),
        ELSEWHERE,
    ]
    settings: Annotated[
        Settings, Field(description="Keyword arguments of every optimizer; its own settings override them."), ELSEWHERE
    ] = {}

    @model_validator(mode="after")
    def _equal_budgets(self) -> Self:
        sources = sorted(name for name, optimizer in self.optimizers.items() if optimizer.shares_of is None)
        for name, optimizer in self.optimizers.items():
            grid = optimizer.learning_rates
            if grid is not None and len(grid) != len(self.learning_rates):
                raise ValueError(
                    f"optimizers.{name}.learning_rates has {len(grid)} values and the study's grid has "
                    f"{len(self.learning_rates)}: every optimizer gets the same tuning budget"
                )
            if optimizer.shares_of is not None and optimizer.shares_of not in sources:
                raise ValueError(f"optimizers.{name}.shares_of = {optimizer.shares_of!r} is not one of {sources}")
        return self

    def entry(self, optimizer: str) -> OptimizerConfig:
        """The row of `optimizer`, with the settings of the study filled in."""
        own = self.optimizers[optimizer]
        return own.model_copy(update={"settings": {**self.settings, **own.settings}})

    def grid(self, optimizer: str) -> tuple[float, ...]:
        """The learning rates that `optimizer` is tuned over, ascending."""
        return tuple(sorted(self.optimizers[optimizer].learning_rates or self.learning_rates))

    def settings_of(self, optimizer: str, *context: object) -> str:
        """A hash of all settings that determine the runs of an optimizer; labels and other rows do not enter."""
        return fingerprint([determining(self), determining(self.entry(optimizer)), self.grid(optimizer), *context])

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """The class of a row, or the classes of all rows."""
        return [row.class_ for name, row in self.optimizers.items() if optimizer in (name, None)]

    def trainer_of(self, optimizer: str, scale: Scale) -> Batch | None:
        """The batch of another study that trains a row's weights, or None if there is none."""
        row = self.optimizers.get(optimizer)
        return training_of(row.trained, scale) if row is not None and row.trained else None

    def check_references(self, key: str, scale: Scale) -> None:
        """Check that trained weights exist, and that only learned rows have them."""
        for name, row in self.optimizers.items():
            if row.trained is None:
                continue
            place = f"{key}.optimizers.{name}.trained = {row.trained!r}"
            if self.uses is None or not row.learned:
                raise ValueError(
                    f"{place} is not allowed: only rows of the group policy in studies of the kinds transfer and "
                    "objectives have trained weights"
                )
            trained = rows_trained_by(self.uses, scale)
            if row.trained not in trained:
                raise ValueError(f"{place} is not one of {trained}")


class ConstantRates(Comparison):
    """A comparison of optimizers on functions, where learning rates are constant."""

    @model_validator(mode="after")
    def _rows_hold_what_is_used(self) -> Self:
        for name, optimizer in self.optimizers.items():
            for key in ("schedule", "shares_of"):
                if getattr(optimizer, key) is not None:
                    raise ValueError(
                        f"optimizers.{name}.{key} = {getattr(optimizer, key)!r} is not allowed: only studies that "
                        "train networks have it"
                    )
        return self
