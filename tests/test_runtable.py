import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from optrepro import config, runtable
from optrepro.config import Config
from optrepro.studies.base import data_of, dataset_of
from tests.studies.runs import NADAM, ids, names_of, needs_of, rows

Tiny = Callable[..., Config]


def test_every_run_has_an_id_of_its_own(tiny: Tiny) -> None:
    runs = runtable.table(tiny())
    assert len(runs) == 3 * (2 * 2 + 3) + 2 * (2 + 1)
    assert len({run.id for run in runs}) == len(runs)


def test_an_id_is_ten_hexadecimal_digits(tiny: Tiny) -> None:
    assert all(len(run.id) == 10 and int(run.id, 16) >= 0 for run in runtable.table(tiny()))


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_ids_and_seeds_are_the_same_in_every_process(hash_seed: str, tiny: Tiny, tiny_file: Path) -> None:
    code = (
        "import sys; from optrepro import config, runtable\n"
        "for run in runtable.table(config.load(sys.argv[1])): print(run.id, run.seed)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", code, str(tiny_file)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [f"{run.id} {run.seed}" for run in runtable.table(tiny())]


def test_ids_do_not_depend_on_the_order_of_the_config_keys(tiny: Tiny, tiny_file: Path) -> None:
    def backwards(tree: object) -> object:
        return {k: backwards(v) for k, v in reversed(tree.items())} if isinstance(tree, dict) else tree

    before = {run.id for run in runtable.table(tiny())}
    tiny_file.write_text(yaml.safe_dump(backwards(yaml.safe_load(tiny_file.read_text())), sort_keys=False))
    assert {run.id for run in runtable.table(config.load(tiny_file))} == before


@pytest.mark.parametrize(
    "override",
    [
        "scale=other",
        "device=auto",
        "strict=true",
        NADAM,
        "studies.boxes=null",
        "studies.images.optimizers.gap.settings.score=paper",
        "studies.images.optimizers.gap=null",
        "studies.images.optimizers.sgd.label=heavy ball",
        "studies.images.optimizers.sgd.group=peer",
        "studies.images.dataset=[fashion-mnist, digits]",
        "studies.images.learning_rates=[0.1, 0.01]",
        "studies.images.settings.momentum=0.5",
        "studies.images.test_repetitions=9",
        "studies.images.runs_per_job=1",
        "studies.images.runs_per_job=study",
        "studies.images.gpu=true",
    ],
)
def test_a_run_keeps_its_id_under_a_change_that_does_not_concern_it(
    override: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)  # no fashion-mnist is at hand here
    overrides = ["studies.images.optimizers.random=null", override]
    before = ids(tiny(overrides[0]), "sgd")
    assert before
    assert set(before) <= set(ids(tiny(*overrides), "sgd"))


@pytest.mark.parametrize(
    "override",
    [
        "seed=8",
        "studies.images.batch_size=32",
        "studies.images.steps=4",
        "studies.images.network=perceptron",
        "studies.images.network_settings={hidden: 4}",
        "studies.images.schedule=constant",
        "studies.images.augment=true",
        "studies.images.precision=bfloat16",
        "studies.images.train_examples=48",
        "studies.images.validation_examples=16",
        "studies.images.evaluations=2",
        "studies.images.settings.dampening=0.5",
        "studies.images.learning_rates=[0.01, 0.2]",
        "studies.images.tuning_repetitions=3",
        "studies.images.optimizers.sgd.class=torch.optim.RMSprop",
        "studies.images.optimizers.sgd.settings.momentum=0.8",
        "studies.images.optimizers.sgd.schedule=constant",
        "studies.images.optimizers.sgd.learning_rates=[0.01, 0.2]",
    ],
)
def test_a_run_gets_a_new_id_under_a_change_of_what_determines_it(override: str, tiny: Tiny) -> None:
    assert set(ids(tiny(), "sgd")).isdisjoint(ids(tiny(override), "sgd"))


@pytest.mark.parametrize(
    "override", ["studies.images.optimizers.gap.settings.score=paper", "studies.images.test_repetitions=4"]
)
def test_a_run_that_repeats_shares_gets_a_new_id_when_those_change(override: str, tiny: Tiny) -> None:
    assert set(ids(tiny(), "random")).isdisjoint(ids(tiny(override), "random"))


@pytest.mark.parametrize("override", ["studies.boxes.budget=13", "studies.boxes.starts=4", "studies.boxes.dimension=3"])
def test_a_run_on_functions_gets_a_new_id_under_a_change_of_what_determines_it(override: str, tiny: Tiny) -> None:
    assert set(ids(tiny(), "sgd", "boxes")).isdisjoint(ids(tiny(override), "sgd", "boxes"))


@pytest.mark.parametrize("study", ["images", "boxes"])
def test_optimizers_share_the_seeds_of_a_workload(study: str, tiny: Tiny) -> None:
    settings = tiny(NADAM, NADAM.replace("images", "boxes"))
    seeds = {
        optimizer: [(run.workload, run.role, run.repetition, run.seed) for run in rows(settings, optimizer=optimizer)]
        for optimizer in ("sgd", "nadam")
    }
    assert seeds["sgd"] == seeds["nadam"]


def test_learning_rates_are_tried_on_the_same_seeds(tiny: Tiny) -> None:
    runs = rows(tiny(), study="images", optimizer="sgd", role="tune")
    assert [run.learning_rate for run in runs] == [0.01, 0.01, 0.1, 0.1]
    assert [run.seed for run in runs[:2]] == [run.seed for run in runs[2:]]


@pytest.mark.parametrize("study", ["images", "boxes"])
def test_no_test_run_has_a_seed_that_tuning_has_seen(study: str, tiny: Tiny) -> None:
    settings = tiny("studies.images.tuning_repetitions=20", "studies.images.test_repetitions=20")
    tune, test = ({run.seed for run in rows(settings, study=study, role=role)} for role in ("tune", "test"))
    assert tune.isdisjoint(test)


def test_repetitions_and_workloads_have_seeds_of_their_own(tiny: Tiny) -> None:
    runs = rows(tiny("studies.images.test_repetitions=20"), optimizer="sgd", role="test")
    assert len({run.seed for run in runs}) == 20 + 2


def test_only_test_runs_leave_their_rate_to_the_tuning(tiny: Tiny) -> None:
    assert all((run.learning_rate is None) == (run.role == "test") for run in runtable.table(tiny()))


@pytest.mark.parametrize("size", ["optimizer", "study", 1, 3])
@pytest.mark.parametrize("study", ["images", "boxes", "surfaces"])
def test_batches_carry_out_every_run_once(size: object, study: str, tiny: Tiny) -> None:
    settings = tiny(f"studies.images.runs_per_job={size}")
    batched = [run for batch in runtable.batches(settings, study) for run in batch.runs]
    assert sorted(run.id for run in batched) == sorted(run.id for run in rows(settings, study=study))


@pytest.mark.parametrize("size", ["optimizer", "study", 1, 3])
@pytest.mark.parametrize("study", ["images", "boxes", "surfaces"])
def test_every_batch_comes_after_those_it_needs(size: object, study: str, tiny: Tiny) -> None:
    batches = runtable.batches(tiny(f"studies.images.runs_per_job={size}"), study)
    names = [batch.name for batch in batches]
    assert len(set(names)) == len(names)
    for i, batch in enumerate(batches):
        assert set(batch.needs) <= set(names[:i])


@pytest.mark.parametrize("size", [1, 3])
def test_a_job_has_at_most_the_runs_that_the_config_allows_and_one_role(size: int, tiny: Tiny) -> None:
    for batch in runtable.batches(tiny(f"studies.images.runs_per_job={size}"), "images"):
        assert 1 <= len(batch.runs) <= size
        assert len({run.role for run in batch.runs}) == 1


@pytest.mark.parametrize("size", [1, 3])
def test_a_test_batch_needs_all_tuning_batches_of_its_optimizer(size: int, tiny: Tiny) -> None:
    batches = runtable.batches(tiny(f"studies.images.runs_per_job={size}"), "images")
    assert needs_of(batches, "sgd", "tune") == set()
    assert needs_of(batches, "sgd", "test") == names_of(batches, "sgd", "tune")


@pytest.mark.parametrize("size", [1, 3])
def test_a_row_that_repeats_shares_needs_the_givers_test_batches(size: int, tiny: Tiny) -> None:
    batches = runtable.batches(tiny(f"studies.images.runs_per_job={size}"), "images")
    given = names_of(batches, "gap", "test")
    assert needs_of(batches, "random", "tune") == given
    assert needs_of(batches, "random", "test") == given | names_of(batches, "random", "tune")


def test_a_study_may_be_one_job_that_holds_the_giver_of_shares_before_those_who_repeat_them(tiny: Tiny) -> None:
    [batch] = runtable.batches(tiny("studies.images.runs_per_job=study"), "images")
    assert (batch.name, batch.optimizer, batch.needs) == ("all", None, ())
    order = list(dict.fromkeys(run.optimizer for run in batch.runs))
    assert order.index("gap") < order.index("random")


@pytest.mark.parametrize("name", ["sgd", "gap", "random"])
def test_a_job_of_a_whole_study_changes_with_each_of_its_optimizers(name: str, tiny: Tiny) -> None:
    overrides = ["studies.images.runs_per_job=study", f"studies.images.optimizers.{name}.settings.weight_decay=0.1"]
    [before], [after] = (runtable.batches(tiny(*overrides[:n]), "images") for n in (1, 2))
    assert before.settings != after.settings


def test_by_default_an_optimizer_is_one_job_that_needs_only_the_giver_of_its_shares(tiny: Tiny) -> None:
    batches = runtable.batches(tiny(), "images")
    assert {batch.name: batch.needs for batch in batches} == {"sgd": (), "gap": (), "random": ("gap",)}


def test_a_study_without_rows_is_one_job(tiny: Tiny) -> None:
    [batch] = runtable.batches(tiny(), "surfaces")
    assert (batch.name, batch.optimizer, batch.runs, batch.needs) == ("all", None, (), ())
    [other] = runtable.batches(tiny("studies.surfaces.resolution=9"), "surfaces")
    assert batch.settings != other.settings


def test_the_first_data_set_at_hand_is_taken(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = tiny("studies.images.dataset=[mnist, digits]")
    assert dataset_of(settings.studies["images"], settings) == "digits"
    settings = tiny("studies.images.dataset=[mnist, digits]", "download=true")
    assert dataset_of(settings.studies["images"], settings) == "mnist"


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("gap", ["optrepro.experiments.training.classification", "optrepro.optimizers.gap"]),
        ("sgd", ["optrepro.experiments.training.classification"]),
        (
            "all",
            ["optrepro.experiments.training.classification", "optrepro.optimizers.controls", "optrepro.optimizers.gap"],
        ),
    ],
)
def test_the_source_of_a_batch_is_its_experiment_and_its_optimizer_or_those_of_the_study(
    name: str, modules: list[str], tiny: Tiny
) -> None:
    settings = tiny("studies.images.runs_per_job=study") if name == "all" else tiny()
    [batch] = [batch for batch in runtable.batches(settings, "images") if batch.name == name]
    assert runtable.source_modules(settings, batch) == modules


def test_studies_read_one_data_set_or_none(tiny: Tiny) -> None:
    settings = tiny()
    assert data_of(settings.studies["images"], settings) == ["digits"]
    assert data_of(settings.studies["boxes"], settings) == []
