import os
from pathlib import Path

import filelock
import numpy as np
import pytest

from bm.store import Store, lock_of
from scripts.cache import age_text, default_root, main, size_text


def write(folder: Path) -> None:
    np.save(folder / "x.npy", np.zeros(100))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for i, sha in enumerate(("1" * 64, "2" * 64)):
        path = store.get("prepared", {"recording": "toy/r0", "source": [{"name": "a.fif", "sha256": sha}]}, write)
        os.utime(path / "entry.json", (1e9 + i * 86_400, 1e9 + i * 86_400))
    store.get("tracks/Mel", {"spans": [[i, i + 1] for i in range(30)]}, write)
    (tmp_path / "notes.txt").write_text("mine")
    return store


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.root.rglob("*") if path.is_dir() and len(path.name) == 16)


def run(store: Store, *arguments: str) -> int:
    return main([*arguments, "--cache", str(store.root)])


def test_ls(store, capsys):
    assert run(store, "ls") == 0
    out = capsys.readouterr().out
    assert "prepared: 2 entries" in out and "tracks/Mel: 1 entries" in out and "recording=toy/r0" in out
    assert "30 items" in out and "not ours, never touched:" in out and "notes.txt" in out
    assert run(store, "ls", "tracks") == 0
    assert "prepared" not in capsys.readouterr().out
    assert run(store, "ls", "trakcs") == 2
    assert "'trakcs' names 0 entries" in capsys.readouterr().err


def test_why(store, capsys):
    path = store.path("prepared", {"recording": "toy/r0", "source": [{"name": "a.fif", "sha256": "2" * 64}]})
    for wanted in (path.name, path.name[:8], str(path), str(path / "x.npy")):
        assert run(store, "why", wanted) == 0
        out = capsys.readouterr().out
        assert "whole" in out and "recording: toy/r0" in out and f"source.0.sha256: {'2' * 64}" in out
        assert "because this changed: source.0.sha256: 11111111… → 22222222…" in out and "(1 d)" in out
    assert run(store, "why", "f" * 16) == 2


def test_verify(store, capsys):
    assert run(store, "verify", "--full") == 0
    file = next((store.root / "prepared").glob("*/x.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert run(store, "verify", "--full") == 1
    assert f"{file.parent}: x.npy has been changed" in capsys.readouterr().out
    assert run(store, "verify", "--full", "--repair") == 0 and not file.exists()
    assert run(store, "verify", "--full") == 0 and len(names(store)) == 2


def test_clear_asks_and_keeps_what_is_not_ours(store, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert run(store, "clear") == 1 and len(names(store)) == 3
    assert run(store, "clear", "--older-than", "9999999") == 0 and "nothing to remove" in capsys.readouterr().out
    assert run(store, "clear", "prepared", "--older-than", "1", "--yes") == 0
    assert len(names(store)) == 1 and not list((store.root / "prepared").iterdir())
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run(store, "clear", names(store)[0]) == 0 and names(store) == []
    assert (store.root / "notes.txt").read_text() == "mine"
    assert "1 files or folders that are not ours" in capsys.readouterr().out


def test_clear_skips_what_is_being_made_and_takes_leftovers(store, capsys):
    busy, stale = (store.root / "prepared" / (letter * 16) for letter in "ab")
    for path in (busy, stale):
        path.with_suffix(".tmp").mkdir()
    with filelock.FileLock(lock_of(busy)):
        assert run(store, "clear", "--yes") == 0
        assert f"skipped {busy}" in capsys.readouterr().out
        assert [path.name for path in (store.root / "prepared").glob("*.tmp")] == [busy.name + ".tmp"]
    assert run(store, "clear", "--yes") == 0
    assert not list((store.root / "prepared").iterdir())


def test_the_folder_is_that_of_the_config(monkeypatch):
    monkeypatch.setenv("BM_CACHE", "/some/where")
    assert default_root() == Path("/some/where")
    monkeypatch.delenv("BM_CACHE")
    assert default_root() == Path("cache")
    assert (size_text(3_400_000), age_text(7300)) == ("3.4 MB", "2 h")
