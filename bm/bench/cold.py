"""Cold start: preparing 4 recordings of 6 minutes (208 channels, 1000 Hz, FIF), mel bands and scales; peak memory."""
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from bm.bench import Comparison, alone, memory
from bm.bench.loader import RATE, TIMES, make_dataset
from bm.data.loader import Montages, SegmentDataset, fit_scalers
from bm.data.prepare import prepare, prepare_all
from bm.data.tracks import build_bank
from bm.features.audio import MelSpectrum
from bm.store import Store, file_sha256
from bm.studies.mne_recording import MneRecording

CHANNELS, RAW_RATE, SECONDS, RECORDINGS = 208, 1000, 360, 4


@dataclass(frozen=True, repr=False)
class File(MneRecording):
    """A FIF file."""

    path: Path
    uid: str
    study: str = "bench"
    subject: str = "1"
    session: str = "1"

    def raw(self):
        import mne
        return mne.io.read_raw_fif(self.path, preload=False, verbose="ERROR")

    def events(self) -> pd.DataFrame:
        raise NotImplementedError

    def source_files(self) -> list[Path]:
        return [self.path]


def write(folder: Path) -> list[File]:
    """Noise of the size of a MEG signal."""
    import mne
    info = mne.create_info(CHANNELS, RAW_RATE, "mag")
    files = []
    for i in range(RECORDINGS):
        data = np.random.default_rng(i).standard_normal((CHANNELS, SECONDS * RAW_RATE), dtype=np.float32) * 1e-13
        path = folder / f"{i}_raw.fif"
        mne.io.RawArray(data, info, verbose="ERROR").save(path, verbose="ERROR")
        files.append(File(path, str(i)))
    return files


def cold_start(files: list[File], wav: Path, store: Store) -> dict[str, float]:
    """Seconds of each step."""
    begin = time.perf_counter()
    prepared = prepare_all(list(files), store, RATE, 0)
    ready = time.perf_counter()
    n, sha = len(prepared[0].array), file_sha256(wav)[:16]
    starts = np.arange(0, SECONDS, 8.0)  # blocks of 8 s, the same sound for all
    blocks = pd.concat([pd.DataFrame({
        "recording": i, "start": starts, "stop": starts + 8, "stimulus": sha, "chunk_start": starts,
        "chunk_stop": starts + 8, "chunk_time": starts}) for i in range(RECORDINGS)], ignore_index=True)
    bank = build_bank(MelSpectrum(n_mels=120), blocks, {sha: wav}, [n] * RECORDINGS, RATE, "bandlimited", store)
    described = time.perf_counter()
    first = np.arange(0, n - TIMES, RATE // 2)
    segments = pd.DataFrame({"first": np.tile(first, RECORDINGS),
                             "recording": np.repeat(range(RECORDINGS), len(first))})
    montages = Montages.from_tables([p.channels for p in prepared])
    dataset = SegmentDataset([p.array for p in prepared], montages, segments, TIMES, [0] * RECORDINGS, [bank],
                             [np.ones(n, dtype=bool)] * RECORDINGS)
    fit_scalers(dataset, np.arange(len(segments)), 61, True, False, 200, 8000, 0)
    return {"prepare": ready - begin, "mel": described - ready, "scale": time.perf_counter() - described}


def _peak(recording: File, store: Store, queue) -> None:
    import julius
    import torch
    julius.resample_frac(torch.zeros(1, 1000), 25, 3)  # all is imported, so only the data counts
    recording.raw().get_data(stop=1)
    before = memory("VmRSS")
    prepare(recording, store, RATE, 0)
    queue.put(memory("VmHWM") - before)


def _loading(folder: Path, recordings: int, queue) -> None:
    """Puts the memory of its own that loading 40 batches takes, and the bytes of the arrays on disk."""
    (folder / str(recordings)).mkdir()
    before = memory("RssAnon")
    dataset = make_dataset(folder / str(recordings), recordings)
    rng = np.random.default_rng(0)
    for _ in range(40):
        dataset.__getitems__(rng.integers(0, len(dataset), 64))
    queue.put((memory("RssAnon") - before, sum(array.nbytes for array in dataset.arrays)))


def run() -> Iterator[Comparison]:
    import soundfile
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write(folder)
        wav = folder / "sound.wav"
        soundfile.write(wav, np.random.default_rng(0).standard_normal(SECONDS * 22_050) / 10, 22_050)
        steps = cold_start(files, wav, Store(folder / "cache"))
        total = sum(steps.values())
        detail = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in steps.items())
        yield Comparison("cold start", f"4 recordings of 6 min ({detail}) / 15 s asked for", total, 15, 1)
        peak = alone(_peak, files[0], Store(folder / "cache2"))
        (few, size_few), (many, size_many) = (alone(_loading, folder, n) for n in (4, 16))
        yield Comparison("train memory", "what 12 more recordings add to what loading holds, with 4 of them "
                         f"{few / 1e6:.0f} MB / 1 % of their arrays", max(many - few, 1) / 1e6,
                         0.01 * (size_many - size_few) / 1e6, 1, "MB")
        raw = CHANNELS * SECONDS * RAW_RATE * 4
        yield Comparison("prepare memory", "at its peak / 2.5 × one raw recording as float32", peak / 1e6,
                         2.5 * raw / 1e6, 1, "MB")
