"""The store of finished work: the files of a job under its key, a hash of everything that determines them.

An entry is a folder with the files and `MANIFEST`, which lists their checksums. It appears as a whole, by renaming, or
not at all. Its files are checked whenever they are taken, and an entry that is damaged is set aside, so that the job
runs again. The store does not import torch: what is in it is at hand in milliseconds.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from optrepro import layout
from optrepro.provenance import file_hash

MANIFEST = "manifest.json"
_PARTIAL, _DAMAGED = ".partial-", "damaged-"


@dataclass(frozen=True)
class Entry:
    """The files of one finished job, with the SHA-256 of each by name."""

    folder: Path
    files: dict[str, str]

    def path(self, name: str) -> Path:
        """The path of a file of the entry. Raises: KeyError if the entry has no such file."""
        if name not in self.files:
            raise KeyError(name)
        return self.folder / name

    def copy_to(self, folder: Path) -> None:
        """Copy the files to a folder, each as a whole; a file that is there already, with the same content, stays."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, checksum in self.files.items():
            target = folder / name
            if not (target.is_file() and file_hash(target) == checksum):
                partial = target.with_name(f"{_PARTIAL}{os.getpid()}-{name}")
                shutil.copyfile(self.folder / name, partial)
                partial.replace(target)


class Store:
    """A folder of entries. Several processes may use it at the same time."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder or layout.store()

    def get(self, key: str) -> Entry | None:
        """The entry of a key, or None if there is none or it is damaged; a damaged one is named and set aside."""
        folder = self.folder / key
        if not folder.is_dir():
            return None
        try:
            entry = Entry(folder, _read_manifest(folder))
            if damaged := [n for n, checksum in entry.files.items() if _checksum(folder / n) != checksum]:
                raise ValueError(f"its file {damaged[0]} is damaged or missing")
        except ValueError as error:
            self._set_aside(folder, str(error))
            return None
        return entry

    def put(self, key: str, files: Iterable[Path]) -> Entry:
        """Copy files into a new entry; if another process has made the same entry meanwhile, that one is returned."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.folder))
        try:
            checksums = {}
            for file in files:
                copy = partial / file.name
                shutil.copyfile(file, copy)
                _flush(copy)
                checksums[file.name] = file_hash(copy)
            manifest = partial / MANIFEST
            manifest.write_text(json.dumps(checksums, indent=1, sort_keys=True) + "\n")
            _flush(manifest)
            partial.chmod(0o755)
            try:
                partial.rename(self.folder / key)
            except OSError:  # the entry exists
                existing = self.get(key)
                if existing is not None:
                    return existing
                partial.rename(self.folder / key)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return Entry(self.folder / key, checksums)

    def prune(self, keep: Collection[str], dry_run: bool = False) -> list[Path]:
        """Delete all entries but those of the keys in `keep`, and what was set aside or left behind; return them."""
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        removed = [folder for folder in folders if folder.name not in keep]
        for folder in removed if not dry_run else ():
            shutil.rmtree(folder)
        return removed

    def _set_aside(self, folder: Path, reason: str) -> None:
        aside = Path(tempfile.mkdtemp(prefix=f"{_DAMAGED}{folder.name}-", dir=self.folder))
        try:
            folder.rename(aside / folder.name)
        except OSError:  # another process has just set it aside
            return
        print(f"{folder}: {reason}; it was moved to {aside}, and its job runs again", file=sys.stderr, flush=True)


def _read_manifest(folder: Path) -> dict[str, str]:
    """The checksums of the files of an entry, by name. Raises: ValueError if the manifest is damaged or missing."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise ValueError(f"its {MANIFEST} is damaged or missing") from None
    names = {path.name for path in folder.iterdir()} - {MANIFEST}
    if not isinstance(manifest, dict) or set(manifest) != names:
        raise ValueError(f"its files are {sorted(names)}, and its {MANIFEST} lists others")
    return manifest


def _checksum(path: Path) -> str | None:
    """The SHA-256 of a file, or None if it cannot be read."""
    try:
        return file_hash(path)
    except OSError:
        return None


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
