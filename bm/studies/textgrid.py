"""Reads Praat's TextGrids."""
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

# In Praat's text files only free-standing strings, numbers and flags count; all else ("xmin =", "intervals [1]:") is
# decoration, so the long and the short format are one. A stray letter behind a number is forgiven.
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?:(?<=\s)|^)([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)[A-Za-z]?(?=\s|$)', re.M)


def read_textgrid(path: Path) -> dict[str, pd.DataFrame]:
    """The tiers of a TextGrid, long or short format: name → table with `start`, `stop` (s) and `text`.

    Empty intervals are kept; points have `stop` equal to `start`. Of tiers with one name the first is taken.

    Raises:
        ValueError: no TextGrid, or one that ends before its own counts say.
    """
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not {encoding}, expected a TextGrid in UTF-8 or UTF-16: save "
                         "it as such") from error
    tokens: list[str | float] = [string.replace('""', '"') if string or not number else float(number)
              for string, number in _TOKEN.findall(text)]
    if tokens[:2] != ["ooTextFile", "TextGrid"]:
        raise ValueError(f"{path}: starts with {text[:40]!r}, expected a TextGrid (File type = \"ooTextFile\")")
    try:
        return _tiers(iter(tokens[4:]))  # after the types, and the limits of time
    except (StopIteration, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: ends before, or is not in, the order that its counts announce "
                         f"({type(error).__name__}: {error}): is it whole?") from error


def _tiers(tokens: Iterator[Any]) -> dict[str, pd.DataFrame]:
    tiers: dict[str, pd.DataFrame] = {}
    for _ in range(_count(next(tokens))):
        columns = {"IntervalTier": ("start", "stop", "text"), "TextTier": ("start", "text")}[next(tokens)]
        name = next(tokens)
        next(tokens), next(tokens)
        rows = [[next(tokens) for _ in columns] for _ in range(_count(next(tokens)))]
        table = pd.DataFrame(rows, columns=list(columns))
        if "stop" not in table:
            table.insert(1, "stop", table["start"])
        tiers.setdefault(name, table.astype({"start": float, "stop": float, "text": str}))
    return tiers


def _count(token: str | float) -> int:
    if not isinstance(token, float):
        raise TypeError(f"expected a count, got {token!r}")
    return int(token)
