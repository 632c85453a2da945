"""The order of the tests, and the made-up studies and scales that they share."""

import gc

import pytest

gc.set_threshold(100_000)  # as in the command; made-up tables by the thousand are no garbage either

pytest_plugins = [f"tests.made_up.{name}" for name in ("scales", "gap", "pop", "lto")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The workflow's tests first: the run from scratch takes longest, and what else there is fills the other core."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)
