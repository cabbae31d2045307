"""Evaluation at scale: probabilities of candidates on disk, in bounded memory, beside all in memory at once."""
import ctypes
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from bm.bench import Comparison
from bm.bench.cold import memory
from bm.metrics.probabilities import OnDisk, write_probabilities

NUMBER, SHAPE, BATCH, MAX_BYTES = 600, (256, 343), 100, 2 ** 27

#: other sizes, by `--size`: segments, their shape, bytes that may be held, whether the other side holds all in memory.
#: "full" is that of the paper's test: minutes, 3 GB of disk, 6 GB of memory for the other side. "huge" takes 15 GB of
#: disk and an hour; its other side is extrapolated from a hundredth.
SIZES = {"full": (2000, (1024, 343), 2 ** 30, True), "huge": (10_000, (1024, 343), 2 ** 30, False)}


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


def compare(number: int = NUMBER, shape: tuple[int, int] = SHAPE, max_bytes: int = MAX_BYTES, hold: bool = True
            ) -> Iterator[Comparison]:
    """Seconds beside those of the bare product with all in memory, and peak memory beside that of holding both sides.

    Args:
        hold: False: the product of a tenth of either side is timed, and taken a hundred times.
    """
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
        some = number if hold else number // 10
        columns = torch.from_numpy(candidates[:some]).flatten(1)
        rows = torch.cat(list(islice(estimates(candidates), -(-some // BATCH)))).flatten(1)
        (rows @ (columns / columns.norm(dim=1, keepdim=True)).t()).softmax(1)
        other = (time.perf_counter() - begin) * (number / some) ** 2
    size = f"{number} × {number} segments of {shape[0]} × {shape[1]}"
    how = "all held in memory" if hold else "the product, extrapolated from a hundredth"
    yield Comparison("probabilities", f"{size}, ranks and files included / {how}", ours, other, 1 / 2)
    yield Comparison("their memory", f"{size}, at its peak / both sides", peak.peak / 1e6,
                     2 * number * np.prod(shape) * 4 / 1e6, 1, "MB")


def run(size: str = "") -> Iterator[Comparison]:
    """Yields both comparisons, of a size that takes seconds or one of `SIZES`."""
    yield from compare(*SIZES[size]) if size else compare()
