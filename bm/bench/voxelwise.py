"""Ridge from a network's layer to voxels: 165 sounds, 3 repetitions, 7,694 voxels, 10 splits, 100 penalties."""
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from bm.bench import Comparison, interleaved
from bm.linear.voxelwise import PAPER_ALPHAS, Voxelwise, gram, random_splits, voxelwise
from bm.metrics.reliability import lowest_reliability

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


def one_voxel(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> tuple[float, float, bool]:
    """The obvious way for one voxel `(n, repetitions)` and split: four ridge regressions, each by itself.

    Returns:
        r, corrected R², and whether no penalty was on the plateau of the largest, where rounding decides.
    """
    estimates, clear = [], True
    for target in [y.mean(1), *y.T]:
        mean, level = x[train].mean(0), target[train].mean()
        xc, yc = x[train] - mean, target[train] - level
        s, q = np.linalg.eigh(xc @ xc.T + 1)
        z, squared, ones = q.T @ yc, q ** 2, np.abs(q.sum(0)).argmax()
        best, chosen, penalty = np.inf, None, np.inf
        for alpha in PAPER_ALPHAS:
            w = 1 / (s + alpha)
            w[ones] = 0
            dual = q @ (w * z)
            error = np.mean((dual / (squared @ w)) ** 2)
            if error < best:
                best, chosen, penalty = error, dual, alpha
        assert chosen is not None
        estimates.append((x[test] - mean) @ (xc.T @ chosen) + level)
        clear &= bool(penalty < 1e8 * s[-1])
    r = float(np.corrcoef(estimates[0], y[test].mean(1))[0, 1])
    reliabilities = [max(_reliability(columns), lowest_reliability(len(rows)))
                     for columns, rows in ((list(y[train].T), train), (estimates[1:], test))]
    return r, max(r, 0.0) ** 2 / (reliabilities[0] * reliabilities[1]), clear


def _reliability(columns: list[np.ndarray]) -> float:
    """Of the mean of three, by Spearman and Brown's formula."""
    m = float(np.median([np.corrcoef(columns[i], columns[j])[0, 1] for i, j in ((0, 1), (1, 2), (0, 2))]))
    return 3 * m / (1 + 2 * m) if m > 0 else 0.0


def one_by_one(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float, bool]]:
    """A few voxels on one split."""
    train, test = random_splits(SOUNDS)[0]
    with np.errstate(all="ignore"):
        return [one_voxel(x, y[:, voxel * VOXELS // SAMPLE], train, test) for voxel in range(SAMPLE)]


def ours(x: np.ndarray, y: np.ndarray) -> Voxelwise:
    """All voxels on all splits."""
    return voxelwise(gram(x), y)


def same_answers(scores: Voxelwise, sample: list[tuple[float, float, bool]]) -> int:
    """How many of the sampled voxels could be compared: those without a penalty on the plateau, half of them at least.

    Raises:
        ValueError: another correlation or corrected R² (1e-8), or too few voxels to compare.
    """
    clear = [k for k, (*_, is_clear) in enumerate(sample) if is_clear]
    for k in clear:
        voxel = k * VOXELS // SAMPLE
        pair = scores.r_prior_zero[voxel, 0], scores.r2_test_c[voxel, 0]
        if not np.allclose(pair, sample[k][:2], rtol=1e-8, atol=1e-8):
            raise ValueError(f"voxel {voxel}: r and corrected R² are {pair}, one voxel at a time {sample[k][:2]}")
    if 2 * len(clear) < len(sample):
        raise ValueError(f"{len(clear)} of {len(sample)} voxels have clear penalties: too few to compare")
    return len(clear)


def _keep(answers: dict[str, Any], name: str, function: Callable[..., Any], *arguments: Any) -> None:
    answers[name] = function(*arguments)


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
        answers: dict[str, Any] = {}
        fast, slow = interleaved(partial(_keep, answers, "ours", ours, x, y),
                                 partial(_keep, answers, "sample", one_by_one, x, y), repeats=1,
                                 clock=time.process_time)
        same = same_answers(answers["ours"], answers["sample"])
        yield Comparison(f"voxels D={features}", f"{VOXELS} voxels × {REPETITIONS} repetitions × 10 splits / one voxel "
                         f"after the other ({SAMPLE}, extrapolated; same answers in {same} of {same} with a clear "
                         "penalty)", fast, slow / SAMPLE * VOXELS * 10, 200)
    yield Comparison("voxels memory", f"peak at {LARGE[0]} features, {LARGE[1]} voxels / what is allowed",
                     peak_memory(), MEMORY, 1, "GB")
