"""A study's files: folders with and without `download/`, names with letters of other case, MATLAB's format."""
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bm.store import remove_tree


def download_folder(path: Path) -> Path:
    """`path/download` if there is one, else `path` itself: both ways of keeping a study are in use."""
    return path / "download" if (path / "download").is_dir() else path


def find_file(folder: Path, name: str, cure: str) -> Path:
    """The file `folder/name`; `name` may differ from the disk's in the case of its letters.

    Raises:
        FileNotFoundError: no such file; the message ends with `cure`.
    """
    if (folder / name).is_file():
        return folder / name
    found = [folder]
    for part in Path(name).parts:
        found = [entry for parent in found if parent.is_dir() for entry in sorted(parent.iterdir())
                 if entry.name.lower() == part.lower()]
    files = [entry for entry in found if entry.is_file()]
    if not files:
        raise FileNotFoundError(f"no file {name!r} in {folder} (nor with letters of other case): {cure}")
    return files[0]


def numbered(names: list[str], prefix: str, suffix: str = "") -> list[int]:
    """The numbers k of the names `<prefix>k<suffix>`, sorted as numbers; other names are ignored."""
    middles = [name[len(prefix):len(name) - len(suffix)] for name in names
               if name.startswith(prefix) and name.endswith(suffix)]
    return sorted(int(middle) for middle in middles if middle.isdigit())


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Makes `folder` by `make(place)` unless it is there. Many processes may call this at once; one makes it.

    It is made in a folder beside its place and renamed when complete, so that `folder` exists only as a whole.
    """
    from filelock import FileLock
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        remove_tree(unfinished)  # whoever left it does not live: we hold the lock
        unfinished.mkdir()
        make(unfinished)
        os.replace(unfinished, folder)


def read_mat(path: Path, reader: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`scipy.io.loadmat`, or another `reader` of SciPy's for MATLAB files.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is broken; names it.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return (reader or loadmat)(path, **options)
    except FileNotFoundError:
        raise
    except (MatReadError, NotImplementedError, ValueError, TypeError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as a MAT file of version 5 ({type(error).__name__}: {error}): is it "
                         "whole? Download it again") from error
