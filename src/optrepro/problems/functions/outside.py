"""Collections of test problems that others published as packages, which may be missing: see `cutest` and `bbob`."""

from __future__ import annotations

import importlib.metadata

from optrepro.problems.functions.settings import PACKAGES


def installed(source: str) -> bool:
    """Whether `source` is an outside collection whose package is installed."""
    return source in PACKAGES and version(PACKAGES[source]) is not None


def missing(source: str) -> bool:
    """Whether `source` is an outside collection whose package is not installed."""
    return source in PACKAGES and not installed(source)


def version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
