"""Which penalty: a rule whose choice does not hang on rounding; and folds."""
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bm.linear.kernel import EPS, Split

Compat = Literal["reference"] | None

#: what the estimators choose from by default
ALPHAS = tuple(10.0 ** np.arange(-3, 9))

#: errors closer than this (relative) are the same: a permutation of the rows moves them by less
TOLERANCE = 1e-9
#: penalties above this times λmax leave nothing of the features: predictions are constant
CONSTANT = 1e12


def check_alphas(alphas: Any) -> np.ndarray:
    """Penalties as `(A,)` float64.

    Raises:
        ValueError: none, or one that is not positive and finite.
    """
    out = np.atleast_1d(np.asarray(alphas, dtype=np.float64))
    if out.ndim != 1 or not len(out) or not (np.isfinite(out) & (out > 0)).all():
        raise ValueError(f"alphas must be positive and finite, at least one of them; got {alphas}")
    return out


def rounding(n: int) -> float:
    """The mean squared error, relative to the mean square of a target, below which it is rounding."""
    return (n * EPS) ** 2


def select(errors: np.ndarray, alphas: np.ndarray, power: np.ndarray, n: int, *, per_target: bool = True,
           compat: Compat = None) -> np.ndarray:
    """Index `(T,)` of the penalty of each target: the largest with an error ≤ best · (1 + 1e-9).

    For targets that are mostly noise the error is flat over decades, and the smallest one is decided by rounding; the
    rule makes it the same on every machine, for any order of the samples.

    Args:
        errors: `(A, T)` mean squared errors; alphas: `(A,)`.
        power: `(T,)` mean square of the targets: errors below (n · eps)² of it are rounding, and all the same.
        per_target: else one penalty for all, of the mean error.
        compat: "reference": the smallest error, however little smaller (the largest penalty of those exactly equal).

    Raises:
        ValueError: an error that is not finite.
    """
    if compat not in (None, "reference"):
        raise ValueError(f"compat={compat!r}: expected None or 'reference'")
    if not np.isfinite(errors).all():
        raise ValueError("the cross-validated errors overflow: scale features and targets to ordinary sizes")
    if not per_target:
        chosen = select(errors.mean(1, keepdims=True), alphas, power.mean(keepdims=True), n, compat=compat)
        return np.repeat(chosen, errors.shape[1])
    order = np.argsort(-alphas, kind="stable")
    descending = errors[order]
    if compat == "reference":
        return order[descending.argmin(0)]
    good = descending <= descending.min(0) * (1 + TOLERANCE) + rounding(n) * power
    return order[good.argmax(0)]


def improves(error: np.ndarray, best: np.ndarray, power: np.ndarray, n: int, per_target: bool = True) -> np.ndarray:
    """Where `error` `(T,)` is below `best` by more than rounding, for each target or (all alike) on average; `power`
    and `n` as in `select`."""
    if not per_target:
        error, best, power = (np.full_like(values, values.mean()) for values in (error, best, power))
    return error < best * (1 - TOLERANCE) - rounding(n) * power


def folds(n: int, k: int, groups: Any = None) -> list[Split]:
    """`k` pairs of (train, held-out) indices.

    Args:
        groups: `(n,)` labels that are never divided, e.g. blocks of stimulus whose segments overlap; the largest go
            first, each to the fold that has least. None: stretches of neighbours.

    Raises:
        ValueError: fewer than `k` samples or groups.
    """
    if groups is None:
        labels, count = np.arange(n), n
    else:
        names, labels, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        count = len(names)
    if not 2 <= k <= count:
        raise ValueError(f"cv={k}: expected 2 to {count} folds, the number of "
                         + ("samples" if groups is None else "groups that are not divided"))
    if groups is None:
        fold_of = np.repeat(np.arange(k), [len(part) for part in np.array_split(labels, k)])
    else:
        fold_of, load = np.zeros(count, dtype=int), np.zeros(k, dtype=int)
        for group in np.argsort(-sizes, kind="stable"):
            fold_of[group] = load.argmin()
            load[fold_of[group]] += sizes[group]
    fold = fold_of[labels]
    return [(np.flatnonzero(fold != i), np.flatnonzero(fold == i)) for i in range(k)]


def check_cv(cv: Any, n: int) -> list[Split] | None:
    """Splits from "loo" (None), a number of folds, or pairs of indices or masks.

    Raises:
        ValueError: anything else, a fold without two samples to train on, or a sample on both sides.
    """
    if isinstance(cv, str) and cv == "loo":
        return None
    if isinstance(cv, int) and not isinstance(cv, bool):
        return folds(n, cv)
    if not isinstance(cv, Sequence) or isinstance(cv, str) or not len(cv):
        raise ValueError(f"cv={cv!r}: expected 'loo', a number of folds, or a list of (train, held-out) indices")
    out = []
    for i, pair in enumerate(cv):
        train, held = (np.flatnonzero(side) if np.asarray(side).dtype == bool else np.asarray(side, dtype=np.int64)
                       for side in pair)
        both = np.concatenate([train, held])
        if len(train) < 2 or not len(held) or both.min() < 0 or both.max() >= n:
            raise ValueError(f"cv[{i}]: {len(train)} samples to train on and {len(held)} held out, of indices "
                             f"0 to {n - 1}: expected at least 2 and 1")
        if np.intersect1d(train, held).size:
            raise ValueError(f"cv[{i}]: sample {np.intersect1d(train, held)[0]} is on both sides")
        out.append((train, held))
    return out
