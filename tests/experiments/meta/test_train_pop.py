"""A meta-training study: resumable bit for bit, its best weights kept, and its card and rows true."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from optrepro import runtable
from optrepro.config import Config
from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Checkpoint, Interrupted
from optrepro.experiments.base.context import Context, no_progress
from optrepro.experiments.descent import benchmark, fixed_sets
from optrepro.experiments.meta import train_pop
from optrepro.metalearning.pop import environment
from optrepro.metalearning.pop.settings import PPOSettings
from optrepro.optimizers._pop_policy import Policy, load
from optrepro.problems.functions.settings import PriorSettings
from optrepro.seeds import derive_seed
from optrepro.studies.base import Batch
from optrepro.studies.policy import NetworkConfig, PolicyStudy

SEED, ITERATIONS, HORIZON = 7, 5, 6
STUDY = PolicyStudy(
    prior=PriorSettings(
        shares={"convex": 0.5, "sum": 0.5},
        features=4,
        length_scale=(0.2, 1.0),
        anisotropy=3.0,
        condition=100.0,
        amplitude=(0.05, 0.5),
        warp=1.0,
    ),
    network=NetworkConfig(width=8, layers=1, heads=2, history=4, horizon=HORIZON),
    ppo=PPOSettings(
        functions={2: 8},
        iterations=ITERATIONS,
        epochs=2,
        minibatches=2,
        learning_rate=0.003,
        max_grad_norm=0.5,
        discount=1.0,
        gae_lambda=0.95,
        clip_ratio=0.2,
        kl_limit=0.05,
        entropy=0.0,
        value_loss=0.5,
        improvement=1.0,
        log_regret=0.1,
        floor=1e-6,
    ),
    validation_functions=12,
    test_functions=10,
    validate_every=2,
    patience=10,
    functions=("sphere", "hartmann6", "branin"),
    starts=3,
    policies={
        "standard": {"label": "standard"},
        "recurrent": {"label": "recurrent", "network": {"backbone": "gru"}},
        "mixed": {"label": "mixed", "ppo": {"functions": {2: 4, 3: 4}, "log_regret": 0.0}, "prior": {"warp": 0.0}},
    },
)


def batch_of(study: PolicyStudy, row: str = "standard") -> Batch:
    config = Config(scale="tiny", seed=SEED, device="cpu", studies={"training": study})
    return next(batch for batch in runtable.batches(config, "training") if batch.name == row)


def changed(**changes: Any) -> PolicyStudy:
    return PolicyStudy.model_validate({**STUDY.model_dump(), **changes})


def train(
    path: Path,
    study: PolicyStudy = STUDY,
    row: str = "standard",
    state: Checkpoint | None = None,
    progress: Callable[[int, int, str], None] = no_progress,
) -> pd.DataFrame:
    """Rows of a training whose weights are written to `path`."""
    context = Context(SEED, torch.device("cpu"), state or Checkpoint(None), policy=path, progress=progress)
    return train_pop.run(study, batch_of(study, row), context)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Rows and weights of a training of two repetitions."""
    path = tmp_path_factory.mktemp("trained") / "policy.safetensors"
    return train(path, changed(repetitions=2)), path


def rows_of(table: pd.DataFrame, workload: str, metric: str, seed: int = 0) -> pd.Series:
    """Values by step."""
    rows = table[(table.workload == workload) & (table.metric == metric) & (table.seed == seed)]
    return rows.set_index("step").value


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(a), dict(b), rtol=0, atol=0)


def assert_same_file(a: Path, b: Path) -> None:
    """Weights, settings and cards are equal."""
    (policy_a, card_a), (policy_b, card_b) = load(a), load(b)
    assert min(float(str(card.pop("cpu_hours"))) for card in (card_a, card_b)) >= 0  # what took longer is no difference
    assert_same(policy_a.state_dict(), policy_b.state_dict())
    assert (policy_a.settings, card_a) == (policy_b.settings, card_b)


# Resuming


@pytest.mark.parametrize("row", ["standard", "recurrent", "mixed"])
def test_a_killed_and_resumed_training_equals_an_uninterrupted_one_bit_for_bit(row: str, tmp_path: Path) -> None:
    study = changed(repetitions=2)
    expected = train(tmp_path / "expected.safetensors", study, row)
    # before, at and after a validation; at the last iteration of a repetition; and in the one that follows
    stops, done = {1, 2, 3, ITERATIONS, ITERATIONS + 2, 2 * ITERATIONS}, []

    def progress(iteration: int, total: int, what: str) -> None:
        done.append((iteration, total))
        if len(done) in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    for attempt in range(len(stops)):
        torch.manual_seed(attempt)  # a new process starts with other generators
        with pytest.raises(Interrupted):
            train(tmp_path / "resumed.safetensors", study, row, Checkpoint(tmp_path / "state.pt"), progress)
    resumed = train(tmp_path / "resumed.safetensors", study, row, Checkpoint(tmp_path / "state.pt"), progress)
    assert done == 2 * [(i + 1, ITERATIONS) for i in range(ITERATIONS)]  # no iteration was done twice
    pd.testing.assert_frame_equal(resumed, expected, check_exact=True)
    assert_same_file(tmp_path / "resumed.safetensors", tmp_path / "expected.safetensors")


def test_a_training_that_was_shot_goes_on_from_its_last_save(tmp_path: Path) -> None:
    expected = train(tmp_path / "expected.safetensors")
    done = []

    def shoot(iteration: int, total: int, what: str) -> None:
        done.append(iteration)
        if len(done) == 4:
            raise KeyboardInterrupt

    def attempt() -> pd.DataFrame:
        return train(tmp_path / "resumed.safetensors", state=Checkpoint(tmp_path / "state.pt", 0), progress=shoot)

    with pytest.raises(KeyboardInterrupt):
        attempt()
    pd.testing.assert_frame_equal(attempt(), expected, check_exact=True)
    assert_same_file(tmp_path / "resumed.safetensors", tmp_path / "expected.safetensors")
    assert done == [1, 2, 3, 4, 4, 5]  # the iteration that was lost is done again, and no other


def test_every_time_slice_gets_somewhere_however_short(tmp_path: Path) -> None:
    done: list[int] = []
    for _ in range(3):
        keeper = Checkpoint(tmp_path / "state.pt", time_slice=0)
        with pytest.raises(Interrupted):
            train(tmp_path / "p", state=keeper, progress=lambda iteration, total, what: done.append(iteration))
    assert done == [1, 2, 3]


def test_the_state_stays_until_the_results_are_written_by_whoever_called(tmp_path: Path) -> None:
    train(tmp_path / "p", state=Checkpoint(tmp_path / "state.pt", every=0))
    assert (tmp_path / "state.pt").exists()


# The weights


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Tensor]]]:
    """A function that makes the improvements on the fixed sets up; the weights that each was asked for."""

    def script(*improvements: float) -> list[dict[str, Tensor]]:
        seen: list[dict[str, Tensor]] = []

        def measured(self: Any, asked: Policy, problems: object) -> tuple[float, float]:
            seen.append({name: value.clone() for name, value in asked.state_dict().items()})
            return improvements[len(seen) - 1], 0.0

        monkeypatch.setattr(train_pop._Training, "_on", measured)
        return seen

    return script


def test_the_weights_kept_and_tested_are_those_of_the_first_best_validation(
    scripted: Callable[..., list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    seen = scripted(0.1, 0.5, 0.2, 0.5, 0.4, 0.33)
    table = train(tmp_path / "p", changed(validate_every=1))
    assert len(seen) == ITERATIONS + 1
    kept, card = load(tmp_path / "p")
    assert_same(kept.state_dict(), seen[1])
    assert_same(seen[-1], seen[1])
    assert not torch.equal(seen[1]["embed.weight"], seen[2]["embed.weight"])
    assert card["functions_seen"] == 2 * 8
    assert rows_of(table, "prior-test", "improvement").tolist() == pytest.approx([0.33], rel=1e-3)


def test_of_averaged_and_present_weights_the_better_are_kept(
    scripted: Callable[..., list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    averaging = {"ppo": {**STUDY.ppo.model_dump(), "averaging": 0.9}, "validate_every": 1}
    seen = scripted(0.1, 0.2, 0.3, 0.5, 0.45, 0.4, 0.2, 0.1, 0.3, 0.2, 0.33)
    table = train(tmp_path / "p", changed(**averaging))
    scores = rows_of(table, "prior-validation", "score").tolist()
    assert scores == pytest.approx([0.2, 0.5, 0.45, 0.2, 0.3], rel=1e-3)
    assert_same(load(tmp_path / "p")[0].state_dict(), seen[3])
    assert not torch.equal(seen[2]["embed.weight"], seen[3]["embed.weight"])


def test_a_row_with_a_later_seed_is_the_later_repetition_of_one_without(tmp_path: Path) -> None:
    both = train(tmp_path / "both", changed(repetitions=2))
    study = changed(policies={"standard": {"label": "standard", "seed": 1}})
    assert batch_of(study).settings != batch_of(STUDY).settings
    table = train(tmp_path / "p", study)
    for metric in ("score", "return"):
        expected = rows_of(both, "prior-validation", metric, seed=1)
        pd.testing.assert_series_equal(rows_of(table, "prior-validation", metric), expected)


def test_training_stops_after_so_many_validations_without_a_better_score(
    scripted: Callable[..., list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    seen = scripted(0.1, 0.5, 0.5, 0.4, 0.9)
    table = train(tmp_path / "p", changed(validate_every=1, patience=2))
    assert list(rows_of(table, "prior-validation", "score").index) == [8, 16, 24, 32]
    assert_same(load(tmp_path / "p")[0].state_dict(), seen[1])


def test_a_better_score_ends_the_wait(scripted: Callable[..., list[dict[str, Tensor]]], tmp_path: Path) -> None:
    scripted(0.5, 0.4, 0.6, 0.4, 0.7, 0.0)
    table = train(tmp_path / "p", changed(validate_every=1, patience=2))
    assert len(rows_of(table, "prior-validation", "score")) == ITERATIONS


def test_the_weights_reach_the_score_that_the_rows_tell(trained: tuple[pd.DataFrame, Path]) -> None:
    table, path = trained
    kept, _ = load(path)
    fixed = fixed_sets.fixed(STUDY.prior, SEED, "validation", 12, 2)
    values = environment.roll_out(kept, environment.of(fixed.functions), fixed.start, HORIZON).values
    improvement, digits = fixed_sets.progress((values.cummin(0).values - fixed.extrema.minimum).numpy())
    best = rows_of(table, "prior-validation", "score").idxmax()
    for metric, expected in (
        ("improvement", improvement.mean()),
        ("digits", digits.mean()),
        ("score", improvement.mean() + 0.1 * digits.mean()),
    ):
        assert rows_of(table, "prior-validation", metric)[best] == pytest.approx(expected, rel=1e-3)


def test_a_policy_with_another_reward_is_scored_by_the_standard_one(tmp_path: Path) -> None:
    study = changed(policies={"other": {"label": "other", "ppo": {"log_regret": 0.0}}})
    table = train(tmp_path / "p", study, "other")
    score, improvement, digits = (
        rows_of(table, "prior-validation", metric) for metric in ("score", "improvement", "digits")
    )
    assert (digits > 0.01).all()
    pd.testing.assert_series_equal(score, improvement + 0.1 * digits, rtol=1e-3)


# The card


def test_the_card_says_what_was_done(trained: tuple[pd.DataFrame, Path]) -> None:
    table, path = trained
    _, card = load(path)
    score = rows_of(table, "prior-validation", "score")
    batch = batch_of(STUDY)
    assert card["functions_seen"] == score.idxmax()
    assert (card["iterations"], card["device"]) == (ITERATIONS, "cpu")
    assert (card["seed"], card["config_hash"]) == (batch.runs[0].seed, batch.settings)
    assert card["prior"] == STUDY.prior.model_dump(mode="json")
    assert card["ppo"] == STUDY.ppo.model_dump(mode="json")
    for name, workload, step in (("validation", "prior-validation", score.idxmax()), ("test", "prior-test", HORIZON)):
        said = card[name]
        assert isinstance(said, dict)
        told = {metric: rows_of(table, workload, metric)[step] for metric in said}
        assert said == pytest.approx(told, rel=2e-3)


def test_the_card_of_a_policy_says_what_it_has_that_others_have_not(tmp_path: Path) -> None:
    train(tmp_path / "p", row="mixed")
    made, card = load(tmp_path / "p")
    prior, network, ppo = STUDY.entry("mixed")
    assert prior != STUDY.prior
    assert ppo != STUDY.ppo
    assert (card["prior"], card["ppo"]) == (prior.model_dump(mode="json"), ppo.model_dump(mode="json"))
    assert vars(made.settings) == network.model_dump()


def test_a_later_stage_says_what_it_went_on_from_and_draws_a_stream_of_its_own(tmp_path: Path) -> None:
    study = changed(policies={"first": {"label": "first"}, "second": {"label": "second", "start": "first"}})
    train(tmp_path / "first", study, "first")
    context = Context(
        SEED, torch.device("cpu"), Checkpoint(None), policy=tmp_path / "second", weights=tmp_path / "first"
    )
    train_pop.run(study, batch_of(study, "second"), context)
    (_, first), (_, second) = load(tmp_path / "first"), load(tmp_path / "second")
    assert second["functions_seen_before"] == first["functions_seen"]
    assert first["functions_seen_before"] == 0
    assert (first["stream"], second["stream"]) == (
        {"seed": first["seed"], "stage": 0},
        {"seed": first["seed"], "stage": 1},
    )


def test_the_best_weights_so_far_lie_beside_those_of_the_end(tmp_path: Path) -> None:
    def stop(iteration: int, total: int, what: str) -> None:
        if iteration == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "p.safetensors", progress=stop)
    _, card = load(tmp_path / "p-so-far.safetensors")
    assert card["functions_seen"] == 2 * 8
    assert card["validation_curve"] == [[16, pytest.approx(card["validation"]["score"])]]  # type: ignore[index]
    assert "test" not in card


def test_a_mixed_training_is_watched_in_all_its_dimensions(tmp_path: Path) -> None:
    table = train(tmp_path / "p", row="mixed")
    kept, _ = load(tmp_path / "p")
    scores = []
    for dim, count in ((2, 12), (3, 8)):
        fixed = fixed_sets.fixed(STUDY.prior, SEED, "validation", count, dim)
        values = environment.roll_out(kept, environment.of(fixed.functions), fixed.start, HORIZON).values
        improvement, digits = fixed_sets.progress((values.cummin(0).values - fixed.extrema.minimum).numpy())
        scores.append(improvement.mean() + 0.1 * digits.mean())
    assert rows_of(table, "prior-validation", "score").max() == pytest.approx(sum(scores) / 2, rel=1e-3)


# The rows


def test_validation_rows_count_the_functions_seen_and_come_when_due_and_at_the_end(
    trained: tuple[pd.DataFrame, Path],
) -> None:
    table, _ = trained
    rows = table[table.workload == "prior-validation"]
    reported = {"return", "policy_loss", "value_loss", "entropy", "kl", "clip_share", "explained_variance"}
    assert set(rows.metric) == {"improvement", "digits", "score", "learning_rate", *reported}
    assert set(rows.role) == {"tune"}
    for _, part in rows.groupby(["metric", "seed"]):
        assert list(part.step) == [16, 32, 40]
    # The means of two iterations each, and the last one: the rate rises for ten, and must be gone after five.
    expected = [(0.0003 + 0.0006) / 2, (0.0009 + 0.0012) / 2, 0.0006]
    assert rows_of(table, "prior-validation", "learning_rate").tolist() == pytest.approx(expected, rel=1e-3)


def test_test_rows_come_once_from_the_prior_and_from_every_start_of_the_benchmark(
    trained: tuple[pd.DataFrame, Path],
) -> None:
    table, _ = trained
    tests = table[table.role == "test"]
    assert set(tests.workload) == {"prior-test", "vlse/sphere", "vlse/hartmann6", "vlse/branin"}
    prior = tests[tests.workload == "prior-test"]
    assert sorted(zip(prior.metric, prior.seed, prior.step, strict=True)) == [
        (metric, seed, HORIZON) for metric in ("digits", "improvement") for seed in (0, 1)
    ]
    for _, part in tests[tests.workload != "prior-test"].groupby(["run", "workload"]):
        assert set(part.metric) == {"regret"}
        assert sorted(zip(part.seed, part.step, strict=True)) == [(s, t) for s in range(3) for t in (1, HORIZON)]


@pytest.mark.parametrize("name", STUDY.functions)
def test_regrets_on_the_benchmark_begin_at_the_start_and_end_where_the_policy_got(
    name: str, trained: tuple[pd.DataFrame, Path]
) -> None:
    table, path = trained
    table = table[table.run.isin([run.id for run in batch_of(STUDY).runs])]
    f = benchmark.get(name, 2)
    start = benchmark.starts_of(f, 3, derive_seed(SEED, "vlse", name, "ablation"))
    values = environment.roll_out(load(path)[0], benchmark.Boxes([f], [start]).evaluate, start, HORIZON).values
    for seed in range(3):
        regret = rows_of(table, f"vlse/{name}", "regret", seed)
        assert regret[1] == pytest.approx(f(torch.lerp(f.lower, f.upper, start[seed])).item() - f.optimum, rel=1e-3)
        assert regret[HORIZON] == pytest.approx(values[:, seed].min().item() - f.optimum, rel=2e-3, abs=1e-6)


def test_rows_belong_to_the_run_table_and_are_tidy(trained: tuple[pd.DataFrame, Path], tmp_path: Path) -> None:
    table, _ = trained
    runs = {run.id: run for run in batch_of(changed(repetitions=2)).runs}
    assert set(table.run) == set(runs)
    for run_id, part in table.groupby("run"):
        run = runs[str(run_id)]
        assert (set(part.workload), set(part.role), set(part.optimizer)) == ({run.workload}, {run.role}, {"standard"})
        if not run.workload.startswith("vlse/"):
            assert set(part.seed) == {run.repetition}
    assert table.learning_rate.isna().all()
    assert table.value.notna().all()
    tidy.write(table, tmp_path / "rows.parquet")


def test_repetitions_differ_and_a_second_one_changes_nothing_of_the_first(
    trained: tuple[pd.DataFrame, Path], tmp_path: Path
) -> None:
    table, path = trained
    alone = train(tmp_path / "p")
    assert_same_file(tmp_path / "p", path)
    first = table[table.run.isin(alone.run)].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, alone, check_exact=True)
    assert len(table) == 2 * len(alone)
    scores = [rows_of(table, "prior-validation", "score", seed) for seed in (0, 1)]
    assert not (scores[0] == scores[1]).any()


def test_policies_of_equal_seeds_are_watched_on_the_same_functions(tmp_path: Path) -> None:
    seeds = {run.seed for row in STUDY.policies for run in batch_of(STUDY, row).runs}
    assert len(seeds) == 1
    starts = [rows_of(train(tmp_path / row, row=row), "vlse/sphere", "regret")[1] for row in ("standard", "recurrent")]
    assert starts[0] == starts[1]
