"""What studies of every kind have in common: typed settings, runs packed into batches, and what a kind must say."""

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
    """One row of the run table. `learning_rate` is None where the tuning runs of the optimizer decide it."""

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
        """Ten hexadecimal digits that name the run in results and logs."""
        return fingerprint(asdict(self))


@dataclass(frozen=True)
class Batch:
    """The runs that one job carries out in one process.

    `optimizer` is None where the batch is the whole study. `needs` names the batches of the same study whose results
    it reads: the tuning runs of its optimizer where those are jobs of their own, or the runs whose shares a control
    repeats. `weights` is the batch (study, name) whose trained policy it uses.
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
        """Study and name, which tell a batch from all others of the config."""
        return self.study, self.name


class Reader(Protocol):
    """Settings of something that reads a data set."""

    holds: ClassVar[Literal["image", "text"]]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of data sets; the first that is at hand is read."""


class Reading(NamedTuple):
    """A data set that a study reads: for which workload ("" for all), and its key ("" for one of another study)."""

    workload: str
    key: str
    reader: Reader


class Scale(Protocol):
    """What a study sees of the config that it stands in."""

    @property
    def seed(self) -> int:
        """Root of every derived seed."""

    @property
    def download(self) -> bool:
        """Whether data sets may be fetched."""

    @property
    def studies(self) -> Mapping[str, Study]:
        """All studies of the config by name."""


class Study(Model):
    """What the pipeline asks of a study, whatever its kind.

    A kind is a subclass with a `kind` and a `runner`; what it does not override has the answer given here.

    Class attributes:
        runner: import path of the module that runs batches: ``run(study, batch, context)``. It may also have
            ``attempts(study)``, pairs of a key and a function that raises if what stands there cannot be used;
            ``attempt_learned(row)`` for rows that are learned; and ``load(study, reader, ...)`` for data of its own.
        timed: whether runs measure time, so that nothing may run beside them.
        uses: the kind of study whose trained weights the rows of the group policy may take, if any.
    """

    runner: ClassVar[str]
    timed: ClassVar[bool] = False
    uses: ClassVar[type[Study] | None] = None

    kind: Annotated[str, KIND]

    def batches(self, study_id: str, scale: Scale) -> Iterable[Batch]:
        """The jobs of the study, each after those that it needs. Without a run table: one job."""
        data = [dataset_of(reading.reader, scale) for reading in self.readings(scale)]
        settings = fingerprint([self.model_dump(mode="json"), scale.seed, data[0] if data else None])
        yield Batch(study_id, "all", None, (), (), settings)

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """Every data set that the study reads."""
        return ()

    def trained_rows(self) -> Sequence[str]:
        """The rows whose batches leave trained weights."""
        return ()

    def training_of(self, row: str, study_id: str, scale: Scale) -> Batch:
        """The batch that trains the weights of a row in `trained_rows`."""
        raise NotImplementedError(f"a study of the kind {self.kind} trains no weights")

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """Import paths of the optimizers that a batch of the row `optimizer` (None: of all rows) runs."""
        return ()

    def hub_models(self, batch: Batch, scale: Scale) -> dict[str, str]:
        """The models of a hub that a batch loads, with their revisions."""
        return {}

    def refuse_strangers(self, key: str, scale: Scale) -> None:
        """Refuse what the study takes from others if it is not there.

        Raises: ValueError that begins with `key`, the study's own, and says what is allowed.
        """

    def facts(self) -> dict[str, Any]:
        """What the analysis must know beside the settings."""
        return {}

    @property
    def wants_gpu(self) -> bool:
        """Whether the jobs ask the cluster for a GPU."""
        return bool(getattr(self, "gpu", False))

    # What a caption says of the study.

    def data_in_words(self, titles: Sequence[str], descriptions: Sequence[str]) -> str:
        """The data sets of the study, of which titles and descriptions are given, each once."""
        return ", ".join(descriptions)

    def remarks_on_data(self, dataset: str) -> Sequence[str]:
        """What to remark on the data beside their description."""
        return ()

    def network_in_words(self) -> str:
        """What is trained on the data and for how long; empty where nothing is."""
        return ""

    def repetitions_in_words(self) -> str:
        """A sentence on seeds or starts, if there are any."""
        return ""

    def tuning_in_words(self, datasets: Mapping[str, str]) -> str:
        """A sentence on the tuning budget, if there is one; `datasets` are titles of data sets by workload."""
        return ""


def dataset_of(reader: Reader, scale: Scale) -> str:
    """The data set that is read here: the first of the reader's that is at hand, or that may be downloaded.

    Raises: see `archives.first_at_hand`.
    """
    return archives.first_at_hand(reader.sources, download=scale.download)


def datasets_of(study: Study, scale: Scale) -> dict[str, str]:
    """The data set of each workload of a study ("" where all workloads have one)."""
    return {reading.workload: dataset_of(reading.reader, scale) for reading in study.readings(scale)}


def data_of(study: Study, scale: Scale) -> list[str]:
    """Every data set that a study reads, each once."""
    return list(dict.fromkeys(datasets_of(study, scale).values()))


def training_of(address: str, scale: Scale) -> Batch:
    """The batch that trains the weights `address`, given as study/row."""
    study_id, row = address.split("/")
    return scale.studies[study_id].training_of(row, study_id, scale)


def rows_trained_by(kind: type[Study], scale: Scale) -> list[str]:
    """The rows, as study/row, whose weights studies of a kind leave."""
    studies = ((name, study) for name, study in scale.studies.items() if isinstance(study, kind))
    return sorted(f"{name}/{row}" for name, study in studies for row in study.trained_rows())


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 seed", "1,200 seeds"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
