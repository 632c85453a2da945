"""The run table: a config expanded into one row per run, and the rows packed into jobs.

Ids are hashes of everything that determines a run, so no float ever stands in a path, and a run whose settings did
not change keeps its id. Seeds are hashes of (workload, repetition, role): optimizers share initial weights and data
order, and tuning never sees a test seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from optrepro.config import (
    Comparison,
    Config,
    DiagnosticsStudy,
    FineTuningStudy,
    FunctionsStudy,
    ImageData,
    LanguageTask,
    LearnerStudy,
    MetaTraining,
    ObjectivesStudy,
    OverheadStudy,
    Panel,
    PolicyStudy,
    PretrainingStudy,
    Study,
    Task,
    TrainingStudy,
    TransferStudy,
)
from optrepro.problems.data import archives

Role = Literal["tune", "test"]
Trainable = TrainingStudy | FineTuningStudy


class MissingRunsError(RuntimeError):
    """Runs of the run table left no result, and the scale is strict."""


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


def fingerprint(value: Any) -> str:
    """Ten hexadecimal digits of the SHA-256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^63) from the SHA-256 of the parts: stable across machines, processes and Python versions."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def dataset_of(reader: ImageData | Panel | Task, config: Config) -> str:
    """The data set of a study, a panel or a task here: the first of its list that is at hand, or may be downloaded."""
    wanted = reader.corpus if isinstance(reader, LanguageTask) else reader.dataset
    return archives.first_at_hand(wanted, download=config.download)


def task_of(study: Study) -> ImageData | Task | None:
    """What a study reads one data set for, if it does."""
    if isinstance(study, FineTuningStudy):
        return study.task
    return study if isinstance(study, ImageData) else None


def tasks_of(study: Study, config: Config) -> dict[str, ImageData | Task]:
    """What each workload of a study reads its own data set for; panels of objectives apart."""
    if isinstance(study, PretrainingStudy):
        return {name: backbone.task for name, backbone in study.backbones.items()}
    if isinstance(study, DiagnosticsStudy):
        tasks = {name: task_of(config.studies[each.study]) for name, each in study.workloads.items()}
        return {name: task for name, task in tasks.items() if task is not None}
    return {}


def datasets_of(study: Study, config: Config) -> dict[str, str]:
    """The data set of each workload of a study whose workloads have data sets of their own."""
    panels = study.workloads if isinstance(study, ObjectivesStudy) else {}
    return {name: dataset_of(reader, config) for name, reader in {**panels, **tasks_of(study, config)}.items()}


def data_of(study: Study, config: Config) -> list[str]:
    """Every data set that a study reads, each once."""
    task = task_of(study)
    return list(dict.fromkeys(datasets_of(study, config).values() if task is None else [dataset_of(task, config)]))


def batches(config: Config, study_id: str) -> list[Batch]:
    """The jobs of a study, in an order in which each one's needs come before it."""
    study = config.studies[study_id]
    if isinstance(study, TrainingStudy | FineTuningStudy):
        return list(_training_batches(config, study_id, study))
    if isinstance(study, PretrainingStudy):
        return [_pretraining_batch(config, study_id, study, name) for name in study.backbones]
    if isinstance(study, DiagnosticsStudy):
        return list(_diagnostics_batches(config, study_id, study))
    if isinstance(study, FunctionsStudy):
        return [_functions_batch(config, study_id, study, name) for name in study.optimizers]
    if isinstance(study, PolicyStudy):
        return [_policy_batch(config, study_id, study, name) for name in study.policies]
    if isinstance(study, LearnerStudy):
        return [_learner_batch(config, study_id, study, name) for name in study.learners]
    if isinstance(study, TransferStudy):
        return list(_transfer_batches(config, study_id, study))
    if isinstance(study, ObjectivesStudy):
        return [_objectives_batch(config, study_id, study, name) for name in study.optimizers]
    return [_single(config, study_id, study)]


def table(config: Config) -> list[Run]:
    """Every run of every study."""
    return [run for study_id in config.studies for batch in batches(config, study_id) for run in batch.runs]


def source_modules(config: Config, batch: Batch) -> list[str]:
    """The modules of this package whose source determines a batch: its kind's, and those of its optimizers."""
    study = config.studies[batch.study]
    rows = list(study.optimizers.items()) if isinstance(study, Comparison) else []
    for workload in study.workloads.values() if isinstance(study, DiagnosticsStudy) else ():
        source = config.studies[workload.study]
        assert isinstance(source, Comparison)
        rows += [(name, source.optimizers[name]) for name in (workload.follow, *workload.rules)]
    for family in study.families.values() if isinstance(study, OverheadStudy) else ():
        rows += family.optimizers.items()
    classes = [row.class_ for name, row in rows if batch.optimizer in (name, None)]
    own = {path.rpartition(".")[0] for path in classes if path.startswith("optrepro.")}
    return [RUNNERS[study.kind], *sorted(own)]


def _single(config: Config, study_id: str, study: Study) -> Batch:
    data = dataset_of(study, config) if isinstance(study, ImageData) else None
    settings = fingerprint([study.model_dump(mode="json"), config.seed, data])
    return Batch(study_id, "all", None, (), (), settings)


# What no run depends on, or what it depends on through its own entry, its row or its context.
_ELSEWHERE: dict[str, Any] = {
    **dict.fromkeys(("optimizers", "settings", "learning_rates", "dataset", "test_repetitions", "runs_per_job"), True),
    **dict.fromkeys(("references", "reference_count", "reference_starts", "gpu"), True),
    "task": {"dataset", "corpus"},
}


def _settings_of(study: Trainable | FunctionsStudy | TransferStudy, optimizer: str, *context: object) -> str:
    """What determines a run besides its own row: neither labels nor the other rows of the comparison."""
    shared = study.model_dump(mode="json", exclude=_ELSEWHERE)
    own = study.entry(optimizer).model_dump(mode="json", exclude={"label", "group", "learning_rates"})
    return fingerprint([shared, own, study.grid(optimizer), *context])


def _functions_batch(config: Config, study_id: str, study: FunctionsStudy, optimizer: str) -> Batch:
    settings = _settings_of(study, optimizer, config.seed)
    roles: Sequence[tuple[Role, tuple[float | None, ...]]] = (("tune", study.grid(optimizer)), ("test", (None,)))
    runs = tuple(
        Run(study_id, name, optimizer, role, rate, 0, derive_seed(config.seed, study_id, name, role), settings)
        for name in study.functions
        for role, rates in roles
        for rate in rates
    )
    return Batch(study_id, optimizer, optimizer, runs, (), settings)


def _policy_batch(config: Config, study_id: str, study: PolicyStudy, policy: str) -> Batch:
    shared = study.model_dump(mode="json", exclude={"policies", "prior", "network", "ppo", "repetitions", "gpu"})
    # What every row is tested on, and what its validation score weighs.
    standard = [study.prior.model_dump(mode="json"), study.network.horizon, study.ppo.log_regret]
    own = [_without_later(part.model_dump(mode="json")) for part in study.entry(policy)]
    start = study.policies[policy].start
    earlier = _policy_batch(config, study_id, study, start).settings if start else None
    number = [study.policies[policy].seed] if study.policies[policy].seed else []
    settings = fingerprint([shared, standard, own, earlier, config.seed, *number])
    # The row is not in the seed: policies of equal numbers begin with equal weights and see equal functions.
    first = study.policies[policy].seed
    seeds = [derive_seed(config.seed, study_id, i) for i in range(first, first + study.repetitions)]
    tests = ["prior-test", *(f"vlse/{name}" for name in study.functions)]
    workloads: list[tuple[str, Role]] = [("prior-validation", "tune"), *((name, "test") for name in tests)]
    runs = tuple(
        Run(study_id, workload, policy, role, None, i, seed, settings)
        for i, seed in enumerate(seeds)
        for workload, role in workloads
    )
    return Batch(study_id, policy, policy, runs, (), settings, weights=(study_id, start) if start else None)


# Keys that came after runs had been published, with the values that those had: they are not in the runs' ids.
_LATER: dict[str, Any] = {
    **dict.fromkeys(("shortest", "horizons", "kl_target", "entropy_target")),
    "resolved": 1e-10,
    "least_log_std": -6.0,
    "most_log_std": -1.0,
    "averaging": 0,
    "second": "none",
    "acting": "mean",
}


def _without_later(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in _LATER or value != _LATER[key]}


def _learner_batch(config: Config, study_id: str, study: LearnerStudy, learner: str) -> Batch:
    watched = {"objective", "validation_problems", "validate_every", "patience", "labels"}
    data = study.model_dump(mode="json", include={*watched, "train_examples", "validation_examples"})
    row = study.learners[learner]
    own = [row.method, row.validate_every, study.recipe(learner).used(row.method)]
    earlier = _learner_batch(config, study_id, study, row.start).settings if row.start else None
    settings = fingerprint([data, own, earlier, dataset_of(study, config), config.seed])
    # The row is not in the seed: rules are learned on the same objectives.
    run = Run(study_id, "meta-validation", learner, "tune", None, 0, derive_seed(config.seed, study_id, 0), settings)
    return Batch(study_id, learner, learner, (run,), (), settings, weights=(study_id, row.start) if row.start else None)


def _transfer_batches(config: Config, study_id: str, study: TransferStudy) -> Iterator[Batch]:
    """A batch for each optimizer and each reference: all collections, tuning first."""
    names = {name: _settings_of(study, name, config.seed) for name in study.optimizers}
    shared = study.model_dump(mode="json", exclude=_ELSEWHERE)
    counts = [study.reference_count, study.reference_starts]
    for name, reference in study.references.items():
        names[name] = fingerprint([shared, reference.method, counts, config.seed])
    for name, settings in names.items():
        row = study.optimizers.get(name)
        giver = _giver(config, row.trained) if row is not None and row.trained else None
        if giver is not None:
            settings = fingerprint([settings, giver.settings])
        runs = tuple(_transfer_runs(config, study_id, study, name, settings))
        yield Batch(study_id, name, name, runs, (), settings, weights=_address(giver))


def _giver(config: Config, trained: str) -> Batch:
    """The batch that trains the weights study/row."""
    study_id, row = trained.split("/")
    study = config.studies[study_id]
    assert isinstance(study, MetaTraining)
    if isinstance(study, PolicyStudy):
        return _policy_batch(config, study_id, study, row)
    if isinstance(study, PretrainingStudy):
        return _pretraining_batch(config, study_id, study, row)
    return _learner_batch(config, study_id, study, row)


def _address(giver: Batch | None) -> tuple[str, str] | None:
    return (giver.study, giver.name) if giver else None


def _transfer_runs(config: Config, study_id: str, study: TransferStudy, name: str, settings: str) -> Iterator[Run]:
    def run(workload: str, role: Role, rate: float | None) -> Run:
        # Of equal seeds for all optimizers, and for tests with either tuning: all start from the same points.
        seed = derive_seed(config.seed, study_id, workload if role == "tune" else workload.replace("-each/", "/"), role)
        return Run(study_id, workload, name, role, rate, 0, seed, settings)

    row = study.optimizers.get(name)
    tuned = row is not None and row.group != "policy"
    if row is not None:
        yield from (run("prior-validation", "tune", rate) for rate in (study.grid(name) if tuned else (None,)))
    for collection_id, collection in study.collections.items():
        if collection.source != "vlse":
            yield run(collection_id, "test", None)
            continue
        for function in study.functions:
            yield run(f"{collection_id}/{function}", "test", None)
            if tuned and collection.each:
                yield from (run(f"{collection_id}-each/{function}", "tune", rate) for rate in study.grid(name))
                yield run(f"{collection_id}-each/{function}", "test", None)


def _objectives_batch(config: Config, study_id: str, study: ObjectivesStudy, optimizer: str) -> Batch:
    """All runs of an optimizer, the tuning first. A run's settings are its own panel's, and the tuning's if tuned."""
    row, datasets = study.entry(optimizer), datasets_of(study, config)
    own = row.model_dump(mode="json", exclude={"label", "group", "learning_rates"})
    giver = _giver(config, row.trained) if row.trained else None
    tuned = row.group != "policy"
    common = [own, study.examples, study.evaluations, config.seed, giver and giver.settings]

    def place(workload: str) -> list[Any]:
        return [study.workloads[workload].model_dump(mode="json", exclude={"dataset"}), datasets[workload]]

    if tuned:
        common.append([place("tuning"), study.tuning_repetitions, study.grid(optimizer)])

    def run(workload: str, role: Role, rate: float | None, repetition: int) -> Run:
        # Tuning is the same in all studies; of equal seeds for all optimizers.
        name = study.kind if role == "tune" else f"{study_id}/{workload}"
        seed = derive_seed(config.seed, name, repetition, role)
        settings = fingerprint([place(workload), *common])
        return Run(study_id, workload, optimizer, role, rate, repetition, seed, settings)

    rates = study.grid(optimizer) if tuned else ()
    runs = [run("tuning", "tune", rate, i) for rate in rates for i in range(study.tuning_repetitions)]
    runs += [run(panel, "test", None, i) for panel in study.panels for i in range(study.repetitions)]
    settings = fingerprint([each.settings for each in runs])
    return Batch(study_id, optimizer, optimizer, tuple(runs), (), settings, weights=_address(giver))


def _pretraining_batch(config: Config, study_id: str, study: PretrainingStudy, name: str) -> Batch:
    backbone = study.backbones[name]
    dataset = dataset_of(backbone.task, config)
    own = backbone.model_dump(mode="json", exclude={"label": True, "task": {"dataset", "corpus"}})
    settings = fingerprint([own, dataset, config.seed])
    workload = f"{dataset}/{name}"
    seed = derive_seed(config.seed, study.kind, workload)
    run = Run(study_id, workload, name, "test", backbone.learning_rate, 0, seed, settings)
    return Batch(study_id, name, name, (run,), (), settings)


def _diagnostics_batches(config: Config, study_id: str, study: DiagnosticsStudy) -> Iterator[Batch]:
    """A batch for each workload: the row that is followed first, then those whose choices are recorded."""
    for name, workload in study.workloads.items():
        source = config.studies[workload.study]
        assert isinstance(source, TrainingStudy | FineTuningStudy)
        own = workload.model_dump(mode="json", exclude={"study", "follow", "rules"})
        window = study.model_dump(mode="json", exclude={"workloads", "repetitions", "gpu"})
        address = _address(_backbone(config, source))
        runs: list[Run] = []
        for row in dict.fromkeys([workload.follow, *workload.rules]):
            role = "follow" if row == workload.follow else "rule"
            settings = fingerprint([_trained_settings(config, source, row), own, window, role])
            runs += _diagnostics_runs(config, study_id, study, name, row, settings)
        yield Batch(study_id, name, None, tuple(runs), (), fingerprint([r.settings for r in runs]), weights=address)


def _diagnostics_runs(
    config: Config, study_id: str, study: DiagnosticsStudy, name: str, row: str, settings: str
) -> Iterator[Run]:
    rate = study.workloads[name].learning_rate
    for i in range(study.repetitions if row == study.workloads[name].follow else 1):
        # The row is not in the seed: all rows of a workload see the same batches.
        seed = derive_seed(config.seed, study.kind, name, i)
        yield Run(study_id, name, row, "test", rate, i, seed, settings)


def _training_batches(config: Config, study_id: str, study: Trainable) -> Iterator[Batch]:
    rows = {name: _training_runs(config, study_id, study, name) for name in _givers_first(study)}
    size, weights = study.runs_per_job, _address(_backbone(config, study))
    if size == "study":
        runs = tuple(run for tune, test in rows.values() for run in (*tune, *test))
        yield Batch(study_id, "all", None, runs, (), fingerprint([run.settings for run in runs]), weights)
        return
    for name, (tune, test) in rows.items():
        giver, settings = study.optimizers[name].shares_of, test[0].settings
        if size == "optimizer":
            yield Batch(study_id, name, name, (*tune, *test), (giver,) if giver else (), settings, weights)
            continue
        given = tuple(_parts(giver, "test", rows[giver][1], size)) if giver else ()
        tuning = _parts(name, "tune", tune, size)
        for part, runs in tuning.items():
            yield Batch(study_id, part, name, runs, given, settings, weights)
        for part, runs in _parts(name, "test", test, size).items():
            yield Batch(study_id, part, name, runs, (*tuning, *given), settings, weights)


def _training_runs(
    config: Config, study_id: str, study: Trainable, optimizer: str
) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    """The tuning runs and the test runs of an optimizer."""
    workload = _workload(config, study)
    settings = _trained_settings(config, study, optimizer)
    if giver := study.optimizers[optimizer].shares_of:  # its test runs decide the shares
        settings = fingerprint([settings, _trained_settings(config, study, giver), study.test_repetitions])

    def run(role: Role, rate: float | None, repetition: int) -> Run:
        seed = derive_seed(config.seed, workload, repetition, role)
        return Run(study_id, workload, optimizer, role, rate, repetition, seed, settings)

    tune = (run("tune", rate, i) for rate in study.grid(optimizer) for i in range(study.tuning_repetitions))
    return tuple(tune), tuple(run("test", None, i) for i in range(study.test_repetitions))


def _workload(config: Config, study: Trainable) -> str:
    """Data set and network, as in fashion-mnist/perceptron."""
    if isinstance(study, FineTuningStudy):
        return f"{dataset_of(study.task, config)}/{study.model}"
    return f"{dataset_of(study, config)}/{study.network}"


def _trained_settings(config: Config, study: Trainable, optimizer: str) -> str:
    """What determines a training run of an optimizer, its backbone included."""
    task, giver = task_of(study), _backbone(config, study)
    assert task is not None
    pretrained = [giver.settings] if giver else []
    return _settings_of(study, optimizer, dataset_of(task, config), config.seed, *pretrained)


def _backbone(config: Config, study: Trainable) -> Batch | None:
    """The batch that pretrains what a study fine-tunes."""
    backbone = study.backbone if isinstance(study, FineTuningStudy) else None
    return _giver(config, backbone) if backbone else None


def _parts(optimizer: str, role: Role, runs: Sequence[Run], size: int) -> dict[str, tuple[Run, ...]]:
    """Parts of at most `size` runs, by the names of their batches."""
    starts = range(0, len(runs), size)
    return {f"{optimizer}.{role}{i}": tuple(runs[start : start + size]) for i, start in enumerate(starts)}


def _givers_first(study: Trainable) -> list[str]:
    return sorted(study.optimizers, key=lambda name: study.optimizers[name].shares_of is not None)
