"""Looks after a cache folder: what lies in it, why an entry was made, what may go. `scripts/cache.py` prints it.

Only what `bm/store.py` made is ever removed: a folder whose `entry.json` gives it its name, and what goes by the name
of such a folder. All else is foreign: listed, and left alone.
"""
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bm.flat import difference
from bm.store import FORMAT_VERSION, CorruptEntry, Store, digest, lock_of, read_entry, remove_tree, temporary_of

#: folders below the root in which entries are looked for: kinds have one or two levels
MAX_DEPTH = 3
_NAME = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Entry:
    """An entry on disk. `key` is empty if its `entry.json` cannot be read; `made` is in seconds since 1970."""

    path: Path
    kind: str
    key: dict[str, Any]
    size: int
    made: float

    @property
    def state(self) -> str:
        """"" or what keeps the entry from being used."""
        if not self.key:
            return "damaged"
        return "" if self.key.get("format") == FORMAT_VERSION else "older format"


@dataclass
class Contents:
    """What lies in a cache folder.

    `leftovers`: folders half-made by a process that was killed or is at work, and locks without an entry.
    `foreign`: what this library did not put there.
    """

    root: Path
    entries: list[Entry] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)

    def kind_of(self, path: Path) -> str:
        """The kind of an entry or leftover."""
        return path.parent.relative_to(self.root).as_posix()


def contents(root: Path) -> Contents:
    """All that lies in a cache folder, sorted by path.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no cache folder {root}: expected the one that runs write to; name it with --cache "
                                "DIR or the environment variable BM_CACHE")
    return _scan(root, root, MAX_DEPTH)


def _scan(root: Path, folder: Path, depth: int) -> Contents:
    found = Contents(root)
    names = {path.name for path in folder.iterdir()}
    for name in sorted(names):
        path, stem = folder / name, name.rpartition(".")[0]
        ours = folder != root and _NAME.fullmatch(stem if name.endswith((".tmp", ".lock")) else name)
        if ours and name.endswith((".tmp", ".lock")):
            if name.endswith(".tmp") or stem not in names:
                found.leftovers.append(path)
        elif ours and (entry := _entry(root, path, has_lock=f"{name}.lock" in names)):
            found.entries.append(entry)
        elif depth and path.is_dir() and not ours:
            below = _scan(root, path, depth - 1)
            if below.entries or below.leftovers:
                found.entries += below.entries
                found.leftovers += below.leftovers
                found.foreign += below.foreign
            elif below.foreign:
                found.foreign.append(path)
        else:
            found.foreign.append(path)
    return found


def _entry(root: Path, path: Path, has_lock: bool) -> Entry | None:
    """The entry at `path`; None for what only looks like one. A damaged one is known by its lock."""
    kind = path.parent.relative_to(root).as_posix()
    try:
        key = read_entry(path)["key"]
    except (OSError, ValueError, KeyError, TypeError):  # `verify` says what is wrong with it
        key = {}
    if digest(key) != path.name:
        key = {}
    if not key and not has_lock:
        return None
    try:
        described = path / "entry.json"
        made = (described if described.exists() else path).lstat().st_mtime
        size = sum(file.lstat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    except FileNotFoundError:  # removed meanwhile
        return None
    return Entry(path, kind, key, size, made)


def faults(store: Store, entries: list[Entry], full: bool) -> Iterator[tuple[Entry, str]]:
    """The entries whose files are not what was written, and what is wrong; with `full` all checksums are computed."""
    for entry in entries:
        try:
            store.verify(entry.path, full)
        except CorruptEntry as error:
            yield entry, str(error)
        except FileNotFoundError:  # removed meanwhile, or a folder without its description
            if entry.path.exists():
                yield entry, f"cache entry {entry.path}: entry.json is missing"


def relatives(entry: Entry, entries: list[Entry], most: int = 3) -> list[tuple[Entry, dict[str, tuple[Any, Any]]]]:
    """Entries of the same kind whose keys differ from that of `entry` in at most `most` places, nearest first."""
    pairs = [(other, difference(other.key, entry.key)) for other in entries
             if other.kind == entry.kind and other.path != entry.path and other.key and entry.key]
    return sorted((pair for pair in pairs if len(pair[1]) <= most), key=lambda pair: (len(pair[1]), -pair[0].made))


def remove(path: Path, keep_entry: bool = False) -> bool:
    """Removes an entry, with its lock and what a killed process left of it, under its lock.

    Args:
        path: of the entry; it need not exist any more.
        keep_entry: remove the leftovers only.

    Returns:
        False, with nothing changed, if another process is making it right now. Who has opened its files may go on
        reading them.
    """
    from filelock import FileLock, Timeout
    lock = FileLock(lock_of(path))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    try:
        remove_tree(temporary_of(path))
        if keep_entry and path.exists():
            return True
        if path.is_dir() and not path.is_symlink():
            path.rename(temporary_of(path))  # at once, so that nobody meets half an entry
            shutil.rmtree(temporary_of(path))
        else:
            path.unlink(missing_ok=True)
        lock_of(path).unlink(missing_ok=True)  # who waits for it notices, and opens a new one
    finally:
        lock.release()
    return True
