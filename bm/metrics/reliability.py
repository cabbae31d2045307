"""How much of a response is the same when the stimulus comes again."""
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np


def correlation_columns(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation `(v,)` of the columns of `(n, v)` arrays; NaN where one of them is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    size = np.sqrt((a * a).sum(0)) * np.sqrt((b * b).sum(0))
    # a mean that is not exact leaves rounding of a constant
    varies = (np.ptp(a, 0) > 0) & (np.ptp(b, 0) > 0) & (size > 0)
    return np.where(varies, np.clip((a * b).sum(0) / np.where(varies, size, 1), -1, 1), np.nan)


def pair_median(repetitions: Sequence[np.ndarray]) -> np.ndarray:
    """Median over pairs of repetitions `(n, v)` of their correlations, `(v,)`; pairs with a constant one do not count,
    and without any pair it is NaN."""
    found = np.stack([correlation_columns(a, b) for a, b in combinations(repetitions, 2)])
    some = np.isfinite(found).any(0)
    return np.where(some, np.nanmedian(np.where(some, found, 0.0), 0), np.nan)


def spearman_brown(r: Any, repetitions: int, unguarded: bool = False) -> np.ndarray:
    """Reliability of the mean of `repetitions` from the correlation of two: k·r / (1 + (k − 1)·r).

    At or below 0 there is nothing reliable: NaN. `unguarded`: the formula as it is, which beyond its pole at
    −1 / (k − 1) is positive and large.
    """
    r = np.asarray(r, dtype=np.float64)
    if unguarded:
        pole = 1 + (repetitions - 1) * r == 0
        return np.where(pole, np.nan, repetitions * r / np.where(pole, 1, 1 + (repetitions - 1) * r))
    positive = np.where(r > 0, r, np.nan)
    return repetitions * positive / (1 + (repetitions - 1) * positive)


def lowest_reliability(n: int) -> float:
    """The correlation of `n` pairs that is significant at p = .05, one-tailed, to three digits: .182 of 83, .183 of 82.

    A reliability below it is set to it (Tuckute, Feather et al. 2023).

    Raises:
        ValueError: fewer than three.
    """
    from scipy.stats import t as student
    if n < 3:
        raise ValueError(f"a correlation of {n} pairs has no significance: expected at least 3")
    t = student.ppf(0.95, n - 2)
    return round(float(t / np.sqrt(n - 2 + t * t)), 3)
