"""Public archives of images and texts: their sources, their places on disk, and their checksums.

Files are searched first in the folder named by the environment variable ``OPTREPRO_DATA``, then in the project's
``data/`` folder. Both have the same layout: `Archive.folder` under the root. This module does not import torch, so that
a workflow can ask which data sets are available while it plans.

Checksums of downloads are those published by the data sets' pages and TensorFlow Datasets; checksums of contents are
those of the unpacked files.
"""

import gzip
import hashlib
import os
import tarfile
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import yaml

from optrepro.damage import DamagedFileError, set_aside
from optrepro.settings import ConfigError

DATA_DIR = Path("data")
CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Archive:
    """One public data set as it is published.

    An archive without downloads is embedded: it comes with an installed library or with Python. The files of a text
    that comes with Python are names of modules, and their contents differ between versions of Python.

    Args:
        name: name in configs.
        title: name in captions.
        examples: official numbers of training and test images or documents.
        licence: licence stated by its authors.
        citation: publication of the data set.
        folder: folder of its files under a data folder.
        train: groups of training files; the files of a group are read together, and the groups are independent.
        test: the group of test files.
        contents: official sha256 of each file's content, uncompressed for a gzip file.
        downloads: official sha256 of each file as it is served.
        sources: addresses of the downloads, the official one first.
        modality: kind of its examples; a text has documents, and needs no official test set.
    """

    name: str
    title: str
    examples: tuple[int, int]
    licence: str
    citation: str
    folder: str
    train: tuple[tuple[str, ...], ...]
    test: tuple[str, ...]
    contents: dict[str, str]
    downloads: dict[str, str]
    sources: tuple[str, ...]
    modality: Literal["image", "text"] = "image"

    @property
    def embedded(self) -> bool:
        """Whether the archive is always available without a download."""
        return not self.downloads

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all its files, training before test."""
        return tuple(file for group in (*self.train, self.test) for file in group)


@dataclass(frozen=True)
class Located:
    """Paths of an archive's files under a data folder `root`, grouped as in `Archive`."""

    archive: Archive
    root: Path
    train: tuple[tuple[Path, ...], ...]
    test: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        """All files, training before test."""
        return [path for group in (*self.train, self.test) for path in group]


@dataclass(frozen=True)
class Content:
    """A file that was read: its uncompressed content, the sha256 of the file, and whether the content is official."""

    data: bytes
    sha256: str
    official: bool


class FetchError(RuntimeError):
    """A data set could not be downloaded."""


def _read(name: str, entry: dict[str, Any]) -> Archive:
    """An archive from its entry in ``archives.yaml``."""
    downloads = entry.get("downloads", {})
    return Archive(
        name=name,
        title=entry["title"],
        examples=tuple(entry["examples"]),
        licence=entry["licence"],
        citation=entry["citation"],
        folder=entry.get("folder", ""),
        train=tuple(map(tuple, entry["train"])),
        test=tuple(entry.get("test", ())),
        contents=entry.get("contents", downloads),
        downloads=downloads,
        sources=tuple(entry.get("sources", ())),
        modality=entry.get("modality", "image"),
    )


_ENTRIES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_bytes())
ARCHIVES = {name: _read(name, entry) for name, entry in _ENTRIES.items()}


def archive(name: str) -> Archive:
    """Return an archive by its name. Raises: ConfigError for an unknown name."""
    if name not in ARCHIVES:
        raise ConfigError(f"unknown data set {name!r}: choose from {', '.join(ARCHIVES)}")
    return ARCHIVES[name]


def at_hand(name: str, data_dir: Path = DATA_DIR) -> bool:
    """Whether a data set can be loaded without a download. Checks only that its files exist."""
    return archive(name).embedded or any(_find(archive(name), root) for root in _roots(data_dir))


def first_at_hand(names: Sequence[str], download: bool, data_dir: Path = DATA_DIR) -> str:
    """Return the first data set, in order of preference, that is available or may be downloaded.

    Raises: FileNotFoundError if none is available and downloads are not allowed.
    """
    if download:
        return archive(names[0]).name
    for name in names:
        if at_hand(name, data_dir):
            return name
        _refuse_half_a_set(name, data_dir)
    raise FileNotFoundError(
        f"none of the data sets {', '.join(names)} is available in {_listing(data_dir)}; allow downloads, put the "
        "files there, or add a data set that is always available: 'digits' (images) or 'python-docs' (text)"
    )


def locate(name: str, data_dir: Path = DATA_DIR) -> Located:
    """Find a data set's files: the test files and at least one group of training files.

    Raises: FileNotFoundError if there are none, or if a file in a list of checksums is missing.
    """
    wanted = archive(name)
    if wanted.embedded:
        raise ValueError(f"name = {name!r} is not allowed; the data set is embedded and has no files of its own")
    for root in _roots(data_dir):
        if located := _find(wanted, root):
            _refuse_lost_files(located)
            return located
    raise FileNotFoundError(
        f"{name}: no files in {_listing(data_dir, wanted.folder)}; fetch the data set, or put its files there"
    )


def read(path: Path, located: Located) -> Content:
    """Read one of the located files, and check it against the list of checksums beside it, if there is one.

    Raises: DamagedFileError, a ValueError, for a file that does not match its listed checksum and has not the official
    content, or a truncated or damaged gzip file. In a folder for downloads it is set aside, so that it is fetched again
    and never read.
    """
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if path.suffix == ".gz":
        data = _uncompressed(path, data, located)
    official = hashlib.sha256(data).hexdigest() == located.archive.contents[path.name]
    listed = _listed_checksum(path, located.root)
    if not official and listed not in (None, sha256):  # where the content is official, the list is what is damaged
        raise damaged(path, f"its sha256 is {sha256[:16]}…, but {CHECKSUMS} says {listed[:16]}…", located)
    return Content(data, sha256, official)


def damaged(path: Path, reason: str, located: Located) -> DamagedFileError:
    """The error for a damaged file, which is set aside unless its folder was handed over and so is somebody else's."""
    name, advice = located.archive.name, "copy it there again"
    if located.archive.downloads and str(located.root) != os.environ.get("OPTREPRO_DATA"):
        try:
            advice = f"it was set aside as {set_aside(path).name}: optrepro data fetch {name}, or copy it there again"
        except OSError:  # a folder that may only be read, or another job was faster
            advice = f"delete it, and optrepro data fetch {name}, or copy it there again"
    return DamagedFileError(path, reason, advice)


def refresh(name: str, data_dir: Path = DATA_DIR, progress: bool = True) -> Iterator[Exception]:
    """Download a data set unless it is available and undamaged; yield what was found to be damaged or missing.

    Raises: DamagedFileError for a damaged file in the folder that `OPTREPRO_DATA` names; see also `fetch`.
    """
    if archive(name).embedded:
        return
    there, faults = at_hand(name, data_dir), _faults(name, data_dir)
    yield from faults
    if faults or not there:
        fetch(name, data_dir, progress)


def _faults(name: str, data_dir: Path) -> list[Exception]:
    """What is damaged or missing of a data set in a folder for downloads; damaged files are set aside."""
    faults: list[Exception] = []
    try:
        if not at_hand(name, data_dir):
            _refuse_half_a_set(name, data_dir)
            return []
        located = locate(name, data_dir)
    except (DamagedFileError, FileNotFoundError) as error:
        return [error]
    for path in located.files:
        try:
            read(path, located)
        except DamagedFileError as error:
            if located.root != data_dir:
                raise
            faults.append(error)
    return faults


def fetch(name: str, data_dir: Path = DATA_DIR, progress: bool = True) -> list[Path]:
    """Download a data set into a data folder, unless its official files are there already; return its files.

    Sources are tried in order. An interrupted download resumes where it stopped, also in a later call. Only files with
    the official sha256 are kept, and their checksums are listed beside them. An embedded data set needs no files.

    Raises: FetchError if all sources fail, with the fault of each one.
    """
    layout = _layout(archive(name), data_dir)
    if layout.archive.embedded:
        return []
    if all(_is_official(path, layout) for path in layout.files):
        return layout.files
    folder = data_dir / layout.archive.folder
    folder.mkdir(parents=True, exist_ok=True)
    for file, sha256 in layout.archive.downloads.items():
        _download(file, sha256, layout.archive, folder, progress)
        if file.endswith(".tar.gz"):
            _unpack(folder / file, layout.archive)
    _list_checksums(folder, layout.files)
    return layout.files


class ResumingDownloader:
    """A downloader for pooch that keeps the received part of a file and resumes there.

    A `partial` from another version of the file is only noticed by the later check of the checksum.

    Args:
        partial: file that collects the received data; it survives a crash of the process.
        attempts: largest number of connections.
        wait: seconds before the second attempt, doubled for each further one.
        timeout: seconds without data after which a connection counts as lost.
        progress: whether to draw a progress bar on a terminal.

    Raises: requests.RequestException when the last attempt fails, or at once for a permanent error (such as 404).
    """

    def __init__(
        self, partial: Path, attempts: int = 4, wait: float = 1.0, timeout: float = 30.0, progress: bool = True
    ):
        self.partial = partial
        self.attempts = attempts
        self.wait = wait
        self.timeout = timeout
        self.progress = progress

    def __call__(self, url: str, output_file: str | Path, pooch: object) -> None:
        """Download `url` into `output_file`; the signature is pooch's."""
        import requests

        for attempt in range(1, self.attempts + 1):
            try:
                self._receive(url)
                break
            except requests.RequestException as error:
                if attempt == self.attempts or not _may_pass(error):
                    raise
                time.sleep(self.wait * 2 ** (attempt - 1))
        os.replace(self.partial, output_file)

    def _receive(self, url: str) -> None:
        import requests
        from tqdm import tqdm

        have = self.partial.stat().st_size if self.partial.exists() else 0
        # "identity" forbids compression by the server, which would change the bytes and so the checksum.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                # There is nothing left to receive: the part is complete or of another version, so start anew.
                self.partial.unlink()
                return self._receive(url)
            response.raise_for_status()
            if response.status_code != HTTPStatus.PARTIAL_CONTENT:
                have = 0
            total = have + int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
            hidden = None if self.progress else True  # tqdm: None hides the bar unless on a terminal
            with (
                self.partial.open("ab" if have else "wb") as file,
                tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=url, disable=hidden) as bar,
            ):
                for chunk in response.iter_content(1 << 16):
                    file.write(chunk)
                    bar.update(len(chunk))
        return None


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may help: after a lost connection or a server error, but not after a refusal."""
    response = getattr(error, "response", None)
    return response is None or response.status_code >= 500 or response.status_code == HTTPStatus.TOO_MANY_REQUESTS


def _roots(data_dir: Path) -> list[Path]:
    handed = os.environ.get("OPTREPRO_DATA")
    if not handed:
        return [data_dir]
    if not Path(handed).is_dir():
        raise FileNotFoundError(f"OPTREPRO_DATA = {handed} is not a folder; correct or unset it")
    return [Path(handed), data_dir]


def _listing(data_dir: Path, folder: str = "") -> str:
    return " or ".join(str(root / folder) for root in _roots(data_dir))


def _layout(wanted: Archive, root: Path) -> Located:
    """Return the paths of all files of an archive under a data folder, whether they exist or not."""
    folder = root / wanted.folder
    train = tuple(tuple(folder / file for file in group) for group in wanted.train)
    return Located(wanted, root, train, test=tuple(folder / file for file in wanted.test))


def _find(wanted: Archive, root: Path) -> Located | None:
    layout = _layout(wanted, root)
    train = tuple(group for group in layout.train if all(path.is_file() for path in group))
    return replace(layout, train=train) if train and all(path.is_file() for path in layout.test) else None


def _refuse_half_a_set(name: str, data_dir: Path) -> None:
    """Raise FileNotFoundError for a data set that was whole and is not, rather than take another one without a word."""
    for root in _roots(data_dir):
        layout = _layout(archive(name), root)
        if any(path.is_file() for path in layout.files):
            _refuse_lost_files(replace(layout, train=(), test=()))


def _refuse_lost_files(located: Located) -> None:
    for path in _layout(located.archive, located.root).files:
        if path not in located.files and not path.is_file() and _listed_checksum(path, located.root):
            raise FileNotFoundError(
                f"{path} is missing, but {CHECKSUMS} names it: optrepro data fetch {located.archive.name}, or copy it "
                "there again"
            )


def _listed_checksum(path: Path, root: Path) -> str | None:
    """Return the sha256 of a file from a list in its folder or a parent folder, up to the root."""
    folder = path.parent
    while True:
        listed = _read_checksums(folder / CHECKSUMS)
        if found := listed.get(path.relative_to(folder).as_posix()):
            return found
        if folder == root:
            return None
        folder = folder.parent


def _read_checksums(path: Path) -> dict[str, str]:
    """Read a list in sha256sum's format as a map of file name to sha256; empty if there is no list."""
    if not path.is_file():
        return {}
    lines = [line.split(maxsplit=1) for line in path.read_text(errors="replace").splitlines() if line.strip()]
    if any(len(line) != 2 for line in lines):
        raise DamagedFileError(
            path, "expected lines of a sha256 and a file name, as sha256sum writes them", "delete it or make it again"
        )
    return {file.strip().lstrip("*"): sha256.lower() for sha256, file in lines}


def _list_checksums(folder: Path, files: list[Path]) -> None:
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / CHECKSUMS).write_text("".join(lines))


def _uncompressed(path: Path, data: bytes, located: Located) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = f"expected a whole gzip file, found {len(data)} bytes ({error})"
        raise damaged(path, reason, located) from error


def _is_official(path: Path, located: Located) -> bool:
    try:
        return read(path, located).official
    except (FileNotFoundError, ValueError):
        return False


def _download(file: str, sha256: str, wanted: Archive, folder: Path, progress: bool) -> None:
    import pooch
    import requests

    downloader = ResumingDownloader(folder / f"{file}.part", progress=progress)
    faults = []
    for source in wanted.sources:
        # Retries once after a wrong checksum, which may come from a stale partial file that is deleted by then.
        shelf = pooch.create(
            folder, base_url=source, registry={file: f"sha256:{sha256}"}, urls={file: source + file}, retry_if_failed=1
        )
        try:
            shelf.fetch(file, downloader=downloader)
            return
        except (ValueError, requests.RequestException) as error:
            faults.append(f"  {source}{file}: {error}")
    raise FetchError(
        "\n".join([f"{wanted.name}: {file} could not be fetched", *faults])
        + f"\nTo use a copy, put its files into {folder}, or set OPTREPRO_DATA to a folder which holds {wanted.folder}."
    )


def _unpack(tarball: Path, wanted: Archive) -> None:
    """Extract only the known files from a verified tar archive, then delete the archive."""
    with tarfile.open(tarball, "r:gz") as tar:
        for file in wanted.files:
            member = tar.extractfile(f"{wanted.folder}/{file}")
            if member is None:
                raise ValueError(f"{tarball}: {wanted.folder}/{file} is not a regular file")
            # Written under another name and renamed, so that an existing file is always complete.
            partial = tarball.parent / f"{file}.part"
            partial.write_bytes(member.read())
            os.replace(partial, tarball.parent / file)
    tarball.unlink()
