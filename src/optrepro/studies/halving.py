"""The kind `halving`: successive halving of hyperparameters of POP's training, on the prior's validation functions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.metalearning.pop.settings import PPOSettings
from optrepro.problems.functions.settings import PriorSettings
from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import KIND, Batch, Count, Run, Scale, Study, counted, determining
from optrepro.studies.policy import NetworkConfig, PolicyRow, PolicyStudy

PARTS = ("network", "ppo")  # parts of the settings that a grid may change


class HalvingStudy(Study):
    """Every combination of a grid of settings is trained for a short time, the better half goes on, and so on.

    Each candidate has the schedule of a whole training, of which a rung is the beginning, so that it goes on where it
    stopped. Nothing but the prior's validation functions is looked at.
    """

    runner: ClassVar[str] = "optrepro.experiments.meta.halve_pop"

    kind: Annotated[Literal["halving"], KIND] = "halving"
    prior: Annotated[PriorSettings, Field(description="The prior.")]
    network: Annotated[NetworkConfig, Field(description="The policy's network.")] = NetworkConfig()
    ppo: Annotated[PPOSettings, Field(description="How policies are trained; the last rung ends with `iterations`.")]
    validation_functions: Annotated[
        Count, Field(description="Number of fixed functions that candidates are validated on.")
    ]
    validate_every: Annotated[Count, Field(description="Number of iterations between validations; rungs end with one.")]
    grid: Annotated[
        dict[str, tuple[Any, ...]],
        Field(
            min_length=1,
            description="Values that are tried, by their key in `network` or `ppo`, as `ppo.entropy`; every "
            "combination is a candidate.",
        ),
    ]
    rungs: Annotated[
        Count,
        Field(description="Number of rungs, each about twice as long as the one before; half of the candidates go on."),
    ]

    @model_validator(mode="after")
    def _the_grid_is_valid(self) -> Self:
        for key, values in self.grid.items():
            part, _, name = key.partition(".")
            allowed = {each: sorted(type(getattr(self, each)).model_fields) for each in PARTS}
            if name not in allowed.get(part, ()):
                keys = [f"{each}.{field}" for each, fields in allowed.items() for field in fields]
                raise ValueError(f"grid.{key} is not one of {keys}")
            if not values:
                raise ValueError(f"grid.{key} = [] is not allowed: it must have at least 1 value")
        if self.ends()[0] < self.validate_every or len(set(self.ends())) < self.rungs:
            raise ValueError(
                f"rungs = {self.rungs} is not allowed: the first of them would end before the first validation, as "
                f"ppo.iterations = {self.ppo.iterations} and validate_every = {self.validate_every}"
            )
        self.trainings()
        return self

    def ends(self) -> list[int]:
        """The iteration with which each rung ends: a power of two less than the last one, and one of a validation."""
        whole = [self.ppo.iterations // 2 ** (self.rungs - 1 - rung) for rung in range(self.rungs)]
        return [*(end // self.validate_every * self.validate_every for end in whole[:-1]), self.ppo.iterations]

    def candidates(self) -> dict[str, dict[str, Any]]:
        """The values of each candidate, by key."""
        combinations = product(*self.grid.values())
        return {
            f"candidate-{number}": dict(zip(self.grid, values, strict=True))
            for number, values in enumerate(combinations, 1)
        }

    def trainings(self) -> PolicyStudy:
        """The candidates as rows of a meta-training, whose tests are never run."""
        rows = {}
        for name, values in self.candidates().items():
            changes: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
            for key, value in values.items():
                part, _, field = key.partition(".")
                changes[part][field] = value
            label = ", ".join(f"{key} {value}" for key, value in values.items())
            rows[name] = PolicyRow.model_validate({"label": label, **changes})
        return PolicyStudy(
            prior=self.prior,
            network=self.network,
            ppo=self.ppo,
            validation_functions=self.validation_functions,
            test_functions=1,
            validate_every=self.validate_every,
            patience=self.ppo.iterations,  # a candidate ends with its rung alone
            functions=("sphere",),
            starts=1,
            policies=rows,
        )

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job, because a rung begins when the one before is over."""
        settings = fingerprint([determining(self), scale.seed])
        seed = derive_seed(scale.seed, study_id, 0)  # all candidates have the same initial weights and functions
        runs = (Run(study_id, "prior-validation", name, "tune", None, 0, seed, settings) for name in self.candidates())
        yield Batch(study_id, "all", None, tuple(runs), (), settings)

    def repetitions_in_words(self) -> str:
        """The numbers of candidates and rungs."""
        return f"{counted(len(self.candidates()), 'candidate')}, {counted(self.rungs, 'rung')}, one training seed."
