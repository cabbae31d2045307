"""Which layer is the best, read out on data that did not choose it; and how far networks differ over people."""
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class BestLayer:
    """`layer` `(iterations, voxels)`: index of the best one; `score` of the same shape, on the other splits."""

    layer: np.ndarray
    score: np.ndarray

    def position(self, n_layers: int) -> np.ndarray:
        """Median over iterations of the relative position, `(voxels,)`: 0 the first layer, 1 the last."""
        return np.median(self.layer, 0) / max(n_layers - 1, 1)


def best_layer(scores: np.ndarray, iterations: int = 10, *, cap: float | None = 1.0,
               compat: Literal["reference"] | None = None) -> BestLayer:
    """Chooses a layer for each voxel on a random half of the splits and reads its score on the others.

    Medians over the splits of either half, capped. Ties are broken at random.

    Args:
        scores: `(layers, voxels, splits)`.
        cap: of the medians (corrected R² may be above 1); None: none.
        compat: "reference": each layer has halves of its own, so that layers are compared on different splits.

    Source: Tuckute, Feather et al. 2023 (figures 2 and 5). Random streams are our own.

    Raises:
        ValueError: fewer than two splits, or values that are not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 3 or scores.shape[2] < 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores of shape {scores.shape}: expected finite (layers, voxels, splits), at least 2 splits")
    n_layers, n_voxels, n_splits = scores.shape
    layer, value = np.empty((iterations, n_voxels), int), np.empty((iterations, n_voxels))
    for iteration in range(iterations):
        rng = np.random.default_rng(iteration)
        order = np.argsort(rng.random((n_layers if compat else 1, n_voxels, n_splits)), -1)
        mixed = np.take_along_axis(scores, np.broadcast_to(order, scores.shape), -1)
        choose, read = (np.median(part, -1) for part in np.split(mixed, [n_splits // 2], -1))
        if cap is not None:
            choose, read = np.minimum(choose, cap), np.minimum(read, cap)
        tied = choose == choose.max(0)
        layer[iteration] = np.where(tied, rng.random(choose.shape), -1).argmax(0)
        value[iteration] = np.take_along_axis(read, layer[iteration][None], 0)[0]
    return BestLayer(layer, value)


def by_subject(values: np.ndarray, subjects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subjects, sorted, and medians over the voxels (the last axis) of each, `(…, subjects)`."""
    names = np.unique(subjects)
    return names, np.stack([np.median(values[..., subjects == name], -1) for name in names], -1)


def within_subject_sem(values: np.ndarray) -> np.ndarray:
    """Standard error over subjects of `(subjects, models)` after each subject's own mean: `(models,)`.

    Deviation with ddof 0 over √(subjects − 1). NaN for one subject.
    """
    centred = values - values.mean(1, keepdims=True)
    n = len(values)
    return centred.std(0) / np.sqrt(n - 1) if n > 1 else np.full(values.shape[1], np.nan)


def bootstrap_below(one: np.ndarray, other: np.ndarray, n: int = 10_000, seed: int = 0) -> float:
    """How often the mean of `other`, subjects resampled, is above the mean of `one`, (1 + k) / (n + 1): the one-sided p
    of Tuckute, Feather et al. 2023.

    It is no valid p of paired people: only `other` varies, and a level that a person has in both counts as noise. See
    `bm.metrics.compare.signed_rank`.
    """
    rng = np.random.default_rng(seed)
    means = np.asarray(other)[rng.integers(0, len(other), (n, len(other)))].mean(1)
    return float((1 + (means > np.mean(one)).sum()) / (n + 1))


def permutation_below(one: np.ndarray, other: np.ndarray, n: int = 10_000, seed: int = 0) -> float:
    """One-sided p of the difference of means under shuffled labels (components: iterations against iterations).

    The labelling as it is counts as one of the shuffles, so that p is never 0 (Phipson & Smyth 2010).
    """
    rng = np.random.default_rng(seed)
    both, k = np.concatenate([one, other]), len(one)
    order = np.argsort(rng.random((n, len(both))), 1)
    shuffled = both[order]
    difference = shuffled[:, :k].mean(1) - shuffled[:, k:].mean(1)
    return float((1 + (difference >= np.mean(one) - np.mean(other) - 1e-12).sum()) / (n + 1))
