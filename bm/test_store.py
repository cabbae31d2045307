import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from bm.store import CorruptEntry, Store, digest, file_identity, stable_id


def write(folder: Path, value: int = 3) -> None:
    np.save(folder / "x.npy", np.full(1000, value))


def test_made_once_then_found(tmp_path):
    store, calls = Store(tmp_path), []
    for _ in range(2):
        path = store.get("things", {"a": 1}, lambda folder: (calls.append(1), write(folder)))
    assert len(calls) == 1
    assert np.load(path / "x.npy")[0] == 3
    assert json.loads((path / "entry.json").read_text())["key"] == {"a": 1, "version": 1}
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
