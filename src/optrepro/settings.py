"""Building blocks of all settings: frozen models with documented fields, and the types that several models use.

The description of a field appears in the JSON schema, and so in editors, and in the manual of the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
ModulePath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
DottedPath = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
TrainedRow = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class ConfigError(ValueError):
    """The config is invalid; the message names each key, its value and what is allowed."""


class Mark:
    """An annotation of a model's field that says how the field affects the ids of runs."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"<{self.text}>"


ELSEWHERE = Mark("no run depends on this, or the run's id holds it in another form")
LATER = Mark("came after runs had been published: at its default value it is in no run's id")


class Model(BaseModel):
    """A part of the config. It is frozen, and unknown keys are errors, so that no misspelt key is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @classmethod
    def row_tables(cls) -> dict[str, type[Model]]:
        """The fields that hold named rows, among which a scale can select, with the model of a row."""
        types = {name: field.annotation for name, field in cls.model_fields.items()}
        values = {name: get_args(kind)[1] for name, kind in types.items() if get_origin(kind) is dict}
        return {name: kind for name, kind in values.items() if isinstance(kind, type) and issubclass(kind, Model)}


ModelT = TypeVar("ModelT", bound=Model)


def overridden(base: ModelT, changes: Mapping[str, Any], key: str) -> ModelT:
    """A copy of the model with some fields changed.

    Raises: ValueError that names `key`, the changes, and the fault of each invalid field.
    """
    try:
        return type(base).model_validate({**base.model_dump(), **changes})
    except ValidationError as error:
        places = ((".".join(map(str, e["loc"])), e["msg"]) for e in error.errors())
        faults = (f"{place}: {fault}" if place else fault.removeprefix("Value error, ") for place, fault in places)
        raise ValueError(f"{key} = {dict(changes)} is not allowed: {'; '.join(faults)}") from None


def determining(model: Model) -> dict[str, Any]:
    """The settings of a model that determine its runs, as JSON values."""
    plain, left_out = model.model_dump(mode="json"), set()
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if ELSEWHERE in field.metadata or (LATER in field.metadata and value == field.default):
            left_out.add(name)
        elif isinstance(value, Model):
            plain[name] = determining(value)
    return {name: value for name, value in plain.items() if name not in left_out}


def ascending(pair: tuple[float, float] | None) -> tuple[float, float] | None:
    """The pair unchanged. Raises: ValueError if its first number is the larger one."""
    if pair is not None and pair[0] > pair[1]:
        raise ValueError(f"{list(pair)} must be the smaller number first")
    return pair


Range = Annotated[tuple[Positive, Positive], AfterValidator(ascending)]
