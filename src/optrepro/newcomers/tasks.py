"""The tasks of a judgement: published studies, and a config that runs one more row of each, and one row again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optrepro import config, damage, layout
from optrepro.analysis.results import StudyResults, read_study
from optrepro.config import Config
from optrepro.experiments.base import factory
from optrepro.experiments.descent.batched import ROW_WISE
from optrepro.newcomers.target import Target
from optrepro.problems.data import archives
from optrepro.settings import ConfigError
from optrepro.studies import kinds
from optrepro.studies.comparison import Comparison
from optrepro.studies.finetuning import FineTuningStudy
from optrepro.studies.functions import FunctionsStudy

KEY = "newcomer"  # the newcomer's row in every study
OVERHEAD, FAMILY, NETWORKS = "gap-overhead", "adamw", ("perceptron", "gpt")  # what a step costs is measured with these
STARTS = 16  # chosen: test starts of a class whose runs cannot share a tensor, so that its runs end within two minutes
FACTOR = 10**0.5  # ratio of neighbouring learning rates that are added to a single one


@dataclass(frozen=True)
class Task:
    """A published study under the name that users give.

    Attributes:
        study: the study.
        again: its row that is run again, as a check of this machine.
        kind: what the newcomer must be able to run: ``functions`` or ``networks``.
        stand_in: the task that is taken in its place where its data are not at hand.
    """

    study: str
    again: str
    kind: str = "networks"
    stand_in: str | None = None


TASKS: Mapping[str, Task] = {
    "functions": Task("vlse", "adam", "functions"),
    "images": Task("gap-sgdm", "momentum-90", stand_in="digits"),
    "digits": Task("pop-digits", "momentum"),
    "cifar100": Task("gap-cifar100", "momentum-90"),
    "language": Task("gap-lm", "beta-90"),
    "vision": Task("gap-vit", "beta-90"),
}
DEFAULT = ("functions", "images", "language")


@dataclass(frozen=True)
class Published:
    """The rows of a study that were run before, and the records of their runs by batch."""

    results: StudyResults
    records: Mapping[str, Mapping[str, Any]]

    @property
    def record(self) -> Mapping[str, Any]:
        """The record of the first batch; all of a study have the same data and seed."""
        return next(iter(self.records.values()))

    @property
    def data(self) -> list[str]:
        """Names of the data sets."""
        named = self.record["dataset"]
        return [] if named is None else list(named.values()) if isinstance(named, dict) else [named]


@dataclass(frozen=True)
class Plan:
    """What a judgement runs.

    Attributes:
        config: the newcomer's row in each study, a row of it again, and what these need.
        tasks: the tasks that can run here, by name.
        published: their studies' rows by the name of the study, on the seeds that the newcomer has too.
        left_out: why other tasks cannot run, by name.
        notes: what is not as in the published rows, by the name of the task.
    """

    config: Config
    tasks: Mapping[str, Task]
    published: Mapping[str, Published]
    left_out: Mapping[str, str]
    notes: Mapping[str, Sequence[str]]


def read(scale: str, study: str) -> Published:
    """The rows of a study. Raises: ConfigError if it has no results; DamagedFileError if they are damaged."""
    tidy = layout.tidy(scale, study)
    if not tidy.exists():
        work = f"optrepro work {study} --config config/{scale}.yaml"
        made = "restore it from the repository" if scale == layout.PUBLISHED else f"{work} makes it"
        raise ConfigError(f"{tidy} does not exist; {made}")
    if scale == layout.PUBLISHED:
        records = damage.record(tidy.with_suffix(".sidecar.json"), "runs")["runs"]
    else:
        found = sorted(Path("results", scale, "runs", study).glob(f"*/{layout.RECORD}"))
        records = {path.parent.name: damage.record(path) for path in found}
    if not records:
        raise ConfigError(f"{tidy} has no records of its runs, which hold their seed; run the study again")
    return Published(read_study(tidy), records)


def plan(
    target: Target,
    names: Sequence[str],
    settings: Mapping[str, Any],
    rates: Sequence[float] | None,
    budget: int,
    scale: str,
    refused: Mapping[str, str],
) -> Plan:
    """The plan of a judgement.

    Args:
        target: the class.
        names: tasks.
        settings: keyword arguments of the class, without ``lr``.
        rates: learning rates to tune over; None: each study's own.
        budget: how many times everybody's tuning the newcomer gets.
        scale: whose rows it is compared with: a scale that has been run, or ``published``.
        refused: why the class cannot run on ``functions`` or on ``networks``.

    Raises: ConfigError that names what was given and what is allowed.
    """
    tasks: dict[str, Task] = {}
    published: dict[str, Published] = {}
    left_out: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    studies: dict[str, Any] = {}
    for name in _with_stand_ins(names, scale, left_out):
        task = TASKS[name]
        if task.kind in refused:
            left_out[name] = refused[task.kind]
            continue
        rows, needed = read(scale, task.study), _backbone(scale, task.study)
        if missing := [data for each in (rows, *needed.values()) for data in each.data if not archives.at_hand(data)]:
            left_out[name] = f"its rows were run on {missing[0]}, which is not here: optrepro data fetch {missing[0]}"
            continue
        study = kinds.study(rows.results.facts.settings)
        assert isinstance(study, Comparison)
        rates_here, notes[name] = _grid(rates, study.learning_rates, budget, name)
        row = {**_row(target, settings), "learning_rates": rates_here}
        own = dict(rows.results.facts.settings)
        own["optimizers"] = {task.again: own["optimizers"][task.again], KEY: row}
        if strange := _strange(target, own.get("settings", {})):
            notes[name].append(_without(own, task.again, strange))
        if isinstance(study, FunctionsStudy) and not _row_wise(target) and study.starts > STARTS:
            notes[name].append(f"{STARTS} of {study.starts} starts, for its runs cannot share a tensor as torch's do")
            own["starts"] = STARTS
            rows = replace(rows, results=_first_starts(rows.results, STARTS))
        studies |= {other: _only(each.results, study) for other, each in needed.items()} | {task.study: own}
        tasks[name], published[task.study] = task, rows
    if not tasks:
        raise ConfigError("no task can run: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
    if layout.tidy(scale, OVERHEAD).exists() and "networks" not in refused:
        studies[OVERHEAD] = _timed(read(scale, OVERHEAD).results, target, settings)
    seed = next(iter(published.values())).record["seed"]
    return Plan(_config(f"judge-{target.slug}", seed, studies, budget), tasks, published, left_out, notes)


def grid(given: Sequence[float], length: int) -> tuple[float, ...]:
    """The rates ascending, with as many more as make `length`, in turns above and below, at the same ratio."""
    rates = sorted(given)
    ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1)) if len(rates) > 1 else FACTOR
    while len(rates) < length:
        above = (length - len(rates)) % 2 == (length - len(given)) % 2
        rates = [*rates, rates[-1] * ratio] if above else [rates[0] / ratio, *rates]
    return tuple(float(f"{rate:.3g}") for rate in rates)


def _grid(
    given: Sequence[float] | None, usual: Sequence[float], budget: int, name: str
) -> tuple[tuple[float, ...], list[str]]:
    """The newcomer's rates on a task, and what is to be said about them."""
    length = budget * len(usual)
    if given is not None and len(given) > length:
        raise ConfigError(
            f"learning_rates has {len(given)} values, and {name} is tuned over {len(usual)}: give at most {length}, or "
            f"--budget {-(-len(given) // len(usual))}, which the judgement states"
        )
    rates = grid(given or usual, length)
    notes = [] if budget == 1 else [f"tuned over {length} learning rates, the others over {len(usual)}"]
    return rates, notes


def _with_stand_ins(names: Sequence[str], scale: str, left_out: dict[str, str]) -> list[str]:
    """The tasks, each whose data are not at hand replaced by its stand-in. Raises: ConfigError for an unknown one."""
    if unknown := [name for name in names if name not in TASKS]:
        raise ConfigError(f"on = {unknown[0]!r} is not one of {', '.join(TASKS)}")
    chosen = []
    for name in names:
        other = TASKS[name].stand_in
        absent = [data for data in read(scale, TASKS[name].study).data if not archives.at_hand(data)] if other else []
        if other and absent:
            left_out[name] = f"{absent[0]} is not here (optrepro data fetch {absent[0]}); {other} stands in for it"
            name = other
        chosen.append(name)
    return list(dict.fromkeys(chosen))


def _backbone(scale: str, study: str) -> dict[str, Published]:
    """The study that pretrains a study's backbone, with that row alone, or nothing."""
    found = kinds.study(read(scale, study).results.facts.settings)
    if not isinstance(found, FineTuningStudy) or found.backbone is None:
        return {}
    name, _, row = found.backbone.partition("/")
    whole = read(scale, name)
    records = {batch: record for batch, record in whole.records.items() if batch == row} or whole.records
    named = next(iter(records.values()))["dataset"]
    own = {row: named[row]} if isinstance(named, dict) else named
    return {name: Published(whole.results, {row: {**next(iter(records.values())), "dataset": own}})}


def _only(pretraining: StudyResults, study: Comparison) -> dict[str, Any]:
    """The settings of a pretraining study with the backbone of a study alone."""
    assert isinstance(study, FineTuningStudy)
    assert study.backbone is not None
    row = study.backbone.partition("/")[2]
    return {**pretraining.facts.settings, "backbones": {row: pretraining.facts.settings["backbones"][row]}}


def _strange(target: Target, settings: Mapping[str, Any]) -> list[str]:
    """The settings that the class does not take."""
    accepted = inspect.signature(factory.optimizer_class(target.path)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return []
    return [name for name in settings if name not in accepted]


def _without(study: dict[str, Any], again: str, names: Sequence[str]) -> str:
    """Take settings from all rows of a study but `again`, and say so."""
    common, row = study["settings"], study["optimizers"][again]
    study["optimizers"][again] = {**row, "settings": {**common, **row.get("settings", {})}}
    study["settings"] = {name: value for name, value in common.items() if name not in names}
    left = ", ".join(f"{name} = {common[name]}" for name in names)
    return f"without {left}, which the others have and the class does not take"


def _row_wise(target: Target) -> bool:
    """Whether the runs of a class share a tensor on functions; only classes of torch are known to allow it."""
    return (
        target.folder is None and target.path.startswith("torch.") and factory.optimizer_class(target.path) in ROW_WISE
    )


def _first_starts(results: StudyResults, starts: int) -> StudyResults:
    """The results without the test runs from later starts."""
    later = (results.runs.role == "test") & (results.runs.seed >= starts)
    settings = {**results.facts.settings, "starts": starts}
    return StudyResults(results.runs[~later], replace(results.facts, settings=settings))


def _timed(overhead: StudyResults, target: Target, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a study that times the newcomer beside torch's AdamW."""
    own = overhead.facts.settings
    family = {**own["families"][FAMILY], "optimizers": {KEY: _row(target, settings)}}
    networks = {name: own["networks"][name] for name in NETWORKS if name in own["networks"]} or own["networks"]
    return {**own, "families": {FAMILY: family}, "networks": networks}


def _row(target: Target, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"label": target.name, "class": target.path, "settings": dict(settings)}


def _config(scale: str, seed: int, studies: Mapping[str, Any], budget: int) -> Config:
    """The config of these studies. With a larger budget the newcomer's grid is longer than a study's."""
    layers: dict[str, Any] = {"scale": scale, "seed": seed, "device": "cpu", "studies": {}}
    grids = {}
    for name, study in studies.items():
        rows = study.get("optimizers", {})
        if KEY in rows and budget > 1:
            grids[name] = rows[KEY]["learning_rates"]
            rows = {**rows, KEY: {**rows[KEY], "learning_rates": None}}
        layers["studies"][name] = {**study, **({"optimizers": rows} if rows else {})}
    built = config.build([("the judged row", layers)])
    longer = {}
    for name, rates in grids.items():
        study = built.studies[name]
        assert isinstance(study, Comparison)
        row = study.optimizers[KEY].model_copy(update={"learning_rates": rates})
        # A copy is not validated, and so escapes the rule that all rows of a study have grids of the same length.
        longer[name] = study.model_copy(update={"optimizers": {**study.optimizers, KEY: row}})
    return built.model_copy(update={"studies": {**built.studies, **longer}})
