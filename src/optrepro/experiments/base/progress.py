"""Reports of the progress of a job: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # called with (done, total, label)


def no_progress(done: int, total: int, what: str) -> None:
    """Report nothing."""


def reporter() -> Progress:
    """A callback (done, total, label) that shows a progress bar, or without a terminal prints every ten seconds."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(unit="step", smoothing=0.1)

        def draw(done: int, total: int, what: str) -> None:
            bar.total = total
            bar.set_description(what, refresh=False)
            bar.update(done - bar.n)

        return draw

    last = time.monotonic()

    def log(done: int, total: int, what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= 10 or done == total:
            last = time.monotonic()
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return log
