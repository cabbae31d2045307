"""The on-disk cache, used by all that keeps anything.

An *entry* is a folder `<root>/<kind>/<key>` with data files and `entry.json`: the readable key, sizes and checksums.
The key is a hash of parameters, the identity of the source (content, not place) and a format version, so a change of
any of them makes another entry and nobody ever deletes the cache by hand. Entries are written beside their place and
renamed into it under a lock, so many processes may ask for one at once and it is made once, and a killed process
leaves nothing half-written. A whole entry is read without writing anything, so a cache may lie on a read-only disk.
`bm/store_tools.py` looks after the folder.
"""
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

#: what goes wrong with a cache folder → what to do about it
_CURES = {
    errno.ENOSPC: "free some space (`python -m scripts.cache` shows and clears the cache)",
    errno.EDQUOT: "free some of your quota (`python -m scripts.cache` shows and clears the cache)",
    errno.EFBIG: "the disk or a limit of your session forbids files of this size",
    errno.EROFS: "the disk is read-only, so only what is there already can be used",
    errno.EACCES: "make the folder readable and writable for you",
    errno.EPERM: "make the folder readable and writable for you",
    errno.ENOTDIR: "a part of this path is a file or a link to nothing, expected folders",
    errno.EEXIST: "a part of this path is a file or a link to nothing, expected folders",
}


def digest(value: Any, length: int = 16) -> str:
    """Hex digest of plain data (dicts in any order, lists, text, numbers, None): the same in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def stable_id(text: str) -> int:
    """A 63-bit integer from a text, the same in every process (unlike Python's `hash`)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _sha256(path: Path | str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=4096)
def _sha256_once(path: str, size: int, mtime_ns: int) -> str:
    return _sha256(path)


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's content; read once per process as long as size and time stay the same."""
    stat = os.stat(path)
    return _sha256_once(os.fspath(path), stat.st_size, stat.st_mtime_ns)


def file_identity(path: Path | str, head: int = 1 << 20) -> dict[str, Any]:
    """Identity of a large file without reading it whole: name, size, mtime, SHA-256 of its first and last MiB.

    Small files (up to 2 MiB) are known by their content alone, so copying them changes nothing.
    """
    path = Path(path)
    stat = path.stat()
    if stat.st_size <= 2 * head:
        return {"name": path.name, "sha256": file_sha256(path)}
    with open(path, "rb") as file:
        ends = hashlib.sha256(file.read(head))
        file.seek(-head, os.SEEK_END)
        ends.update(file.read(head))
    return {"name": path.name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ends": ends.hexdigest()}


class CorruptEntry(RuntimeError):
    """A cache entry whose files are not what was written."""


@dataclass(frozen=True)
class Store:
    """A cache folder. Cheap to pickle; safe to use from many processes at once."""

    root: Path

    def path(self, kind: str, key: dict[str, Any]) -> Path:
        """Where the entry for `key` is or would be."""
        return self.root / kind / digest(_with_format(key))

    def get(self, kind: str, key: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of an entry, made by `make(folder)` unless it is there and whole.

        Args:
            kind: first folder level ("prepared", "tracks"…).
            key: plain data that says all the entry depends on.
            make: writes the entry's files into the empty folder it is given.

        Raises:
            OSError: when the cache folder cannot be used, with the folder's name and the cure.
        """
        path = self.path(kind, key)
        try:
            if not self._is_whole(path):
                self._make_alone(path, kind, key, make)
        except OSError as error:
            number = _number(error)
            if number not in _CURES or not _within(error.filename, self.root):
                raise
            raise OSError(number, f"cannot use the cache entry {path} ({os.strerror(number)}): {_CURES[number]}, or "
                                  "set another folder with cache=…") from error
        return path

    def _make_alone(self, path: Path, kind: str, key: dict[str, Any], make: Callable[[Path], None]) -> None:
        from filelock import FileLock
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock_of(path)):
            if not self._is_whole(path):  # another process may have made it while this one waited
                self._make(path, kind, key, make)

    def _is_whole(self, path: Path) -> bool:
        try:
            self.verify(path)
        except FileNotFoundError:
            return False
        except CorruptEntry as error:
            logger.warning("%s: it will be made anew", error)
            return False
        return True

    def _make(self, path: Path, kind: str, key: dict[str, Any], make: Callable[[Path], None]) -> None:
        temporary = temporary_of(path)  # the lock is ours: what lies here is a dead process's
        remove_tree(temporary)
        temporary.mkdir()
        try:
            make(temporary)
            files = sorted(file for file in temporary.iterdir())
            entry = {"kind": kind, "key": _with_format(key), "files": {file.name: _stamp(file) for file in files}}
            (temporary / "entry.json").write_text(json.dumps(entry, indent=2))
            for file in [*files, temporary / "entry.json"]:
                _fsync(file)
            _fsync(temporary)
            remove_tree(path)  # a corrupt one
            os.replace(temporary, path)
            _fsync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def verify(self, path: Path, full: bool = False) -> None:
        """Checks an entry's files: always the size; the checksum when a file's times have changed, or with `full`.

        Raises:
            FileNotFoundError: no such entry.
            CorruptEntry: names the file and what is wrong.
        """
        for name, stamp in self._files(path).items():
            file = path / name
            try:
                stat = file.stat()
            except FileNotFoundError:
                raise CorruptEntry(f"cache entry {path}: {name} is missing") from None
            if stat.st_size != stamp["size"]:
                raise CorruptEntry(f"cache entry {path}: {name} has {stat.st_size} bytes, expected {stamp['size']}")
            touched = [stat.st_mtime_ns, stat.st_ctime_ns] != stamp["times"]
            if (full or touched) and _sha256(file) != stamp["sha256"]:
                raise CorruptEntry(f"cache entry {path}: {name} has been changed since it was written")

    def _files(self, path: Path) -> dict[str, dict[str, Any]]:
        """Name → size, times and checksum of an entry's files; the entry must be the one its folder is named by."""
        try:
            entry = read_entry(path)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise CorruptEntry(f"cache entry {path}: expected a folder with a file entry.json") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptEntry(f"cache entry {path}: entry.json cannot be read ({error!r})") from error
        if entry["kind"] != path.parent.relative_to(self.root).as_posix() or digest(entry["key"]) != path.name:
            raise CorruptEntry(f"cache entry {path}: entry.json describes another entry, of kind {entry['kind']!r}")
        return entry["files"]


def read_entry(path: Path) -> dict[str, Any]:
    """The `entry.json` of an entry's folder: `kind`, `key`, `files` (name → size, sha256, times).

    Raises:
        FileNotFoundError, NotADirectoryError, IsADirectoryError: no such file.
        ValueError, KeyError, TypeError: it holds something else.
    """
    entry = json.loads((path / "entry.json").read_text())
    digest(entry["key"])
    for name, stamp in dict(entry["files"]).items():
        missing = {"size", "sha256", "times"} - set(stamp)
        if missing or Path(name).name != name:
            raise ValueError(f"file {name!r} lacks {sorted(missing)}" if missing else f"{name!r} is no file name")
    return {"kind": str(entry["kind"]), "key": dict(entry["key"]), "files": entry["files"]}


def lock_of(path: Path) -> Path:
    """The lock that whoever makes or removes the entry `path` holds."""
    return path.with_name(f"{path.name}.lock")


def temporary_of(path: Path) -> Path:
    """Where the entry `path` is made before it is renamed."""
    return path.with_name(f"{path.name}.tmp")


def remove_tree(path: Path) -> None:
    """Removes a folder, file or link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _with_format(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "format": FORMAT_VERSION}


def _number(error: OSError) -> int | None:
    """The error's number; numpy says "1000 requested and 24 written" without one when a disk is full."""
    if error.errno is None and str(error).endswith(" written"):
        return errno.ENOSPC
    return error.errno


def _within(filename: Any, root: Path) -> bool:
    """Whether an error may be about a file under `root`; one that names no file comes from writing."""
    return not isinstance(filename, str | bytes | os.PathLike) or Path(os.fsdecode(filename)).is_relative_to(root)


def _stamp(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"size": stat.st_size, "sha256": _sha256(file), "times": [stat.st_mtime_ns, stat.st_ctime_ns]}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
