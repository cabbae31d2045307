"""Contracts of a study: `Recording` (who, when, what was heard) and `Signal` (what was measured).

A study is a class that lists its recordings. Each is immutable, cheap to pickle, and reads its files only when asked.
"""
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from bm.studies.facts import Facts

#: Columns of `Signal.channels`, one row per channel: name, type ("mag", "grad", "eeg"…), unit ("T", "V"…), x, y, z in
#: metres (head frame, NaN if unknown), layout_x, layout_y in [0, 1] (NaN if unknown), region ("" if unknown), bad.
CHANNEL_COLUMNS = ["name", "type", "unit", "x", "y", "z", "layout_x", "layout_y", "region", "bad"]


@dataclass(frozen=True)
class Signal:
    """What was measured in one recording.

    Args:
        shape: `(time, channels)`.
        rate: samples per second, or None where each row answers one event (fMRI, one value per sound).
        channels: one row per channel, columns `CHANNEL_COLUMNS`.
        reader: `reader(start, stop)` returns rows start…stop as float array `(stop − start, channels)` in SI units.
        missing: "error" if a NaN is a fault of the file, "mask" if it means *not measured*.
    """

    shape: tuple[int, int]
    rate: float | None
    channels: pd.DataFrame
    reader: Callable[[int, int], np.ndarray]
    missing: Literal["error", "mask"] = "error"

    @property
    def duration(self) -> float | None:
        """Seconds, or None without a rate."""
        return None if self.rate is None else self.shape[0] / self.rate

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start…stop, `(time, channels)`."""
        return self.reader(start, self.shape[0] if stop is None else stop)

    @classmethod
    def from_array(cls, array: np.ndarray, rate: float | None, channels: pd.DataFrame,
                   missing: Literal["error", "mask"] = "error") -> "Signal":
        """A signal held in memory (or memory-mapped), `array` of shape `(time, channels)`."""
        return cls(array.shape, rate, channels, lambda start, stop: array[start:stop], missing)


class Recording(ABC):
    """One continuous measurement of one subject, with the events heard meanwhile.

    Immutable and small: it holds identifiers and paths, no data, so that it can be sent to another process. Subclasses
    set `study`, `subject` and `uid` (unique within the study) and implement `events` and `signal`.
    """

    study: str
    subject: str
    session: str
    uid: str

    @abstractmethod
    def events(self) -> pd.DataFrame:
        """The events table (`bm/events.py`): seconds from the signal's first sample."""

    @abstractmethod
    def signal(self) -> Signal:
        """The brain channels, lazily where the file allows."""

    @abstractmethod
    def source_files(self) -> list[Path]:
        """The files whose content identifies the signal, for the cache."""

    def event_files(self) -> list[Path]:
        """The files whose content decides what `events` returns; none: its result is not kept."""
        return []

    def signal_options(self) -> dict[str, Any]:
        """Plain data that, with `source_files`, decides what `signal` returns: options of the selection."""
        return {}

    def event_options(self) -> dict[str, Any]:
        """Plain data that, with `event_files`, decides what `events` returns: options of the selection."""
        return {}

    @property
    def name(self) -> str:
        """`study/uid`, unique in an XP."""
        return f"{self.study}/{self.uid}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, subject {self.subject})"


class Study(ABC):
    """A dataset: lists recordings. Register with `@register_study`; `conf/selections/*.yaml` name it with arguments.

    Class attributes: `name` (lower-case key), `blocks` (which events start a block: "sentence", "sound",
    "sentence_or_sound" or "block"), `merge_blocks` (whether short blocks may be merged up to
    `dset.min_block_duration`), `continuous` (whether what is next to a block in the recording was so in the
    experiment), `facts` (its fact sheet).
    """

    name: ClassVar[str]
    blocks: ClassVar[Literal["sentence", "sound", "sentence_or_sound", "block"]] = "sentence"
    merge_blocks: ClassVar[bool] = True
    continuous: ClassVar[bool] = True
    facts: ClassVar[Facts | None] = None

    def __init__(self, path: Path | None, **selection: Any) -> None:
        self.path = path
        if selection:
            raise ValueError(f"study {self.name}: unknown selection keys {sorted(selection)}: it takes only `study`")

    @abstractmethod
    def recordings(self) -> Iterator[Recording]:
        """All recordings of the selection, in a fixed order (sorted, never that of a directory listing)."""

    def prepare(self) -> None:  # noqa: B027  most studies have nothing to make
        """Downloads or makes what is missing; called before `recordings`, maybe by many processes at once."""


STUDIES: dict[str, type[Study]] = {}


def register_study(cls: type[Study]) -> type[Study]:
    """Class decorator: makes a study known by its `name`."""
    if cls.name in STUDIES and STUDIES[cls.name] is not cls:
        raise ValueError(f"two studies are called {cls.name!r}: {STUDIES[cls.name]} and {cls}")
    STUDIES[cls.name] = cls
    return cls
