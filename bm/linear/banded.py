"""Banded ridge: groups of features with penalties of their own."""
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from bm.linear.kernel import Array, Basis, Design, cv_errors, like, solve, target_batches, to_numpy
from bm.linear.ridge import CV, check_samples, flat_targets, mean_square, r2
from bm.linear.select import ALPHAS, CONSTANT, check_alphas, check_cv, improves, select


def product_grid(scales: Sequence[float], n_bands: int) -> np.ndarray:
    """Every combination of `scales` over bands, `(len(scales) ** n_bands, n_bands)`."""
    return np.array(list(product(scales, repeat=n_bands)), dtype=np.float64)


def dirichlet(n: int, n_bands: int, concentration: Sequence[float] = (0.1, 1.0), seed: int = 0) -> np.ndarray:
    """`n` points of the simplex `(n, n_bands)`: first all bands alike, then Dirichlet draws whose concentration takes
    the given values in turns (small: few bands; 1: uniform). As in himalaya (Dupré la Tour et al. 2022,
    doi:10.1016/j.neuroimage.2022.119728)."""
    rng = np.random.default_rng(seed)
    draws = [rng.dirichlet(np.full(n_bands, concentration[i % len(concentration)])) for i in range(n - 1)]
    return np.vstack([np.full(n_bands, 1 / n_bands), *draws])


def check_scalings(scalings: Any, n_bands: int) -> np.ndarray:
    """Candidates `(S, bands)` as float64.

    Raises:
        ValueError: another shape, or values that are negative, not finite or all 0 for a candidate.
    """
    out = np.asarray(scalings, dtype=np.float64)
    if out.ndim != 2 or out.shape[1] != n_bands or not len(out):
        raise ValueError(f"scalings must be (candidates, {n_bands} bands), got {out.shape}")
    if not (np.isfinite(out) & (out >= 0)).all() or (out.sum(1) == 0).any():
        raise ValueError("scalings must be finite, not negative, and not all 0 for a candidate")
    return out


class BandedRidgeCV:
    """Ridge regression in which each band b of features is scaled by √γ_b; γ and α are chosen by cross-validation.

    The same as a penalty α / γ_b on the weights of band b; γ_b = 0 leaves the band out. Of scalings with equal errors
    (to 1e-9) the first wins, of penalties the largest (see `select`).

    Args:
        groups: `(p,)` band of each feature, any labels; their sorted order is that of the columns of `scalings`.
        scalings: `(S, bands)` candidates γ ≥ 0, e.g. of `product_grid` or `dirichlet`.
        alphas, cv, alpha_per_target, backend, device, max_bytes: see `RidgeCV`; with `alpha_per_target` the scaling is
            chosen per target as well.

    Attributes (after `fit`): `alphas_`, `cv_errors_`, `constant_` of the targets' shape, `scalings_` of that shape and
    bands; `dual_coef_` `(n, T)`; `coef_` `(p, T)`, made when asked for.

    Raises:
        ValueError: labels, scalings, shapes or values that are not as above.
    """

    def __init__(self, groups: Any, scalings: Any, alphas: Any = ALPHAS, *, cv: CV = "loo",
                 alpha_per_target: bool = True, backend: str = "numpy", device: str = "cpu",
                 max_bytes: int = 2 ** 28) -> None:
        self.bands, self.band_of = np.unique(np.asarray(groups), return_inverse=True)
        self.scalings = check_scalings(scalings, len(self.bands))
        self.alphas, self.cv, self.alpha_per_target = alphas, cv, alpha_per_target
        self.backend, self.device, self.max_bytes = backend, device, max_bytes

    def fit(self, x: Any, y: Any) -> "BandedRidgeCV":
        """Chooses scalings and penalties, and learns weights."""
        x = self._samples(x)
        y, self._shape = flat_targets(y, len(x))
        alphas, splits = check_alphas(self.alphas), check_cv(self.cv, len(x))
        self.x_mean_ = x.mean(0)
        self._x = x - self.x_mean_
        kernels = [block @ block.T for block in self._blocks()] if len(x) <= x.shape[1] else None
        power, n_targets = mean_square(x, y, self.max_bytes), y.shape[1]
        best, alpha, which = np.full(n_targets, np.inf), np.zeros(n_targets), np.zeros(n_targets, dtype=int)
        for number in range(len(self.scalings)):
            errors = cv_errors(self._design(number, kernels), y, alphas, splits, self.max_bytes)
            chosen = select(errors, alphas, power, len(x), per_target=self.alpha_per_target)
            error = errors[chosen, np.arange(n_targets)]
            better = improves(error, best, power, len(x), self.alpha_per_target)
            best, alpha = np.where(better, error, best), np.where(better, alphas[chosen], alpha)
            which[better] = number
        constant = np.zeros(n_targets, dtype=bool)
        self.dual_coef_ = like(x, np.zeros((len(x), n_targets)))
        self.y_mean_ = like(x, np.zeros(n_targets))
        for number in np.unique(which):
            basis = self._design(number, kernels).basis()
            own = np.flatnonzero(which == number)
            constant[own] = alpha[own] > CONSTANT * basis.largest
            self._solve(basis, y, own, np.where(constant, np.inf, alpha))
        self.alphas_, self.cv_errors_ = alpha.reshape(self._shape), best.reshape(self._shape)
        self.constant_ = constant.reshape(self._shape)
        self._gamma = self.scalings[which]
        self.scalings_ = self._gamma.reshape(*self._shape, len(self.bands))
        return self

    def _samples(self, x: Any) -> Array:
        x = check_samples(x, "X", self.backend, self.device)
        if x.shape[1] != len(self.band_of):
            raise ValueError(f"X has {x.shape[1]} features, but groups names the band of {len(self.band_of)}")
        return x

    def _blocks(self) -> list[Array]:
        return [self._x[:, np.flatnonzero(self.band_of == band)] for band in range(len(self.bands))]

    def _design(self, number: int, kernels: list[Array] | None) -> Design:
        gamma = self.scalings[number]
        if kernels is not None:
            return Design(sum(float(g) * kernel for g, kernel in zip(gamma, kernels, strict=True)), precomputed=True)
        return Design(self._x * like(self._x, np.sqrt(gamma[self.band_of])))

    def _solve(self, basis: Basis, y: Any, own: np.ndarray, alphas: np.ndarray) -> None:
        for part in target_batches(len(own), len(y), self.max_bytes):
            at = own[part]
            weights, mean = solve(basis, like(self._x, y[:, at]), like(self._x, alphas[at]))
            self.dual_coef_[:, at] = basis.u @ (weights / basis.s[:, None] ** 0.5)
            self.y_mean_[at] = mean

    def _coef(self, part: slice) -> Array:
        return (self._x.T @ self.dual_coef_[:, part]) * like(self._x, self._gamma[part].T[self.band_of])

    @property
    def coef_(self) -> Array:
        """`(p, T)` weights of the features as they are given."""
        return self._coef(slice(None))

    def predict(self, x: Any) -> Array:
        """Predictions of new samples `(m, p)`, of the targets' shape."""
        x = self._samples(x) - self.x_mean_
        out = like(x, np.zeros((len(x), len(self._gamma))))
        for part in target_batches(len(self._gamma), x.shape[1], self.max_bytes):
            out[:, part] = x @ self._coef(part) + self.y_mean_[part]
        return out.reshape(len(x), *self._shape)

    def score(self, x: Any, y: Any) -> np.ndarray:
        """R² of each target, of their shape."""
        return r2(to_numpy(self.predict(x)), y)
