"""The typed config: what to run, checked in full before anything runs.

A scale file (``config/laptop.yaml``) states only what differs from the file it names under ``extends``. Overrides by
dotted path come last. Every error names the key, the value, what is allowed, and the file that set it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from optrepro.studies.common import (
    Comparison,
    ConstantRates,
    DottedPath,
    ImageData,
    Model,
    Name,
    OptimizerConfig,
)
from optrepro.studies.finetuning import (
    Architecture,
    Backbone,
    FineTuningStudy,
    LanguageTask,
    LoraConfig,
    PretrainingStudy,
    Task,
    VisionTask,
)
from optrepro.studies.gap import (
    ConceptStudy,
    DiagnosticsStudy,
    FamiliesStudy,
    OverheadStudy,
    Recipe,
    ShiftStudy,
    TimedFamily,
    TimedNetwork,
    TrainingStudy,
    Workload,
)
from optrepro.studies.lto import (
    BregmanConfig,
    ImitationConfig,
    L2LConfig,
    LearnerRow,
    LearnerStudy,
    MetaObjective,
    MirrorConfig,
    ObjectiveConfig,
    ObjectivesStudy,
    Panel,
    StepPolicyConfig,
    UnrolledConfig,
)
from optrepro.studies.pop import (
    Collection,
    NetworkConfig,
    PolicyRow,
    PolicyStudy,
    PPOConfig,
    PriorConfig,
    PriorStudy,
    Reference,
    TransferStudy,
)
from optrepro.studies.vlse import FunctionsStudy, SurfacesStudy

__all__ = [
    "Architecture",
    "Backbone",
    "BregmanConfig",
    "Collection",
    "Comparison",
    "ConceptStudy",
    "Config",
    "ConfigError",
    "ConstantRates",
    "DiagnosticsStudy",
    "DottedPath",
    "FamiliesStudy",
    "FineTuningStudy",
    "FunctionsStudy",
    "ImageData",
    "ImitationConfig",
    "L2LConfig",
    "LanguageTask",
    "LearnerRow",
    "LearnerStudy",
    "LoraConfig",
    "MetaObjective",
    "MetaTraining",
    "MirrorConfig",
    "Model",
    "Name",
    "NetworkConfig",
    "ObjectiveConfig",
    "ObjectivesStudy",
    "OptimizerConfig",
    "OverheadStudy",
    "PPOConfig",
    "Panel",
    "PolicyRow",
    "PolicyStudy",
    "PretrainingStudy",
    "PriorConfig",
    "PriorStudy",
    "Recipe",
    "Reference",
    "ShiftStudy",
    "StepPolicyConfig",
    "Study",
    "SurfacesStudy",
    "Task",
    "TimedFamily",
    "TimedNetwork",
    "TrainingStudy",
    "TransferStudy",
    "UnrolledConfig",
    "VisionTask",
    "Workload",
    "build",
    "load",
    "parse",
    "schema",
]


class ConfigError(ValueError):
    """A config that cannot be run; the message names each key, its value and what is allowed."""


Study = Annotated[
    TrainingStudy
    | FunctionsStudy
    | SurfacesStudy
    | FamiliesStudy
    | ConceptStudy
    | PriorStudy
    | PolicyStudy
    | TransferStudy
    | LearnerStudy
    | ObjectivesStudy
    | ShiftStudy
    | PretrainingStudy
    | FineTuningStudy
    | DiagnosticsStudy
    | OverheadStudy,
    Field(discriminator="kind"),
]
MetaTraining = PolicyStudy | LearnerStudy | PretrainingStudy  # studies whose batches leave weights


class Config(Model):
    """Everything that a scale runs."""

    scale: Annotated[Name, Field(description="Names the folder of the results.")]
    seed: Annotated[int, Field(ge=0, description="Root of every derived seed.")]
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto: a GPU where there is one.")] = "auto"
    download: Annotated[bool, Field(description="Fetch data sets; else use what is at hand.")] = False
    strict: Annotated[bool, Field(description="A missing run is an error, not a mark on the exhibit.")] = False
    studies: dict[Name, Study]

    @model_validator(mode="after")
    def _weights_are_trained(self) -> Self:
        rows = self._givers()
        for study_id, study in self.studies.items():
            for name, row in study.optimizers.items() if isinstance(study, Comparison) else ():
                if row.trained is None:
                    continue
                key = f"studies.{study_id}.optimizers.{name}.trained = {row.trained!r}"
                giver = _GIVERS.get(type(study))
                if giver is None or row.group != "policy":
                    raise ValueError(
                        f"{key} is not allowed: weights go to rows of the group policy in studies of the kinds "
                        "transfer and objectives"
                    )
                given = sorted(path for path, s in rows.items() if isinstance(s, giver))
                if row.trained not in given:
                    raise ValueError(f"{key} is not one of {given}")
        return self

    @model_validator(mode="after")
    def _backbones_are_pretrained(self) -> Self:
        pretraining = {path: s for path, s in self._givers().items() if isinstance(s, PretrainingStudy)}
        rows = {path: s.backbones[path.rpartition("/")[2]] for path, s in pretraining.items()}
        for study_id, study in self.studies.items():
            if not isinstance(study, FineTuningStudy) or study.backbone is None:
                continue
            given = sorted(path for path, row in rows.items() if row.task.modality == study.task.modality)
            if study.backbone not in given:
                raise ValueError(f"studies.{study_id}.backbone = {study.backbone!r} is not one of {given}")
        return self

    @model_validator(mode="after")
    def _workloads_are_there(self) -> Self:
        for study_id, study in self.studies.items():
            for name, workload in study.workloads.items() if isinstance(study, DiagnosticsStudy) else ():
                key = f"studies.{study_id}.workloads.{name}"
                source = self.studies.get(workload.study)
                if not isinstance(source, Recipe):
                    given = sorted(name for name, s in self.studies.items() if isinstance(s, Recipe))
                    raise ValueError(f"{key}.study = {workload.study!r} is not one of {given}")
                for row in (workload.follow, *workload.rules):
                    if row not in source.optimizers:
                        raise ValueError(f"{key}: {row!r} is not one of {sorted(source.optimizers)}")
        return self

    def _givers(self) -> dict[str, Study]:
        """The studies that leave weights, by study/row."""
        return {f"{name}/{row}": study for name, study in self.studies.items() for row in _trained_by(study)}


_GIVERS: dict[type[Model], type[Model]] = {TransferStudy: PolicyStudy, ObjectivesStudy: LearnerStudy}


def _trained_by(study: Study) -> Sequence[str]:
    if isinstance(study, PolicyStudy):
        return list(study.policies)
    if isinstance(study, PretrainingStudy):
        return list(study.backbones)
    return list(study.learners) if isinstance(study, LearnerStudy) else []


Layer = tuple[str, Mapping[str, Any]]
_ROWS = ("optimizers", "policies", "references", "collections", "learners", "panels", "backbones", "workloads")


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config of a scale file, with `overrides` of the form ``studies.vlse.starts=8`` applied last.

    Raises: ConfigError, with one line for each thing that is wrong.
    """
    layers = [*_layers(Path(path)), *(_override(text) for text in overrides)]
    return build(layers)


def build(layers: Sequence[Layer]) -> Config:
    """The config that the layers give, later ones over earlier ones; an entry set to null is removed."""
    merged: dict[str, Any] = {}
    for _, layer in layers:
        merged = _merge(merged, layer)
    try:
        return Config.model_validate(_without_removed(merged))
    except ValidationError as error:
        faults: dict[str, list[str]] = {}  # of each key: a value that may be of several types has one for each
        for place, fault in (_explain(layers, problem) for problem in error.errors()):
            faults.setdefault(place, []).append(fault)
        lines = (f"{place} {', or '.join(dict.fromkeys(all_))}" for place, all_ in faults.items())
        raise ConfigError("\n".join(lines)) from None


def parse(text: str, source: str) -> Any:
    """The value of a YAML text, with the numbers of YAML 1.2 and of JSON: PyYAML alone takes 1e-8 for a word.

    Raises: ConfigError with one line that names the source.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of a resolved config."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **TypeAdapter(Config).json_schema(by_alias=True)}


def _layers(path: Path) -> list[Layer]:
    try:
        content = parse(path.read_text(), str(path))
    except FileNotFoundError:
        there = ", ".join(sorted(str(p) for p in path.parent.glob("*.yaml"))) or "no YAML file"
        raise ConfigError(f"{path} does not exist; beside it: {there}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping of keys, not {type(content).__name__}")
    parent = content.pop("extends", None)
    inherited = _layers(path.parent / parent) if parent else []
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


def _without_removed(merged: dict[str, Any]) -> dict[str, Any]:
    """Drop studies and their rows that a layer set to null; elsewhere null is a value."""
    result = dict(merged)
    if isinstance(studies := result.get("studies"), dict):
        result["studies"] = {k: _without_null_rows(v) for k, v in studies.items() if v is not None}
    return result


def _without_null_rows(study: Any) -> Any:
    if not isinstance(study, dict):
        return study
    kept = {key: study[key] for key in _ROWS if key in study}
    kept = {key: rows for key, rows in kept.items() if isinstance(rows, dict)}
    return {**study, **{key: {k: v for k, v in rows.items() if v is not None} for key, rows in kept.items()}}


def _explain(layers: Sequence[Layer], problem: Any) -> tuple[str, str]:
    """Who set which key to which value, and what is wrong with that."""
    kind, value = problem["type"], problem["input"]
    missing = kind in ("missing", "union_tag_not_found")
    path = _path(problem["loc"])
    if kind.startswith("union_tag"):
        tag = problem["ctx"]["discriminator"].strip("'")
        path, value = [*path, tag], value.get(tag)
    setters = [name for name, layer in layers if _holds(layer, path[:-1] if missing else path)]
    if not setters:  # the last part is none of the file's: pydantic marks a bad key, and the types a value may have
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
    """The keys of a location: pydantic adds the kind of a study after its name, and a task's modality after its key."""
    path = [*location[:2], *location[3:]] if location[:1] == ("studies",) else list(location)
    modalities = [("task", "language"), ("task", "vision")]
    return [part for before, part in zip([None, *path], path, strict=False) if (before, part) not in modalities]


def _keys() -> set[str]:
    """Every key that a config may have somewhere, names of studies and optimizers apart."""
    definitions = schema()
    return {key for model in (definitions, *definitions["$defs"].values()) for key in model["properties"]}


def _holds(layer: Any, path: Sequence[Any]) -> bool:
    for part in path:
        try:
            layer = layer[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True
