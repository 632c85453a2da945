"""The kind `greedy`: what the score promises against what comes of it, and how much noise in the score costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

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
from optrepro.studies.comparison import Grid
from optrepro.studies.fields import Gpu
from optrepro.studies.training import TrainingStudy

FORKS = "forks"  # row of the runs that are forked


def _whole_or_part(batches: tuple[float, ...]) -> tuple[float, ...]:
    for number in batches:
        if number > 1 and number != int(number):
            raise ValueError(f"{list(batches)} must hold parts of a batch, up to 1, and whole numbers of batches")
    return batches


def _with_the_first_step(horizons: tuple[int, ...]) -> tuple[int, ...]:
    if 1 not in horizons:
        raise ValueError(f"{list(horizons)} must hold 1, the step that the score is about")
    return horizons


class GreedyWorkload(Model):
    """A training whose candidates are forked, and on which the score is made more and less noisy."""

    study: Annotated[Name, Field(description="A study of the kind `training` whose optimizers are SGD."), ELSEWHERE]
    learning_rates: Annotated[Grid, Field(description="Learning rates; every row runs at each of them."), ELSEWHERE]
    steps: Annotated[Count | None, Field(description="Number of steps of a run; null: the study's.")] = None


class GreedyStudy(Study):
    """How much of the loss drop that a score promises comes about, and what noise in the score costs.

    A run of `forked`, which keeps the buffers of all candidates, takes the momentum `memory`. At some points each
    candidate goes on from there by itself, all on the same batches. Beside it, the row `scored` is trained with scores
    from fewer and from more examples, and every fixed candidate of the workload's study.
    """

    runner: ClassVar[str] = "optrepro.experiments.training.greedy"

    kind: Annotated[Literal["greedy"], KIND] = "greedy"
    workloads: Annotated[dict[Name, GreedyWorkload], Field(min_length=1, description="Trainings by name."), ELSEWHERE]
    forked: Annotated[
        Name, Field(description="Row that draws its momentum at random; here it is made to take one candidate.")
    ] = "random"
    memory: Annotated[
        float, Field(ge=0, lt=1, description="Momentum of the forked run between its forks: one of the candidates.")
    ]
    horizons: Annotated[
        tuple[Count, ...],
        Field(min_length=1, description="Numbers of steps after a fork at which the loss is measured, 1 among them."),
        AfterValidator(_with_the_first_step),
    ]
    points: Annotated[Count, Field(description="Number of forks of a run, evenly spaced.")]
    scored: Annotated[
        Name, Field(description="Row whose score, the paper's, is computed from fewer and from more examples.")
    ] = "paper"
    score_batches: Annotated[
        tuple[Positive, ...],
        Field(min_length=1, description="Numbers of batches that the score is computed from; parts of one below 1."),
        AfterValidator(_whole_or_part),
        ELSEWHERE,
    ]
    probe_examples: Annotated[Count, Field(description="Number of training examples that the loss is measured on.")]
    repetitions: Annotated[Count, Field(description="Number of runs of each row at each rate."), ELSEWHERE]
    gpu: Annotated[Gpu, ELSEWHERE] = False

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each workload: the forks, the fixed candidates, and the scores from ever more examples."""
        for name, workload in self.workloads.items():
            source = self._source(name, scale)
            rows = {FORKS: self.forked, **{row: row for row in fixed_rows(source)}}
            rows |= {score_row(number): self.scored for number in self.score_batches}
            runs: list[Run] = []
            for row, copied in rows.items():
                settings = fingerprint(
                    [source.determinants_of(copied, scale), determining(workload), determining(self)]
                )
                runs += self._runs(study_id, scale, name, row, settings)
            yield Batch(study_id, name, None, tuple(runs), (), fingerprint([run.settings for run in runs]))

    def readings(self, scale: Scale) -> Sequence[Reading]:
        """The data of the studies that the workloads belong to."""
        return [
            reading._replace(workload=name, key="")
            for name in self.workloads
            for reading in self._source(name, scale).readings(scale)
        ]

    def optimizer_classes(self, optimizer: str | None, scale: Scale) -> Iterable[str]:
        """The classes of all rows of the workloads."""
        for name in self.workloads:
            source = self._source(name, scale)
            yield from (source.optimizers[row].class_ for row in (self.forked, self.scored, *fixed_rows(source)))

    def check_references(self, key: str, scale: Scale) -> None:
        """Check that each workload's study classifies images, has the rows, and is longer than the longest horizon."""
        for name, workload in self.workloads.items():
            place, source = f"{key}.workloads.{name}", scale.studies.get(workload.study)
            if not isinstance(source, TrainingStudy):
                training = sorted(other for other, study in scale.studies.items() if isinstance(study, TrainingStudy))
                raise ValueError(f"{place}.study = {workload.study!r} is not one of {training}")
            for field in ("forked", "scored"):
                if (row := getattr(self, field)) not in source.optimizers:
                    raise ValueError(f"{key}.{field} = {row!r} is not one of {sorted(source.optimizers)}")
            if not fixed_rows(source):
                raise ValueError(f"{place}.study = {workload.study!r} has no row of the group fixed to compare with")
            steps = workload.steps or source.steps
            if max(self.horizons) + self.points >= steps:
                raise ValueError(
                    f"{place}: {self.points} forks of {max(self.horizons)} steps do not fit into {steps} steps"
                )

    def repetitions_in_words(self) -> str:
        """Number of seeds of each workload."""
        return f"{counted(self.repetitions, 'seed')} at each learning rate of each workload."

    def _source(self, workload: str, scale: Scale) -> TrainingStudy:
        source = scale.studies[self.workloads[workload].study]
        assert isinstance(source, TrainingStudy)
        return source

    def _runs(self, study_id: str, scale: Scale, name: str, row: str, settings: str) -> Iterator[Run]:
        for rate in self.workloads[name].learning_rates:
            for i in range(self.repetitions):
                # The seed depends on neither row nor rate, so that differences are paired.
                seed = derive_seed(scale.seed, self.kind, name, i)
                yield Run(study_id, name, row, "test", rate, i, seed, settings)


def fixed_rows(source: TrainingStudy) -> list[str]:
    """The fixed candidates of a study."""
    return [name for name, row in source.optimizers.items() if row.group == "fixed"]


def score_row(batches: float) -> str:
    """The row whose score is computed from so many batches."""
    return f"score-{batches:g}"
