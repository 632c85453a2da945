"""The order of the tests, and the made-up studies and scales that they share."""

import gc
import os

import pytest

# Tests run side by side, and processes that they fork hang if torch's threads were running before, so each has one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
gc.set_threshold(100_000)  # as in the command; made-up tables by the thousand are no garbage either

pytest_plugins = [f"tests.made_up.{name}" for name in ("scales", "gap", "pop", "lto")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The workflow's tests first: the run from scratch takes longest, and what else there is fills the other core."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)
