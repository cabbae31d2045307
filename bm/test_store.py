import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import filelock
import numpy as np
import pytest

import bm.store
from bm.store import CorruptEntry, Store, digest, file_identity, stable_id


def write(folder: Path, value: int = 3) -> None:
    np.save(folder / "x.npy", np.full(1000, value))


def test_made_once_then_found(tmp_path):
    store, calls = Store(tmp_path), []
    for _ in range(2):
        path = store.get("things", {"a": 1}, lambda folder: (calls.append(1), write(folder)))
    assert len(calls) == 1
    assert np.load(path / "x.npy")[0] == 3
    assert json.loads((path / "entry.json").read_text())["key"] == {"a": 1, "format": 1}
    assert store.get("things", {"a": 2}, write) != path


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "description"])
def test_damage_is_noticed_named_and_mended(tmp_path, caplog, damage):
    store = Store(tmp_path)
    file = store.get("things", {}, write) / "x.npy"
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        stat = file.stat()
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # even with the old time put back
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "remove":
        file.unlink()
    else:
        (file.parent / "entry.json").write_text("{")
    with pytest.raises(CorruptEntry, match="x.npy|entry.json"):
        store.verify(file.parent)
    assert np.load(store.get("things", {}, write) / "x.npy")[0] == 3
    assert "made anew" in caplog.text
    store.verify(file.parent, full=True)


def _slow(folder: Path) -> None:
    with open(folder.parent / "calls.txt", "a") as calls:
        calls.write("x")
    time.sleep(0.5)
    write(folder)


def _get(root: Path) -> None:
    Store(root).get("things", {}, _slow)


def _never(folder: Path) -> None:
    write(folder)
    (folder.parent / "started").touch()
    time.sleep(60)


def _get_never(root: Path) -> None:
    Store(root).get("things", {}, _never)


def test_eight_processes_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_get, args=(tmp_path,)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "things/calls.txt").read_text() == "x"


def test_kill_leaves_nothing_half_written(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_get_never, args=(tmp_path,))
    process.start()
    while not (tmp_path / "things/started").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    store = Store(tmp_path)
    with pytest.raises(FileNotFoundError):
        store.verify(store.path("things", {}))
    assert np.load(store.get("things", {}, write) / "x.npy")[0] == 3


def test_failure_in_make_leaves_nothing(tmp_path):
    def fail(folder):
        write(folder)
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"):
        Store(tmp_path).get("things", {}, fail)
    assert [p.suffix for p in (tmp_path / "things").iterdir()] == [".lock"]


def test_full_disk_is_explained(tmp_path):
    def full(folder):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="free some space"):
        Store(tmp_path).get("things", {}, full)


def test_really_full_disk_is_explained(tmp_path):
    def full(folder):  # /dev/full answers every write as a full disk does; numpy's error then has no number
        (folder / "x.npy").symlink_to("/dev/full")
        np.save(folder / "x.npy", np.zeros(100_000))
    with pytest.raises(OSError, match=r"cannot use the cache entry .*things.*No space left.*free some space") as caught:
        Store(tmp_path).get("things", {}, full)
    assert caught.value.errno == errno.ENOSPC
    assert [p.suffix for p in (tmp_path / "things").iterdir()] == [".lock"]


@pytest.mark.parametrize("number, cure", [(errno.EROFS, "the disk is read-only"), (errno.EACCES, "make the folder")])
def test_read_only_folder(tmp_path, monkeypatch, number, cure):
    store = Store(tmp_path / "cache")
    path = store.get("things", {}, write)

    def refuse(name, *arguments, **options):
        raise OSError(number, os.strerror(number), str(name))
    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda lock, *a, **k: refuse(lock.lock_file))
    for name in ("replace", "fsync", "rename", "unlink", "mkdir"):
        monkeypatch.setattr(bm.store.os, name, refuse)
    assert np.load(store.get("things", {}, write) / "x.npy")[0] == 3  # a whole one is read without a write
    with pytest.raises(OSError, match=f"cannot use the cache entry .*{cure}.*set another folder with cache=") as caught:
        store.get("things", {"a": 2}, write)
    assert caught.value.errno == number
    monkeypatch.undo()
    store.verify(path, full=True)


def test_cache_that_is_a_file_or_a_broken_link(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(OSError, match=f"{name}/things.*is a file or a link to nothing, expected folders"):
            Store(tmp_path / name).get("things", {}, write)


def test_symlinked_root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    path = Store(tmp_path / "link").get("things", {}, write)
    Store(tmp_path / "link").verify(path, full=True)

    def never(folder):
        raise AssertionError("it is there already")
    assert Store(tmp_path / "real").get("things", {}, never).samefile(path)


def test_another_format_is_another_entry(tmp_path, monkeypatch):
    store, key = Store(tmp_path), {"version": 7}  # a key's own version is not that of the format
    old = store.get("things", key, write)
    monkeypatch.setattr(bm.store, "FORMAT_VERSION", 2)
    assert store.get("things", key, write) != old


def _rewrite(path, **change):
    entry = json.loads((path / "entry.json").read_text()) | change
    (path / "entry.json").write_text(json.dumps(entry))


FOREIGN = {
    "list": lambda path: (path / "entry.json").write_text("[1]"),
    "no files": lambda path: _rewrite(path, files=None),
    "no stamp": lambda path: _rewrite(path, files={"x.npy": {}}),
    "upward": lambda path: _rewrite(path, files={"../x": {"size": 1, "sha256": "", "times": []}}),
    "other key": lambda path: _rewrite(path, key={"a": 5}),
    "other kind": lambda path: _rewrite(path, kind="prepared"),
    "binary": lambda path: (path / "entry.json").write_bytes(b"\xff\xfe\x00"),
    "folder": lambda path: ((path / "entry.json").unlink(), (path / "entry.json").mkdir()),
    "file": lambda path: (shutil.rmtree(path), path.write_text("hello")),
    "no description": lambda path: (path / "entry.json").unlink(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_not_an_entry_is_never_taken_for_one(tmp_path, kind):
    store = Store(tmp_path)
    path = store.get("things", {}, write)
    path.with_name(f"{path.name}.tmp").write_text("a file where the half-made folder goes")
    FOREIGN[kind](path)
    with pytest.raises((CorruptEntry, FileNotFoundError), match=path.name):
        store.verify(path)
    assert store.get("things", {}, lambda folder: write(folder, 4)) == path
    assert np.load(path / "x.npy")[0] == 4
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]


def _make_for_ever(root: Path) -> None:
    for i in range(1_000_000):
        Store(root).get("things", {"i": i}, _two_files)


def _two_files(folder: Path) -> None:
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", np.full(30_000, len(name)))


def test_killed_at_any_moment(tmp_path):
    rng = random.Random(os.environ.get("BM_KILL_SEED", "5"))
    store, half = Store(tmp_path), 0
    for _ in range(12):
        process = multiprocessing.get_context("fork").Process(target=_make_for_ever, args=(tmp_path,))
        process.start()
        time.sleep(rng.uniform(0.02, 0.12))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        half += len(list((tmp_path / "things").glob("*.tmp")))
        for path in (tmp_path / "things").glob("*[0-9a-f]"):
            if path.is_dir() and path.suffix == "":
                store.verify(path, full=True)  # what has the name of an entry is whole
    count = len(list((tmp_path / "things").glob("*.lock")))
    for i in range(count):
        assert np.load(store.get("things", {"i": i}, _two_files) / "b.npy").shape == (30_000,)
    assert half > 0 and not list((tmp_path / "things").glob("*.tmp"))


def test_error_of_the_maker_is_not_blamed_on_the_cache(tmp_path):
    with pytest.raises(FileNotFoundError, match="no-such.wav") as caught:
        Store(tmp_path).get("things", {}, lambda folder: (tmp_path / "no-such.wav").read_bytes())
    assert "cache entry" not in str(caught.value)


def test_identities(tmp_path):
    # fixed numbers: the same in every process and on every machine
    assert digest({"a": 1, "b": [None, "x"]}) == digest({"b": [None, "x"], "a": 1}) == "9111423b56df6a6d"
    assert stable_id("word") == 5503668844211354426
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"abc")
    large.write_bytes(bytes(3 << 20))
    assert set(file_identity(small)) == {"name", "sha256"}
    before = file_identity(large)
    with open(large, "r+b") as file:
        file.write(b"x")
    assert file_identity(large)["ends"] != before["ends"]
