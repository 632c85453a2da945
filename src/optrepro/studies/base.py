"""The interface of all studies: typed settings, runs grouped into batches, and the methods that a kind overrides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import Field

from optrepro.problems.data import archives
from optrepro.seeds import fingerprint
from optrepro.settings import (
    ELSEWHERE,
    LATER,
    Count,
    DottedPath,
    Model,
    Name,
    Positive,
    TrainedRow,
    determining,
    overridden,
)

__all__ = [
    "ELSEWHERE",
    "LATER",
    "Count",
    "DottedPath",
    "Model",
    "Name",
    "Positive",
    "TrainedRow",
    "determining",
    "overridden",
]

Role = Literal["tune", "test"]
KIND = Field(description="The kind of the study, which decides what its other keys are.")


@dataclass(frozen=True)
class Run:
    """One row of the run table. `learning_rate` is None if the tuning runs of the optimizer decide it."""

    study: str
    workload: str
    optimizer: str
    role: Role
    learning_rate: float | None
    repetition: int
    seed: int
    settings: str  # fingerprint of the study's and the optimizer's settings

    @property
    def id(self) -> str:
        """Name of the run in results and logs: ten hexadecimal digits."""
        return fingerprint(asdict(self))


@dataclass(frozen=True)
class Batch:
    """The runs that one job carries out in one process.

    `optimizer` is None if the batch is the whole study. `needs` names the batches of the same study whose results it
    reads: the tuning runs of its optimizer if those are separate jobs, or the runs whose shares of candidates a control
    repeats. `weights` is the batch (study, name) whose trained weights it uses.
    """

    study: str
    name: str
    optimizer: str | None
    runs: tuple[Run, ...]
    needs: tuple[str, ...]
    settings: str
    weights: tuple[str, str] | None = None

    @property
    def address(self) -> tuple[str, str]:
        """Study and name, which together identify a batch in the config."""
        return self.study, self.name


class Reader(Protocol):
    """Settings of something that reads a data set."""

    holds: ClassVar[Literal["image", "text"]]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of data sets; the first one that is available is read."""


class Reading(NamedTuple):
    """A data set that a study reads.

    `workload` is "" if all workloads share it; `key` is its key in the config, "" if it belongs to another study.
    """

    workload: str
    key: str
    reader: Reader


class Scale(Protocol):
    """The part of the config that its studies can read."""

    @property
    def seed(self) -> int:
        """The seed that all other seeds are derived from."""

    @property
    def download(self) -> bool:
        """Whether data sets may be downloaded."""

    @property
    def studies(self) -> Mapping[str, Study]:
        """All studies of the config, by name."""


class Study(Model):
    """The interface of a study, whatever its kind.

    A kind is a subclass with a `kind` and a `runner`; the methods that it does not override have the defaults below.

    Class attributes:
        runner: import path of the module that runs batches by ``run(study, batch, context)``. It may also define
            ``attempts(study)``, pairs of a key and a function that raises if the value of the key cannot be used;
            ``attempt_learned(row)`` for learned rows; ``load(study, reader, ...)`` for its own data; and
            ``prepare(study, batches, scale)``, which makes what all jobs share before their processes are forked.
        timed: whether runs measure time, so that no other job may run at the same time.
        uses: the kind of study whose trained weights the rows of the group policy may use, if any.
    """

    runner: ClassVar[str]
    timed: ClassVar[bool] = False
    uses: ClassVar[type[Study] | None] = None

    kind: Annotated[str, KIND]

    def batches(self, study_id: str, scale: Scale) -> Iterable[Batch]:
        """The jobs of the study, each after the jobs that it needs; a study without a run table is one job."""
        data = [dataset_of(reading.reader, scale) for reading in self.readings(scale)]
        settings = fingerprint([self.model_dump(mode="json"), scale.seed, data[0] if data else None])
        yield Batch(study_id, "all", None, (), (), settings)

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """Every data set that the study reads."""
        return ()

    def trained_rows(self) -> Sequence[str]:
        """The rows whose batches save trained weights."""
        return ()

    def training_of(self, row: str, study_id: str, scale: Scale) -> Batch:
        """The batch that trains the weights of a row in `trained_rows`."""
        raise NotImplementedError(f"a study of the kind {self.kind} trains no weights")

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """Import paths of the optimizers that a batch of the row `optimizer` (None: of all rows) runs."""
        return ()

    def packages(self) -> Sequence[str]:
        """Installed distributions whose problems the study runs, and whose versions therefore decide its results."""
        return ()

    def hub_models(self, batch: Batch, scale: Scale) -> dict[str, str]:
        """The models of the Hugging Face hub that a batch loads, with their revisions."""
        return {}

    def check_references(self, key: str, scale: Scale) -> None:
        """Check that everything that the study refers to in other studies exists.

        Raises: ValueError that begins with `key`, the key of this study, and says what is allowed.
        """

    def facts(self) -> dict[str, Any]:
        """Facts for the analysis that are not among the settings."""
        return {}

    @property
    def wants_gpu(self) -> bool:
        """Whether the jobs request a GPU from the cluster."""
        return bool(getattr(self, "gpu", False))

    # Texts for captions.

    def data_in_words(self, titles: Sequence[str], descriptions: Sequence[str]) -> str:
        """The data sets of the study; `titles` and `descriptions` name each of them once."""
        return ", ".join(descriptions)

    def remarks_on_data(self, dataset: str) -> Sequence[str]:
        """Remarks on the data that are added to their description."""
        return ()

    def network_in_words(self) -> str:
        """The network and the length of its training; empty if nothing is trained."""
        return ""

    def repetitions_in_words(self) -> str:
        """A sentence on the number of seeds or starts; empty if there are none."""
        return ""

    def tuning_in_words(self, datasets: Mapping[str, str]) -> str:
        """A sentence on the tuning budget, or empty; `datasets` holds the titles of data sets by workload."""
        return ""


def dataset_of(reader: Reader, scale: Scale) -> str:
    """The data set that is read on this machine: the reader's first one that is available or may be downloaded.

    Raises: see `archives.first_at_hand`.
    """
    return archives.first_at_hand(reader.sources, download=scale.download)


def datasets_of(study: Study, scale: Scale) -> dict[str, str]:
    """The data set of each workload of a study; the key is "" if all workloads share one."""
    return {reading.workload: dataset_of(reading.reader, scale) for reading in study.readings(scale)}


def data_of(study: Study, scale: Scale) -> list[str]:
    """Every data set that a study reads, each once."""
    return list(dict.fromkeys(datasets_of(study, scale).values()))


def training_of(address: str, scale: Scale) -> Batch:
    """The batch that trains the weights at `address`, written as study/row."""
    study_id, row = address.split("/")
    return scale.studies[study_id].training_of(row, study_id, scale)


def rows_trained_by(kind: type[Study], scale: Scale) -> list[str]:
    """The rows, as study/row, whose weights are saved by the studies of a kind."""
    studies = ((name, study) for name, study in scale.studies.items() if isinstance(study, kind))
    return sorted(f"{name}/{row}" for name, study in studies for row in study.trained_rows())


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 seed", "1,200 seeds"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
