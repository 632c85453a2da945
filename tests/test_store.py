"""The store of finished work: what is put in comes out as it was, or not at all."""

from multiprocessing import get_context
from pathlib import Path

import pytest

from optrepro.store import MANIFEST, Entry, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    """Two files of a finished job."""
    files = [tmp_path / "metrics.parquet", tmp_path / "run.json"]
    for file in files:
        file.write_bytes(file.name.encode() * 100)
    return files


def contents(entry: Entry | None) -> dict[str, bytes]:
    assert entry is not None
    return {name: entry.path(name).read_bytes() for name in entry.files}


def test_what_is_put_in_comes_out_by_its_key_alone(store: Store, made: list[Path]) -> None:
    store.put("a", made)
    assert contents(Store(store.folder).get("a")) == {file.name: file.read_bytes() for file in made}
    assert store.get("b") is None


def test_a_copy_replaces_what_differs_and_leaves_what_is_there(store: Store, made: list[Path], tmp_path: Path) -> None:
    entry, place = store.put("a", made), tmp_path / "place"
    entry.copy_to(place)
    (place / "run.json").write_text("damaged")
    untouched = (place / "metrics.parquet").stat().st_mtime_ns
    entry.copy_to(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == contents(entry)
    assert (place / "metrics.parquet").stat().st_mtime_ns == untouched


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a flipped bit": (lambda folder: flip(folder / "metrics.parquet"), "its file metrics.parquet is damaged"),
    "a missing file": (lambda folder: (folder / "run.json").unlink(), f"{MANIFEST} lists others"),
    "a file too many": (lambda folder: (folder / "more").touch(), f"{MANIFEST} lists others"),
    "a flipped bit of the manifest": (lambda folder: flip(folder / MANIFEST), "damaged"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), f"its {MANIFEST} is damaged or missing"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_named_set_aside_and_made_anew(
    damage: "object", message: str, store: Store, made: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    entry = store.put("a", made)
    damage(entry.folder)  # type: ignore[operator]
    assert store.get("a") is None
    line = capsys.readouterr().err
    assert str(entry.folder) in line
    assert message in line
    assert not entry.folder.exists()
    assert contents(store.put("a", made)) == {file.name: file.read_bytes() for file in made}


def test_an_entry_that_was_not_written_whole_is_not_there(
    store: Store, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.put("a", made)
    assert store.get("a") is None
    assert list(store.folder.iterdir()) == []


def put_often(folder: Path, files: list[Path]) -> None:
    for key in "abcdefgh":
        assert contents(Store(folder).put(key, files)) == {file.name: file.read_bytes() for file in files}


def test_processes_that_put_the_same_at_once_do_not_disturb_each_other(store: Store, made: list[Path]) -> None:
    processes = [get_context("fork").Process(target=put_often, args=(store.folder, made)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(folder.name for folder in store.folder.iterdir()) == list("abcdefgh")


def test_what_is_pruned_is_what_nobody_keeps(store: Store, made: list[Path]) -> None:
    for key in "abc":
        store.put(key, made)
    assert store.prune({"b"}, dry_run=True) == store.prune({"b"}) == [store.folder / "a", store.folder / "c"]
    assert [store.get(key) is not None for key in "abc"] == [False, True, False]
