"""Comparisons of optimizers: the rows, and one tuning budget for all of them."""

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
        raise ValueError(f"{list(grid)} names a rate twice: every rate of a grid is a run of its own")
    return grid


def _without_rate(settings: dict[str, Any]) -> dict[str, Any]:
    if "lr" in settings:
        raise ValueError(f"lr = {settings['lr']!r} is not allowed: the learning rate is tuned, set `learning_rates`")
    return settings


Grid = Annotated[tuple[Positive, ...], Field(min_length=1), AfterValidator(_distinct)]
Settings = Annotated[dict[str, Any], AfterValidator(_without_rate)]


class OptimizerConfig(Model):
    """One optimizer of a comparison: a class, its settings, and how its learning rate is tuned."""

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
        """Whether the row is an optimizer with weights of its own, so that there is nothing to tune."""
        return self.group == "policy"


class Comparison(Study):
    """A study that compares optimizers, all of them with the same tuning budget."""

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
        Settings, Field(description="Keyword arguments for every optimizer, over which its own ones win."), ELSEWHERE
    ] = {}

    @model_validator(mode="after")
    def _equal_budgets(self) -> Self:
        givers = sorted(name for name, optimizer in self.optimizers.items() if optimizer.shares_of is None)
        for name, optimizer in self.optimizers.items():
            grid = optimizer.learning_rates
            if grid is not None and len(grid) != len(self.learning_rates):
                raise ValueError(
                    f"optimizers.{name}.learning_rates has {len(grid)} values and the study's grid has "
                    f"{len(self.learning_rates)}: every optimizer gets the same tuning budget"
                )
            if optimizer.shares_of is not None and optimizer.shares_of not in givers:
                raise ValueError(f"optimizers.{name}.shares_of = {optimizer.shares_of!r} is not one of {givers}")
        return self

    def entry(self, optimizer: str) -> OptimizerConfig:
        """The entry of `optimizer` with the settings that it shares with the others filled in."""
        own = self.optimizers[optimizer]
        return own.model_copy(update={"settings": {**self.settings, **own.settings}})

    def grid(self, optimizer: str) -> tuple[float, ...]:
        """The learning rates that `optimizer` is tuned over, ascending."""
        return tuple(sorted(self.optimizers[optimizer].learning_rates or self.learning_rates))

    def settings_of(self, optimizer: str, *context: object) -> str:
        """What determines a run besides its own row: neither labels nor the other rows of the comparison."""
        return fingerprint([determining(self), determining(self.entry(optimizer)), self.grid(optimizer), *context])

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """The classes of a row, or of all rows."""
        return [row.class_ for name, row in self.optimizers.items() if optimizer in (name, None)]

    def trainer_of(self, optimizer: str, scale: Scale) -> Batch | None:
        """The batch whose weights a row takes, if it takes those of another study."""
        row = self.optimizers.get(optimizer)
        return training_of(row.trained, scale) if row is not None and row.trained else None

    def refuse_strangers(self, key: str, scale: Scale) -> None:
        """Refuse weights that no study leaves, and weights for rows that take none."""
        for name, row in self.optimizers.items():
            if row.trained is None:
                continue
            place = f"{key}.optimizers.{name}.trained = {row.trained!r}"
            if self.uses is None or not row.learned:
                raise ValueError(
                    f"{place} is not allowed: weights go to rows of the group policy in studies of the kinds "
                    "transfer and objectives"
                )
            given = rows_trained_by(self.uses, scale)
            if row.trained not in given:
                raise ValueError(f"{place} is not one of {given}")


class ConstantRates(Comparison):
    """What every study has that compares optimizers on functions: their learning rates stay as they are."""

    @model_validator(mode="after")
    def _rows_hold_what_is_used(self) -> Self:
        for name, optimizer in self.optimizers.items():
            for key in ("schedule", "shares_of"):
                if getattr(optimizer, key) is not None:
                    raise ValueError(f"optimizers.{name}.{key} is for training studies: here rates stay constant")
        return self
