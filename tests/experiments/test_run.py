import gzip
import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from optrepro import layout, provenance, runtable
from optrepro.config import Config, ConfigError
from optrepro.experiments import jobs, run
from optrepro.experiments.base import tidy
from optrepro.experiments.base.checkpoint import Interrupted
from optrepro.optimizers import _learned
from optrepro.optimizers import _pop_policy as policies
from optrepro.optimizers.l2l import L2LPolicy, L2LSettings
from optrepro.store import Store
from optrepro.studies.base import Batch

Tiny = Callable[..., Config]
ROOT = Path(__file__).parents[2]
STATE = Path("state", "jobs")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, in which no data set is at hand."""
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def batch_of(settings: Config, study: str, name: str) -> Batch:
    return next(batch for batch in runtable.batches(settings, study) if batch.name == name)


def carry_out(
    settings: Config,
    name: str = "sgd",
    folder: str = "out",
    study: str = "images",
    earlier: Sequence[Path] = (),
    weights: Path | None = None,
    **more: Any,
) -> Path:
    """The metrics of a batch, from a store of its own in `folder`."""
    job = jobs.make(settings, batch_of(settings, study, name), earlier, weights)
    return run.carry_out(settings, job, Store(Path(folder)), **more).path(layout.METRICS)


def interrupt(settings: Config, name: str = "sgd", **more: Any) -> None:
    with pytest.raises(Interrupted):
        carry_out(settings, name, time_slice=0, **more)


def sidecar(out: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(out.with_name("run.json").read_text())
    return record


# Results


@pytest.mark.parametrize("study", ["images", "boxes"])
def test_two_runs_of_a_batch_are_the_same_bytes(study: str, tiny: Tiny) -> None:
    first = carry_out(tiny(), study=study, folder="first")
    torch.manual_seed(99)
    second = carry_out(tiny(), study=study, folder="second")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("study", "name"), [("images", "sgd"), ("boxes", "sgd"), ("surfaces", "all")])
def test_a_study_of_each_kind_becomes_a_tidy_table(study: str, name: str, tiny: Tiny) -> None:
    table = pd.read_parquet(carry_out(tiny(), name, study=study))
    assert list(table.columns) == list(tidy.COLUMNS)
    assert set(table.study) == {study}
    runs = {run.id for run in batch_of(tiny(), study, name).runs}
    assert runs <= set(table.run)


def test_a_batch_reads_the_results_of_those_it_needs(tiny: Tiny) -> None:
    given = carry_out(tiny(), "gap", folder="gap")
    out = carry_out(tiny(), "random", earlier=[given])
    assert set(pd.read_parquet(out).optimizer) == {"random"}
    assert sidecar(out)["inputs"] == {"../gap/metrics.parquet": provenance.file_hash(given)}


def test_progress_is_reported(tiny: Tiny) -> None:
    calls: list[tuple[int, int, str]] = []
    carry_out(tiny(), progress=lambda *call: calls.append(call))
    assert calls[-1] == (24, 24, "sgd")


# Policies


def test_training_a_policy_leaves_its_weights_beside_the_results(tiny_pop: Tiny) -> None:
    out = carry_out(tiny_pop(), "standard", study="meta")
    policy, card = policies.load(out.with_name(layout.WEIGHTS))
    assert policy.settings.width == 8
    assert card["config_hash"] == batch_of(tiny_pop(), "meta", "standard").settings
    files = {path.name: provenance.file_hash(path) for path in (out, out.with_name(layout.WEIGHTS))}
    assert sidecar(out)["outputs"] == files
    assert provenance.check_sidecar(out.with_name("run.json")) == {}


def test_a_contender_uses_the_weights_that_a_job_has_trained(tiny_pop: Tiny) -> None:
    settings = tiny_pop()
    trained = {name: carry_out(settings, name, name, study="meta") for name in ("standard", "log")}
    given = {name: metrics.with_name(layout.WEIGHTS) for name, metrics in trained.items()}
    assert batch_of(settings, "transfer", "trained").weights == ("meta", "standard")
    tables = {}
    for name, weights in given.items():
        out = carry_out(settings, "trained", f"trained-{name}", study="transfer", weights=weights)
        assert sidecar(out)["inputs"] == {"../../meta/standard/policy.safetensors": provenance.file_hash(weights)}
        assert list(sidecar(out)["outputs"]) == ["metrics.parquet"]
        tables[name] = pd.read_parquet(out)
    regrets = [table[table.metric == "regret"].value for table in tables.values()]
    assert (regrets[0] != regrets[1]).any()


def test_a_job_on_problems_of_a_package_has_another_key_with_another_version(
    tiny_pop: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = tiny_pop("studies.transfer.collections.other={source: bbob, dim: 2, count: 3, budget: 10}")
    keys = {settings: set[str]() for settings in ("own", "others")}
    for version in ("2.0", "2.1", None):
        monkeypatch.setattr(jobs, "version", lambda package, version=version: version)
        for name, settings in (("own", tiny_pop()), ("others", others)):
            keys[name].add(jobs.make(settings, batch_of(settings, "transfer", "adam")).key)
    assert len(keys["own"]) == 1
    assert len(keys["others"]) == 3


@pytest.mark.parametrize(("study", "name"), [("meta", "log"), ("transfer", "lbfgs"), ("transfer", "cma-es")])
def test_a_job_of_meta_training_or_transfer_goes_on_in_the_next_attempt_and_gives_the_same_bytes(
    study: str, name: str, tiny_pop: Tiny
) -> None:
    expected = carry_out(tiny_pop(), name, study=study, folder="expected")
    interrupt(tiny_pop(), name, study=study)
    out = carry_out(tiny_pop(), name, study=study)
    assert sidecar(out)["attempts"] == 2
    files = ["metrics.parquet", *(["policy.safetensors"] if study == "meta" else [])]
    for file in files:
        assert out.with_name(file).read_bytes() == expected.with_name(file).read_bytes()
    assert list(STATE.iterdir()) == []


def test_a_job_with_other_weights_never_finds_the_state(tiny_pop: Tiny) -> None:
    for name in ("standard", "log"):
        weights = carry_out(tiny_pop(), name, name, study="meta").with_name(layout.WEIGHTS)
        interrupt(tiny_pop(), "trained", study="transfer", weights=weights)
    assert len(list(STATE.iterdir())) == 2


# Step rules


def test_learning_a_rule_leaves_its_weights_beside_the_results_and_another_row_uses_them(tiny_lto: Tiny) -> None:
    settings = tiny_lto()
    given = carry_out(settings, "unrolled", "given", study="learn").with_name(layout.WEIGHTS)
    _, card = _learned.load(L2LPolicy, L2LSettings, given)
    assert card["config_hash"] == batch_of(settings, "learn", "unrolled").settings
    out = carry_out(settings, "learned", study="compare", weights=given)
    assert sidecar(out)["inputs"] == {"../../learn/unrolled/policy.safetensors": provenance.file_hash(given)}
    assert set(pd.read_parquet(out).workload) == {"small", "wide"}


@pytest.mark.parametrize(("study", "name"), [("learn", "unrolled"), ("compare", "adagrad")])
def test_a_job_of_step_rules_goes_on_in_the_next_attempt_and_gives_the_same_bytes(
    study: str, name: str, tiny_lto: Tiny
) -> None:
    expected = carry_out(tiny_lto(), name, study=study, folder="expected")
    interrupt(tiny_lto(), name, study=study)
    out = carry_out(tiny_lto(), name, study=study)
    assert sidecar(out)["attempts"] == 2
    assert out.read_bytes() == expected.read_bytes()
    assert list(STATE.iterdir()) == []


# The sidecar


def test_the_sidecar_records_where_the_results_come_from(tiny: Tiny) -> None:
    settings = tiny()
    batch = batch_of(settings, "images", "sgd")
    out = carry_out(settings)
    record = sidecar(out)
    assert record["outputs"] == {"metrics.parquet": provenance.file_hash(out)}
    assert record["inputs"] == {}
    assert (record["batch"], record["config"]) == ("images/sgd", batch.settings)
    assert record["source"] == provenance.source_hash("optrepro.experiments.training.classification")
    assert record["git"] == provenance.git_state()
    assert record["hub_models"] == {}
    assert record["environment"] == provenance.environment()
    assert (record["seed"], record["seeds"]) == (7, {run.id: run.seed for run in batch.runs})
    assert (record["dataset"], record["data"]) == ("digits", {})
    assert (record["device"], record["threads"], record["attempts"]) == ("cpu", torch.get_num_threads(), 1)
    assert record["wall_seconds"] > 0
    assert record["peak_memory_mib"] > 50


def test_the_sidecar_records_the_revision_of_a_model_of_the_hub_and_what_loaded_it(
    tiny_gap: Tiny, tmp_path: Path
) -> None:
    from optrepro.problems.networks import vit

    model, commit = str(tmp_path / "vit"), "0a" * 20
    vit.vit((3, 16, 16), 5, 8, 16, 1, 2, seed=0).network.save_pretrained(model)
    overrides = ["backbone=null", f"hub={model}", f"revision={commit}"]
    settings = tiny_gap(*(f"studies.vision.{override}" for override in overrides))
    record = sidecar(carry_out(settings, "adamw", study="vision"))
    assert record["hub_models"] == {model: commit}
    assert {"transformers", "peft"} <= set(record["environment"]["packages"])


def test_what_was_written_agrees_with_its_sidecar(tiny: Tiny) -> None:
    out = carry_out(tiny())
    assert provenance.check_sidecar(out.with_name("run.json")) == {}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few images in the place of MNIST."""
    folder = tmp_path / "handed" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, examples in (("train", 100), ("t10k", 20)):
        images = rng.integers(256, size=(examples, 28, 28), dtype=np.uint8)
        labels = np.arange(examples, dtype=np.uint8) % 10
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    monkeypatch.setenv("OPTREPRO_DATA", str(tmp_path / "handed"))
    return folder


def test_the_sidecar_records_the_checksums_of_the_data(mnist: Path, tiny: Tiny) -> None:
    record = sidecar(carry_out(tiny("studies.images.dataset=[mnist, digits]")))
    assert record["dataset"] == "mnist"
    assert record["data"] == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in mnist.iterdir()}
    assert len(record["data"]) == 4


def test_the_sidecar_records_the_data_set_of_each_workload_and_the_checksums_of_all(
    mnist: Path, tiny_lto: Tiny
) -> None:
    settings = tiny_lto("studies.compare.panels.wide.dataset=[mnist]")
    record = sidecar(carry_out(settings, "adagrad", study="compare"))
    assert record["dataset"] == {"tuning": "digits", "small": "digits", "wide": "mnist"}
    assert record["data"] == {f"mnist/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in mnist.iterdir()}


# The state


def test_a_job_that_is_done_leaves_no_state(tiny: Tiny) -> None:
    carry_out(tiny())
    assert list(STATE.iterdir()) == []


def test_a_job_whose_time_is_up_goes_on_in_the_next_attempt_and_gives_the_same_bytes(tiny: Tiny) -> None:
    expected = carry_out(tiny(), folder="expected")
    interrupt(tiny())
    interrupt(tiny())
    done: list[int] = []
    out = carry_out(tiny(), progress=lambda step, total, what: done.append(step))
    assert done[0] == 3
    assert out.read_bytes() == expected.read_bytes()
    assert sidecar(out)["attempts"] == 3
    assert list(STATE.iterdir()) == []


def test_the_state_is_dropped_only_after_the_results_are_in_the_store(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on the device")

    interrupt(tiny())
    with monkeypatch.context() as patched:
        patched.setattr(Store, "put", full)
        with pytest.raises(OSError, match="no space left"):
            carry_out(tiny())
    assert sidecar(carry_out(tiny()))["attempts"] == 3


def test_what_is_in_the_store_is_not_run_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    first = carry_out(tiny())
    monkeypatch.setattr(run, "_run", None)
    assert carry_out(tiny("scale=other", "studies.images.optimizers.sgd.label=other")) == first


def test_a_later_attempt_finds_the_state_of_the_same_job(tiny: Tiny) -> None:
    interrupt(tiny())
    interrupt(tiny("scale=other", "studies.images.optimizers.sgd.label=other"))
    assert len(list(STATE.iterdir())) == 1


@pytest.mark.parametrize(
    "override", ["seed=8", "studies.images.steps=4", "studies.images.optimizers.sgd.settings.momentum=0"]
)
def test_a_job_of_other_settings_never_finds_the_state(override: str, tiny: Tiny) -> None:
    interrupt(tiny())
    done: list[int] = []
    carry_out(tiny(override), progress=lambda step, total, what: done.append(step))
    assert done[0] == 1


def test_a_job_of_other_source_never_finds_the_state(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tiny())
    monkeypatch.setattr(provenance, "source_hash", lambda *modules: "0123456789ab")
    interrupt(tiny())
    assert len(list(STATE.iterdir())) == 2


def test_a_job_of_other_inputs_never_finds_the_state(tiny: Tiny) -> None:
    given = carry_out(tiny(), "gap", folder="gap")
    interrupt(tiny(), "random", earlier=[given])
    tidy.write(pd.read_parquet(given).iloc[:-1], given)
    interrupt(tiny(), "random", earlier=[given])
    assert len(list(STATE.iterdir())) == 2


def test_a_job_on_other_data_never_finds_the_state(mnist: Path, tiny: Tiny) -> None:
    settings = tiny("studies.images.dataset=[mnist]")
    interrupt(settings)
    path = mnist / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1] + b"\5"))
    interrupt(settings)
    assert len(list(STATE.iterdir())) == 2


def test_another_batch_never_finds_the_state(tiny: Tiny) -> None:
    interrupt(tiny("studies.images.runs_per_job=1"), "sgd.tune0")
    interrupt(tiny("studies.images.runs_per_job=1"), "sgd.tune1")
    assert len(list(STATE.iterdir())) == 2


# The device


def test_auto_is_the_gpu_where_there_is_one_and_else_the_cpu(tiny: Tiny) -> None:
    record = sidecar(carry_out(tiny("device=auto")))
    assert (record["device"] == "cpu") is not torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error_that_says_what_to_do(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="device = 'cuda' is not allowed here, because torch finds no GPU"):
        carry_out(tiny("device=cuda", "studies.images.gpu=true"))


def test_a_study_that_asks_for_no_gpu_never_needs_one(tiny: Tiny) -> None:
    assert sidecar(carry_out(tiny("device=cuda")))["device"] == "cpu"
