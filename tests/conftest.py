"""The order of the tests, and the made-up studies and scales that they share."""

import gc
import os
import zlib

import pytest

# Tests run side by side, and processes that they fork hang if torch's threads were running before, so each has one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.set_threshold(100_000)  # as in the command; made-up tables by the thousand are no garbage either

pytest_plugins = [f"tests.made_up.{name}" for name in ("scales", "gap", "pop", "lto")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The workflow's tests first: the run from scratch takes longest, and what else there is fills the other core.

    Following every line makes the tests take half as long again, and the cases of one test run through much the same
    lines. So coverage follows one case in four of those that have several: what it says is a lower bound.
    """
    items.sort(key=lambda item: "workflow" not in item.path.parts)
    for item in items:
        if hasattr(item, "callspec") and zlib.crc32(item.nodeid.encode()) % 4:
            item.add_marker("no_cover")
