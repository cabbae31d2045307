"""Representational dissimilarity: which stimuli are alike to a brain or a network, and how alike two such views are."""
from typing import Literal

import numpy as np

Kind = Literal["pearson", "spearman", "crossnobis"]
Comparison = Literal["spearman", "pearson"]


def _unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows about their mean, of length 1; NaN for a constant one."""
    x = x - x.mean(1, keepdims=True)
    size = np.sqrt(np.einsum("ij,ij->i", x, x))
    x /= np.where(size > 0, size, np.nan)[:, None]
    return x


def rank_rows(x: np.ndarray) -> np.ndarray:
    """Ranks within each row, ties averaged."""
    from scipy.stats import rankdata
    return rankdata(x, axis=-1)


def rdm(x: np.ndarray, kind: Kind = "pearson", noise: np.ndarray | None = None) -> np.ndarray:
    """Dissimilarities `(n, n)` of stimuli; 0 on the diagonal.

    Args:
        x: `(n, units)` patterns; of crossnobis `(n, units, repetitions)`.
        kind: "pearson", "spearman": 1 − correlation of two patterns over units; "crossnobis": the squared distance
            whose two factors come from different repetitions, over units; it is 0 on average where there is none
            (Walther et al. 2016).
        noise: `(units,)` variances that crossnobis divides by; None: 1.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != (3 if kind == "crossnobis" else 2) or x.shape[0] < 2 or x.shape[1] < 2:
        raise ValueError(f"patterns of shape {x.shape}: expected (stimuli, units), at least 2 of each, and of "
                         "crossnobis (stimuli, units, repetitions)")
    if kind not in ("pearson", "spearman", "crossnobis"):
        raise ValueError(f"kind={kind!r}: expected pearson, spearman or crossnobis")
    mean = x.mean(1, keepdims=True)
    if not np.isfinite(mean).all():
        raise ValueError("patterns have NaN or infinite values: leave out those units")
    if kind == "crossnobis":
        return _crossnobis(x, noise)
    x = rank_rows(x) - (x.shape[1] + 1) / 2 if kind == "spearman" else x - mean
    gram = x @ x.T  # patterns are scaled here: one pass over the units less
    size = np.sqrt(gram.diagonal())
    size = np.where(size > 1e-12 * np.abs(mean[:, 0]) * x.shape[1] ** 0.5, size, np.nan)
    out = 1 - gram / size[:, None] / size
    np.fill_diagonal(out, 0)
    return out


def _crossnobis(x: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    """Σ over ordered pairs k ≠ l of (aₖ − bₖ)·(aₗ − bₗ) = |Σ|² − Σ|·|², so that no pair is made."""
    repetitions, units = x.shape[2], x.shape[1]
    if repetitions < 2:
        raise ValueError("crossnobis needs at least two repetitions, got 1: use pearson or spearman")
    if noise is not None:
        x = x / np.sqrt(np.asarray(noise))[None, :, None]
    total = x.sum(2)
    gram = total @ total.T - sum(x[..., k] @ x[..., k].T for k in range(repetitions))
    size = gram.diagonal()
    out = (size[:, None] + size[None] - 2 * gram) / (repetitions * (repetitions - 1) * units)
    np.fill_diagonal(out, 0)
    return out


def upper(matrix: np.ndarray) -> np.ndarray:
    """What lies above the diagonal of `(…, n, n)`: `(…, n (n − 1) / 2)`."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def prepared(matrices: np.ndarray, how: Comparison = "spearman") -> np.ndarray:
    """Upper triangles of `(…, n, n)`, ranked if need be, about their mean and of length 1: products are correlations.

    Raises:
        ValueError: another comparison, or NaN (a constant pattern).
    """
    if how not in ("spearman", "pearson"):
        raise ValueError(f"comparison={how!r}: expected spearman or pearson")
    values = upper(np.asarray(matrices, dtype=np.float64))
    if np.isnan(values).any():
        raise ValueError("a dissimilarity is NaN: a pattern is constant; leave that stimulus out")
    flat = np.atleast_2d(values).reshape(-1, values.shape[-1])
    out = _unit_rows(rank_rows(flat) if how == "spearman" else flat.copy())
    return np.nan_to_num(out).reshape(values.shape)


def compare(one: np.ndarray, other: np.ndarray, how: Comparison = "spearman") -> np.ndarray:
    """Correlation of the dissimilarities above the diagonals of `(…, n, n)` and `(…, n, n)`: `(…, …)`."""
    return prepared(one, how) @ np.moveaxis(prepared(other, how), -1, 0 if np.ndim(other) < 3 else -2)


def noise_ceiling(matrices: np.ndarray, how: Comparison = "spearman") -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound `(subjects,)` of how well any model could do: each subject's matrix against the mean of the
    others', and against the mean of all (Nili et al. 2014), matrices ranked or z-scored before they are averaged.

    Args:
        matrices: `(subjects, n, n)`.

    Raises:
        ValueError: fewer than two subjects.
    """
    if len(matrices) < 2:
        raise ValueError("a noise ceiling needs at least two subjects, got 1")
    each = prepared(matrices, how)
    total = each.sum(0)
    others, all_ = _unit_rows(total - each), _unit_rows(np.atleast_2d(total))[0]
    return (each * others).sum(1), each @ all_


def permutation_p(model: np.ndarray, brain: np.ndarray, n: int = 1000, seed: int = 0, how: Comparison = "spearman"
                  ) -> tuple[float, float]:
    """Correlation of two matrices, and its one-sided p under relabelled stimuli, the labels as they are included."""
    rng = np.random.default_rng(seed)
    fixed, rows = prepared(brain, how), prepared(model, how)
    square = np.zeros(model.shape)
    square[np.triu_indices(len(model), 1)] = rows  # ranks and scale stay under relabelling
    square += square.T
    found = float(fixed @ rows)
    above = 0
    for _ in range(n):
        order = rng.permutation(len(model))
        above += float(fixed @ upper(square[order][:, order])) >= found - 1e-12
    return found, (1 + above) / (n + 1)


def bootstrap_interval(values: np.ndarray, n: int = 10_000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of `(subjects,)` values, subjects resampled."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (n, len(values)))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def effective_dimensionality(x: np.ndarray) -> float:
    """(Σ λ)² / Σ λ² of the eigenvalues of the covariance of sounds over units, `(sounds, units)`: tr(C)² / ‖C‖².

    Each sound is centred over units, as in Tuckute, Feather et al. 2023 (who centre or z-score units before). 0 where
    nothing varies.
    """
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(1, keepdims=True)
    covariance = x @ x.T
    square = float((covariance ** 2).sum())
    return float(np.trace(covariance)) ** 2 / square if square else 0.0
