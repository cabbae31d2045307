"""Tracks and placements: features computed once per chunk of stimulus, and where each stands in each recording.

All who hear a stimulus share its rows. A `Bank` holds the rows of a feature (row 0: silence) at the brain's rate, and
one int32 row index per brain sample, so a segment's feature is `bank.rows[bank.index[recording][first:first + n]]`.
"""
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bm.features.audio import read_audio, resample
from bm.features.base import Feature
from bm.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bank:
    """One feature over all recordings: `rows (n, dim)` float32, `index`: one int32 array per recording."""

    feature: Feature
    rows: np.ndarray
    index: list[np.ndarray]

    def gather_index(self, recording: int, first: int, n: int) -> np.ndarray:
        """`(n,)` rows of one segment."""
        return self.index[recording][first:first + n]


def compute_tracks(feature: Feature, path: Path, spans: Sequence[tuple[float, float]], store: Store, stimulus: str
                   ) -> list[np.ndarray]:
    """Rows `(n, dim)` of each chunk of a sound at the feature's own rate, from the cache or computed now.

    Args:
        path: of the sound.
        spans: start and stop of each chunk, seconds in the file; features see nothing outside theirs.
        stimulus: the file's content identity, so that a replaced file is a new one.
    """
    key = {"stage": "tracks", "feature": feature.identity(), "stimulus": stimulus, "spans": [list(s) for s in spans]}

    def make(folder: Path) -> None:
        tracks = []
        for start, stop in spans:
            rows = feature.compute(*read_audio(path, start, stop))
            if rows.ndim != 2 or rows.shape[1] != feature.dim or not np.isfinite(rows).all():
                raise ValueError(f"{feature.name} gave {rows.shape} for {path}, {start}–{stop} s: expected finite rows "
                                 f"of {feature.dim}")
            tracks.append(rows)
        np.save(folder / "rows.npy", np.concatenate(tracks).astype(np.float32))
        np.save(folder / "ends.npy", np.cumsum([len(rows) for rows in tracks]))

    folder = store.get(f"tracks/{feature.name}", key, make)
    return np.split(np.load(folder / "rows.npy", mmap_mode="r"), np.load(folder / "ends.npy")[:-1])


def to_brain_rate(rows: np.ndarray, rate: float, sample_rate: int, duration: float, how: str) -> np.ndarray:
    """A chunk's rows at the brain's rate, `(round(duration · sample_rate), dim)`.

    Args:
        rows: `(m, dim)` at `rate`.
        how: "bandlimited" (julius) or "nearest": row ⌊i · m / n⌋ for sample i of n.
    """
    n = round(duration * sample_rate)
    if how == "nearest":
        return rows[np.arange(n) * len(rows) // max(n, 1)]
    out = resample(np.ascontiguousarray(rows.T), round(rate), sample_rate).T
    return out[np.minimum(np.arange(n), len(out) - 1)]  # at most one sample is repeated at the end


def build_bank(feature: Feature, blocks: pd.DataFrame, files: dict[str, Path], lengths: Sequence[int],
               sample_rate: int, how: str, store: Store) -> Bank:
    """Computes a feature on every chunk of stimulus and places it in every recording.

    Args:
        blocks: from `splits.plan_blocks`.
        files: stimulus identity → a file with that content.
        lengths: brain samples of each recording.
    """
    from tqdm import tqdm
    if how == "bandlimited" and feature.rate != round(feature.rate):
        raise ValueError(f"{feature.name} has {feature.rate} rows a second: only a whole number can be resampled "
                         "band-limited; set dset.feature_resampling=nearest")
    heard = blocks[blocks["stimulus"] != ""]
    chunks = heard[["stimulus", "chunk_start", "chunk_stop"]].drop_duplicates().sort_values(
        ["stimulus", "chunk_start"], ignore_index=True)
    pieces = [np.full((1, feature.dim), feature.default, dtype=np.float32)]
    for stimulus, own in tqdm(chunks.groupby("stimulus", sort=False), desc=feature.name, leave=False, disable=None):
        spans = list(zip(own["chunk_start"], own["chunk_stop"], strict=True))
        tracks = compute_tracks(feature, files[stimulus], spans, store, stimulus)
        pieces += [to_brain_rate(rows, feature.rate, sample_rate, stop - start, how)
                   for rows, (start, stop) in zip(tracks, spans, strict=True)]
    first = np.cumsum([0] + [len(piece) for piece in pieces])[1:-1]  # the row where each chunk begins
    index = [np.zeros(length, dtype=np.int32) for length in lengths]
    row_of = dict(zip(chunks.itertuples(index=False, name=None), first, strict=True))
    for block in heard.itertuples():
        row = row_of[block.stimulus, block.chunk_start, block.chunk_stop]
        start = round(block.chunk_time * sample_rate)
        stop = start + round((block.chunk_stop - block.chunk_start) * sample_rate)
        # only what is heard: a purged or partly heard chunk keeps its silence outside the block
        low = max(start, round(block.start * sample_rate), 0)
        high = min(stop, round(block.stop * sample_rate), len(index[block.recording]))
        if high > low:
            index[block.recording][low:high] = np.arange(row + low - start, row + high - start, dtype=np.int32)
    return Bank(feature, np.concatenate(pieces), index)


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
