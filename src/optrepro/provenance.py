"""Where a result comes from: hashes of source, files and settings, and the sidecar that records them."""

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
from pathlib import Path
from typing import Any

from optrepro import __version__, source

PACKAGE = Path(__file__).parent


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_hash(*modules: str) -> str:
    """Twelve hexadecimal digits over the code of the modules and of all modules of this package that they import.

    Comments, docstrings, formatting, the order of the modules and their places in the package change nothing; any
    other change of the code does, as `source.SourceTree` tells.

    Packages' ``__init__`` files only re-export, so a module counts only where it is named itself: editing one figure
    or one optimizer leaves every step alone that does not use it. Modules of other packages are the lock's business.

    Raises: ValueError for a module of this package that does not exist.
    """
    tree = source.tree(PACKAGE)
    digests = sorted({tree.digest(module) for module in modules})
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout, or nulls where there is none (an unpacked archive, an installed wheel)."""

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
    """Versions and processor: what may move a result's last bits."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": imported_versions(),
    }


def imported_versions() -> dict[str, str]:
    """Versions of the distributions that this process has imported something of so far, by name, in order.

    Of a namespace that several distributions share, all count.
    """
    imported = {name.partition(".")[0] for name in sys.modules} - {"optrepro"}
    found = [each for each in importlib.metadata.distributions() if imported & _packages(each)]
    versions = {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in found}
    # From a checkout there may be no metadata of this package, or those of an older version.
    return dict(sorted({**versions, "optrepro": __version__}.items()))


def _packages(distribution: importlib.metadata.Distribution) -> set[str]:
    """The top-level packages of a distribution; `importlib.metadata` tells them too, but takes five times as long."""
    files = (distribution.read_text("RECORD") or distribution.read_text("top_level.txt") or "").splitlines()
    heads = {line.partition(",")[0].partition("/")[0] for line in files}
    return {head.partition(".")[0] for head in heads if not head.endswith((".dist-info", ".pth"))}


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def write_sidecar(path: Path, outputs: Iterable[Path], inputs: Iterable[Path], **facts: Any) -> None:
    """Write `path` (JSON): the facts, and the hash of every file written and read, by its name relative to `path`."""
    record = {
        "outputs": {_relative(p, path): file_hash(p) for p in outputs},
        "inputs": {_relative(p, path): file_hash(p) for p in inputs},
        **facts,
    }
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def check_sidecar(path: Path) -> Mapping[str, str]:
    """What no longer agrees with a sidecar: file name -> ``altered``, ``missing`` or ``stale`` (an input changed)."""
    record = json.loads(path.read_text())
    problems: dict[str, str] = {}
    for kind, verdict in (("outputs", "altered"), ("inputs", "stale")):
        for name, expected in record[kind].items():
            file = path.parent / name
            if not file.exists():
                # Raw runs are not kept with published results: a missing input only means it cannot be re-checked.
                if kind == "outputs":
                    problems[name] = "missing"
            elif file_hash(file) != expected:
                problems[name] = verdict
    return problems


def _relative(file: Path, sidecar: Path) -> str:
    return Path(os.path.relpath(file, sidecar.parent)).as_posix()
