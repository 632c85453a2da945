"""What studies of several kinds share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
DottedPath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
TrainedRow = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
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


class Model(BaseModel):
    """Frozen, and unknown keys are errors: a misspelt key must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


ModelT = TypeVar("ModelT", bound=Model)


def overridden(base: ModelT, changes: Mapping[str, Any], key: str) -> ModelT:
    """The model with some of its fields changed.

    Raises: ValueError that names `key`, the changes, and what is wrong with which of them.
    """
    try:
        return type(base).model_validate({**base.model_dump(), **changes})
    except ValidationError as error:
        places = ((".".join(map(str, e["loc"])), e["msg"]) for e in error.errors())
        faults = (f"{place}: {fault}" if place else fault.removeprefix("Value error, ") for place, fault in places)
        raise ValueError(f"{key} = {dict(changes)} is not allowed: {'; '.join(faults)}") from None


class OptimizerConfig(Model):
    """One row of a comparison: a class, its settings, and how its learning rate is tuned."""

    label: Annotated[str, Field(description="Name in figures and tables.")]
    group: Annotated[
        Literal["fixed", "dynamic", "control", "peer", "first-order", "quasi-newton", "policy"],
        Field(description="How the exhibits sort and judge the row."),
    ] = "peer"
    class_: Annotated[DottedPath, Field(alias="class", description="Import path of a `torch.optim.Optimizer`.")]
    settings: Annotated[Settings, Field(description="Keyword arguments of the class; never the rate.")] = {}
    learning_rates: Annotated[Grid | None, Field(description="The tuning grid, if not the study's; equally long.")] = (
        None
    )
    schedule: Annotated[Schedule | None, Field(description="Learning-rate schedule, if not the study's.")] = None
    shares_of: Annotated[
        Name | None, Field(description="Draw candidates with the shares that this other row chose them in.")
    ] = None
    trained: Annotated[
        TrainedRow | None, Field(description="Take the weights of this row of a policy study, as study/row.")
    ] = None


class Comparison(Model):
    """What every study that compares optimizers has: the rows, and one tuning budget for all of them."""

    optimizers: Annotated[dict[Name, OptimizerConfig], Field(min_length=1)]
    learning_rates: Annotated[Grid, Field(description="The tuning grid.")]
    settings: Annotated[Settings, Field(description="For every optimizer; its own settings win.")] = {}

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


class ImageData(Model):
    """The images a study uses: one subset for all of its runs."""

    dataset: Annotated[tuple[str, ...], Field(min_length=1, description="The first that is at hand is used.")]
    labels: Annotated[Literal["fine", "coarse"], Field(description="CIFAR-100 has 100 fine and 20 coarse ones.")] = (
        "fine"
    )
    train_examples: Annotated[Count | None, Field(description="Size of the seeded subset at most; null: all.")] = None
    validation_examples: Annotated[
        Count, Field(description="Held out of the training set, for tuning only; a quarter of it at most.")
    ]


class ConstantRates(Comparison):
    """What every study has that compares optimizers on functions: their learning rates stay as they are."""

    @model_validator(mode="after")
    def _rows_hold_what_is_used(self) -> Self:
        for name, optimizer in self.optimizers.items():
            for key in ("schedule", "shares_of"):
                if getattr(optimizer, key) is not None:
                    raise ValueError(f"optimizers.{name}.{key} is for training studies: here rates stay constant")
        return self
