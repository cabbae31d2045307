"""Segment ids → one `Batch`, gathered for the whole batch at once; scaling and the rest happen on the device."""
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from bm.batch import Batch
from bm.data.scaling import BrainScaler, FeatureScaler, Scalers, fit_feature, robust_center_scale
from bm.data.tracks import Bank, SampleBank

#: separate random streams, so that a change in one leaves the others alone
LOADER_STREAM, SCALER_STREAM = 1, 2


@dataclass(frozen=True)
class Montages:
    """Sensors of every recording, padded to the largest: `valid (R, C)`, `positions (R, C, 3)`, `layout (R, C, 2)`."""

    valid: np.ndarray
    positions: np.ndarray
    layout: np.ndarray

    @classmethod
    def from_tables(cls, tables: Sequence[pd.DataFrame]) -> "Montages":
        """From one channels table per recording; bad channels are not valid."""
        channels = max(len(table) for table in tables)
        valid = np.zeros((len(tables), channels), dtype=bool)
        positions = np.full((len(tables), channels, 3), np.nan, dtype=np.float32)
        layout = np.full((len(tables), channels, 2), np.nan, dtype=np.float32)
        for i, table in enumerate(tables):
            valid[i, :len(table)] = ~table["bad"].to_numpy(bool)
            positions[i, :len(table)] = table[["x", "y", "z"]]
            layout[i, :len(table)] = table[["layout_x", "layout_y"]]
        return cls(valid, positions, layout)


class BufferPool:
    """Memory for batches, used again as soon as nobody holds the last batch made in it.

    Fresh memory costs a page fault per 4 kB, which takes longer than filling it.
    """

    def __init__(self) -> None:
        self.buffers: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        """An uninitialised array of its own for whoever holds it, or a view or tensor of it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        for buffer in self.buffers:
            # held by the list, the loop and the call: any view or tensor holds it too
            if buffer.nbytes == size and sys.getrefcount(buffer) <= 3:
                return buffer.view(dtype).reshape(shape)
        self.buffers = [buffer for buffer in self.buffers if sys.getrefcount(buffer) > 3][-8:]
        self.buffers.append(np.empty(size, dtype=np.uint8))
        return self.buffers[-1].view(dtype).reshape(shape)


class SegmentDataset(Dataset):
    """All segments of one window length. `dataset[ids]` is a raw `Batch`: brain in SI units, features unscaled.

    Args:
        arrays: `(time, channels)` of each recording, memory-mapped.
        montages: their sensors.
        segments: the segment table; ids are its row numbers.
        samples: T of every segment asked for.
        subjects: subject index of each recording.
        banks: features.
        words: `(time,)` bool of each recording.
        heard: for each segment the one whose features and words it gets; None: its own.
    """

    def __init__(self, arrays: list[np.ndarray], montages: Montages, segments: pd.DataFrame, samples: int,
                 subjects: Sequence[int], banks: Sequence[Bank | SampleBank], words: list[np.ndarray],
                 heard: np.ndarray | None = None) -> None:
        self.arrays, self.montages, self.samples = arrays, montages, samples
        self.banks, self.words, self.pool = banks, words, BufferPool()
        self.first = segments["first"].to_numpy(np.int64)
        self.recording = segments["recording"].to_numpy(np.int64)
        self.subjects = np.asarray(subjects, dtype=np.int64)
        self.heard = np.arange(len(self.first)) if heard is None else heard

    def __len__(self) -> int:
        return len(self.first)

    def gather_brain(self, ids: np.ndarray) -> np.ndarray:
        """`(B, T, C)` float32; channels a recording lacks are 0."""
        n, channels = self.samples, self.montages.valid.shape[1]
        out = self.pool.take((len(ids), n, channels))
        for row, recording, first in zip(out, self.recording[ids], self.first[ids], strict=True):
            array = self.arrays[recording]  # a segment is one contiguous read
            row[:, :array.shape[1]] = array[first:first + n]
            row[:, array.shape[1]:] = 0
        return out

    def __getitems__(self, wanted: Sequence[int] | np.ndarray) -> Batch:
        ids = np.array(wanted, dtype=np.int64)
        recording = self.recording[ids]
        heard = self.heard[ids]
        at = list(zip(self.recording[heard], self.first[heard], strict=True))
        features = {}
        for bank in self.banks:
            features[bank.feature.name] = torch.from_numpy(bank.gather(at, self.samples, self.pool)).transpose(1, 2)
        words = np.empty((len(ids), self.samples), dtype=bool)
        for line, (r, first) in zip(words, at, strict=True):
            line[:] = self.words[r][first:first + self.samples]
        return Batch(
            brain=torch.from_numpy(self.gather_brain(ids)).transpose(1, 2),
            channel_mask=torch.from_numpy(self.montages.valid[recording]),
            positions=torch.from_numpy(self.montages.positions[recording]),
            layout=torch.from_numpy(self.montages.layout[recording]),
            subject=torch.from_numpy(self.subjects[recording]),
            recording=torch.from_numpy(recording),
            segment=torch.from_numpy(ids),
            features=features,
            masks={"word": torch.from_numpy(words)},
        )


@dataclass
class Finish:
    """Raw batch → what the model sees; all of it on the batch's device.

    Baseline (mean over the first `baseline` samples subtracted), robust scale, clamp at ±`max_scale`, invalid channels
    to 0, features standardised, brain delayed by `offset` samples against them.
    """

    scalers: Scalers
    baseline: int
    max_scale: float | None
    offset: int
    pool: BufferPool = field(default_factory=BufferPool)

    def _transposed(self, x: Tensor) -> Tensor:
        """`(B, T, C)` → `(B, C, T)`, contiguous."""
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return x.transpose(1, 2).contiguous()
        out = torch.from_numpy(self.pool.take((x.shape[0], x.shape[2], x.shape[1])))
        return out.copy_(x.transpose(1, 2))

    def to(self, device: torch.device | str) -> "Finish":
        return Finish(self.scalers.to(device), self.baseline, self.max_scale, self.offset)

    def __call__(self, batch: Batch) -> Batch:
        brain = batch.brain
        if brain is not None:
            # (B, T, C) as it lies in memory: one new array, changed in place, and one transposed copy
            x, scaler = brain.transpose(1, 2), self.scalers.brain
            center = scaler.center[batch.recording]
            if self.baseline:
                center = center + x[:, :self.baseline].mean(1)
            x = x[:, self.offset:] - center[:, None]
            x *= (batch.channel_mask / scaler.scale[batch.recording])[:, None]
            if self.max_scale is not None:
                x.clamp_(-self.max_scale, self.max_scale)
            brain = self._transposed(x)
        samples = batch.masks["word"].shape[1]

        def cut(x: Tensor) -> Tensor:  # features may have a rate of their own
            return x[..., :x.shape[-1] - round(self.offset * x.shape[-1] / samples)]

        features = {name: self._transposed(self.scalers.features[name](cut(x)).transpose(1, 2))
                    for name, x in batch.features.items()}
        masks = {name: cut(mask) for name, mask in batch.masks.items()}
        return batch.replace(brain=brain, features=features, masks=masks)


class EpochSampler(Sampler[list[int]]):
    """Batches of segment ids; the order depends on (seed, epoch) alone, whatever the number of workers.

    Args:
        ids: segments to draw from.
        batch_size: segments per batch; the last one may be smaller.
        seed: None keeps the order of `ids`.
        max_batches: at most so many.
        rank, world_size: this process takes every `world_size`-th segment of each batch, so that all processes
            together see the batches that one would see.
    """

    def __init__(self, ids: np.ndarray, batch_size: int, seed: int | None = None, max_batches: int | None = None,
                 rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size <= batch_size:
            raise ValueError(f"rank {rank} of {world_size} processes with batches of {batch_size}: expected "
                             "0 ≤ rank < world_size ≤ batch_size")
        self.ids, self.batch_size, self.seed, self.max_batches = ids, batch_size, seed, max_batches
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return min(-(-len(self.ids) // self.batch_size), self.max_batches or len(self.ids))

    def __iter__(self) -> Iterator[list[int]]:
        ids = self.ids
        if self.seed is not None:
            ids = np.random.default_rng([self.seed, LOADER_STREAM, self.epoch]).permutation(ids)
        for batch in range(len(self)):
            whole = ids[batch * self.batch_size:(batch + 1) * self.batch_size]
            yield whole[self.rank::self.world_size].tolist()


def make_loader(dataset: SegmentDataset, sampler: EpochSampler, num_workers: int, pin: bool) -> DataLoader:
    """Batches of `sampler`, gathered in `num_workers` processes (0: in this one)."""
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, pin_memory=pin,
                      collate_fn=_same,  # type: ignore[arg-type]  # the dataset gives whole batches
                      persistent_workers=num_workers > 0)


def _same(batch: Batch) -> Batch:
    return batch


def fit_scalers(dataset: SegmentDataset, train: np.ndarray, baseline: int, event_mask: bool, per_channel: bool,
                n_per_recording: int, n_features: int, seed: int) -> Scalers:
    """Fits the scales on train segments chosen by their own random stream.

    Args:
        train: ids of the train segments.
        baseline: samples whose mean is subtracted first.
        event_mask: features are fitted on samples where a word is heard.
        n_per_recording, n_features: segments to look at, per recording and in all; no more than there are.
    """
    rng = np.random.default_rng([seed, SCALER_STREAM])
    n_recordings, channels = dataset.montages.valid.shape
    center, scale = np.zeros((n_recordings, channels), np.float32), np.ones((n_recordings, channels), np.float32)
    for recording in range(n_recordings):
        own = train[dataset.recording[train] == recording]
        if len(own) == 0:  # heard in held-out splits alone: its own statistics, which know nothing of the stimulus
            own = np.flatnonzero(dataset.recording == recording)
        if len(own) == 0:
            continue
        brain = dataset.gather_brain(np.sort(rng.permutation(own)[:n_per_recording]))
        if baseline:
            brain -= brain[:, :baseline].mean(1, keepdims=True)
        center[recording], scale[recording] = robust_center_scale(brain.reshape(-1, channels))
    chosen = np.sort(rng.permutation(train)[:n_features])
    features: dict[str, FeatureScaler] = {}
    for bank in dataset.banks:
        if not bank.feature.normalize or isinstance(bank, SampleBank):
            features[bank.feature.name] = FeatureScaler(torch.zeros(1), torch.ones(1))
            continue
        counts = _row_counts(dataset, bank, chosen, event_mask)
        features[bank.feature.name] = fit_feature(bank.rows, counts, per_channel, bank.feature.name)
    return Scalers(BrainScaler(torch.from_numpy(center), torch.from_numpy(scale)), features)


def _row_counts(dataset: SegmentDataset, bank: Bank, ids: np.ndarray, event_mask: bool) -> np.ndarray:
    """How often each row of a bank is seen in the segments `ids`, where a word is heard if `event_mask`."""
    counts = np.zeros(len(bank.rows), dtype=np.int64)
    for recording, first in zip(dataset.recording[ids], dataset.first[ids], strict=True):
        rows = bank.gather_index(recording, first, dataset.samples)
        np.add.at(counts, rows[dataset.words[recording][first:first + dataset.samples]] if event_mask else rows, 1)
    return counts


def class_counts(dataset: SegmentDataset, train: np.ndarray, event_mask: bool, n_segments: int, seed: int
                 ) -> dict[str, Tensor]:
    """How often each class `(K,)` of each categorical feature is seen in (at most `n_segments` of) the train segments.

    Raises:
        ValueError: a label that is no class of its feature.
    """
    chosen = np.random.default_rng([seed, SCALER_STREAM]).permutation(train)[:n_segments]
    counts = {}
    for bank in dataset.banks:
        n_classes = bank.feature.n_classes
        if n_classes is None or isinstance(bank, SampleBank):
            continue
        seen, label = _row_counts(dataset, bank, chosen, event_mask), bank.rows[:, 0]
        wrong = label[(seen > 0) & ((label < 0) | (label >= n_classes) | (label % 1 != 0))]
        if len(wrong):
            raise ValueError(f"feature {bank.feature.name} has the label {wrong[0]}: expected whole numbers from 0 to "
                             f"{n_classes - 1}")
        counts[bank.feature.name] = torch.from_numpy(
            np.bincount(label.astype(np.int64), seen, n_classes)).float()
    return counts
