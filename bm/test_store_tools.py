import json
import multiprocessing
import time
from pathlib import Path

import filelock
import numpy as np
import pytest

from bm.flat import difference, flatten
from bm.store import Store, lock_of, temporary_of
from bm.store_tools import contents, faults, relatives, remove


def write(folder: Path) -> None:
    np.save(folder / "x.npy", np.zeros(100))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three entries of two kinds, a damaged one, leftovers and foreign things."""
    store = Store(tmp_path / "cache")
    for kind, rate in [("prepared", 50), ("prepared", 100), ("tracks/Mel", 50), ("prepared", 7)]:
        store.get(kind, {"rate": rate, "source": [{"name": "a", "sha256": "0" * 64}]}, write)
    broken = store.path("prepared", {"rate": 7, "source": [{"name": "a", "sha256": "0" * 64}]})
    (broken / "entry.json").write_text("{")
    (store.root / "prepared" / f"{'a' * 16}.tmp").mkdir()
    (store.root / "prepared" / f"{'b' * 16}.lock").touch()
    (store.root / "notes.txt").write_text("mine")
    (store.root / "prepared" / ("c" * 16)).mkdir()  # looks like an entry, but nothing says it is ours
    (store.root / "elsewhere" / "deep").mkdir(parents=True)
    (store.root / "elsewhere" / "deep" / "photo.jpg").touch()
    return store


def test_contents(store):
    found = contents(store.root)
    assert sorted((e.kind, e.key.get("rate"), e.state) for e in found.entries if e.key) == [
        ("prepared", 50, ""), ("prepared", 100, ""), ("tracks/Mel", 50, "")]
    assert [e.state for e in found.entries if not e.key] == ["damaged"]
    assert all(entry.size > 900 for entry in found.entries)
    assert [p.name for p in found.leftovers] == ["a" * 16 + ".tmp", "b" * 16 + ".lock"]
    assert [str(p.relative_to(store.root)) for p in found.foreign] == ["elsewhere", "notes.txt", f"prepared/{'c' * 16}"]
    with pytest.raises(FileNotFoundError, match="no cache folder .*nowhere.*--cache"):
        contents(store.root / "nowhere")


def test_older_format_is_known(store, monkeypatch):
    monkeypatch.setattr("bm.store_tools.FORMAT_VERSION", 2)
    assert {entry.state for entry in contents(store.root).entries if entry.key} == {"older format"}


def test_differences():
    old = {"rate": 50, "source": [{"name": "a", "sha256": "1"}], "spans": [[0, 1], [1, 2]], "gone": None}
    new = {"rate": 50, "source": [{"name": "a", "sha256": "2"}], "spans": [[0, 1]]}
    assert set(flatten(old)) == {"rate", "source.0.name", "source.0.sha256", "spans", "gone"}
    assert difference(old, new) == {"gone": (None, None), "source.0.sha256": ("1", "2"),
                                    "spans": ([[0, 1], [1, 2]], [[0, 1]])}


def test_relatives(store):
    found = contents(store.root)
    entry = next(e for e in found.entries if e.key.get("rate") == 100)
    ((other, changes),) = relatives(entry, found.entries)
    assert (other.kind, other.key["rate"], changes) == ("prepared", 50, {"rate": (50, 100)})


def test_faults(store):
    found = contents(store.root)
    file = found.entries[0].path / "x.npy"
    file.write_bytes(file.read_bytes()[:-1])
    texts = [text for _, text in faults(store, found.entries, full=True)]
    assert len(texts) == 2 and "x.npy has 927 bytes, expected 928" in texts[0] and "entry.json" in texts[1]


def test_remove(store):
    entry = contents(store.root).entries[0]
    temporary_of(entry.path).mkdir()
    assert remove(entry.path, keep_entry=True) and entry.path.exists() and lock_of(entry.path).exists()
    assert not temporary_of(entry.path).exists()
    assert remove(entry.path) and not list(entry.path.parent.glob(f"{entry.path.name}*"))
    assert remove(entry.path)  # there is nothing any more
    with filelock.FileLock(lock_of(entry.path)):
        temporary_of(entry.path).mkdir()  # as a process at work does
        assert not remove(entry.path) and temporary_of(entry.path).exists()


def _slow(folder: Path) -> None:
    time.sleep(0.4)
    write(folder)


def _get(root: Path) -> None:
    Store(root).get("things", {}, _slow)


def test_removing_beside_processes_that_make_it(tmp_path):
    """However removals fall between them, each process gets a whole entry."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_get, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    path, removed = Store(tmp_path).path("things", {}), 0
    while any(process.is_alive() for process in processes):
        removed += path.exists() and remove(path)
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    store = Store(tmp_path)
    store.verify(store.get("things", {}, write), full=True)
    assert json.loads((path / "entry.json").read_text())["kind"] == "things"
