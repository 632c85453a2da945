"""Settings of studies that train networks: every optimizer starts from the same weights and has the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import ELSEWHERE, LATER, Batch, Count, Role, Run, Scale, counted, dataset_of
from optrepro.studies.comparison import Comparison, Schedule
from optrepro.studies.fields import Gpu


class Recipe(Comparison):
    """A study whose optimizers train networks, all from the same weights and on the same batches.

    An optimizer is tuned on validation data over the grid, then tested at the tuned rate with new seeds. The tuned rate
    is the one with the highest accuracy, or for language models the lowest loss.
    """

    batch_size: Annotated[
        int,
        Field(
            ge=2,
            multiple_of=2,
            description="Examples of a batch: an even number, for the rules that compare its halves.",
        ),
    ]
    steps: Annotated[Count, Field(description="Number of optimizer steps of a run.")]
    schedule: Annotated[
        Schedule,
        Field(
            description="Learning-rate schedule; `step` divides the rate by ten after half of the steps, and again "
            "after three quarters."
        ),
    ] = "cosine"
    precision: Annotated[
        Literal["float32", "bfloat16"], Field(description="Precision of the forward pass; weights are float32.")
    ] = "float32"
    evaluations: Annotated[Count, Field(description="Number of points of the learning curves.")] = 10
    tuning_repetitions: Annotated[Count, Field(description="Number of tuning runs at each learning rate.")]
    tuning_steps: Annotated[
        Count | None,
        Field(description="Number of steps of a tuning run, with the whole schedule; null: as many as `steps`."),
        LATER,
    ] = None
    test_repetitions: Annotated[Count, Field(description="Number of test runs at the tuned rate."), ELSEWHERE]
    runs_per_job: Annotated[
        Count | Literal["optimizer", "study"],
        Field(
            description="Number of runs in a job, or all runs of an `optimizer`, or all of the `study`; small networks "
            "are trained side by side."
        ),
        ELSEWHERE,
    ] = "optimizer"
    gpu: Annotated[Gpu, ELSEWHERE] = False

    @property
    def criterion(self) -> Literal["accuracy", "loss"]:
        """Criterion of tuning on validation data: the highest accuracy or the lowest loss."""
        return "accuracy"

    def steps_of(self, role: Role) -> int:
        """Number of steps of a run."""
        return self.tuning_steps or self.steps if role == "tune" else self.steps

    @property
    def model(self) -> str:
        """Name of the network or backbone in workloads."""
        raise NotImplementedError

    def backbone_of(self, scale: Scale) -> Batch | None:
        """The batch that pretrains the backbone, or None if no study does."""
        return None

    def workload(self, scale: Scale) -> str:
        """Data set and network, such as fashion-mnist/perceptron."""
        return f"{self._dataset(scale)}/{self.model}"

    def determinants_of(self, optimizer: str, scale: Scale) -> str:
        """A hash of everything that determines the training runs of an optimizer, including its backbone."""
        pretrained = self.backbone_of(scale)
        return self.settings_of(
            optimizer, self._dataset(scale), scale.seed, *([pretrained.settings] if pretrained else [])
        )

    def batches(self, study_id: str, scale: Scale) -> Iterator[Batch]:
        """Jobs of the size `runs_per_job`; a row with `shares_of` comes after the row that it names."""
        order = sorted(self.optimizers, key=lambda name: self.optimizers[name].shares_of is not None)
        rows = {name: self._runs(study_id, scale, name) for name in order}
        size, backbone = self.runs_per_job, self.backbone_of(scale)
        weights = backbone.address if backbone else None
        if size == "study":
            runs = tuple(run for tune, test in rows.values() for run in (*tune, *test))
            yield Batch(study_id, "all", None, runs, (), fingerprint([run.settings for run in runs]), weights)
            return
        for name, (tune, test) in rows.items():
            source, settings = self.optimizers[name].shares_of, test[0].settings
            if size == "optimizer":
                yield Batch(study_id, name, name, (*tune, *test), (source,) if source else (), settings, weights)
                continue
            shares = tuple(_parts(source, "test", rows[source][1], size)) if source else ()
            tuning = _parts(name, "tune", tune, size)
            for part, runs in tuning.items():
                yield Batch(study_id, part, name, runs, shares, settings, weights)
            for part, runs in _parts(name, "test", test, size).items():
                yield Batch(study_id, part, name, runs, (*tuning, *shares), settings, weights)

    def facts(self) -> dict[str, Any]:
        """The criterion that learning rates are tuned by."""
        return {"criterion": self.criterion}

    def repetitions_in_words(self) -> str:
        """Number of paired test seeds."""
        return f"{counted(self.test_repetitions, 'paired test seed')}."

    def tuning_in_words(self, datasets: Mapping[str, str]) -> str:
        """The tuning on validation data, with the same budget for every optimizer."""
        rates = len(self.learning_rates)
        shorter = f" of {self.tuning_steps} steps" if self.tuning_steps else ""
        return (
            f"Each optimizer's learning rate is tuned on validation data, over {rates} values with "
            f"{counted(self.tuning_repetitions, 'other seed')} ({rates * self.tuning_repetitions} runs{shorter})."
        )

    def network_in_words(self) -> str:
        """The network or backbone, and the length of its training."""
        return f"{self.model}, {self.steps} steps of {self.batch_size} examples"

    def _dataset(self, scale: Scale) -> str:
        return dataset_of(self.readings(scale)[0].reader, scale)

    def _runs(self, study_id: str, scale: Scale, optimizer: str) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
        """The tuning runs and the test runs of an optimizer."""
        workload = self.workload(scale)
        settings = self.determinants_of(optimizer, scale)
        if source := self.optimizers[optimizer].shares_of:  # the test runs of this row decide the shares
            settings = fingerprint([settings, self.determinants_of(source, scale), self.test_repetitions])

        def run(role: Role, rate: float | None, repetition: int) -> Run:
            seed = derive_seed(scale.seed, workload, repetition, role)
            return Run(study_id, workload, optimizer, role, rate, repetition, seed, settings)

        tune = (run("tune", rate, i) for rate in self.grid(optimizer) for i in range(self.tuning_repetitions))
        return tuple(tune), tuple(run("test", None, i) for i in range(self.test_repetitions))


def _parts(optimizer: str, role: Role, runs: Sequence[Run], size: int) -> dict[str, tuple[Run, ...]]:
    """Batches of at most `size` runs, by name."""
    starts = range(0, len(runs), size)
    return {f"{optimizer}.{role}{i}": tuple(runs[start : start + size]) for i, start in enumerate(starts)}
