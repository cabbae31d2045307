"""Fetches a study's public files: what is missing, once, whole and as published.

A study ships a `Manifest`: each file with its addresses, size and SHA-256. A folder that already holds the files, under
their own or other known names and in any subfolder, is used as it is. What is missing is downloaded beside its place
(`<name>.part`, continued after an interruption), checked, and renamed; one lock per folder, so that many processes may
start on a new study at once. Nothing is ever sent or shared.
"""
import json
import logging
import os
import shutil
import tarfile
import zipfile
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bm.progress import with_progress
from bm.store import file_sha256, remove_tree

if TYPE_CHECKING:
    from tqdm import tqdm

logger = logging.getLogger(__name__)

#: whether files may be fetched here and now; see `offline`
_ALLOWED: ContextVar[bool] = ContextVar("downloads_allowed", default=True)


@contextmanager
def offline() -> Iterator[None]:
    """Inside it nothing is downloaded: who reads the results of an XP wants its data, or an error, no gigabytes."""
    token = _ALLOWED.set(False)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def check_online(study: str, folder: Path) -> None:
    """Raises FileNotFoundError inside `offline`: files of a study would have to be downloaded."""
    if not _ALLOWED.get():
        raise FileNotFoundError(f"study {study}: files are not in {folder}, and nothing is downloaded here: python -m "
                                f"scripts.study download {study}, or say where they are (study_paths.{study}=…)")


class DownloadError(FileNotFoundError):
    """Files cannot be had now: one line that says which, from where, and what to do. A command ends with it alone."""


#: how often all addresses of a file are tried
ATTEMPTS = 3
#: subfolders in which files are looked for
DEPTH = 4


@dataclass(frozen=True)
class RemoteFile:
    """A published file.

    Args:
        path: its place in the study's folder, with `/`.
        urls: addresses that serve the same bytes (http, https, or `doi:` as pooch understands it), the best one first.
        size: bytes, None if unknown.
        sha256: hex digest, None if unknown: then it is only checked that the transfer was whole.
        aliases: other names under which copies are known.
        auth: names of the environment variables that hold a bearer token, or user and password; () for open files.
    """

    path: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None
    aliases: tuple[str, ...] = ()
    auth: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        inside(Path(), self.path)

    @property
    def names(self) -> tuple[str, ...]:
        """Base names by which it is recognised."""
        return (PurePosixPath(self.path).name, *self.aliases)

    def fault(self, path: Path) -> str | None:
        """What is wrong with a copy of it, or None."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"has {size} bytes, expected {self.size}"
        if self.sha256 is not None and (found := file_sha256(path)) != self.sha256:
            return f"has SHA-256 {found}, expected {self.sha256}"
        return None


@dataclass(frozen=True)
class Manifest:
    """The files of a study, and the `page` where a person finds them."""

    study: str
    page: str
    files: tuple[RemoteFile, ...]

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """From a JSON file: `study`, `page` and `sources`, each with a `folder`, its mirrors `urls` (what stands before
        the file's name) and `files`: name → `size`, `sha256`, `aliases`, all optional."""
        data = json.loads(path.read_text())
        files = [RemoteFile(f"{source['folder']}/{name}", tuple(join_url(url, name) for url in source["urls"]),
                            about.get("size"), about.get("sha256"), tuple(about.get("aliases", ())))
                 for source in data["sources"] for name, about in source["files"].items()]
        return cls(data["study"], data["page"], tuple(files))

    def select(self, paths: Iterable[str]) -> "Manifest":
        """The manifest of some of the files. Raises KeyError for one that it does not have."""
        by_path = {file.path: file for file in self.files}
        return replace(self, files=tuple(by_path[path] for path in paths))

    def locate(self, folder: Path) -> dict[str, Path]:
        """Where each file is that the folder has: `path` → a copy with its size and checksum.

        Raises:
            ValueError: what lies at a file's own place is something else.
        """
        found = {}
        for file in self.files:
            own = inside(folder, file.path)
            if own.exists():
                if fault := file.fault(own):
                    raise ValueError(f"study {self.study}: {own} {fault}: it is not the published file; remove it, and "
                                     "it will be downloaded")
                found[file.path] = own
        if len(found) == len(self.files) or not folder.is_dir():
            return found
        elsewhere = _by_name(folder)
        for file in self.files:
            for copy in (path for name in file.names for path in elsewhere.get(name, [])):
                if file.path in found:
                    break
                if fault := file.fault(copy):
                    logger.warning("study %s: %s %s: not used", self.study, copy, fault)
                else:
                    found[file.path] = copy
        return found

    def plan(self, folder: Path) -> str:
        """A dry run: what would be downloaded into the folder, file by file, and what is there."""
        there = self.locate(folder)
        missing = [file for file in self.files if file.path not in there]
        lines = [f"{human(file.size):>9}  {file.path}  {' or '.join(file.urls)}" for file in missing]
        return "\n".join([*lines, f"study {self.study}: {len(missing)} of {len(self.files)} files are missing in "
                                  f"{folder}: {total_size(missing)} to download"])

    def fetch(self, folder: Path) -> dict[str, Path]:
        """Where each file is, after downloading what is missing. Many processes may call this at once.

        Raises:
            DownloadError: a file cannot be had from any address: says what to fetch, and where to put it.
            ValueError: what an address serves is not the published file.
        """
        from filelock import FileLock, Timeout
        found = self.locate(folder)
        if len(found) == len(self.files):
            return found
        check_online(self.study, folder)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".download.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("study %s: waiting for another process that downloads into %s", self.study, folder)
            lock.acquire()
        try:
            found = self.locate(folder)  # another process may have fetched them meanwhile
            self._download([file for file in self.files if file.path not in found], folder)
        finally:
            lock.release()  # the empty file stays: who waits for it holds it open
        return {file.path: found.get(file.path, inside(folder, file.path)) for file in self.files}

    def _download(self, missing: list[RemoteFile], folder: Path) -> None:
        if missing:
            logger.info("study %s: downloading %s, %s, into %s", self.study,
                        f"{len(missing)} files" if len(missing) > 1 else missing[0].path,
                        total_size(missing), folder)
        sizes = [file.size for file in missing]
        total = sum(size or 0 for size in sizes) if None not in sizes else None
        with with_progress(None, self.study, total, unit="B") as bar:
            self._download_each(missing, folder, bar)

    def _download_each(self, missing: list[RemoteFile], folder: Path, bar: "tqdm") -> None:
        for done, file in enumerate(missing):
            try:
                download(file, inside(folder, file.path), bar)
            except DownloadError as error:
                raise DownloadError(
                    f"study {self.study}: {len(missing) - done} of its {len(self.files)} files are missing in {folder}"
                    f": {error}. Run the same command again later: it goes on where it stopped. Or fetch the files "
                    f"by hand from {self.page} into {folder} (any subfolder), or say which folder has them: "
                    f"study_paths.{self.study}=… or BM_DATA (the folder that has one for each study)") from error


class _Counted:
    """What pooch tells of one file, counted by the bar of all of them, in which the transfer begins at byte `at`."""

    total = 0

    def __init__(self, bar: "tqdm", at: int) -> None:
        self.bar, self.at = bar, at
        self.reset()

    def update(self, n: int) -> None:
        self.bar.update(n)

    def reset(self) -> None:
        self.bar.update(self.at - self.bar.n)

    def close(self) -> None:
        """The bar goes on with the next file."""


def download(file: RemoteFile, target: Path, bar: "tqdm | None" = None) -> None:
    """Downloads one file to `target`; an unfinished transfer is continued where the checksum can tell that it may be.

    `bar` (`bm.progress.with_progress`) counts its bytes.

    Raises:
        DownloadError: no address gives it; says what each one answered.
        ValueError: the last address that gave anything gave another file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    try:
        _download(file, target, part, bar)
    finally:
        if part.exists() and (file.sha256 is None or part.stat().st_size == 0):
            part.unlink()  # nothing that could be continued


def _download(file: RemoteFile, target: Path, part: Path, bar: "tqdm | None") -> None:
    import requests
    begin = 0 if bar is None else bar.n
    answers: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for url in [url for _ in range(ATTEMPTS) for url in file.urls]:
        if url in wrong:
            continue
        # without a checksum nobody could tell whether two halves belong together
        have = part.stat().st_size if file.sha256 is not None and part.exists() else 0
        try:
            if have == 0 or have != file.size:  # else only the check was missing
                _transfer(url, part, have, authorization(file.auth),
                          None if bar is None else _Counted(bar, begin + have))
        except (requests.RequestException, ValueError) as error:  # pooch raises ValueError for addresses
            answers[url] = answer(error)
            if isinstance(error, requests.HTTPError) and getattr(error.response, "status_code", None) == 416:
                part.unlink()  # nothing to continue with: what is here is longer than the file
            continue
        fault = file.fault(part)
        if fault is None:
            if bar is not None:
                bar.update(begin + part.stat().st_size - bar.n)
            os.replace(part, target)
            return
        part.unlink()
        if not have:  # a server that ignores where to continue has sent the whole once more: that is tried again
            wrong[url] = f"what {url} serves {fault}"
    if wrong:
        raise ValueError(f"{target}: {'; '.join(wrong.values())}: not the published file; nothing was kept. Was it "
                         "replaced, or does a proxy answer in its place?")
    said = "; ".join(f"{url}: {text}" for url, text in answers.items())
    raise DownloadError(f"{file.path} cannot be downloaded ({said or 'it has no address'})")


def answer(error: Exception) -> str:
    """What went wrong with a request, in a few words."""
    import requests
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection dropped"
    if type(error) is requests.ConnectionError:
        return "no connection"
    return f"{type(error).__name__}: {error}"[:160]


def authorization(auth: tuple[str, ...]) -> dict[str, str]:
    """The header that the environment variables named in `RemoteFile.auth` make; none if one of them is not set."""
    values = [os.environ.get(name, "") for name in auth]
    if not values or not all(values):
        return {}
    secret = f"Bearer {values[0]}" if len(values) == 1 else "Basic " + b64encode(":".join(values).encode()).decode()
    return {"Authorization": secret}


def _transfer(url: str, part: Path, have: int, more: dict[str, str], counted: _Counted | None) -> None:
    """Writes what `url` serves to `part`, from byte `have` on; `more` are headers to send."""
    import pooch
    headers = {"Accept-Encoding": "identity"} | more  # bytes as they are published, and countable
    if have:
        headers["Range"] = f"bytes={have}-"
    kind = pooch.DOIDownloader if url.startswith("doi:") else pooch.HTTPDownloader
    with open(part, "ab" if have else "wb") as out:
        kind(progressbar=counted or False, chunk_size=2 ** 18, headers=headers)(url, out, None)


def inside(folder: Path, name: str) -> Path:
    """`folder / name`. Raises ValueError for a name that leads out of the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise ValueError(f"{name!r} leads out of {folder}: expected a relative path without '..'")
    return folder.joinpath(*path.parts)


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Base name → files below the folder, links followed, at most `DEPTH` folders down."""
    found: dict[str, list[Path]] = {}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(folders) if len(Path(root).relative_to(folder).parts) < DEPTH else []
        for name in names:
            found.setdefault(name, []).append(Path(root) / name)
    return found


def extract(archive: Path, target: Path) -> Path:
    """Unpacks a zip or tar archive into the folder `target`, unless it is there; as a whole or not at all.

    Raises:
        ValueError: no archive, a damaged one, or one with a path or link that leads out of the folder.
    """
    from filelock import FileLock
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if target.is_dir():
            return target
        unfinished = target.with_name(f".{target.name}.unfinished")
        remove_tree(unfinished)  # whoever left it does not live: we hold the lock
        unfinished.mkdir()
        try:
            _unpack(archive, unfinished)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
            shutil.rmtree(unfinished)
            raise ValueError(f"{archive} cannot be unpacked ({error}): is it whole? Remove it, and it will be "
                             "downloaded") from error
        except BaseException:
            shutil.rmtree(unfinished)
            raise
        os.replace(unfinished, target)
    return target


def _unpack(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                inside(folder, name)
            opened.extractall(folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened:
            for member in opened.getmembers():
                if not (member.isfile() or member.isdir()):
                    raise ValueError(f"{archive}: {member.name!r} is a link or a device, expected files and folders")
                if member.name not in (".", "./"):
                    inside(folder, member.name)
            # Python before 3.11.4 has no filters; it is checked above all the same
            options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            opened.extractall(folder, **options)
    else:
        raise ValueError(f"{archive}: expected a zip or tar archive")


def join_url(base: str, name: str) -> str:
    """The address of a file below `base`, with one slash between; a base that ends in a query takes the name as it is.

    >>> join_url("https://a.org/data/", "b c.txt"), join_url("https://a.org/data", "b.txt")
    ('https://a.org/data/b%20c.txt', 'https://a.org/data/b.txt')
    """
    return base + quote(name) if "?" in base else f"{base.rstrip('/')}/{quote(name.lstrip('/'))}"


def total_size(files: Sequence[RemoteFile]) -> str:
    """"1.2 GB", "1.2 GB and 2 of unknown size" or "unknown size"."""
    unknown = sum(file.size is None for file in files)
    if files and unknown == len(files):
        return "unknown size"
    more = f" and {unknown} of unknown size" if unknown else ""
    return human(sum(file.size or 0 for file in files)) + more


def human(size: int | None) -> str:
    """"176.4 kB", "1.2 GB", or "?" where it is unknown."""
    if size is None:
        return "?"
    power = min(max(len(str(size)) - 1, 0) // 3, 4)
    return f"{size / 1000 ** power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
