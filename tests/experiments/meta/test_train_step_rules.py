"""A study that learns step rules: resumable bit for bit, its best weights kept, and its card and rows true."""

import json
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from optrepro import runtable
from optrepro.config import Config
from optrepro.experiments.base import data, tidy
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context, no_progress
from optrepro.experiments.meta import train_step_rules
from optrepro.metalearning.lto import rollouts
from optrepro.metalearning.lto.imitation import AdaGrad
from optrepro.optimizers import _learned
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.problems.networks.perceptrons import Perceptrons
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.learner import LearnerStudy

Tiny = Callable[..., Config]
ITERATIONS = 5


def study_of(settings: Config) -> LearnerStudy:
    study = settings.studies["learn"]
    assert isinstance(study, LearnerStudy)
    return study


def batch_of(settings: Config, row: str) -> Batch:
    return next(batch for batch in runtable.batches(settings, "learn") if batch.name == row)


def learn(
    settings: Config,
    path: Path,
    row: str = "unrolled",
    state: Checkpoint | None = None,
    progress: Callable[[int, int, str], None] = no_progress,
    weights: Path | None = None,
) -> pd.DataFrame:
    """Rows of a learning whose weights are written to `path`."""
    context = Context(
        seed=settings.seed,
        device=torch.device("cpu"),
        checkpoint=state or Checkpoint(None),
        dataset="digits",
        progress=progress,
        weights=weights,
        policy=path,
    )
    return train_step_rules.run(study_of(settings), batch_of(settings, row), context)


def load(path: Path) -> tuple[L2LPolicy, dict[str, Any]]:
    return _learned.load(L2LPolicy, L2LSettings, path)


@pytest.fixture(scope="module")
def learned(tiny_lto: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Rows and weights of a learning."""
    path = tmp_path_factory.mktemp("learned") / "policy.safetensors"
    return learn(tiny_lto(), path), path


def curve(table: pd.DataFrame, metric: str) -> pd.Series:
    """Values by step."""
    return table[table.metric == metric].set_index("step").value


def assert_same_file(a: Path, b: Path) -> None:
    """The same weights with the same card."""
    weights, cards = zip(*((load_file(path), metadata(path)["card"]) for path in (a, b)), strict=True)
    assert_same(*weights)
    assert min(card.pop("cpu_hours") for card in cards) >= 0  # what took longer is no difference
    assert cards[0] == cards[1]


def metadata(path: Path) -> dict[str, Any]:
    with safe_open(str(path), "pt") as file:
        facts: dict[str, Any] = json.loads(file.metadata()["rule"])
        return facts


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(a), dict(b), rtol=0, atol=0)


# Resuming


@pytest.mark.parametrize("row", ["unrolled", "imitation", "mirror", "bregman"])
def test_a_killed_and_resumed_learning_equals_an_uninterrupted_one_bit_for_bit(
    row: str, tiny_lto: Tiny, tmp_path: Path
) -> None:
    tiny_lto = partial(tiny_lto, SETTINGS, "studies.learn.averaging=0.5")
    weights = tmp_path / "start.safetensors" if row == "mirror" else None
    if weights is not None:
        learn(tiny_lto(), weights, "imitation")
    expected = learn(tiny_lto(), tmp_path / "expected.safetensors", row, weights=weights)
    stops, done = {1, 2, 3}, []  # before, at and after a validation

    def progress(iteration: int, total: int, what: str) -> None:
        done.append((iteration, total))
        if len(done) in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    def attempt() -> pd.DataFrame:
        keeper = Checkpoint(tmp_path / "state.pt")
        return learn(tiny_lto(), tmp_path / "resumed.safetensors", row, keeper, progress, weights)

    for i in range(len(stops)):
        torch.manual_seed(i)  # a new process starts with other generators
        with pytest.raises(Interrupted):
            attempt()
    resumed = attempt()
    assert done == [(i + 1, done[0][1]) for i in range(done[0][1])]  # no iteration was done twice
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
    assert_same_file(tmp_path / "resumed.safetensors", tmp_path / "expected.safetensors")


def test_every_time_slice_gets_somewhere_however_short(tiny_lto: Tiny, tmp_path: Path) -> None:
    done: list[int] = []
    for _ in range(3):
        keeper = Checkpoint(tmp_path / "state.pt", time_slice=0)
        with pytest.raises(Interrupted):
            learn(
                tiny_lto(), tmp_path / "p", state=keeper, progress=lambda iteration, total, what: done.append(iteration)
            )
    assert done == [1, 2, 3]


# The weights


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Tensor]]]:
    """A function that makes the areas of the validations up; the weights that each was asked for."""

    def script(*areas: float) -> list[dict[str, Tensor]]:
        seen: list[dict[str, Tensor]] = []

        def measured(self: Any, rule: nn.Module, name: str) -> train_step_rules.Measured:
            seen.append({name: value.clone() for name, value in rule.state_dict().items()})
            return train_step_rules.Measured(areas[len(seen) - 1], 0.0)

        monkeypatch.setattr(train_step_rules._Learning, "_measure", measured)
        return seen

    return script


def test_the_weights_kept_are_those_of_the_first_lowest_area(
    scripted: Callable[..., list[dict[str, Tensor]]], tiny_lto: Tiny, tmp_path: Path
) -> None:
    seen = scripted(0.9, 0.5, 0.7, 0.5, 0.6)
    learn(tiny_lto("studies.learn.validate_every=1"), tmp_path / "p")
    rule, card = load(tmp_path / "p")
    assert len(seen) == ITERATIONS
    assert_same(rule.state_dict(), seen[1])
    assert any(not torch.equal(seen[1][name], seen[2][name]) for name in seen[1])
    assert (card["iterations"], card["validation"]) == (2, {"area": 0.5, "final": 0.0})


def test_learning_stops_after_so_many_validations_without_a_lower_area(
    scripted: Callable[..., list[dict[str, Tensor]]], tiny_lto: Tiny, tmp_path: Path
) -> None:
    seen = scripted(0.9, 0.5, 0.5, 0.6, 0.1)
    table = learn(tiny_lto("studies.learn.validate_every=1", "studies.learn.patience=2"), tmp_path / "p")
    assert list(curve(table, "area").index) == [1, 2, 3, 4]
    assert_same(load(tmp_path / "p")[0].state_dict(), seen[1])


def test_a_rule_that_always_diverges_is_kept_all_the_same(
    scripted: Callable[..., list[dict[str, Tensor]]], tiny_lto: Tiny, tmp_path: Path
) -> None:
    seen = scripted(math.inf, math.inf, math.inf)
    learn(tiny_lto(), tmp_path / "p")
    assert_same(load(tmp_path / "p")[0].state_dict(), seen[0])


def test_a_rule_that_meets_values_that_are_not_finite_has_an_infinite_area(
    tiny_lto: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Perceptrons, "objective", lambda self, x: torch.full((len(self),), math.nan))
    table = learn(tiny_lto(), tmp_path / "p")
    assert (curve(table, "area") == math.inf).all()


def test_the_weights_reach_the_area_that_the_rows_tell(learned: tuple[pd.DataFrame, Path], tiny_lto: Tiny) -> None:
    table, path = learned
    study = study_of(tiny_lto())
    images = data.load(study, "digits", 7, "cpu")
    seeds = [derive_seed(7, "meta-validation", i) for i in range(3)]
    problems = data.objectives(images.validation, images.classes, study.objective, 32, seeds)
    steps = list(range(9))
    objectives = rollouts.roll_out(load(path)[0], problems, steps)
    area, final = rollouts.area(objectives, steps).mean().item(), objectives[-1].mean().item()
    best = load(path)[1]["iterations"]
    assert curve(table, "area").min() == pytest.approx(area, rel=1e-3)
    assert curve(table, "final")[best] == pytest.approx(final, rel=1e-3)


def test_a_row_may_begin_with_the_weights_of_another(
    learned: tuple[pd.DataFrame, Path], tiny_lto: Tiny, tmp_path: Path, scripted: Callable[..., list[dict[str, Tensor]]]
) -> None:
    _, path = learned
    tiny = tiny_lto("studies.learn.validate_every=1", "studies.learn.unrolled.learning_rate=1e-12")
    seen = scripted(*[1.0] * ITERATIONS)
    learn(tiny, tmp_path / "p", "longer", weights=path)
    torch.testing.assert_close(seen[-1], dict(load(path)[0].state_dict()), rtol=0, atol=1e-6)
    assert load(tmp_path / "p")[1]["started_from"] == "unrolled"


SETTINGS = (
    "studies.learn.validation={small: {inputs: 4, hidden: 4, batch_size: 2, steps: 8}, "
    "noisy: {inputs: 6, hidden: 8, batch_size: 4, steps: 6, label_noise: 0.5}}"
)


def test_the_score_is_the_worst_of_all_settings_relative_to_adagrad_at_its_best_rate(
    tiny_lto: Tiny, tmp_path: Path
) -> None:
    settings = tiny_lto(SETTINGS, "studies.learn.reference_rates=[0.01, 0.1]")
    table, study = learn(settings, tmp_path / "p"), study_of(settings)
    each = {name: curve(table, f"score-{name}") for name in ("small", "noisy")}
    score = curve(table, "score")
    pd.testing.assert_series_equal(score, pd.DataFrame(each).max(axis=1), check_names=False)
    rule, card = load(tmp_path / "p")
    assert score[card["iterations"]] == score.min()
    assert card["validation"]["score"] == pytest.approx(score.min(), rel=1e-3)
    assert set(card["validation_settings"]) == {"small", "noisy"}
    assert card["validation_curve"] == [[step, pytest.approx(value, rel=1e-3)] for step, value in score.items()]

    images = data.load(study, "digits", 7, "cpu")
    seeds = [derive_seed(7, "meta-validation", i) for i in range(3)]
    noisy = study.validation["noisy"]
    problems = data.objectives(images.validation, images.classes, noisy, 32, seeds)
    problems, steps = data.with_label_noise(problems, [0.5] * 3), list(range(7))

    def total(mine: Any) -> float:
        objectives = rollouts.roll_out(mine, problems, steps)
        return float(rollouts.area(objectives, steps).mean() + objectives[-1].mean())

    best = min(total(AdaGrad(0.01)), total(AdaGrad(0.1)))
    assert each["noisy"][card["iterations"]] == pytest.approx(total(rule) / best, rel=1e-3)


def test_averaged_weights_are_kept_where_they_are_better(
    scripted: Callable[..., list[dict[str, Tensor]]], tiny_lto: Tiny, tmp_path: Path
) -> None:
    seen = scripted(0.9, 0.8, 0.7, 0.5, 0.6, 0.9, 0.8, 0.9, 0.9, 0.9)  # the current weights, then the averaged ones
    learn(tiny_lto("studies.learn.validate_every=1", "studies.learn.averaging=0.99"), tmp_path / "p")
    assert_same(load(tmp_path / "p")[0].state_dict(), seen[3])
    for name, mean in seen[3].items():  # a plain mean in the beginning
        torch.testing.assert_close(mean, (seen[0][name] + seen[2][name]) / 2)


def test_the_best_weights_so_far_lie_beside_those_of_the_end(tiny_lto: Tiny, tmp_path: Path) -> None:
    learn(tiny_lto(), tmp_path / "p.safetensors")
    last, so_far = (load(tmp_path / f"p{name}.safetensors") for name in ("", "-so-far"))
    assert_same(last[0].state_dict(), so_far[0].state_dict())
    assert last[1]["iterations"] == so_far[1]["iterations"]


# The objectives


def test_each_iteration_has_new_objectives_and_all_rows_have_the_same(
    tiny_lto: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, list[tuple[int, ...]]] = {}
    original = data.objectives
    for row in ("unrolled", "longer"):
        seeds = made.setdefault(row, [])

        def watch(*arguments: Any, seeds: list[tuple[int, ...]] = seeds) -> Perceptrons:
            seeds.append(tuple(arguments[-1]))
            return original(*arguments)

        monkeypatch.setattr(data, "objectives", watch)
        learn(tiny_lto(), tmp_path / row, row)
    validation, *iterations = made["unrolled"]
    assert len(validation) == 3
    assert [len(seeds) for seeds in iterations] == [2] * ITERATIONS
    each = [seed for seeds in made["unrolled"] for seed in seeds]
    assert len(set(each)) == len(each)
    assert made["unrolled"] == made["longer"]


# The card and the rows


def test_the_card_says_what_was_done(learned: tuple[pd.DataFrame, Path], tiny_lto: Tiny) -> None:
    table, path = learned
    rule, card = load(path)
    batch = batch_of(tiny_lto(), "unrolled")
    area = curve(table, "area")
    assert rule.settings == L2LSettings(cells=3)
    assert area[card["iterations"]] == area.min()
    assert (card["seed"], card["config_hash"]) == (batch.runs[0].seed, batch.settings)
    assert card["validation"]["area"] == pytest.approx(area.min(), rel=1e-3)
    assert card["objective"] == study_of(tiny_lto()).objective.model_dump(mode="json")
    assert card["unrolled"] == study_of(tiny_lto()).unrolled.model_dump()
    assert "mirror" not in card
    assert card["trained_on"].startswith("scikit-learn digits")


def test_rows_come_when_due_and_at_the_end_with_means_of_what_was_reported(
    learned: tuple[pd.DataFrame, Path], tmp_path: Path, tiny_lto: Tiny
) -> None:
    table, _ = learned
    [run] = batch_of(tiny_lto(), "unrolled").runs
    assert set(table.metric) == {"area", "final", "loss", "learning_rate"}
    assert set(table.workload) == {"meta-validation"}
    assert (set(table.run), set(table.role), set(table.seed)) == ({run.id}, {"tune"}, {0})
    assert table.learning_rate.isna().all()
    for _, part in table.groupby("metric"):
        assert list(part.step) == [2, 4, 5]
    each = curve(learn(tiny_lto("studies.learn.validate_every=1"), tmp_path / "p"), "loss")
    assert curve(table, "loss").tolist() == pytest.approx(
        [(each[1] + each[2]) / 2, (each[3] + each[4]) / 2, each[5]], rel=1e-3
    )
    tidy.write(table, tmp_path / "rows.parquet")


def test_a_row_may_be_validated_less_often_than_the_others(tiny_lto: Tiny, tmp_path: Path) -> None:
    table = learn(tiny_lto("studies.learn.learners.unrolled.validate_every=3"), tmp_path / "p")
    assert list(curve(table, "area").index) == [3, 5]


def test_an_iteration_need_not_report_what_others_do() -> None:
    assert train_step_rules._means([{"loss": 1.0}, {"loss": 3.0, "kl": 0.5}]) == {"loss": 2.0, "kl": 0.5}
