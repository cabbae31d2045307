"""Representational dissimilarity: which stimuli are alike to a brain or a network, and how alike two such views are."""
from typing import Literal

import numpy as np

Kind = Literal["pearson", "spearman", "crossnobis"]
Comparison = Literal["spearman", "pearson"]
Noise = Literal["diagonal", "shrinkage"]


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
        noise: `(units,)` variances or `(units, units)` covariance that crossnobis divides by, see `estimate_noise`;
            None: 1.

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
    if noise is not None and np.ndim(noise) == 1:
        x = x / np.sqrt(np.asarray(noise))[None, :, None]
    elif noise is not None:
        from scipy.linalg import solve_triangular
        units_first = x.transpose(1, 0, 2).reshape(units, -1)
        white = solve_triangular(np.linalg.cholesky(noise), units_first, lower=True)
        x = white.reshape(units, len(x), repetitions).transpose(1, 0, 2)
    total = x.sum(2)
    gram = total @ total.T - sum(x[..., k] @ x[..., k].T for k in range(repetitions))
    size = gram.diagonal()
    out = (size[:, None] + size[None] - 2 * gram) / (repetitions * (repetitions - 1) * units)
    np.fill_diagonal(out, 0)
    return out


def estimate_noise(x: np.ndarray, kind: Noise = "diagonal") -> np.ndarray:
    """What repetitions `(n, units, repetitions)` of stimuli differ by: variances `(units,)`, infinite where there is
    none (to within rounding) so that the unit does not count; or their covariance `(units, units)`, shrunk towards a
    multiple of the identity as far as the number of samples, n · (repetitions − 1), asks for (Ledoit & Wolf 2004).

    Raises:
        ValueError: fewer than two repetitions, or another kind.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 3 or x.shape[2] < 2:
        raise ValueError(f"patterns of shape {x.shape}: noise is estimated from (stimuli, units, repetitions), at "
                         "least two repetitions")
    if kind not in ("diagonal", "shrinkage"):
        raise ValueError(f"noise={kind!r}: expected diagonal or shrinkage")
    from scipy.linalg import helmert
    # contrasts of repetitions: as many as are independent, each with the covariance of one repetition
    samples = np.moveaxis(x @ helmert(x.shape[2]).T, 2, 1).reshape(-1, x.shape[1])
    if kind == "diagonal":
        variance = (samples ** 2).mean(0)
        return np.where(variance > 1e-14 * (x ** 2).mean((0, 2)), variance, np.inf)  # beyond what rounding makes
    from sklearn.covariance import ledoit_wolf
    return ledoit_wolf(samples, assume_centered=True)[0]


def upper(matrix: np.ndarray) -> np.ndarray:
    """What lies above the diagonal of `(…, n, n)`: `(…, n (n − 1) / 2)`."""
    rows, columns = np.triu_indices(matrix.shape[-1], 1)
    return matrix[..., rows, columns]


def prepared(matrices: np.ndarray, how: Comparison = "spearman", pairs: np.ndarray | None = None) -> np.ndarray:
    """Upper triangles of `(…, n, n)`, ranked if need be, about their mean and of length 1: products are correlations.

    `pairs` `(n, n)`: which count; None: all.

    Raises:
        ValueError: another comparison, or NaN (a constant pattern).
    """
    if how not in ("spearman", "pearson"):
        raise ValueError(f"comparison={how!r}: expected spearman or pearson")
    values = upper(np.asarray(matrices, dtype=np.float64))
    values = values if pairs is None else values[..., upper(pairs)]
    if np.isnan(values).any():
        raise ValueError("a dissimilarity is NaN: a pattern is constant; leave that stimulus out")
    flat = np.atleast_2d(values).reshape(-1, values.shape[-1])
    out = _unit_rows(rank_rows(flat) if how == "spearman" else flat.copy())
    return np.nan_to_num(out).reshape(values.shape)


def compare(one: np.ndarray, other: np.ndarray, how: Comparison = "spearman", pairs: np.ndarray | None = None
            ) -> np.ndarray:
    """Correlation of the dissimilarities above the diagonals of `(…, n, n)` and `(…, n, n)`, of those `pairs` `(n, n)`
    that count: `(…, …)`."""
    return prepared(one, how, pairs) @ np.moveaxis(prepared(other, how, pairs), -1, 0 if np.ndim(other) < 3 else -2)


def noise_ceiling(matrices: np.ndarray, how: Comparison = "spearman", pairs: np.ndarray | None = None,
                  compat: Literal["reference"] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound `(subjects,)` of how well any model could do: each subject's matrix against the mean of the
    others', and against the mean of all (Nili et al. 2014), matrices ranked, if need be, and z-scored before that.

    Args:
        matrices: `(subjects, n, n)`.
        pairs: `(n, n)` which count; None: all.
        compat: "reference": Pearson's correlation whatever `how` says, and means of the matrices as they are (the code
            of Tuckute, Feather et al. 2023, which compares layers by Spearman's).

    Raises:
        ValueError: fewer than two subjects.
    """
    if len(matrices) < 2:
        raise ValueError("a noise ceiling needs at least two subjects, got 1")
    each = prepared(matrices, "pearson" if compat else how, pairs)
    averaged = each
    if compat:
        averaged = upper(np.asarray(matrices, dtype=np.float64))
        averaged = averaged if pairs is None else averaged[:, upper(pairs)]
    total = averaged.sum(0)
    others, all_ = _unit_rows(total - averaged), _unit_rows(np.atleast_2d(total))[0]
    return (each * others).sum(1), each @ all_


def permutation_p(model: np.ndarray, brain: np.ndarray, n: int = 1000, seed: int = 0, how: Comparison = "spearman"
                  ) -> tuple[float, float]:
    """Correlation of a model's matrix with the brain's, and its one-sided p under relabelled stimuli, the labels as
    they are included.

    Args:
        model: `(n, n)`; or `(models, n, n)`, of which the largest correlation counts under every relabelling, so that
            choosing the best model among them is part of what chance does.
        brain: `(n, n)`; or `(subjects, n, n)`: the mean of their correlations counts.
    """
    rng = np.random.default_rng(seed)
    models, brains = (np.atleast_2d(prepared(matrices, how)) for matrices in (model, brain))
    n_stimuli = np.shape(brain)[-1]
    rows, columns = np.triu_indices(n_stimuli, 1)
    square = np.zeros((n_stimuli, n_stimuli))
    square[rows, columns] = brains.mean(0)  # ranks and scale stay under relabelling
    square += square.T
    found = float((models @ square[rows, columns]).max())
    above = 0
    for _ in range(n):
        order = rng.permutation(n_stimuli)
        above += float((models @ square[order[rows], order[columns]]).max()) >= found - 1e-12
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
    # of many sounds the other product has the same trace and norm, and fits into memory
    covariance = x.T @ x if len(x) > max(1000, x.shape[1]) else x @ x.T
    square = float((covariance ** 2).sum())
    return float(np.trace(covariance)) ** 2 / square if square else 0.0
