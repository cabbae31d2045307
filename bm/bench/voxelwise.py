"""Ridge from a network's layer to voxels: 165 sounds, 3 repetitions, 7,694 voxels, 10 splits, 100 penalties."""
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from bm.bench import Comparison, interleaved
from bm.linear.voxelwise import PAPER_ALPHAS, gram, random_splits, voxelwise

SOUNDS, REPETITIONS, VOXELS, SAMPLE = 165, 3, 7694, 8
#: GB that are allowed at `LARGE` features and voxels
MEMORY, LARGE = 4.0, (100_000, 30_000)


def make_data(features: int, voxels: int, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Features of 30 strong dimensions, and responses of all ratios of signal to noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((SOUNDS, 30), dtype) @ rng.standard_normal((30, features), dtype)
    x += rng.standard_normal((SOUNDS, features), dtype)
    signal = x[:, :64] @ rng.standard_normal((64, voxels), dtype) / 64
    noise = rng.standard_normal((SOUNDS, voxels, REPETITIONS), dtype)
    return x, signal[..., None] + noise * rng.uniform(0, 3, voxels).astype(dtype)[:, None]


def one_voxel(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> list[float]:
    """The obvious way for one voxel `(n, repetitions)` and split: four ridge regressions, each by itself."""
    out = []
    for target in [y.mean(1), *y.T]:
        mean, level = x[train].mean(0), target[train].mean()
        xc, yc = x[train] - mean, target[train] - level
        s, q = np.linalg.eigh(xc @ xc.T + 1)
        z, squared, ones = q.T @ yc, q ** 2, np.abs(q.sum(0)).argmax()
        best, chosen = np.inf, None
        for alpha in PAPER_ALPHAS:
            w = 1 / (s + alpha)
            w[ones] = 0
            dual = q @ (w * z)
            error = np.mean((dual / (squared @ w)) ** 2)
            if error < best:
                best, chosen = error, dual
        assert chosen is not None
        estimate = (x[test] - mean) @ (xc.T @ chosen) + level
        out.append(float(np.corrcoef(estimate, target[test])[0, 1]))
    return out


def one_by_one(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """A few voxels on one split."""
    train, test = random_splits(SOUNDS)[0]
    with np.errstate(all="ignore"):
        return [one_voxel(x, y[:, voxel * VOXELS // SAMPLE], train, test) for voxel in range(SAMPLE)]


def ours(x: np.ndarray, y: np.ndarray) -> None:
    """All voxels on all splits."""
    voxelwise(gram(x), y)


def peak_memory() -> float:
    """GB that a process of its own needs at most, data included, for two splits at `LARGE`."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak)


def _peak() -> float:
    x, y = make_data(*LARGE, np.float32)
    voxelwise(gram(x), y, random_splits(SOUNDS)[:2])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def run() -> Iterator[Comparison]:
    """Yields the comparisons of this file, in seconds of all processors together; and the memory."""
    for features in (4096, 32_768):
        x, y = make_data(features, VOXELS)
        fast, slow = interleaved(partial(ours, x, y), partial(one_by_one, x, y), repeats=1, clock=time.process_time)
        yield Comparison(f"voxels D={features}", f"{VOXELS} voxels × {REPETITIONS} repetitions × 10 splits / one voxel "
                         "after the other", fast, slow / SAMPLE * VOXELS * 10, 200)
    yield Comparison("voxels memory", f"peak at {LARGE[0]} features, {LARGE[1]} voxels / what is allowed",
                     peak_memory(), MEMORY, 1, "GB")
