import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from optrepro.problems.data import archives
from optrepro.problems.data.archives import ARCHIVES, ResumingDownloader

HANDED = os.environ.get("OPTREPRO_DATA")
BODY = bytes(range(256)) * 1200  # 300 kB: several network reads


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def nothing_handed_over(monkeypatch):
    monkeypatch.delenv("OPTREPRO_DATA", raising=False)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


class Server(ThreadingHTTPServer):
    """Serves `files`; misbehaves as told, and keeps a list of (path, range header) of what it was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.cuts = []  # for each coming answer: bytes after which the connection is cut, or None
        self.refusals = []  # statuses of the coming answers
        self.ignore_range = False
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        body = server.files.get(self.path.lstrip("/"))
        if server.refusals:
            return self.answer(server.refusals.pop(0))
        if body is None:
            return self.answer(404)
        if not wanted or server.ignore_range:
            return self.answer(200, body)
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        return self.answer(206, body[start:]) if start < len(body) else self.answer(416)

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and body else None
        self.wfile.write(body[:cut])
        self.close_connection = True


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def download(server, tmp_path, **settings):
    server.files["file"] = BODY
    target = tmp_path / "file"
    ResumingDownloader(tmp_path / "file.part", progress=False, **settings)(server.url + "file", target, None)
    return target.read_bytes()


def test_a_download_that_is_cut_off_goes_on_where_it_stopped(server, tmp_path):
    server.cuts = [200_000, 50_000, 0]
    assert download(server, tmp_path) == BODY
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) for _, wanted in server.asked[1:]]
    assert len(starts) == 3
    assert 100_000 < starts[0] <= 200_000
    assert starts == sorted(starts)


def test_a_download_goes_on_from_what_an_earlier_process_left(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY[:123_456])
    assert download(server, tmp_path) == BODY
    assert server.asked == [("/file", "bytes=123456-")]


def test_a_server_that_knows_no_ranges_is_read_from_the_start(server, tmp_path):
    server.ignore_range = True
    server.cuts = [200_000]
    assert download(server, tmp_path) == BODY


def test_a_partial_file_beyond_the_end_is_dropped(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    assert download(server, tmp_path) == BODY


def test_a_download_is_given_up_after_the_last_attempt_and_keeps_what_it_has(server, tmp_path):
    server.cuts = [100_000, 0, 0]
    with pytest.raises(requests.RequestException):
        download(server, tmp_path, attempts=3)
    assert len(server.asked) == 3
    assert BODY.startswith((tmp_path / "file.part").read_bytes())
    assert (tmp_path / "file.part").stat().st_size > 0


@pytest.mark.parametrize(("status", "requests_made"), [(404, 1), (403, 1), (503, 2), (429, 2)])
def test_a_refusal_is_final_and_a_server_in_trouble_is_asked_again(server, tmp_path, status, requests_made):
    server.refusals = [status]
    if requests_made == 1:
        with pytest.raises(requests.HTTPError, match=str(status)):
            download(server, tmp_path)
    else:
        assert download(server, tmp_path) == BODY
    assert len(server.asked) == requests_made


def as_tarball(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def small_mnist(server, monkeypatch):
    """MNIST with tiny contents, on the local server."""
    contents = {file: file.encode() * 10 for file in ARCHIVES["mnist"].files}
    server.files = {file: gzip.compress(data) for file, data in contents.items()}
    small = replace(
        ARCHIVES["mnist"],
        contents={file: sha256(data) for file, data in contents.items()},
        downloads={file: sha256(data) for file, data in server.files.items()},
        sources=(server.url,),
    )
    monkeypatch.setitem(ARCHIVES, "mnist", small)
    return small


@pytest.fixture
def small_cifar(server, monkeypatch, tmp_path):
    """CIFAR-100 with tiny contents on the local server, in a tarball that also holds files nobody asked for."""
    contents = {"train.bin": b"training", "test.bin": b"test"}
    unwanted = {"../escaped": b"!", str(tmp_path / "absolute"): b"!", "cifar-100-binary/extra.pkl": b"!"}
    tarball = as_tarball({f"cifar-100-binary/{file}": data for file, data in contents.items()} | unwanted)
    server.files = {"cifar-100-binary.tar.gz": tarball}
    small = replace(
        ARCHIVES["cifar100"],
        contents={file: sha256(data) for file, data in contents.items()},
        downloads={"cifar-100-binary.tar.gz": sha256(tarball)},
        sources=(server.url,),
    )
    monkeypatch.setitem(ARCHIVES, "cifar100", small)
    return small


def test_fetched_files_are_at_hand_official_and_listed_with_their_checksums(small_mnist, server, tmp_path):
    assert not archives.at_hand("mnist", tmp_path)
    files = archives.fetch("mnist", tmp_path, progress=False)
    assert files == [tmp_path / "MNIST/raw" / file for file in small_mnist.files]
    assert archives.at_hand("mnist", tmp_path)
    located = archives.locate("mnist", tmp_path)
    assert all(archives.read(path, located).official for path in files)
    listed = dict(reversed(line.split()) for line in (tmp_path / "MNIST/raw/SHA256SUMS").read_text().splitlines())
    assert listed == small_mnist.downloads


def test_what_is_there_already_is_not_fetched_again(small_mnist, server, tmp_path):
    archives.fetch("mnist", tmp_path, progress=False)
    server.asked.clear()
    archives.fetch("mnist", tmp_path, progress=False)
    assert server.asked == []


def test_a_file_damaged_since_it_was_fetched_is_refused_and_fetched_again(small_mnist, server, tmp_path):
    path = archives.fetch("mnist", tmp_path, progress=False)[0]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path.name} is damaged"):
        archives.read(path, archives.locate("mnist", tmp_path))
    server.asked.clear()
    archives.fetch("mnist", tmp_path, progress=False)
    assert server.asked == [(f"/{path.name}", None)]
    assert archives.read(path, archives.locate("mnist", tmp_path)).official


def test_a_corrupt_download_is_refused_by_name_and_not_kept(small_mnist, server, tmp_path):
    corrupt = "train-labels-idx1-ubyte.gz"
    server.files[corrupt] += b"x"
    with pytest.raises(RuntimeError, match=f"(?s){corrupt} could not be fetched.*{server.url}{corrupt}.*OPTREPRO_DATA"):
        archives.fetch("mnist", tmp_path, progress=False)
    assert not list((tmp_path / "MNIST/raw").glob(f"{corrupt}*"))


def test_a_stale_partial_file_spoils_no_download(small_mnist, server, tmp_path):
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte.gz.part").write_bytes(b"of another version")
    archives.fetch("mnist", tmp_path, progress=False)
    assert archives.at_hand("mnist", tmp_path)


@pytest.mark.parametrize("fault", ["missing", "corrupt"])
def test_a_mirror_steps_in_for_the_official_source(small_mnist, server, tmp_path, monkeypatch, fault):
    for file in small_mnist.downloads:
        server.files[f"mirror/{file}"] = server.files.pop(file)
        if fault == "corrupt":
            server.files[file] = b"<html>moved</html>"
    monkeypatch.setitem(ARCHIVES, "mnist", replace(small_mnist, sources=(server.url, server.url + "mirror/")))
    archives.fetch("mnist", tmp_path, progress=False)
    assert archives.at_hand("mnist", tmp_path)


def test_only_the_known_files_leave_a_tarball(small_cifar, tmp_path):
    files = archives.fetch("cifar100", tmp_path / "data", progress=False)
    assert [path.read_bytes() for path in files] == [b"training", b"test"]
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"data/cifar-100-binary/{file}" for file in ("train.bin", "test.bin", "SHA256SUMS")}


def write_cifar(root, checksums=False, **files):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for file, data in files.items():
        (folder / f"{file}.bin").write_bytes(data)
    if checksums:
        lines = [f"{sha256(data)}  cifar-10-batches-bin/{file}.bin\n" for file, data in files.items()]
        (root / "SHA256SUMS").write_text("".join(lines))
    return folder


def test_a_subset_of_the_training_files_is_enough(tmp_path):
    folder = write_cifar(tmp_path, data_batch_2=b"two", test_batch=b"test")
    located = archives.locate("cifar10", tmp_path)
    assert located.train == ((folder / "data_batch_2.bin",),)
    assert located.test == (folder / "test_batch.bin",)
    assert not archives.read(located.test[0], located).official


@pytest.mark.parametrize("files", [{"test_batch": b"test"}, {"data_batch_1": b"one"}])
def test_test_files_or_training_files_alone_are_not_at_hand(tmp_path, files):
    write_cifar(tmp_path, **files)
    assert not archives.at_hand("cifar10", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"cifar10: no files in .*cifar-10-batches-bin"):
        archives.locate("cifar10", tmp_path)


def test_the_folder_handed_over_is_looked_in_first(tmp_path, monkeypatch):
    handed, own = tmp_path / "handed", tmp_path / "own"
    write_cifar(handed, data_batch_1=b"one", test_batch=b"test")
    write_cifar(own, data_batch_1=b"one", test_batch=b"test")
    assert archives.locate("cifar10", own).root == own
    monkeypatch.setenv("OPTREPRO_DATA", str(handed))
    assert archives.locate("cifar10", own).root == handed


def test_a_folder_handed_over_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTREPRO_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"OPTREPRO_DATA = .*nowhere is not a folder"):
        archives.at_hand("mnist", tmp_path)


def test_files_handed_over_are_checked_against_their_list(tmp_path):
    folder = write_cifar(tmp_path, checksums=True, data_batch_1=b"one", data_batch_2=b"two", test_batch=b"test")
    located = archives.locate("cifar10", tmp_path)
    assert archives.read(folder / "data_batch_1.bin", located).sha256 == sha256(b"one")
    (folder / "data_batch_1.bin").write_bytes(b"on")
    with pytest.raises(ValueError, match=f"data_batch_1.bin is damaged: .*{sha256(b'on')[:9]}.*{sha256(b'one')[:9]}"):
        archives.read(folder / "data_batch_1.bin", located)


def test_a_file_that_the_list_names_may_not_be_missing(tmp_path):
    folder = write_cifar(tmp_path, checksums=True, data_batch_1=b"one", data_batch_2=b"two", test_batch=b"test")
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_2.bin is missing, but SHA256SUMS names it"):
        archives.locate("cifar10", tmp_path)


def test_a_malformed_list_of_checksums_is_named(tmp_path):
    write_cifar(tmp_path, data_batch_1=b"one", test_batch=b"test")
    (tmp_path / "SHA256SUMS").write_text("nonsense\n")
    with pytest.raises(ValueError, match="SHA256SUMS is damaged: expected lines of a sha256 and a file name"):
        archives.locate("cifar10", tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"not gzip", lambda data: data[:30] + b"???"])
def test_a_damaged_gzip_file_is_named(small_mnist, server, tmp_path, damage):
    path = archives.fetch("mnist", tmp_path, progress=False)[0]
    (path.parent / "SHA256SUMS").unlink()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path.name} is damaged: expected a whole gzip file"):
        archives.read(path, archives.locate("mnist", tmp_path))


def test_the_first_data_set_at_hand_is_taken_unless_downloads_are_allowed(tmp_path):
    assert archives.first_at_hand(["cifar100", "cifar10", "digits"], download=False, data_dir=tmp_path) == "digits"
    write_cifar(tmp_path, data_batch_1=b"one", test_batch=b"test")
    assert archives.first_at_hand(["cifar100", "cifar10", "digits"], download=False, data_dir=tmp_path) == "cifar10"
    assert archives.first_at_hand(["cifar100", "cifar10", "digits"], download=True, data_dir=tmp_path) == "cifar100"
    assert archives.first_at_hand(["gsm8k", "python-source"], download=False, data_dir=tmp_path) == "python-source"


def test_an_error_lists_what_was_looked_for_if_nothing_is_at_hand(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"none of the data sets cifar100, mnist is available in {tmp_path}"):
        archives.first_at_hand(["cifar100", "mnist"], download=False, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["digits", "python-docs", "python-source"])
def test_the_embedded_sets_are_always_at_hand_and_need_no_files(name, tmp_path):
    assert archives.at_hand(name, tmp_path)
    assert archives.fetch(name, tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("use", [archives.at_hand, archives.locate, archives.fetch])
def test_an_unknown_name_is_answered_with_the_known_ones(use, tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'imagenet': choose from digits, mnist, fashion-mnist"):
        use("imagenet", tmp_path)


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_archive_is_registered_whole(name):
    archive = ARCHIVES[name]
    comes_with_python = archive.embedded and archive.modality == "text"
    assert set(archive.contents) == (set() if comes_with_python else set(archive.files))
    checksums = [*archive.contents.values(), *archive.downloads.values()]
    assert all(len(bytes.fromhex(checksum)) == 32 for checksum in checksums)
    assert len(set(archive.contents.values())) == len(archive.contents)
    assert len(set(archive.downloads.values())) == len(archive.downloads)
    assert archive.embedded or all(source.startswith("http") and source.endswith("/") for source in archive.sources)


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_readme_of_the_data_folder_lists_every_source_and_checksum(name):
    readme = (Path(__file__).parents[3] / "data" / "README.md").read_text()
    archive = ARCHIVES[name]
    for fact in (name, archive.licence, *archive.sources, *archive.downloads, *archive.downloads.values()):
        assert fact in readme


def test_planning_needs_no_torch():
    lines = "import sys", "from optrepro.problems.data import archives", "archives.at_hand('digits')"
    code = "\n".join([*lines, "print('torch' in sys.modules)"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(not HANDED, reason="OPTREPRO_DATA is not set")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "tinyshakespeare", "gsm8k"])
def test_the_real_files_have_the_official_content(name, monkeypatch):
    monkeypatch.setenv("OPTREPRO_DATA", HANDED)
    if not archives.at_hand(name):
        pytest.skip(f"{name} is not in OPTREPRO_DATA")
    located = archives.locate(name)
    assert all(archives.read(path, located).official for path in located.files)
