"""Loading batches: 208 channels × 361 samples and 120 mel bands, 64 segments, one process, one thread."""
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bm.bench import Comparison, interleaved
from bm.data.loader import EpochSampler, Finish, Montages, SegmentDataset, make_loader
from bm.data.scaling import BrainScaler, FeatureScaler, Scalers
from bm.data.tracks import Bank
from bm.features.audio import MelSpectrum

CHANNELS, TIMES, MELS, BATCH, RATE = 208, 361, 120, 64, 120
RECORDINGS, MINUTES = 4, 6
BASELINE, MAX_SCALE = 61, 20.0


def make_dataset(folder: Path, recordings: int = RECORDINGS) -> SegmentDataset:
    """Noise for a brain, in files, as `prepare` leaves it; a segment every half second."""
    rng = np.random.default_rng(0)
    n = MINUTES * 60 * RATE
    arrays = []
    for i in range(recordings):
        np.save(folder / f"{i}.npy", rng.standard_normal((n, CHANNELS), dtype=np.float32))
        arrays.append(np.load(folder / f"{i}.npy", mmap_mode="r"))
    first = np.arange(0, n - TIMES, RATE // 2)
    recording = np.repeat(range(recordings), len(first))
    segments = pd.DataFrame({"first": np.tile(first, recordings), "recording": recording})
    valid = np.ones((recordings, CHANNELS), dtype=bool)
    montages = Montages(valid, np.zeros((*valid.shape, 3), np.float32), np.zeros((*valid.shape, 2), np.float32))
    rows = rng.standard_normal((n, MELS), dtype=np.float32)
    index = [np.arange(n, dtype=np.int32) for _ in range(recordings)]
    words = [rng.random(n) < 0.8 for _ in range(recordings)]
    return SegmentDataset(arrays, montages, segments, TIMES, [0] * recordings,
                          [Bank(MelSpectrum(n_mels=MELS), rows, index)], words)


def scalers() -> Scalers:
    """Any scale: it costs the same."""
    ones = torch.ones(RECORDINGS, CHANNELS)
    return Scalers(BrainScaler(0.1 * ones, 1.3 * ones), {"MelSpectrum": FeatureScaler(torch.zeros(1), torch.ones(1))})


def plain_gather(dataset: SegmentDataset) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The floor: copies into memory that is already there."""
    brain = np.zeros((BATCH, TIMES, CHANNELS), np.float32)
    mel = np.zeros((BATCH, TIMES, MELS), np.float32)
    bank = dataset.banks[0]

    def gather(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for b, i in enumerate(ids):
            first, recording = dataset.first[i], dataset.recording[i]
            brain[b] = dataset.arrays[recording][first:first + TIMES]
            mel[b] = bank.rows[first:first + TIMES]
        return brain, mel
    return gather


def plain_finish() -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Baseline, scale, clamp and transpose, in place and into memory that is already there."""
    out = np.zeros((BATCH, CHANNELS, TIMES), np.float32)
    out_mel = np.zeros((BATCH, MELS, TIMES), np.float32)
    center, gain = np.full((1, 1, CHANNELS), 0.1, np.float32), np.full((1, 1, CHANNELS), 1 / 1.3, np.float32)

    def finish(brain: np.ndarray, mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        brain -= brain[:, :BASELINE].mean(1, keepdims=True)
        brain -= center
        brain *= gain
        np.clip(brain, -MAX_SCALE, MAX_SCALE, out=brain)
        np.copyto(out, brain.transpose(0, 2, 1))
        np.copyto(out_mel, mel.transpose(0, 2, 1))
        return out, out_mel
    return finish


def mne_loader(folder: Path, dataset: SegmentDataset, ids: np.ndarray) -> Callable[[], int]:
    """The obvious way: an `mne.Epochs` per recording, a feature per item, a collate."""
    import mne
    raws, bank = [], dataset.banks[0]
    assert isinstance(bank, Bank)
    info = mne.create_info(CHANNELS, RATE, "mag")
    for i in range(RECORDINGS):
        path = folder / f"{i}_raw.fif"
        mne.io.RawArray(np.ascontiguousarray(dataset.arrays[i].T), info, verbose="ERROR").save(path, verbose="ERROR")
        raws.append(mne.io.read_raw_fif(path, preload=False, verbose="ERROR"))
    epochs = []
    for i, raw in enumerate(raws):
        first = dataset.first[dataset.recording == i]
        events = np.stack([first, np.zeros_like(first), np.ones_like(first)], 1)
        epochs.append(mne.Epochs(raw, events, tmin=0, tmax=(TIMES - 1) / RATE, baseline=(0, (BASELINE - 1) / RATE),
                                 preload=False, reject=None, verbose="ERROR"))
    offset = np.concatenate([[0], np.cumsum([len(e.events) for e in epochs])])
    torch_scalers = scalers()

    def item(i: int) -> dict[str, torch.Tensor]:
        recording = dataset.recording[i]
        brain = epochs[recording][int(i - offset[recording])].get_data(copy=False, verbose="ERROR")[0]
        first = dataset.first[i]
        mel = np.stack([bank.rows[row] for row in bank.index[recording][first:first + TIMES]], 1)
        x = torch.from_numpy(brain.astype(np.float32))
        x = (x - torch_scalers.brain.center[recording][:, None]) / torch_scalers.brain.scale[recording][:, None]
        return {"brain": x.clamp(-MAX_SCALE, MAX_SCALE), "mel": torch.from_numpy(mel)}

    def load() -> int:
        batch = torch.utils.data.default_collate([item(i) for i in ids])
        return len(batch["brain"])
    return load


def run() -> Iterator[Comparison]:
    """Yields the comparisons of this file."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as name:
            yield from _compare(Path(name))
    finally:
        torch.set_num_threads(threads)


def _compare(folder: Path) -> Iterator[Comparison]:
    dataset = make_dataset(folder)
    ids = np.random.default_rng(1).permutation(len(dataset))[:4 * BATCH].reshape(4, BATCH)
    gather, finish = plain_gather(dataset), plain_finish()
    ours = Finish(scalers(), BASELINE, MAX_SCALE, 0)
    loader = make_loader(dataset, EpochSampler(ids.ravel(), BATCH), 0, False)
    each, plain = interleaved(lambda: [dataset.__getitems__(i) for i in ids], lambda: [gather(i) for i in ids])
    yield Comparison("gather", "batches of raw segments / a bare preallocated numpy gather", each, plain, 0.7)
    each, plain = interleaved(lambda: [ours(batch) for batch in loader], lambda: [finish(*gather(i)) for i in ids])
    yield Comparison("full batch", "with baseline, scale, clamp, transpose / the same in preallocated numpy", each,
                     plain, 0.7)
    load = mne_loader(folder, dataset, ids[0])
    each, obvious = interleaved(lambda: ours(dataset.__getitems__(ids[0])), load)
    yield Comparison("mne.Epochs", "one full batch / per-item mne.Epochs and features", each, obvious, 10)
