import math
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from optrepro import runtable
from optrepro.config import Config
from optrepro.experiments.base import data
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context, empty_results, no_progress
from optrepro.experiments.training import classification, tasks
from optrepro.experiments.training import replicas as models
from optrepro.problems.data.images import Dataset, Split
from optrepro.problems.networks import classic
from optrepro.seeds import derive_seed
from optrepro.studies.base import Run
from optrepro.studies.training import TrainingStudy

Tiny = Callable[..., Config]
STEPS = 12  # 3 passes over 64 examples in batches of 16
LOG: list[dict[str, Any]] = []  # what the steps of `Still` were given


class Still(torch.optim.Optimizer):
    """Never moves, and keeps what each of its steps is given."""

    def __init__(self, params: Any, lr: float, seed: int = 0, shares: Any = None):
        super().__init__(params, {"lr": lr})
        self.seed, self.shares, self.mode = seed, shares, "none"

    def step(self, **arguments: Any) -> None:
        [group] = self.param_groups
        given = {name: [g.clone() for g in gradients] for name, gradients in arguments.items()}
        gradients, weights = ([t.clone() for t in of] for of in ([p.grad for p in group["params"]], group["params"]))
        LOG.append({"lr": group["lr"], "gradients": gradients, "weights": weights, "optimizer": self, **given})


class StillWithHalves(Still):
    needs = "half_grads"


class StillWithValidation(Still):
    needs = "validation_grads"


class StillInModes(Still):
    def train(self) -> None:
        self.mode = "train"
        LOG.append({"mode": "train"})

    def eval(self) -> None:
        self.mode = "eval"
        LOG.append({"mode": "eval"})


class Bomb(torch.optim.SGD):
    """SGD that blows up at the fifth step of the runs whose seed is marked, and may recover at the sixth."""

    marked: frozenset[int] = frozenset()
    recovers = False
    calls: list[int] = []

    def __init__(self, params: Any, lr: float, seed: int):
        super().__init__(params, lr)
        self.seed, self.count = seed, 0

    def step(self, closure: Any = None) -> None:
        super().step()
        self.count += 1
        Bomb.calls.append(self.seed)
        blows_up, recovers = self.count == 5, self.count == 6 and Bomb.recovers
        if self.seed in Bomb.marked and (blows_up or recovers):
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.fill_(math.nan if blows_up else 0.0)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for cls in (Still, StillWithHalves, StillWithValidation, StillInModes, Bomb):
        monkeypatch.setattr(torch.optim, cls.__name__, cls, raising=False)
    monkeypatch.setattr(Bomb, "calls", [])
    LOG.clear()
    yield
    LOG.clear()


def entry(name: str, cls: str, settings: str = "{}", **more: str) -> str:
    """An override that puts an optimizer into the study."""
    others = "".join(f", {key}: {value}" for key, value in more.items())
    return f"studies.images.optimizers.{name}={{label: x, class: {cls}, settings: {settings}{others}}}"


def carry_out(settings: Config, name: str, **context: Any) -> pd.DataFrame:
    """The results of one batch of the study of images."""
    batch = next(batch for batch in runtable.batches(settings, "images") if batch.name == name)
    surroundings = Context(settings.seed, torch.device("cpu"), Checkpoint(None), dataset="digits")
    return classification.run(study_of(settings), batch, replace(surroundings, **context))


def study_of(settings: Config) -> TrainingStudy:
    study = settings.studies["images"]
    assert isinstance(study, TrainingStudy)
    return study


def dataset_of(settings: Config) -> Dataset:
    return data.load(study_of(settings), "digits", settings.seed, "cpu")


def runs_of(settings: Config, optimizer: str, role: str) -> list[Run]:
    runs = [run for batch in runtable.batches(settings, "images") for run in batch.runs]
    return [run for run in runs if (run.optimizer, run.role) == (optimizer, role)]


def of_tests(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.role == "test"]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def gradient(settings: Config, run: Run, split: Split) -> Tensor:
    """The gradient of a run's initial network on a whole split."""
    dataset = dataset_of(settings)
    seed = derive_seed(run.seed, "weights")
    network = classic.build(study_of(settings).network, dataset.input_shape, dataset.classes, seed=seed)
    F.cross_entropy(network(split.images), split.labels).backward()
    return flat([p.grad for p in network.parameters()])


# Resuming


OPTIMIZERS = {
    "sgd": ("torch.optim.SGD", "{momentum: 0.9}"),
    "gap-halves": ("optrepro.optimizers.gap.GapSGD", "{score: debiased, self_term: halves}"),
    "gap-validation": ("optrepro.optimizers.gap.GapSGD", "{score: validation, select: per_parameter}"),
    "gap-adam": ("optrepro.optimizers.gap.GapAdamW", "{score: debiased, score_ema: 0.9, hysteresis: 0.1}"),
    "random": ("optrepro.optimizers.controls.RandomSGD", "{}"),
    "mean-adam": ("optrepro.optimizers.controls.MeanAdamW", "{}"),
    "schedule-free": ("schedulefree.SGDScheduleFree", "{}"),
    "schedule-free-adam": ("schedulefree.AdamWScheduleFree", "{warmup_steps: 3}"),
    "prodigy": ("prodigyopt.Prodigy", "{}"),
}


def sigterm_at(stops: set[int]) -> Callable[[int, int, str], None]:
    """A progress callback during which the process is told to stop, once at each of these steps."""

    def progress(done: int, total: int, what: str) -> None:
        if done in stops:
            stops.remove(done)
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


STACKED = ["studies.images.network=softmax"]
SEPARATE = [
    "studies.images.network=cnn",
    "studies.images.network_settings={width: 2}",
    "studies.images.tuning_repetitions=1",
    "studies.images.test_repetitions=1",
]
AUGMENTED = [*STACKED, "studies.images.augment=true"]
RESUMED = [
    *((optimizer, "stacked", STACKED) for optimizer in OPTIMIZERS),
    *((optimizer, "separate", SEPARATE) for optimizer in ("sgd", "gap-halves", "schedule-free", "random")),
    ("sgd", "augmented", AUGMENTED),
]


@pytest.mark.parametrize(
    ("optimizer", "models"),
    [pytest.param(optimizer, models, id=f"{optimizer}-{name}") for optimizer, name, models in RESUMED],
)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    optimizer: str, models: list[str], tiny: Tiny, tmp_path: Path
) -> None:
    settings = tiny(entry("x", *OPTIMIZERS[optimizer]), *models)
    expected = carry_out(settings, "x")
    # in tuning and in testing; before, at and after an evaluation; and at the last step of a group of runs
    stops = {1, 5, STEPS, STEPS + 1, STEPS + 6, STEPS + 7, 2 * STEPS}
    attempts = 0
    while True:
        attempts += 1
        torch.manual_seed(attempts)  # a new process starts with other generators, and remembers nothing
        classification._order.cache_clear()
        try:
            keeper = Checkpoint(tmp_path / "state.pt")
            resumed = carry_out(settings, "x", checkpoint=keeper, progress=sigterm_at(stops))
            break
        except Interrupted:
            continue
    assert attempts == 8
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)


@pytest.mark.parametrize("models", [STACKED, SEPARATE], ids=["stacked", "separate"])
def test_a_run_that_was_shot_goes_on_from_its_last_save(models: list[str], tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny(*models)
    expected = carry_out(settings, "gap")
    done = []

    def shoot(step: int, total: int, what: str) -> None:
        done.append(step)
        if len(done) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(settings, "gap", checkpoint=Checkpoint(tmp_path / "state.pt", every=0), progress=shoot)
    resumed = carry_out(settings, "gap", checkpoint=Checkpoint(tmp_path / "state.pt", every=0), progress=shoot)
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
    assert done[19:21] == [20, 20]  # the step that was lost is taken again, and no other


def test_every_time_slice_gets_somewhere_however_short(tiny: Tiny, tmp_path: Path) -> None:
    settings = tiny()
    done: list[int] = []
    for _ in range(3):
        keeper = Checkpoint(tmp_path / "state.pt", time_slice=0)
        with pytest.raises(Interrupted):
            carry_out(settings, "sgd", checkpoint=keeper, progress=lambda step, total, what: done.append(step))
    assert done == [1, 2, 3]


def test_the_state_stays_until_the_results_are_written_by_whoever_called(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    carry_out(tiny(), "sgd", checkpoint=Checkpoint(path, every=0))
    assert path.exists()


# Batches of runs


@pytest.mark.parametrize(
    ("cls", "settings"),
    [("torch.optim.SGD", "{}"), ("torch.optim.AdamW", "{}"), ("optrepro.optimizers.gap.GapSGD", "{score: raw}")],
)
def test_stacked_runs_give_what_separate_ones_give(
    cls: str, settings: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(entry("x", cls, settings))
    stacked = carry_out(config, "x")
    monkeypatch.setattr(classic, "stackable", lambda name: False)
    separate = carry_out(config, "x")
    pd.testing.assert_frame_equal(stacked, ordered_like(separate, stacked), rtol=1e-4)


def ordered_like(table: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    keys = ["run", "step", "metric"]
    return other[keys].merge(table, on=keys)[list(other.columns)]


@pytest.mark.parametrize("size", [1, 2])
def test_cutting_an_optimizers_runs_into_jobs_changes_no_result(size: int, tiny: Tiny) -> None:
    whole = carry_out(tiny(), "sgd")
    settings = tiny(f"studies.images.runs_per_job={size}")
    parts: dict[str, pd.DataFrame] = {}
    for batch in runtable.batches(settings, "images"):
        if batch.optimizer == "sgd":
            earlier = pd.concat([parts[name] for name in batch.needs]) if batch.needs else empty_results()
            parts[batch.name] = carry_out(settings, batch.name, earlier=earlier)
    together = pd.concat(parts.values(), ignore_index=True)
    pd.testing.assert_frame_equal(ordered_like(together, whole), whole, rtol=1e-4)
    assert len(together) == len(whole)


def test_a_job_of_a_whole_study_gives_what_the_jobs_of_its_optimizers_give(tiny: Tiny) -> None:
    whole = carry_out(tiny("studies.images.runs_per_job=study"), "all")
    gap = carry_out(tiny(), "gap")
    parts = [carry_out(tiny(), "sgd"), gap, carry_out(tiny(), "random", earlier=gap)]
    pd.testing.assert_frame_equal(whole, pd.concat(parts, ignore_index=True), check_exact=True)


def test_a_job_of_a_whole_study_that_was_killed_goes_on_with_the_shares_and_rates_it_had(
    tiny: Tiny, tmp_path: Path
) -> None:
    settings = tiny("studies.images.runs_per_job=study")
    expected = carry_out(settings, "all")
    with pytest.raises(Interrupted):  # in the test runs of the last optimizer, which repeats the shares of another
        carry_out(settings, "all", checkpoint=Checkpoint(tmp_path / "state.pt"), progress=sigterm_at({5 * STEPS + 2}))
    resumed = carry_out(settings, "all", checkpoint=Checkpoint(tmp_path / "state.pt"))
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)


def test_equal_configs_give_equal_results(tiny: Tiny) -> None:
    first = carry_out(tiny(), "gap")
    torch.manual_seed(99)
    pd.testing.assert_frame_equal(carry_out(tiny(), "gap"), first, check_exact=True)


def test_another_seed_gives_other_results(tiny: Tiny) -> None:
    assert not (carry_out(tiny(), "sgd").value == carry_out(tiny("seed=8"), "sgd").value).all()


def test_every_optimizer_sees_the_same_weights_and_the_same_batches(tiny: Tiny) -> None:
    settings = tiny(
        entry("a", "torch.optim.Still"),
        entry("b", "torch.optim.StillInModes", learning_rates="[1, 2]"),
        "studies.images.augment=true",
    )
    logs = []
    for name in ("a", "b"):
        carry_out(settings, name)
        logs.append([step for step in LOG if "gradients" in step])
        LOG.clear()
    assert len(logs[0]) == len(logs[1]) == STEPS * (2 * 2 + 3)
    for a, b in zip(*logs, strict=True):
        assert torch.equal(flat(a["weights"]), flat(b["weights"]))
        assert torch.equal(flat(a["gradients"]), flat(b["gradients"]))


def test_learning_rates_are_compared_on_the_same_weights_and_batches_and_repetitions_differ(tiny: Tiny) -> None:
    carry_out(tiny(entry("x", "torch.optim.Still")), "x")
    low_0, low_1, high_0, high_1 = (flat(step["gradients"]) for step in LOG[:4])
    torch.testing.assert_close(low_0, high_0)
    torch.testing.assert_close(low_1, high_1)
    assert not torch.allclose(low_0, low_1)


def test_an_epoch_shows_every_example_once_and_the_next_one_in_another_order(tiny: Tiny) -> None:
    settings = tiny(entry("x", "torch.optim.Still"))
    carry_out(settings, "x")
    steps = LOG[-3 * STEPS :: 3]  # of the first test run
    run = runs_of(settings, "x", "test")[0]
    full = gradient(settings, run, dataset_of(settings).train)
    for epoch in range(3):
        mean = torch.stack([flat(step["gradients"]) for step in steps[4 * epoch : 4 * epoch + 4]]).mean(0)
        torch.testing.assert_close(mean, full)
    assert not torch.allclose(flat(steps[0]["gradients"]), flat(steps[4]["gradients"]))


def test_an_optimizer_that_draws_gets_a_seed_of_its_run(tiny: Tiny) -> None:
    settings = tiny(entry("x", "torch.optim.Still"))
    carry_out(settings, "x")
    expected = [derive_seed(run.seed, "optimizer") for run in runs_of(settings, "x", "test")]
    assert [step["optimizer"].seed for step in LOG[-3:]] == expected


# Tuning


def test_tuning_runs_have_no_metric_of_the_test_split(tiny: Tiny) -> None:
    table = carry_out(tiny(), "gap")
    names = {role: set(rows.metric) for role, rows in table.groupby("role")}
    assert names["tune"] == {"train_loss", "validation_loss", "validation_accuracy", *chosen(3)}
    assert names["test"] == names["tune"] | {"test_loss", "test_accuracy"}


def chosen(candidates: int) -> list[str]:
    return [f"chosen[{k}]" for k in range(candidates)]


def test_tuning_never_touches_the_test_split(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    load = data.load

    def without_test_split(*arguments: Any) -> Dataset:
        return replace(load(*arguments), test=None)

    settings = tiny("studies.images.runs_per_job=4")
    monkeypatch.setattr(data, "load", without_test_split)
    assert set(carry_out(settings, "sgd.tune0").role) == {"tune"}
    with pytest.raises(AttributeError):
        carry_out(settings, "sgd.test0", earlier=carry_out(settings, "sgd.tune0"))


def test_the_tuned_rate_is_the_best_on_validation_data(tiny: Tiny) -> None:
    table = carry_out(tiny("studies.images.learning_rates=[1.0e-5, 0.1, 100.0]"), "sgd")
    tune = table[(table.role == "tune") & (table.metric == "validation_accuracy")]
    best = tune.groupby("learning_rate").value.mean().idxmax()
    assert set(of_tests(table).learning_rate) == {best} == {0.1}


def test_only_the_optimizers_own_tuning_runs_decide_its_rate(tiny: Tiny) -> None:
    settings = tiny("studies.images.runs_per_job=4")
    own = carry_out(settings, "sgd.tune0").query("metric == 'validation_accuracy'")
    assert own.groupby("learning_rate").value.mean().idxmax() == 0.1
    lures = [own.assign(run=f"lure-{i}", learning_rate=0.01, value=9.0) for i in range(3)]
    earlier = [own, lures[0].assign(role="test"), lures[1].assign(optimizer="gap"), lures[2].assign(metric="test_loss")]
    table = carry_out(settings, "sgd.test0", earlier=pd.concat(earlier))
    assert set(table.learning_rate) == {0.1}


def test_tuning_runs_are_evaluated_once_at_their_end(tiny: Tiny) -> None:
    table = carry_out(tiny(), "sgd")
    assert set(table[table.role == "tune"].step) == {STEPS}


def test_tuning_runs_may_be_shorter_and_have_the_whole_schedule(tiny: Tiny) -> None:
    settings = tiny(entry("x", "torch.optim.Still"), "studies.images.tuning_steps=4", "studies.images.schedule=step")
    table = carry_out(settings, "x")
    assert set(table[table.role == "tune"].step) == {4}
    assert table[table.role == "test"].step.max() == STEPS
    assert rates(settings)[:4] == pytest.approx([1, 1, 0.1, 0.01])


# Curves


@pytest.mark.parametrize(("evaluations", "steps"), [(1, [12]), (4, [3, 6, 9, 12]), (5, [3, 5, 8, 10, 12]), (99, None)])
def test_test_runs_are_evaluated_at_even_steps_and_at_the_end(
    evaluations: int, steps: list[int] | None, tiny: Tiny
) -> None:
    table = of_tests(carry_out(tiny(f"studies.images.evaluations={evaluations}"), "sgd"))
    assert sorted(table.step.unique()) == (steps or list(range(1, STEPS + 1)))


def test_every_run_has_every_metric_at_each_of_its_steps_once(tiny: Tiny) -> None:
    settings = tiny()
    table = carry_out(settings, "sgd")
    runs = [*runs_of(settings, "sgd", "tune"), *runs_of(settings, "sgd", "test")]
    assert set(table.run) == {run.id for run in runs}
    assert len(table) == 4 * 3 + 3 * 4 * 5
    assert not table.duplicated(["run", "step", "metric"]).any()


def test_the_training_loss_is_the_mean_since_the_last_evaluation(tiny: Tiny) -> None:
    settings = tiny(entry("x", "torch.optim.Still"), "studies.images.evaluations=3")
    table = of_tests(carry_out(settings, "x")).query("metric == 'train_loss' and seed == 0")
    dataset, run = dataset_of(settings), runs_of(settings, "x", "test")[0]
    network = classic.build("softmax", dataset.input_shape, dataset.classes, seed=derive_seed(run.seed, "weights"))
    loss = F.cross_entropy(network(dataset.train.images), dataset.train.labels).item()
    assert table.value.tolist() == pytest.approx([loss] * 3)


def test_test_and_validation_metrics_are_those_of_their_splits(tiny: Tiny) -> None:
    settings = tiny(entry("x", "torch.optim.Still"))
    table = of_tests(carry_out(settings, "x")).query(f"seed == 0 and step == {STEPS}").set_index("metric").value
    dataset, run = dataset_of(settings), runs_of(settings, "x", "test")[0]
    network = classic.build("softmax", dataset.input_shape, dataset.classes, seed=derive_seed(run.seed, "weights"))
    for name, split in (("validation", dataset.validation), ("test", dataset.test)):
        logits = network(split.images)
        assert table[f"{name}_loss"] == pytest.approx(F.cross_entropy(logits, split.labels).item())
        assert table[f"{name}_accuracy"] == pytest.approx((logits.argmax(1) == split.labels).float().mean().item())


def test_training_learns(tiny: Tiny) -> None:
    table = of_tests(carry_out(tiny("studies.images.steps=80"), "sgd"))
    assert table[(table.metric == "test_accuracy") & (table.step == table.step.max())].value.min() > 0.6


@pytest.mark.parametrize(("select", "choices"), [("global", 1), ("per_parameter", 2)])
def test_the_choices_so_far_sum_to_the_steps_so_far(select: str, choices: int, tiny: Tiny) -> None:
    settings = tiny(f"studies.images.optimizers.gap.settings.select={select}")
    table = of_tests(carry_out(settings, "gap"))
    sums = table[table.metric.isin(chosen(3))].groupby(["run", "step"]).value.sum().reset_index()
    assert len(sums) == 3 * 4
    assert (sums.value == choices * sums.step).all()


def test_progress_goes_from_the_first_step_to_the_last(tiny: Tiny) -> None:
    calls: list[tuple[int, int, str]] = []
    carry_out(tiny(), "sgd", progress=lambda *call: calls.append(call))
    assert calls == [(step, 2 * STEPS, "sgd") for step in range(1, 2 * STEPS + 1)]


# Learning rates


def rates(settings: Config) -> list[float]:
    """The learning rate at each step of a tuning run with the rate 0.1, as a share of it."""
    carry_out(settings, "x")
    steps = [step for step in LOG[: 4 * STEPS] if "lr" in step]
    return [step["lr"] / 0.1 for step in steps[2::4]]


SCHEDULES = {
    "cosine": [0.5 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)],
    "step": [1.0] * 6 + [0.1] * 3 + [0.01] * 3,
    "constant": [1.0] * STEPS,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_learning_rate_follows_the_schedule_of_the_study(schedule: str, tiny: Tiny) -> None:
    settings = tiny(entry("x", "torch.optim.Still"), f"studies.images.schedule={schedule}")
    assert rates(settings) == pytest.approx(SCHEDULES[schedule])


def test_the_schedule_of_an_optimizer_wins_over_that_of_the_study(tiny: Tiny) -> None:
    settings = tiny(entry("x", "torch.optim.Still", schedule="constant"), "studies.images.schedule=cosine")
    assert rates(settings) == pytest.approx(SCHEDULES["constant"])


# What optimizers ask for


def test_half_gradients_are_of_the_first_half_and_the_gradient_is_the_mean_of_both(tiny: Tiny) -> None:
    def log(cls: str, batch_size: int) -> list[dict[str, Any]]:
        LOG.clear()
        carry_out(tiny(entry("x", f"torch.optim.{cls}"), f"studies.images.batch_size={batch_size}"), "x")
        return list(LOG)

    halves, whole, small = log("StillWithHalves", 16), log("Still", 16), log("Still", 8)
    for with_halves, plain in zip(halves, whole, strict=True):
        torch.testing.assert_close(flat(with_halves["gradients"]), flat(plain["gradients"]))
        assert not torch.allclose(flat(with_halves["half_grads"]), flat(plain["gradients"]))
    for r in range(4):  # batches of half the size are the halves of the batches: at the first step, the first one
        torch.testing.assert_close(flat(halves[r]["half_grads"]), flat(small[r]["gradients"]))


@pytest.mark.parametrize("augment", [False, True])
def test_validation_gradients_are_of_the_validation_split_as_it_is(augment: bool, tiny: Tiny) -> None:
    settings = tiny(
        entry("x", "torch.optim.StillWithValidation"),
        "studies.images.validation_examples=16",  # as many as in a batch
        f"studies.images.augment={augment}",
    )
    carry_out(settings, "x")
    run = runs_of(settings, "x", "test")[0]
    expected = gradient(settings, run, dataset_of(settings).validation)
    for step in LOG[-3 * STEPS :: 3]:
        torch.testing.assert_close(flat(step["validation_grads"]), expected)


def test_validation_batches_change_from_step_to_step(tiny: Tiny) -> None:
    carry_out(tiny(entry("x", "torch.optim.StillWithValidation")), "x")
    first, second, third = (flat(LOG[i]["validation_grads"]) for i in (0, 4, 8))
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, third)


def test_a_validation_gradient_leaves_the_gradient_of_the_batch_alone(tiny: Tiny) -> None:
    settings = tiny(entry("a", "torch.optim.Still"), entry("b", "torch.optim.StillWithValidation"))
    carry_out(settings, "a")
    plain = [flat(step["gradients"]) for step in LOG]
    LOG.clear()
    carry_out(settings, "b")
    assert all(map(torch.equal, plain, (flat(step["gradients"]) for step in LOG)))


def test_an_optimizer_with_modes_trains_in_one_and_is_evaluated_in_the_other(tiny: Tiny) -> None:
    carry_out(tiny(entry("x", "torch.optim.StillInModes"), "studies.images.runs_per_job=1"), "x.tune0")
    assert [step.get("mode", "step") for step in LOG] == ["train", *["step"] * STEPS, "eval", "train"]


# Shares


def given_shares(tiny: Tiny, earlier: pd.DataFrame) -> tuple[float, ...]:
    carry_out(tiny(entry("x", "torch.optim.Still", shares_of="gap")), "x", earlier=earlier)
    [shares] = {step["optimizer"].shares for step in LOG}
    return shares


def counts(run: str, step: int, *values: float, role: str = "test", optimizer: str = "gap") -> pd.DataFrame:
    rows = [
        [run, "images", "digits/softmax", optimizer, role, 0.1, 0, step, f"chosen[{k}]", float(value)]
        for k, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=empty_results().columns)


def test_shares_are_those_of_the_last_counts_of_all_test_runs_of_the_giver(tiny: Tiny) -> None:
    earlier = [
        counts("a", 10, 10, 0, 0),
        counts("a", 20, 10, 4, 6),
        counts("b", 20, 0, 0, 20),
        counts("c", 20, 20, 0, 0, role="tune"),
        counts("d", 20, 20, 0, 0, optimizer="sgd"),
    ]
    assert given_shares(tiny, pd.concat(earlier)) == pytest.approx((10 / 40, 4 / 40, 26 / 40))


def test_shares_are_in_the_order_of_the_candidates_however_many_there_are(tiny: Tiny) -> None:
    shares = given_shares(tiny, counts("a", 66, *range(1, 12)))
    assert shares == pytest.approx([k / 66 for k in range(1, 12)])


def test_runs_whose_giver_left_no_choices_are_missing_and_stop_nothing(tiny: Tiny) -> None:
    assert carry_out(tiny(), "random", earlier=carry_out(tiny(), "sgd")).empty


def test_a_row_without_shares_is_made_without(tiny: Tiny) -> None:
    carry_out(tiny(entry("x", "torch.optim.Still")), "x")
    assert LOG[0]["optimizer"].shares is None


# Divergence


def bomb(tiny: Tiny, *more: str) -> Config:
    return tiny(entry("x", "torch.optim.Bomb"), *more)


def mark(settings: Config, monkeypatch: pytest.MonkeyPatch, role: str, *repetitions: int) -> None:
    runs = [run for run in runs_of(settings, "x", role) if run.repetition in repetitions]
    monkeypatch.setattr(Bomb, "marked", frozenset(derive_seed(run.seed, "optimizer") for run in runs))


@pytest.mark.parametrize("network", ["softmax", "cnn"])
def test_a_diverged_run_is_recorded_and_the_others_go_on_as_if_it_were_not_there(
    network: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bomb(tiny, f"studies.images.network={network}")
    calm = carry_out(settings, "x")
    mark(settings, monkeypatch, "test", 1)
    table = carry_out(settings, "x")

    def others(rows: pd.DataFrame) -> pd.DataFrame:
        return rows[(rows.role == "tune") | (rows.seed != 1)].reset_index(drop=True)

    pd.testing.assert_frame_equal(others(table), others(calm), check_exact=True)
    diverged = of_tests(table).query("seed == 1")
    assert diverged[diverged.metric == "diverged"][["step", "value"]].values.tolist() == [[6, 1.0]]
    assert set(diverged[diverged.metric != "diverged"].step) == {3}  # evaluated before, and never again
    assert diverged.value.notna().all()


def test_a_run_whose_loss_was_not_finite_once_has_diverged_even_if_it_recovers(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bomb(tiny)
    mark(settings, monkeypatch, "test", 1)
    monkeypatch.setattr(Bomb, "recovers", True)
    table = of_tests(carry_out(settings, "x"))
    assert table[table.metric == "diverged"][["seed", "step"]].values.tolist() == [[1, 6]]


def test_a_diverged_run_stops(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = bomb(tiny)
    mark(settings, monkeypatch, "test", 1)
    carry_out(settings, "x")
    steps = [Bomb.calls.count(derive_seed(run.seed, "optimizer")) for run in runs_of(settings, "x", "test")]
    assert steps == [STEPS, 6, STEPS]


def test_if_every_run_diverged_the_batch_ends_early_and_says_so(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = bomb(tiny)
    mark(settings, monkeypatch, "test", 0, 1, 2)
    table = of_tests(carry_out(settings, "x"))
    assert table[table.metric == "diverged"].seed.tolist() == [0, 1, 2]
    assert len(Bomb.calls) == 4 * STEPS + 3 * 6


def test_a_rate_at_which_tuning_runs_diverge_is_not_taken(tiny: Tiny) -> None:
    table = carry_out(tiny("studies.images.learning_rates=[0.01, 1.0e+38]"), "sgd")
    tune = table[table.role == "tune"]
    assert tune[tune.metric == "diverged"].learning_rate.tolist() == [1e38, 1e38]
    assert set(of_tests(table).learning_rate) == {0.01}


def test_a_run_that_diverged_before_it_was_interrupted_stays_diverged(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = bomb(tiny)
    mark(settings, monkeypatch, "test", 1)
    expected = carry_out(settings, "x")
    keeper = Checkpoint(tmp_path / "state.pt")
    with pytest.raises(Interrupted):
        carry_out(settings, "x", checkpoint=keeper, progress=sigterm_at({STEPS + 8}))
    resumed = carry_out(settings, "x", checkpoint=Checkpoint(tmp_path / "state.pt"), progress=no_progress)
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)


# Sequences


def scored_unequally(tiny: Tiny) -> tuple[classification.Training, Tensor, Tensor]:
    """A training that splits its batches, and a batch with more examples that count in the second half."""
    settings = tiny(entry("x", "torch.optim.StillWithHalves"), *SEPARATE)
    run, study = runs_of(settings, "x", "test")[0], study_of(settings)
    dataset, build = tasks.of(study, Context(settings.seed, torch.device("cpu"), Checkpoint(None), dataset="digits"))
    of_halves = classification.Training([run], [0.1], study, study.entry("x"), None, dataset, build)
    images, labels = of_halves._batch(dataset.train, "order")
    labels = labels.clone()
    labels[0, :5] = models.IGNORED
    return of_halves, images, labels


def test_the_gradient_of_a_step_is_of_the_whole_batch_where_halves_are_scored_unequally(tiny: Tiny) -> None:
    of_halves, images, labels = scored_unequally(tiny)
    losses, gradients, _ = of_halves._gradients(images, labels)
    expected_losses, expected = of_halves.models.gradients(images, labels)
    torch.testing.assert_close(losses, expected_losses)
    torch.testing.assert_close(flat(gradients[0]), flat(expected[0]))


def test_of_pure_noise_the_product_of_halves_is_zero_where_they_are_scored_unequally(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_halves, images, labels = scored_unequally(tiny)
    generator = torch.Generator().manual_seed(0)

    def noise(images: Tensor, labels: Tensor) -> tuple[Tensor, models.Gradients]:
        scored = (labels != models.IGNORED).sum()
        return torch.zeros(1), [[torch.randn(10_000, generator=generator) / scored**0.5]]

    monkeypatch.setattr(of_halves.models, "gradients", noise)
    products = []
    for _ in range(50):
        _, [[whole]], [arguments] = of_halves._gradients(images, labels)
        [half] = arguments["half_grads"]
        products.append(float(half @ (2 * whole - half)))  # as an optimizer takes it, see GapSGD
    error = torch.tensor(products).std() / 50**0.5
    assert abs(sum(products) / 50) < 4 * error
    assert error < 0.02 * float(whole @ whole)
