"""The typed config, which is validated completely before anything runs.

A scale file (``config/laptop.yaml``) extends papers' folders or other scales, listed under ``extends``, and states only
the differences. A study selects its optimizers from rows that are defined once in a paper's folder. Overrides by dotted
path are applied last. Every error names the key, the value, what is allowed, and the file that set it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union

import yaml
from pydantic import Field, SerializeAsAny, TypeAdapter, ValidationError, model_validator

from optrepro.settings import ConfigError
from optrepro.studies import kinds
from optrepro.studies.base import Model, Name, Study

__all__ = ["Config", "ConfigError", "build", "load", "parse", "schema"]


class Config(Model):
    """The studies that a scale runs, and the settings that they share."""

    scale: Annotated[Name, Field(description="Name of the scale, and of the folders of its results and figures.")]
    seed: Annotated[int, Field(ge=0, description="Root of every derived seed.")] = 251206370
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Field(
            description="Where jobs run. `auto` is a GPU where there is one; with `cuda`, studies without "
            "`gpu: true` run on the CPU."
        ),
    ] = "auto"
    download: Annotated[
        bool,
        Field(
            description="Whether data sets are fetched from their official sources; if not, available ones are used."
        ),
    ] = False
    strict: Annotated[
        bool, Field(description="Whether a missing run is an error; if not, it is a mark on the exhibit.")
    ] = False
    studies: Annotated[
        dict[Name, SerializeAsAny[Study]], Field(description="What is run: the studies, by name, each of a kind.")
    ]

    @model_validator(mode="after")
    def _studies_fit_together(self) -> Self:
        for name, study in self.studies.items():
            study.check_references(f"studies.{name}", self)
        return self


Layer = tuple[str, Mapping[str, Any]]


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config of a scale file, with `overrides` of the form ``studies.vlse.starts=8`` applied last.

    Raises: ConfigError with one line for each invalid key.
    """
    layers = [*_layers(Path(path)), *(_override(text) for text in overrides)]
    return build(layers)


def build(layers: Sequence[Layer]) -> Config:
    """Merge the layers into a config; later layers override earlier ones, and an entry set to null is removed.

    Raises: ConfigError with one line for each invalid key.
    """
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    defined = merged.pop("optimizers", {})  # rows of comparisons by name, from which studies select
    problems: list[Any] = []
    if isinstance(given := merged.get("studies"), dict):
        studies = {name: _study(name, each, defined, problems) for name, each in given.items() if each is not None}
        merged["studies"] = {} if problems else studies  # references between studies need valid studies
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        problems += error.errors()
    if problems:
        raise ConfigError("\n".join(_lines(layers, problems)))
    return config


def _study(name: str, given: Any, defined: Mapping[str, Any], problems: list[Any]) -> Study | None:
    """The study that a mapping describes, or None if it is invalid; its errors are appended to `problems`."""
    place = ("studies", name)
    if not isinstance(given, dict):
        message = "Input should be a valid mapping of keys"
        problems.append({"type": "dict_type", "loc": place, "input": given, "msg": message})
    elif "kind" not in given:
        problems.append({"type": "missing", "loc": (*place, "kind"), "input": given, "msg": ""})
    else:
        try:
            kind = kinds.kind(given["kind"])
        except ValueError as error:
            problems.append({"type": "kind", "loc": (*place, "kind"), "input": given["kind"], "msg": str(error)})
            return None
        try:
            return kind.model_validate(_with_rows(kind, given, defined))
        except ValidationError as error:
            problems += [{**problem, "loc": (*place, *problem["loc"])} for problem in error.errors()]
        except _SelectionError as error:
            problems.append(
                {"type": "selection", "loc": (*place, *error.path), "input": error.value, "msg": str(error)}
            )
    return None


class _SelectionError(ValueError):
    """A selection names a row, or a table of rows, that does not exist."""

    def __init__(self, path: Sequence[str], value: Any, allowed: Iterable[str]) -> None:
        super().__init__(f"It is not one of {', '.join(sorted(allowed))}")
        self.path, self.value = path, value


def _with_rows(kind: type[Model], given: Any, defined: Mapping[str, Any], path: Sequence[str] = ()) -> Any:
    """The mapping with the rows of its tables selected; a row set to null is removed."""
    if not isinstance(given, dict):
        return given
    result = dict(given)
    for field, row_kind in kind.row_tables().items():
        if isinstance(given.get(field), dict):
            rows = _selected(given[field], defined, (*path, field))
            result[field] = {
                name: _with_rows(row_kind, row, defined, (*path, field, name)) for name, row in rows.items()
            }
    return result


def _selected(table: Mapping[str, Any], defined: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The rows of a table: those defined under the name that ``from`` gives, overridden by the table's own rows.

    If there is a list ``keep``, only its rows remain; the rows of a list ``drop`` are removed. A row that names a class
    is complete in itself; any other row changes the defined row of the same name.
    """
    own = {name: row for name, row in table.items() if name not in _SELECTORS}
    rows: dict[str, Any] = {}
    if (source := table.get("from")) is not None:
        if source not in defined:
            raise _SelectionError((*path, "from"), source, defined)
        rows = dict(defined[source])
    for name, row in own.items():
        changes = isinstance(row, dict) and isinstance(rows.get(name), dict) and "class" not in row
        rows[name] = _merge(rows[name], row) if changes else row
    for selector in ("drop", "keep"):
        for name in table.get(selector) or ():
            if name not in rows:
                raise _SelectionError((*path, selector), name, rows)
    dropped, kept = table.get("drop") or (), table.get("keep")
    rows = {name: row for name, row in rows.items() if name not in dropped and (kept is None or name in kept)}
    return {name: row for name, row in rows.items() if row is not None}


_SELECTORS = ("from", "keep", "drop")


def parse(text: str, source: str) -> Any:
    """The value of a YAML text, with numbers as in YAML 1.2 and JSON; PyYAML by itself reads 1e-8 as a string.

    Raises: ConfigError with one line that names `source`.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of a resolved config. Of a study whose kind is a user's class, only the kind is checked."""
    union: Any = Annotated[Union[tuple(kinds.KINDS.values())], Field(discriminator="kind")]  # noqa: UP007
    own = TypeAdapter(union).json_schema(by_alias=True)
    form = TypeAdapter(Config).json_schema(by_alias=True)
    form["$defs"] = {**form["$defs"], **own.pop("$defs")}
    form["$defs"].pop("Study")
    other = {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string", "pattern": r"\."}}}
    for pattern in form["properties"]["studies"]["patternProperties"]:
        form["properties"]["studies"]["patternProperties"][pattern] = {"anyOf": [own, other]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **form}


def _layers(path: Path, heirs: Sequence[Path] = ()) -> list[Layer]:
    """The layers that a scale file extends, then the file; a folder stands for its optimizers and studies."""
    if path in heirs:
        raise ConfigError(f"{path}: extends leads back to this file through {', '.join(map(str, heirs))}")
    if path.is_dir():
        files = [path / name for name in ("optimizers.yaml", "studies.yaml")]
        return [layer for file in files if file.exists() for layer in _layers(file, heirs)]
    try:
        content = parse(path.read_text(), str(path))
    except FileNotFoundError:
        present = ", ".join(sorted(str(p) for p in path.parent.glob("*.yaml"))) or "no YAML file"
        raise ConfigError(f"{path} does not exist; the folder holds {present}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not {type(content).__name__}")
    parents = content.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{path}: extends = {parents!r} is not allowed. It is a file, a folder, or a list of them")
    inherited = [layer for parent in parents for layer in _layers(path.parent / parent, (*heirs, path))]
    return [*inherited, (str(path), content)]


def _override(text: str) -> Layer:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {text!r} is not of the form key.of.the.config=value")
    tree = parse(value, f"override {text!r}")
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return f"override {text}", tree


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _lines(layers: Sequence[Layer], problems: Sequence[Any]) -> Iterator[str]:
    """One line for each key; a value that may have several types has one problem for each type."""
    faults: dict[str, list[str]] = {}
    for place, fault in (_explain(layers, problem) for problem in problems):
        faults.setdefault(place, []).append(fault)
    return (f"{place} {', or '.join(dict.fromkeys(all_))}" for place, all_ in faults.items())


def _explain(layers: Sequence[Layer], problem: Any) -> tuple[str, str]:
    """The layer, key and value of a problem, and the fault."""
    kind, value = problem["type"], problem["input"]
    missing = kind in ("missing", "union_tag_not_found")
    path = _path(problem["loc"])
    if kind.startswith("union_tag"):
        tag = problem["ctx"]["discriminator"].strip("'")
        path, value = [*path, tag], value.get(tag)
    setters = [name for name, layer in layers if _holds(layer, path[:-1] if missing else path)]
    if not setters:  # pydantic appends parts that are in no file: a mark of a bad key, or the type that it tried
        return _explain(layers, {**problem, "loc": problem["loc"][:-1]})
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".") or "the config"
    place = f"{setters[-1]}: {key}"
    if missing:
        return place, "is missing"
    if kind == "extra_forbidden":
        close = get_close_matches(str(path[-1]), _keys(), n=1)
        return place, "is not a key of the config" + (f"; did you mean {close[0]}?" if close else "")
    message = problem["msg"].removeprefix("Value error, ")
    return (f"{place}:", message) if kind == "value_error" else (f"{place} = {value!r} is not allowed.", message)


def _path(location: Sequence[Any]) -> list[Any]:
    """The keys of a location, without the modality that pydantic inserts after the key of a task."""
    path = list(location)
    modalities = [("task", "language"), ("task", "vision")]
    return [part for before, part in zip([None, *path], path, strict=False) if (before, part) not in modalities]


def _keys() -> set[str]:
    """Every key that a config may have at any level, except the names of studies and optimizers."""
    definitions = schema()
    return {key for model in (definitions, *definitions["$defs"].values()) for key in model.get("properties", ())}


def _holds(layer: Any, path: Sequence[Any]) -> bool:
    for part in path:
        try:
            layer = layer[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
