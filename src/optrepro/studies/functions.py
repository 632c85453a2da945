"""The kind `functions`: the benchmark functions, with each optimizer tuned for each function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from optrepro.seeds import derive_seed
from optrepro.studies.base import KIND, Batch, Count, Role, Run, Scale, counted
from optrepro.studies.comparison import ConstantRates


class FunctionsStudy(ConstantRates):
    """The benchmark functions in box coordinates. Each optimizer is tuned for each function, on separate starts."""

    runner: ClassVar[str] = "optrepro.experiments.descent.benchmark"

    kind: Annotated[Literal["functions"], KIND] = "functions"
    functions: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="Ids of benchmark functions in `optrepro.problems.functions.vlse`."),
    ]
    dimension: Annotated[Count, Field(description="Dimension of the functions that are defined in any dimension.")] = 2
    budget: Annotated[
        Count,
        Field(description="Number of evaluations of value and gradient in a run, those of line searches included."),
    ]
    tuning_starts: Annotated[Count, Field(description="Number of starts that a learning rate is chosen on.")]
    starts: Annotated[Count, Field(description="Number of starts of the test runs.")]

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each optimizer: all functions, tuning before tests."""
        for optimizer in self.optimizers:
            settings = self.settings_of(optimizer, scale.seed)
            roles: Sequence[tuple[Role, tuple[float | None, ...]]] = (("tune", self.grid(optimizer)), ("test", (None,)))
            runs = tuple(
                Run(study_id, name, optimizer, role, rate, 0, derive_seed(scale.seed, study_id, name, role), settings)
                for name in self.functions
                for role, rates in roles
                for rate in rates
            )
            yield Batch(study_id, optimizer, optimizer, runs, (), settings)

    def repetitions_in_words(self) -> str:
        """Numbers of starts and evaluations."""
        return f"{counted(self.starts, 'test start')} for each function, {self.budget} evaluations each."

    def tuning_in_words(self, datasets: Mapping[str, str]) -> str:
        """The tuning for each function, on separate starts."""
        rates, starts = len(self.learning_rates), counted(self.tuning_starts, "other start")
        return f"Each optimizer's learning rate is tuned per function, over {rates} values with {starts}."
