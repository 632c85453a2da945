import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optrepro.experiments.base import checkpoint
from optrepro.experiments.base.checkpoint import TIME_IS_UP, Checkpoint, Interrupted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "checkpoint.pt"


@pytest.fixture(autouse=True)
def generators_as_they_were() -> Iterator[None]:
    before = checkpoint._generators()
    yield
    checkpoint._restore_generators(before)


def draws() -> list[float]:
    normal = np.random.normal()  # noqa: NPY002
    return [random.random(), random.gauss(), normal, np.random.random(), torch.rand(()).item()]  # noqa: NPY002


def unexpected() -> dict[str, Any]:
    raise AssertionError("the state was asked for, though no save is due")


def test_the_state_that_was_saved_is_loaded(path: Path) -> None:
    state = {"step": 3, "rows": [["run", 0.1, None, True]], "weights": torch.arange(3.0), "nested": {"a": (1, 2)}}
    Checkpoint(path).save(state)
    back = Checkpoint(path).load()
    assert back is not None
    assert torch.equal(back.pop("weights"), state.pop("weights"))
    assert back == state


def test_nothing_is_loaded_where_nothing_was_saved(path: Path) -> None:
    assert Checkpoint(path).load() is None


def test_loading_sets_the_generators_of_python_numpy_and_torch_back(path: Path) -> None:
    draws()  # gauss and normal come in pairs: save between the two of a pair
    Checkpoint(path).save({})
    expected = draws()
    draws()
    Checkpoint(path).load()
    assert draws() == expected


def test_a_crash_in_the_middle_of_a_save_leaves_the_last_state(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Checkpoint(path).save({"step": 1})

    def crash(state: object, file: Any) -> None:
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        Checkpoint(path).save({"step": 2})
    assert Checkpoint(path).load() == {"step": 1}


def test_a_state_is_on_disk_before_it_takes_the_place_of_the_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moves = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: moves.append("fsync"))
    monkeypatch.setattr(Path, "replace", lambda self, target: moves.append("rename"))
    Checkpoint(path).save({"step": 1})
    assert moves == ["fsync", "rename"]


def test_a_checkpoint_holds_nothing_that_needs_to_be_unpickled(path: Path) -> None:
    Checkpoint(path).save({"step": 1})
    assert torch.load(path, weights_only=True)["step"] == 1


def test_without_a_path_nothing_is_kept() -> None:
    keeper = Checkpoint(None)
    keeper.save({"step": 1})
    assert keeper.load() is None


def test_between_saves_the_state_is_not_even_asked_for(path: Path) -> None:
    Checkpoint(path, every=60).step(unexpected)
    assert not path.exists()


def test_a_save_is_made_whenever_it_is_due(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 11.0, 20.0, 21.5])
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    keeper, saved = Checkpoint(path, every=10), []
    for step in range(4):
        keeper.step(lambda step=step: saved.append(step) or {"step": step})
    assert saved == [1, 3]


def test_sigterm_saves_at_the_next_step_and_exits(path: Path) -> None:
    keeper = Checkpoint(path)
    with keeper.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as caught:
            keeper.step(lambda: {"step": 5})
    assert caught.value.code == 128 + signal.SIGTERM
    assert keeper.load() == {"step": 5}


def test_listening_ends_with_its_block(path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Checkpoint(path).listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_thread_that_cannot_listen_works_all_the_same(path: Path) -> None:
    steps = []

    def work() -> None:
        keeper = Checkpoint(path)
        with keeper.listening():
            keeper.step(unexpected)
            steps.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert steps == [1]


def test_the_end_of_the_time_slice_saves_and_exits_with_its_own_status(path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        Checkpoint(path, time_slice=0).step(lambda: {"step": 5})
    assert caught.value.code == TIME_IS_UP == 75
    assert Checkpoint(path).load() == {"step": 5}


def test_an_interruption_passes_by_handlers_of_errors() -> None:
    assert not issubclass(Interrupted, Exception)
