"""Checks before anything runs that everything a config names can be used."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module

import torch

from optrepro.config import Config, ConfigError
from optrepro.experiments.base import factory
from optrepro.problems.data import archives
from optrepro.problems.functions import vlse
from optrepro.settings import one_line
from optrepro.studies.base import Reader, Study, dataset_of
from optrepro.studies.comparison import Comparison

Attempt = tuple[str, Callable[[], object]]  # a config key, and a function that raises if its value cannot be used


def check(config: Config) -> None:
    """Try every optimizer (on one parameter), network, function and data set that the config names.

    Raises: ConfigError with one line for each fault.
    """
    problems = []
    for study_id, study in config.studies.items():
        for key, attempt in _attempts(study, config):
            try:
                with redirect_stdout(io.StringIO()):  # some packages print greetings when an optimizer is made
                    attempt()
            except Exception as error:  # a class of another package raises what it likes
                problems.append(one_line(f"studies.{study_id}.{key}: {error or type(error).__name__}"))
    if problems:
        raise ConfigError("\n".join(problems))


def _attempts(study: Study, config: Config) -> Iterator[Attempt]:
    """Yield the attempts that all kinds of study share, then those of the runner of the study's kind."""
    runner = import_module(study.runner)
    for reading in study.readings(config):
        if reading.key:
            yield reading.key, partial(_try_data, reading.reader, config)
    for name in getattr(study, "functions", ()):
        yield "functions", partial(vlse.get, name)
    if hasattr(runner, "attempts"):
        yield from runner.attempts(study)
    if isinstance(study, Comparison):
        for name in study.optimizers:
            row = study.entry(name)
            learned = study.uses is not None and row.learned
            yield f"optimizers.{name}", partial(runner.attempt_learned, row) if learned else partial(_try, study, name)


def _try_data(reader: Reader, config: Config) -> None:
    name = dataset_of(reader, config)
    if archives.archive(name).modality != reader.holds:
        available = [name for name, archive in archives.ARCHIVES.items() if archive.modality == reader.holds]
        modality = getattr(reader, "modality", reader.holds)
        raise ConfigError(f"{name!r} does not fit the modality {modality}; allowed are {available}")


def _try(study: Comparison, name: str) -> None:
    """Make an optimizer for one parameter; a row with `shares_of` gets one share per candidate of the row it names."""

    def make(name: str, shares: Sequence[float] | None = None) -> torch.optim.Optimizer:
        return factory.make(study.entry(name), [torch.zeros(2)], study.grid(name)[0], shares=shares)

    source = study.optimizers[name].shares_of
    if source is None:
        make(name)
    elif selection := getattr(make(source), "selection", None):
        make(name, [1.0] * selection["counts"].shape[-1])
    else:
        raise ConfigError(f"shares_of = {source!r} is not allowed: the row must choose among candidates")
