import importlib.metadata

import pytest

from optrepro.problems.functions import outside
from optrepro.problems.functions.settings import PACKAGES


@pytest.mark.parametrize("source", PACKAGES)
def test_a_collection_is_installed_or_missing_as_its_package_is(source, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", {PACKAGES[source]: "2.0"}.__getitem__)
    assert outside.installed(source)
    assert not outside.missing(source)
    assert outside.version(PACKAGES[source]) == "2.0"

    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    assert not outside.installed(source)
    assert outside.missing(source)
    assert outside.version(PACKAGES[source]) is None


def test_what_is_no_outside_collection_is_neither():
    assert not outside.installed("vlse")
    assert not outside.missing("vlse")
