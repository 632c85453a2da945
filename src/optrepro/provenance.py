"""Provenance of results: hashes of source and files, the environment, and the sidecar that records them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from optrepro import __version__, damage, source
from optrepro.damage import DamagedFileError

PACKAGE = Path(__file__).parent


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_hash(path: Path) -> str:
    """SHA-256 of a file of data, which is read once in a process unless its size or time stamp changes."""
    status = path.stat()
    return _hash_of_version(path, status.st_size, status.st_mtime_ns)


@cache
def _hash_of_version(path: Path, size: int, changed: int) -> str:
    return file_hash(path)


def source_hash(*modules: str) -> str:
    """A hash, of twelve hexadecimal digits, of the modules' code and of all modules of this package that they import.

    Comments, docstrings, formatting, the order of the modules and their places in the package do not affect it; any
    other change of the code does (see `source.SourceTree`).

    An ``__init__`` file only re-exports, so importing a package does not include its modules: a change of one figure
    or one optimizer affects only the steps that use it. The lock file pins the code of other packages.

    Raises: ValueError for a module of this package that does not exist.
    """
    tree = source.tree(PACKAGE)
    digests = sorted({tree.digest(module) for module in modules})
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout; both are None outside a checkout (unpacked archive, installed wheel)."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(PACKAGE), *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    commit = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/src", ":/config", ":/workflow")
    return {"commit": commit, "dirty": None if commit is None or changes is None else bool(changes)}


def environment() -> dict[str, Any]:
    """Versions and processor architecture, which can change the last bits of a result."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": imported_versions(),
    }


def imported_versions() -> dict[str, str]:
    """Versions, by name, of the distributions that this process has imported from so far.

    If several distributions share a namespace package, all of them are included.
    """
    imported = {name.partition(".")[0] for name in sys.modules} - {"optrepro"}
    found = [each for each in importlib.metadata.distributions() if imported & _packages(each)]
    versions = {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in found}
    # In a checkout, the metadata of this package can be absent or those of an older version.
    return dict(sorted({**versions, "optrepro": __version__}.items()))


def _packages(distribution: importlib.metadata.Distribution) -> set[str]:
    """The top-level packages of a distribution (`importlib.metadata.packages_distributions` is five times slower)."""
    files = (distribution.read_text("RECORD") or distribution.read_text("top_level.txt") or "").splitlines()
    heads = {line.partition(",")[0].partition("/")[0] for line in files}
    return {head.partition(".")[0] for head in heads if not head.endswith((".dist-info", ".pth"))}


def peak_memory_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def write_sidecar(
    path: Path, outputs: Iterable[Path], inputs: Iterable[Path] | Mapping[str, str], **facts: Any
) -> None:
    """Write to `path`, as JSON, the facts and the hash of every output and input.

    Files are named relative to `path`; for inputs, their names and hashes may be given instead.
    """
    given = inputs if isinstance(inputs, Mapping) else {_relative(p, path): file_hash(p) for p in inputs}
    record = {"outputs": {_relative(p, path): file_hash(p) for p in outputs}, "inputs": dict(given), **facts}
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def key_of(path: Path) -> str | None:
    """The key of the job that a record describes; None if the record or the key is missing, or a file disagrees."""
    try:
        record = json.loads(path.read_bytes())
        intact = all(file_hash(path.parent / name) == expected for name, expected in record["outputs"].items())
        return str(record["key"]) if intact else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def check_sidecar(path: Path) -> Mapping[str, str]:
    """The files that disagree with a sidecar, by name: ``altered``, ``missing`` or ``stale`` (an input changed).

    Raises: DamagedFileError for a damaged sidecar.
    """
    record = damage.record(path, "outputs", "inputs")
    problems: dict[str, str] = {}
    for kind, verdict in (("outputs", "altered"), ("inputs", "stale")):
        for name, expected in record[kind].items():
            file = path.parent / name
            if not file.exists():
                # Published results come without their raw runs, so a missing input is not an error.
                if kind == "outputs":
                    problems[name] = "missing"
            elif file_hash(file) != expected:
                problems[name] = verdict
    return problems


def verified(path: Path, sidecar: Path) -> Path:
    """The path of a file, which is as its sidecar says; where there is no sidecar, nothing is known about the file.

    Raises: DamagedFileError for a file with another hash, or a damaged sidecar.
    """
    if path.exists() and sidecar.exists():
        expected = damage.record(sidecar, "outputs")["outputs"].get(_relative(path, sidecar))
        if expected is not None and file_hash(path) != expected:
            raise DamagedFileError(path, f"its sha256 is not the one that {sidecar.name} recorded when it was written")
    return path


def _relative(file: Path, sidecar: Path) -> str:
    return Path(os.path.relpath(file, sidecar.parent)).as_posix()
