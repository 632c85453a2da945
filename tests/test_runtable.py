import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from optrepro import config, runtable
from optrepro.config import Config
from optrepro.problems.data import archives
from optrepro.seeds import derive_seed, fingerprint
from optrepro.studies.base import Batch, Run, data_of, dataset_of, datasets_of

Tiny = Callable[..., Config]
NADAM = "studies.images.optimizers.nadam={label: NAdam, class: torch.optim.NAdam}"


def ids(settings: Config, optimizer: str, study: str = "images") -> list[str]:
    return [run.id for run in runtable.table(settings) if (run.study, run.optimizer) == (study, optimizer)]


def rows(settings: Config, **values: object) -> list[Run]:
    return [run for run in runtable.table(settings) if all(getattr(run, k) == v for k, v in values.items())]


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


def needs_of(batches: list[Batch], optimizer: str, role: str) -> set[str]:
    return {n for batch in batches if batch.optimizer == optimizer and batch.runs[0].role == role for n in batch.needs}


def names_of(batches: list[Batch], optimizer: str, role: str) -> set[str]:
    return {batch.name for batch in batches if batch.optimizer == optimizer and batch.runs[0].role == role}


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


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1, "b": [2, 3]}) != fingerprint({"a": 1, "b": [3, 2]})


def test_a_derived_seed_fits_every_generator_and_never_changes() -> None:
    assert all(0 <= derive_seed("x", i) < 2**63 for i in range(1000))
    assert derive_seed(7, "digits/softmax", 0, "test") == 5501847720613906956  # results of a seed stay


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


def test_the_source_of_a_diagnosis_is_that_of_the_rules_it_records(tiny_gap: Tiny) -> None:
    settings = tiny_gap("studies.language.optimizers.gap.class=optrepro.optimizers.controls.RandomAdamW")
    for batch in runtable.batches(settings, "diagnostics"):
        modules = runtable.source_modules(settings, batch)
        assert modules == [
            "optrepro.experiments.training.diagnostics",
            "optrepro.optimizers.controls",
            "optrepro.optimizers.gap",
        ]


# Pretraining, fine-tuning, shifts and diagnostics

NEVER: set[str] = set()
GAP_CHANGES = {  # override -> study -> its rows whose runs get new ids
    "studies.pretraining.backbones.gpt.steps=21": {
        "pretraining": {"gpt"},
        "language": {"adamw", "gap"},
        "diagnostics": {"gpt.adamw", "gpt.gap"},
    },
    "studies.pretraining.backbones.gpt.label=other": {},
    "studies.pretraining.gpu=true": {},
    "studies.language.lora.rank=3": {"language": {"adamw", "gap"}, "diagnostics": {"gpt.adamw", "gpt.gap"}},
    "studies.language.task.context=8": {"language": {"adamw", "gap"}, "diagnostics": {"gpt.adamw", "gpt.gap"}},
    "studies.language.task.corpus=[nothing-of-the-kind, python-source]": {},
    "studies.language.optimizers.gap.settings.score=raw": {"language": {"gap"}, "diagnostics": {"gpt.gap"}},
    "studies.language.test_repetitions=3": {},
    "studies.vision.task.classes=all": {"vision": {"adamw", "gap"}},
    "studies.shift.shift=inputs": {"shift": {"sgd", "gap"}, "diagnostics": {"softmax.sgd", "softmax.gap"}},
    "studies.diagnostics.lags=3": {"diagnostics": {"softmax.sgd", "softmax.gap", "gpt.adamw", "gpt.gap"}},
    "studies.diagnostics.workloads.gpt.learning_rate=0.1": {"diagnostics": {"gpt.adamw", "gpt.gap"}},
    "studies.diagnostics.workloads.gpt.rules=[]": {},
    "studies.diagnostics.repetitions=3": {},
}


@pytest.mark.parametrize(("override", "changed"), GAP_CHANGES.items(), ids=GAP_CHANGES)
def test_runs_get_new_ids_under_a_change_of_what_determines_them_and_no_other(
    override: str, changed: dict[str, set[str]], tiny_gap: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_hand = archives.at_hand
    monkeypatch.setattr(archives, "at_hand", lambda name, *rest: "nothing" not in name and at_hand(name))
    before, after = tiny_gap(), tiny_gap(override)
    for study in after.studies:
        old, new = ids_by_row(before, study), ids_by_row(after, study)
        for name, own in new.items():
            assert old[name] & own == (NEVER if name in changed.get(study, NEVER) else old[name]), (study, name)


def ids_by_row(settings: Config, study: str) -> dict[str, set[str]]:
    """Ids of the runs of each row of a study; rows of diagnostics have the workload before their name."""
    found: dict[str, set[str]] = {}
    for run in rows(settings, study=study):
        name = f"{run.workload}.{run.optimizer}" if study == "diagnostics" else run.optimizer
        found.setdefault(name, set()).add(run.id)
    return found


def test_fine_tuning_and_its_diagnostics_wait_for_the_weights_of_the_backbone(tiny_gap: Tiny) -> None:
    settings = tiny_gap()
    weights = {(b.study, b.name): b.weights for study in settings.studies for b in runtable.batches(settings, study)}
    needing = {name for name, giver in weights.items() if giver == ("pretraining", "gpt")}
    assert needing == {
        ("language", "adamw"),
        ("language", "gap"),
        ("diagnostics", "gpt"),
    }
    assert weights["shift", "sgd"] is None
    assert weights["diagnostics", "softmax"] is None


@pytest.mark.parametrize("size", ["1", "study"])
def test_jobs_of_every_size_take_the_weights(size: str, tiny_gap: Tiny) -> None:
    batches = runtable.batches(tiny_gap(f"studies.vision.runs_per_job={size}"), "vision")
    assert {batch.weights for batch in batches} == {("pretraining", "vit")}


def test_a_model_of_the_hub_needs_no_weights_and_names_the_workload(tiny_gap: Tiny) -> None:
    settings = tiny_gap(
        "studies.vision.backbone=null", "studies.vision.hub=owner/some-vit", f"studies.vision.revision={'0a' * 20}"
    )
    batches = runtable.batches(settings, "vision")
    assert {batch.weights for batch in batches} == {None}
    assert {run.workload for batch in batches for run in batch.runs} == {"digits/some-vit"}


def test_another_revision_of_a_model_of_the_hub_makes_other_runs(tiny_gap: Tiny) -> None:
    hub = ["studies.vision.backbone=null", "studies.vision.hub=owner/some-vit"]
    ids = [
        {run.id for run in rows(tiny_gap(*hub, f"studies.vision.revision={digit * 40}"), study="vision")}
        for digit in "ab"
    ]
    assert not ids[0] & ids[1]


def test_optimizers_of_a_fine_tuning_and_rows_of_a_diagnosis_share_their_seeds(tiny_gap: Tiny) -> None:
    settings = tiny_gap()
    for study, workload in (("language", None), ("diagnostics", "gpt")):
        runs = [r for r in rows(settings, study=study, role="test") if workload in (None, r.workload)]
        seeds = {(run.optimizer, run.repetition): run.seed for run in runs}
        assert seeds["adamw", 0] == seeds["gap", 0] != seeds["adamw", 1]
        assert study == "diagnostics" or seeds["adamw", 1] == seeds["gap", 1]


def test_a_study_reads_the_data_of_its_tasks_each_once(tiny_gap: Tiny) -> None:
    settings = tiny_gap("studies.diagnostics.workloads.vit={study: vision, follow: adamw, learning_rate: 0.1}")
    read = {name: data_of(study, settings) for name, study in settings.studies.items()}
    assert read == {
        "pretraining": ["python-docs", "digits"],
        "language": ["python-source"],
        "vision": ["digits"],
        "shift": ["digits"],
        "diagnostics": ["digits", "python-source"],
    }


# Meta-training and transfer

POLICIES = {
    "studies.meta.ppo.iterations=3": {"standard", "log"},
    "studies.meta.prior.warp=0.5": {"standard", "log"},
    "studies.meta.network.width=16": {"standard", "log"},
    "studies.meta.network.horizon=8": {"standard", "log"},
    "studies.meta.ppo.log_regret=0.3": {"standard", "log"},  # the validation score of every row weighs with it
    "studies.meta.validate_every=2": {"standard", "log"},
    "studies.meta.functions=[sphere, booth]": {"standard", "log"},
    "studies.meta.policies.log.ppo.log_regret=0.3": {"log"},
    "studies.meta.ppo.improvement=0.5": {"standard"},  # the other row has its own
    "studies.meta.policies.log.label=other": set(),
    "studies.meta.policies.log.group=other": set(),
    "studies.meta.policies.log=null": set(),
    "studies.meta.gpu=true": set(),
}


@pytest.mark.parametrize(("override", "changed"), POLICIES.items(), ids=POLICIES)
def test_a_policy_gets_new_ids_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[str], tiny_pop: Tiny
) -> None:
    before, after = tiny_pop(), tiny_pop(override)
    for batch in runtable.batches(after, "meta"):
        kept = set(ids(before, batch.name, "meta")) & {run.id for run in batch.runs}
        assert not kept if batch.name in changed else kept == {run.id for run in batch.runs}, batch.name


def test_policies_of_a_repetition_share_a_seed_and_repetitions_do_not(tiny_pop: Tiny) -> None:
    runs = rows(tiny_pop("studies.meta.repetitions=3"), study="meta")
    seeds = {(run.optimizer, run.repetition): run.seed for run in runs}
    assert len(seeds) == 2 * 3
    assert all(seeds["standard", i] == seeds["log", i] for i in range(3))
    assert len(set(seeds.values())) == 3


def test_a_policy_is_watched_on_validation_functions_and_tested_on_others(tiny_pop: Tiny) -> None:
    runs = rows(tiny_pop(), study="meta", optimizer="log")
    assert [(run.workload, run.role) for run in runs] == [
        ("prior-validation", "tune"),
        ("prior-test", "test"),
        ("vlse/sphere", "test"),
    ]


def test_only_a_row_whose_policy_is_trained_has_the_weights_of_the_batch_that_trains_it(tiny_pop: Tiny) -> None:
    settings = tiny_pop()
    given = {batch.name: batch.weights for batch in runtable.batches(settings, "transfer")}
    assert given == {"adam": None, "lbfgs": None, "trained": ("meta", "standard"), "random": None, "cma-es": None}
    assert "standard" in {batch.name for batch in runtable.batches(settings, "meta")}


ALL = {"adam", "lbfgs", "trained", "random", "cma-es"}
TRANSFER = {
    "studies.meta.ppo.iterations=3": {"trained"},
    "studies.meta.policies.standard.network={backbone: gru}": {"trained"},
    "studies.meta.policies.log.ppo.floor=0.1": set(),
    "studies.meta.policies.standard.label=other": set(),
    "studies.transfer.optimizers.trained.label=other": set(),
    "studies.transfer.references.random.label=other": set(),
    "studies.transfer.references.random=null": set(),
    "studies.transfer.optimizers.adam.settings.eps=0.1": {"adam"},
    "studies.transfer.optimizers.adam.learning_rates=[0.02, 0.1, 0.4]": {"adam"},
    "studies.transfer.references.random.method=tpe": {"random"},
    "studies.transfer.reference_count=1": {"random", "cma-es"},
    "studies.transfer.reference_starts=1": {"random", "cma-es"},
    "studies.transfer.collections.vlse.count=5": ALL,
    "studies.transfer.budget=7": ALL,
}


@pytest.mark.parametrize(("override", "changed"), TRANSFER.items(), ids=TRANSFER)
def test_a_contender_gets_new_ids_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[str], tiny_pop: Tiny
) -> None:
    before, after = tiny_pop(), tiny_pop(override)
    for batch in runtable.batches(after, "transfer"):
        kept = set(ids(before, batch.name, "transfer")) & {run.id for run in batch.runs}
        assert not kept if batch.name in changed else kept == {run.id for run in batch.runs}, batch.name


def test_tuned_rows_are_tuned_on_the_prior_and_for_each_function_and_others_are_not(tiny_pop: Tiny) -> None:
    def tuning(name: str) -> list[tuple[str, float | None]]:
        runs = rows(tiny_pop(), study="transfer", optimizer=name, role="tune")
        return [(run.workload, run.learning_rate) for run in runs]

    workloads = ["prior-validation", *(f"vlse-each/{name}" for name in ("sphere", "booth", "forrester"))]
    assert tuning("adam") == [(workload, rate) for workload in workloads for rate in (0.01, 0.1, 0.4)]
    assert tuning("trained") == [("prior-validation", None)]
    assert tuning("random") == []


def test_contenders_share_the_seeds_of_a_workload_however_they_are_tuned(tiny_pop: Tiny) -> None:
    tests = rows(tiny_pop(), study="transfer", role="test")
    seeds = {(run.workload.replace("-each/", "/"), run.seed) for run in tests}
    assert len(seeds) == len({workload for workload, _ in seeds}) == 3 + 3
    tuning = {run.seed for run in rows(tiny_pop(), study="transfer", role="tune")}
    assert tuning.isdisjoint({seed for _, seed in seeds})


def test_without_an_extra_tuning_no_workload_is_tuned_for_each_function(tiny_pop: Tiny) -> None:
    runs = rows(tiny_pop("studies.transfer.collections.vlse.each=null"), study="transfer")
    assert not any("-each/" in run.workload for run in runs)


@pytest.mark.parametrize("study", ["meta", "transfer"])
def test_batches_of_policies_and_contenders_carry_out_every_run_once(study: str, tiny_pop: Tiny) -> None:
    settings = tiny_pop("studies.meta.repetitions=2")
    batched = [run.id for batch in runtable.batches(settings, study) for run in batch.runs]
    assert sorted(batched) == sorted(run.id for run in rows(settings, study=study))
    assert len(set(batched)) == len(batched)


# Learning step rules, and comparing them

EVERY = {"unrolled", "longer", "imitation", "mirror", "bregman"}
LEARNERS = {
    "studies.learn.objective.steps=9": EVERY,
    "studies.learn.train_examples=512": EVERY,
    "studies.learn.validation_problems=4": EVERY,
    "studies.learn.unrolled.learning_rate=0.1": {"unrolled", "longer"},
    "studies.learn.unrolled.unroll=2": {"unrolled", "longer"},  # the second begins with the first one's weights
    "studies.learn.learners.longer.unrolled.unroll=2": {"longer"},
    "studies.learn.l2l.cells=4": {"unrolled", "longer"},
    "studies.learn.policy.cells=4": {"imitation", "mirror", "bregman"},
    "studies.learn.mirror.iterations=4": {"mirror"},
    "studies.learn.imitation.iterations=4": {"imitation", "mirror"},
    "studies.learn.learners.bregman.method=imitation": {"bregman"},
    "studies.learn.validate_every=3": EVERY,
    "studies.learn.learners.bregman.validate_every=1": {"bregman"},
    "studies.learn.learners.bregman.label=other": set(),
    "studies.learn.learners.bregman.group=other": set(),
    "studies.learn.learners.bregman=null": set(),
    "studies.learn.gpu=true": set(),
    "studies.learn.dataset=[fashion-mnist, digits]": set(),
}


@pytest.fixture
def only_digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder in which no other data set is at hand."""
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("only_digits")
@pytest.mark.parametrize(("override", "changed"), LEARNERS.items(), ids=LEARNERS)
def test_a_learner_gets_new_ids_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[str], tiny_lto: Tiny
) -> None:
    before, after = tiny_lto(), tiny_lto(override)
    for batch in runtable.batches(after, "learn"):
        kept = set(ids(before, batch.name, "learn")) & {run.id for run in batch.runs}
        assert not kept if batch.name in changed else kept == {run.id for run in batch.runs}, batch.name


def test_a_learner_is_one_run_that_is_watched_and_all_share_a_seed(tiny_lto: Tiny) -> None:
    runs = rows(tiny_lto(), study="learn")
    assert [(run.optimizer, run.workload, run.role, run.repetition) for run in runs] == [
        (name, "meta-validation", "tune", 0) for name in ("unrolled", "longer", "imitation", "mirror", "bregman")
    ]
    assert len({run.seed for run in runs}) == 1


@pytest.mark.usefixtures("only_digits")
def test_weights_go_to_the_rows_that_begin_with_them_or_use_them(tiny_lto: Tiny) -> None:
    settings = tiny_lto()
    given = {b.name: b.weights for study in ("learn", "compare") for b in runtable.batches(settings, study)}
    assert given["longer"] == given["learned"] == ("learn", "unrolled")
    assert given["mirror"] == ("learn", "imitation")
    assert {n for n, weights in given.items() if weights is None} == {*EVERY, "adagrad", "adam"} - {"longer", "mirror"}


@pytest.mark.usefixtures("only_digits")
def test_an_optimizer_is_one_job_tuned_first_and_a_learned_one_is_not_tuned(tiny_lto: Tiny) -> None:
    batches = {batch.name: batch for batch in runtable.batches(tiny_lto(), "compare")}
    assert list(batches) == ["adagrad", "adam", "learned"]
    tests = [(panel, "test", None, i) for panel in ("small", "wide") for i in range(3)]
    tuning = [("tuning", "tune", rate, i) for rate in (0.01, 0.1) for i in range(2)]

    def made(name: str) -> list[tuple[str, str, float | None, int]]:
        return [(run.workload, run.role, run.learning_rate, run.repetition) for run in batches[name].runs]

    assert made("adam") == made("adagrad") == [*tuning, *tests]
    assert made("learned") == tests


ALL_RULES = {(name, panel) for name in ("adagrad", "adam", "learned") for panel in ("tuning", "small", "wide")}
TUNED = {(name, panel) for name, panel in ALL_RULES if name != "learned"}
COMPARE = {
    "studies.compare.examples=32": ALL_RULES,
    "studies.compare.evaluations=6": ALL_RULES,
    "studies.compare.tuning_repetitions=3": TUNED,
    "studies.compare.tuning.steps=9": TUNED,
    "studies.compare.learning_rates=[0.01, 0.2]": TUNED,
    "studies.compare.panels.wide.hidden=13": {(name, "wide") for name, _ in ALL_RULES},
    "studies.compare.panels.wide=null": set(),
    "studies.compare.panels.new={dataset: [digits], inputs: 6, hidden: 4, batch_size: 8, steps: 8}": set(),
    "studies.compare.repetitions=2": set(),
    "studies.compare.gpu=true": set(),
    "studies.compare.optimizers.adam=null": set(),
    "studies.compare.optimizers.adam.label=other": set(),
    "studies.compare.optimizers.adam.settings.eps=0.1": {pair for pair in ALL_RULES if pair[0] == "adam"},
    "studies.learn.unrolled.iterations=6": {pair for pair in ALL_RULES if pair[0] == "learned"},
    "studies.learn.mirror.iterations=6": set(),
    "studies.compare.panels.wide.dataset=[digits]": set(),
}


@pytest.mark.usefixtures("only_digits")
@pytest.mark.parametrize(("override", "changed"), COMPARE.items(), ids=COMPARE)
def test_a_run_on_a_panel_gets_a_new_id_under_a_change_of_what_determines_it_and_no_other(
    override: str, changed: set[tuple[str, str]], tiny_lto: Tiny
) -> None:
    before = {run.id for run in rows(tiny_lto(), study="compare")}
    panels = tiny_lto().studies["compare"].workloads
    for run in rows(tiny_lto(override), study="compare"):
        if run.workload in panels:
            assert (run.id in before) is ((run.optimizer, run.workload) not in changed), run


@pytest.mark.usefixtures("only_digits")
def test_comparisons_of_step_rules_are_paired_and_never_test_on_what_was_tuned_on(tiny_lto: Tiny) -> None:
    settings = tiny_lto("studies.compare.tuning_repetitions=20", "studies.compare.repetitions=20")
    runs = rows(settings, study="compare")
    seeds = {(run.workload, run.repetition): run.seed for run in runs}
    assert all(run.seed == seeds[run.workload, run.repetition] for run in runs)
    assert len(set(seeds.values())) == len(seeds) == 3 * 20


@pytest.mark.usefixtures("only_digits")
def test_studies_that_compare_step_rules_tune_on_the_same_seeds_and_test_on_others(tiny_lto: Tiny) -> None:
    settings = tiny_lto()
    other = settings.model_copy(update={"studies": {**settings.studies, "again": settings.studies["compare"]}})
    seeds = {
        (study, role): {run.seed for run in rows(other, study=study, role=role)}
        for study in ("compare", "again")
        for role in ("tune", "test")
    }
    assert seeds["compare", "tune"] == seeds["again", "tune"]
    assert seeds["compare", "test"].isdisjoint(seeds["again", "test"])


def test_each_panel_takes_the_first_of_its_data_sets_that_is_at_hand(only_digits: None, tiny_lto: Tiny) -> None:
    settings = tiny_lto()
    study = settings.studies["compare"]
    assert datasets_of(study, settings) == {"tuning": "digits", "small": "digits", "wide": "digits"}
    assert data_of(study, settings) == ["digits"]
    settings = tiny_lto("download=true")
    assert datasets_of(study, settings)["wide"] == "fashion-mnist"
    assert data_of(study, settings) == ["digits", "fashion-mnist"]


def test_studies_read_one_data_set_or_none(tiny: Tiny) -> None:
    settings = tiny()
    assert data_of(settings.studies["images"], settings) == ["digits"]
    assert data_of(settings.studies["boxes"], settings) == []


@pytest.mark.usefixtures("only_digits")
def test_a_run_on_a_panel_with_another_data_set_has_another_id(tiny_lto: Tiny) -> None:
    def runs(settings: Config) -> set[str]:
        return {run.id for run in rows(settings, study="compare", workload="wide")}

    assert runs(tiny_lto()).isdisjoint(runs(tiny_lto("download=true")))
