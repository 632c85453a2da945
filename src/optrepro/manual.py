"""The manual of the config: tables of its keys, generated from the models that validate it.

Each model has one section. Its text is the docstring, and each row of its table is a field with its type, default and
description. Keys that several kinds of studies share come before the first of these kinds.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from optrepro import catalogue, settings
from optrepro.config import Config
from optrepro.settings import Model
from optrepro.studies.base import Study
from optrepro.studies.kinds import KINDS

BEGIN, END = "<!-- keys -->", "<!-- /keys -->"
FILES: Mapping[type[Model], str] = {  # further files of the papers' folders
    catalogue.Paper: "The file `<paper>/paper.yaml`",
    catalogue.Exhibits: "The file `<paper>/exhibits.yaml`",
    catalogue.Claim: "An entry of the list `<paper>/claims.yaml`",
    catalogue.ChoiceEntry: "An entry of the list `<paper>/fidelity.yaml`",
    catalogue.Finding: "An entry of the list `findings.yaml`",
}
_PATTERNS = {
    TypeAdapter(kind).json_schema()["pattern"]: words
    for kind, words in (
        (settings.Name, ("name", "names")),
        (settings.DottedPath, ("import path", "import paths")),
        (settings.ModulePath, ("import path", "import paths")),
        (settings.TrainedRow, ("study/row", "pairs study/row")),
    )
}
_SHARED = "Shared keys: "
_NOUNS = {"integer": "integers", "number": "numbers", "boolean": "booleans", "string": "texts"}


def insert(page: str) -> str:
    """The page with the manual inserted between its markers.

    Raises: ValueError if the markers are missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} with an {END} after it")
    return f"{before}{BEGIN}\n{text()}{END}{after}"


def text() -> str:
    """All sections as Markdown."""
    return _Manual().text()


class _Manual:
    """The sections of all models: their order, headings and links."""

    def __init__(self) -> None:
        self.sections: dict[type[Model], int] = {}  # models in order, with the levels of their headings
        self.places: dict[type[Model], dict[str, None]] = {}  # the keys of other models that hold a model
        roots: tuple[type[Model], ...] = (Config, Study, *KINDS.values(), *FILES)
        for root in roots:
            self._visit(root, 2)
        self.anchors: dict[type[Model], str] = {}
        for model in self.sections:
            anchor = re.sub(r"[^\w\- ]", "", self._heading(model).lower()).replace(" ", "-")
            repeated = sum(re.sub(r"-\d+$", "", other) == anchor for other in self.anchors.values())
            self.anchors[model] = f"{anchor}-{repeated}" if repeated else anchor

    def text(self) -> str:
        return "\n".join(self._section(model, level) for model, level in self.sections.items())

    # --- The models ------------------------------------------------------------------------------------------------

    def _visit(self, model: type[Model], level: int) -> None:
        """Add a section for the model, after the models that it inherits from and before the models of its fields."""
        if model in self.sections:
            return
        for part in (model, *_parts(model)):
            for base in _bases(part):
                self._visit(base, 2)
        self.sections[model] = level
        if model is Study:
            return
        for name, field in _own_fields(model).items():
            for part in _models(field.annotation):
                place = _place(field.alias or name, field, part)
                if any(place in places for other, places in self.places.items() if other is not part):
                    place += f" of the {self._called(model)}"
                self.places.setdefault(part, {})[place] = None
        for part in _parts(model):
            if part is not Study:
                self._visit(part, 3)

    # --- The text of a section -------------------------------------------------------------------------------------

    def _section(self, model: type[Model], level: int) -> str:
        parts = [f"{'#' * level} {self._heading(model)}", inspect.getdoc(model) or ""]
        if model is Study:
            parts = [parts[0], "A study has a `kind`, and the keys of that kind.", self._kinds()]
        else:
            if bases := [f"[{self._called(base)}](#{self.anchors[base]})" for base in _bases(model)]:
                parts.append(f"It also has the keys of {' and '.join(bases)}.")
            parts.append(self._table(model))
        return "\n\n".join(parts) + "\n"

    def _heading(self, model: type[Model]) -> str:
        if model in FILES:
            return FILES[model]
        if model is Config:
            return "The scale"
        if model is Study:
            return "The kinds of studies"
        if model in KINDS.values():
            return f"Kind `{model.model_fields['kind'].default}`"
        if places := list(self.places.get(model, ())):
            heading = " or ".join(places)
            return heading[0].upper() + heading[1:]
        words = re.findall(r"[A-Z][a-z]+", model.__name__.removesuffix("Config"))
        return f"{_SHARED}{' '.join(words).lower()}"

    def _called(self, model: type[Model]) -> str:
        """The name of a model in the sentence on inherited keys."""
        name = self._heading(model).removeprefix(_SHARED)
        return name[0].lower() + name[1:]

    def _kinds(self) -> str:
        rows = ((f"[`{name}`](#{self.anchors[kind]})", _first(kind)) for name, kind in KINDS.items())
        return _markdown(("kind", "what is run"), rows)

    def _table(self, model: type[Model]) -> str:
        schema = TypeAdapter(model).json_schema(by_alias=True, ref_template="{model}")
        keys = {field.alias or name: field for name, field in _own_fields(model).items()}
        named = {each.__name__: each for each in self.sections}
        rows = (
            (f"`{key}`", self._words(schema["properties"][key], named), _default(field), field.description or "")
            for key, field in keys.items()
        )
        return _markdown(("key", "type", "default", "meaning"), rows)

    def _words(self, schema: Mapping[str, Any], named: Mapping[str, type[Model]], many: bool = False) -> str:
        """A description of the values that a JSON schema allows, in the plural if `many`."""

        def within(part: Any, many: bool = False) -> str:
            return self._words(part, named, many)

        if reference := schema.get("$ref"):
            model = named[reference]
            return f"[{'studies' if model is Study else 'rows' if many else 'mapping'}](#{self.anchors[model]})"
        if "oneOf" in schema:
            tags = schema["discriminator"]["mapping"].items()
            return "mapping: " + " or ".join(f"[{tag}](#{self.anchors[named[name]]})" for tag, name in tags)
        if "anyOf" in schema:
            return ", or ".join(within(part, many) for part in schema["anyOf"])
        if "const" in schema or "enum" in schema:
            return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
        match schema.get("type"):
            case None:
                return "any value"
            case "null":
                return "null"
            case "array" if "prefixItems" in schema:
                return f"list of {len(schema['prefixItems'])} {within(schema['prefixItems'][0], True)}"
            case "array":
                return f"list of {within(schema['items'], True)}"
            case "object":
                return _mapping(schema, within)
            case "string" if "pattern" in schema:
                return _PATTERNS[schema["pattern"]][many]
            case str(kind):
                noun = _NOUNS[kind] if many else {"string": "text"}.get(kind, kind)
                return noun + _bounds(schema)
        raise AssertionError(schema)


def _mapping(schema: Mapping[str, Any], within: Any) -> str:
    patterns = schema.get("patternProperties")
    values = next(iter(patterns.values())) if patterns else schema.get("additionalProperties", True)
    if values is True:
        return "mapping"
    keys = " of names" if patterns else ""
    if "propertyNames" in schema:
        keys = f" of {within(schema['propertyNames'])}"
    return f"mapping{keys} to {within(values, True)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    """The bounds of a number, as words that follow its noun."""
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    step = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    least, most = above if low is None else low, below if high is None else high
    if least is not None and most is not None:
        return f" in {'(' if low is None else '['}{least:g}, {most:g}{')' if high is None else ']'}{step}"
    if least is not None:
        return (f" above {least:g}" if low is None else f", {least:g} or more") + step
    if most is not None:
        return (f" below {most:g}" if high is None else f", {most:g} or less") + step
    return step


def _own_fields(model: type[Model]) -> dict[str, FieldInfo]:
    """The fields that a model defines itself."""
    return {name: model.model_fields[name] for name in inspect.get_annotations(model) if name in model.model_fields}


def _bases(model: type[Model]) -> list[type[Model]]:
    """The nearest base models that define keys."""
    found: dict[type[Model], None] = {}
    for base in model.__bases__:
        if issubclass(base, Model) and base not in (Model, Study):
            found |= dict.fromkeys([base] if _own_fields(base) else _bases(base))
    return list(found)


def _models(annotation: Any) -> Iterator[type[Model]]:
    """The models that occur in the type of a field."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _parts(model: type[Model]) -> list[type[Model]]:
    """The models that occur in the types of a model's own fields, each once."""
    fields = _own_fields(model).values()
    return list(dict.fromkeys(part for field in fields for part in _models(field.annotation)))


def _place(key: str, field: FieldInfo, part: type[Model]) -> str:
    """A description of the key that holds a model `part`."""
    if field.discriminator:
        tag = part.model_fields[str(field.discriminator)].default
        return f"`{key}` of the {field.discriminator} `{tag}`"
    return f"a row of `{key}`" if getattr(field.annotation, "__origin__", None) is dict else f"`{key}`"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = {} if isinstance(field.default, BaseModel) else field.default
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _first(model: type[Model]) -> str:
    """The first paragraph of a model's docstring, as one line."""
    return " ".join((inspect.getdoc(model) or "").partition("\n\n")[0].split())


def _markdown(head: tuple[str, ...], rows: Any) -> str:
    lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, *rows))
    return "\n".join([next(lines), "|" + "---|" * len(head), *lines])
