"""The on-disk cache, used by all that keeps anything.

An *entry* is a folder `<root>/<kind>/<key>` with data files and `entry.json`: the readable key, sizes and checksums.
The key is a hash of parameters, the identity of the source (content, not place) and a format version, so a change of
any of them makes another entry and nobody ever deletes the cache by hand. Entries are written beside their place and
renamed into it under a lock, so many processes may ask for one at once and it is made once, and a killed process
leaves nothing half-written.
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
        return self.root / kind / digest({"version": FORMAT_VERSION, **key})

    def get(self, kind: str, key: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder of an entry, made by `make(folder)` unless it is there and whole.

        Args:
            kind: first folder level ("prepared", "tracks"…).
            key: plain data that says all the entry depends on.
            make: writes the entry's files into the empty folder it is given.

        Raises:
            OSError: when the cache folder cannot be written, with the folder's name and the cure.
        """
        from filelock import FileLock
        path = self.path(kind, key)
        if self._is_whole(path):
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not self._is_whole(path):  # another process may have made it while this one waited
                    self._make(path, kind, key, make)
        except OSError as error:
            ours = error.filename is None or Path(error.filename).is_relative_to(self.root)
            if not ours or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            raise type(error)(error.errno, f"cannot write the cache entry {path} ({error.strerror}): free some "
                                           "space or set another folder with cache=…") from error
        return path

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
        temporary = path.with_name(f"{path.name}.tmp")  # the lock is ours: what lies here is a dead process's
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            make(temporary)
            files = sorted(file for file in temporary.iterdir())
            entry = {"kind": kind, "key": {"version": FORMAT_VERSION, **key},
                     "files": {file.name: _stamp(file) for file in files}}
            (temporary / "entry.json").write_text(json.dumps(entry, indent=2))
            for file in [*files, temporary / "entry.json"]:
                _fsync(file)
            shutil.rmtree(path, ignore_errors=True)  # a corrupt one
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
        try:
            entry = json.loads((path / "entry.json").read_text())
            files = entry["files"]
        except (ValueError, KeyError, NotADirectoryError) as error:
            raise CorruptEntry(f"cache entry {path}: entry.json cannot be read ({error})") from error
        for name, stamp in files.items():
            file = path / name
            if not file.exists():
                raise CorruptEntry(f"cache entry {path}: {name} is missing")
            stat = file.stat()
            if stat.st_size != stamp["size"]:
                raise CorruptEntry(f"cache entry {path}: {name} has {stat.st_size} bytes, expected {stamp['size']}")
            touched = [stat.st_mtime_ns, stat.st_ctime_ns] != stamp["times"]
            if (full or touched) and _sha256(file) != stamp["sha256"]:
                raise CorruptEntry(f"cache entry {path}: {name} has been changed since it was written")


def _stamp(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"size": stat.st_size, "sha256": _sha256(file), "times": [stat.st_mtime_ns, stat.st_ctime_ns]}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
