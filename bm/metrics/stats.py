"""Intervals and chance levels for metrics that are means over samples."""
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.stats import binom

from bm.metrics.retrieval import Retrieval

logger = logging.getLogger(__name__)

MIN_SUBJECTS = 10

# Below this number of blocks of stimulus chance intervals were too narrow in simulations.
MIN_BLOCKS = 20

# Hits depend on one another over the windows that overlap: at a word every 0.3 s, some ten lags.
MAX_LAG = 100

# Two windows are as far apart as their candidates when it is to within this many seconds.
ALIGNED_S = 0.03

# Rotations from which covariances are taken, each with all its pairs.
RUN_DRAWS = 50


@dataclass(frozen=True)
class Interval:
    """A mean over samples with the limits of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(values: Any, groups: Any, blocks: Any = None, *, n_boot: int = 2000, seed: int = 0,
                       level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of the mean of samples that are not independent.

    With at least `MIN_SUBJECTS` (10) subjects, whole subjects are drawn with replacement: the interval is about other
    subjects with the same stimuli. With fewer, subjects and blocks of stimulus are both drawn, independently, and each
    sample counts as often as its subject times its block were drawn (the pigeonhole bootstrap: Owen 2007,
    doi:10.1214/07-AOAS122, which errs on the wide side); a warning says that the subjects are few. A single subject is
    kept as it is, and the interval is about other stimuli only.

    Args:
        values: one number per sample, e.g. 1 where the segment was found.
        groups: subject of each sample; blocks: its block of stimulus, needed with few subjects.
        n_boot: number of draws.
        level: coverage.

    Shape: `(N,)` each; groups and blocks are labels of any sortable type.
    Errors: ValueError for empty or non-finite values, other lengths, or too few subjects and blocks to draw from.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f"values must be one finite number per sample, got shape {x.shape} with "
                         f"{int((~np.isfinite(x)).sum())} NaN or infinite")
    if n_boot < 1 or not 0 < level < 1:
        raise ValueError(f"n_boot must be positive and level between 0 and 1, got {n_boot} and {level}")
    subject, n_subjects = _labels(groups, len(x), "groups")
    generator = np.random.default_rng(seed)
    few = n_subjects < MIN_SUBJECTS
    if few and blocks is None:
        raise ValueError(f"{n_subjects} subjects are too few to draw subjects alone: give the block of each sample")
    block, n_blocks = _labels(blocks, len(x), "blocks") if few else (np.zeros(len(x), dtype=int), 1)
    if few and n_blocks < 2:
        raise ValueError("one block of stimulus and few subjects leave nothing to draw from")
    if few and n_subjects > 1:  # of a single one nothing is claimed about others
        _warn_of_few(n_subjects, n_blocks)
    # Sums per (subject, block) are all that the draws need.
    cell = subject * n_blocks + block
    total = np.bincount(cell, x, n_subjects * n_blocks).reshape(n_subjects, n_blocks)
    count = np.bincount(cell, minlength=n_subjects * n_blocks).reshape(n_subjects, n_blocks).astype(float)
    draws = _draw(generator, n_subjects, n_boot)
    block_draws = _draw(generator, n_blocks, n_boot)
    n = ((draws @ count) * block_draws).sum(axis=1)
    sums = ((draws @ total) * block_draws).sum(axis=1)
    empty = n == 0
    if empty.mean() > 0.05:
        raise ValueError(f"{empty.mean():.0%} of the draws have no sample: subjects and blocks hardly cross")
    if empty.any():
        logger.warning("%d of %d bootstrap draws had no sample and are left out", empty.sum(), n_boot)
    means = sums[~empty] / n[~empty]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(x.mean()), float(low), float(high))


@lru_cache  # once for all metrics of a test
def _warn_of_few(n_subjects: int, n_blocks: int) -> None:
    logger.warning("intervals from %d subjects (fewer than %d): subjects and %d blocks are both resampled",
                   n_subjects, MIN_SUBJECTS, n_blocks)


@lru_cache
def _warn_of_few_blocks(n_blocks: int) -> None:
    logger.warning("the interval of chance and p-values come from %d blocks of stimulus: below %d they are too sure of "
                   "themselves", n_blocks, MIN_BLOCKS)


def _draw(generator: np.random.Generator, number: int, n_boot: int) -> np.ndarray:
    """How often each of `number` items is drawn, `(n_boot, number)`."""
    return generator.multinomial(number, np.full(number, 1 / number), size=n_boot).astype(float)


def _labels(labels: Any, length: int, name: str) -> tuple[np.ndarray, int]:
    unique, index = np.unique(np.asarray(labels), return_inverse=True)
    if index.shape != (length,):
        raise ValueError(f"{name} must have one label per value ({length}), got shape {np.asarray(labels).shape}")
    return index, len(unique)


def binomial_interval(p: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Where the observed proportion of n independent trials of probability p falls with probability ≥ `level`.

    Segments whose windows overlap are not independent trials: for them the interval is too narrow, and
    `permutation_chance` gives the right one.

    >>> binomial_interval(0.5, 100)
    (0.4, 0.6)
    """
    if not 0 <= p <= 1 or n < 1 or not 0 < level < 1:
        raise ValueError(f"need 0 ≤ p ≤ 1, n ≥ 1 and 0 < level < 1, got {p}, {n}, {level}")
    low, high = binom.ppf([(1 - level) / 2, (1 + level) / 2], n, p)
    return float(low / n), float(high / n)


@dataclass(frozen=True)
class PermutationChance:
    """Top-k accuracies `(P,)` under permuted pairings, and the observed ones, by k."""

    null: dict[int, np.ndarray]
    observed: dict[int, float]

    def interval(self, k: int, level: float = 0.95) -> tuple[float, float]:
        """Where the accuracy falls with probability `level` if the estimates carry nothing."""
        low, high = np.quantile(self.null[k], [(1 - level) / 2, (1 + level) / 2]).clip(0, 1)
        return float(low), float(high)

    def p_value(self, k: int) -> float:
        """One-sided: (1 + number of permutations at least as good as observed) / (1 + P)."""
        return float((1 + (self.null[k] >= self.observed[k] - 1e-12).sum()) / (1 + len(self.null[k])))


def permutation_chance(result: Retrieval, recordings: Any, blocks: Any, starts: Any, *, n_permutations: int = 1000,
                       seed: int = 0) -> PermutationChance:
    """Chance level of retrieval: each estimate is given the segment of another one of its recording.

    Within a recording the pairing is rotated: estimate i gets the segment of estimate i + s, around the end, with one
    random s per recording and permutation, between a quarter and three quarters of the recording. Windows of 3 s that
    start at every word overlap: neighbouring estimates resemble each other, so do neighbouring candidates, and hits
    come in runs. Pairings shuffled one by one lose the runs, as the binomial does, and both give intervals that are
    too narrow (71 % instead of 95 % in `test_calibration.py`). Far rotations keep most of them, and pair no window
    with one that overlaps its own. Recordings rotate independently: without information, their brains have nothing in
    common.

    What rotations lose is made up for. A run ends with the estimates' block; rotated, also with the candidates'. And
    irregular words fall out of step. So `null` is widened around its mean by sqrt(variance of hits in whole runs / in
    rotated ones), the former from the covariance of hits that are as far apart as their candidates.

    From 20 blocks on the interval was right in the simulations (92–97 % of 200 to 300 repetitions inside). Of four
    people and ten short blocks it is too narrow (86–93 %).

    Nothing is scored again: the best candidates of each estimate (`Retrieval.best`) say whether another segment would
    have been found. Of tied candidates one is kept, so `null` and `observed` have whole hits where the accuracy has
    their expected value.

    Args:
        recordings, blocks: labels; starts: onset in the recording (s) of each estimate of `result`. Where a recording
            has three segments or fewer, some pairings stay as they are.
        n_permutations: number P of draws.

    Shape: `(N,)` each. Errors: ValueError for other lengths.
    """
    label, count = _labels(recordings, len(result.own), "recordings")
    block, n_blocks = _labels(blocks, len(label), "blocks")
    start = np.asarray(starts, dtype=float)
    if start.shape != label.shape or not np.isfinite(start).all() or n_permutations < 1:
        raise ValueError(f"starts must be one finite time per estimate ({len(label)}) and n_permutations positive, got "
                         f"shape {start.shape} and {n_permutations}")
    if n_blocks < MIN_BLOCKS:
        _warn_of_few_blocks(n_blocks)
    order = np.lexsort((start, label))  # members of a recording in a row
    own, run = result.own[order], (label * n_blocks + block)[order]
    best = np.ascontiguousarray(result.best[order].T)
    size = np.bincount(label, minlength=count)
    first, sizes = np.repeat(np.cumsum(size) - size, size), np.repeat(size, size)
    position = np.arange(len(own)) - first
    generator = np.random.default_rng(seed)
    shifts = generator.integers(size // 4, size - size // 4 + 1, (n_permutations, count))
    hits = np.empty((n_permutations, len(best)))  # a candidate is only once among the best: places add up
    partners, found = [], []
    for draw, shift in enumerate(shifts):
        partner = first + (position + np.repeat(shift, size)) % sizes
        at = best == own[partner]
        hits[draw] = np.count_nonzero(at, axis=1)
        if draw < RUN_DRAWS:
            partners.append(partner)
            found.append(at)
    null = {}
    for k in result.ks:
        values = hits[:, :k].sum(axis=1) / len(own)
        widening = _widening(np.stack([at[:k].any(axis=0) for at in found]), np.stack(partners), run, start[order])
        null[k] = values.mean() + (values - values.mean()) * widening
    # counted as `null` is: where estimates hardly differ and candidates are tied, its spread may be 0
    return PermutationChance(null, {k: float((best[:k] == own).any(axis=0).mean()) for k in result.ks})


def _widening(found: np.ndarray, partner: np.ndarray, run: np.ndarray, start: np.ndarray) -> float:
    """Standard deviation of the number of hits in whole runs over that in rotated ones, at least 1.

    Shape: found (sample i is found with the candidate of sample `partner[i]`) and partner `(D, N)`; run and start
    `(N,)`.
    """
    x = (found - found.mean()).astype(np.float32)
    ends = (np.diff(run) != 0) | (np.diff(run[partner], axis=1) != 0) | (np.diff(partner, axis=1) != 1)
    piece = np.pad(np.cumsum(ends, axis=1), ((0, 0), (1, 0)))
    piece += np.arange(len(piece))[:, None] * (len(run) + 1)
    rotated = (np.bincount(piece.ravel(), x.ravel()) ** 2).sum() / len(x)
    late = (start[partner] - start).astype(np.float32)
    length = np.unique(run, return_counts=True)[1]
    whole = 0.0
    for lag in range(min(int(length.max()), MAX_LAG)):
        left, right = slice(0, x.shape[1] - lag), slice(lag, None)
        aligned = (piece[:, left] == piece[:, right]) & (np.abs(late[:, right] - late[:, left]) <= ALIGNED_S)
        if aligned.any():
            covariance = (x[:, left] * x[:, right])[aligned].mean()
            # i before j, and j before i
            whole += (2 if lag else 1) * float(covariance) * np.maximum(length - lag, 0).sum()
    return float(np.sqrt(max(whole / rotated, 1.0))) if rotated > 0 else 1.0
