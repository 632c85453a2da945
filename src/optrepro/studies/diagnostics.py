"""The kind `diagnostics`: second-order statistics of gradients along training, and the choices of the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import (
    ELSEWHERE,
    KIND,
    Batch,
    Count,
    Model,
    Name,
    Positive,
    Reading,
    Run,
    Scale,
    Study,
    counted,
    determining,
)
from optrepro.studies.fields import Blocks, Gpu, Lags, Window
from optrepro.studies.recipe import Recipe


class Workload(Model):
    """A training run whose gradients are measured, and the rules whose choices are recorded on the same task."""

    study: Annotated[Name, Field(description="A study of the kind `training`, `shift` or `finetuning`."), ELSEWHERE]
    follow: Annotated[Name, Field(description="Row of that study whose gradients are measured."), ELSEWHERE]
    learning_rate: Annotated[Positive, Field(description="Learning rate of all rows.")]
    steps: Annotated[Count | None, Field(description="Number of steps of a run; null: the study's.")] = None
    rules: Annotated[
        tuple[Name, ...],
        Field(description="Rows of that study whose choices are recorded, at the same learning rate."),
        ELSEWHERE,
    ] = ()


class DiagnosticsStudy(Study):
    """The second-order statistics of gradients along training, and which candidates the rules choose."""

    runner: ClassVar[str] = "optrepro.experiments.training.diagnostics"

    kind: Annotated[Literal["diagnostics"], KIND] = "diagnostics"
    workloads: Annotated[
        dict[Name, Workload], Field(min_length=1, description="Training runs that are followed, by name."), ELSEWHERE
    ]
    window: Window
    lags: Lags
    blocks: Blocks
    points: Annotated[Count, Field(description="Number of points of the curves of choices.")]
    repetitions: Annotated[
        Count, Field(description="Number of runs of each row that is followed; the rules run once."), ELSEWHERE
    ]
    gpu: Annotated[Gpu, ELSEWHERE] = False

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.window % self.blocks:
            raise ValueError(f"window = {self.window} must be a multiple of blocks = {self.blocks}")
        return self

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each workload: first the row whose gradients are measured, then the rules."""
        window = determining(self)
        for name, workload in self.workloads.items():
            source = self._source(name, scale)
            backbone = source.backbone_of(scale)
            runs: list[Run] = []
            for row in dict.fromkeys([workload.follow, *workload.rules]):
                role = "follow" if row == workload.follow else "rule"
                settings = fingerprint([source.determinants_of(row, scale), determining(workload), window, role])
                runs += self._runs(study_id, scale, name, row, settings)
            settings = fingerprint([run.settings for run in runs])
            yield Batch(study_id, name, None, tuple(runs), (), settings, backbone.address if backbone else None)

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The data of the studies that the workloads belong to."""
        return [
            reading._replace(workload=name, key="")
            for name in self.workloads
            for reading in self._source(name, scale).readings(scale)
        ]

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """The classes of all rows of the workloads."""
        for name, workload in self.workloads.items():
            rows = self._source(name, scale).optimizers
            yield from (rows[row].class_ for row in (workload.follow, *workload.rules))

    def hub_models(self, batch: Batch, scale: Scale) -> dict[str, str]:
        """The model that the workload fine-tunes, if any."""
        return self._source(batch.name, scale).hub_models(batch, scale)

    def check_references(self, key: str, scale: Scale) -> None:
        """Check that each workload's study trains networks and has the rows of the workload."""
        for name, workload in self.workloads.items():
            place, source = f"{key}.workloads.{name}", scale.studies.get(workload.study)
            if not isinstance(source, Recipe):
                training = sorted(other for other, study in scale.studies.items() if isinstance(study, Recipe))
                raise ValueError(f"{place}.study = {workload.study!r} is not one of {training}")
            for row in (workload.follow, *workload.rules):
                if row not in source.optimizers:
                    raise ValueError(f"{place}: {row!r} is not one of {sorted(source.optimizers)}")

    def repetitions_in_words(self) -> str:
        """Number of seeds of each workload."""
        return f"{counted(self.repetitions, 'seed')} on each workload."

    def _source(self, workload: str, scale: Scale) -> Recipe:
        source = scale.studies[self.workloads[workload].study]
        assert isinstance(source, Recipe)
        return source

    def _runs(self, study_id: str, scale: Scale, name: str, row: str, settings: str) -> Iterator[Run]:
        rate = self.workloads[name].learning_rate
        for i in range(self.repetitions if row == self.workloads[name].follow else 1):
            # The seed does not depend on the row, so all rows of a workload have the same batches.
            seed = derive_seed(scale.seed, self.kind, name, i)
            yield Run(study_id, name, row, "test", rate, i, seed, settings)
