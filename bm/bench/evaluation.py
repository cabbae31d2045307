"""Evaluation at scale: probabilities of candidates on disk, in bounded memory, beside all in memory at once."""
import ctypes
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bm.bench import Comparison
from bm.bench.cold import memory
from bm.metrics.probabilities import OnDisk, write_probabilities

NUMBER, SHAPE, BATCH, MAX_BYTES = 600, (256, 343), 100, 2 ** 27

#: the size of the paper's test, `compare(*FULL)`: it takes minutes, and 3 GB of disk
FULL = (2000, (1024, 343), 2 ** 30)


def make_candidates(path: Path, number: int, shape: tuple[int, int]) -> OnDisk:
    """`(number, *shape)` of noise, never held."""
    rows = (np.random.default_rng(row).standard_normal((1, *shape), np.float32) for row in range(number))
    return OnDisk.write(path, number, rows)


def estimates(candidates: OnDisk) -> Iterator[torch.Tensor]:
    """As a network would give them: batches, each made when it is asked for."""
    for start in range(0, len(candidates), BATCH):
        yield torch.from_numpy(candidates[start:start + BATCH]).mul_(0.02)


class Peak(threading.Thread):
    """The most memory that the process took inside the `with`, in bytes, looked at every 5 ms."""

    def __enter__(self) -> "Peak":
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # freed memory that is taken again would not be counted
        self.before, self.peak, self.over = memory("VmRSS"), 0.0, threading.Event()
        self.start()
        return self

    def run(self) -> None:
        while not self.over.wait(0.005):
            self.peak = max(self.peak, memory("VmRSS") - self.before)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def compare(number: int = NUMBER, shape: tuple[int, int] = SHAPE, max_bytes: int = MAX_BYTES) -> Iterator[Comparison]:
    """Seconds beside those of the same with all in memory, and peak memory beside that of holding both sides."""
    ids = np.arange(number)
    with tempfile.TemporaryDirectory() as folder:
        candidates = make_candidates(Path(folder) / "candidates.npy", number, shape)
        out = np.lib.format.open_memmap(Path(folder) / "probs.npy", "w+", np.float32, (number, number))
        with Peak() as peak:
            begin = time.perf_counter()
            result = write_probabilities(out, estimates(candidates), candidates, ids, ids, max_bytes=max_bytes)
            ours = time.perf_counter() - begin
        assert result.values["top1"].mean() > 0.99
        begin = time.perf_counter()
        columns = torch.from_numpy(candidates[:]).flatten(1)
        rows = torch.cat(list(estimates(candidates))).flatten(1)
        (rows @ (columns / columns.norm(dim=1, keepdim=True)).t()).softmax(1)
        other = time.perf_counter() - begin
    size = f"{number} × {number} segments of {shape[0]} × {shape[1]}"
    yield Comparison("probabilities", f"{size}, ranks and files included / all held in memory", ours, other, 1 / 2)
    yield Comparison("their memory", f"{size}, at its peak / both sides", peak.peak / 1e6,
                     2 * number * np.prod(shape) * 4 / 1e6, 1, "MB")


def run() -> Iterator[Comparison]:
    yield from compare()
