"""Building blocks of all settings: frozen models with documented fields, and the types that several models use.

The description of a field appears in the JSON schema, and so in editors, and in the manual of the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

NAME, MODULE = r"^[a-z0-9]+(-[a-z0-9]+)*$", r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"
DOTTED, TRAINED = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", r"^[a-z0-9-]+/[a-z0-9-]+$"
Name = Annotated[str, Field(pattern=NAME)]
ModulePath = Annotated[str, Field(pattern=MODULE)]
DottedPath = Annotated[str, Field(pattern=DOTTED)]
TrainedRow = Annotated[str, Field(pattern=TRAINED)]
_WORDS = {  # by pattern
    NAME: "It must be a name: lower-case letters and digits, with single hyphens between words",
    MODULE: "It must be the import path of a module, such as my_package.module",
    DOTTED: "It must be an import path, such as torch.optim.SGD",
    TRAINED: "It must be a study and a row of it, such as pop-training/pop-trained",
}
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


LONGEST = 290  # characters of a line of an error, so that it fits the screen with what a program writes before it
VALUE = 80  # characters of a value in such a line


def shortened(value: Any, most: int = VALUE) -> str:
    """The value as Python writes it, in one line of at most `most` characters; of a longer one the beginning."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def one_line(text: str, most: int = LONGEST) -> str:
    """The text in one line; a longer one loses its middle, as the key comes first and what is allowed comes last."""
    line = " ".join(text.split())
    kept = most // 2 - 2
    return line if len(line) <= most else f"{line[:kept]} … {line[-kept:]}"


class ConfigError(ValueError):
    """The config is invalid; the message has a line for each key, with its value and what is allowed."""

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(one_line(line) for line in message.split("\n")))


def essential(error: ValidationError) -> list[Any]:
    """The problems of an error, without those that follow from others: a list is not too short if its items are bad."""
    problems: list[Any] = list(error.errors())

    def follows(problem: Any) -> bool:
        place = problem["loc"]
        others = (other["loc"] for other in problems if len(other["loc"]) > len(place))
        return problem["type"] == "too_short" and any(other[: len(place)] == place for other in others)

    return [problem for problem in problems if not follows(problem)]


def in_words(problem: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says that is allowed, without the words of Python."""
    kind = problem["type"]
    if kind == "string_pattern_mismatch":
        return _WORDS.get(problem["ctx"]["pattern"], str(problem["msg"]))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "It must be a mapping of keys"
    if kind in ("tuple_type", "list_type"):
        return "It must be a list"
    if kind == "too_short":
        fewest = problem["ctx"]["min_length"]
        return f"It must have at least {fewest} item{'' if fewest == 1 else 's'}"
    if kind == "extra_forbidden":
        return "There is no such key"
    return str(problem["msg"]).removeprefix("Value error, ")


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

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

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
        places = ((".".join(map(str, problem["loc"])), in_words(problem)) for problem in error.errors())
        faults = (f"{place}: {fault}" if place else fault for place, fault in places)
        raise ValueError(f"{key} = {shortened(dict(changes))} is not allowed: {'; '.join(faults)}") from None


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
