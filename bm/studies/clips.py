"""What studies of neurons that hear short clips have in common: a recording per repeat, with all clips one by one."""
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.config import nearest
from bm.studies.base import CHANNEL_COLUMNS, Recording, Signal, Study

#: what rounding may take from a number of bins
_EPS = 1e-6


@dataclass(frozen=True)
class Clip:
    """A sound and what it is called; `split` where it is not to be drawn; `seconds` of it that count, None: all."""

    name: str
    path: Path
    split: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Clock:
    """How clips are laid end to end, and what is made of spikes.

    Args:
        rate: bins per second.
        smooth_ms: width of the Hann window by which counts are smoothed within each clip, 0: none.
        gap_s: least silence between clips, where nothing is measured. Clips begin at whole seconds, which are samples
            at any rate.

    Raises:
        ValueError: a rate or a width that is no positive number, or a negative gap.
    """

    rate: int = 1000
    smooth_ms: float = 0.0
    gap_s: float = 0.5

    def __post_init__(self) -> None:
        if self.rate != int(self.rate) or self.rate < 1 or self.smooth_ms < 0 or self.gap_s < 0:
            raise ValueError(f"rate={self.rate}, smooth_ms={self.smooth_ms}, gap_s={self.gap_s}: expected a whole "
                             "positive number of bins per second, and no negative times")

    def bins(self, seconds: float) -> int:
        """Whole bins of a clip."""
        return int(seconds * self.rate + _EPS)

    def starts(self, seconds: Sequence[float]) -> tuple[list[int], int]:
        """When (s) each clip begins, and the recording ends."""
        starts, now = [], 0.0
        for length in seconds:
            starts.append(int(np.ceil(now + self.gap_s - _EPS)))
            now = starts[-1] + length
        return starts, int(np.ceil(now + self.gap_s - _EPS))

    def smooth(self, counts: np.ndarray) -> np.ndarray:
        """Counts `(bins, units)` of one clip, smoothed over what lies inside the clip: its mean changes hardly."""
        width = round(self.smooth_ms * self.rate / 1000)
        if width < 2 or not len(counts):
            return counts
        from scipy.ndimage import convolve1d
        window = np.hanning(width + 2 + (width % 2 == 0))[1:-1]
        inside = convolve1d(np.ones(len(counts)), window, mode="constant")
        return convolve1d(counts, window, axis=0, mode="constant") / inside[:, None]


def count_spikes(times_ms: np.ndarray, n_bins: int, rate: int) -> np.ndarray:
    """Spikes per bin `(n_bins,)` of times in ms from the clip's start; those before it or after the last bin are
    left out."""
    place = np.floor(np.asarray(times_ms, float) * rate / 1000 + 1e-9)
    place = place[(place >= 0) & (place < n_bins)].astype(int)
    return np.bincount(place, minlength=n_bins).astype(float)


def neuron_channels(names: Iterable[str], unit: str = "spikes", region: str = "", **columns: Any) -> pd.DataFrame:
    """The channels table of neurons, whose place nobody knows."""
    unknown = dict.fromkeys(["x", "y", "z", "layout_x", "layout_y"], np.nan)
    table = pd.DataFrame({"name": list(names), "type": "neuron", "unit": unit, **unknown, "region": region,
                          "bad": False})
    return table[CHANNEL_COLUMNS].assign(**columns)


class ClipRecording(Recording):
    """One repeat (from 0) of all clips; subclasses are frozen dataclasses with these fields, and implement `counts`
    and `channels`.

    Between clips nothing is measured (NaN), and blocks end with their clip.
    """

    repeat: int
    clips: tuple[Clip, ...]
    clock: Clock

    @property
    def session(self) -> str:  # type: ignore[override]
        return str(self.repeat + 1)

    @property
    def uid(self) -> str:  # type: ignore[override]
        return f"repeat{self.repeat + 1:02d}"

    @abstractmethod
    def counts(self, clip: Clip, n_bins: int) -> np.ndarray:
        """`(n_bins, units)` float, NaN where not measured."""

    @abstractmethod
    def channels(self) -> pd.DataFrame:
        """One row per unit."""

    def seconds(self) -> list[float]:
        """Lengths of the clips."""
        import soundfile
        return [soundfile.info(clip.path).duration if clip.seconds is None else clip.seconds for clip in self.clips]

    def events(self) -> pd.DataFrame:
        """A `sound` per clip, with `stimulus_id` (its name), `until` (s, where its last whole bin ends) and, where a
        clip has one, `split`."""
        seconds = self.seconds()
        starts, _ = self.clock.starts(seconds)
        until = [start + self.clock.bins(length) / self.clock.rate for start, length in zip(starts, seconds,
                                                                                           strict=True)]
        table = pd.DataFrame({"kind": "sound", "start": np.array(starts, float), "duration": seconds,
                              "filepath": [str(clip.path) for clip in self.clips], "until": until,
                              "stimulus_id": [clip.name for clip in self.clips]})
        if any(clip.split for clip in self.clips):
            table["split"] = [clip.split for clip in self.clips]
        return table

    def signal(self) -> Signal:
        """Spikes per bin."""
        channels, seconds, rate = self.channels(), self.seconds(), self.clock.rate
        starts, end = self.clock.starts(seconds)
        array = np.full((end * rate, len(channels)), np.nan, dtype=np.float32)
        for clip, start, length in zip(self.clips, starts, seconds, strict=True):
            counts = self.counts(clip, self.clock.bins(length))
            array[start * rate:start * rate + len(counts)] = self.clock.smooth(counts)
        return Signal.from_array(array, float(rate), channels, missing="mask")

    def signal_options(self) -> dict[str, Any]:
        return {"clips": [clip.name for clip in self.clips], "rate": self.clock.rate,
                "smooth_ms": self.clock.smooth_ms, "gap_s": self.clock.gap_s}


class ClipStudy(Study):
    """A study whose recordings are `ClipRecording`s: clips were played one by one, each is a block.

    Args:
        path: the folder of the data, or to put it.
        keys: of a selection; selection: what it has besides.

    Raises:
        ValueError: an unknown key, or no `path`.
    """

    blocks = "sound"
    merge_blocks = False
    continuous = False

    def __init__(self, path: Path | None, keys: Sequence[str], selection: Iterable[str]) -> None:
        super().__init__(path)
        if unknown := sorted(set(selection) - set(keys)):
            raise ValueError(f"study {self.name}: unknown selection keys {unknown}, expected {', '.join(keys)}"
                             + nearest(unknown[0], keys))
        if path is None:
            raise ValueError(f"study {self.name}: no path, expected the folder that has the data or will have it")
        self.folder = Path(path)


def choose_clips(study: str, known: Sequence[int], key: str, wanted: Iterable[int] | None, test: Iterable[int] | None,
                 valid: Iterable[int] | None) -> dict[int, str | None]:
    """The clips of a selection, in order, with the split of those that are not drawn.

    Args:
        known: numbers that there are.
        key: of the selection ("songs"): `test_<key>` and `valid_<key>` go with it.
        wanted: None: all.
        test, valid: those of these splits; with both given, the others are train, else they are drawn
            (`dset.test_ratio`, `dset.valid_ratio`).

    Raises:
        ValueError: a number that there is not, or one in both lists.
    """
    lists = {key: known if wanted is None else list(wanted), f"test_{key}": list(test or ()),
             f"valid_{key}": list(valid or ())}
    for name, numbers in lists.items():
        among = known if name == key else lists[key]
        if unknown := [number for number in numbers if number not in among]:
            raise ValueError(f"study {study}: {name}={unknown} are none of its {key} {list(among)}"
                             + nearest(str(unknown[0]), [str(number) for number in among]))
    if both := set(lists[f"test_{key}"]) & set(lists[f"valid_{key}"]):
        raise ValueError(f"study {study}: {sorted(both)} are in test_{key} and in valid_{key}")
    if not lists[key]:
        raise ValueError(f"study {study}: {key} is empty, expected some of {list(known)}")
    rest = "train" if test is not None and valid is not None else None
    return {number: "test" if number in lists[f"test_{key}"] else "valid" if number in lists[f"valid_{key}"] else rest
            for number in sorted(set(lists[key]))}
