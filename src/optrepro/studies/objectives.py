"""The kind `objectives`: optimizers are tuned once, on one objective, and then run on the objectives of panels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import (
    KIND,
    Batch,
    Count,
    Name,
    Reading,
    Role,
    Run,
    Scale,
    Study,
    counted,
    datasets_of,
    determining,
)
from optrepro.studies.comparison import ConstantRates
from optrepro.studies.data import FirstAtHand
from optrepro.studies.fields import Gpu
from optrepro.studies.learner import LearnerStudy, ObjectiveConfig


class Panel(ObjectiveConfig):
    """An objective on the images of a data set."""

    holds: ClassVar[Literal["image", "text"]] = "image"

    dataset: FirstAtHand

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets of the list."""
        return self.dataset


class ObjectivesStudy(ConstantRates):
    """Optimizers are tuned once, on the objective of meta-training, and run on panels beside learned optimizers."""

    runner: ClassVar[str] = "optrepro.experiments.descent.perceptrons"
    uses: ClassVar[type[Study] | None] = LearnerStudy

    kind: Annotated[Literal["objectives"], KIND] = "objectives"
    tuning: Annotated[
        Panel, Field(description="The objective that learning rates are tuned on, by its mean along the trajectory.")
    ]
    tuning_repetitions: Annotated[
        Count,
        Field(description="Number of tuning runs at each learning rate, the same ones for all studies of this kind."),
    ]
    panels: Annotated[
        dict[Name, Panel], Field(min_length=1, description="The objectives that the optimizers run on, by name.")
    ]
    examples: Annotated[
        Count,
        Field(
            description="Size of the random subset of the training images that the objective of a run is the mean over."
        ),
    ]
    evaluations: Annotated[int, Field(ge=2, description="Number of points of the curves, start and end included.")]
    repetitions: Annotated[
        Count,
        Field(
            description="Number of runs on each panel; all optimizers have the same images, projections, initial "
            "weights and minibatches."
        ),
    ]
    gpu: Gpu = False

    @model_validator(mode="after")
    def _names_tell_workloads_apart(self) -> Self:
        if "tuning" in self.panels:
            raise ValueError("panels.tuning is not allowed: this name is reserved for the tuning objective")
        return self

    @property
    def workloads(self) -> dict[str, Panel]:
        """The objectives of runs, by name: the tuning objective and the panels."""
        return {"tuning": self.tuning, **self.panels}

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each optimizer: all its runs, tuning first."""
        datasets = datasets_of(self, scale)
        for optimizer in self.optimizers:
            trainer = self.trainer_of(optimizer, scale)
            runs = tuple(self._runs(study_id, scale, optimizer, datasets, trainer.settings if trainer else None))
            settings = fingerprint([run.settings for run in runs])
            yield Batch(study_id, optimizer, optimizer, runs, (), settings, trainer.address if trainer else None)

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The images of each workload."""
        keys = {"tuning": "tuning.dataset", **{name: f"panels.{name}.dataset" for name in self.panels}}
        return [Reading(name, keys[name], panel) for name, panel in self.workloads.items()]

    def data_in_words(self, titles: Sequence[str], descriptions: Sequence[str]) -> str:
        """The titles of the data sets; the subsets differ between runs."""
        return f"{', '.join(titles)} (at most {self.examples:,} random training images in a run)"

    def repetitions_in_words(self) -> str:
        """Number of paired repetitions on each panel."""
        return f"{counted(self.repetitions, 'paired repetition')} on each panel."

    def tuning_in_words(self, datasets: Mapping[str, str]) -> str:
        """The one tuning on the objective of meta-training."""
        rates = len(self.learning_rates)
        return (
            f"Learning rates of optimizers that are not learned are tuned once, on the objective of meta-training "
            f"({datasets['tuning']}), over {rates} values with "
            f"{counted(self.tuning_repetitions, 'other repetition')} ({rates * self.tuning_repetitions} runs)."
        )

    def _runs(
        self, study_id: str, scale: Scale, optimizer: str, datasets: Mapping[str, str], weights: str | None
    ) -> Iterator[Run]:
        """The runs of an optimizer. The settings of a run are those of its panel and, if it is tuned, of the tuning."""
        row = self.entry(optimizer)
        common: list[Any] = [determining(row), self.examples, self.evaluations, scale.seed, weights]

        def place(workload: str) -> list[Any]:
            return [determining(self.workloads[workload]), datasets[workload]]

        if not row.learned:
            common.append([place("tuning"), self.tuning_repetitions, self.grid(optimizer)])

        def run(workload: str, role: Role, rate: float | None, repetition: int) -> Run:
            # All studies share the tuning runs, and all optimizers have the same seeds.
            name = self.kind if role == "tune" else f"{study_id}/{workload}"
            seed = derive_seed(scale.seed, name, repetition, role)
            settings = fingerprint([place(workload), *common])
            return Run(study_id, workload, optimizer, role, rate, repetition, seed, settings)

        for rate in () if row.learned else self.grid(optimizer):
            yield from (run("tuning", "tune", rate, i) for i in range(self.tuning_repetitions))
        for panel in self.panels:
            yield from (run(panel, "test", None, i) for i in range(self.repetitions))
