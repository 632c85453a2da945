"""The typed config, which is validated completely before anything runs.

A scale file (``config/laptop.yaml``) extends papers' folders or other scales, listed under ``extends``, and states only
the differences. A study selects its optimizers from rows that are defined once in a paper's folder. Overrides by dotted
path are applied last. Every error names the key, the value, what is allowed, and the file that set it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union

import yaml
from pydantic import AfterValidator, Field, SerializeAsAny, TypeAdapter, ValidationError, model_validator

from optrepro import layout
from optrepro.settings import VALUE, ConfigError, essential, in_words, one_line, shortened
from optrepro.studies import kinds
from optrepro.studies.base import Model, Name, Study

__all__ = ["Config", "ConfigError", "build", "load", "parse", "schema"]


def _not_reserved(scale: str) -> str:
    """The name unchanged. Raises: ValueError for a folder of results that belongs to no scale."""
    if scale in layout.RESERVED:
        raise ValueError(f"{scale!r} is a folder of results/ that belongs to no scale; choose another name")
    return scale


class Config(Model):
    """The studies that a scale runs, and the settings that they share."""

    scale: Annotated[
        Name,
        AfterValidator(_not_reserved),
        Field(
            max_length=60,
            description="Name of the scale, and of the folders of its results and figures; it is that of its file.",
        ),
    ]
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
SHOWN = 20  # errors of one file that are written out


_YAML = "tag:yaml.org,2002:"
_JSON = {"str", "int", "float", "bool", "null", "seq", "map", "merge"}  # the kinds of values that JSON has, and `<<`
_DEEPEST, _MOST, _DIGITS = 40, 200_000, 40  # far above what any config needs


class _RefusedError(Exception):
    """A place in a text that is YAML, but not allowed in a config."""

    def __init__(self, mark: Any, fault: str) -> None:
        super().__init__(f"line {mark.line + 1}: {fault}")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Loads what JSON can hold, by libyaml where PyYAML has it, which is ten times as fast.

    A key that stands twice is refused: YAML forbids it, and PyYAML takes the last one without a word.
    """

    def get_single_data(self) -> Any:
        """The value of the text. Raises: yaml.YAMLError; _RefusedError for what is not allowed."""
        node = self.get_single_node()
        if node is None:
            return None
        self.values = 0
        self.examine(node, 0)
        return self.construct_document(node)

    def examine(self, node: yaml.Node, depth: int) -> None:
        """Refuse a node that is not allowed, or has such a node in it. Aliases are followed, even in a circle."""
        self.values += 1
        if depth > _DEEPEST:
            raise _too_deep(node.start_mark)
        if self.values > _MOST:
            raise _RefusedError(
                node.start_mark, f"there are more than {_MOST:,} values, with those repeated by aliases"
            )
        kind = node.tag.removeprefix(_YAML)
        if kind not in _JSON:
            what = shortened(node.value) if isinstance(node, yaml.ScalarNode) else "what stands here"
            raise _RefusedError(
                node.start_mark,
                f"{what} is of the type {shortened(kind)[1:-1]}; allowed are texts, numbers, true, false, null, lists "
                "and mappings. Quotes make a text of a word",
            )
        if isinstance(node, yaml.ScalarNode):
            _examine_number(node, kind)
            return
        if isinstance(node, yaml.MappingNode):
            self.examine_keys(node)
        for item in node.value:
            self.examine(item[1] if isinstance(node, yaml.MappingNode) else item, depth + 1)

    def examine_keys(self, node: yaml.MappingNode) -> None:
        """Refuse a key that is no word or number, and one that stands twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError(key.start_mark, "a list or a mapping is not allowed as a key; it must be a word")
            if key.value in lines:
                raise _RefusedError(
                    key.start_mark,
                    f"the key {shortened(key.value)} stands already in line {lines[key.value]} of the same mapping; "
                    "remove one of the two",
                )
            lines[key.value] = key.start_mark.line + 1


def _examine_number(node: yaml.ScalarNode, kind: str) -> None:
    """Refuse a number that JSON cannot hold, or that would be rounded to infinity."""
    text = node.value
    if (kind == "float" and _is_infinite(text)) or (kind == "int" and len(text) > _DIGITS):
        fault = f"{shortened(text)} is not allowed; a number is finite and has at most {_DIGITS} digits"
        raise _RefusedError(node.start_mark, fault)


def _is_infinite(text: str) -> bool:
    try:
        return not math.isfinite(float(text.lower().replace(".inf", "inf").replace(".nan", "nan").replace("_", "")))
    except ValueError:  # a number to the base 60, as YAML 1.1 has them
        return False


def _too_deep(mark: Any) -> _RefusedError:
    return _RefusedError(mark, f"values are nested more than {_DEEPEST} deep, or one holds itself through an alias")


def _load(text: str) -> Any:
    """The value of a YAML text. The depth is checked first, because libyaml's binding overflows the stack."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST:
            raise _too_deep(event.start_mark)
    return yaml.load(text, _Loader)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config of a scale file, with `overrides` of the form ``studies.vlse.starts=8`` applied last.

    The scale of a file is named as the file, so that no two files of a folder, and no file that extends another and
    forgets to say `scale`, write into the same results. An override may set another scale, and a resolved config in
    JSON lies in the folder of its scale under a name of its own.

    Raises: ConfigError with one line for each invalid key.
    """
    path, last = Path(path), [_override(text) for text in overrides]
    config = build([*_layers(path), *last])
    if path.suffix != ".json" and path.stem != config.scale and not any("scale" in layer for _, layer in last):
        raise ConfigError(
            f"{path}: scale = {shortened(config.scale)} is not allowed; a scale is named as its file, so that no two "
            f"files write into the same results: write scale: {path.stem}, or rename the file to {config.scale}.yaml"
        )
    return config


def build(layers: Sequence[Layer]) -> Config:
    """Merge the layers into a config; later layers override earlier ones, and an entry set to null is removed.

    Raises: ConfigError with one line for each invalid key.
    """
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    problems: list[Any] = []
    defined = _rows(merged.pop("optimizers", {}), problems)
    if isinstance(given := merged.get("studies"), dict):
        studies = {name: _study(name, each, defined, problems) for name, each in given.items() if each is not None}
        merged["studies"] = {} if problems else studies  # references between studies need valid studies
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        problems += essential(error)
    if problems:
        raise ConfigError("\n".join(_lines(layers, problems)))
    return config


def _rows(given: Any, problems: list[Any]) -> dict[str, Any]:
    """The sets of rows of comparisons by name, from which studies select; what is none is appended to `problems`."""
    if not isinstance(given, dict):
        problems.append(_no_mapping(("optimizers",), given))
        return {}
    problems += [_no_mapping(("optimizers", name), rows) for name, rows in given.items() if not isinstance(rows, dict)]
    return {name: rows if isinstance(rows, dict) else {} for name, rows in given.items()}


def _no_mapping(place: tuple[Any, ...], given: Any) -> dict[str, Any]:
    return {"type": "dict_type", "loc": place, "input": given, "msg": ""}


def _study(name: str, given: Any, defined: Mapping[str, Any], problems: list[Any]) -> Study | None:
    """The study that a mapping describes, or None if it is invalid; its errors are appended to `problems`."""
    place = ("studies", name)
    if not isinstance(given, dict):
        problems.append(_no_mapping(place, given))
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
            problems += [{**each, "loc": _origin(name, given, defined, each["loc"])} for each in essential(error)]
        except _SelectionError as error:
            problems.append(
                {"type": "selection", "loc": (*place, *error.path), "input": error.value, "msg": str(error)}
            )
    return None


def _origin(study: str, given: Mapping[str, Any], defined: Mapping[str, Any], place: tuple[Any, ...]) -> Sequence[Any]:
    """Where a place in a study is set: in the study itself, or in the set of rows that it selects from."""
    match place:
        case (field, row, *_) if isinstance(table := given.get(str(field)), dict) and isinstance(
            table.get("from"), str
        ):
            source, own = table["from"], table.get(row)
            if row in defined.get(source, ()) and not (isinstance(own, dict) and _holds(own, place[2:3])):
                return ("optimizers", source, *place[1:])
    return ("studies", study, *place)


class _SelectionError(ValueError):
    """A selection names a row, or a table of rows, that does not exist."""

    def __init__(self, path: Sequence[str], value: Any, allowed: str) -> None:
        super().__init__(allowed)
        self.path, self.value = path, value


def _one_of(allowed: Iterable[Any]) -> str:
    return f"It is not one of {', '.join(sorted(map(str, allowed)))}"


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
        if not isinstance(source, str) or source not in defined:
            raise _SelectionError((*path, "from"), source, _one_of(defined))
        rows = dict(defined[source])
    for name, row in own.items():
        changes = isinstance(row, dict) and isinstance(rows.get(name), dict) and "class" not in row
        rows[name] = _merge(rows[name], row) if changes else row
    for selector in ("drop", "keep"):
        names = table.get(selector)
        if names is not None and not isinstance(names, list):
            raise _SelectionError((*path, selector), names, "It must be a list of names of rows")
        for name in names or ():
            if isinstance(name, list | dict) or name not in rows:
                raise _SelectionError((*path, selector), name, _one_of(rows))
    dropped, kept = table.get("drop") or (), table.get("keep")
    rows = {name: row for name, row in rows.items() if name not in dropped and (kept is None or name in kept)}
    return {name: row for name, row in rows.items() if row is not None}


_SELECTORS = ("from", "keep", "drop")


def parse(text: str | bytes, source: str) -> Any:
    """The value of a YAML text, with numbers as in YAML 1.2 and JSON; PyYAML by itself reads 1e-8 as a string.

    Raises: ConfigError with one line that names `source` and, where it is known, the line.
    """
    try:
        return _load(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        fault = f"the byte {error.object[error.start]:#04x} is not allowed; the file must be text in UTF-8"
        raise ConfigError(f"{source}, line {line}: {fault}") from None
    except _RefusedError as error:
        raise ConfigError(f"{source}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        fault = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{source} is not valid YAML{place}: {fault}") from None
    except yaml.reader.ReaderError as error:
        fault = f"character {error.position + 1} is not allowed in a text ({error.reason})"
        raise ConfigError(f"{source} is not valid YAML: {fault}") from None
    except Exception as error:  # such as ValueError for a month of 13, KeyError for a truth value by force
        raise ConfigError(f"{source} is not valid YAML: {type(error).__name__}: {error}") from None


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
    if path.is_dir():
        files = [file for name in ("optimizers.yaml", "studies.yaml") if (file := path / name).is_file()]
        if not files:
            raise ConfigError(f"{path} is a folder without optimizers.yaml and studies.yaml; it must hold one of them")
        return [layer for file in files for layer in _layers(file, heirs)]
    if any(_same(path, heir) for heir in heirs):
        way = " -> ".join(str(each) for each in (*heirs, path))
        raise ConfigError(f"{heirs[-1]}: extends leads in a circle ({way}); remove {path.name} from one of these lists")
    content = parse(_read(path, heirs), str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not {shortened(content)}")
    parents = content.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) and parent for parent in parents):
        raise ConfigError(
            f"{path}: extends = {shortened(parents)} is not allowed; it is the name of a file or folder beside this "
            "file, or a list of such names"
        )
    inherited = [layer for parent in parents for layer in _layers(path.parent / parent, (*heirs, path))]
    return [*inherited, (str(path), content)]


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def _read(path: Path, heirs: Sequence[Path]) -> bytes:
    """The bytes of a config file. Raises: ConfigError that says what is there instead, or why it cannot be read."""
    place = f"{heirs[-1]}: extends = {shortened(path.name)} is not allowed: " if heirs else ""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        present = ", ".join(sorted(p.name for p in path.parent.glob("*.yaml"))) or "no YAML file"
        raise ConfigError(f"{place}{path} does not exist; the folder holds {present}") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a character that no file has
        raise ConfigError(f"{place}{shortened(str(path))[1:-1]} cannot be read: {error}") from None


def _override(text: str) -> Layer:
    key, equals, value = text.partition("=")
    source = f"override {shortened(text)}"
    if not equals or not key:
        raise ConfigError(f"{source} is not of the form key.of.the.config=value")
    tree = parse(value, source)
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return f"override {one_line(text, 2 * VALUE)}", tree


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
    for place, all_ in islice(faults.items(), SHOWN):
        yield f"{place} {', or '.join(dict.fromkeys(all_))}"
    if len(faults) > SHOWN:
        yield f"and {len(faults) - SHOWN:,} more errors"


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
    place = f"{setters[-1]}: {key_of(path)}"
    if missing:
        return place, "is missing"
    if kind == "extra_forbidden":
        wrong = str(path[-1])
        beside = {key for _, layer in layers for key in _at(layer, path[:-1])}
        close = get_close_matches(wrong, beside - {wrong}, n=1, cutoff=0.8)
        close = close or get_close_matches(wrong, _keys() - {wrong}, n=1)  # another place may have the key itself
        return place, "is not a key of the config" + (f"; did you mean {close[0]}?" if close else "")
    message = in_words(problem)
    return (
        (f"{place}:", message) if kind == "value_error" else (f"{place} = {shortened(value)} is not allowed.", message)
    )


def key_of(path: Sequence[Any]) -> str:
    """The dotted key of a path; a part that is no word is quoted."""
    parts = (p if re.fullmatch(r"[\w.-]{1,60}", str(p)) else shortened(p, 60) for p in path)
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".") or "the config"


def _path(location: Sequence[Any]) -> list[Any]:
    """The keys of a location, without the modality that pydantic inserts after the key of a task."""
    path = list(location)
    modalities = [("task", "language"), ("task", "vision")]
    return [part for before, part in zip([None, *path], path, strict=False) if (before, part) not in modalities]


@cache
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


def _at(layer: Any, path: Sequence[Any]) -> list[str]:
    """The keys that a layer sets at a path."""
    for part in path:
        layer = layer[part] if _holds(layer, [part]) else {}
    return [str(key) for key in layer] if isinstance(layer, Mapping) else []
