"""Working through the jobs of studies, and what is known of them before and after."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optrepro import layout, provenance, runtable
from optrepro.config import Config
from optrepro.experiments import jobs, status, work
from optrepro.experiments.jobs import Jobs
from optrepro.store import Store

Tiny = Callable[..., Config]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, in which no data set is at hand."""
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def quiet(line: str) -> None:
    """Print nothing."""


def results() -> dict[str, str]:
    """Checksums of all results but the records, which hold times."""
    files = [*Path("results").rglob("*.parquet"), *Path("results").rglob("*.safetensors")]
    return {str(path): provenance.file_hash(path) for path in files}


def test_the_results_do_not_depend_on_the_number_of_workers(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for workers in (1, 3):
        folder = Path(str(workers))
        folder.mkdir()
        monkeypatch.chdir(folder)
        outcome = work.work(tiny(), ["images", "boxes"], workers, report=quiet)
        assert (len(outcome.finished), outcome.failed, outcome.collected) == (4, {}, ["images", "boxes"])
        found.append(results())
        monkeypatch.chdir("..")
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_what_is_done_is_not_repeated_and_an_earlier_config_costs_nothing(tiny: Tiny) -> None:
    work.work(tiny(), ["images"], report=quiet)
    before = results()
    changed = work.work(tiny("studies.images.optimizers.sgd.settings.momentum=0.8"), ["images"], report=quiet)
    assert changed.finished == [("images", "sgd")]
    assert results() != before
    again = work.work(tiny(), ["images"], report=quiet)
    assert (len(again.stored), again.finished) == (3, [])
    assert results() == before


def test_what_the_store_has_comes_without_torch(tiny_file: Path, tiny: Tiny) -> None:
    work.work(tiny(), ["images"], report=quiet)
    script = (
        "import sys; from optrepro import config; from optrepro.experiments import work;"
        f"outcome = work.work(config.load({str(tiny_file)!r}), ['images']);"
        "assert len(outcome.stored) == 3, outcome; assert outcome.collected == ['images'];"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_weights_that_a_study_needs_are_trained_first(tiny_pop: Tiny) -> None:
    outcome = work.work(tiny_pop(), ["transfer"], workers=2, report=quiet)
    assert outcome.finished.index(("meta", "standard")) < outcome.finished.index(("transfer", "trained"))
    assert layout.metrics("tiny-pop", "meta", "standard").with_name(layout.WEIGHTS).exists()
    assert outcome.collected == ["transfer"]


def test_a_job_that_fails_stops_only_those_that_need_it_and_the_status_says_why(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tiny("studies.images.optimizers.gap.settings.momentum=[0.5, 1.5]")
    lines: list[str] = []
    outcome = work.work(broken, ["images", "boxes"], workers=2, report=lines.append)
    assert outcome.collected == ["boxes"]
    assert list(outcome.failed) == [("images", "gap")]
    assert outcome.waiting == [("images", "random")]
    reason = outcome.failed["images", "gap"]
    assert "1.5" in reason
    assert f"images/gap failed: {reason} (log: logs/tiny/runs/images/gap.log)" in lines
    [images] = status.of(broken, ["images"])
    assert (images.batches, images.done, images.failed) == (3, 1, {"gap": reason})
    [mended] = status.of(tiny(), ["images"])
    assert (mended.done, mended.failed) == (1, {})


def test_the_time_left_is_that_of_like_runs(tiny: Tiny) -> None:
    [unknown] = status.of(tiny(), ["images"])
    assert (unknown.spent, unknown.left) == (0, None)
    found = Jobs(tiny())
    work.carry_out(found, jobs.make(tiny(), found.batch(("images", "sgd"))))
    record = json.loads(layout.metrics("tiny", "images", "sgd").with_name(layout.RECORD).read_text())
    [images] = status.of(tiny(), ["images"])
    assert images.spent == record["wall_seconds"]
    assert images.left == pytest.approx(2 * images.spent)  # the other two batches have as many runs


def test_when_the_time_is_up_the_state_is_saved_and_the_next_call_goes_on(tiny: Tiny) -> None:
    work.work(tiny(), ["images"], report=quiet)
    expected = results()
    os.rename("state", "aside")
    os.rename("results", "gone")
    calls = 0
    while (outcome := work.work(tiny(), ["images"], seconds=0.2, report=quiet)).waiting:
        assert outcome.failed == {}
        calls += 1
    assert calls > 1
    assert results() == expected


def test_results_whose_store_was_lost_are_taken_from_their_place(tiny: Tiny) -> None:
    work.work(tiny(), ["images"], report=quiet)
    os.rename("state", "aside")
    outcome = work.work(tiny(), ["images"], report=quiet)
    assert len(outcome.stored) == 3
    layout.metrics("tiny", "images", "sgd").write_text("damaged")
    os.rename("state", "aside-too")
    assert work.work(tiny(), ["images"], report=quiet).finished == [("images", "sgd")]


def test_a_study_that_measures_time_runs_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[int] = []
    fork = work._Shift._fork

    def noted(self: work._Shift, job: jobs.Job) -> None:
        if job.batch.study == "images":
            beside.append(len(self.running))
        else:
            assert all(running.job.batch.study != "images" for running in self.running.values())
        fork(self, job)

    monkeypatch.setattr(type(tiny().studies["images"]), "timed", True)
    monkeypatch.setattr(type(tiny().studies["boxes"]), "timed", False)
    monkeypatch.setattr(work._Shift, "_fork", noted)
    work.work(tiny(), ["boxes", "images"], workers=3, report=quiet)
    assert beside == [0, 0, 0]


SLEEPY = """
import sys, time
from optrepro import config
from optrepro.experiments import run, work

def sleep(config, job, folder, *_):
    (folder / "began").touch()
    time.sleep(600)

run._run = sleep
work.work(config.load(sys.argv[1]), ["images"], workers=2)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_however_the_parent_ends_no_child_goes_on(number: signal.Signals, tiny_file: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SLEEPY, str(tiny_file)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(Path("state").glob("jobs/*/began"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.send_signal(number)
    assert process.wait(timeout=30) != 0
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_batch_of_a_config_has_a_key_of_its_own(tiny: Tiny, tiny_pop: Tiny, tiny_lto: Tiny) -> None:
    for settings in (tiny(), tiny_pop(), tiny_lto()):
        found = Jobs(settings, Store(Path("empty")))
        ready = [found.job(batch) for study in settings.studies for batch in runtable.batches(settings, study)]
        keys = [job.key for job in ready if job is not None]
        assert len(set(keys)) == len(keys) > 2


@pytest.mark.parametrize(
    "override", ["seed=8", "studies.images.steps=4", "studies.images.optimizers.sgd.settings.momentum=0"]
)
def test_whatever_determines_a_run_changes_its_key(override: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(settings: Config) -> str:
        return jobs.make(settings, Jobs(settings).batch(("images", "sgd"))).key

    assert key(tiny(override)) != key(tiny())
    assert key(tiny("scale=other", "studies.images.optimizers.sgd.label=other")) == key(tiny())
    before = key(tiny())
    monkeypatch.setattr(provenance, "source_hash", lambda *modules: "0123456789ab")
    assert key(tiny()) != before
