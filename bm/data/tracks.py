"""Tracks and placements: features computed once per chunk of stimulus, and where each stands in each recording.

All who hear a stimulus share its rows. A `Bank` holds the rows of a feature (row 0: silence) at the brain's rate, and
one int32 row index per brain sample, so a segment's feature is `bank.rows[bank.index[recording][first:first + n]]`.
"""
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from bm.features.audio import read_audio, resample
from bm.features.base import EventFeature, Feature, SoundFeature
from bm.progress import with_progress
from bm.store import Store, digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bank:
    """One feature over all recordings: `rows (n, dim)`, memory-mapped; `index`: one int32 array per recording."""

    feature: Feature
    rows: np.ndarray
    index: list[np.ndarray]

    def gather_index(self, recording: int, first: int, n: int) -> np.ndarray:
        """`(n,)` rows of one segment."""
        return self.index[recording][first:first + n]

    def gather(self, at: Sequence[tuple[int, int]], n: int, pool: "Pool") -> np.ndarray:
        """`(B, n, dim)` of segments that start at (recording, brain sample)."""
        index = np.empty((len(at), n), dtype=np.int32)
        for line, (recording, first) in zip(index, at, strict=True):
            line[:] = self.gather_index(recording, first, n)
        rows = pool.take((*index.shape, self.rows.shape[1]), self.rows.dtype.type)
        return np.take(self.rows, index, axis=0, out=rows, mode="clip")  # "raise" would go through a copy


@dataclass(frozen=True)
class SampleBank:
    """A feature at its own, high rate: `rows (n, dim)`, and per recording the stretches that are heard.

    Args:
        stretches: for each recording `(m, 3)` int64: first sample (at the feature's rate), the one after the last, and
            the row of the first.
        sample_rate: of the brain, Hz.
    """

    feature: SoundFeature
    rows: np.ndarray
    stretches: list[np.ndarray]
    sample_rate: int

    def gather(self, at: Sequence[tuple[int, int]], n: int, pool: "Pool") -> np.ndarray:
        """`(B, n · rate / sample_rate, dim)` of segments that start at (recording, brain sample)."""
        ratio = self.feature.rate / self.sample_rate
        length = round(n * ratio)
        out = pool.take((len(at), length, self.rows.shape[1]), self.rows.dtype.type)
        out[:] = self.feature.default
        for line, (recording, first) in zip(out, at, strict=True):
            begin = round(first * ratio)
            for low, high, row in self.stretches[recording]:
                start, stop = max(low, begin), min(high, begin + length)
                if start < stop:
                    line[start - begin:stop - begin] = self.rows[row + start - low:row + stop - low]
        return out


class Pool(Protocol):
    """Where batches get their memory (`loader.BufferPool`)."""

    def take(self, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray: ...


def compute_tracks(feature: SoundFeature, path: Path, spans: Sequence[tuple[float, float]], store: Store, stimulus: str
                   ) -> list[np.ndarray]:
    """Rows `(n, dim)` of each chunk of a sound at the feature's own rate, from the cache or computed now.

    Args:
        path: of the sound.
        spans: start and stop of each chunk, seconds in the file; features see nothing outside theirs.
        stimulus: the file's content identity, so that a replaced file is a new one.
    """
    key = {"stage": "tracks", "feature": feature.identity(), "stimulus": stimulus, "spans": [list(s) for s in spans]}

    def make(folder: Path) -> None:
        tracks = feature.compute_many([read_audio(path, start, stop) for start, stop in spans])
        for rows, (start, stop) in zip(tracks, spans, strict=True):
            if rows.ndim != 2 or rows.shape[1] != feature.dim or not np.isfinite(rows).all():
                raise ValueError(f"{feature.name} gave {rows.shape} for {path}, {start}–{stop} s: expected finite rows "
                                 f"of {feature.dim}")
        np.save(folder / "rows.npy", np.concatenate(tracks).astype(feature.dtype))
        np.save(folder / "ends.npy", np.cumsum([len(rows) for rows in tracks]))

    folder = store.get(f"tracks/{feature.name}", key, make)
    return np.split(np.load(folder / "rows.npy", mmap_mode="r"), np.load(folder / "ends.npy")[:-1])


def to_brain_rate(rows: np.ndarray, rate: float, sample_rate: float, duration: float, how: str) -> np.ndarray:
    """A chunk's rows at the brain's rate, `(round(duration · sample_rate), dim)`.

    Args:
        rows: `(m, dim)` at `rate`.
        how: "bandlimited" (julius); "nearest": row ⌊i · m / n⌋ for sample i of n; "native": as they are, the last one
            repeated where one is missing.
    """
    n = round(duration * sample_rate)
    if how == "native":
        return rows[np.minimum(np.arange(n), len(rows) - 1)]
    if how == "nearest":
        return rows[np.arange(n) * len(rows) // max(n, 1)]
    out = resample(np.ascontiguousarray(rows.T), round(rate), round(sample_rate)).T
    return out[np.minimum(np.arange(n), len(out) - 1)]  # at most one sample is repeated at the end


def build_bank(feature: SoundFeature, blocks: pd.DataFrame, files: dict[str, Path], lengths: Sequence[int],
               sample_rate: int, how: str, store: Store) -> Bank | SampleBank:
    """Computes a feature on every chunk of stimulus and places it in every recording.

    Args:
        blocks: from `splits.plan_blocks`.
        files: stimulus identity → a file with that content.
        lengths: brain samples of each recording.
    """
    if feature.native:
        how = "native"
    if how == "bandlimited" and feature.rate != round(feature.rate):
        raise ValueError(f"{feature.name} has {feature.rate} rows a second: only a whole number can be resampled "
                         "band-limited; set dset.feature_resampling=nearest")
    heard = blocks[blocks["stimulus"] != ""]
    chunks = heard[["stimulus", "chunk_start", "chunk_stop"]].drop_duplicates().sort_values(
        ["stimulus", "chunk_start"], ignore_index=True)
    rate = feature.rate if feature.native else sample_rate
    sizes = [round((stop - start) * rate)
             for start, stop in zip(chunks["chunk_start"], chunks["chunk_stop"], strict=True)]
    first = np.cumsum([1, *sizes])  # the row where each chunk begins; row 0 is silence
    rows = _bank_rows(feature, chunks, first, files, rate, how, store)
    row_of = dict(zip(chunks.itertuples(index=False, name=None), first, strict=False))
    stretches: list[list[tuple[int, int, int]]] = [[] for _ in lengths]
    for block in heard.itertuples():
        row = row_of[block.stimulus, block.chunk_start, block.chunk_stop]
        start = round(block.chunk_time * rate)
        stop = start + round((block.chunk_stop - block.chunk_start) * rate)
        # only what is heard: a purged or partly heard chunk keeps its silence outside the block
        low = max(start, round(block.start * rate), 0)
        high = min(stop, round(block.stop * rate), round(lengths[block.recording] * rate / sample_rate))
        if high > low:
            stretches[block.recording].append((low, high, row + low - start))
    if feature.native:
        return SampleBank(feature, rows, [np.array(own, dtype=np.int64).reshape(-1, 3) for own in stretches],
                          sample_rate)
    index = [np.zeros(length, dtype=np.int32) for length in lengths]
    for line, own in zip(index, stretches, strict=True):
        for low, high, row in own:
            line[low:high] = np.arange(row, row + high - low, dtype=np.int32)
    return Bank(feature, rows, index)


def _bank_rows(feature: SoundFeature, chunks: pd.DataFrame, first: np.ndarray, files: dict[str, Path],
               sample_rate: float, how: str, store: Store) -> np.ndarray:
    """The rows `(n, dim)` of all chunks at `sample_rate`, memory-mapped from the cache."""
    key = {"stage": "bank", "version": 1, "feature": feature.identity(), "sample_rate": sample_rate, "how": how,
           "dtype": feature.dtype, "chunks": [list(chunk) for chunk in chunks.itertuples(index=False, name=None)]}

    def make(folder: Path) -> None:
        rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", feature.dtype, (int(first[-1]), feature.dim))
        rows[0] = feature.default
        for stimulus, own in with_progress(chunks.groupby("stimulus", sort=False), feature.name):
            spans = list(zip(own["chunk_start"], own["chunk_stop"], strict=True))
            tracks = compute_tracks(feature, files[stimulus], spans, store, stimulus)
            for number, track, (start, stop) in zip(own.index, tracks, spans, strict=True):
                rows[first[number]:first[number + 1]] = to_brain_rate(
                    np.asarray(track, dtype=np.float32), feature.rate, sample_rate, stop - start, how)
        rows.flush()

    return np.load(store.get(f"bank/{feature.name}", key, make) / "rows.npy", mmap_mode="r")


def build_event_bank(feature: EventFeature, events: Sequence[pd.DataFrame], blocks: pd.DataFrame,
                     lengths: Sequence[int], sample_rate: int, store: Store) -> Bank:
    """One row per different event, placed at every sample while an event lasts; a later event replaces an earlier one.

    What lasts into another block ends where its own does: no split sees the words of another.

    Args:
        events: checked, one table per recording.
        blocks: from `splits.plan_blocks`.
        lengths: brain samples of each recording.

    Raises:
        ValueError: no event of the feature's kind, or a column that it needs is missing.
    """
    tables = [table[table["kind"] == feature.kind] for table in events]
    if not any(len(table) for table in tables):
        raise ValueError(f"feature {feature.name} describes events of kind {feature.kind!r}, of which these recordings "
                         "have none")
    missing = [column for column in feature.columns if not all(column in t or t.empty for t in tables)]
    if missing:
        raise ValueError(f"feature {feature.name} needs the columns {missing} of {feature.kind} events, which these "
                         "studies do not give")
    columns = list(feature.columns)
    told = pd.concat([table.reindex(columns=columns) for table in tables], ignore_index=True)
    different = told.drop_duplicates().sort_values(columns, ignore_index=True)
    keys = pd.MultiIndex.from_frame(different)
    number = keys.get_indexer(pd.MultiIndex.from_frame(told))
    rows = _event_rows(feature, different, store)
    index, done, lost = [], 0, 0
    for recording, (table, length) in enumerate(zip(tables, lengths, strict=True)):
        own = blocks[blocks["recording"] == recording]
        start = table["start"].to_numpy()
        low = np.rint(start * sample_rate)
        high = np.rint((start + table["duration"].to_numpy()) * sample_rate)
        if feature.pulse_s is not None:
            high = low + max(1, round(feature.pulse_s * sample_rate))
        if len(own):
            block = np.searchsorted(own["start"].to_numpy(), start, side="right") - 1
            end = np.rint(own["stop"].to_numpy()[block] * sample_rate)
            high = np.where(block >= 0, np.minimum(high, end), high)
        low, high = (np.clip(at, 0, length).astype(np.int64) for at in (low, high))
        line = np.zeros(length, dtype=np.int32)
        for row, first, last in zip(number[done:done + len(table)], low, high, strict=True):
            line[first:last] = row + 1
        lost += int((high <= low).sum())
        done += len(table)
        index.append(line)
    if lost:
        logger.info("%s: %d of %d events are shorter than a sample or outside their recording", feature.name, lost,
                    done)
    return Bank(feature, rows, index)


def _event_rows(feature: EventFeature, different: pd.DataFrame, store: Store) -> np.ndarray:
    """Row 0, nothing, and one row per event of the table, from the cache or computed now."""
    told = [[value.item() if isinstance(value, np.generic) else value for value in row]
            for row in different.astype(object).where(different.notna(), None).itertuples(index=False, name=None)]
    key = {"stage": "events", "version": 1, "feature": feature.identity(), "columns": list(feature.columns),
           "events": digest(told, 64)}

    def make(folder: Path) -> None:
        values = feature.values(different)
        if values.shape != (len(different), feature.dim) or not np.isfinite(values).all():
            raise ValueError(f"{feature.name} gave {values.shape} for {len(different)} events: expected finite vectors "
                             f"of {feature.dim}")
        silence = np.full((1, feature.dim), feature.default)
        np.save(folder / "rows.npy", np.concatenate([silence, values]).astype(feature.dtype))

    return np.load(store.get(f"bank/{feature.name}", key, make) / "rows.npy", mmap_mode="r")


def lagged(rows: np.ndarray, width: int) -> np.ndarray:
    """Windows of `width` rows as a view `(n − width + 1, width, dim)` of `(n, dim)`: no memory of its own.

    Window i holds rows i … i + width − 1, oldest first.
    """
    if not 1 <= width <= len(rows):
        raise ValueError(f"windows of {width} rows do not fit into {len(rows)}")
    return np.lib.stride_tricks.sliding_window_view(rows, width, axis=0).swapaxes(1, 2)


def pooled(bank: Bank, recording: int, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Mean feature of each of n events: `(n, dim)`, one row per event.

    Args:
        start, stop: samples `(n,)`, at least one each.
    """
    if (stop <= start).any() or (start < 0).any() or (stop > len(bank.index[recording])).any():
        raise ValueError("every event must hold at least one sample, inside the recording")
    rows = bank.rows[bank.index[recording][start.min():stop.max()]].astype(np.float64)
    total = np.concatenate([np.zeros((1, rows.shape[1])), rows.cumsum(0)])
    first = start.min()
    return ((total[stop - first] - total[start - first]) / (stop - start)[:, None]).astype(np.float32)


def word_mask(events: pd.DataFrame, length: int, sample_rate: int) -> np.ndarray:
    """`(length,)` bool: True at samples where a word is heard."""
    step = np.zeros(length + 1, dtype=np.int64)
    words = events[events["kind"] == "word"]
    start = np.rint(words["start"].to_numpy() * sample_rate)
    stop = np.rint((words["start"] + words["duration"]).to_numpy() * sample_rate)
    np.add.at(step, np.clip(start, 0, length).astype(int), 1)
    np.add.at(step, np.clip(stop, 0, length).astype(int), -1)
    return np.cumsum(step[:-1]) > 0
