"""Checkpoints of long jobs: written atomically, kept apart from declared outputs, never resumed when stale."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optrepro import damage
from optrepro.conventions import TIME_IS_UP
from optrepro.damage import DamagedFileError


class Interrupted(SystemExit):
    """The job stops because of SIGTERM or the end of its time slice; its state is saved."""


class Checkpoint:
    """State of one job in one file, saved every `every` seconds, on SIGTERM and at the end of the time slice.

    Args:
        path: the file; its folder is named by a hash of config, source and inputs, so that a checkpoint of other code
            or settings is never found. None saves nothing.
        every: seconds between saves.
        time_slice: seconds after which the job saves and exits with status `TIME_IS_UP`; None sets no limit.
    """

    def __init__(self, path: Path | None, every: float = 60.0, time_slice: float | None = None):
        self.path = path
        self.every = every
        self._started = self._saved = time.monotonic()
        self._time_slice = time_slice
        self._terminated = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, let SIGTERM cause a save at the next step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._on_sigterm)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _on_sigterm(self, *_: object) -> None:
        self._terminated = True

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None if there is none, and restore the random generators.

        A damaged file is set aside, with a line on standard error, and there is no state: the job starts anew.
        """
        if self.path is None or not self.path.exists():
            return None
        before = _generators()
        try:
            with damage.reading(self.path, "a checkpoint"):
                state = _intact(self.path)
                _restore_generators(state.pop("generators"))
                return state
        except DamagedFileError as error:
            _restore_generators(before)
            aside = damage.set_aside(self.path)
            print(
                f"{self.path} is damaged: {error.reason}; it was set aside as {aside.name}, and the job starts from "
                "its beginning",
                file=sys.stderr,
                flush=True,
            )
            return None

    def step(self, state: Any) -> None:
        """Save if a save is due. Call this between steps, with a function that returns the state.

        Raises: Interrupted after the save on SIGTERM or at the end of the time slice.
        """
        now = time.monotonic()
        time_is_up = self._time_slice is not None and now - self._started >= self._time_slice
        if self._terminated or time_is_up or now - self._saved >= self.every:
            self.save(state())
            self._saved = now
        if self._terminated:
            raise Interrupted(128 + signal.SIGTERM)
        if time_is_up:
            raise Interrupted(TIME_IS_UP)

    def save(self, state: dict[str, Any]) -> None:
        """Write the state and the random generators to a temporary file, flush it, and rename it over the old one."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".partial")
        with temporary.open("wb") as file:
            torch.save({**state, "generators": _generators()}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


def _intact(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, whose checksums are compared first, because torch does not look at them."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise DamagedFileError(path, f"the checksum of {damaged} in it is wrong")
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def _generators() -> dict[str, Any]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  (other packages draw from the global generator)
    inner: Any = numpy_state["state"]
    return {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**inner, "key": torch.from_numpy(inner["key"].astype(np.int64))}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_generators(saved: dict[str, Any]) -> None:
    random.setstate(saved["python"])
    inner = saved["numpy"]["state"]
    numpy_state = {**saved["numpy"], "state": {**inner, "key": inner["key"].numpy().astype(np.uint32)}}
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(saved["torch"])
    if saved["cuda"]:
        torch.cuda.set_rng_state_all(saved["cuda"])
