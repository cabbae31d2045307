"""Intervals and chance levels for metrics that are means over samples."""
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

from bm.metrics.retrieval import Array, Estimates, locate, score_blocks, top_credit, unique_candidates

logger = logging.getLogger(__name__)

MIN_SUBJECTS = 10


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
    if few:
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

    def p_value(self, k: int) -> float:
        """One-sided: (1 + number of permutations at least as good as observed) / (1 + P)."""
        return float((1 + (self.null[k] >= self.observed[k] - 1e-12).sum()) / (1 + len(self.null[k])))


def permutation_chance(estimates: Estimates, candidates: Array, candidate_ids: Array, true_ids: Array, *,
                       blocks: Any = None, n_permutations: int = 1000, ks: Sequence[int] = (1, 5, 10), seed: int = 0,
                       **options: Any) -> PermutationChance:
    """Chance level of retrieval: each estimate is given the segment of another one of the same block.

    The permutations are drawn first; scores are then computed once, block by block, and sorted, so that the rank of
    any candidate is a binary search. Memory: that of `score_blocks`, and 8 bytes per estimate and permutation.

    Args:
        estimates, candidates, candidate_ids, true_ids: as in `retrieval`; `**options` go to `score_blocks`.
        blocks: `(N,)` labels within which pairings are exchangeable (e.g. recordings), all together if not given.

    Errors: as `retrieval`.
    """
    ids, index = unique_candidates(candidate_ids)
    true = locate(true_ids, ids)
    order = np.arange(len(true))
    generator = np.random.default_rng(seed)
    label, _ = _labels(np.zeros(len(true)) if blocks is None else blocks, len(true), "blocks")
    pairing = np.empty((len(true), n_permutations + 1), dtype=np.int64)
    pairing[:, 0] = true
    by_block = np.argsort(label, kind="stable")  # members of a block in a row
    for column in range(1, n_permutations + 1):
        shuffled = np.lexsort((generator.random(len(true)), label))
        pairing[by_block, column] = true[shuffled]
    credit = {k: np.zeros(n_permutations + 1) for k in ks}
    done = 0
    for scores, tie in score_blocks(estimates, candidates, index, **options):
        chosen = torch.as_tensor(pairing[done:done + len(scores)], device=scores.device)
        done += len(scores)
        if len(chosen) != len(scores):
            break
        finite = scores.isfinite().all(dim=1, keepdim=True)
        scores, tie = scores.masked_fill(~finite, 0.0), tie.masked_fill(~finite, 0.0)
        own = scores.gather(1, chosen)
        ascending = scores.sort(dim=1).values
        above = torch.searchsorted(ascending, own + tie, right=True)
        greater = (scores.shape[1] - above).cpu().numpy()
        ties = (above - torch.searchsorted(ascending, own - tie)).cpu().numpy()
        for k in ks:
            credit[k] += (top_credit(greater, ties, k) * finite.cpu().numpy()).sum(axis=0)
    if done != len(order):
        raise ValueError(f"{len(order)} own segments were given for {'more' if done > len(order) else done} estimates")
    means = {k: values / done for k, values in credit.items()}
    return PermutationChance({k: v[1:] for k, v in means.items()}, {k: float(v[0]) for k, v in means.items()})
