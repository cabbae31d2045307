"""Raw recordings → prepared arrays: `(time, channels)` float32 at `dset.sample_rate`, filtered, memory-mapped."""
import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from bm.progress import with_progress
from bm.store import Store, file_identity, file_sha256
from bm.studies.base import Recording, Signal

logger = logging.getLogger(__name__)

#: channels filtered at once: bounds the memory beside the raw and the prepared array
CHANNEL_CHUNK = 16


@dataclass(frozen=True)
class Prepared:
    """One prepared recording, in a folder of the store."""

    folder: Path
    sample_rate: float | None  # None: one row per event

    @cached_property
    def array(self) -> np.ndarray:
        """`(time, channels)` float32, memory-mapped, in units of `channels`."""
        return np.load(self.folder / "brain.npy", mmap_mode="r")

    @cached_property
    def channels(self) -> pd.DataFrame:
        """The channels table of `studies.base.CHANNEL_COLUMNS`."""
        return pd.read_parquet(self.folder / "channels.parquet")

    @property
    def duration(self) -> float:
        """Seconds. Raises ValueError for a recording without a sampling rate."""
        if self.sample_rate is None:
            raise ValueError(f"{self.folder.name}: a recording with one row per event has no duration")
        return len(self.array) / self.sample_rate


#: of the notch filter: frequency over width
NOTCH_Q = 30.0


def filter_length(sample_rate: float, highpass: float, lowpass: float = 0.0, notch: float = 0.0) -> float:
    """Half the length (s) of the filters of `prepare`: how far an instant spreads."""
    half = 24 / (0.945 * sample_rate)  # julius.ResampleFrac: 24 zero crossings, roll-off 0.945
    half += sum(8 / cutoff / 2 for cutoff in (highpass, lowpass) if cutoff)  # julius.lowpass_filter: 8 zero crossings
    return half + (np.log(1000) * NOTCH_Q / (np.pi * notch) if notch else 0)  # until it has decayed to a thousandth


def prepare_signal(signal: Signal, sample_rate: int, highpass: float, where: str, lowpass: float = 0.0,
                   notch: float = 0.0) -> np.ndarray:
    """Resamples (band-limited, julius), high-passes (x − lowpass(x)) and low-passes a signal; cutoffs in Hz, 0: none.

    `notch` removes a frequency and its harmonics (second-order filters of width f/30, forwards and backwards).

    A signal without a rate (one row per event) is kept as it is. NaN stays only where the signal says that it means
    *not measured*, and only if nothing has to be filtered.

    Returns:
        `(⌊time · sample_rate / rate⌋, channels)` float32.

    Raises:
        ValueError: for a rate below `sample_rate` or with a fraction, channels of one name, NaN in a signal that may
            not have any.
    """
    import julius
    import torch
    _check_channels(signal, where)
    if signal.rate is None:  # one row per event: there is nothing to resample or to filter
        return _finite(_read_float32(signal), signal, where)
    old = round(signal.rate)
    if old < sample_rate:
        raise ValueError(f"{where}: dset.sample_rate is {sample_rate} Hz but the recording has {signal.rate:g} Hz; "
                         f"choose {old} Hz or less")
    late = abs(signal.shape[0] / old - signal.shape[0] / signal.rate)
    if late * sample_rate > 0.5:
        raise ValueError(f"{where}: the recording has {signal.rate!r} Hz, expected a whole number: taken for {old} Hz, "
                         f"its end would be {late:.3g} s off; let the study's reader resample it")
    raw = _finite(_read_float32(signal), signal, where)
    if old == sample_rate and not (highpass or lowpass or notch):
        return raw
    if np.isnan(raw).any():
        raise ValueError(f"{where}: values that were not measured (NaN) cannot be resampled or filtered: use "
                         f"dset.sample_rate={old} and dset.highpass=0")
    out = np.empty((raw.shape[0] * sample_rate // old, raw.shape[1]), dtype=np.float32)
    with torch.no_grad():
        for first in range(0, raw.shape[1], CHANNEL_CHUNK):
            chunk = slice(first, first + CHANNEL_CHUNK)
            x = torch.from_numpy(np.ascontiguousarray(raw[:, chunk].T))
            # a mean of 1e-9 T under a signal of 1e-13 T would leave its rounding error in the filter's output
            mean = x.mean(1, keepdim=True)
            x = julius.resample_frac(x - mean, old, sample_rate)
            x = x - julius.lowpass_filter(x, highpass / sample_rate) if highpass else x + mean
            if lowpass:
                x = julius.lowpass_filter(x, lowpass / sample_rate)
            if notch:
                x = torch.from_numpy(_notch(x.numpy(), notch, sample_rate))
            out[:, chunk] = x[:, :len(out)].T.numpy()
    return out


def _notch(x: np.ndarray, frequency: float, sample_rate: int) -> np.ndarray:
    """`(channels, time)` without a frequency and its harmonics below half the rate."""
    from scipy.signal import filtfilt, iirnotch
    for harmonic in np.arange(frequency, sample_rate / 2 - 1e-6, frequency):
        x = filtfilt(*iirnotch(harmonic, NOTCH_Q, sample_rate), x)
    return x.astype(np.float32)


def _finite(raw: np.ndarray, signal: Signal, where: str) -> np.ndarray:
    """The array itself, if all is finite, or NaN where that means *not measured* (`signal.missing`)."""
    bad = np.isinf(raw) if signal.missing == "mask" else ~np.isfinite(raw)
    if bad.any():
        names = signal.channels["name"].to_numpy()[bad.any(0)]
        row = int(np.argmax(bad.any(1)))
        first = f"in row {row}" if signal.rate is None else f"at {row / signal.rate:g} s"
        raise ValueError(f"{where}: {int(bad.sum())} values that are not finite in channels {', '.join(names[:5])}"
                         f"{'…' if len(names) > 5 else ''}, the first {first}; expected finite numbers: mark the "
                         "channels bad and interpolate them, or cut the span out")
    return raw


def _check_channels(signal: Signal, where: str) -> None:
    if not len(signal.channels):  # no sensors, but sources of a simulation
        return
    names = signal.channels["name"]
    if len(names) != signal.shape[1]:
        raise ValueError(f"{where}: {signal.shape[1]} channels with {len(names)} rows that describe them, expected one "
                         "row per channel: mend the study's reader")
    if names.duplicated().any():
        twice = sorted(set(names[names.duplicated()]))
        raise ValueError(f"{where}: channel names must be unique, but {twice[:5]} occur more than once: rename them")


def _read_float32(signal: Signal, rows: int = 20_000) -> np.ndarray:
    """The whole signal, read in pieces so that no float64 copy of it is ever held."""
    out = np.empty(signal.shape, dtype=np.float32)
    for start in range(0, signal.shape[0], rows):
        stop = min(start + rows, signal.shape[0])
        out[start:stop] = signal.read(start, stop)
    return out


def prepare(recording: Recording, store: Store, sample_rate: int, highpass: float, lowpass: float = 0.0,
            notch: float = 0.0) -> Prepared:
    """The prepared recording, from the cache or made now. See `prepare_signal` for errors."""
    _check_files(recording, recording.source_files())
    key = {"stage": "prepare", "version": 2, "recording": recording.name, "sample_rate": sample_rate,
           "highpass": highpass, **({"lowpass": lowpass} if lowpass else {}), **({"notch": notch} if notch else {}),
           "options": recording.signal_options(),
           "source": [file_identity(path) for path in recording.source_files()]}

    def make(folder: Path) -> None:
        signal = recording.signal()
        np.save(folder / "brain.npy", prepare_signal(signal, sample_rate, highpass, recording.name, lowpass, notch))
        signal.channels.to_parquet(folder / "channels.parquet")
        (folder / "rate.json").write_text(json.dumps(None if signal.rate is None else sample_rate))

    folder = store.get("prepared", key, make)
    return Prepared(folder, json.loads((folder / "rate.json").read_text()))


def _check_files(recording: Recording, files: list[Path]) -> None:
    missing = [path for path in files if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{recording.name}: {len(missing)} of its {len(files)} files are missing, the first is "
                                f"{missing[0]}: complete the download of the study, or mend study_paths."
                                f"{recording.study}")


def read_events(recording: Recording, store: Store) -> pd.DataFrame:
    """The events of a recording as its study gives them, kept in the cache if the study says what they come from.

    Sound files are kept relative to the first event file, so that a study that has moved is found; a sound that has
    changed or disappeared makes the events be read again (a study may take durations from it).
    """
    sources = recording.event_files()
    if not sources:
        return recording.events()
    _check_files(recording, sources)
    key = {"stage": "events", "version": 1, "recording": recording.name,
           "options": recording.event_options(),
           "source": [{"name": path.name, "sha256": file_sha256(path)} for path in sources]}
    home = sources[0].parent

    def make(folder: Path) -> None:
        events = recording.events()
        sounds = {}
        if "filepath" in events:
            events["filepath"] = _each(events["filepath"], lambda path: os.path.relpath(path, home))
            sounds = {path: _sound_identity(home / path) for path in events["filepath"].dropna().unique()}
        events.to_parquet(folder / "events.parquet")
        (folder / "sounds.json").write_text(json.dumps(sounds))

    folder = store.get("events", key, make)
    sounds = json.loads((folder / "sounds.json").read_text())
    if any(_sound_identity(home / path) != identity for path, identity in sounds.items()):
        return recording.events()
    events = pd.read_parquet(folder / "events.parquet")
    if sounds:
        events["filepath"] = _each(events["filepath"], lambda path: os.path.normpath(home / path))
    return events


def _each(paths: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """A column with each different path changed; missing ones stay so."""
    which, different = pd.factorize(paths)
    changed = pd.array([change(path) for path in different], dtype="str")
    return pd.Series(changed.take(which, allow_fill=True), paths.index)


def _sound_identity(path: Path) -> str | None:
    return file_sha256(path) if path.exists() else None


def prepare_all(recordings: list[Recording], store: Store, sample_rate: int, highpass: float, workers: int = 0,
                lowpass: float = 0.0, notch: float = 0.0) -> list[Prepared]:
    """Prepares recordings side by side, with a progress bar when there is something to do."""
    from concurrent.futures import as_completed
    from os import cpu_count

    # threads: the filters release the interpreter, and every process would pay for importing torch
    with ThreadPoolExecutor(workers or min(cpu_count() or 1, 8)) as pool:  # each holds a raw recording
        jobs = [pool.submit(prepare, recording, store, sample_rate, highpass, lowpass, notch)
                for recording in recordings]
        for job in with_progress(as_completed(jobs), "prepare", len(jobs)):
            job.result()
    return [job.result() for job in jobs]
